//! Bringing one repository level with another: what is missing is copied,
//! checked on the way, and nothing is ever overwritten.
//!
//! The order is that of use: histories, then the log as it runs, then the
//! backups, oldest first. So whatever is interrupted leaves a target that can
//! be restored as far as it goes, and running it again goes on from there.

mod copying;
mod difference;

pub use copying::{Observer, Outcome, Problem, ProblemError, Syncing, UnrecoverableBackup};
pub use difference::{Difference, MissingWal};
