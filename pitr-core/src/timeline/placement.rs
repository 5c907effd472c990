//! Where a segment stands towards a timeline's history.

use crate::lsn::Lsn;
use crate::timeline::history::TimelineHistory;
use crate::timeline::id::TimelineId;
use crate::wal::file_name::WalFileNameError;
use crate::wal::segment_name::SegmentName;
use crate::wal::segment_number::SegmentNumber;
use crate::wal::segment_size::WalSegmentSize;

/// Whether a recovery that follows a timeline may be given a segment.
///
/// PostgreSQL takes a parent's segment whenever the child's is not to be had,
/// replays it past the branch, and ends with a history that never was. It
/// gives no error: the one who serves segments must refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentPlacement {
    /// All of the segment that recovery reads is the history's, and no newer timeline has a copy of it.
    OnPath,
    /// The segment's timeline ends within it: right up to the switch, foreign after it.
    ///
    /// The child's copy of the segment holds the same bytes up to the switch
    /// and the right ones after it, and is to be preferred.
    SwitchSegment {
        /// First position that no longer belongs to the history.
        switch_lsn: Lsn,
        /// Newest timeline with a copy of the segment.
        child: TimelineId,
    },
    /// The segment's timeline ends before it: to be refused.
    BeyondBranch {
        /// Where the segment's timeline ends on this history.
        switch_lsn: Lsn,
        /// The timeline to which this segment of the log belongs.
        child: TimelineId,
    },
    /// The segment's timeline begins after it.
    BeforeBegin {
        /// Where the segment's timeline begins on this history.
        begin: Lsn,
    },
    /// The segment's timeline is not on this history at all.
    OtherTimeline,
}

impl TimelineHistory {
    /// Where `segment` stands towards this history, in a cluster with segments of `size`.
    ///
    /// # Errors
    /// `LowOutOfRange` if no cluster with this segment size has such a segment.
    ///
    /// Source: `XLogFileReadAnyTLI`, src/backend/access/transam/xlogrecovery.c, which has no upper bound.
    pub fn placement(
        &self,
        segment: &SegmentName,
        size: WalSegmentSize,
    ) -> Result<SegmentPlacement, WalFileNameError> {
        let number = segment.number(size)?;
        let Some(begin) = self.begin_of(segment.timeline()) else {
            return Ok(SegmentPlacement::OtherTimeline);
        };
        let Some(switch_lsn) = self.switch_point(segment.timeline()) else {
            let before = number < SegmentNumber::containing(begin, size);
            return Ok(if before {
                SegmentPlacement::BeforeBegin { begin }
            } else {
                SegmentPlacement::OnPath
            });
        };
        let last_byte = Lsn::new(number.end(size).get().saturating_sub(1));
        let child = self.owner(last_byte);
        Ok(if switch_lsn <= number.start(size) {
            SegmentPlacement::BeyondBranch { switch_lsn, child }
        } else if number < SegmentNumber::containing(begin, size) {
            SegmentPlacement::BeforeBegin { begin }
        } else if switch_lsn < number.end(size) {
            SegmentPlacement::SwitchSegment { switch_lsn, child }
        } else {
            SegmentPlacement::OnPath
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn at(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    fn placement(history: &str, of: u32, segment: &str) -> SegmentPlacement {
        let history = TimelineHistory::parse(timeline(of), history.as_bytes()).unwrap();
        history.placement(&segment.parse().unwrap(), SIZE).unwrap()
    }

    #[test]
    fn a_parents_segment_beyond_the_branch_is_told() {
        let history = "1\t0/4000100\tx\n";
        let child = timeline(2);
        let switch_lsn = at("0/4000100");
        assert_eq!(
            placement(history, 2, "000000010000000000000003"),
            SegmentPlacement::OnPath
        );
        assert_eq!(
            placement(history, 2, "000000010000000000000004"),
            SegmentPlacement::SwitchSegment { switch_lsn, child }
        );
        assert_eq!(
            placement(history, 2, "000000010000000000000005"),
            SegmentPlacement::BeyondBranch { switch_lsn, child }
        );
        assert_eq!(
            placement(history, 2, "000000020000000000000003"),
            SegmentPlacement::BeforeBegin { begin: switch_lsn }
        );
        assert_eq!(
            placement(history, 2, "000000020000000000000004"),
            SegmentPlacement::OnPath
        );
        assert_eq!(
            placement(history, 2, "000000030000000000000004"),
            SegmentPlacement::OtherTimeline
        );
    }

    #[test]
    fn a_branch_on_a_boundary_leaves_no_switch_segment() {
        let history = "1\t0/4000000\tx\n";
        assert_eq!(
            placement(history, 2, "000000010000000000000003"),
            SegmentPlacement::OnPath
        );
        assert!(matches!(
            placement(history, 2, "000000010000000000000004"),
            SegmentPlacement::BeyondBranch { .. }
        ));
        assert!(matches!(
            placement(history, 2, "000000020000000000000003"),
            SegmentPlacement::BeforeBegin { .. }
        ));
    }

    #[test]
    fn of_two_branches_in_one_segment_the_newest_has_the_right_copy() {
        let history = "1\t0/4000100\tx\n2\t0/4000200\ty\n";
        for (segment, switch_lsn) in [
            ("000000010000000000000004", "0/4000100"),
            ("000000020000000000000004", "0/4000200"),
        ] {
            let expected = SegmentPlacement::SwitchSegment {
                switch_lsn: at(switch_lsn),
                child: timeline(3),
            };
            assert_eq!(placement(history, 3, segment), expected);
        }
        assert_eq!(
            placement(history, 3, "000000030000000000000004"),
            SegmentPlacement::OnPath
        );
    }

    #[test]
    fn a_root_has_all_of_its_own_segments() {
        let history = TimelineHistory::root(TimelineId::FIRST);
        let last = SegmentName::containing(TimelineId::FIRST, Lsn::new(u64::MAX), SIZE);
        assert_eq!(
            history.placement(&last, SIZE).unwrap(),
            SegmentPlacement::OnPath
        );
        let odd: SegmentName = "000000010000000000000100".parse().unwrap();
        assert!(history.placement(&odd, SIZE).is_err());
    }
}
