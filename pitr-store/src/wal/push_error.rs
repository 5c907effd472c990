//! Why a file was not stored.

use std::io;

use pitr_core::{Lsn, WalFileName};

use super::compare::Origin;
use super::identify::IdentifyError;
use super::text_file::TextFileError;
use crate::codec::{DecodeError, EncodeError};
use crate::store::StoreError;

/// Why a file was not stored. Nothing in the repository was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The source is certainly not the segment of this cluster that its name says.
    #[error(transparent)]
    Identify(#[from] IdentifyError),
    /// The source is not the history or backup history file that its name says.
    #[error(transparent)]
    TextFile(#[from] TextFileError),
    /// The source cannot be read.
    #[error("could not read \"{origin}\": {source}")]
    Source {
        /// The source.
        origin: String,
        /// What the system answered.
        source: io::Error,
    },
    /// The source got shorter or longer while it was read.
    #[error(
        "\"{origin}\" changed while it was read: {expected_bytes} bytes at first, then {found_bytes}"
    )]
    SourceChanged {
        /// The source.
        origin: String,
        /// Length when it was opened.
        expected_bytes: u64,
        /// Bytes that were read, at least.
        found_bytes: u64,
    },
    /// Other content is stored under the name. It stays.
    #[error(
        "\"{name}\" is archived already with other content: offered is {offered}, stored is {stored}; \
         {}{}",
        match .first_difference {
            Some(first) => format!("they differ from byte {first} on"),
            None => "their digests differ".to_owned(),
        },
        .lsn.map(|lsn| format!(" (LSN {lsn})")).unwrap_or_default()
    )]
    Conflict {
        /// The name in dispute.
        name: WalFileName,
        /// What was to be stored.
        offered: Origin,
        /// What is stored.
        stored: Box<Origin>,
        /// First byte of the content that differs; `None` where only digests
        /// could be compared.
        first_difference: Option<u64>,
        /// The same as a position in the log, for a segment.
        lsn: Option<Lsn>,
    },
    /// The stored copy cannot be read, so nobody can say whether it is the same.
    #[error(
        "\"{name}\" is archived already, but the stored copy \"{location}\" cannot be read: {source}"
    )]
    StoredUnreadable {
        /// The name.
        name: WalFileName,
        /// The stored copy.
        location: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// It was pushed beside others, and its turn did not come.
    #[error("\"{name}\" was not stored ahead of its turn")]
    Withdrawn {
        /// The name.
        name: WalFileName,
    },
    /// The codec failed.
    #[error("could not compress \"{origin}\": {source}")]
    Encode {
        /// The source.
        origin: String,
        /// What the codec said.
        source: EncodeError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PushError {
    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Identify(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Conflict {
                name: WalFileName::Partial(_),
                stored,
                ..
            } => Some(format!(
                "Servers that were promoted one after the other from the same timeline each leave such a file. Keep a copy of \"{}\", delete it from the repository, and the next try stores the other.",
                stored.location
            )),
            Self::Conflict { .. } => Some(
                "Do two servers archive here, one of them a copy of the other? A copy needs archive_mode = off, or a repository of its own."
                    .to_owned(),
            ),
            Self::StoredUnreadable {
                source: DecodeError::Setup { .. },
                ..
            } => Some("Is memory short? The stored copy may be whole: leave it.".to_owned()),
            Self::StoredUnreadable { location, .. } => Some(format!(
                "Keep a copy of \"{location}\", delete it from the repository, and the next try stores the segment anew."
            )),
            Self::TextFile(_) => Some(
                "In archive_command, %p is the path and %f the file name: pass them in this order."
                    .to_owned(),
            ),
            Self::Source { .. }
            | Self::SourceChanged { .. }
            | Self::Withdrawn { .. }
            | Self::Encode { .. } => None,
        }
    }
}
