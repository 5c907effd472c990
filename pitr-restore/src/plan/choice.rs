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
    /// The checkpoint that replay starts with.
    pub(crate) checkpoint_lsn: Lsn,
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
}

/// The backups that lead along a timeline, one of which will be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidates {
    pub(crate) timeline: TimelineId,
    has_history: bool,
    /// By their end in the log; never empty.
    ways: Vec<(BackupFacts, TimelinePath)>,
    /// Whether the only one was asked for by name.
    named: bool,
}

impl Candidates {
    /// The one at this place.
    pub(crate) fn choice(&self, index: usize) -> Option<Choice> {
        let (backup, path) = self.ways.get(index)?;
        Some(Choice {
            backup: backup.clone(),
            timeline: self.timeline,
            has_history: self.has_history,
            path: path.clone(),
        })
    }

    /// The longest of the ways: that of the backup which begins first.
    pub(crate) fn longest(&self) -> Option<Choice> {
        let first = (0..self.ways.len()).min_by_key(|index| {
            self.ways
                .get(*index)
                .map_or(Lsn::INVALID, |(backup, _)| backup.start_lsn)
        })?;
        self.choice(first)
    }

    pub(crate) fn backups(&self) -> impl DoubleEndedIterator<Item = &BackupFacts> {
        self.ways.iter().map(|(backup, _)| backup)
    }

    /// The newest one that is consistent before the target.
    ///
    /// # Errors
    /// The target lies before every one of them.
    pub(crate) fn preferred(&self, target: &RecoveryTarget) -> Result<usize, Refusal> {
        let found = self
            .ways
            .iter()
            .rposition(|(backup, _)| ends_before(backup, target));
        found.ok_or_else(|| self.before_all(target))
    }

    /// The refusal of a target before every backup.
    pub(crate) fn before_all(&self, target: &RecoveryTarget) -> Refusal {
        let earliest = self.ways.iter().min_by_key(|(backup, _)| backup.stop_lsn);
        match earliest {
            Some((earliest, _)) => Refusal::BeforeConsistency {
                target: target.clone(),
                earliest: Box::new(earliest.clone()),
                named: self.named,
            },
            None => Refusal::NoBackup,
        }
    }
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
    let candidates = candidates(backups, histories, wish)?;
    let preferred = candidates.preferred(wish.target)?;
    candidates.choice(preferred).ok_or(Refusal::NoBackup)
}

/// The timeline to follow, and the backups that lead along it.
///
/// # Errors
/// Why none does.
pub(crate) fn candidates(
    backups: &[BackupFacts],
    histories: &BTreeMap<TimelineId, TimelineHistory>,
    wish: &Wish<'_>,
) -> Result<Candidates, Refusal> {
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
            let timeline = backups
                .iter()
                .filter(|backup| wish.backup.is_none_or(|label| backup.label == label))
                .filter(|backup| ends_before(backup, wish.target))
                .max_by_key(|backup| (backup.stop_lsn, backup.label))
                .map(|backup| backup.timeline);
            match timeline {
                Some(timeline) => {
                    let its: Vec<BackupFacts> = backups
                        .iter()
                        .filter(|backup| backup.timeline == timeline)
                        .cloned()
                        .collect();
                    on_timeline(&its, histories, timeline, wish)
                }
                // for its refusal
                None => {
                    let named = backups
                        .iter()
                        .filter(|backup| wish.backup.is_none_or(|label| backup.label == label))
                        .min_by_key(|backup| backup.stop_lsn);
                    let timeline = named.map_or(TimelineId::FIRST, |backup| backup.timeline);
                    on_timeline(backups, histories, timeline, wish)
                }
            }
        }
    }
}

fn on_timeline(
    backups: &[BackupFacts],
    histories: &BTreeMap<TimelineId, TimelineHistory>,
    timeline: TimelineId,
    wish: &Wish<'_>,
) -> Result<Candidates, Refusal> {
    let history = history_of(histories, timeline);
    if let Some(label) = wish.backup
        && let Some(backup) = backups.iter().find(|backup| backup.label == label)
    {
        way(&history, backup).map_err(|source| Refusal::BackupNotOnTimeline { label, source })?;
    }
    let mut ways: Vec<(BackupFacts, TimelinePath)> = backups
        .iter()
        .filter(|backup| wish.backup.is_none_or(|label| backup.label == label))
        .filter_map(|backup| Some((backup.clone(), way(&history, backup).ok()?)))
        .collect();
    if ways.is_empty() {
        return Err(Refusal::NoBackupOnTimeline {
            timeline,
            leads_to: leads_to(backups, histories),
        });
    }
    ways.sort_by_key(|(backup, _)| (backup.stop_lsn, backup.label));
    Ok(Candidates {
        timeline,
        has_history: timeline == TimelineId::FIRST || histories.contains_key(&timeline),
        ways,
        named: wish.backup.is_some(),
    })
}

/// The timelines to which any of the backups leads.
fn leads_to(
    backups: &[BackupFacts],
    histories: &BTreeMap<TimelineId, TimelineHistory>,
) -> Vec<TimelineId> {
    let mut known: BTreeSet<TimelineId> = histories.keys().copied().collect();
    known.extend(backups.iter().map(|backup| backup.timeline));
    known.insert(TimelineId::FIRST);
    known.retain(|timeline| {
        let history = history_of(histories, *timeline);
        backups.iter().any(|backup| way(&history, backup).is_ok())
    });
    known.into_iter().collect()
}

/// Whether a backup is consistent before the target, as far as backups alone
/// tell: where it stops, the log will show.
fn ends_before(backup: &BackupFacts, target: &RecoveryTarget) -> bool {
    match target.kind {
        RecoveryTargetKind::Time(time) => Timestamp::from_datetime(backup.stop_time) <= time,
        RecoveryTargetKind::Lsn(lsn) => backup.stop_lsn <= lsn,
        RecoveryTargetKind::Latest
        | RecoveryTargetKind::Immediate
        | RecoveryTargetKind::Xid(_)
        | RecoveryTargetKind::Name(_) => true,
    }
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
            checkpoint_lsn: stop.parse().unwrap(),
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
