//! Compression of one stream into independent frames and a seek table.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use super::frame_pool::{CompressedFrame, FramePool, workers_gone};
use super::seek_table::{MAX_FRAME_BYTES, SeekTable};

/// Raw bytes of a frame unless told otherwise: 4 MiB.
///
/// Large enough that splitting costs no ratio, small enough that reading one
/// file out of a part decodes little beside it.
pub const DEFAULT_FRAME_BYTES: u32 = 4 << 20;

/// Compresses what is written to it in the Zstandard Seekable Format.
///
/// The input is cut into frames of equal raw size, which the threads of a
/// [`FramePool`] compress at once; they reach `W` in order. Every stock zstd
/// reads the result, the seek table at its end being a skippable frame.
///
/// Memory: at most `threads + 2` frames of raw bytes, and as many compressed.
///
/// Nothing is complete before [`SeekableWriter::finish`]; dropping the writer
/// leaves `W` with a stream that has no seek table. After an error every
/// further call fails.
#[derive(Debug)]
pub struct SeekableWriter<W: Write> {
    output: W,
    pool: Arc<FramePool>,
    frame_bytes: usize,
    filling: Vec<u8>,
    in_flight: VecDeque<Receiver<CompressedFrame>>,
    spare: Vec<Vec<u8>>,
    table: SeekTable,
    raw_bytes: u64,
    failed: bool,
}

/// What a finished [`SeekableWriter`] has taken in and put out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeekableTotals {
    /// Bytes of the decompressed stream.
    pub raw_bytes: u64,
    /// Bytes of the object, seek table included.
    pub stored_bytes: u64,
    /// Number of frames, seek table excluded.
    pub frames: u32,
}

impl<W: Write> SeekableWriter<W> {
    /// Writes into `output` with frames of [`DEFAULT_FRAME_BYTES`].
    pub fn new(output: W, pool: Arc<FramePool>) -> Self {
        Self::with_frame_bytes(output, pool, DEFAULT_FRAME_BYTES)
    }

    /// Writes into `output` with frames of `frame_bytes` raw bytes, taken into
    /// the bounds 1 to [`MAX_FRAME_BYTES`].
    pub fn with_frame_bytes(output: W, pool: Arc<FramePool>, frame_bytes: u32) -> Self {
        let frame_bytes = frame_bytes.clamp(1, MAX_FRAME_BYTES);
        Self {
            output,
            pool,
            frame_bytes: usize::try_from(frame_bytes).unwrap_or(usize::MAX),
            filling: Vec::new(),
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            table: SeekTable::default(),
            raw_bytes: 0,
            failed: false,
        }
    }

    /// Raw bytes taken in so far.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Compressed bytes that have reached `W` so far.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.table.compressed_bytes()
    }

    /// Compresses what is left, writes the seek table and hands `W` back.
    ///
    /// # Errors
    /// Of a compression thread or of `W`.
    pub fn finish(mut self) -> io::Result<(W, SeekableTotals)> {
        self.check()?;
        self.submit()?;
        while let Some(oldest) = self.in_flight.pop_front() {
            let frame = oldest.recv().map_err(|_| workers_gone())?;
            self.put(frame)?;
        }
        let table = self.table.to_bytes();
        self.output.write_all(&table)?;
        self.output.flush()?;
        let totals = SeekableTotals {
            raw_bytes: self.raw_bytes,
            stored_bytes: self.table.compressed_bytes() + table.len() as u64,
            frames: self.table.frames(),
        };
        Ok((self.output, totals))
    }

    fn check(&self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write of this object failed"));
        }
        Ok(())
    }

    /// Hands the filled buffer to the pool, and writes out what has come back.
    fn submit(&mut self) -> io::Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let next = self.spare.pop().unwrap_or_default();
        let raw = std::mem::replace(&mut self.filling, next);
        self.in_flight.push_back(self.pool.submit(raw)?);
        loop {
            let Some(oldest) = self.in_flight.front() else {
                return Ok(());
            };
            let frame = if self.in_flight.len() > self.pool.threads().get() + 1 {
                oldest.recv().map_err(|_| workers_gone())?
            } else {
                match oldest.try_recv() {
                    Ok(frame) => frame,
                    Err(TryRecvError::Empty) => return Ok(()),
                    Err(TryRecvError::Disconnected) => return Err(workers_gone()),
                }
            };
            self.in_flight.pop_front();
            self.put(frame)?;
        }
    }

    fn put(&mut self, done: CompressedFrame) -> io::Result<()> {
        let frame = done.frame?;
        self.output.write_all(&frame)?;
        self.table.push(frame.len(), done.raw.len())?;
        let mut raw = done.raw;
        raw.clear();
        self.spare.push(raw);
        Ok(())
    }
}

impl<W: Write> Write for SeekableWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        if self.filling.capacity() < self.frame_bytes && !bytes.is_empty() {
            self.filling
                .reserve_exact(self.frame_bytes - self.filling.len());
        }
        let taken = bytes.len().min(self.frame_bytes - self.filling.len());
        self.filling.extend_from_slice(&bytes[..taken]);
        self.raw_bytes += taken as u64;
        if self.filling.len() == self.frame_bytes {
            let submitted = self.submit();
            self.failed = submitted.is_err();
            submitted?;
        }
        Ok(taken)
    }

    /// Flushes `W` only: frames are cut by size, so that they stay equal.
    fn flush(&mut self) -> io::Result<()> {
        self.check()?;
        self.output.flush()
    }
}
