//! Times as a DBA types them.

use std::fmt;

use chrono::{
    DateTime, FixedOffset, Local, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone,
    Utc,
};

use crate::Explain;

/// A moment, with the zone in which the user thinks of it.
///
/// Accepted are ISO 8601 with any zone, `YYYY-MM-DD HH:MM[:SS[.ffffff]][zone]`
/// with a numeric offset or a zone name (`+02`, `+05:30`, `UTC`,
/// `Europe/Madrid`), and `"10 minutes ago"`. A time without a zone is local.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointInTime {
    moment: DateTime<FixedOffset>,
}

/// Why a text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTimeError {
    /// Not one of the forms.
    #[error("could not read \"{found}\" as a time")]
    Form {
        /// What was given.
        found: String,
    },
    /// A zone nobody knows.
    #[error("could not read \"{zone}\" in \"{found}\" as a time zone")]
    Zone {
        /// What was given.
        found: String,
        /// The part that should be a zone.
        zone: String,
    },
    /// The clock was set back over it: the time happened twice.
    #[error("\"{found}\" happened twice in that time zone: as {earlier} and as {later}")]
    Ambiguous {
        /// What was given.
        found: String,
        /// The first of the two.
        earlier: String,
        /// The second.
        later: String,
    },
    /// The clock was set forward over it: the time never happened.
    #[error("\"{found}\" never happened in that time zone: the clock was set forward over it")]
    Skipped {
        /// What was given.
        found: String,
    },
}

impl Explain for ParseTimeError {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Form { .. } | Self::Zone { .. } => {
                    "Give it as \"2026-11-20 14:30:00+01\", \"2026-11-20T13:30:00Z\", \
                     \"2026-11-20 14:30:00 Europe/Madrid\" or \"10 minutes ago\"."
                }
                Self::Ambiguous { .. } | Self::Skipped { .. } => {
                    "Give the offset from UTC with the time, as in \"2026-10-25 02:30:00+01\"."
                }
            }
            .to_owned(),
        )
    }
}

impl PointInTime {
    /// Reads a time; `now` is what "ago" counts from.
    ///
    /// # Errors
    /// See [`ParseTimeError`]; a local time that is ambiguous is refused
    /// rather than guessed.
    pub fn parse(text: &str, now: DateTime<Utc>) -> Result<Self, ParseTimeError> {
        let form = || ParseTimeError::Form {
            found: text.to_owned(),
        };
        let trimmed = text.trim();
        // not the end of America/Chicago
        let amount = trimmed
            .strip_suffix("ago")
            .filter(|amount| amount.ends_with(char::is_whitespace));
        if let Some(amount) = amount {
            let moment = now
                .checked_sub_signed(duration(amount.trim()).ok_or_else(form)?)
                .ok_or_else(form)?;
            let local = moment.with_timezone(&Local);
            return Ok(Self {
                moment: local.with_timezone(&local.offset().fix()),
            });
        }
        let (date, rest) = split_date(trimmed).ok_or_else(form)?;
        let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").map_err(|_| form())?;
        let (clock, zone) = split_clock(rest);
        let clock = if clock.is_empty() {
            NaiveTime::MIN
        } else {
            parse_clock(clock).ok_or_else(form)?
        };
        let local = NaiveDateTime::new(date, clock);
        let zone = zone.trim();
        if zone.is_empty() {
            return Self::in_zone(&Local, local, text);
        }
        if let Some(offset) = parse_offset(zone) {
            return Self::in_zone(&offset, local, text);
        }
        let named: chrono_tz::Tz = zone.parse().map_err(|_| ParseTimeError::Zone {
            found: text.to_owned(),
            zone: zone.to_owned(),
        })?;
        Self::in_zone(&named, local, text)
    }

    fn in_zone<Z: TimeZone>(
        zone: &Z,
        local: NaiveDateTime,
        text: &str,
    ) -> Result<Self, ParseTimeError> {
        let fixed = |moment: DateTime<Z>| Self {
            moment: moment.with_timezone(&moment.offset().fix()),
        };
        match zone.from_local_datetime(&local) {
            chrono::LocalResult::Single(moment) => Ok(fixed(moment)),
            chrono::LocalResult::Ambiguous(earlier, later) => Err(ParseTimeError::Ambiguous {
                found: text.to_owned(),
                earlier: fixed(earlier).to_string(),
                later: fixed(later).to_string(),
            }),
            chrono::LocalResult::None => Err(ParseTimeError::Skipped {
                found: text.to_owned(),
            }),
        }
    }

    /// The moment in UTC.
    #[must_use]
    pub fn utc(&self) -> DateTime<Utc> {
        self.moment.with_timezone(&Utc)
    }

    /// A known moment in the zone of this machine.
    #[must_use]
    pub fn local(moment: DateTime<Utc>) -> Self {
        let local = moment.with_timezone(&Local);
        Self {
            moment: local.with_timezone(&local.offset().fix()),
        }
    }
}

impl fmt::Display for PointInTime {
    /// With microseconds where there are any, and always with the offset.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = if self.moment.timestamp_subsec_micros() == 0 {
            "%Y-%m-%d %H:%M:%S%:z"
        } else {
            "%Y-%m-%d %H:%M:%S%.6f%:z"
        };
        write!(f, "{}", self.moment.format(form))
    }
}

fn split_date(text: &str) -> Option<(&str, &str)> {
    let date = text.get(..10)?;
    let rest = text.get(10..)?;
    match rest.chars().next() {
        None => Some((date, "")),
        Some('T' | 't' | ' ') => Some((date, rest.get(1..)?.trim_start())),
        Some(_) => None,
    }
}

/// The leading digits, colons and point are the time of day; the rest a zone.
fn split_clock(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.'))
        .unwrap_or(text.len());
    text.split_at(end)
}

fn parse_clock(text: &str) -> Option<NaiveTime> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    // recovery targets have microseconds: what is finer cannot be kept
    if fraction.len() > 6 || (text.contains('.') && fraction.is_empty()) {
        return None;
    }
    let time = NaiveTime::parse_from_str(whole, "%H:%M:%S")
        .or_else(|_| NaiveTime::parse_from_str(whole, "%H:%M"))
        .ok()?;
    if fraction.is_empty() {
        return Some(time);
    }
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let micros: u32 = format!("{fraction:0<6}").parse().ok()?;
    chrono::Timelike::with_nanosecond(&time, micros * 1000)
}

/// `Z`, `+02`, `-0330`, `+05:30`.
fn parse_offset(text: &str) -> Option<FixedOffset> {
    if text.eq_ignore_ascii_case("z") || text.eq_ignore_ascii_case("utc") {
        return FixedOffset::east_opt(0);
    }
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let digits = digits.replacen(':', "", 1);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes): (i32, i32) = match digits.len() {
        1 | 2 => (digits.parse().ok()?, 0),
        4 => (
            digits.get(..2)?.parse().ok()?,
            digits.get(2..)?.parse().ok()?,
        ),
        _ => return None,
    };
    // PostgreSQL takes offsets up to 15:59 (MAX_TZDISP_HOUR)
    if hours > 15 || minutes > 59 {
        return None;
    }
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60))
}

/// `10 minutes`, `1 day 2 hours`.
fn duration(text: &str) -> Option<TimeDelta> {
    let mut total = TimeDelta::zero();
    let mut words = text.split_whitespace();
    let mut any = false;
    while let Some(amount) = words.next() {
        let amount: i64 = amount.parse().ok().filter(|n| *n >= 0)?;
        let one = match words.next()?.trim_end_matches('s') {
            "second" | "sec" => TimeDelta::seconds(1),
            "minute" | "min" => TimeDelta::minutes(1),
            "hour" => TimeDelta::hours(1),
            "day" => TimeDelta::days(1),
            "week" => TimeDelta::weeks(1),
            _ => return None,
        };
        let seconds = one.num_seconds().checked_mul(amount)?;
        total = total.checked_add(&TimeDelta::try_seconds(seconds)?)?;
        any = true;
    }
    any.then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::parse_from_rfc3339("2026-11-20T12:00:00Z")
            .unwrap()
            .to_utc()
    }

    fn utc(text: &str) -> String {
        PointInTime::parse(text, now())
            .unwrap()
            .utc()
            .format("%Y-%m-%dT%H:%M:%S%.6fZ")
            .to_string()
    }

    #[test]
    fn every_written_zone_is_understood() {
        for (text, expected) in [
            ("2026-11-20T07:25:00Z", "2026-11-20T07:25:00.000000Z"),
            (
                "2026-11-20 07:25:00.721052+00",
                "2026-11-20T07:25:00.721052Z",
            ),
            ("2026-11-20 08:25:00.7+01", "2026-11-20T07:25:00.700000Z"),
            ("2026-11-20 08:25:00 +01:00", "2026-11-20T07:25:00.000000Z"),
            ("2026-11-20T12:55:00+0530", "2026-11-20T07:25:00.000000Z"),
            (
                "2026-11-20 08:25 Europe/Madrid",
                "2026-11-20T07:25:00.000000Z",
            ),
            (
                "2026-11-20 01:25:00 America/Chicago",
                "2026-11-20T07:25:00.000000Z",
            ),
            ("2026-11-20 07:25:00 UTC", "2026-11-20T07:25:00.000000Z"),
            ("2026-11-19 19:25:00-12", "2026-11-20T07:25:00.000000Z"),
        ] {
            assert_eq!(utc(text), expected, "{text}");
        }
    }

    #[test]
    fn ago_counts_back_from_now() {
        assert_eq!(utc("10 minutes ago"), "2026-11-20T11:50:00.000000Z");
        assert_eq!(utc("1 day 2 hours ago"), "2026-11-19T10:00:00.000000Z");
        assert_eq!(utc("90 sec ago"), "2026-11-20T11:58:30.000000Z");
    }

    #[test]
    fn a_time_that_happened_twice_is_not_guessed() {
        let error = PointInTime::parse("2026-10-25 02:30:00 Europe/Madrid", now()).unwrap_err();
        assert!(matches!(error, ParseTimeError::Ambiguous { .. }));
        assert!(error.to_string().contains("+02:00"), "{error}");
        let error = PointInTime::parse("2026-03-29 02:30:00 Europe/Madrid", now()).unwrap_err();
        assert!(matches!(error, ParseTimeError::Skipped { .. }));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "yesterday",
            "ago",
            "-5 minutes ago",
            "99999999999999999 weeks ago",
            "2026-13-01 00:00:00",
            "2026-11-20 25:00:00",
            "2026-11-20 10:00:00.1234567Z",
            "2026-11-20 10:00:00+99",
            "2026-11-20 10:00:00 Mars/Base",
            "2026-11-20é",
            "20/11/2026",
        ] {
            assert!(PointInTime::parse(text, now()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_echoed_with_its_offset() {
        let time = PointInTime::parse("2026-11-20 08:25:00.5+01", now()).unwrap();
        assert_eq!(time.to_string(), "2026-11-20 08:25:00.500000+01:00");
        let local = PointInTime::parse("2026-11-20 08:25:00", now()).unwrap();
        assert!(local.to_string().starts_with("2026-11-20 08:25:00"));
        assert_eq!(local.to_string().len(), "2026-11-20 08:25:00+00:00".len());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = PointInTime::parse(&text, now());
        }
    }
}
