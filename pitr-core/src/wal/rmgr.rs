//! Resource managers whose records are understood: one file each.

pub(crate) mod database;
pub(crate) mod heap;
pub(crate) mod heap2;
pub(crate) mod invalidation;
pub(crate) mod logical_message;
pub(crate) mod prepare;
pub(crate) mod relmap;
pub(crate) mod standby;
pub(crate) mod storage;
pub(crate) mod tablespace;
#[cfg(test)]
mod tests;
pub(crate) mod xact;
pub(crate) mod xlog;
