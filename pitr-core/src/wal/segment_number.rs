//! The place of a segment in the log.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::wal::segment_size::WalSegmentSize;

/// The place of a segment in the log, counted from zero: LSN divided by the segment size.
///
/// Independent of the timeline. `initdb` starts at 1. A number beyond the
/// 64-bit address space of its segment size (16 EiB of WAL) stands for the
/// last segment of that space, so that no arithmetic here can overflow.
///
/// Source: `XLogSegNo`, src/include/access/xlogdefs.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentNumber(u64);

impl SegmentNumber {
    /// The segment of this number.
    pub const fn new(number: u64) -> Self {
        SegmentNumber(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The segment in which the byte at `lsn` lies.
    ///
    /// For a start position. A position on a segment's boundary belongs to the segment that begins there.
    ///
    /// Source: `XLByteToSeg`, src/include/access/xlog_internal.h.
    pub const fn containing(lsn: Lsn, size: WalSegmentSize) -> Self {
        SegmentNumber(lsn.get() / size.bytes())
    }

    /// The segment in which the last byte before `end` lies.
    ///
    /// For an end position (the first byte no longer included). One on a
    /// segment's boundary belongs to the segment that ends there. Zero for
    /// [`Lsn::INVALID`].
    ///
    /// Source: `XLByteToPrevSeg`, src/include/access/xlog_internal.h.
    pub const fn last_before(end: Lsn, size: WalSegmentSize) -> Self {
        SegmentNumber(end.get().saturating_sub(1) / size.bytes())
    }

    /// Position of the segment's first byte.
    pub const fn start(self, size: WalSegmentSize) -> Lsn {
        Lsn::new(self.clamped(size) * size.bytes())
    }

    /// Position after the segment's last byte: where the next one starts.
    ///
    /// For the very last segment of the address space, its last byte.
    pub const fn end(self, size: WalSegmentSize) -> Lsn {
        Lsn::new((self.clamped(size) * size.bytes()).saturating_add(size.bytes()))
    }

    /// The segment after this one.
    pub const fn next(self) -> Self {
        SegmentNumber(self.0.saturating_add(1))
    }

    /// The segment before this one; `None` before the first.
    pub const fn prev(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(number) => Some(SegmentNumber(number)),
            None => None,
        }
    }

    /// The number, held within the address space of `size`.
    pub(crate) const fn clamped(self, size: WalSegmentSize) -> u64 {
        if self.0 < size.last_number() {
            self.0
        } else {
            size.last_number()
        }
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    #[test]
    fn a_boundary_begins_one_segment_and_ends_another() {
        let boundary = Lsn::new(5 * SIZE.bytes());
        assert_eq!(SegmentNumber::containing(boundary, SIZE).get(), 5);
        assert_eq!(SegmentNumber::last_before(boundary, SIZE).get(), 4);
        let inside = Lsn::new(5 * SIZE.bytes() + 1);
        assert_eq!(SegmentNumber::containing(inside, SIZE).get(), 5);
        assert_eq!(SegmentNumber::last_before(inside, SIZE).get(), 5);
    }

    #[test]
    fn the_ends_of_the_address_space_do_not_overflow() {
        assert_eq!(SegmentNumber::last_before(Lsn::INVALID, SIZE).get(), 0);
        let last = SegmentNumber::containing(Lsn::new(u64::MAX), SIZE);
        assert_eq!(last.start(SIZE).get(), u64::MAX - SIZE.bytes() + 1);
        assert_eq!(last.end(SIZE).get(), u64::MAX);
        assert_eq!(SegmentNumber::new(u64::MAX).start(SIZE), last.start(SIZE));
        assert_eq!(SegmentNumber::new(0).prev(), None);
        assert_eq!(SegmentNumber::new(u64::MAX).next().get(), u64::MAX);
    }

    proptest! {
        #[test]
        fn every_position_lies_in_its_segment(position: u64, shift in 20u32..=30) {
            let size = WalSegmentSize::new(1 << shift).unwrap();
            let lsn = Lsn::new(position);
            let number = SegmentNumber::containing(lsn, size);
            prop_assert!(number.start(size) <= lsn);
            prop_assert!(lsn < number.end(size) || lsn.get() == u64::MAX);
            prop_assert_eq!(SegmentNumber::containing(number.start(size), size), number);
        }
    }
}
