//! The record at which recovery will stop, found by summaries and proven by
//! records.

use pitr_core::{
    EndedTransaction, Lsn, Record, RecoveryStop, RecoveryStops, RecoveryTarget, RecoveryTargetKind,
    TransactionId,
};

use super::log::{Log, LogError, ReadEnd};
use super::search::{first_given_out, first_past, has_ended};

/// Segments in which the nearest commit before or after a stop is looked for.
const COMMIT_WITHIN: u64 = 16;
/// Segments that one record can fill: one of 1 GiB, in segments of 1 MiB,
/// would be more, and is looked for no further.
const LONGEST_RECORD: u64 = 64;
/// Segments read for a transaction whose end may lie across two of them.
const ACROSS_LIMIT: u64 = 64;

/// Where recovery of a backup begins, and from where on the cluster is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplayStart {
    /// Redo position.
    pub(crate) redo: Lsn,
    /// The checkpoint that replay starts with.
    pub(crate) checkpoint: Lsn,
    /// Everything before this must be replayed.
    pub(crate) consistent_from: Lsn,
}

impl ReplayStart {
    /// Whether the server replays a record, and so looks for its target there.
    ///
    /// Source: `PerformWalRecovery`, src/backend/access/transam/xlogrecovery.c.
    fn replays(&self, record: &Record<'_>) -> bool {
        if self.redo < self.checkpoint {
            record.lsn() >= self.redo
        } else {
            record.lsn() > self.checkpoint
        }
    }
}

/// What recovery to a target does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StopPoint {
    /// Where it stops; `None` where the log ends before.
    pub(crate) stop: Option<RecoveryStop>,
    /// The last transaction whose commit is replayed, where it is near.
    pub(crate) last_kept: Option<EndedTransaction>,
    /// The first transaction whose commit is not replayed, where it is near.
    pub(crate) first_lost: Option<EndedTransaction>,
    /// End of the last record that was seen, where there is no stop.
    pub(crate) end_of_log: Lsn,
    /// Why the log ends there.
    pub(crate) end: ReadEnd,
}

/// Finds where recovery to `target` stops.
///
/// # Errors
/// The store failed.
pub(crate) fn find(
    log: &Log<'_>,
    start: ReplayStart,
    target: &RecoveryTarget,
) -> Result<StopPoint, LogError> {
    let from = match &target.kind {
        RecoveryTargetKind::Latest => log.way().len().saturating_sub(1),
        RecoveryTargetKind::Immediate => log.way().index_of(start.consistent_from),
        RecoveryTargetKind::Lsn(lsn) => log.way().index_of(*lsn),
        RecoveryTargetKind::Time(time) => first_past(log, *time, target.inclusive)?,
        RecoveryTargetKind::Xid(xid) => match segment_of(log, *xid)? {
            Some(index) => index,
            None => log.way().len(),
        },
        // its place is known before
        RecoveryTargetKind::Name(_) => 0,
    };
    from_segment(log, start, target, from)
}

/// The same, where the record is known to end in the segment `from` or later.
pub(crate) fn from_segment(
    log: &Log<'_>,
    start: ReplayStart,
    target: &RecoveryTarget,
    from: u64,
) -> Result<StopPoint, LogError> {
    // one across the last two segments is in no summary
    let from = from.min(log.way().len().saturating_sub(1));
    let begin = beginning_before(log, from)?;
    let mut stops = RecoveryStops::new(target, start.consistent_from);
    let mut stopped_in = None;
    let end = log.records(begin, &mut |index, record| {
        if !start.replays(record) {
            return true;
        }
        stops.pass(record);
        if stops.stop().is_none() {
            return true;
        }
        let stopped_in = *stopped_in.get_or_insert(index);
        // what follows in the same segment is read anyway
        stops.first_lost().is_none() && index == stopped_in
    })?;
    // a server gets no segment whose object is damaged, whatever is in it
    let is_served = !matches!(end, ReadEnd::Damaged { lsn: None, .. });
    let mut found = StopPoint {
        stop: stops.stop().filter(|_| is_served).cloned(),
        last_kept: stops.last_kept(),
        first_lost: stops.first_lost(),
        end_of_log: stops.end_of_replay(),
        end,
    };
    let Some(stop) = &found.stop else {
        if found.last_kept.is_none() {
            found.last_kept = commit_before(log, start, begin, found.end_of_log)?;
        }
        return Ok(found);
    };
    if found.first_lost.is_none() {
        let read_to = if stop.replayed {
            stop.end_of_replay
        } else {
            stop.record.lsn
        };
        found.first_lost = commit_after(log, stopped_in.unwrap_or(begin), read_to)?;
    }
    if found.last_kept.is_none() {
        found.last_kept = commit_before(log, start, begin, stop.record.lsn)?;
    }
    Ok(found)
}

/// The segment before, and further back where no record begins in that: what
/// ends in a segment may have begun there, and the end of a record is where
/// the one before it ended.
fn beginning_before(log: &Log<'_>, index: u64) -> Result<u64, LogError> {
    let mut begin = index.saturating_sub(1);
    for _ in 0..LONGEST_RECORD {
        let begins_nothing = log
            .summary(begin)?
            .is_some_and(|summary| summary.first_record.is_none());
        if begin == 0 || !begins_nothing {
            break;
        }
        begin -= 1;
    }
    Ok(begin)
}

/// The first commit from `lsn` on, in the segments after `from`.
fn commit_after(log: &Log<'_>, from: u64, lsn: Lsn) -> Result<Option<EndedTransaction>, LogError> {
    let target = RecoveryTarget {
        kind: RecoveryTargetKind::Lsn(lsn),
        inclusive: false,
    };
    let until = from.saturating_add(COMMIT_WITHIN).min(log.way().len());
    for index in from..until {
        if log
            .summary(index)?
            .is_none_or(|summary| summary.commits == 0)
        {
            continue;
        }
        let mut stops = RecoveryStops::new(&target, Lsn::INVALID);
        log.records(index.saturating_sub(1).max(from), &mut |at, record| {
            stops.pass(record);
            stops.first_lost().is_none() && at <= index
        })?;
        if stops.first_lost().is_some() {
            return Ok(stops.first_lost());
        }
    }
    Ok(None)
}

/// The last commit before `lsn`, in the segments before `before`.
pub(crate) fn commit_before(
    log: &Log<'_>,
    start: ReplayStart,
    before: u64,
    lsn: Lsn,
) -> Result<Option<EndedTransaction>, LogError> {
    let target = RecoveryTarget {
        kind: RecoveryTargetKind::Lsn(lsn),
        inclusive: false,
    };
    let first = before.saturating_sub(COMMIT_WITHIN);
    for index in (first..before).rev() {
        if log
            .summary(index)?
            .is_none_or(|summary| summary.commits == 0)
        {
            continue;
        }
        let mut stops = RecoveryStops::new(&target, Lsn::INVALID);
        // a commit may lie across this segment and the next
        log.records(index, &mut |at, record| {
            if start.replays(record) {
                stops.pass(record);
            }
            stops.stop().is_none() && at <= index.saturating_add(1)
        })?;
        if stops.last_kept().is_some() {
            return Ok(stops.last_kept());
        }
    }
    Ok(None)
}

/// The segment in which `xid` ends; `None` where it ends in none.
pub(crate) fn segment_of(log: &Log<'_>, xid: TransactionId) -> Result<Option<u64>, LogError> {
    let first = first_given_out(log, xid)?.saturating_sub(1);
    let mut last = first;
    for index in first..log.way().len() {
        last = index;
        let Some(summary) = log.summary(index)? else {
            continue;
        };
        let may_hold = match summary.ended_xids {
            Some(span) => span.contains(xid),
            // a summary of the first versions does not tell
            None => summary.commits + summary.aborts > 0,
        };
        if may_hold && ends_within(log, xid, index, index)? {
            return Ok(Some(index));
        }
        if has_ended(&summary, xid) {
            break;
        }
    }
    // a record across two segments is in neither summary
    let from = last.saturating_sub(ACROSS_LIMIT).max(first);
    Ok(ends_within(log, xid, from, last)?.then_some(from))
}

/// Whether `xid` ends in the segments from `from` to `last`.
fn ends_within(log: &Log<'_>, xid: TransactionId, from: u64, last: u64) -> Result<bool, LogError> {
    let target = RecoveryTarget::to(RecoveryTargetKind::Xid(xid));
    let mut stops = RecoveryStops::new(&target, Lsn::INVALID);
    log.records(from, &mut |index, record| {
        stops.pass(record);
        stops.stop().is_none() && index <= last
    })?;
    Ok(stops.stop().is_some())
}
