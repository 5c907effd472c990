//! Which timeline to follow, and which backup to start from.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use pitr_core::{
    Lsn, PathError, RecoveryTarget, RecoveryTargetKind, RecoveryTargetTimeline, TimelineHistory,
    TimelineId, TimelinePath, Timestamp,
};
use pitr_store::backup::Label;

use super::refusal::Refusal;

/// How far the clocks of two machines may differ before a target time counts
/// as one that has not come yet.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// What choosing needs to know of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackupFacts {
    pub(crate) label: Label,
    /// Timeline on which it starts.
    pub(crate) timeline: TimelineId,
    /// Timeline on which it ends: another one only where a standby went over
    /// to a new timeline meanwhile.
    pub(crate) end_timeline: TimelineId,
    pub(crate) start_lsn: Lsn,
    pub(crate) stop_lsn: Lsn,
    pub(crate) start_time: DateTime<Utc>,
    pub(crate) stop_time: DateTime<Utc>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wish<'a> {
    pub(crate) target: &'a RecoveryTarget,
    pub(crate) timeline: RecoveryTargetTimeline,
    pub(crate) backup: Option<Label>,
    pub(crate) now: DateTime<Utc>,
}

/// A backup, and the way from it along a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) backup: BackupFacts,
    pub(crate) timeline: TimelineId,
    /// Whether the timeline's history file is in the repository (timeline 1
    /// needs none). The server refuses a timeline by number without it.
    pub(crate) has_history: bool,
    pub(crate) path: TimelinePath,
    /// The latest end of any backup on this timeline's path.
    pub(crate) newest_known_time: DateTime<Utc>,
}

/// Chooses among `backups`, with the histories that the repository holds.
///
/// # Errors
/// Why no backup leads to the target.
pub(crate) fn choose(
    backups: &[BackupFacts],
    histories: &BTreeMap<TimelineId, TimelineHistory>,
    wish: &Wish<'_>,
) -> Result<Choice, Refusal> {
    if let Some(label) = wish.backup
        && !backups.iter().any(|backup| backup.label == label)
    {
        return Err(Refusal::UnknownBackup {
            label,
            known: backups.iter().map(|backup| backup.label).collect(),
        });
    }
    if backups.is_empty() {
        return Err(Refusal::NoBackup);
    }
    if let RecoveryTargetKind::Time(time) = wish.target.kind
        && time > Timestamp::from_datetime(wish.now + CLOCK_TOLERANCE)
    {
        return Err(Refusal::TimeToCome {
            target: time,
            now: wish.now,
        });
    }
    let mut known: BTreeSet<TimelineId> = histories.keys().copied().collect();
    known.extend(backups.iter().map(|backup| backup.timeline));
    known.insert(TimelineId::FIRST);
    match wish.timeline {
        RecoveryTargetTimeline::Id(timeline) if !known.contains(&timeline) => {
            Err(Refusal::UnknownTimeline {
                timeline,
                known: known.into_iter().collect(),
            })
        }
        RecoveryTargetTimeline::Id(timeline) => on_timeline(backups, histories, timeline, wish),
        // the newest timeline that any backup (or the one named) leads to
        RecoveryTargetTimeline::Latest => {
            let timeline = known
                .iter()
                .rev()
                .find(|timeline| {
                    let history = history_of(histories, **timeline);
                    backups
                        .iter()
                        .filter(|backup| wish.backup.is_none_or(|label| backup.label == label))
                        .any(|backup| way(&history, backup).is_ok())
                })
                .copied()
                .unwrap_or(TimelineId::FIRST);
            on_timeline(backups, histories, timeline, wish)
        }
        // the backup decides; of several the newest that ends before the target
        RecoveryTargetTimeline::Current => {
            let backup = suitable(backups.iter(), wish)?;
            on_timeline(
                std::slice::from_ref(backup),
                histories,
                backup.timeline,
                wish,
            )
        }
    }
}

fn on_timeline(
    backups: &[BackupFacts],
    histories: &BTreeMap<TimelineId, TimelineHistory>,
    timeline: TimelineId,
    wish: &Wish<'_>,
) -> Result<Choice, Refusal> {
    let history = history_of(histories, timeline);
    if let Some(label) = wish.backup
        && let Some(backup) = backups.iter().find(|backup| backup.label == label)
    {
        way(&history, backup).map_err(|source| Refusal::BackupNotOnTimeline { label, source })?;
    }
    let on_path: Vec<&BackupFacts> = backups
        .iter()
        .filter(|backup| way(&history, backup).is_ok())
        .collect();
    let Some(newest_known_time) = on_path.iter().map(|backup| backup.stop_time).max() else {
        return Err(Refusal::NoBackupOnTimeline { timeline });
    };
    let backup = suitable(on_path.into_iter(), wish)?;
    let path = way(&history, backup).map_err(|source| Refusal::BackupNotOnTimeline {
        label: backup.label,
        source,
    })?;
    Ok(Choice {
        backup: backup.clone(),
        timeline,
        has_history: timeline == TimelineId::FIRST || histories.contains_key(&timeline),
        path,
        newest_known_time,
    })
}

/// The newest backup that is consistent before the target; the named one, if
/// it is.
fn suitable<'a>(
    backups: impl Iterator<Item = &'a BackupFacts>,
    wish: &Wish<'_>,
) -> Result<&'a BackupFacts, Refusal> {
    let backups: Vec<&BackupFacts> = backups
        .filter(|backup| wish.backup.is_none_or(|label| backup.label == label))
        .collect();
    let ends_before = |backup: &BackupFacts| match wish.target.kind {
        RecoveryTargetKind::Time(time) => Timestamp::from_datetime(backup.stop_time) <= time,
        RecoveryTargetKind::Lsn(lsn) => backup.stop_lsn <= lsn,
        RecoveryTargetKind::Latest
        | RecoveryTargetKind::Immediate
        | RecoveryTargetKind::Xid(_)
        | RecoveryTargetKind::Name(_) => true,
    };
    let newest = backups
        .iter()
        .copied()
        .filter(|backup| ends_before(backup))
        .max_by_key(|backup| (backup.stop_lsn, backup.label));
    if let Some(backup) = newest {
        return Ok(backup);
    }
    let Some(earliest) = backups.iter().copied().min_by_key(|backup| backup.stop_lsn) else {
        return Err(Refusal::NoBackup);
    };
    Err(Refusal::BeforeConsistency {
        target: wish.target.clone(),
        earliest: Box::new(earliest.clone()),
        named: wish.backup.is_some(),
    })
}

/// The way from a backup along a timeline's history: its start and its end
/// must both lie on it.
fn way(history: &TimelineHistory, backup: &BackupFacts) -> Result<TimelinePath, PathError> {
    let path = history.path(backup.timeline, backup.start_lsn)?;
    match history.switch_point(backup.end_timeline) {
        Some(switch_lsn) if switch_lsn < backup.stop_lsn => Err(PathError::BeyondBranch {
            timeline: backup.end_timeline,
            lsn: backup.stop_lsn,
            switch_lsn,
            target: history.timeline(),
        }),
        None if backup.end_timeline != history.timeline() => Err(PathError::OtherTimeline {
            timeline: backup.end_timeline,
            target: history.timeline(),
        }),
        _ => Ok(path),
    }
}

fn history_of(
    histories: &BTreeMap<TimelineId, TimelineHistory>,
    timeline: TimelineId,
) -> TimelineHistory {
    histories
        .get(&timeline)
        .cloned()
        .unwrap_or_else(|| TimelineHistory::root(timeline))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn time(text: &str) -> DateTime<Utc> {
        format!("2026-11-20T{text}Z").parse().unwrap()
    }

    /// A backup of one minute.
    fn backup(clock: &str, timeline: u32, start: &str, stop: &str) -> BackupFacts {
        let start_time = time(clock);
        BackupFacts {
            label: Label::new(start_time).unwrap(),
            timeline: tli(timeline),
            end_timeline: tli(timeline),
            start_lsn: start.parse().unwrap(),
            stop_lsn: stop.parse().unwrap(),
            start_time,
            stop_time: start_time + TimeDelta::minutes(1),
        }
    }

    fn histories(files: &[(u32, &str)]) -> BTreeMap<TimelineId, TimelineHistory> {
        files
            .iter()
            .map(|(timeline, text)| {
                let timeline = tli(*timeline);
                (
                    timeline,
                    TimelineHistory::parse(timeline, text.as_bytes()).unwrap(),
                )
            })
            .collect()
    }

    fn three() -> Vec<BackupFacts> {
        vec![
            backup("06:00:00", 1, "0/2000028", "0/2000138"),
            backup("07:00:00", 1, "0/6000028", "0/6000138"),
            backup("08:00:00", 2, "0/8000028", "0/8000138"),
        ]
    }

    /// Timeline 2 leaves 1 at 0/5000100: the second backup is not on it.
    fn forked() -> BTreeMap<TimelineId, TimelineHistory> {
        histories(&[(2, "1\t0/5000100\tr\n")])
    }

    fn wish(target: &RecoveryTarget) -> Wish<'_> {
        Wish {
            target,
            timeline: RecoveryTargetTimeline::Latest,
            backup: None,
            now: time("12:00:00"),
        }
    }

    fn at(clock: &str) -> RecoveryTarget {
        RecoveryTarget::to(RecoveryTargetKind::Time(Timestamp::from_datetime(time(
            clock,
        ))))
    }

    fn label(clock: &str) -> Label {
        Label::new(time(clock)).unwrap()
    }

    #[test]
    fn the_latest_is_the_newest_backup_of_the_newest_timeline() {
        let choice = choose(&three(), &forked(), &wish(&RecoveryTarget::LATEST)).unwrap();
        assert_eq!(
            (choice.timeline, choice.backup.label),
            (tli(2), label("08:00:00"))
        );
        assert!(choice.has_history);
    }

    #[test]
    fn a_backup_off_the_path_is_not_taken() {
        // 07:30 on timeline 2: the backup of 07:00 lies beyond the branch
        let choice = choose(&three(), &forked(), &wish(&at("07:30:00"))).unwrap();
        assert_eq!(
            (choice.timeline, choice.backup.label),
            (tli(2), label("06:00:00"))
        );
        assert_eq!(choice.path.steps().len(), 2);
        // ... and is the right one on timeline 1
        let target = at("07:30:00");
        let mut wish = wish(&target);
        wish.timeline = RecoveryTargetTimeline::Id(tli(1));
        let choice = choose(&three(), &forked(), &wish).unwrap();
        assert_eq!(
            (choice.timeline, choice.backup.label),
            (tli(1), label("07:00:00"))
        );
        // `current` takes the timeline of the newest backup before the target
        wish.timeline = RecoveryTargetTimeline::Current;
        let choice = choose(&three(), &forked(), &wish).unwrap();
        assert_eq!(
            (choice.timeline, choice.backup.label),
            (tli(1), label("07:00:00"))
        );
    }

    #[test]
    fn a_target_inside_a_backup_takes_the_one_before_it() {
        let target = at("08:00:30");
        let choice = choose(&three(), &forked(), &wish(&target)).unwrap();
        assert_eq!(choice.backup.label, label("06:00:00"));
        let mut wish = wish(&target);
        wish.backup = Some(label("08:00:00"));
        assert!(matches!(
            choose(&three(), &forked(), &wish),
            Err(Refusal::BeforeConsistency { named: true, .. })
        ));
    }

    #[test]
    fn a_target_before_every_backup_is_refused_with_the_earliest() {
        for target in [
            at("05:00:00"),
            RecoveryTarget::to(RecoveryTargetKind::Lsn("0/2000137".parse().unwrap())),
        ] {
            let refusal = choose(&three(), &forked(), &wish(&target)).unwrap_err();
            assert!(
                matches!(refusal, Refusal::BeforeConsistency { earliest, named: false, .. }
                    if earliest.label == label("06:00:00"))
            );
        }
        let at_stop = RecoveryTarget::to(RecoveryTargetKind::Lsn("0/2000138".parse().unwrap()));
        assert!(choose(&three(), &forked(), &wish(&at_stop)).is_ok());
    }

    #[test]
    fn a_time_that_has_not_come_is_refused() {
        assert!(matches!(
            choose(&three(), &forked(), &wish(&at("12:06:00"))),
            Err(Refusal::TimeToCome { .. })
        ));
        assert!(choose(&three(), &forked(), &wish(&at("12:04:00"))).is_ok());
    }

    #[test]
    fn a_named_backup_decides_what_the_latest_timeline_is() {
        let latest = RecoveryTarget::LATEST;
        let mut wish = wish(&latest);
        wish.backup = Some(label("07:00:00"));
        let choice = choose(&three(), &forked(), &wish).unwrap();
        assert_eq!(choice.timeline, tli(1));
        wish.timeline = RecoveryTargetTimeline::Id(tli(2));
        assert!(matches!(
            choose(&three(), &forked(), &wish),
            Err(Refusal::BackupNotOnTimeline { .. })
        ));
        wish.backup = Some(label("01:00:00"));
        assert!(matches!(
            choose(&three(), &forked(), &wish),
            Err(Refusal::UnknownBackup { .. })
        ));
    }

    #[test]
    fn an_unknown_timeline_is_refused_with_those_that_are_known() {
        let latest = RecoveryTarget::LATEST;
        let mut wish = wish(&latest);
        wish.timeline = RecoveryTargetTimeline::Id(tli(7));
        assert!(matches!(
            choose(&three(), &forked(), &wish),
            Err(Refusal::UnknownTimeline { known, .. }) if known == [tli(1), tli(2)]
        ));
        assert!(matches!(
            choose(&[], &forked(), &self::wish(&RecoveryTarget::LATEST)),
            Err(Refusal::NoBackup)
        ));
    }

    #[test]
    fn a_backup_that_ends_beyond_the_branch_is_not_on_the_childs_path() {
        // it starts before the branch at 0/5000100 and ends after it
        let across = backup("06:00:00", 1, "0/5000028", "0/5000200");
        let choice = choose(
            std::slice::from_ref(&across),
            &forked(),
            &wish(&RecoveryTarget::LATEST),
        )
        .unwrap();
        assert_eq!(choice.timeline, tli(1));
        // unless it went over to the child itself, as one from a standby can
        let followed = BackupFacts {
            end_timeline: tli(2),
            ..across
        };
        let choice = choose(&[followed], &forked(), &wish(&RecoveryTarget::LATEST)).unwrap();
        assert_eq!(choice.timeline, tli(2));
    }

    #[test]
    fn a_timeline_whose_history_was_never_archived_can_still_be_followed_from_itself() {
        let backups = [backup("06:00:00", 3, "0/2000028", "0/2000138")];
        let choice = choose(&backups, &BTreeMap::new(), &wish(&RecoveryTarget::LATEST)).unwrap();
        assert_eq!(choice.timeline, tli(3));
        assert!(!choice.has_history);
    }
}
