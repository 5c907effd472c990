//! Names of base backups.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Duration, NaiveDateTime, SubsecRound, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

const SHAPE: &str = "%Y%m%dT%H%M%SZ";

/// Name of a base backup: the UTC second in which it was begun, `20261120T074502Z`.
///
/// Where that second is taken, the next free one. Sorting by name sorts by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(DateTime<Utc>);

/// A text that is no [`Label`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no label of a base backup (20261120T074502Z)")]
pub struct ParseLabelError {
    /// The text.
    pub text: String,
}

impl Label {
    /// The label of `time`, cut to the second. `None` outside the years 1000 to 9999.
    #[must_use]
    pub fn new(time: DateTime<Utc>) -> Option<Self> {
        let label = Self(time.trunc_subsecs(0));
        (label.to_string().parse() == Ok(label)).then_some(label)
    }

    /// The second that it stands for.
    #[must_use]
    pub fn time(&self) -> DateTime<Utc> {
        self.0
    }

    /// The label of the next second.
    pub(super) fn next(self) -> Option<Self> {
        Self::new(self.0.checked_add_signed(Duration::seconds(1))?)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format(SHAPE))
    }
}

impl FromStr for Label {
    type Err = ParseLabelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseLabelError {
            text: text.to_owned(),
        };
        let time = NaiveDateTime::parse_from_str(text, SHAPE).map_err(|_| error())?;
        let label = Self(time.and_utc());
        // chrono takes second 60 as a leap second
        let leap = time.and_utc().timestamp_subsec_nanos() != 0;
        if leap || text.len() != 16 || label.to_string() != text || text.starts_with('0') {
            return Err(error());
        }
        Ok(label)
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_reads_back_and_no_other_spelling_does() {
        let label: Label = "20261120T074502Z".parse().unwrap();
        assert_eq!(label.to_string(), "20261120T074502Z");
        assert_eq!(label.next().unwrap().to_string(), "20261120T074503Z");
        let leap: Label = "20241231T235959Z".parse().unwrap();
        assert_eq!(leap.next().unwrap().to_string(), "20250101T000000Z");
        for text in [
            "",
            "20261120T074502",
            "20261120T074560Z",
            "20261320T074502Z",
            "+20261120T07450Z",
            "2026112T0745020Z",
            "..",
            "20261120t074502z",
            "20261120T074502Z ",
        ] {
            assert!(text.parse::<Label>().is_err(), "{text:?}");
        }
    }
}
