//! Getting a file of the log back, checked.

use std::io::{self, Write};

use pitr_core::{Lsn, TimelineHistory, TimelineId, WalFileName};

use super::compare::to_u64;
use super::identify::{IdentifyError, identify};
use super::text_file::{TextFileError, check_text_file, parse_history};
use super::{StoredObject, SummaryError, WalArchive};
use crate::codec::{DecodeError, Decoder};
use crate::encryption::EncryptionError;
use crate::store::{ErrorClass, Operation, StoreError};

/// A file that was handed out whole, every checksum right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The object that it came from.
    pub object: StoredObject,
    /// Bytes handed out.
    pub content_bytes: u64,
    /// What is wrong with the summary behind the segment, if anything is. The
    /// segment itself is whole, but its disk is not to be trusted.
    pub summary_damage: Option<String>,
}

/// Why a file could not be handed out. What was written before the error is
/// worthless.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The repository does not have it, and that is certain.
    #[error("\"{name}\" is not in the repository")]
    Absent {
        /// The name.
        name: WalFileName,
    },
    /// The stored bytes cannot be decoded.
    #[error("\"{name}\" is damaged in the repository: \"{location}\": {source}")]
    Undecodable {
        /// The name.
        name: WalFileName,
        /// The stored object.
        location: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The stored bytes cannot be decrypted, and that is no matter of the key.
    #[error("\"{name}\" is damaged in the repository: {source}")]
    Undecryptable {
        /// The name.
        name: WalFileName,
        /// What is wrong with the stored object.
        source: Box<EncryptionError>,
    },
    /// The segment is not as long as a segment of this cluster.
    #[error(
        "\"{name}\" is damaged in the repository: \"{location}\" holds {found_bytes} bytes, a segment has {expected_bytes}"
    )]
    Length {
        /// The name.
        name: WalFileName,
        /// The stored object.
        location: String,
        /// Length of a segment.
        expected_bytes: u64,
        /// Length found.
        found_bytes: u64,
    },
    /// The content is not the segment that the name says.
    #[error("\"{name}\" is not what \"{location}\" holds: {source}")]
    Foreign {
        /// The name.
        name: WalFileName,
        /// The stored object.
        location: String,
        /// What the first page says.
        source: IdentifyError,
    },
    /// The content is not the history or backup history file that the name says.
    #[error("\"{name}\" is not what \"{location}\" holds: {source}")]
    ForeignText {
        /// The name.
        name: WalFileName,
        /// The stored object.
        location: String,
        /// What is wrong with the text.
        source: TextFileError,
    },
    /// Two copies lie there under different codecs, with different content.
    #[error(
        "\"{name}\" is stored twice with different content: \"{one}\" and \"{other}\"; {}",
        match (.first_difference, .lsn) {
            (Some(first), Some(lsn)) => format!("they differ from byte {first} on (LSN {lsn})"),
            (Some(first), None) => format!("they differ from byte {first} on"),
            (None, _) => "one is longer".to_owned(),
        }
    )]
    Contradiction {
        /// The name.
        name: WalFileName,
        /// One copy.
        one: String,
        /// The other one.
        other: String,
        /// The first byte of the content that differs; `None` if one copy goes
        /// on where the other ends.
        first_difference: Option<u64>,
        /// The same as a position in the log.
        lsn: Option<Lsn>,
    },
    /// The store failed; never an absence.
    #[error(transparent)]
    Store(StoreError),
    /// The receiver did not take the bytes.
    #[error("could not write the file that was fetched: {0}")]
    Sink(io::Error),
}

impl FetchError {
    /// Whether it proves that the file is not there, may pass, or stays.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Absent { .. } => ErrorClass::Absent,
            // Absence of an object that was just located is a race, not a proof.
            Self::Store(error) if error.is_absence() => ErrorClass::Passing,
            Self::Store(error) => error.class(),
            Self::Undecodable {
                source: DecodeError::Setup { .. },
                ..
            } => ErrorClass::Passing,
            Self::Undecodable { .. }
            | Self::Undecryptable { .. }
            | Self::Length { .. }
            | Self::Foreign { .. }
            | Self::ForeignText { .. }
            | Self::Contradiction { .. }
            | Self::Sink(_) => ErrorClass::Permanent,
        }
    }

    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Undecodable { .. }
            | Self::Undecryptable { .. }
            | Self::Length { .. }
            | Self::Foreign { .. }
            | Self::ForeignText { .. } => Some(
                "Recovery cannot pass this segment. Put an intact copy in its place, or recover to a point before it."
                    .to_owned(),
            ),
            Self::Contradiction { .. } => Some(
                "Two servers archived here at the same moment, with different codecs. Find out which copy is of the server that is to be recovered, keep both elsewhere, and delete the other one from the repository."
                    .to_owned(),
            ),
            Self::Absent { .. } | Self::Sink(_) => None,
        }
    }
}

impl From<StoreError> for FetchError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl WalArchive {
    /// Hands the content of `name` to `sink`, decoded and checked: every
    /// checksum, the length, and the first page against name and cluster.
    ///
    /// The checksum of a segment comes last, so `sink` should write to a place
    /// that nobody reads before this has returned `Ok`.
    ///
    /// # Errors
    /// `Absent` only if that is proven. Any doubt is another error.
    pub fn fetch_to(
        &self,
        name: &WalFileName,
        sink: &mut dyn Write,
    ) -> Result<Fetched, FetchError> {
        let object = self
            .only_copy(name)?
            .ok_or(FetchError::Absent { name: *name })?;
        let content_bytes = match name {
            WalFileName::Segment(_) | WalFileName::Partial(_) => {
                self.copy_segment(&object, sink)?
            }
            WalFileName::History(_) | WalFileName::Backup { .. } => {
                let text = self.read_text(&object)?;
                sink.write_all(&text).map_err(FetchError::Sink)?;
                to_u64(text.len())
            }
        };
        sink.flush().map_err(FetchError::Sink)?;
        // the codec passes over the summary without a look
        let summary_damage = match self.summary_of(&object) {
            Ok(_) => None,
            Err(SummaryError::Store(error)) => return Err(error.into()),
            Err(error) => Some(error.to_string()),
        };
        Ok(Fetched {
            object,
            content_bytes,
            summary_damage,
        })
    }

    /// The history of `timeline`. Timeline 1 has one without a file; for
    /// another `Ok(None)` proves that the repository has none.
    ///
    /// # Errors
    /// The store failed, or the file is no history.
    pub fn history(&self, timeline: TimelineId) -> Result<Option<TimelineHistory>, FetchError> {
        let name = WalFileName::History(timeline);
        let Some(object) = self.locate(&name)? else {
            let is_first = timeline == TimelineId::FIRST;
            return Ok(is_first.then(|| TimelineHistory::root(timeline)));
        };
        let text = self.read_text(&object)?;
        parse_history(timeline, &text)
            .map(Some)
            .map_err(|source| FetchError::ForeignText {
                name,
                location: object.location,
                source,
            })
    }

    fn copy_segment(&self, object: &StoredObject, sink: &mut dyn Write) -> Result<u64, FetchError> {
        let expected_bytes = self.cluster.segment_size.bytes();
        let mut decoder = self.decoder(object)?;
        let mut is_first = true;
        loop {
            let chunk = decoder.next_chunk().map_err(|e| undecodable(object, e))?;
            if chunk.is_empty() {
                break;
            }
            if is_first {
                self.check_first_page(object, chunk)?;
                is_first = false;
            }
            sink.write_all(chunk).map_err(FetchError::Sink)?;
        }
        if decoder.decoded_bytes() != expected_bytes {
            return Err(FetchError::Length {
                name: object.name,
                location: object.location.clone(),
                expected_bytes,
                found_bytes: decoder.decoded_bytes(),
            });
        }
        Ok(expected_bytes)
    }

    /// The stored copy of `name`. Where there are two, they are the same: nobody
    /// could say which is the right one. `Ok(None)` only if that is proven.
    ///
    /// # Errors
    /// `Contradiction`; one of two cannot be read; of the store.
    pub(super) fn only_copy(&self, name: &WalFileName) -> Result<Option<StoredObject>, FetchError> {
        let mut copies = self.locate_all(name)?.into_iter();
        let Some(object) = copies.next() else {
            return Ok(None);
        };
        for other in copies {
            self.agree(&object, &other)?;
        }
        Ok(Some(object))
    }

    /// Compares two copies of one segment, byte by byte, and each with its
    /// checksum.
    ///
    /// # Errors
    /// `Contradiction`; and if one of them cannot be read, since then nobody
    /// knows.
    pub(super) fn agree(&self, one: &StoredObject, other: &StoredObject) -> Result<(), FetchError> {
        let (mut first, mut second) = (self.decoder(one)?, self.decoder(other)?);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let (mut compared_bytes, mut first_difference) = (0_u64, None);
        loop {
            if ours.is_empty() {
                let chunk = first.next_chunk().map_err(|e| undecodable(one, e))?;
                ours.extend_from_slice(chunk);
            }
            if theirs.is_empty() {
                let chunk = second.next_chunk().map_err(|e| undecodable(other, e))?;
                theirs.extend_from_slice(chunk);
            }
            let length = ours.len().min(theirs.len());
            if length == 0 {
                // both at their ends, or the rest of one, read for its checksum
                if ours.is_empty() && theirs.is_empty() {
                    break;
                }
                ours.clear();
                theirs.clear();
                continue;
            }
            if first_difference.is_none() {
                let pairs = ours.iter().zip(&theirs);
                let same = pairs.take_while(|(a, b)| a == b).count();
                if same < length {
                    first_difference = Some(compared_bytes.saturating_add(to_u64(same)));
                }
            }
            compared_bytes = compared_bytes.saturating_add(to_u64(length));
            ours.drain(..length);
            theirs.drain(..length);
        }
        if first_difference.is_none() && first.decoded_bytes() == second.decoded_bytes() {
            return Ok(());
        }
        Err(FetchError::Contradiction {
            name: one.name,
            one: one.location.clone(),
            other: other.location.clone(),
            first_difference,
            lsn: first_difference.and_then(|first| self.lsn_at(&one.name, first)),
        })
    }

    /// The first chunk is long enough for the first page's header: decoders
    /// hand out whole blocks, and files are read in large pieces.
    pub(super) fn check_first_page(
        &self,
        object: &StoredObject,
        chunk: &[u8],
    ) -> Result<(), FetchError> {
        identify(&object.name, chunk, self.cluster.segment_size.bytes())
            .and_then(|identity| identity.check_cluster(&object.name, &self.cluster))
            .map_err(|source| FetchError::Foreign {
                name: object.name,
                location: object.location.clone(),
                source,
            })
    }

    fn read_text(&self, object: &StoredObject) -> Result<Vec<u8>, FetchError> {
        let mut decoder = self.decoder(object)?;
        let mut text = Vec::new();
        loop {
            let chunk = decoder.next_chunk().map_err(|e| undecodable(object, e))?;
            if chunk.is_empty() {
                break;
            }
            text.extend_from_slice(chunk);
        }
        check_text_file(&object.name, &text, self.cluster.segment_size).map_err(|source| {
            FetchError::ForeignText {
                name: object.name,
                location: object.location.clone(),
                source,
            }
        })?;
        Ok(text)
    }

    fn decoder(
        &self,
        object: &StoredObject,
    ) -> Result<Decoder<Box<dyn io::Read + Send>>, FetchError> {
        let opened = self.store.open(&object.key);
        let stored = opened.map_err(|error| of_store(object, error))?;
        Decoder::new(
            object.encoding,
            stored,
            self.max_content_bytes(&object.name),
        )
        .map_err(|e| undecodable(object, e))
    }
}

/// What the store says: of itself, or of this object.
pub(super) fn of_store(object: &StoredObject, error: StoreError) -> FetchError {
    match error {
        StoreError::Encryption(source) if source.is_damage() => FetchError::Undecryptable {
            name: object.name,
            source,
        },
        error => FetchError::Store(error),
    }
}

pub(super) fn undecodable(object: &StoredObject, error: DecodeError) -> FetchError {
    match error {
        DecodeError::Source(e) => of_store(
            object,
            StoreError::from_io(e, Operation::Read, &object.location),
        ),
        source => FetchError::Undecodable {
            name: object.name,
            location: object.location.clone(),
            source,
        },
    }
}
