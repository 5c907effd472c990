//! How the reading of a base backup fails.

use std::io;

use thiserror::Error;

use super::document::DocumentError;
use super::label::Label;
use super::part_name::PartName;
use super::seekable_reader::SeekableError;
use super::tar_error::TarError;
use crate::{ObjectKeyError, StoreError};

/// Why a base backup could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupReadError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name that no store takes. Cannot happen with names of ours.
    #[error(transparent)]
    Key(#[from] ObjectKeyError),
    /// `backup.json` is there but cannot be used.
    #[error("\"{location}\" cannot be used: {source}")]
    Document {
        /// Where it lies.
        location: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// The stored manifest is missing, or not as it was written.
    #[error("manifest \"{location}\" is damaged: {damage}")]
    Manifest {
        /// Where it lies.
        location: String,
        /// What is wrong with it.
        #[source]
        damage: ManifestDamage,
    },
    /// A part is missing, or not as it was written.
    #[error("part \"{location}\" is damaged: {damage}")]
    Part {
        /// Which part.
        part: PartName,
        /// Where it lies.
        location: String,
        /// What is wrong with it.
        #[source]
        damage: PartDamage,
    },
    /// The backup has no such part.
    #[error("backup {label} has no part {part}")]
    NoSuchPart {
        /// The backup.
        label: Label,
        /// The part asked for.
        part: PartName,
    },
    /// The backup has no such file.
    #[error("backup {label} has no file \"{path}\"")]
    NoSuchFile {
        /// The backup.
        label: Label,
        /// The path asked for.
        path: String,
    },
    /// A file is larger than the caller takes.
    #[error("\"{path}\" has {bytes} bytes, more than {limit}")]
    FileTooLarge {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
        /// The caller's limit.
        limit: u64,
    },
}

/// What is wrong with a part.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PartDamage {
    /// It is not there.
    #[error("it is missing")]
    Missing,
    /// The object has another size than `backup.json` says: truncated, or replaced.
    #[error("it has {found} bytes, {expected} expected")]
    StoredSize {
        /// Size in `backup.json`.
        expected: u64,
        /// Size of the object, as far as it was read.
        found: u64,
    },
    /// It decompresses to another size than `backup.json` says.
    #[error("it decompresses to {found} bytes, {expected} expected")]
    RawSize {
        /// Size in `backup.json`.
        expected: u64,
        /// Bytes that came out; at least these.
        found: u64,
    },
    /// zstd cannot decode it, or a frame's checksum disagrees.
    #[error("it does not decompress: {reason}")]
    Decode {
        /// What zstd says.
        reason: String,
    },
    /// Its seek table or a frame is damaged.
    #[error(transparent)]
    Seekable(SeekableError),
    /// It is no tar archive of a base backup.
    #[error(transparent)]
    Tar(TarError),
    /// A file of the archive does not agree with the index.
    #[error("archive and index disagree at byte {offset}: found {found}, index has {expected}")]
    Index {
        /// Offset of the data in the archive.
        offset: u64,
        /// What the index has there.
        expected: String,
        /// What the archive has there.
        found: String,
    },
    /// A file's contents are not those that were written.
    #[error("\"{path}\" has CRC-32C {found:08x}, {expected:08x} expected")]
    Checksum {
        /// The file.
        path: String,
        /// CRC-32C in the index.
        expected: u32,
        /// CRC-32C of what was read.
        found: u32,
    },
}

/// What is wrong with a stored manifest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ManifestDamage {
    /// It is not there.
    #[error("it is missing")]
    Missing,
    /// It has another size than `backup.json` says.
    #[error("it has {found} bytes, {expected} expected")]
    Size {
        /// Size in `backup.json`.
        expected: u64,
        /// Size of the object.
        found: u64,
    },
    /// Its contents are not those that were written.
    #[error("it has CRC-32C {found}, {expected} expected")]
    Checksum {
        /// CRC-32C in `backup.json`.
        expected: String,
        /// CRC-32C of the object.
        found: String,
    },
}

impl BackupReadError {
    /// What the administrator can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Document { source, .. } => source.hint(),
            Self::Part { .. } | Self::Manifest { .. } => Some(
                "Restore from another backup (pitr-archive list), and take a new one.".to_owned(),
            ),
            _ => None,
        }
    }

    /// Whether another copy of the backup may do: what failed is this copy or
    /// the store that it lies on, not what was asked for.
    #[must_use]
    pub fn is_of_copy(&self) -> bool {
        match self {
            Self::Store(_) | Self::Document { .. } | Self::Manifest { .. } | Self::Part { .. } => {
                true
            }
            Self::Key(_)
            | Self::NoSuchPart { .. }
            | Self::NoSuchFile { .. }
            | Self::FileTooLarge { .. } => false,
        }
    }

    /// Whether it is about one `backup.json`, and says nothing of the store.
    pub(super) fn is_of_one_document(&self) -> bool {
        match self {
            Self::Document { .. }
            | Self::Store(StoreError::TooLarge { .. } | StoreError::WrongKind { .. }) => true,
            Self::Store(StoreError::Encryption(error)) => error.is_damage(),
            _ => false,
        }
    }

    /// Takes the error back out of an [`io::Error`] that a reader of this
    /// module gave. Errors that come from elsewhere, such as the disk that the
    /// data was copied to, are handed back.
    ///
    /// # Errors
    /// The error itself, if it is none of a backup's.
    pub fn recover(error: io::Error) -> Result<Self, io::Error> {
        let error = match error.downcast::<Self>() {
            Ok(error) => return Ok(error),
            Err(error) => error,
        };
        error.downcast::<StoreError>().map(Self::Store)
    }
}

impl From<BackupReadError> for io::Error {
    fn from(error: BackupReadError) -> Self {
        match error {
            BackupReadError::Store(error) => error.into(),
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}
