//! The 24 digits that name a segment.

use std::fmt;
use std::str::FromStr;

use crate::lsn::Lsn;
use crate::text::{excerpt, serde_as_text, upper_hex_u32};
use crate::timeline::id::TimelineId;
use crate::wal::file_name::WalFileNameError;
use crate::wal::segment_number::SegmentNumber;
use crate::wal::segment_size::WalSegmentSize;

/// The name of a WAL segment: timeline, log and segment within the log.
///
/// Shape: `TTTTTTTTHHHHHHHHLLLLLLLL`, upper-case hex. With `n` segments per
/// log ([`WalSegmentSize::segments_per_log`]), the segment number is
/// `H * n + L`; a name can be read without the segment size, but what it
/// stands for cannot be told without it. Orders by timeline, then by
/// position. In JSON it is the text.
///
/// Source: `XLogFileName`, src/include/access/xlog_internal.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    timeline: TimelineId,
    log: u32,
    low: u32,
}

impl SegmentName {
    /// Characters in the name.
    pub const LEN: usize = 24;

    /// The name of segment `number` on `timeline` in a cluster with segments of `size`.
    pub fn new(timeline: TimelineId, number: SegmentNumber, size: WalSegmentSize) -> Self {
        let number = number.clamped(size);
        SegmentName {
            timeline,
            log: low_half(number / size.segments_per_log()),
            low: low_half(number % size.segments_per_log()),
        }
    }

    /// The name of the segment on `timeline` in which the byte at `lsn` lies.
    pub fn containing(timeline: TimelineId, lsn: Lsn, size: WalSegmentSize) -> Self {
        SegmentName::new(timeline, SegmentNumber::containing(lsn, size), size)
    }

    /// First eight digits.
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Middle eight digits: the log, that is, the high half of the segment's LSN.
    pub const fn log(&self) -> u32 {
        self.log
    }

    /// The segment number, if the cluster's segments have `size`.
    ///
    /// # Errors
    /// `LowOutOfRange` if the last eight digits are too high: no cluster with
    /// this segment size makes that name.
    ///
    /// Source: `XLogFromFileName`, src/include/access/xlog_internal.h.
    pub fn number(&self, size: WalSegmentSize) -> Result<SegmentNumber, WalFileNameError> {
        let low = u64::from(self.low);
        if low >= size.segments_per_log() {
            return Err(WalFileNameError::LowOutOfRange {
                name: self.to_string(),
                low: self.low,
                size,
            });
        }
        Ok(SegmentNumber::new(
            u64::from(self.log) * size.segments_per_log() + low,
        ))
    }

    /// Position of the segment's first byte, if the cluster's segments have `size`.
    ///
    /// # Errors
    /// As [`SegmentName::number`].
    pub fn start(&self, size: WalSegmentSize) -> Result<Lsn, WalFileNameError> {
        Ok(self.number(size)?.start(size))
    }

    /// The segment of the same place on another timeline.
    pub const fn on_timeline(self, timeline: TimelineId) -> Self {
        SegmentName { timeline, ..self }
    }

    /// Reads 24 upper-case hex digits; `whole` is the name that errors speak of.
    pub(crate) fn from_digits(digits: &[u8], whole: &str) -> Result<Self, WalFileNameError> {
        let not_hex = || WalFileNameError::NotUpperHex {
            name: excerpt(whole),
        };
        let part = |range| {
            digits
                .get(range)
                .and_then(upper_hex_u32)
                .ok_or_else(not_hex)
        };
        let (timeline, log, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
        let timeline = TimelineId::new(timeline).ok_or_else(|| WalFileNameError::TimelineZero {
            name: excerpt(whole),
        })?;
        Ok(SegmentName { timeline, log, low })
    }
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & 0xFFFF_FFFF).unwrap_or(u32::MAX)
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!(
            "{:08X}{:08X}{:08X}",
            self.timeline.get(),
            self.log,
            self.low
        ))
    }
}

impl FromStr for SegmentName {
    type Err = WalFileNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name.len() != Self::LEN {
            return Err(WalFileNameError::Shape {
                name: excerpt(name),
            });
        }
        SegmentName::from_digits(name.as_bytes(), name)
    }
}

serde_as_text!(SegmentName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    #[test]
    fn golden_names_of_one_mebibyte_segments() {
        let name = |at| {
            SegmentName::containing(TimelineId::FIRST, lsn(at), WalSegmentSize::SMALLEST)
                .to_string()
        };
        assert_eq!(name("FF/12345678"), "00000001000000FF00000123");
        assert_eq!(name("1/1"), "000000010000000100000000");
        assert_eq!(name("0/100001"), "000000010000000000000001");
    }

    #[test]
    fn a_name_means_other_positions_under_other_sizes() {
        let name: SegmentName = "000000010000000200000003".parse().unwrap();
        let start = |size: u64| {
            name.start(WalSegmentSize::new(size).unwrap())
                .unwrap()
                .to_string()
        };
        assert_eq!(start(1 << 20), "2/300000");
        assert_eq!(start(16 << 20), "2/3000000");
        assert_eq!(start(64 << 20), "2/C000000");
        assert_eq!(start(1 << 30), "2/C0000000");
    }

    #[test]
    fn digits_that_the_segment_size_cannot_make_are_refused() {
        let last: SegmentName = "0000000100000000000000FF".parse().unwrap();
        assert_eq!(last.number(WalSegmentSize::DEFAULT).unwrap().get(), 255);
        let beyond: SegmentName = "000000010000000000000100".parse().unwrap();
        assert!(matches!(
            beyond.number(WalSegmentSize::DEFAULT),
            Err(WalFileNameError::LowOutOfRange { low: 256, .. })
        ));
        assert!(beyond.number(WalSegmentSize::SMALLEST).is_ok());
    }

    #[test]
    fn names_sort_by_timeline_then_position() {
        let mut names: Vec<SegmentName> = [
            "000000020000000000000001",
            "000000010000000100000000",
            "0000000100000000000000FF",
        ]
        .map(|name| name.parse().unwrap())
        .to_vec();
        names.sort();
        let sorted: Vec<String> = names.iter().map(ToString::to_string).collect();
        assert_eq!(
            sorted,
            [
                "0000000100000000000000FF",
                "000000010000000100000000",
                "000000020000000000000001"
            ]
        );
    }

    proptest! {
        #[test]
        fn number_and_name_round_trip(timeline in 1u32.., position: u64, shift in 20u32..=30) {
            let size = WalSegmentSize::new(1 << shift).unwrap();
            let timeline = TimelineId::new(timeline).unwrap();
            let number = SegmentNumber::containing(Lsn::new(position), size);
            let name = SegmentName::new(timeline, number, size);
            prop_assert_eq!(name.number(size).unwrap(), number);
            prop_assert_eq!(name.to_string().parse::<SegmentName>().unwrap(), name);
            prop_assert_eq!(name.log(), u32::try_from(position >> 32).unwrap());
        }
    }
}
