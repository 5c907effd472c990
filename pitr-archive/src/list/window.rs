//! What can be recovered: for each timeline from when to when, and what lies
//! between.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use pitr_core::{
    Lsn, Moment, SegmentName, SegmentNumber, TimelineHistory, TimelineId, TimelinePath,
    WalFileName, WalSegmentSize,
};
use pitr_store::backup::Label;
use pitr_store::wal::{SummaryError, WalArchive, WalRange};
use serde::Serialize;

/// Segments at the end of a stretch in which its last commit is looked for.
const COMMIT_WITHIN: u64 = 16;
/// Segments that are looked at for damage; of longer archives `--damaged` tells.
const LOOKED_AT_MOST: u64 = 256;

/// A backup, as far as recovery from it depends on it.
#[derive(Debug, Clone)]
pub(super) struct BackupOnWay {
    pub(super) label: Label,
    pub(super) timeline: TimelineId,
    /// Another one where a standby went over to it meanwhile.
    pub(super) end_timeline: TimelineId,
    pub(super) start_lsn: Lsn,
    pub(super) stop_lsn: Lsn,
    pub(super) stop_time: DateTime<Utc>,
    /// Whether it holds the log up to `stop_lsn` itself.
    pub(super) brings_wal: bool,
}

/// A stretch of one timeline's way in which any commit can be recovered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Window {
    /// The first consistent point: the end of the first of its backups.
    pub(super) from_lsn: Lsn,
    pub(super) from_time: DateTime<Utc>,
    /// Where the log ends without a gap.
    pub(super) until_lsn: Lsn,
    /// The last commit near that end.
    pub(super) last_commit: Option<Moment>,
    /// Backups that recovery in it can begin with, oldest first.
    pub(super) backups: Vec<Label>,
    /// Why it ends there.
    pub(super) end: WindowEnd,
}

/// Why a window ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub(super) enum WindowEnd {
    /// Nothing later is archived.
    EndOfLog,
    /// Segments are missing, and what follows them needs a later backup.
    Missing {
        first: SegmentName,
        last: SegmentName,
        segments: u64,
    },
    /// The log is damaged.
    Damaged { segment: SegmentName, lsn: Lsn },
}

/// What a timeline offers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct TimelineWindows {
    pub(super) windows: Vec<Window>,
    /// Segments before, between and behind the windows, from which no backup
    /// leads anywhere.
    pub(super) unusable_segments: u64,
    /// Whether every segment was looked at for damage.
    pub(super) damage_looked_for: bool,
    /// How far each backup leads.
    #[serde(skip)]
    pub(super) reaches: BTreeMap<Label, Lsn>,
}

/// The segments of an archive by timeline.
pub(super) struct Archived<'a> {
    pub(super) archive: &'a WalArchive,
    pub(super) ranges: &'a [WalRange],
    pub(super) size: WalSegmentSize,
}

/// Segments of a way without a gap, and why they end.
struct Run {
    first: SegmentNumber,
    last: SegmentNumber,
    until: Lsn,
    end: WindowEnd,
}

impl Archived<'_> {
    /// What the timeline of `history` offers.
    ///
    /// # Errors
    /// The store failed.
    pub(super) fn windows(
        &self,
        history: &TimelineHistory,
        backups: &[BackupOnWay],
    ) -> Result<TimelineWindows, SummaryError> {
        let mut on_way: Vec<&BackupOnWay> = backups
            .iter()
            .filter(|backup| leads_to(backup, history))
            .collect();
        on_way.sort_by_key(|backup| (backup.start_lsn, backup.label));
        let Some(path) = on_way
            .first()
            .and_then(|first| history.path(first.timeline, first.start_lsn).ok())
        else {
            return Ok(TimelineWindows {
                unusable_segments: self.segments_of(history.timeline()),
                ..TimelineWindows::default()
            });
        };
        let (runs, damage_looked_for) = self.runs(&path)?;
        let mut found = TimelineWindows {
            damage_looked_for,
            unusable_segments: self.segments_before(history.timeline(), path.begin()),
            ..TimelineWindows::default()
        };
        for run in runs {
            let members: Vec<&BackupOnWay> = on_way
                .iter()
                .copied()
                .filter(|backup| {
                    let first = SegmentNumber::containing(backup.start_lsn, self.size);
                    run.first <= first && first <= run.last && backup.stop_lsn <= run.until
                })
                .collect();
            for member in &members {
                found.reaches.insert(member.label, run.until);
            }
            let Some(first) = members.iter().min_by_key(|backup| backup.stop_lsn) else {
                found.unusable_segments += run.last.get().saturating_sub(run.first.get()) + 1;
                continue;
            };
            found.windows.push(Window {
                from_lsn: first.stop_lsn,
                from_time: first.stop_time,
                until_lsn: run.until,
                last_commit: self.last_commit(&path, &run, first.stop_lsn)?,
                backups: members.iter().map(|backup| backup.label).collect(),
                end: run.end,
            });
        }
        // what they brought is enough for themselves
        for backup in on_way.iter().filter(|backup| backup.brings_wal) {
            found.reaches.entry(backup.label).or_insert(backup.stop_lsn);
        }
        Ok(found)
    }

    fn segments_of(&self, timeline: TimelineId) -> u64 {
        let its = self.ranges.iter();
        its.filter(|range| range.first.timeline() == timeline)
            .map(|range| range.segments)
            .sum()
    }

    /// Segments of a timeline that lie before the first backup.
    fn segments_before(&self, timeline: TimelineId, begin: Lsn) -> u64 {
        let begin = SegmentNumber::containing(begin, self.size);
        let its = self
            .ranges
            .iter()
            .filter(|range| range.first.timeline() == timeline);
        its.filter_map(|range| {
            let first = range.first.number(self.size).ok()?;
            Some(begin.get().saturating_sub(first.get()).min(range.segments))
        })
        .sum()
    }

    /// The runs of segments along `path`, divided where segments are missing
    /// or damaged.
    fn runs(&self, path: &TimelinePath) -> Result<(Vec<Run>, bool), SummaryError> {
        let mut stretches: Vec<(SegmentNumber, SegmentNumber)> = Vec::new();
        for (index, step) in path.steps().iter().enumerate() {
            let begin = SegmentNumber::containing(step.begin, self.size);
            // the segment of a branch is the child's
            let end = path
                .steps()
                .get(index + 1)
                .map(|next| SegmentNumber::containing(next.begin, self.size));
            for range in self.ranges {
                let (Ok(first), Ok(last)) =
                    (range.first.number(self.size), range.last.number(self.size))
                else {
                    continue;
                };
                let first = first.max(begin);
                let last = match end.map(SegmentNumber::prev) {
                    Some(None) => continue,
                    Some(Some(before)) => last.min(before),
                    None => last,
                };
                if range.first.timeline() != step.timeline || first > last {
                    continue;
                }
                match stretches.last_mut() {
                    Some(before) if before.1.next() == first => before.1 = last,
                    _ => stretches.push((first, last)),
                }
            }
        }
        let segments: u64 = stretches
            .iter()
            .map(|(first, last)| last.get().saturating_sub(first.get()) + 1)
            .sum();
        let looked_for = segments <= LOOKED_AT_MOST;
        let mut runs = Vec::new();
        for (index, (first, last)) in stretches.iter().enumerate() {
            let end = match stretches.get(index + 1) {
                None => WindowEnd::EndOfLog,
                Some((resumes, _)) => {
                    let missing = last.next();
                    let before = resumes.prev().unwrap_or(missing);
                    WindowEnd::Missing {
                        first: self.name(path, missing),
                        last: self.name(path, before),
                        segments: before.get().saturating_sub(missing.get()) + 1,
                    }
                }
            };
            let whole = Run {
                first: *first,
                last: *last,
                until: last.end(self.size),
                end,
            };
            if looked_for {
                self.divide_at_damage(path, whole, &mut runs)?;
            } else {
                runs.push(whole);
            }
        }
        Ok((runs, looked_for))
    }

    /// Nothing that begins before a damaged record gets past it.
    fn divide_at_damage(
        &self,
        path: &TimelinePath,
        whole: Run,
        runs: &mut Vec<Run>,
    ) -> Result<(), SummaryError> {
        let mut first = whole.first;
        let mut number = whole.first;
        while number <= whole.last {
            let segment = self.name(path, number);
            if let Some(lsn) = self.damaged_at(segment, number)? {
                runs.push(Run {
                    first,
                    last: number,
                    until: lsn,
                    end: WindowEnd::Damaged { segment, lsn },
                });
                first = number.next();
            }
            number = number.next();
        }
        if first <= whole.last {
            runs.push(Run { first, ..whole });
        }
        Ok(())
    }

    /// Where a segment is damaged; all of it where it cannot be read.
    fn damaged_at(
        &self,
        segment: SegmentName,
        number: SegmentNumber,
    ) -> Result<Option<Lsn>, SummaryError> {
        match self.archive.summary(&WalFileName::Segment(segment)) {
            Ok(summary) => Ok(summary.and_then(|summary| {
                let damage = summary.damage.iter();
                damage
                    .map(|damage| damage.record.unwrap_or(damage.lsn))
                    .min()
            })),
            Err(SummaryError::Store(error)) => Err(SummaryError::Store(error)),
            Err(SummaryError::Fetch(_)) => Ok(Some(number.start(self.size))),
            // removed meanwhile, or a summary that cannot be used
            Err(_) => Ok(None),
        }
    }

    /// The last commit in a run, by the last summaries that have one.
    fn last_commit(
        &self,
        path: &TimelinePath,
        run: &Run,
        from: Lsn,
    ) -> Result<Option<Moment>, SummaryError> {
        let mut number = SegmentNumber::last_before(run.until, self.size);
        for _ in 0..COMMIT_WITHIN {
            if number < run.first {
                break;
            }
            let segment = WalFileName::Segment(self.name(path, number));
            match self.archive.summary_or_scan(&segment) {
                Ok(summary) => {
                    let latest = summary.latest_commit;
                    if let Some(moment) = latest.filter(|at| at.lsn >= from && at.lsn < run.until) {
                        return Ok(Some(moment));
                    }
                }
                Err(SummaryError::Store(error)) => return Err(SummaryError::Store(error)),
                Err(_) => {}
            }
            match number.prev() {
                Some(before) => number = before,
                None => break,
            }
        }
        Ok(None)
    }

    fn name(&self, path: &TimelinePath, number: SegmentNumber) -> SegmentName {
        let timeline = path
            .steps()
            .iter()
            .rev()
            .find(|step| SegmentNumber::containing(step.begin, self.size) <= number)
            .map_or(TimelineId::FIRST, |step| step.timeline);
        SegmentName::new(timeline, number, self.size)
    }
}

/// Whether the backup lies on the history, with its end too.
fn leads_to(backup: &BackupOnWay, history: &TimelineHistory) -> bool {
    let end = match history.switch_point(backup.end_timeline) {
        Some(switch_lsn) => backup.stop_lsn <= switch_lsn,
        None => backup.end_timeline == history.timeline(),
    };
    end && history.path(backup.timeline, backup.start_lsn).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use pitr_core::{PostgresMajor, SystemIdentifier};
    use pitr_store::{ClusterIdentity, LocalStore, Repository};

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    /// A range by timeline and segment numbers.
    fn range(timeline: u32, first: u64, last: u64) -> WalRange {
        let name = |number| SegmentName::new(tli(timeline), SegmentNumber::new(number), SIZE);
        WalRange {
            first: name(first),
            last: name(last),
            begin: SegmentNumber::new(first).start(SIZE),
            end: SegmentNumber::new(last).end(SIZE),
            segments: last - first + 1,
            stored_bytes: 0,
        }
    }

    fn backup(hour: u32, timelines: (u32, u32), start: &str, stop: &str) -> BackupOnWay {
        let time: DateTime<Utc> = format!("2026-11-20T{hour:02}:00:00Z").parse().unwrap();
        BackupOnWay {
            label: Label::new(time).unwrap(),
            timeline: tli(timelines.0),
            end_timeline: tli(timelines.1),
            start_lsn: lsn(start),
            stop_lsn: lsn(stop),
            stop_time: time,
            brings_wal: false,
        }
    }

    fn windows(
        ranges: &[WalRange],
        backups: &[BackupOnWay],
        history: &TimelineHistory,
    ) -> TimelineWindows {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path().join("repo"));
        let made = Repository::init(Arc::new(store)).unwrap();
        let cluster = made
            .into_repository()
            .claim(&ClusterIdentity {
                system_identifier: SystemIdentifier::new(7),
                major: PostgresMajor::new(16).unwrap(),
                segment_size: SIZE,
            })
            .unwrap();
        let archive = cluster.wal();
        let archived = Archived {
            archive: &archive,
            ranges,
            size: SIZE,
        };
        archived.windows(history, backups).unwrap()
    }

    fn forked(at: &str) -> TimelineHistory {
        TimelineHistory::parse(tli(2), format!("1\t{at}\tr\n").as_bytes()).unwrap()
    }

    #[test]
    fn a_gap_ends_a_window_and_a_later_backup_opens_the_next() {
        let backups = [
            backup(6, (1, 1), "0/3000028", "0/3000138"),
            backup(7, (1, 1), "0/9000028", "0/9000138"),
        ];
        let ranges = [range(1, 1, 5), range(1, 8, 12)];
        let found = windows(&ranges, &backups, &TimelineHistory::root(tli(1)));
        let [first, second] = found.windows.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(
            (first.from_lsn, first.until_lsn),
            (lsn("0/3000138"), lsn("0/6000000"))
        );
        assert!(matches!(
            &first.end,
            WindowEnd::Missing { first, last, segments: 2 }
                if first.to_string().ends_with('6') && last.to_string().ends_with('7')
        ));
        assert_eq!(
            (second.from_lsn, second.until_lsn),
            (lsn("0/9000138"), lsn("0/D000000"))
        );
        assert_eq!(second.end, WindowEnd::EndOfLog);
        assert_eq!(found.reaches[&backups[0].label], lsn("0/6000000"));
        assert_eq!(found.reaches[&backups[1].label], lsn("0/D000000"));
        // 1 and 2 lie before the first backup
        assert_eq!(found.unusable_segments, 2);
    }

    #[test]
    fn a_stretch_without_a_backup_leads_nowhere() {
        let backups = [backup(6, (1, 1), "0/3000028", "0/3000138")];
        let ranges = [range(1, 3, 5), range(1, 8, 12)];
        let found = windows(&ranges, &backups, &TimelineHistory::root(tli(1)));
        assert_eq!(found.windows.len(), 1);
        assert_eq!(found.unusable_segments, 5);
        let none = windows(&ranges, &[], &TimelineHistory::root(tli(1)));
        assert_eq!((none.windows.len(), none.unusable_segments), (0, 8));
    }

    #[test]
    fn a_backup_without_its_own_segments_opens_nothing() {
        let backups = [backup(6, (1, 1), "0/3000028", "0/5000138")];
        let found = windows(
            &[range(1, 3, 4), range(1, 6, 9)],
            &backups,
            &TimelineHistory::root(tli(1)),
        );
        assert!(found.windows.is_empty());
        assert!(found.reaches.is_empty());
    }

    #[test]
    fn a_childs_window_begins_on_its_parent_and_needs_the_branch_segment() {
        let backups = [
            backup(6, (1, 1), "0/3000028", "0/3000138"),
            backup(7, (1, 1), "0/6000028", "0/6000138"),
        ];
        let history = forked("0/5000100");
        let found = windows(&[range(1, 3, 9), range(2, 5, 7)], &backups, &history);
        let [only] = found.windows.as_slice() else {
            panic!("{found:?}")
        };
        // the second one lies behind the branch
        assert_eq!(only.backups, [backups[0].label]);
        assert_eq!(
            (only.from_lsn, only.until_lsn),
            (lsn("0/3000138"), lsn("0/8000000"))
        );
        let found = windows(&[range(1, 3, 9), range(2, 6, 7)], &backups, &history);
        assert!(matches!(
            &found.windows[..],
            [Window { end: WindowEnd::Missing { first, .. }, until_lsn, .. }]
                if first.to_string() == "000000020000000000000005" && *until_lsn == lsn("0/5000000")
        ));
    }

    #[test]
    fn a_standbys_backup_that_crosses_a_switch_leads_along_the_child() {
        let crossing = [backup(6, (1, 2), "0/4000028", "0/6000138")];
        let ranges = [range(1, 3, 4), range(2, 5, 7)];
        let found = windows(&ranges, &crossing, &forked("0/5000100"));
        assert_eq!(found.reaches[&crossing[0].label], lsn("0/8000000"));
        // and not along the parent, on which it has no end
        let parent = windows(&ranges, &crossing, &TimelineHistory::root(tli(1)));
        assert!(parent.reaches.is_empty());
    }
}
