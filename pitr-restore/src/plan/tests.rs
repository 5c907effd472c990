//! Plans against an archive with gaps and branches.

use super::*;
use choice::BackupFacts;
use chrono::{DateTime, TimeDelta, Utc};
use pitr_core::{RestorePointName, SegmentNumber, TimelineHistory, WalSegmentSize};
use pitr_store::backup::Label;

const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap()
}

fn taken() -> DateTime<Utc> {
    "2026-11-20T06:00:00Z".parse().unwrap()
}

/// A backup from 0/3000028 to 0/4000100 on timeline 1, and the way along
/// `history`.
fn choice(history: &TimelineHistory) -> Choice {
    let (start_lsn, stop_lsn) = (lsn("0/3000028"), lsn("0/4000100"));
    Choice {
        backup: BackupFacts {
            label: Label::new(taken()).unwrap(),
            timeline: tli(1),
            end_timeline: tli(1),
            start_lsn,
            stop_lsn,
            start_time: taken(),
            stop_time: taken() + TimeDelta::minutes(1),
        },
        timeline: history.timeline(),
        has_history: true,
        path: history.path(tli(1), start_lsn).unwrap(),
        newest_known_time: taken() + TimeDelta::minutes(1),
    }
}

fn straight() -> Choice {
    choice(&TimelineHistory::root(tli(1)))
}

fn forked(at: &str) -> Choice {
    let text = format!("1\t{at}\tr\n");
    choice(&TimelineHistory::parse(tli(2), text.as_bytes()).unwrap())
}

fn archive(ranges: &[(u32, u64, u64)]) -> ArchivedWal {
    let mut wal = ArchivedWal::new(SIZE);
    for (timeline, first, last) in ranges {
        let range = SegmentNumber::new(*first)..=SegmentNumber::new(*last);
        wal.add(tli(*timeline), [range], []);
    }
    wal
}

fn prove(
    choice: Choice,
    kind: RecoveryTargetKind,
    ranges: &[(u32, u64, u64)],
) -> Result<RecoveryPlan, Refusal> {
    super::prove(
        choice,
        &RecoveryTarget::to(kind),
        &archive(ranges),
        &BTreeSet::new(),
    )
}

fn at(text: &str) -> RecoveryTargetKind {
    RecoveryTargetKind::Lsn(lsn(text))
}

fn a_time() -> RecoveryTargetKind {
    RecoveryTargetKind::Time(Timestamp::from_datetime(taken() + TimeDelta::seconds(60)))
}

#[test]
fn a_backup_without_its_own_segments_is_refused_for_every_target() {
    for kind in [
        RecoveryTargetKind::Latest,
        RecoveryTargetKind::Immediate,
        at("0/5000000"),
        a_time(),
    ] {
        for ranges in [&[][..], &[(1, 3, 3)], &[(1, 4, 9)]] {
            let missing = if ranges == [(1, 3, 3)] { "4" } else { "3" };
            let refusal = prove(straight(), kind.clone(), ranges).unwrap_err();
            assert!(
                matches!(&refusal, Refusal::BackupIncomplete { missing: found, .. }
                    if found.to_string().ends_with(missing)),
                "{refusal}"
            );
        }
    }
}

#[test]
fn the_first_consistent_point_needs_the_backups_segments_alone() {
    let plan = prove(straight(), RecoveryTargetKind::Immediate, &[(1, 3, 4)]).unwrap();
    assert_eq!(plan.coverage.segments, 2);
    assert!(plan.notes.is_empty());
}

#[test]
fn an_lsn_needs_the_segment_that_it_lies_in() {
    let ranges = [(1, 3, 6)];
    assert!(prove(straight(), at("0/6FFFFFF"), &ranges).is_ok());
    assert!(matches!(
        prove(straight(), at("0/7000000"), &ranges),
        Err(Refusal::BeyondArchive { missing, .. }) if missing.to_string().ends_with('7')
    ));
    // a hole behind it does not matter, one before it does
    let ranges = [(1, 3, 5), (1, 8, 9)];
    assert!(prove(straight(), at("0/5000000"), &ranges).is_ok());
    assert!(matches!(
        prove(straight(), at("0/9000000"), &ranges),
        Err(Refusal::Hole { .. })
    ));
}

#[test]
fn a_hole_before_the_end_of_the_log_is_refused_or_told() {
    let ranges = [(1, 3, 5), (1, 8, 9)];
    let refusal = prove(straight(), RecoveryTargetKind::Latest, &ranges).unwrap_err();
    assert!(
        refusal.to_string().contains("000000010000000000000006"),
        "{refusal}"
    );
    // the place of a time is not known: it may lie before the hole
    let plan = prove(straight(), a_time(), &ranges).unwrap();
    assert!(matches!(plan.notes[..], [PlanNote::Hole { .. }]));
}

#[test]
fn the_branch_segment_must_be_there_from_the_child() {
    let choice = || forked("0/5000100");
    let parent_only = [(1, 3, 9)];
    assert!(matches!(
        prove(choice(), RecoveryTargetKind::Latest, &parent_only),
        Err(Refusal::TimelineNotBegun { parent, .. }) if parent == tli(1)
    ));
    let plan = prove(choice(), a_time(), &parent_only).unwrap();
    assert!(matches!(
        plan.notes[..],
        [PlanNote::TimelineNotBegun { .. }]
    ));
    assert!(prove(choice(), at("0/4FFFFFF"), &parent_only).is_ok());
    let plan = prove(
        choice(),
        RecoveryTargetKind::Latest,
        &[(1, 3, 4), (2, 5, 7)],
    )
    .unwrap();
    assert_eq!(plan.coverage.end, lsn("0/8000000"));
}

#[test]
fn a_timeline_that_left_at_a_boundary_and_is_empty_can_be_recovered_to_its_begin() {
    let plan = prove(
        forked("0/6000000"),
        RecoveryTargetKind::Latest,
        &[(1, 3, 9)],
    )
    .unwrap();
    assert_eq!(plan.coverage.end, lsn("0/6000000"));
    assert!(matches!(plan.notes[..], [PlanNote::TimelineEmpty { .. }]));
}

#[test]
fn what_the_plan_cannot_know_is_said() {
    let later = RecoveryTargetKind::Time(Timestamp::from_datetime(taken() + TimeDelta::hours(1)));
    let plan = prove(straight(), later, &[(1, 3, 9)]).unwrap();
    assert!(matches!(plan.notes[..], [PlanNote::TimeUnknown { .. }]));
    let name = RecoveryTargetKind::Name(RestorePointName::new("before").unwrap());
    let plan = prove(straight(), name, &[(1, 3, 9)]).unwrap();
    assert!(matches!(plan.notes[..], [PlanNote::PlaceUnknown { .. }]));
    for note in &plan.notes {
        assert!(note.hint().is_some(), "{note}");
    }
}
