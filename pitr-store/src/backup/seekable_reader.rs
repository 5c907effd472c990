//! Random access to an object in the Zstandard Seekable Format.

use std::io::{self, Read};
use std::ops::Range;

use thiserror::Error;
use zstd::bulk::Decompressor;

use super::seek_table::{FOOTER_BYTES, FrameSpan, SeekTable, SeekTableError};

/// Bytes read from the end at once: the seek table of 2,000 frames fits, so
/// that opening costs one request.
const TAIL_BYTES: u64 = 16 << 10;

/// Something that hands out ranges of bytes: an object of a store, a file, a slice.
pub trait RangeSource {
    /// Size of the whole in bytes.
    fn size(&self) -> u64;

    /// The bytes of `range`, which lies within the size.
    ///
    /// # Errors
    /// Of the medium; a short answer is one too.
    fn read_range(&self, range: Range<u64>) -> io::Result<Vec<u8>>;
}

impl<S: RangeSource + ?Sized> RangeSource for &S {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_range(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        (**self).read_range(range)
    }
}

impl RangeSource for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_range(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let bounds = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok());
        bounds
            .and_then(|(start, end)| self.get(start..end))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Why a range of a seekable object cannot be read.
#[derive(Debug, Error)]
pub enum SeekableError {
    /// The medium failed.
    #[error("could not read the object")]
    Read(#[source] io::Error),
    /// The seek table is damaged or absent.
    #[error(transparent)]
    Table(#[from] SeekTableError),
    /// The bytes asked for lie beyond the end.
    #[error("bytes {start} to {end} lie beyond the end of a stream of {raw_bytes} bytes")]
    OutOfRange {
        /// First byte asked for.
        start: u64,
        /// End asked for, exclusive.
        end: u64,
        /// Length of the decompressed stream.
        raw_bytes: u64,
    },
    /// A frame does not decode, or its checksum disagrees.
    #[error("frame at bytes {start} to {end} does not decode: {reason}")]
    Frame {
        /// First byte of the frame in the object.
        start: u64,
        /// Its end, exclusive.
        end: u64,
        /// What zstd says.
        reason: String,
    },
    /// A frame decodes to another length than the seek table says.
    #[error("frame at byte {start} holds {found} raw bytes, the seek table says {expected}")]
    FrameLength {
        /// First byte of the frame in the object.
        start: u64,
        /// Length in the seek table.
        expected: u64,
        /// Length decoded.
        found: u64,
    },
}

impl From<SeekableError> for io::Error {
    fn from(error: SeekableError) -> Self {
        let kind = match &error {
            SeekableError::Read(source) => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Reads any range of the decompressed stream, decoding only the frames that
/// it touches.
#[derive(Debug)]
pub struct SeekableReader<S> {
    source: S,
    table: SeekTable,
}

impl<S: RangeSource> SeekableReader<S> {
    /// Reads and validates the seek table at the end of `source`.
    ///
    /// # Errors
    /// `Read`, or `Table` if there is none to be trusted.
    pub fn open(source: S) -> Result<Self, SeekableError> {
        let size = source.size();
        if size < FOOTER_BYTES {
            return Err(SeekTableError::TooShort { object_bytes: size }.into());
        }
        let tail = read_exactly(&source, size - TAIL_BYTES.min(size)..size)?;
        let footer = tail.split_last_chunk::<9>();
        let (_, footer) = footer.ok_or(SeekTableError::TooShort { object_bytes: size })?;
        let length = SeekTable::length_from_footer(footer, size)?;
        let start = usize::try_from(length)
            .ok()
            .and_then(|length| tail.len().checked_sub(length));
        let table = match start {
            Some(start) => SeekTable::parse(&tail[start..], size)?,
            None => SeekTable::parse(&read_exactly(&source, size - length..size)?, size)?,
        };
        Ok(Self { source, table })
    }

    /// The validated seek table.
    pub fn table(&self) -> &SeekTable {
        &self.table
    }

    /// A reader of `length` bytes from `offset` of the decompressed stream.
    ///
    /// # Errors
    /// `OutOfRange`; frames are fetched while reading.
    pub fn range(&self, offset: u64, length: u64) -> Result<SeekableRange<'_, S>, SeekableError> {
        let raw_bytes = self.table.raw_bytes();
        match offset.checked_add(length) {
            Some(end) if end <= raw_bytes => Ok(SeekableRange {
                reader: self,
                cursor: RangeCursor::new(offset, end),
            }),
            end => Err(SeekableError::OutOfRange {
                start: offset,
                end: end.unwrap_or(u64::MAX),
                raw_bytes,
            }),
        }
    }

    /// Fetches and decodes one frame; its checksum is verified.
    fn decode(&self, span: &FrameSpan) -> Result<Vec<u8>, SeekableError> {
        let compressed = read_exactly(&self.source, span.compressed.clone())?;
        let failed = |error: io::Error| SeekableError::Frame {
            start: span.compressed.start,
            end: span.compressed.end,
            reason: error.to_string(),
        };
        let expected = span.raw.end - span.raw.start;
        // bounded by MAX_FRAME_BYTES when the table was parsed
        let capacity = usize::try_from(expected).unwrap_or(usize::MAX);
        let mut raw = Vec::with_capacity(capacity);
        let found = Decompressor::new()
            .and_then(|mut zstd| zstd.decompress_to_buffer(&compressed, &mut raw))
            .map_err(failed)?;
        if found != capacity {
            return Err(SeekableError::FrameLength {
                start: span.compressed.start,
                expected,
                found: found as u64,
            });
        }
        Ok(raw)
    }
}

/// The bytes of a range, decoded frame by frame. At most one frame is held.
#[derive(Debug)]
pub struct SeekableRange<'a, S> {
    reader: &'a SeekableReader<S>,
    cursor: RangeCursor,
}

impl<S: RangeSource> Read for SeekableRange<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cursor.read(self.reader, buffer)
    }
}

/// Place in a range, and the frame that it lies in.
#[derive(Debug)]
pub(super) struct RangeCursor {
    position: u64,
    end: u64,
    frame: Vec<u8>,
    /// Offset of `frame` in the decompressed stream.
    frame_start: u64,
}

impl RangeCursor {
    /// From `position` to `end`, which lie within the stream.
    pub(super) fn new(position: u64, end: u64) -> Self {
        Self {
            position,
            end,
            frame: Vec::new(),
            frame_start: position,
        }
    }

    /// Moves on by `bytes`; beyond the end there is nothing to read.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.position = self.position.saturating_add(bytes);
    }

    pub(super) fn read<S: RangeSource>(
        &mut self,
        reader: &SeekableReader<S>,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        if self.position >= self.end || buffer.is_empty() {
            return Ok(0);
        }
        if self.position < self.frame_start
            || self.position >= self.frame_start + self.frame.len() as u64
        {
            let span = reader.table.frame_at(self.position);
            let span = span.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.frame = reader.decode(&span)?;
            self.frame_start = span.raw.start;
        }
        let skip = usize::try_from(self.position - self.frame_start).unwrap_or(usize::MAX);
        let available = self.frame.get(skip..).unwrap_or_default();
        let wanted = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let length = available.len().min(wanted).min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.position += length as u64;
        Ok(length)
    }
}

fn read_exactly<S: RangeSource>(source: &S, range: Range<u64>) -> Result<Vec<u8>, SeekableError> {
    let expected = range.end - range.start;
    let bytes = source.read_range(range).map_err(SeekableError::Read)?;
    if bytes.len() as u64 != expected {
        return Err(SeekableError::Read(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}
