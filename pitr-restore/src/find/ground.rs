//! What is searched: the archived log along one timeline, and the backups on it.

use std::collections::BTreeSet;
use std::ops::Range;

use pitr_console::Failure;
use pitr_core::{
    Lsn, RecoveryTargetKind, RecoveryTargetTimeline, SegmentNumber, TimelineHistory, TimelineId,
    TransactionId, WalSegmentSize,
};

use super::range::SearchRange;
use super::stretch::{Stretch, path_from};
use crate::archived_log::ArchivedLog;
use crate::plan::choice::BackupFacts;
use crate::plan::elsewhere::{Elsewhere, look_elsewhere};
use crate::plan::inventory::Inventory;
use crate::plan::log::{Log, LogError, RepositoryLog};
use crate::plan::refusal::Refusal;
use crate::plan::search::{first_given_out, first_past, has_ended, is_to_come};
use crate::plan::way::Way;

/// Longest record that there can be, of which the range may hold the beginning.
///
/// Source: `XLogRecordMaxSize`, src/include/access/xlogrecord.h.
const LONGEST_RECORD_BYTES: u64 = 1 << 30;
/// Summaries that are looked at on either side for where a transaction begins
/// and ends.
const TRANSACTION_WITHIN: u64 = 4096;

/// What is searched.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) inventory: Inventory,
    pub(crate) history: TimelineHistory,
    /// Where the first archived segment along the history begins.
    begin: Lsn,
}

impl Ground {
    /// Chooses the timeline: one by its number, else that which a restore
    /// takes by itself. Lists none of its segments but the first ones.
    ///
    /// # Errors
    /// The store failed, or there is no such timeline, or nothing to search.
    pub(crate) fn survey(
        mut inventory: Inventory,
        timeline: RecoveryTargetTimeline,
    ) -> Result<Self, Failure> {
        let mut known: BTreeSet<TimelineId> = inventory.timelines().clone();
        known.extend(inventory.backups.iter().map(|backup| backup.timeline));
        let timeline = match timeline {
            RecoveryTargetTimeline::Id(timeline) if !known.contains(&timeline) => {
                let known = known.into_iter().collect();
                return Err(Refusal::UnknownTimeline { timeline, known }.into());
            }
            RecoveryTargetTimeline::Id(timeline) => timeline,
            RecoveryTargetTimeline::Latest | RecoveryTargetTimeline::Current => {
                let leads_there = |timeline: &&TimelineId| {
                    let history = inventory.history_of(**timeline);
                    let mut backups = inventory.backups.iter();
                    backups.any(|backup| is_on(&history, backup))
                };
                let reachable = known.iter().rev().find(leads_there);
                let newest = reachable.or(known.last()).copied();
                newest.ok_or_else(|| {
                    Failure::new("the repository holds no write-ahead log of this cluster")
                })?
            }
        };
        let history = inventory.history_of(timeline);
        let Some(begin) = begin_of(&mut inventory, &history)? else {
            return Err(Failure::new(format!(
                "the repository holds no write-ahead log of timeline {timeline}"
            )));
        };
        Ok(Self {
            inventory,
            history,
            begin,
        })
    }

    pub(crate) fn log(&self) -> &ArchivedLog {
        self.inventory.log()
    }

    pub(crate) fn segment_size(&self) -> WalSegmentSize {
        self.log().identity().segment_size
    }

    pub(crate) fn timeline(&self) -> TimelineId {
        self.history.timeline()
    }

    /// Base backups that lie on the way, oldest first.
    pub(crate) fn backups(&self) -> Vec<&BackupFacts> {
        let all = self.inventory.backups.iter();
        let mut backups: Vec<&BackupFacts> =
            all.filter(|backup| is_on(&self.history, backup)).collect();
        backups.sort_by_key(|backup| (backup.start_lsn, backup.label));
        backups
    }

    /// From where to where the log has to be read for a range: places are as
    /// they are given; those of times, and of a transaction, are found by
    /// halving, with the summaries of a handful of segments.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn extent(
        &mut self,
        range: &SearchRange,
        xid: Option<TransactionId>,
    ) -> Result<Range<Lsn>, Failure> {
        let size = self.segment_size();
        let everything = self.begin..Lsn::new(u64::MAX);
        let begin = match (range.begin_lsn(size), range.begin_time()) {
            (Some(lsn), _) => lsn,
            (None, Some(time)) => self.on_way_from(everything.start, |log| {
                let first = first_past(log, time, false)?;
                // a record across two segments is in neither summary
                Ok(log.way().number(first.saturating_sub(1)).start(size))
            })?,
            (None, None) => everything.start,
        };
        let end = match (range.end_lsn(size), range.end_time()) {
            (Some(lsn), _) => lsn,
            (None, Some(time)) => self.on_way_from(everything.start, |log| {
                let first = first_past(log, time, true)?;
                Ok(log.way().number(first.saturating_add(1)).end(size))
            })?,
            (None, None) => everything.end,
        };
        let Some(xid) = xid else {
            return Ok(begin..end);
        };
        let of_transaction = self.on_way_from(begin, |log| of_transaction(log, xid))?;
        Ok(begin.max(of_transaction.start)..end.min(of_transaction.end))
    }

    /// What `look` finds in the log from `begin` on.
    fn on_way_from<T>(
        &mut self,
        begin: Lsn,
        look: impl FnOnce(&Log<'_>) -> Result<T, LogError>,
    ) -> Result<T, Failure> {
        let begin = begin.max(self.begin);
        let path = self.history.path(self.history.owner(begin), begin);
        let path = path.map_err(|error| Failure::from_error(&error))?;
        self.inventory.look_at_ends(&path)?;
        let brought = BTreeSet::new();
        let source = RepositoryLog {
            archived: self.inventory.log(),
            backup: None,
            brought: &brought,
        };
        let way = Way::new(&path, self.inventory.wal(), &brought);
        Ok(look(&Log::new(
            &source,
            way,
            self.inventory.system_identifier(),
        ))?)
    }

    /// Where on other timelines a transaction of this number ends.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn elsewhere(&mut self, xid: TransactionId) -> Result<Vec<Elsewhere>, Failure> {
        let kind = RecoveryTargetKind::Xid(xid);
        look_elsewhere(&mut self.inventory, &self.history, self.begin, &kind)
    }

    /// Other timelines that have this place of the log as their own.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn others_with(&mut self, lsn: Lsn) -> Result<Vec<TimelineId>, Failure> {
        let size = self.segment_size();
        let number = SegmentNumber::containing(lsn, size);
        let mut others = Vec::new();
        for timeline in self.inventory.timelines().clone() {
            let history = self.inventory.history_of(timeline);
            if self.history.contains(timeline, lsn) || !history.contains(timeline, lsn) {
                continue;
            }
            self.inventory.look_between(timeline, lsn, lsn)?;
            let wal = self.inventory.wal();
            let mut whole = wal.segments(timeline, number..=number);
            let mut partial = wal.partials(timeline, number..=number);
            if whole.next().is_some() || partial.next().is_some() {
                others.push(timeline);
            }
        }
        Ok(others)
    }

    /// What there is of the log in `extent`, and before it from the base backup
    /// on by which names are known; divided where segments are missing. No
    /// other folder of the archive is listed.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn stretches(&mut self, extent: &Range<Lsn>) -> Result<Vec<Stretch>, Failure> {
        let backups = self.backups();
        let base = backups
            .iter()
            .rfind(|backup| backup.start_lsn <= extent.start);
        let start = base.map_or(extent.start, |base| base.start_lsn);
        let end = extent.end.checked_add(LONGEST_RECORD_BYTES);
        let listed = start..end.unwrap_or(Lsn::new(u64::MAX));
        Ok(Stretch::along(&mut self.inventory, &self.history, &listed)?)
    }
}

/// Where the first archived segment along a history begins.
fn begin_of(inventory: &mut Inventory, history: &TimelineHistory) -> Result<Option<Lsn>, Failure> {
    let size = inventory.wal().size();
    let on_history = history.entries().iter().map(|entry| entry.parent);
    for timeline in on_history.chain([history.timeline()]) {
        let Some(first) = inventory.first_of(timeline)? else {
            continue;
        };
        let end = history.switch_point(timeline);
        if end.is_none_or(|end| first <= SegmentNumber::last_before(end, size)) {
            return Ok(Some(first.start(size)));
        }
    }
    Ok(None)
}

/// The segments that a transaction may have written in: from the last account
/// by which its number was still to come, to the first by which it had ended.
fn of_transaction(log: &Log<'_>, xid: TransactionId) -> Result<Range<Lsn>, LogError> {
    let (way, size) = (log.way(), log.way().size());
    let given_out = first_given_out(log, xid)?;
    let mut first = given_out;
    let earliest = given_out.saturating_sub(TRANSACTION_WITHIN);
    while first > 0 {
        if first == earliest {
            // nothing tells: from the beginning
            first = 0;
            break;
        }
        first -= 1;
        if log
            .summary(first)?
            .is_some_and(|summary| is_to_come(&summary, xid))
        {
            break;
        }
    }
    let latest = given_out.saturating_add(TRANSACTION_WITHIN).min(way.len());
    let mut last = None;
    for index in given_out..latest {
        if log
            .summary(index)?
            .is_some_and(|summary| has_ended(&summary, xid))
        {
            // its end may lie across this segment and the next
            last = Some(index.saturating_add(1));
            break;
        }
    }
    let end = last.map_or(Lsn::new(u64::MAX), |last| way.number(last).end(size));
    Ok(way.number(first).start(size)..end)
}

fn is_on(history: &TimelineHistory, backup: &BackupFacts) -> bool {
    path_from(history, backup.timeline, backup.start_lsn).is_some()
}
