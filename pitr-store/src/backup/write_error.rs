//! How the writing of a base backup fails.

use std::io;

use thiserror::Error;

use super::document::DocumentError;
use super::index::IndexError;
use super::label::Label;
use super::member_rules::RuleError;
use super::part_name::Archive;
use super::tar_error::TarError;
use crate::{ObjectKeyError, StoreError};

/// Why a base backup could not be written. What had been written of it is
/// removed when the writer is dropped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupWriteError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name that no store takes. Cannot happen with names of ours.
    #[error(transparent)]
    Key(#[from] ObjectKeyError),
    /// No thread could be started.
    #[error("could not start compression threads")]
    Threads(#[source] io::Error),
    /// A compression or publishing thread stopped without an answer.
    #[error("a thread that wrote a part stopped unexpectedly")]
    ThreadStopped,
    /// Every second from the one asked for to the last one tried has a backup.
    #[error("labels from {first} to {last} are all taken")]
    NoFreeLabel {
        /// The label asked for.
        first: Label,
        /// The last one tried.
        last: Label,
    },
    /// The time has no label.
    #[error("no label can be made of this time")]
    Time,
    /// The archive that PostgreSQL sent cannot be read.
    #[error("archive \"{archive}\": {source}")]
    Tar {
        /// The archive.
        archive: Archive,
        /// What is wrong with it.
        source: TarError,
    },
    /// A member that was handed in breaks the rules of a base backup.
    #[error(transparent)]
    Member(#[from] RuleError),
    /// Data of a file that was handed in could not be read.
    #[error("could not read \"{path}\"")]
    Source {
        /// Path of the file in the backup.
        path: String,
        /// What the system answered.
        source: io::Error,
    },
    /// A file that was handed in is shorter than announced.
    #[error("\"{path}\" has {found} bytes, {expected} were announced")]
    SourceLength {
        /// Path of the file in the backup.
        path: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// The manifest could not be read from where it comes.
    #[error("could not read the backup manifest")]
    Manifest(#[source] io::Error),
    /// The same archive, or the manifest, a second time.
    #[error("{what} was handed in twice")]
    Twice {
        /// What.
        what: String,
    },
    /// An archive was begun and not finished.
    #[error("archive \"{archive}\" was not finished")]
    Unfinished {
        /// The archive.
        archive: Archive,
    },
    /// A file without which no backup can be restored is not in it.
    #[error("the backup holds no \"{path}\"")]
    Missing {
        /// The file.
        path: &'static str,
    },
    /// Somebody else writes a backup of the same label.
    #[error("\"{location}\" was written by somebody else while this backup was being taken")]
    Foreign {
        /// The object.
        location: String,
    },
    /// An object of the backup is no longer what was published.
    #[error(
        "\"{location}\" of this backup, {expected} bytes, {}",
        .found.map_or_else(|| "is gone again".to_owned(), |found| format!("has {found} bytes now"))
    )]
    Changed {
        /// The object.
        location: String,
        /// Bytes that were published.
        expected: u64,
        /// Bytes there are; `None` if it is not there.
        found: Option<u64>,
    },
    /// More than could be read back.
    #[error("{what} has {bytes} bytes, more than the {limit} that are read back")]
    TooLarge {
        /// The object's name.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Archive with more parts than there are numbers.
    #[error("archive \"{archive}\" has too many parts")]
    TooManyParts {
        /// The archive.
        archive: Archive,
    },
    /// The archives contradict each other: a path twice.
    #[error("the backup contradicts itself")]
    Index(#[from] IndexError),
    /// `backup.json` cannot be written.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

impl BackupWriteError {
    /// What the administrator can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Missing { .. } => Some(
                "This is not a base backup of a whole cluster, or it was not finished.".to_owned(),
            ),
            Self::Changed { .. } => Some(
                "Somebody removed it while the backup was being taken: another machine that cannot see this one's locks, or a person. Take the backup again."
                    .to_owned(),
            ),
            Self::Foreign { .. } => Some(
                "Another machine took the same label because it cannot see this one's locks. Take the backup again, at another second."
                    .to_owned(),
            ),
            Self::NoFreeLabel { .. } => Some("Is the clock of this machine right?".to_owned()),
            Self::Tar { .. } => {
                Some("The archive is incomplete or damaged: take the backup again.".to_owned())
            }
            _ => None,
        }
    }
}
