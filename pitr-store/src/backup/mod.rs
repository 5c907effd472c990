//! Base backups: tar parts in the Zstandard Seekable Format, their index, and
//! the document that makes a backup exist.

mod frame_pool;
mod seek_table;
mod seekable_reader;
#[cfg(test)]
mod seekable_tests;
mod seekable_writer;

pub use frame_pool::FramePool;
pub use seek_table::{FrameSpan, MAX_FRAME_BYTES, MAX_FRAMES, SeekTable, SeekTableError};
pub use seekable_reader::{RangeSource, SeekableError, SeekableRange, SeekableReader};
pub use seekable_writer::{DEFAULT_FRAME_BYTES, SeekableTotals, SeekableWriter};
