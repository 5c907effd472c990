//! One file's data, checked against the index while it is read.

use pitr_core::crc32c;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use super::index::IndexEntry;
use super::part_reader::PartPlace;
use super::read_error::{BackupReadError, PartDamage};
use super::seekable_reader::{RangeCursor, RangeSource, SeekableReader};
use crate::{ObjectKey, Store};

/// Follows a file's data and compares its CRC-32C at the end.
#[derive(Debug)]
struct Check {
    path: String,
    expected: Option<u32>,
    crc32c: u32,
}

impl Check {
    fn new(entry: Option<&IndexEntry>) -> Self {
        Self {
            path: entry
                .map(|entry| entry.path.to_string())
                .unwrap_or_default(),
            expected: entry.map(|entry| entry.crc32c),
            crc32c: 0,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
    }

    fn end(&self) -> Result<(), PartDamage> {
        match self.expected {
            Some(expected) if expected != self.crc32c => Err(PartDamage::Checksum {
                path: self.path.clone(),
                expected,
                found: self.crc32c,
            }),
            _ => Ok(()),
        }
    }
}

/// A member's data out of a part that is read whole.
pub(super) struct CheckedData<'a, R> {
    data: R,
    place: &'a PartPlace,
    check: Check,
    begun: bool,
}

impl<'a, R: Read> CheckedData<'a, R> {
    pub(super) fn new(data: R, place: &'a PartPlace, entry: Option<&IndexEntry>) -> Self {
        Self {
            data,
            place,
            check: Check::new(entry),
            begun: false,
        }
    }

    /// Whether anything of it was read.
    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    /// Reads what is left.
    pub(super) fn finish(mut self) -> Result<(), BackupReadError> {
        let place = self.place;
        let copied = io::copy(&mut self, &mut io::sink());
        copied.map(|_| ()).map_err(|error| place.io_error(error))
    }
}

impl<R: Read> Read for CheckedData<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.begun = true;
        let read = self.data.read(buffer);
        checked(read, buffer, &mut self.check, self.place)
    }
}

/// A whole part, of which only the frames are fetched that are read.
pub(super) struct PartRange {
    reader: SeekableReader<StoredObject>,
    cursor: RangeCursor,
}

impl PartRange {
    pub(super) fn new(reader: SeekableReader<StoredObject>) -> Self {
        let end = reader.table().raw_bytes();
        Self {
            reader,
            cursor: RangeCursor::new(0, end),
        }
    }

    pub(super) fn advance(&mut self, bytes: u64) {
        self.cursor.advance(bytes);
    }
}

impl Read for PartRange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cursor.read(&self.reader, buffer)
    }
}

/// One file of a backup, read by itself. Errors come as [`io::Error`] around
/// a [`BackupReadError`].
#[derive(Debug)]
pub struct FileReader {
    reader: SeekableReader<StoredObject>,
    cursor: RangeCursor,
    check: Check,
    place: PartPlace,
}

impl FileReader {
    pub(super) fn new(
        reader: SeekableReader<StoredObject>,
        entry: &IndexEntry,
        place: PartPlace,
    ) -> Self {
        let end = entry.offset.saturating_add(entry.length);
        Self {
            reader,
            cursor: RangeCursor::new(entry.offset, end),
            check: Check::new(Some(entry)),
            place,
        }
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.cursor.read(&self.reader, buffer);
        checked(read, buffer, &mut self.check, &self.place)
    }
}

/// What both readers do with what was read.
fn checked(
    read: io::Result<usize>,
    buffer: &[u8],
    check: &mut Check,
    place: &PartPlace,
) -> io::Result<usize> {
    match read {
        Ok(0) if !buffer.is_empty() => {
            check.end().map_err(|damage| place.damage(damage))?;
            Ok(0)
        }
        Ok(read) => {
            check.take(&buffer[..read]);
            Ok(read)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
        Err(error) => Err(place.io_error(error).into()),
    }
}

/// An object of a store, read by ranges.
#[derive(Debug)]
pub(super) struct StoredObject {
    store: Arc<dyn Store>,
    key: ObjectKey,
    bytes: u64,
}

impl StoredObject {
    pub(super) fn new(store: Arc<dyn Store>, key: ObjectKey, bytes: u64) -> Self {
        Self { store, key, bytes }
    }
}

impl RangeSource for StoredObject {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn read_range(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        Ok(self.store.read_range(&self.key, range)?)
    }
}
