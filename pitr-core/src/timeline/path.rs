//! The way through the timelines from a backup to a target.

use crate::lsn::Lsn;
use crate::timeline::history::TimelineHistory;
use crate::timeline::id::TimelineId;
use crate::wal::segment_name::SegmentName;
use crate::wal::segment_number::SegmentNumber;
use crate::wal::segment_size::WalSegmentSize;

/// The ranges of WAL that recovery passes from a position on one timeline to the end of another.
///
/// At least one step; steps adjoin and none is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelinePath {
    steps: Vec<PathStep>,
}

/// The range of one timeline on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathStep {
    /// Whose range it is.
    pub timeline: TimelineId,
    /// First position of the range.
    pub begin: Lsn,
    /// First position after the range; `None` on the last step.
    pub end: Option<Lsn>,
}

impl TimelineHistory {
    /// The path from `from_lsn` on `from_timeline` (a backup's start) to this timeline's end.
    ///
    /// # Errors
    /// If that position is not on this history. PostgreSQL then says
    /// "requested timeline N is not a child of this server's history".
    ///
    /// Source: `InitWalRecovery`, src/backend/access/transam/xlogrecovery.c.
    pub fn path(
        &self,
        from_timeline: TimelineId,
        from_lsn: Lsn,
    ) -> Result<TimelinePath, PathError> {
        let target = self.timeline();
        let begin = self
            .begin_of(from_timeline)
            .ok_or(PathError::OtherTimeline {
                timeline: from_timeline,
                target,
            })?;
        if let Some(switch_lsn) = self
            .switch_point(from_timeline)
            .filter(|&end| from_lsn >= end)
        {
            let timeline = from_timeline;
            return Err(PathError::BeyondBranch {
                timeline,
                lsn: from_lsn,
                switch_lsn,
                target,
            });
        }
        if from_lsn < begin {
            return Err(PathError::BeforeBegin {
                timeline: from_timeline,
                lsn: from_lsn,
                begin,
                target,
            });
        }
        let steps = self
            .ranges()
            .skip_while(|(timeline, ..)| *timeline != from_timeline)
            .map(|(timeline, begin, end)| PathStep {
                timeline,
                begin: begin.max(from_lsn),
                end,
            })
            .collect();
        Ok(TimelinePath { steps })
    }
}

impl TimelinePath {
    /// The steps, in the order in which recovery passes them.
    pub fn steps(&self) -> &[PathStep] {
        &self.steps
    }

    /// First position of the path.
    pub fn begin(&self) -> Lsn {
        self.steps.first().map_or(Lsn::INVALID, |step| step.begin)
    }

    /// The timeline on which the byte at `lsn` is read; `None` before the path begins.
    pub fn owner(&self, lsn: Lsn) -> Option<TimelineId> {
        self.steps
            .iter()
            .rev()
            .find(|step| step.begin <= lsn)
            .map(|step| step.timeline)
    }

    /// The segments that recovery needs to read every byte of the path before `end`, in order.
    ///
    /// The segment in which one timeline ends and the next begins is taken
    /// from the newest timeline that begins in it: that copy has its
    /// ancestors' bytes up to the branch, and it is what the server asks for first.
    ///
    /// Source: `XLogFileReadAnyTLI`, src/backend/access/transam/xlogrecovery.c.
    pub fn segments_until(
        &self,
        end: Lsn,
        size: WalSegmentSize,
    ) -> impl Iterator<Item = SegmentName> {
        let last = SegmentNumber::last_before(end, size);
        let first = SegmentNumber::containing(self.begin(), size);
        let mut steps = self.steps.iter().peekable();
        let mut timeline = None;
        std::iter::successors(Some(first), |number| Some(number.next()))
            .take_while(move |number| *number <= last)
            .filter_map(move |number| {
                while let Some(step) =
                    steps.next_if(|step| SegmentNumber::containing(step.begin, size) <= number)
                {
                    timeline = Some(step.timeline);
                }
                Some(SegmentName::new(timeline?, number, size))
            })
    }
}

/// Why there is no path from a backup to a timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The backup's timeline is no ancestor of the target's.
    #[error("timeline {timeline} is not an ancestor of timeline {target}")]
    OtherTimeline {
        /// Where the path was to begin.
        timeline: TimelineId,
        /// Where it was to end.
        target: TimelineId,
    },
    /// The target's timeline had branched off before the backup was taken.
    #[error("timeline {target} left timeline {timeline} at {switch_lsn}, before {lsn}")]
    BeyondBranch {
        /// Where the path was to begin.
        timeline: TimelineId,
        /// Position at which it was to begin.
        lsn: Lsn,
        /// First position that is no longer on the way to the target.
        switch_lsn: Lsn,
        /// Where it was to end.
        target: TimelineId,
    },
    /// The position is one of an earlier timeline.
    #[error(
        "timeline {timeline} begins at {begin} in the history of timeline {target}, after {lsn}"
    )]
    BeforeBegin {
        /// Where the path was to begin.
        timeline: TimelineId,
        /// Position at which it was to begin.
        lsn: Lsn,
        /// First position of `timeline`.
        begin: Lsn,
        /// Where it was to end.
        target: TimelineId,
    },
}

impl PathError {
    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            PathError::OtherTimeline { target, .. } | PathError::BeyondBranch { target, .. } => {
                Some(format!(
                    "Choose a backup taken on the history of timeline {target}, or another target timeline."
                ))
            }
            PathError::BeforeBegin { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn at(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    fn history(number: u32, text: &str) -> TimelineHistory {
        TimelineHistory::parse(timeline(number), text.as_bytes()).unwrap()
    }

    fn segments(path: &TimelinePath, end: &str) -> Vec<String> {
        path.segments_until(at(end), SIZE)
            .map(|name| name.to_string())
            .collect()
    }

    #[test]
    fn a_path_on_one_timeline_has_one_step() {
        let path = TimelineHistory::root(TimelineId::FIRST)
            .path(TimelineId::FIRST, at("0/2000028"))
            .unwrap();
        assert_eq!(
            path.steps(),
            [PathStep {
                timeline: TimelineId::FIRST,
                begin: at("0/2000028"),
                end: None
            }]
        );
        assert_eq!(segments(&path, "0/3000000"), ["000000010000000000000002"]);
        assert_eq!(
            segments(&path, "0/3000001"),
            ["000000010000000000000002", "000000010000000000000003"]
        );
    }

    #[test]
    fn the_switch_segment_is_taken_from_the_child() {
        let path = history(2, "1\t0/4000100\tx\n")
            .path(timeline(1), at("0/2000028"))
            .unwrap();
        assert_eq!(
            segments(&path, "0/5000001"),
            [
                "000000010000000000000002",
                "000000010000000000000003",
                "000000020000000000000004",
                "000000020000000000000005"
            ]
        );
        assert_eq!(path.owner(at("0/40000FF")), Some(timeline(1)));
        assert_eq!(path.owner(at("0/4000100")), Some(timeline(2)));
        assert_eq!(path.owner(at("0/2000027")), None);
    }

    #[test]
    fn a_switch_on_a_boundary_shares_no_segment() {
        let path = history(2, "1\t0/4000000\tx\n")
            .path(timeline(1), at("0/3000028"))
            .unwrap();
        assert_eq!(
            segments(&path, "0/4000001"),
            ["000000010000000000000003", "000000020000000000000004"]
        );
    }

    #[test]
    fn two_switches_in_one_segment_take_the_newest_copy() {
        let path = history(3, "1\t0/4000100\tx\n2\t0/4000200\ty\n")
            .path(timeline(1), at("0/3000028"))
            .unwrap();
        assert_eq!(path.steps().len(), 3);
        assert_eq!(
            segments(&path, "0/4000101"),
            ["000000010000000000000003", "000000030000000000000004"]
        );
    }

    #[test]
    fn a_timeline_without_a_range_is_no_step() {
        let path = history(3, "1\t0/5000000\tx\n2\t0/4000000\ty\n")
            .path(timeline(1), at("0/3000028"))
            .unwrap();
        assert_eq!(
            path.steps()
                .iter()
                .map(|step| step.timeline.get())
                .collect::<Vec<_>>(),
            [1, 3]
        );
        assert_eq!(
            segments(&path, "0/5000001"),
            [
                "000000010000000000000003",
                "000000030000000000000004",
                "000000030000000000000005"
            ]
        );
    }

    #[test]
    fn a_path_may_begin_on_any_ancestor() {
        let history = history(3, "1\t0/4000100\tx\n2\t0/6000100\ty\n");
        assert_eq!(
            history
                .path(timeline(2), at("0/5000028"))
                .unwrap()
                .steps()
                .len(),
            2
        );
        assert_eq!(
            history
                .path(timeline(3), at("0/7000028"))
                .unwrap()
                .steps()
                .len(),
            1
        );
    }

    #[test]
    fn a_backup_that_is_not_on_the_history_has_no_path() {
        let history = history(4, "1\t0/4000100\tx\n3\t0/6000100\ty\n");
        let other = history.path(timeline(2), at("0/5000028"));
        assert_eq!(
            other,
            Err(PathError::OtherTimeline {
                timeline: timeline(2),
                target: timeline(4)
            })
        );
        let beyond = history.path(timeline(1), at("0/4000100"));
        assert!(
            matches!(beyond, Err(PathError::BeyondBranch { switch_lsn, .. }) if switch_lsn == at("0/4000100"))
        );
        let before = history.path(timeline(3), at("0/40000FF"));
        assert!(
            matches!(before, Err(PathError::BeforeBegin { begin, .. }) if begin == at("0/4000100"))
        );
    }

    proptest! {
        #[test]
        fn every_segment_of_a_path_is_named_once_and_placed_on_it(
            switches in proptest::collection::vec(0u64..0x1000_0000, 0..5),
            from in 0u64..0x800_0000,
            len in 0u64..0x1000_0000,
        ) {
            let mut history = TimelineHistory::root(TimelineId::FIRST);
            for switch in switches {
                let child = history.timeline().next().unwrap();
                history = TimelineHistory::child_of(&history, child, Lsn::new(switch), "x").unwrap();
            }
            let from = Lsn::new(from);
            let end = from.checked_add(len).unwrap();
            let path = history.path(history.owner(from), from).unwrap();
            let mut expected = SegmentNumber::containing(from, SIZE);
            for name in path.segments_until(end, SIZE) {
                prop_assert_eq!(name.number(SIZE).unwrap(), expected);
                prop_assert_eq!(history.placement(&name, SIZE).unwrap(), crate::SegmentPlacement::OnPath);
                expected = expected.next();
            }
        }
    }
}
