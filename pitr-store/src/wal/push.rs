//! Storing one file of the log, durably and once.

use std::io::{self, Write as _};

use pitr_core::{Lsn, SegmentSummary, WalFileName};

use super::ahead::EncodedAhead;
use super::compare::{Comparison, Origin, to_u64};
use super::fingerprint::Fingerprinter;
use super::identify::identify;
use super::push_error::PushError;
use super::scan::{Scan, Scanned, SharedChunk};
use super::source::{WalSource, read_full};
use super::text_file::{MAX_TEXT_FILE_BYTES, TextFileError, check_text_file};
use super::turn::{PushedInTurn, Turn};
use super::{StoredObject, WalArchive, layout, summary};
use crate::codec::{Codec, EncodeError, Encoder, Encoding};
use crate::key::ObjectKey;
use crate::store::{Operation, Shown, StoreError};

/// How much of a segment is in memory at a time: stays in the processor's cache
/// between reading and compressing.
pub(super) const READ_BYTES: usize = 256 * 1024;

/// How often a segment is read before damage in it is believed.
pub(super) const READINGS: u32 = 2;

/// How often a push begins again because the object that stood in its way was
/// deleted meanwhile.
const ATTEMPTS: u32 = 3;

/// A file is in the repository, and survives power loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was stored now.
    Stored {
        /// Where.
        object: StoredObject,
        /// What is in it, for a segment; damage among it. `None` for a text
        /// file, and where it could not be found out.
        summary: Option<Box<SegmentSummary>>,
    },
    /// The same content was there already, perhaps under another codec.
    AlreadyPresent(StoredObject),
    /// An earlier push of this host has stored it ahead, and this is the same
    /// content ([`super::Recollection`]).
    StoredAhead(StoredObject),
}

impl Pushed {
    /// The object that holds the file.
    pub fn object(&self) -> &StoredObject {
        match self {
            Self::Stored { object, .. }
            | Self::AlreadyPresent(object)
            | Self::StoredAhead(object) => object,
        }
    }
}

impl WalArchive {
    /// Stores `source` under `name`.
    ///
    /// `Ok` means that content and directory entry survive power loss: after
    /// exit 0 PostgreSQL may recycle its copy. Content that is there already
    /// is `AlreadyPresent`, whatever codec holds it, because PostgreSQL offers
    /// a file again after a crash. History and backup history files are stored
    /// as they are, whatever `codec` says.
    ///
    /// Every record of a segment is read on the way. One whose CRC is wrong
    /// does not keep the segment from being stored, since the server has no
    /// better copy: it is read once more, and if it is the same again, the
    /// segment is stored as it is and its summary tells of the damage.
    ///
    /// # Errors
    /// `Identify` and `TextFile` for what is certainly wrong; `Conflict` if
    /// other content holds the name; `StoredUnreadable` if the stored copy is
    /// damaged. After an error of the store the object may be there or not:
    /// trying again is safe.
    pub fn push(
        &self,
        name: &WalFileName,
        source: &mut dyn WalSource,
        codec: Codec,
    ) -> Result<Pushed, PushError> {
        self.push_encoded(name, source, codec, None)
    }

    /// The same for a source that may have been encoded already, with the same
    /// codec, while the repository was asked.
    ///
    /// # Errors
    /// As [`WalArchive::push`].
    pub fn push_encoded(
        &self,
        name: &WalFileName,
        source: &mut dyn WalSource,
        codec: Codec,
        ahead: Option<EncodedAhead>,
    ) -> Result<Pushed, PushError> {
        let pushed = self.push_when(name, source, codec, ahead, None)?;
        // a push by itself has settled everything
        Shown::settle_all([pushed.shown])?;
        Ok(pushed.pushed)
    }

    pub(super) fn push_when(
        &self,
        name: &WalFileName,
        source: &mut dyn WalSource,
        codec: Codec,
        mut ahead: Option<EncodedAhead>,
        turn: Option<&dyn Turn>,
    ) -> Result<PushedInTurn, PushError> {
        let mut buffer = Vec::new();
        let mut attempt = 1;
        loop {
            let head_bytes = self.read_and_check_head(name, source, &mut buffer)?;
            let mut copies = self.locate_all(name)?;
            if copies.is_empty() {
                let ahead = ahead.take();
                match self.store_either(name, source, &mut buffer, head_bytes, codec, ahead, turn) {
                    Err(PushError::Store(StoreError::AlreadyExists { key, location })) => {
                        copies.push(self.stored_object(name, key, location)?);
                    }
                    other => return other,
                }
            }
            if let [only] = copies.as_slice()
                && let Some(fingerprint) = self.is_recollected(only, source)?
            {
                return Ok(PushedInTurn {
                    pushed: Pushed::StoredAhead(only.clone()),
                    shown: Shown::durable(),
                    fingerprint: Some(fingerprint),
                });
            }
            let mut standing = None;
            // where there are two, which has happened where the medium has no
            // locks, both must be the same: no reader takes one of them
            for copy in copies {
                let mut fingerprinter = turn.map(|_| Fingerprinter::new());
                match self.compare(&copy, source, fingerprinter.as_mut())? {
                    Comparison::Same => {
                        // Its writer may have been killed before the folder's sync.
                        self.store.make_durable(&copy.key)?;
                        standing.get_or_insert((copy, fingerprinter.map(|it| it.finish())));
                    }
                    Comparison::Different {
                        first_difference,
                        stored_content_bytes,
                    } => {
                        return Err(PushError::Conflict {
                            name: *name,
                            offered: Origin {
                                location: source.origin(),
                                content_bytes: Some(source.content_bytes()),
                            },
                            stored: Box::new(Origin {
                                location: copy.location,
                                content_bytes: stored_content_bytes,
                            }),
                            first_difference,
                            lsn: first_difference.and_then(|first| self.lsn_at(name, first)),
                        });
                    }
                    Comparison::Vanished => {}
                }
            }
            if let Some((standing, fingerprint)) = standing {
                return Ok(PushedInTurn {
                    pushed: Pushed::AlreadyPresent(standing),
                    shown: Shown::durable(),
                    fingerprint,
                });
            }
            attempt += 1;
            if attempt > ATTEMPTS {
                return Err(PushError::Store(StoreError::Busy {
                    operation: Operation::Publish,
                    location: format!("{}/{name}", self.store.location()),
                }));
            }
        }
    }

    /// Reads the first chunk into `buffer` and checks what it is; gives back
    /// its length.
    pub(super) fn read_and_check_head(
        &self,
        name: &WalFileName,
        source: &mut dyn WalSource,
        buffer: &mut Vec<u8>,
    ) -> Result<usize, PushError> {
        let total = source.content_bytes();
        let is_segment = matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_));
        if !is_segment && total > MAX_TEXT_FILE_BYTES {
            return Err(PushError::TextFile(TextFileError::TooLong {
                name: *name,
                found_bytes: total,
            }));
        }
        // A text file is checked whole.
        let head_limit = if is_segment {
            READ_BYTES
        } else {
            usize::try_from(total).unwrap_or(READ_BYTES).max(1)
        };
        buffer.resize(head_limit, 0);
        source
            .rewind()
            .and_then(|()| read_full(source, buffer))
            .map_err(|e| source_error(source, e))
            .and_then(|length| {
                let head = buffer.get(..length).unwrap_or(&[]);
                if is_segment {
                    identify(name, head, total)?.check_cluster(name, &self.cluster)?;
                } else {
                    check_text_file(name, head, self.cluster.segment_size)?;
                }
                Ok(length)
            })
    }

    /// Stores what was encoded ahead, if it was, or else encodes.
    #[expect(
        clippy::too_many_arguments,
        reason = "all that a push has, in the middle of it"
    )]
    fn store_either(
        &self,
        name: &WalFileName,
        source: &mut dyn WalSource,
        buffer: &mut Vec<u8>,
        head_bytes: usize,
        codec: Codec,
        ahead: Option<EncodedAhead>,
        turn: Option<&dyn Turn>,
    ) -> Result<PushedInTurn, PushError> {
        let Some(ahead) = ahead else {
            return self.store_new(name, source, buffer, head_bytes, codec, turn);
        };
        if let Some(stored) = self.store_ahead(name, source, ahead, turn)? {
            return Ok(stored);
        }
        let head_bytes = self.read_and_check_head(name, source, buffer)?;
        self.store_new(name, source, buffer, head_bytes, codec, turn)
    }

    /// Stores a new object: `buffer` holds the first `head_bytes`, the source
    /// the rest. A full disk's error tells what the whole object needs.
    fn store_new(
        &self,
        name: &WalFileName,
        source: &mut dyn WalSource,
        buffer: &mut Vec<u8>,
        head_bytes: usize,
        codec: Codec,
        turn: Option<&dyn Turn>,
    ) -> Result<PushedInTurn, PushError> {
        let codec = codec_of(name, codec);
        let mut stored = self.write_new(name, source, buffer, head_bytes, codec, turn);
        if let Err(PushError::Store(StoreError::NoSpace { needed_bytes, .. })) = &mut stored {
            *needed_bytes = measure(source, buffer, codec).or(*needed_bytes);
        }
        stored
    }

    /// The key under which `name` is stored in this encoding, and those that
    /// stand for the same file in another.
    pub(crate) fn target(
        &self,
        name: &WalFileName,
        encoding: Encoding,
    ) -> Result<(ObjectKey, Vec<ObjectKey>), StoreError> {
        let (ours, rivals): (Vec<_>, Vec<_>) = layout::keys(&self.folder, name)
            .into_iter()
            .partition(|(_, other)| *other == encoding);
        let rivals = rivals.into_iter().map(|(key, _)| key).collect();
        match ours.into_iter().next() {
            Some((key, _)) => Ok((key, rivals)),
            None => Err(StoreError::Unsupported {
                location: name.to_string(),
                missing: "it cannot be stored with this codec",
            }),
        }
    }

    fn write_new(
        &self,
        name: &WalFileName,
        source: &mut dyn WalSource,
        buffer: &mut Vec<u8>,
        mut head_bytes: usize,
        codec: Codec,
        turn: Option<&dyn Turn>,
    ) -> Result<PushedInTurn, PushError> {
        let encoding = codec.encoding();
        let (key, rivals) = self.target(name, encoding)?;
        let location = self.store.object_location(&key);
        let mut reading = 1;
        loop {
            let mut writer = self.store.create(&key, &rivals)?;
            let mut sink = Counting {
                inner: &mut writer,
                bytes: 0,
            };
            let mut scan = if self.scans {
                let size = self.cluster.segment_size;
                Scan::of(name, size, self.store.as_ref(), turn.is_some())
            } else {
                Scan::Nothing
            };
            let chunk = &mut Chunk { buffer, head_bytes };
            encode(source, chunk, codec, &mut sink, &location, &mut scan)?;
            let Scanned {
                summary,
                digest,
                fingerprint,
            } = scan.finish();
            let is_damaged = summary.as_ref().is_some_and(SegmentSummary::is_damaged);
            if is_damaged && reading < READINGS {
                // what a disk or a memory got wrong once it may get right the next time
                drop(writer);
                reading += 1;
                head_bytes = source
                    .rewind()
                    .and_then(|()| read_full(source, buffer))
                    .map_err(|e| source_error(source, e))?;
                continue;
            }
            if is_damaged && turn.is_some_and(|turn| !turn.takes_damaged()) {
                return Err(PushError::Withdrawn { name: *name });
            }
            if encoding == Encoding::Zstd
                && let Some(frame) = summary.as_ref().and_then(summary::summary_to_frame)
            {
                sink.write_all(&frame).map_err(|e| {
                    PushError::Store(StoreError::from_io(e, Operation::Write, &location))
                })?;
            }
            let stored_bytes = sink.bytes;
            if let Some(digest) = &digest {
                writer.set_content_digest(digest);
            }
            let shown = match turn {
                None => {
                    writer.publish()?;
                    Shown::durable()
                }
                Some(turn) => {
                    writer.sync()?;
                    if !turn.comes(self.store.shows_at_once()) {
                        return Err(PushError::Withdrawn { name: *name });
                    }
                    writer.publish_beside()?
                }
            };
            let object = StoredObject {
                name: *name,
                key,
                location,
                encoding,
                stored_bytes,
            };
            return Ok(PushedInTurn {
                pushed: Pushed::Stored {
                    object,
                    summary: summary.map(Box::new),
                },
                shown,
                fingerprint,
            });
        }
    }

    /// The object that stands in the way of a publish.
    fn stored_object(
        &self,
        name: &WalFileName,
        key: ObjectKey,
        location: String,
    ) -> Result<StoredObject, PushError> {
        let meta = self.store.stat(&key)?;
        let (_, encoding) = crate::codec::Encoding::split(key.file_name());
        Ok(StoredObject {
            name: *name,
            key,
            location,
            encoding,
            // Deleted meanwhile: the comparison will find that out.
            stored_bytes: meta.map_or(0, |meta| meta.size),
        })
    }

    pub(super) fn lsn_at(&self, name: &WalFileName, offset_bytes: u64) -> Option<Lsn> {
        match name {
            WalFileName::Segment(segment) | WalFileName::Partial(segment) => segment
                .start(self.cluster.segment_size)
                .ok()?
                .checked_add(offset_bytes),
            WalFileName::History(_) | WalFileName::Backup { .. } => None,
        }
    }
}

/// Text files stay readable, whatever codec segments are stored with.
pub(super) fn codec_of(name: &WalFileName, codec: Codec) -> Codec {
    match name {
        WalFileName::Segment(_) | WalFileName::Partial(_) => codec,
        WalFileName::History(_) | WalFileName::Backup { .. } => Codec::None,
    }
}

pub(super) fn source_error(source: &dyn WalSource, error: io::Error) -> PushError {
    PushError::Source {
        origin: source.origin(),
        source: error,
    }
}

/// The buffer that a source is read through, its first bytes read already.
pub(super) struct Chunk<'b> {
    pub(super) buffer: &'b mut Vec<u8>,
    pub(super) head_bytes: usize,
}

/// Encodes the source into `sink`, and shows it to `scan`: first what is in
/// `chunk`, then what is left to read.
pub(super) fn encode(
    source: &mut dyn WalSource,
    chunk: &mut Chunk<'_>,
    codec: Codec,
    sink: &mut dyn io::Write,
    location: &str,
    scan: &mut Scan,
) -> Result<(), PushError> {
    let encoder = Encoder::new(codec, source.content_bytes());
    let encoder = encoder.map_err(|error| PushError::Encode {
        origin: source.origin(),
        source: error,
    })?;
    encode_into(source, chunk, encoder, sink, location, scan)
}

/// The same with an encoder that stands ready.
pub(super) fn encode_into(
    source: &mut dyn WalSource,
    chunk: &mut Chunk<'_>,
    mut encoder: Encoder,
    sink: &mut dyn io::Write,
    location: &str,
    scan: &mut Scan,
) -> Result<(), PushError> {
    let failed = |origin: String| {
        move |error| match error {
            EncodeError::Sink(e) => {
                PushError::Store(StoreError::from_io(e, Operation::Write, location))
            }
            source => PushError::Encode { origin, source },
        }
    };
    let expected_bytes = source.content_bytes();
    let mut read_bytes = 0_u64;
    let mut length = chunk.head_bytes;
    while length > 0 {
        read_bytes = read_bytes.saturating_add(to_u64(length));
        if read_bytes > expected_bytes {
            break;
        }
        // both read it where it lies; the next bytes go into another buffer if the scan is not done with it
        let shown = SharedChunk::of(chunk.buffer, length);
        scan.feed(&shown);
        let written = encoder.write(shown.bytes(), sink);
        *chunk.buffer = scan.reclaim(shown);
        written.map_err(failed(source.origin()))?;
        length = read_full(source, chunk.buffer).map_err(|e| source_error(source, e))?;
    }
    if read_bytes != expected_bytes {
        return Err(PushError::SourceChanged {
            origin: source.origin(),
            expected_bytes,
            found_bytes: read_bytes,
        });
    }
    encoder.finish(sink).map_err(failed(source.origin()))
}

/// Size of the encoded source; `None` if that cannot be found out.
pub(super) fn measure(
    source: &mut dyn WalSource,
    buffer: &mut Vec<u8>,
    codec: Codec,
) -> Option<u64> {
    source.rewind().ok()?;
    let head_bytes = read_full(source, buffer).ok()?;
    let chunk = &mut Chunk { buffer, head_bytes };
    let mut sink = Counting {
        inner: io::sink(),
        bytes: 0,
    };
    encode(source, chunk, codec, &mut sink, "", &mut Scan::Nothing).ok()?;
    Some(sink.bytes)
}

/// Counts what passes through.
pub(super) struct Counting<W> {
    pub(super) inner: W,
    pub(super) bytes: u64,
}

impl<W: io::Write> io::Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.bytes = self.bytes.saturating_add(to_u64(length));
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
