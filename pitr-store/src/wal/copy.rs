//! Copying a file of the log from one repository into another, checked.

use pitr_core::crc32c;
use std::io::{self, Read, Write};

use pitr_core::WalFileName;

use super::compare::{Origin, to_u64};
use super::fetch::{of_store, undecodable};
use super::text_file::check_text_file;
use super::{FetchError, StoredObject, SummaryError, WalArchive};
use crate::codec::Decoder;
use crate::store::{ContentHasher, ObjectWriter, Operation, StoreError};

/// How often a copy begins again because somebody else stored the name, and
/// deleted it again.
const ATTEMPTS: u32 = 3;

/// A file is in the other repository too, and survives power loss there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copied {
    /// It was stored now, byte for byte as it lies in the source (but for
    /// encryption, where there is one).
    Stored {
        /// Where.
        object: StoredObject,
        /// What is wrong with the summary behind the segment, which was copied
        /// as it is. The segment itself is whole.
        summary_damage: Option<String>,
    },
    /// The same content was there already, perhaps under another codec.
    AlreadyPresent(StoredObject),
}

/// Why a file was not copied. Nothing in either repository was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The repositories hold different content under the same name.
    #[error("\"{name}\" has different content in two repositories: {from} and {to}")]
    Conflict {
        /// The name in dispute.
        name: WalFileName,
        /// The copy in the source.
        from: Origin,
        /// The copy in the target.
        to: Origin,
    },
    /// The copy in the source, or the one that stands in the target, cannot be
    /// read whole.
    #[error(transparent)]
    Unreadable(FetchError),
    /// The segment is not the one that was archived.
    #[error(
        "\"{name}\" is damaged in the repository: \"{location}\" has the CRC-32C {found:08x}, \
         its summary says {expected:08x}"
    )]
    Checksum {
        /// The name.
        name: WalFileName,
        /// The stored object.
        location: String,
        /// What the summary says.
        expected: u32,
        /// What was computed.
        found: u32,
    },
    /// The object changed while it was read, which nothing of pitr does.
    #[error("\"{location}\" changed while it was read: {expected} bytes at first, then {found}")]
    SourceChanged {
        /// The stored object.
        location: String,
        /// Bytes that it had.
        expected: u64,
        /// Bytes that were read.
        found: u64,
    },
    /// The target failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CopyError {
    /// Whether both repositories are in order as stores, and only this file
    /// cannot be copied.
    pub fn is_of_one_file(&self) -> bool {
        match self {
            Self::Unreadable(FetchError::Store(error)) => error.is_absence(),
            Self::Store(_) => false,
            _ => true,
        }
    }

    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Conflict { .. } => Some(
                "Neither is overwritten. Find out which server archived which: a copy of a server \
                 needs archive_mode = off, or a repository of its own."
                    .to_owned(),
            ),
            Self::Unreadable(FetchError::Store(error)) | Self::Store(error) => error.hint(),
            Self::Unreadable(_) | Self::Checksum { .. } => Some(
                "Keep a copy of the damaged object and delete it from its repository: then the \
                 next sync stores an intact one there, if another repository has it."
                    .to_owned(),
            ),
            Self::SourceChanged { .. } => None,
        }
    }
}

/// What a content is known again by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    bytes: u64,
    crc32c: u32,
}

impl WalArchive {
    /// Stores `name` as it lies in the log `from` of the same cluster.
    ///
    /// The source is decoded while it is copied, and every checksum that it
    /// has is compared before the copy shows. Where this log has the name
    /// already, both contents are compared: by the checksums in their
    /// summaries, or else by reading both.
    ///
    /// # Errors
    /// `Conflict` for different content, `Unreadable` and `Checksum` for a
    /// damaged copy; nothing is ever overwritten.
    pub fn copy_from(&self, from: &Self, name: &WalFileName) -> Result<Copied, CopyError> {
        let object = from
            .only_copy(name)
            .map_err(CopyError::Unreadable)?
            .ok_or(CopyError::Unreadable(FetchError::Absent { name: *name }))?;
        for _ in 0..ATTEMPTS {
            if let Some(standing) = self.only_copy(name).map_err(of_target)? {
                match self.agrees(from, &object, &standing) {
                    Err(CopyError::Unreadable(FetchError::Absent { .. })) => continue,
                    agreed => agreed?,
                }
                // its writer may have been killed before the folder's sync
                self.store.make_durable(&standing.key)?;
                return Ok(Copied::AlreadyPresent(standing));
            }
            match self.copy_new(from, &object) {
                Err(CopyError::Store(StoreError::AlreadyExists { .. })) => {}
                copied => return copied,
            }
        }
        Err(CopyError::Store(StoreError::Busy {
            operation: Operation::Publish,
            location: format!("{}/{name}", self.store.location()),
        }))
    }

    /// Whether the two logs have the same content under `name`, which both
    /// have.
    ///
    /// # Errors
    /// As [`WalArchive::copy_from`].
    fn agrees(
        &self,
        from: &Self,
        object: &StoredObject,
        standing: &StoredObject,
    ) -> Result<(), CopyError> {
        if let Some(is_same) = match self.has_content_of(standing, from)? {
            None => from.has_content_of(object, self)?,
            known => known,
        } {
            return if is_same {
                Ok(())
            } else {
                Err(conflict(object, None, standing, None))
            };
        }
        if let (Some(ours), Some(theirs)) = (self.recorded(standing)?, from.recorded(object)?)
            && ours == theirs
        {
            return Ok(());
        }
        let (ours, theirs) = (self.computed(&standing.name)?, from.computed(&object.name)?);
        if ours == theirs {
            return Ok(());
        }
        Err(conflict(
            object,
            Some(theirs.bytes),
            standing,
            Some(ours.bytes),
        ))
    }

    /// Whether our `standing` copy has the content of the other log's, where
    /// ours cannot be read for want of a key. `None` where it can.
    fn has_content_of(
        &self,
        standing: &StoredObject,
        other: &Self,
    ) -> Result<Option<bool>, CopyError> {
        let locked = match self.store.check_readable() {
            Err(error) if error.is_locked() => error,
            _ => return Ok(None),
        };
        let Some(hasher) = self.store.content_hasher() else {
            return Err(locked.into());
        };
        let mut digest = Digest(hasher);
        other
            .fetch_to(&standing.name, &mut digest)
            .map_err(CopyError::Unreadable)?;
        match self.store.has_content(&standing.key, &digest.0.finish())? {
            Some(is_same) => Ok(Some(is_same)),
            None => Err(locked.into()),
        }
    }

    /// By the summary, without reading the segment.
    fn recorded(&self, object: &StoredObject) -> Result<Option<Fingerprint>, CopyError> {
        match self.summary_of(object) {
            Ok(summary) => Ok(summary.map(|summary| Fingerprint {
                bytes: summary.bytes,
                crc32c: summary.crc32c,
            })),
            Err(SummaryError::Store(error)) => Err(CopyError::Unreadable(error.into())),
            // one that is damaged says nothing
            Err(_) => Ok(None),
        }
    }

    /// By the content, every checksum compared.
    fn computed(&self, name: &WalFileName) -> Result<Fingerprint, CopyError> {
        struct Sum(u32);
        impl Write for Sum {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = crc32c::crc32c_append(self.0, bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut sum = Sum(0);
        let fetched = self
            .fetch_to(name, &mut sum)
            .map_err(CopyError::Unreadable)?;
        Ok(Fingerprint {
            bytes: fetched.content_bytes,
            crc32c: sum.0,
        })
    }

    fn copy_new(&self, from: &Self, object: &StoredObject) -> Result<Copied, CopyError> {
        let (key, rivals) = self.target(&object.name, object.encoding)?;
        let source = from
            .store
            .open(&object.key)
            .map_err(|error| CopyError::Unreadable(of_store(object, error)))?;
        let mut copying = Copying {
            source,
            writer: self.store.create(&key, &rivals)?,
            bytes: 0,
            failure: None,
        };
        let location = self.store.object_location(&key);
        let mut hasher = self.store.content_hasher();
        let checked = from.check_while_reading(object, &mut copying, hasher.as_mut());
        if let Some(error) = copying.failure.take() {
            return Err(StoreError::from_io(error, Operation::Write, &location).into());
        }
        let crc32c = checked.map_err(CopyError::Unreadable)?;
        if copying.bytes != object.stored_bytes {
            return Err(CopyError::SourceChanged {
                location: object.location.clone(),
                expected: object.stored_bytes,
                found: copying.bytes,
            });
        }
        let summary_damage = match from.summary_of(object) {
            Ok(Some(summary)) if summary.crc32c != crc32c => {
                return Err(CopyError::Checksum {
                    name: object.name,
                    location: object.location.clone(),
                    expected: summary.crc32c,
                    found: crc32c,
                });
            }
            Ok(_) => None,
            Err(SummaryError::Store(error)) => return Err(CopyError::Unreadable(error.into())),
            Err(error) => Some(error.to_string()),
        };
        if let Some(hasher) = hasher {
            copying.writer.set_content_digest(&hasher.finish());
        }
        copying.writer.publish()?;
        Ok(Copied::Stored {
            object: StoredObject {
                key,
                location,
                ..object.clone()
            },
            summary_damage,
        })
    }

    /// Decodes `stored`, the bytes of `object`, to their end; gives the
    /// content's CRC-32C.
    fn check_while_reading(
        &self,
        object: &StoredObject,
        stored: &mut impl Read,
        mut hasher: Option<&mut ContentHasher>,
    ) -> Result<u32, FetchError> {
        let name = &object.name;
        let is_segment = matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_));
        let mut decoder = Decoder::new(object.encoding, stored, self.max_content_bytes(name))
            .map_err(|error| undecodable(object, error))?;
        let mut crc32c = 0;
        let mut is_first = true;
        let mut text = Vec::new();
        loop {
            let chunk = decoder
                .next_chunk()
                .map_err(|error| undecodable(object, error))?;
            if chunk.is_empty() {
                break;
            }
            if !is_segment {
                text.extend_from_slice(chunk);
            } else if is_first {
                self.check_first_page(object, chunk)?;
                is_first = false;
            }
            crc32c = crc32c::crc32c_append(crc32c, chunk);
            if let Some(hasher) = &mut hasher {
                hasher.update(chunk);
            }
        }
        let size = self.cluster.segment_size;
        if !is_segment {
            return match check_text_file(name, &text, size) {
                Ok(()) => Ok(crc32c),
                Err(source) => Err(FetchError::ForeignText {
                    name: *name,
                    location: object.location.clone(),
                    source,
                }),
            };
        }
        if decoder.decoded_bytes() != size.bytes() {
            return Err(FetchError::Length {
                name: *name,
                location: object.location.clone(),
                expected_bytes: size.bytes(),
                found_bytes: decoder.decoded_bytes(),
            });
        }
        Ok(crc32c)
    }
}

/// What kept the target's copies from being compared.
fn of_target(error: FetchError) -> CopyError {
    match error {
        FetchError::Store(error) => CopyError::Store(error),
        error => CopyError::Unreadable(error),
    }
}

fn conflict(
    object: &StoredObject,
    content_bytes: Option<u64>,
    standing: &StoredObject,
    standing_bytes: Option<u64>,
) -> CopyError {
    CopyError::Conflict {
        name: object.name,
        from: Origin {
            location: object.location.clone(),
            content_bytes,
        },
        to: Origin {
            location: standing.location.clone(),
            content_bytes: standing_bytes,
        },
    }
}

/// Digests what is written to it.
struct Digest(ContentHasher);

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what is read through it.
struct Copying {
    source: Box<dyn Read + Send>,
    writer: Box<dyn ObjectWriter>,
    bytes: u64,
    /// Why the writer does not take it; the reader is told something vaguer.
    failure: Option<io::Error>,
}

impl Read for Copying {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        let bytes = buffer.get(..length).unwrap_or(&[]);
        if let Err(error) = self.writer.write_all(bytes) {
            self.failure = Some(error);
            return Err(io::Error::other("the copy cannot be written"));
        }
        self.bytes = self.bytes.saturating_add(to_u64(length));
        Ok(length)
    }
}
