//! Timelines: their numbers, their history, and the way from a backup to a target.

pub(crate) mod id;
