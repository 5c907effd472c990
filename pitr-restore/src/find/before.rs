//! `--before`: a finding by its id or its LSN, and where to stop for it.

use std::fmt;
use std::str::FromStr;

use pitr_console::{Console, Explain, Failure};
use pitr_core::{Finding, FoundEvent, Lsn, Thresholds};

use super::ground::Ground;
use super::range::{Bound, SearchRange};
use super::report;
use super::search::{SearchRequest, search};
use crate::sources::Sources;

/// How findings are called: the LSN of their record in one word.
///
/// An LSN may be given in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FindingId(pub(crate) Lsn);

/// What is neither an id nor an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{found}\" is no id of a finding and no LSN")]
pub(crate) struct ParseFindingIdError {
    found: String,
}

impl Explain for ParseFindingIdError {
    fn hint(&self) -> Option<String> {
        Some("\"pitr-restore find\" lists what happened, each with its id.".to_owned())
    }
}

impl FromStr for FindingId {
    type Err = ParseFindingIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = || {
            let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = u64::from_str_radix(text, 16).ok().filter(|_| is_hex)?;
            Some(Lsn::new(number))
        };
        let lsn = text.parse().ok().or_else(bare);
        let lsn = lsn.filter(|lsn: &Lsn| lsn.is_valid());
        lsn.map(FindingId).ok_or_else(|| ParseFindingIdError {
            found: text.to_owned(),
        })
    }
}

impl fmt::Display for FindingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}", self.0.get())
    }
}

/// Where to stop to have everything as it was before something.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BeforeFinding {
    /// Stop just before the record that begins here.
    pub(crate) safe_lsn: Lsn,
    /// What happened there: findings of one transaction.
    pub(crate) findings: Vec<Finding>,
}

impl BeforeFinding {
    /// Looks up what happened at `id`.
    ///
    /// # Errors
    /// No record begins there, or the log cannot be read.
    pub(crate) fn look_up(
        ground: &mut Ground,
        sources: &Sources,
        id: FindingId,
        threads: usize,
        console: Console,
    ) -> Result<Self, Failure> {
        let lsn = id.0;
        let here = lsn..lsn.checked_add(1).unwrap_or(lsn);
        let stretches = ground.stretches(&here)?;
        if !stretches.iter().any(|stretch| stretch.contains(lsn)) {
            let message = format!(
                "LSN {lsn} is not in the archived log of timeline {}",
                ground.timeline()
            );
            let others = others(ground, lsn)?;
            return Err(Failure::new(message).with_hint(format!(
                "{others}\"pitr-restore find\" lists what happened, each with its id."
            )));
        }
        let here = Some(Bound::Lsn(lsn));
        let request = |drops_only| SearchRequest {
            range: SearchRange {
                from: here,
                until: here,
            },
            thresholds: Thresholds {
                min_rows: 1,
                long_micros: i64::MAX,
                // whatever was committed there
                large_bytes: 0,
                drops_only,
                xid: None,
            },
            quiet_micros: i64::MAX,
            threads,
        };
        // a drop first: summaries lead there
        let mut findings = search(ground, sources, &request(true), console)?.findings;
        if findings.is_empty() {
            findings = search(ground, sources, &request(false), console)?.findings;
            let is_more = |finding: &Finding| !is_mere_commit(finding);
            if findings.iter().any(is_more) {
                findings.retain(is_more);
            }
        }
        let safe_lsn = findings.iter().map(|finding| finding.safe_lsn).min();
        let Some(safe_lsn) = safe_lsn else {
            let message = format!(
                "nothing that \"pitr-restore find\" tells of happened at LSN {lsn} on timeline {}",
                ground.timeline()
            );
            let others = others(ground, lsn)?;
            return Err(Failure::new(message).with_hint(format!(
                "{others}\"pitr-restore find\" lists what happened, each with its id. \
                 --target-lsn {lsn} --exclusive recovers to just before any place."
            )));
        };
        Ok(Self { safe_lsn, findings })
    }

    /// What happened, in words.
    pub(crate) fn what(&self) -> String {
        let said = |finding: &Finding| match finding.xid {
            Some(xid) if is_mere_commit(finding) => format!("commit of transaction {xid}"),
            _ => report::what(finding),
        };
        let all: Vec<String> = self.findings.iter().map(said).collect();
        all.join("; ")
    }
}

/// On which other timelines something may have happened there.
fn others(ground: &mut Ground, lsn: Lsn) -> Result<String, Failure> {
    let others = ground.others_with(lsn)?;
    let others = others.iter().map(|timeline| {
        format!("Timeline {timeline} has a log of its own there: --target-timeline {timeline}.\n")
    });
    Ok(others.collect())
}

fn is_mere_commit(finding: &Finding) -> bool {
    matches!(finding.event, FoundEvent::LargeTransaction { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_an_lsn_in_one_word() {
        let id: FindingId = "4022C10".parse().unwrap();
        assert_eq!(id.0.to_string(), "0/4022C10");
        assert_eq!(id.to_string(), "4022C10");
        assert_eq!("0/4022c10".parse(), Ok(id));
        let high: FindingId = "1A/4022C10".parse().unwrap();
        assert_eq!(high.to_string().parse(), Ok(high));
        for wrong in ["", "0", "0/0", "x", "+4", "4022C10 ", "10000000000000000"] {
            assert!(wrong.parse::<FindingId>().is_err(), "{wrong}");
        }
    }
}
