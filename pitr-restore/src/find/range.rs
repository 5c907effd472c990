//! From where to where is searched.

use chrono::{DateTime, Utc};
use pitr_console::{Explain, ParseTimeError, PointInTime};
use pitr_core::{Finding, Lsn, SegmentName, Timestamp, WalFileName, WalSegmentSize};

/// One end of the range, as it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    Time(Timestamp),
    Lsn(Lsn),
    Segment(SegmentName),
}

/// Something that is neither a time nor a place in the log.
#[derive(Debug, thiserror::Error)]
#[error("{flag}: {source}")]
pub(crate) struct BoundError {
    flag: &'static str,
    source: ParseTimeError,
}

impl Explain for BoundError {
    fn hint(&self) -> Option<String> {
        let times = self.source.hint().unwrap_or_default();
        Some(format!(
            "{times} A place in the log is an LSN, as 0/5000028, or the name of a segment."
        ))
    }
}

impl Bound {
    /// Understands `--from` and `--until`.
    pub(crate) fn parse(
        flag: &'static str,
        text: &str,
        now: DateTime<Utc>,
    ) -> Result<Self, BoundError> {
        if let Ok(lsn) = text.parse() {
            return Ok(Self::Lsn(lsn));
        }
        if let Ok(WalFileName::Segment(segment) | WalFileName::Partial(segment)) = text.parse() {
            return Ok(Self::Segment(segment));
        }
        let time = PointInTime::parse(text, now).map_err(|source| BoundError { flag, source })?;
        Ok(Self::Time(Timestamp::from_datetime(time.utc())))
    }

    fn begin(self, size: WalSegmentSize) -> Option<Lsn> {
        match self {
            Self::Lsn(lsn) => Some(lsn),
            Self::Segment(segment) => segment.start(size).ok(),
            Self::Time(_) => None,
        }
    }

    /// First place behind it: that of an LSN is the LSN itself and what begins there.
    fn end(self, size: WalSegmentSize) -> Option<Lsn> {
        match self {
            Self::Lsn(lsn) => lsn.checked_add(1),
            Self::Segment(segment) => Some(segment.number(size).ok()?.end(size)),
            Self::Time(_) => None,
        }
    }
}

/// From where to where is searched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SearchRange {
    pub(crate) from: Option<Bound>,
    pub(crate) until: Option<Bound>,
}

impl SearchRange {
    pub(crate) fn begin_lsn(&self, size: WalSegmentSize) -> Option<Lsn> {
        self.from.and_then(|bound| bound.begin(size))
    }

    pub(crate) fn end_lsn(&self, size: WalSegmentSize) -> Option<Lsn> {
        self.until.and_then(|bound| bound.end(size))
    }

    pub(crate) fn begin_time(&self) -> Option<Timestamp> {
        match self.from {
            Some(Bound::Time(time)) => Some(time),
            _ => None,
        }
    }

    pub(crate) fn end_time(&self) -> Option<Timestamp> {
        match self.until {
            Some(Bound::Time(time)) => Some(time),
            _ => None,
        }
    }

    /// Whether a finding lies in it; both ends belong to it.
    pub(crate) fn contains(&self, finding: &Finding, size: WalSegmentSize) -> bool {
        let after_begin = self
            .begin_lsn(size)
            .is_none_or(|begin| begin <= finding.lsn);
        let before_end = self.end_lsn(size).is_none_or(|end| finding.lsn < end);
        let in_time = finding.time.is_none_or(|time| {
            self.begin_time().is_none_or(|begin| begin <= time)
                && self.end_time().is_none_or(|end| time <= end)
        });
        after_begin && before_end && in_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_places_and_segments_are_told_apart() {
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        let parse = |text| Bound::parse("--from", text, now);
        assert!(matches!(parse("0/5000028").unwrap(), Bound::Lsn(_)));
        assert!(matches!(
            parse("000000010000000000000005").unwrap(),
            Bound::Segment(_)
        ));
        assert!(matches!(parse("1 hour ago").unwrap(), Bound::Time(_)));
        let error = parse("soon").unwrap_err();
        assert!(error.to_string().starts_with("--from: "), "{error}");
        assert!(error.hint().unwrap().contains("0/5000028"));
        let size = WalSegmentSize::DEFAULT;
        let segment = parse("000000010000000000000005").unwrap();
        assert_eq!(segment.begin(size).unwrap().to_string(), "0/5000000");
        assert_eq!(segment.end(size).unwrap().to_string(), "0/6000000");
    }
}
