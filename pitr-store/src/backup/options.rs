//! How a base backup is written.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use super::member_path::MemberPath;
use super::seekable_writer::DEFAULT_FRAME_BYTES;

/// Bytes of a part before compression, unless told otherwise: 256 MiB.
pub const DEFAULT_PART_BYTES: u64 = 256 << 20;

/// How a base backup is written.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Bytes of a part before compression. A member is never split, so that a
    /// larger one makes a larger part.
    pub part_bytes: u64,
    /// Raw bytes of a zstd frame.
    pub frame_bytes: u32,
    /// zstd level.
    pub level: i32,
    /// Compression threads; `None`: one for each processor, at most 16.
    pub threads: Option<NonZeroUsize>,
    /// Files that are kept in memory while they pass, up to 1 MiB each, by
    /// their path in the manifest: see
    /// [`BackupWriter::collected`](super::BackupWriter::collected).
    pub collect: BTreeSet<MemberPath>,
}

impl Default for BackupOptions {
    /// Parts of 256 MiB, frames of 4 MiB, level 1, all processors; collects
    /// `backup_label`, `tablespace_map` and `global/pg_control`.
    fn default() -> Self {
        let collect = ["backup_label", "tablespace_map", "global/pg_control"];
        Self {
            part_bytes: DEFAULT_PART_BYTES,
            frame_bytes: DEFAULT_FRAME_BYTES,
            level: 1,
            threads: None,
            collect: collect
                .iter()
                .filter_map(|path| path.parse().ok())
                .collect(),
        }
    }
}
