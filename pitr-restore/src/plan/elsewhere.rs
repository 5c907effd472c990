//! A restore point or transaction that is not on the way which was searched,
//! but in another part of the archive.

use std::collections::BTreeSet;
use std::fmt;

use chrono::Utc;
use pitr_console::Failure;
use pitr_console::quoting::shell_word;
use pitr_core::{
    Lsn, RecoveryTarget, RecoveryTargetKind, RecoveryTargetTimeline, TimelineHistory, TimelineId,
    Timestamp,
};

use super::choice::{Wish, candidates};
use super::inventory::Inventory;
use super::log::{Log, LogError, RepositoryLog};
use super::names::restore_points_until;
use super::refusal::local_time;
use super::stop::{ReplayStart, find};
use super::way::Way;

/// Where in another part of the archive it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    pub(crate) timeline: TimelineId,
    pub(crate) lsn: Lsn,
    pub(crate) time: Option<Timestamp>,
    /// Options that lead there; `None` where no backup does.
    options: Option<String>,
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timeline {} has it at {}", self.timeline, self.lsn)?;
        if let Some(time) = self.time {
            write!(f, ", {}", local_time(time))?;
        }
        match &self.options {
            Some(options) => write!(f, ": {options} leads there."),
            None => write!(f, ", where no base backup leads."),
        }
    }
}

/// Looks for a restore point or transaction in all of the archive but the way
/// along `searched` from `from` on.
///
/// Asked only when it was not found there. Of each timeline its own stretch is
/// searched, and no other's: transactions by halving, names by every summary.
///
/// # Errors
/// The store failed.
pub(crate) fn look_elsewhere(
    inventory: &mut Inventory,
    searched: &TimelineHistory,
    from: Lsn,
    target: &RecoveryTargetKind,
) -> Result<Vec<Elsewhere>, Failure> {
    let mut timelines: BTreeSet<TimelineId> = inventory.timelines().clone();
    timelines.extend(inventory.backups.iter().map(|backup| backup.timeline));
    let mut found = Vec::new();
    for timeline in timelines {
        let history = inventory.history_of(timeline);
        let size = inventory.wal().size();
        let Some(first) = inventory.first_of(timeline)? else {
            continue;
        };
        // the segment of a branch has its parent's log before it
        let begin = history.begin_of(timeline).unwrap_or(Lsn::INVALID);
        let begin = begin.max(first.start(size));
        let is_on_way = |lsn: Lsn| lsn >= from && searched.contains(timeline, lsn);
        let all = Lsn::new(u64::MAX);
        let stretches = match searched.switch_point(timeline) {
            // what came after the branch, and what lies before the way
            Some(branch) => vec![(begin, from.min(branch)), (begin.max(branch), all)],
            None if timeline == searched.timeline() => vec![(begin, from)],
            None => vec![(begin, all)],
        };
        for (begin, until) in stretches {
            if begin >= until {
                continue;
            }
            let Ok(path) = history.path(timeline, begin) else {
                continue;
            };
            inventory.look_at_ends(&path)?;
            let brought = BTreeSet::new();
            let source = RepositoryLog {
                archived: inventory.log(),
                backup: None,
                brought: &brought,
            };
            let way = Way::new(&path, inventory.wal(), &brought);
            let log = Log::new(&source, way, inventory.system_identifier());
            let places = look_along(&log, begin, until, target)?.into_iter();
            let others = places.filter(|(lsn, _)| !is_on_way(*lsn));
            found.extend(others.map(|(lsn, time)| Elsewhere {
                options: options(inventory, timeline, lsn, target),
                timeline,
                lsn,
                time,
            }));
        }
    }
    Ok(found)
}

/// Where it stands from `begin` to `until`.
fn look_along(
    log: &Log<'_>,
    begin: Lsn,
    until: Lsn,
    target: &RecoveryTargetKind,
) -> Result<Vec<(Lsn, Option<Timestamp>)>, LogError> {
    let mut places = match target {
        RecoveryTargetKind::Name(name) => {
            let points = restore_points_until(log, until)?;
            let mut found = points.points.clone();
            found.retain(|point| point.name == name.as_str());
            if found.is_empty() {
                found = points.across(log)?;
                found.retain(|point| point.name == name.as_str());
            }
            let places = found.into_iter().map(|point| (point.lsn, Some(point.time)));
            places.collect()
        }
        RecoveryTargetKind::Xid(_) => {
            let start = ReplayStart {
                redo: begin,
                checkpoint: Lsn::new(u64::MAX),
                consistent_from: Lsn::INVALID,
            };
            let point = find(log, start, &RecoveryTarget::to(target.clone()))?;
            let stop = point.stop.into_iter();
            stop.map(|stop| (stop.record.lsn, stop.record.kind.time()))
                .collect()
        }
        _ => Vec::new(),
    };
    places.retain(|(lsn, _)| (begin..until).contains(lsn));
    Ok(places)
}

/// What leads there, if a backup does.
fn options(
    inventory: &Inventory,
    timeline: TimelineId,
    lsn: Lsn,
    target: &RecoveryTargetKind,
) -> Option<String> {
    let to = RecoveryTarget::to(target.clone());
    let wish = Wish {
        target: &to,
        timeline: RecoveryTargetTimeline::Id(timeline),
        backup: None,
        now: Utc::now(),
    };
    let candidates = candidates(&inventory.backups, &inventory.histories, &wish).ok()?;
    let leads_there = candidates.backups().any(|backup| backup.stop_lsn <= lsn);
    let target = match target {
        RecoveryTargetKind::Name(name) => {
            let word = shell_word(name.as_str().as_bytes());
            format!("--target-name {}", String::from_utf8_lossy(&word))
        }
        RecoveryTargetKind::Xid(xid) => format!("--target-xid {xid}"),
        _ => return None,
    };
    leads_there.then(|| format!("--target-timeline {timeline} {target}"))
}
