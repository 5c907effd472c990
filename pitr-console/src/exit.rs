//! Exit codes, in one table.
//!
//! `PostgreSQL` reads them: of `archive_command`, 1 to 125 is "try again" and
//! anything above, or a signal, restarts the archiver process; of
//! `restore_command`, 1 to 125 is "there is no such file", which **ends
//! recovery**, and anything above 125 stops the server.
//!
//! Source: `shell_archive_file`, src/backend/archive/shell_archive.c;
//! `RestoreArchivedFile`, src/backend/access/transam/xlogarchive.c.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, and durable.
    Done,
    /// 1: failed. Never said by the restore hook about anything but absence.
    Failed,
    /// 2: wrong usage, of everything but the restore hook.
    WrongUsage,
    /// 1: the restore hook proved that the file is not in the repository.
    ProvenAbsent,
    /// 200: the restore hook could not find out, or what it found is damaged.
    /// Recovery must stop here rather than end early and promote.
    Doubt,
    /// 201: the restore hook was called in a way that makes no sense.
    HookWrongUsage,
}

impl Exit {
    /// The number that the process exits with.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed | Self::ProvenAbsent => 1,
            Self::WrongUsage => 2,
            Self::Doubt => 200,
            Self::HookWrongUsage => 201,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Runs `command` and turns a panic into `on_panic`.
///
/// A Rust process that panics exits with 101, which `PostgreSQL` would read as
/// "no such file" from a restore hook. The panic's own message has then been
/// printed already.
pub fn guard(on_panic: Exit, command: impl FnOnce() -> Exit) -> Exit {
    catch_unwind(AssertUnwindSafe(command)).unwrap_or(on_panic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archiver_never_exits_above_125() {
        for exit in [Exit::Done, Exit::Failed, Exit::WrongUsage] {
            assert!(exit.code() <= 125);
        }
    }

    #[test]
    fn doubt_is_above_125_and_never_143() {
        for exit in [Exit::Doubt, Exit::HookWrongUsage] {
            assert!(exit.code() > 125);
            assert_ne!(exit.code(), 143, "PostgreSQL takes 143 for SIGTERM");
        }
    }

    #[test]
    fn a_panic_becomes_the_exit_that_was_named() {
        assert_eq!(guard(Exit::Doubt, || panic!("on purpose")), Exit::Doubt);
        assert_eq!(guard(Exit::Doubt, || Exit::Done), Exit::Done);
    }
}
