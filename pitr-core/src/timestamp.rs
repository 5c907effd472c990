//! Moments as PostgreSQL counts them.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDateTime, Utc};

use crate::text::{excerpt, serde_as_text};

/// 2000-01-01 00:00:00 UTC in microseconds since 1970.
const POSTGRES_EPOCH_UNIX_MICROS: i64 = 946_684_800_000_000;

/// A moment in microseconds since 2000-01-01 00:00:00 UTC.
///
/// Prints as PostgreSQL reads it in any setting of `DateStyle` and
/// `TimeZone`: `2026-11-20 07:25:00.721052+00`, always six decimals and a
/// numeric offset; years before 1 with ` BC` at the end. Values outside the
/// years that a calendar here covers (about 262,000 either way) print as `@`
/// and their microseconds, so that every value has a text and reads back. In
/// JSON it is that text.
///
/// Source: `TimestampTz`, src/include/datatype/timestamp.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment `micros` microseconds after 2000-01-01 00:00:00 UTC.
    pub const fn new(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// Microseconds since 2000-01-01 00:00:00 UTC.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The moment `seconds` seconds after 1970-01-01 00:00:00 UTC, as `pg_control` counts (`pg_time_t`).
    ///
    /// `None` if that is too far from 2000 for microseconds.
    pub const fn from_unix_seconds(seconds: i64) -> Option<Self> {
        let Some(micros) = seconds.checked_mul(1_000_000) else {
            return None;
        };
        match micros.checked_sub(POSTGRES_EPOCH_UNIX_MICROS) {
            Some(micros) => Some(Timestamp(micros)),
            None => None,
        }
    }

    /// The moment as chrono has it; `None` outside chrono's calendar (years -262143 to 262142).
    pub fn to_datetime(self) -> Option<DateTime<Utc>> {
        let unix_micros = self.0.checked_add(POSTGRES_EPOCH_UNIX_MICROS)?;
        DateTime::from_timestamp_micros(unix_micros)
    }

    /// The moment that chrono calls `datetime`, cut to whole microseconds.
    pub fn from_datetime(datetime: DateTime<Utc>) -> Self {
        // chrono's calendar is narrower than i64 microseconds around 2000: nothing is cut off here
        Timestamp(
            datetime
                .timestamp_micros()
                .saturating_sub(POSTGRES_EPOCH_UNIX_MICROS),
        )
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(datetime: DateTime<Utc>) -> Self {
        Timestamp::from_datetime(datetime)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(datetime) = self.to_datetime() else {
            return f.pad(&format!("@{}", self.0));
        };
        let (year, era) = match datetime.year() {
            year if year < 1 => (1 - i64::from(year), " BC"),
            year => (i64::from(year), ""),
        };
        f.pad(&format!(
            "{year:04}-{}+00{era}",
            datetime.format("%m-%d %H:%M:%S%.6f")
        ))
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// Reads what [`Display`](fmt::Display) prints, and RFC 3339.
    ///
    /// A zone is required; nothing here knows which one was meant otherwise.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseTimestampError {
            text: excerpt(text),
        })
    }
}

fn parse(text: &str) -> Option<Timestamp> {
    if let Some(micros) = text.strip_prefix('@') {
        return micros.parse().ok().map(Timestamp);
    }
    if let Ok(datetime) = DateTime::parse_from_rfc3339(text) {
        return Some(Timestamp::from_datetime(datetime.with_timezone(&Utc)));
    }
    let (text, before_christ) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let text = text.strip_suffix("+00")?;
    let (year, rest) = text.split_once('-')?;
    let year: i32 = if year.bytes().all(|byte| byte.is_ascii_digit()) {
        year.parse().ok()?
    } else {
        return None;
    };
    let year = if before_christ {
        1i32.checked_sub(year)?
    } else {
        year
    };
    // chrono asks for a sign where a year has more than four digits
    let naive =
        NaiveDateTime::parse_from_str(&format!("{year:+}-{rest}"), "%Y-%m-%d %H:%M:%S%.f").ok()?;
    Some(Timestamp::from_datetime(naive.and_utc()))
}

serde_as_text!(Timestamp);

/// Text that is not a moment with a zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\" is not a time with a zone: expected the form 2026-11-20 07:25:00.721052+00 or 2026-11-20T07:25:00Z"
)]
pub struct ParseTimestampError {
    /// What stood there (shortened if long).
    pub text: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_golden_commit_time_reads_as_the_server_prints_it() {
        let time = Timestamp::new(0x0003_03AE_E923_2B9C);
        assert_eq!(time.to_string(), "2026-11-20 07:25:00.721052+00");
        assert_eq!(
            "2026-11-20 07:25:00.721052+00"
                .parse::<Timestamp>()
                .unwrap(),
            time
        );
        assert_eq!(
            "2026-11-20T08:25:00.721052+01:00"
                .parse::<Timestamp>()
                .unwrap(),
            time
        );
        assert_eq!(time.to_datetime().map(Timestamp::from_datetime), Some(time));
    }

    #[test]
    fn whole_seconds_still_show_six_decimals() {
        assert_eq!(
            Timestamp::new(0).to_string(),
            "2000-01-01 00:00:00.000000+00"
        );
        assert_eq!(
            Timestamp::new(-1).to_string(),
            "1999-12-31 23:59:59.999999+00"
        );
    }

    #[test]
    fn no_moment_is_without_a_text_that_reads_back() {
        for micros in [
            i64::MIN,
            i64::MAX,
            i64::MAX - 1,
            8_000_000_000_000_000_000,
            9_100_000_000_000_000_000,
            -211_813_488_000_000_000,
        ] {
            let time = Timestamp::new(micros);
            assert_eq!(
                time.to_string().parse::<Timestamp>().unwrap(),
                time,
                "{time}"
            );
        }
        assert_eq!(Timestamp::new(i64::MAX).to_string(), "@9223372036854775807");
        assert_eq!(
            Timestamp::new(-211_813_488_000_000_000).to_string(),
            "4714-11-24 00:00:00.000000+00 BC"
        );
    }

    #[test]
    fn unix_seconds_of_pg_control_are_converted() {
        assert_eq!(
            Timestamp::from_unix_seconds(946_684_800),
            Some(Timestamp::new(0))
        );
        assert_eq!(Timestamp::from_unix_seconds(i64::MAX), None);
        assert_eq!(Timestamp::from_unix_seconds(i64::MIN), None);
    }

    #[test]
    fn a_time_without_a_zone_is_refused() {
        for text in [
            "",
            "2026-11-20 07:25:00",
            "2026-11-20",
            "2026-11-20 07:25:00+01",
            "now",
            "@",
            "@x",
            "2026-13-01 00:00:00+00",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(micros: i64) {
            let time = Timestamp::new(micros);
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<Timestamp>();
        }
    }
}
