//! The four kinds of file that `archive_command` is given.

use std::fmt;
use std::str::FromStr;

use crate::text::{excerpt, serde_as_text, upper_hex_u32};
use crate::timeline::id::TimelineId;
use crate::wal::segment_name::SegmentName;
use crate::wal::segment_size::WalSegmentSize;

/// The name of a file that PostgreSQL archives.
///
/// | kind | shape |
/// |---|---|
/// | segment | 24 hex digits |
/// | partial segment | segment, `.partial` |
/// | timeline history | 8 hex digits, `.history` |
/// | backup history | segment, `.`, 8 hex digits, `.backup` |
///
/// Hex digits are upper case. No other name reaches `archive_command`, and
/// none of these has a separator in it, so a parsed name is safe to join to a
/// folder. In JSON it is the text.
///
/// ```
/// use pitr_core::WalFileName;
/// let name: WalFileName = "000000010000000000000006.00000028.backup".parse()?;
/// assert!(matches!(name, WalFileName::Backup { offset: 0x28, .. }));
/// assert!("../../etc/passwd".parse::<WalFileName>().is_err());
/// # Ok::<(), pitr_core::WalFileNameError>(())
/// ```
///
/// Source: `IsXLogFileName` and its kin, src/include/access/xlog_internal.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFileName {
    /// A whole segment.
    Segment(SegmentName),
    /// The last segment of a timeline that was left: full size, valid up to the branch.
    Partial(SegmentName),
    /// The ancestors of a timeline.
    History(TimelineId),
    /// What the server writes into the log's folder when a base backup ends.
    Backup {
        /// The segment in which the backup starts.
        segment: SegmentName,
        /// Byte in that segment at which it starts.
        offset: u32,
    },
}

impl WalFileName {
    /// The timeline that the name begins with.
    pub const fn timeline(&self) -> TimelineId {
        match self {
            WalFileName::Segment(segment)
            | WalFileName::Partial(segment)
            | WalFileName::Backup { segment, .. } => segment.timeline(),
            WalFileName::History(timeline) => *timeline,
        }
    }

    /// The segment that the name speaks of; `None` for a timeline history.
    pub const fn segment(&self) -> Option<SegmentName> {
        match self {
            WalFileName::Segment(segment)
            | WalFileName::Partial(segment)
            | WalFileName::Backup { segment, .. } => Some(*segment),
            WalFileName::History(_) => None,
        }
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalFileName::Segment(segment) => segment.fmt(f),
            WalFileName::Partial(segment) => f.pad(&format!("{segment}.partial")),
            WalFileName::History(timeline) => f.pad(&format!("{}.history", timeline.hex())),
            WalFileName::Backup { segment, offset } => {
                f.pad(&format!("{segment}.{offset:08X}.backup"))
            }
        }
    }
}

impl FromStr for WalFileName {
    type Err = WalFileNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let not_hex = || WalFileNameError::NotUpperHex {
            name: excerpt(name),
        };
        if let Some(segment) = name
            .strip_suffix(".partial")
            .filter(|digits| digits.len() == SegmentName::LEN)
        {
            return SegmentName::from_digits(segment.as_bytes(), name).map(WalFileName::Partial);
        }
        if let Some(timeline) = name
            .strip_suffix(".history")
            .filter(|digits| digits.len() == 8)
        {
            let number = upper_hex_u32(timeline.as_bytes()).ok_or_else(not_hex)?;
            let timeline =
                TimelineId::new(number).ok_or_else(|| WalFileNameError::TimelineZero {
                    name: excerpt(name),
                })?;
            return Ok(WalFileName::History(timeline));
        }
        let backup = name
            .strip_suffix(".backup")
            .and_then(|stem| stem.rsplit_once('.'));
        if let Some((segment, offset)) = backup
            .filter(|(segment, offset)| segment.len() == SegmentName::LEN && offset.len() == 8)
        {
            let segment = SegmentName::from_digits(segment.as_bytes(), name)?;
            let offset = upper_hex_u32(offset.as_bytes()).ok_or_else(not_hex)?;
            return Ok(WalFileName::Backup { segment, offset });
        }
        name.parse().map(WalFileName::Segment)
    }
}

serde_as_text!(WalFileName);

/// Why a name is not that of an archived file, or not in this cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalFileNameError {
    /// Length or ending fits no kind of file that PostgreSQL archives.
    #[error(
        "\"{name}\" is not the name of a WAL segment, partial segment, timeline history or backup history"
    )]
    Shape {
        /// The name (shortened if long).
        name: String,
    },
    /// The right length, but other characters than `0` to `9` and `A` to `F`.
    #[error("\"{name}\" is not a WAL file name: expected upper-case hex digits")]
    NotUpperHex {
        /// The name (shortened if long).
        name: String,
    },
    /// Timelines are counted from 1.
    #[error("\"{name}\" names timeline 0, which does not exist")]
    TimelineZero {
        /// The name (shortened if long).
        name: String,
    },
    /// The last eight digits of a segment name are too high for the segment size.
    #[error(
        "\"{name}\" cannot be a segment of {size}: its last eight digits say {low}, the highest is {}",
        .size.segments_per_log() - 1
    )]
    LowOutOfRange {
        /// The name.
        name: String,
        /// Value of the last eight digits.
        low: u32,
        /// Segment size under which it was read.
        size: WalSegmentSize,
    },
}

impl WalFileNameError {
    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            WalFileNameError::Shape { .. }
            | WalFileNameError::NotUpperHex { .. }
            | WalFileNameError::TimelineZero { .. } => Some(
                "In archive_command, %p is the path and %f the file name: pass them in this order."
                    .to_owned(),
            ),
            WalFileNameError::LowOutOfRange { .. } => {
                Some("The file comes from a cluster with another WAL segment size.".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_four_kinds_are_told_apart() {
        let segment: SegmentName = "0000000200000001000000AB".parse().unwrap();
        for (name, expected) in [
            ("0000000200000001000000AB", WalFileName::Segment(segment)),
            (
                "0000000200000001000000AB.partial",
                WalFileName::Partial(segment),
            ),
            (
                "0000000A.history",
                WalFileName::History(TimelineId::new(10).unwrap()),
            ),
            (
                "0000000200000001000000AB.00000028.backup",
                WalFileName::Backup {
                    segment,
                    offset: 0x28,
                },
            ),
        ] {
            assert_eq!(name.parse::<WalFileName>().unwrap(), expected);
            assert_eq!(expected.to_string(), name);
        }
    }

    #[test]
    fn the_timeline_is_that_of_the_first_eight_digits() {
        for name in [
            "0000000A.history",
            "0000000A00000001000000AB.partial",
            "0000000A00000001000000AB.00000028.backup",
        ] {
            assert_eq!(name.parse::<WalFileName>().unwrap().timeline().get(), 10);
        }
    }

    #[test]
    fn no_other_name_is_taken() {
        for name in [
            "",
            ".",
            "..",
            "RECOVERYXLOG",
            "RECOVERYHISTORY",
            "xlogtemp.123",
            "archive_status",
            "../0000000100000000000001",
            "000000010000000000000001/",
            "00000001000000000000000a",
            "00000001000000000000000",
            "0000000100000000000000011",
            "000000010000000000000001.PARTIAL",
            "000000010000000000000001.partial.zst",
            "000000010000000000000001.zst",
            "000000010000000000000001.0000028.backup",
            "000000010000000000000001.0000002g.backup",
            "000000010000000000000001.00000028.partial",
            "000000010000000000000001..backup",
            "0000002.history",
            "0000000a.history",
            "00000000.history",
            "000000000000000000000001",
            "00000001000000000000000\u{00e9}",
            "+0000001000000000000001\0",
        ] {
            assert!(name.parse::<WalFileName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_long_name_is_shortened_in_the_message() {
        let error = "x".repeat(1_000_000).parse::<WalFileName>().unwrap_err();
        assert!(error.to_string().len() < 300);
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_the_same(name in "[0-9A-F]{8}(\\.history|[0-9A-F]{16}(\\.partial|\\.[0-9A-F]{8}\\.backup)?)") {
            if let Ok(parsed) = name.parse::<WalFileName>() {
                prop_assert_eq!(parsed.to_string(), name);
            }
        }

        #[test]
        fn no_text_panics(name: String) {
            let _ = name.parse::<WalFileName>();
        }
    }
}
