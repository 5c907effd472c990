//! How a base backup is written.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use super::member_path::MemberPath;
use super::seekable_writer::DEFAULT_FRAME_BYTES;

/// Bytes of a part before compression, unless told otherwise: 256 MiB.
pub const DEFAULT_PART_BYTES: u64 = 256 << 20;

/// Parts on their way to the store at once, unless told otherwise.
pub const DEFAULT_PARTS_IN_FLIGHT: NonZeroUsize = match NonZeroUsize::new(4) {
    Some(parts) => parts,
    None => NonZeroUsize::MIN,
};

/// Compressed bytes that may wait for the store, unless told otherwise: 64 MiB.
pub const DEFAULT_WAITING_BYTES: u64 = 64 << 20;

/// How a base backup is written.
///
/// Memory, whatever the size of the backup: `threads + 2` frames raw and as
/// many compressed, `waiting_bytes`, a compressor for each thread, and what the
/// store's writers hold of `parts_in_flight` objects.
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
    /// Parts that are written or made durable at once, the one that is being
    /// filled among them. A store that takes its time to acknowledge a part
    /// does not hold up the next.
    pub parts_in_flight: NonZeroUsize,
    /// Compressed bytes that may wait for the store, all parts together; one
    /// frame may always wait. When they do, the server's stream waits as well.
    pub waiting_bytes: u64,
    /// Files that are kept in memory while they pass, up to 1 MiB each, by
    /// their path in the manifest: see
    /// [`BackupWriter::collected`](super::BackupWriter::collected).
    pub collect: BTreeSet<MemberPath>,
}

impl Default for BackupOptions {
    /// Parts of 256 MiB, frames of 4 MiB, level 1, all processors, four parts
    /// and 64 MiB on their way to the store; collects
    /// `backup_label`, `tablespace_map` and `global/pg_control`.
    fn default() -> Self {
        let collect = ["backup_label", "tablespace_map", "global/pg_control"];
        Self {
            part_bytes: DEFAULT_PART_BYTES,
            frame_bytes: DEFAULT_FRAME_BYTES,
            level: 1,
            threads: None,
            parts_in_flight: DEFAULT_PARTS_IN_FLIGHT,
            waiting_bytes: DEFAULT_WAITING_BYTES,
            collect: collect
                .iter()
                .filter_map(|path| path.parse().ok())
                .collect(),
        }
    }
}
