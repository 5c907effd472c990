//! Encoding a segment before it is known where it goes.
//!
//! A store far away is asked first whether it is a repository, whose, and
//! whether it has the segment. None of that changes how a segment is encoded, so
//! that the answers travel while it is. Nothing of it shows before they are
//! known.

use pitr_core::crc32c;
use std::io::{self, Write};

use pitr_core::{SegmentSummary, WalFileName};

use super::compare::to_u64;
use super::identify::{SegmentIdentity, identify};
use super::push::{Chunk, READ_BYTES, encode_into, source_error};
use super::scan::Scan;
use super::source::{WalSource, read_full};
use super::turn::{PushedInTurn, Turn};
use super::{PushError, Pushed, StoredObject, WalArchive, summary};
use crate::codec::{Codec, Encoder, Encoding};
use crate::store::{ContentDigest, ContentHasher, ObjectWriter, Operation, Shown, StoreError};

/// Longest segment that is kept in memory, encoded.
const LONGEST_BYTES: u64 = 32 << 20;

/// What is kept in one piece, so that each is given up as soon as it is written:
/// large enough for an allocator to give it back to the system then.
const BLOCK_BYTES: usize = 1 << 20;

/// Threads that compress at the most: nothing else is to be done meanwhile, and
/// the server that archives has other work for its processors.
const MOST_WORKERS: u32 = 2;

/// A segment as it is going to be stored, in memory.
#[derive(Debug)]
pub struct EncodedAhead {
    name: WalFileName,
    identity: SegmentIdentity,
    encoding: Encoding,
    summary: SegmentSummary,
    blocks: Vec<Vec<u8>>,
    bytes: u64,
}

impl EncodedAhead {
    /// Reads, scans and encodes the segment `name`, on several processors where
    /// the codec can.
    ///
    /// `None` where that is better left to [`WalArchive::push`]: no segment, one
    /// longer than 32 MiB, one that is damaged or cannot be read or is not what
    /// its name says. Nothing is lost by it but time.
    pub fn of(name: &WalFileName, source: &mut dyn WalSource, codec: Codec) -> Option<Self> {
        let content_bytes = source.content_bytes();
        if !matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_))
            || content_bytes > LONGEST_BYTES
        {
            return None;
        }
        let mut buffer = vec![0; READ_BYTES];
        source.rewind().ok()?;
        let head_bytes = read_full(source, &mut buffer).ok()?;
        let identity = identify(name, buffer.get(..head_bytes)?, content_bytes).ok()?;
        let size = identity.cluster.segment_size;
        let mut scan = Scan::of_content(name, size, None, false);
        let encoder = Encoder::with_workers(codec, content_bytes, workers()).ok()?;
        let mut blocks = Blocks::default();
        let chunk = &mut Chunk {
            buffer: &mut buffer,
            head_bytes,
        };
        encode_into(source, chunk, encoder, &mut blocks, "", &mut scan).ok()?;
        let summary = scan.finish().summary?;
        if summary.is_damaged() {
            return None;
        }
        let encoding = codec.encoding();
        if encoding == Encoding::Zstd
            && let Some(frame) = summary::summary_to_frame(&summary)
        {
            blocks.write_all(&frame).ok()?;
        }
        Some(Self {
            name: *name,
            identity,
            encoding,
            summary,
            bytes: blocks.bytes,
            blocks: blocks.blocks,
        })
    }
}

fn workers() -> u32 {
    match std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
        0 | 1 => 0,
        processors => u32::try_from(processors).map_or(MOST_WORKERS, |n| n.min(MOST_WORKERS)),
    }
}

/// Collects what is written to it, without ever moving it.
#[derive(Default)]
struct Blocks {
    blocks: Vec<Vec<u8>>,
    bytes: u64,
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = |block: &Vec<u8>| BLOCK_BYTES.saturating_sub(block.len());
        if self.blocks.last().is_none_or(|last| room(last) == 0) {
            self.blocks.push(Vec::with_capacity(BLOCK_BYTES));
        }
        let Some(last) = self.blocks.last_mut() else {
            return Ok(0);
        };
        let taken = bytes.get(..bytes.len().min(room(last))).unwrap_or(bytes);
        last.extend_from_slice(taken);
        self.bytes = self.bytes.saturating_add(to_u64(taken.len()));
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WalArchive {
    /// Stores what was encoded ahead of the answers; `None` where it must be
    /// encoded once more.
    pub(super) fn store_ahead(
        &self,
        name: &WalFileName,
        source: &mut dyn WalSource,
        ahead: EncodedAhead,
        turn: Option<&dyn Turn>,
    ) -> Result<Option<PushedInTurn>, PushError> {
        if ahead.name != *name {
            return Ok(None);
        }
        ahead.identity.check_cluster(name, &self.cluster)?;
        let digest = match self.store.content_hasher() {
            None => None,
            Some(hasher) => match digest(source, hasher, ahead.summary.crc32c)? {
                Some(digest) => Some(digest),
                None => return Ok(None),
            },
        };
        let (key, rivals) = self.target(name, ahead.encoding)?;
        let location = self.store.object_location(&key);
        let with_need = |error: StoreError| match error {
            StoreError::NoSpace {
                operation,
                location,
                limit,
                available_bytes,
                ..
            } => StoreError::NoSpace {
                operation,
                location,
                limit,
                needed_bytes: Some(ahead.bytes),
                available_bytes,
            },
            other => other,
        };
        let mut writer: Box<dyn ObjectWriter> = self.store.create(&key, &rivals)?;
        for block in ahead.blocks {
            writer.write_all(&block).map_err(|error| {
                with_need(StoreError::from_io(error, Operation::Write, &location))
            })?;
        }
        if let Some(digest) = &digest {
            writer.set_content_digest(digest);
        }
        if turn.is_some_and(|turn| !turn.comes(self.store.shows_at_once())) {
            return Err(PushError::Withdrawn { name: *name });
        }
        writer.publish().map_err(with_need)?;
        let object = StoredObject {
            name: *name,
            key,
            location,
            encoding: ahead.encoding,
            stored_bytes: ahead.bytes,
        };
        Ok(Some(PushedInTurn {
            pushed: Pushed::Stored {
                object,
                summary: Some(Box::new(ahead.summary)),
            },
            shown: Shown::durable(),
            // the server is told of this one now: it will not come for it again
            fingerprint: None,
        }))
    }
}

/// The digest of the source; `None` where it is not the content with this
/// checksum any more.
fn digest(
    source: &mut dyn WalSource,
    mut hasher: ContentHasher,
    crc32c: u32,
) -> Result<Option<ContentDigest>, PushError> {
    let mut chunk = vec![0; READ_BYTES];
    let mut found = 0;
    source.rewind().map_err(|e| source_error(source, e))?;
    loop {
        let length = read_full(source, &mut chunk).map_err(|e| source_error(source, e))?;
        match chunk.get(..length) {
            None | Some([]) => break,
            Some(bytes) => {
                found = crc32c::crc32c_append(found, bytes);
                hasher.update(bytes);
            }
        }
    }
    Ok((found == crc32c).then(|| hasher.finish()))
}
