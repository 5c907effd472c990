//! The number of a timeline.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text::{canonical_decimal_u64, excerpt, upper_hex_u32};

/// The number of a timeline: 1 for a cluster as `initdb` made it, one more for each recovery that ended in a new history.
///
/// Never zero. Decimal in messages, settings and JSON; eight upper-case hex
/// digits in file names ([`TimelineId::hex`]).
///
/// Source: `TimeLineID`, src/include/access/xlogdefs.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// Timeline 1, the only one without a history file.
    pub const FIRST: TimelineId = TimelineId(NonZeroU32::MIN);

    /// The timeline of this number; `None` for zero.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(TimelineId(number)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The timeline of the next higher number; `None` after the last.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(number) => Some(TimelineId(number)),
            None => None,
        }
    }

    /// The form used in file names: eight upper-case hex digits.
    pub fn hex(self) -> impl fmt::Display + fmt::Debug + Copy {
        TimelineHex(self)
    }

    /// Reads the form used in file names: exactly eight upper-case hex digits, not all zero.
    pub fn from_hex(digits: &str) -> Option<Self> {
        upper_hex_u32(digits.as_bytes()).and_then(TimelineId::new)
    }
}

#[derive(Debug, Clone, Copy)]
struct TimelineHex(TimelineId);

impl fmt::Display for TimelineHex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}", self.0.get())
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for TimelineId {
    type Err = ParseTimelineIdError;

    /// Reads a decimal number from 1 to 4294967295.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        canonical_decimal_u64(text)
            .and_then(|number| u32::try_from(number).ok())
            .and_then(TimelineId::new)
            .ok_or_else(|| ParseTimelineIdError {
                text: excerpt(text),
            })
    }
}

/// Text that is not the number of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a timeline: expected a decimal number from 1 to 4294967295")]
pub struct ParseTimelineIdError {
    /// What stood there (shortened if long).
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_timeline() {
        assert_eq!(TimelineId::new(0), None);
        assert_eq!(TimelineId::from_hex("00000000"), None);
        assert!("0".parse::<TimelineId>().is_err());
        assert!(serde_json::from_str::<TimelineId>("0").is_err());
    }

    #[test]
    fn decimal_in_messages_and_hex_in_names() {
        let timeline = TimelineId::new(26).unwrap();
        assert_eq!(timeline.to_string(), "26");
        assert_eq!(timeline.hex().to_string(), "0000001A");
        assert_eq!(TimelineId::from_hex("0000001A"), Some(timeline));
        assert_eq!("26".parse::<TimelineId>().unwrap(), timeline);
        assert_eq!(serde_json::to_string(&timeline).unwrap(), "26");
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "+1",
            "01",
            " 1",
            "1A",
            "4294967296",
            "99999999999999999999",
            "-1",
        ] {
            assert!(text.parse::<TimelineId>().is_err(), "{text:?}");
        }
        for digits in ["0000001a", "1A", "000000001", "0000001G"] {
            assert_eq!(TimelineId::from_hex(digits), None, "{digits:?}");
        }
    }

    #[test]
    fn the_last_timeline_has_no_next() {
        assert_eq!(TimelineId::FIRST.next(), TimelineId::new(2));
        assert_eq!(TimelineId::new(u32::MAX).unwrap().next(), None);
    }
}
