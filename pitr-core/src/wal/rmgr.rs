//! Resource managers whose records are understood.

pub(crate) mod xlog;
