//! Why a base backup came to nothing.

use std::io;

use crate::query_error::QueryError;

/// Failure of a base backup. Nothing of what was received so far is a backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The server refused or gave up, or the connection was lost.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A rate that no server takes.
    #[error("a rate of {rate_kb_per_s} kB/s is not possible: expected 32 to 1048576")]
    MaxRate {
        /// The rate that was asked for, in kB per second.
        rate_kb_per_s: u32,
    },
    /// An archive that is of no tablespace which the server announced.
    #[error("the server sends an archive \"{name}\" that belongs to no tablespace")]
    UnknownArchive {
        /// Its name.
        name: String,
    },
    /// The server ended the backup before it had sent everything.
    #[error("the server ended the backup after {received} of {expected} archives")]
    Incomplete {
        /// Archives that came.
        received: usize,
        /// Tablespaces that were announced, the data directory among them.
        expected: usize,
    },
    /// A manifest was asked for and did not come.
    #[error("the server ended the backup without the manifest")]
    NoManifest,
}

impl BackupError {
    /// The error in an [`io::Error`] of [`crate::MemberReader`]; any other is given back.
    ///
    /// # Errors
    /// `error` itself, if it came from elsewhere.
    pub fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast()
    }

    /// The server's own detail.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Query(error) => error.detail(),
            _ => None,
        }
    }

    /// What can be done about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Query(error) => match error.code() {
                // ERRCODE_DATA_CORRUPTED: "checksum verification failure during base backup"
                Some("XX001") => Some(
                    "The server's warnings name the damaged files. A backup without verification of \
                     checksums would hold the damage."
                        .to_owned(),
                ),
                _ => error.hint(),
            },
            _ => None,
        }
    }
}

impl From<BackupError> for io::Error {
    fn from(error: BackupError) -> Self {
        io::Error::other(error)
    }
}
