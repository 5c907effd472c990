//! History files that servers wrote at promotions and at the end of recoveries.

use pitr_core::{Lsn, SegmentPlacement, TimelineHistory, TimelineId, WalSegmentSize};

use crate::{MAJORS, captured};

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).expect("not zero")
}

fn history(major: u16, number: u32, name: &str) -> TimelineHistory {
    TimelineHistory::parse(timeline(number), &captured(major, name)).expect("a server wrote it")
}

#[test]
fn our_files_are_byte_for_byte_those_of_the_server() {
    for major in MAJORS {
        let root = TimelineHistory::root(TimelineId::FIRST);
        let third = history(major, 3, "recovered.00000003.history");
        let entry = &third.entries()[0];
        let ours =
            TimelineHistory::child_of(&root, timeline(3), entry.switch_lsn, &entry.reason).unwrap();
        assert_eq!(ours, third);

        let fourth = history(major, 4, "again.00000004.history");
        assert_eq!(fourth.entries()[0], *entry);
        let entry = &fourth.entries()[1];
        let ours = TimelineHistory::child_of(&third, timeline(4), entry.switch_lsn, &entry.reason)
            .unwrap();
        assert_eq!(ours.to_bytes(), captured(major, "again.00000004.history"));
    }
}

#[test]
fn a_server_stopped_before_its_target_timeline_begins_leaves_that_timeline_without_a_range() {
    for major in MAJORS {
        let history = history(major, 3, "descending.00000003.history");
        let (first, second) = (&history.entries()[0], &history.entries()[1]);
        assert!(first.switch_lsn > second.switch_lsn);
        assert_eq!(history.owner(second.switch_lsn), timeline(3));
        assert_eq!(
            history.owner(Lsn::new(second.switch_lsn.get() - 1)),
            TimelineId::FIRST
        );
        let path = history
            .path(TimelineId::FIRST, Lsn::new(0x50_0028))
            .unwrap();
        assert_eq!(
            path.steps()
                .iter()
                .map(|step| step.timeline.get())
                .collect::<Vec<_>>(),
            [1, 3]
        );
    }
}

#[test]
fn a_promotion_on_a_segment_boundary_shares_no_segment() {
    for major in MAJORS {
        let history = history(major, 2, "promoted.00000002.history");
        let switch = history.entries()[0].switch_lsn;
        let size = WalSegmentSize::SMALLEST;
        assert_eq!(
            switch.get() % size.bytes(),
            0,
            "the standby had replayed a switched segment"
        );
        let path = history
            .path(TimelineId::FIRST, Lsn::new(switch.get() - size.bytes()))
            .unwrap();
        let end = switch.checked_add(1).unwrap();
        let timelines: Vec<_> = path
            .segments_until(end, size)
            .map(|name| name.timeline().get())
            .collect();
        assert_eq!(timelines, [1, 2]);
        for name in path.segments_until(end, size) {
            assert_eq!(
                history.placement(&name, size).unwrap(),
                SegmentPlacement::OnPath
            );
        }
    }
}
