//! What can go wrong with a scratch server.

use std::io;
use std::path::PathBuf;

/// Failure of the testbed itself, or of a command that it ran for a test.
#[derive(Debug, thiserror::Error)]
pub enum TestbedError {
    /// A file or folder of the test could not be made, read or removed.
    #[error("{action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot run {program}: {source}")]
    Spawn {
        /// The program as it was called.
        program: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A program ended with another exit status than 0.
    #[error("{program} failed with {status}\n{stderr}")]
    Failed {
        /// The program with its arguments.
        program: String,
        /// Exit code or signal, in words.
        status: String,
        /// Its standard error, and the end of the server's log where there is one.
        stderr: String,
    },
    /// No installation of this major was found.
    #[error(
        "PostgreSQL {major} was not found (looked in PITR_TEST_PG_{major}, /usr/lib/postgresql and {}): \
         scripts/postgres-majors {major} fetches it", cache.display()
    )]
    NotInstalled {
        /// The major that was asked for.
        major: u16,
        /// The cache folder that was searched.
        cache: PathBuf,
    },
    /// A server of a remote store is not installed.
    #[error("{name} is not installed (looked for {}): scripts/remote-servers fetches it", path.display())]
    ServerMissing {
        /// The server.
        name: &'static str,
        /// Where its program should be.
        path: PathBuf,
    },
    /// There is no unprivileged user, and none could be made.
    #[error("the tests run as root, and there is no user \"postgres\" to run servers as: {reason}")]
    NoServerUser {
        /// What `id` or `useradd` said.
        reason: String,
    },
    /// Something that a test waits for did not come.
    #[error("waited {seconds} s in vain for: {what}\n{detail}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long, in seconds.
        seconds: u64,
        /// The end of the server's log.
        detail: String,
    },
}

impl TestbedError {
    /// For `map_err` on file operations.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}
