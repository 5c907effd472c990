//! `pitr-restore find`: what happened, when, and how to get back to just
//! before it. Nothing but the repository is needed.

pub(crate) mod before;
mod catalog_files;
mod digests;
pub(crate) mod ground;
mod range;
pub(crate) mod reach;
mod report;
pub(crate) mod search;
mod stretch;
mod summaries;

use chrono::Utc;
use pitr_console::{Console, Exit, Explain, Failure};
use pitr_core::{
    Finding, FoundEvent, ParseRecoveryTargetTimelineError, ParseSystemIdentifierError,
    ParseTransactionIdError, RecoveryTargetTimeline, SystemIdentifier, Thresholds, TransactionId,
};

use crate::arguments::{Arguments, FindArguments};
use crate::sources::Sources;
use ground::Ground;
use range::{Bound, BoundError, SearchRange};
use reach::Reaches;
use report::{FindReport, TimedFinding};
use search::{SearchRequest, search};

const MICROS: i64 = 1_000_000;

/// A word of the command line that means nothing.
#[derive(Debug, thiserror::Error)]
enum FindUsageError {
    #[error(transparent)]
    Bound(#[from] BoundError),
    #[error("--timeline: {0}")]
    Timeline(ParseRecoveryTargetTimelineError),
    #[error("--xid: {0}")]
    Xid(ParseTransactionIdError),
    #[error("--system-identifier: {0}")]
    SystemIdentifier(ParseSystemIdentifierError),
    #[error("--{0} is longer than the log can tell")]
    TooLong(&'static str),
}

impl Explain for FindUsageError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Bound(error) => error.hint(),
            _ => None,
        }
    }
}

/// What is asked for, understood.
struct FindRequest {
    system_identifier: Option<SystemIdentifier>,
    timeline: RecoveryTargetTimeline,
    search: SearchRequest,
}

/// Finds and reports.
pub(crate) fn run(arguments: &Arguments, find: &FindArguments, console: Console) -> Exit {
    let request = match resolve(arguments, find) {
        Ok(request) => request,
        Err(error) => {
            console.fail(&error.into());
            return Exit::WrongUsage;
        }
    };
    match carry_out(arguments, find, request, console) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            console.fail(&failure);
            Exit::Failed
        }
    }
}

fn resolve(arguments: &Arguments, find: &FindArguments) -> Result<FindRequest, FindUsageError> {
    let now = Utc::now();
    let bound = |flag, text: &Option<String>| {
        text.as_deref()
            .map(|text| Bound::parse(flag, text, now))
            .transpose()
    };
    let xid: Option<TransactionId> = find
        .xid
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(FindUsageError::Xid)?;
    let micros = |flag, seconds: u64| {
        i64::try_from(seconds)
            .ok()
            .and_then(|seconds| seconds.checked_mul(MICROS))
            .ok_or(FindUsageError::TooLong(flag))
    };
    Ok(FindRequest {
        system_identifier: arguments
            .system_identifier()
            .map_err(FindUsageError::SystemIdentifier)?,
        timeline: find
            .timeline
            .as_deref()
            .map_or(Ok(RecoveryTargetTimeline::Latest), str::parse)
            .map_err(FindUsageError::Timeline)?,
        search: SearchRequest {
            range: SearchRange {
                from: bound("--from", &find.from)?,
                until: bound("--until", &find.until)?,
            },
            thresholds: Thresholds {
                // of one transaction everything is told
                min_rows: find
                    .min_rows
                    .unwrap_or(if xid.is_some() { 1 } else { 1000 }),
                long_micros: micros("long", find.long)?,
                large_bytes: find.large.saturating_mul(1 << 20),
                drops_only: find.dropped,
                xid: xid.map(TransactionId::get),
            },
            quiet_micros: micros("quiet", find.quiet)?,
            threads: 0,
        },
    })
}

fn carry_out(
    arguments: &Arguments,
    find: &FindArguments,
    mut request: FindRequest,
    console: Console,
) -> Result<(), Failure> {
    let settings = arguments.settings()?;
    let mut sources = Sources::open(&settings, request.system_identifier, console)?;
    request.search.threads = settings.threads;
    let inventory = sources.inventory(console)?;
    let mut ground = Ground::survey(inventory, request.timeline)?;
    let mut searched = search(&mut ground, &sources, &request.search, console)?;
    searched
        .findings
        .retain(|finding| is_asked_for(finding, find, &request));
    let mut reaches = Reaches::new(&mut ground, &sources, console);
    // what holds for the last one holds for those before it
    let mut findings = Vec::with_capacity(searched.findings.len());
    for finding in searched.findings.drain(..).rev() {
        let reach = reaches.to(finding.safe_lsn)?;
        findings.push(TimedFinding { finding, reach });
    }
    findings.reverse();
    let elsewhere = match request.search.thresholds.xid.and_then(TransactionId::new) {
        Some(xid) if findings.is_empty() => ground.elsewhere(xid)?,
        _ => Vec::new(),
    };
    let report = FindReport {
        elsewhere: &elsewhere,
        ground: &ground,
        sources: &sources,
        searched: &searched,
        findings: &findings,
        arguments,
        timeline_named: find.timeline.as_deref(),
    };
    let text = if find.json {
        serde_json::to_string_pretty(&report.json())
            .map_err(|error| Failure::new(format!("could not write the result: {error}")))?
    } else {
        report.text()
    };
    for missing in &searched.gaps {
        console.warn(
            format!("segment {missing} is not in the repository, and maybe more behind it"),
            Some("What happened there is not known, and names may have changed."),
            None,
        );
    }
    console
        .result(text)
        .map_err(|error| Failure::new(format!("could not write the result: {error}")))
}

/// Whether `--table` and `--xid` let it pass.
fn is_asked_for(finding: &Finding, find: &FindArguments, request: &FindRequest) -> bool {
    let is_of_table = find.table.as_deref().is_none_or(|table| {
        let objects = finding.event.objects();
        objects.iter().any(|object| object.is_called(table))
    });
    let is_of_transaction = match request.search.thresholds.xid {
        None => true,
        Some(xid) => {
            finding.xid == Some(xid) || matches!(finding.event, FoundEvent::Transaction(_))
        }
    };
    is_of_table && is_of_transaction
}
