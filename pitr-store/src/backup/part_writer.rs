//! One part on its way into the store.

use pitr_core::crc32c;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::frame_pool::FramePool;
use super::index::{IndexEntry, PartIndex};
use super::info::PartInfo;
use super::member::{BLOCK_BYTES, Member, MemberKind, padding};
use super::object::BackupObject;
use super::part_name::PartName;
use super::seekable_writer::SeekableWriter;
use super::transfer::{PartTransfer, Publishing, Transfers};
use super::write_error::BackupWriteError;
use crate::{ObjectKey, Store};

/// The two zero blocks that end a tar archive.
const END_BYTES: usize = 2 * BLOCK_BYTES;

/// Bytes copied at once.
const COPY_BYTES: usize = 256 << 10;

static ZEROS: [u8; END_BYTES] = [0; END_BYTES];

/// A part that is being written: a tar archive, compressed in the seekable
/// format, not yet visible in the store.
#[derive(Debug)]
pub(super) struct PartWriter {
    name: PartName,
    output: SeekableWriter<PartTransfer>,
    transfers: Arc<Transfers>,
    files: Vec<IndexEntry>,
}

/// A part that has been written whole, and is being made durable.
#[derive(Debug)]
pub(super) struct WrittenPart {
    pub(super) info: PartInfo,
    pub(super) index: PartIndex,
    pub(super) publishing: Publishing,
}

/// Why a member's data did not get into the part.
pub(super) enum CopyError {
    /// The data could not be read.
    Source(io::Error),
    /// The data ended too early.
    Short { found: u64 },
    /// The part could not be written.
    Sink(BackupWriteError),
}

impl PartWriter {
    pub(super) fn create(
        store: &Arc<dyn Store>,
        folder: &ObjectKey,
        name: PartName,
        pool: &Arc<FramePool>,
        frame_bytes: u32,
        stored_bytes: &Arc<AtomicU64>,
        transfers: &Arc<Transfers>,
    ) -> Result<Self, BackupWriteError> {
        let key = folder.join(&name.to_string())?;
        let object = BackupObject::create(store, key)?.counted_in(stored_bytes);
        let transfer = PartTransfer::start(object, format!("part-{}", name.number()), transfers)?;
        Ok(Self {
            name,
            output: SeekableWriter::with_frame_bytes(transfer, Arc::clone(pool), frame_bytes),
            transfers: Arc::clone(transfers),
            files: Vec::new(),
        })
    }

    /// Whether a member of `bytes` (header and padding included) still fits
    /// into a part of `limit` bytes.
    pub(super) fn has_room(&self, bytes: u64, limit: u64) -> bool {
        let end = self.output.raw_bytes().saturating_add(bytes);
        self.output.raw_bytes() == 0 || end.saturating_add(END_BYTES as u64) <= limit
    }

    /// Bytes that a member takes in a part.
    pub(super) fn bytes_of(member: &Member, blocks: &[u8]) -> u64 {
        (blocks.len() as u64)
            .saturating_add(member.size)
            .saturating_add(padding(member.size) as u64)
    }

    /// Writes a member. `seen` gets the data as it passes.
    pub(super) fn append(
        &mut self,
        member: &Member,
        blocks: &[u8],
        data: &mut dyn Read,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<(), CopyError> {
        self.write(blocks)?;
        let offset = self.output.raw_bytes();
        let mut crc32c = 0;
        let mut left = member.size;
        let mut buffer =
            vec![0; usize::try_from(left).map_or(COPY_BYTES, |left| left.min(COPY_BYTES))];
        while left > 0 {
            let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let found = match data.read(&mut buffer[..wanted]) {
                Ok(0) => {
                    return Err(CopyError::Short {
                        found: member.size - left,
                    });
                }
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(CopyError::Source(error)),
            };
            let bytes = &buffer[..found];
            crc32c = crc32c::crc32c_append(crc32c, bytes);
            seen(bytes);
            self.write(bytes)?;
            left -= found as u64;
        }
        self.write(&ZEROS[..padding(member.size)])?;
        if member.kind == MemberKind::File {
            self.files.push(IndexEntry {
                path: self.name.archive().manifest_path(&member.path),
                offset,
                length: member.size,
                crc32c,
            });
        }
        Ok(())
    }

    /// Ends the archive; what is left to do is the store's.
    pub(super) fn finish(mut self) -> Result<WrittenPart, BackupWriteError> {
        let transfers = Arc::clone(&self.transfers);
        let failed = |error| transfers.failure(error);
        self.output.write_all(&ZEROS).map_err(failed)?;
        let (transfer, totals) = self.output.finish().map_err(failed)?;
        Ok(WrittenPart {
            publishing: transfer.publish()?,
            info: PartInfo {
                name: self.name,
                tablespace: self.name.archive().tablespace(),
                raw_bytes: totals.raw_bytes,
                stored_bytes: totals.stored_bytes,
                files: self.files.len() as u64,
            },
            index: PartIndex {
                name: self.name,
                files: self.files,
            },
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CopyError> {
        self.output
            .write_all(bytes)
            .map_err(|error| CopyError::Sink(self.transfers.failure(error)))
    }
}
