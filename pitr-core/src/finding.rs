//! What happened in the log that somebody may want to go back before.

pub(crate) mod activity;
pub(crate) mod catalog_change;
pub(crate) mod digest;
pub(crate) mod event;
pub(crate) mod follower;
pub(crate) mod object;
