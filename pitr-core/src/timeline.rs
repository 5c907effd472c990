//! Timelines: their numbers, their history, and the way from a backup to a target.

pub(crate) mod history;
pub(crate) mod id;
pub(crate) mod path;
pub(crate) mod placement;
