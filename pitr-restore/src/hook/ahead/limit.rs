//! How much may be fetched ahead.

use std::path::Path;

use pitr_core::WalSegmentSize;

/// What is fetched ahead where nobody says how much.
const DEFAULT_BYTES: u64 = 1 << 30;
const DEFAULT_SEGMENTS: u64 = 64;
/// A segment that is taken while the next one is written.
const LEAST: u64 = 2;
/// Of what is free on the disk of `pg_wal`, the segments that wait take one part
/// in so many: the server needs the rest.
const SHARE: u64 = 4;

/// A bound on the segments that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    segments: usize,
    segment_bytes: u64,
}

impl Limit {
    /// `named`, or what suits the size of a segment.
    pub(crate) fn new(named: Option<u32>, size: WalSegmentSize) -> Self {
        let default = (DEFAULT_BYTES / size.bytes()).clamp(LEAST, DEFAULT_SEGMENTS);
        let segments = named.map_or(default, u64::from);
        Self {
            segments: usize::try_from(segments).unwrap_or(usize::MAX),
            segment_bytes: size.bytes(),
        }
    }

    /// How many segments may wait in `folder`, where `held` do so already.
    pub(crate) fn segments(&self, folder: &Path, held: usize) -> usize {
        let free_bytes =
            rustix::fs::statvfs(folder).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        self.within(free_bytes, held)
    }

    fn within(&self, free_bytes: u64, held: usize) -> usize {
        let held_bytes = self.segment_bytes.saturating_mul(held as u64);
        let share = free_bytes.saturating_add(held_bytes) / SHARE / self.segment_bytes;
        self.segments
            .min(usize::try_from(share).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn limit(named: Option<u32>, mib: u64) -> Limit {
        Limit::new(named, WalSegmentSize::new(mib * MIB).unwrap())
    }

    #[test]
    fn it_suits_the_size_of_a_segment() {
        let segments = |mib| limit(None, mib).segments;
        assert_eq!([segments(1), segments(16), segments(64)], [64, 64, 16]);
        assert_eq!(segments(1024), 2);
        assert_eq!(limit(Some(5), 1024).segments, 5);
    }

    #[test]
    fn a_disk_that_is_nearly_full_is_left_alone() {
        let limit = limit(Some(10), 16);
        assert_eq!(limit.within(1000 * MIB, 0), 10);
        assert_eq!(limit.within(64 * MIB, 0), 1);
        assert_eq!(limit.within(63 * MIB, 0), 0);
        // what waits already is not free, and could be
        assert_eq!(limit.within(128 * MIB, 4), 3);
        assert_eq!(limit.within(0, 2), 0);
    }
}
