//! Plans against an archive with gaps and branches.

use super::*;
use choice::BackupFacts;
use chrono::{DateTime, TimeDelta, Utc};
use pitr_core::{SegmentNumber, TimelineHistory, Timestamp, TransactionId, WalSegmentSize};
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
            checkpoint_lsn: lsn("0/3000060"),
            start_time: taken(),
            stop_time: taken() + TimeDelta::minutes(1),
        },
        timeline: history.timeline(),
        has_history: true,
        path: history.path(tli(1), start_lsn).unwrap(),
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

/// Recovery that stops before the record at `stop`, or at the end of the log.
fn point(stop: Option<&str>) -> StopPoint {
    StopPoint {
        stop: stop.map(|text| RecoveryStop {
            record: PassedRecord {
                lsn: lsn(text),
                kind: PassedRecordKind::Other {
                    resource_manager: "Heap".to_owned(),
                },
            },
            replayed: false,
            read_to: lsn(text).checked_add(0x40).unwrap(),
            end_of_replay: lsn(text),
            consistent: true,
        }),
        last_kept: None,
        first_lost: None,
        end_of_log: lsn("0/5000028"),
        end: ReadEnd::EndOfWay,
    }
}

fn prove(
    choice: Choice,
    kind: RecoveryTargetKind,
    stop: Option<&str>,
    ranges: &[(u32, u64, u64)],
) -> Result<RecoveryPlan, Refusal> {
    super::prove(
        choice,
        &RecoveryTarget::to(kind),
        point(stop),
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
    for (kind, stop) in [
        (RecoveryTargetKind::Latest, None),
        (RecoveryTargetKind::Immediate, Some("0/4000100")),
        (at("0/5000000"), Some("0/5000028")),
        (a_time(), Some("0/5000028")),
    ] {
        for ranges in [&[][..], &[(1, 3, 3)], &[(1, 4, 9)]] {
            let missing = if ranges == [(1, 3, 3)] { "4" } else { "3" };
            let refusal = prove(straight(), kind.clone(), stop, ranges).unwrap_err();
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
    let immediate = RecoveryTargetKind::Immediate;
    let plan = prove(straight(), immediate, Some("0/4000100"), &[(1, 3, 4)]).unwrap();
    assert_eq!(plan.coverage.segments, 2);
    assert!(plan.notes.is_empty());
    assert!(!plan.gap_behind);
}

#[test]
fn the_whole_record_at_which_recovery_stops_is_needed() {
    let ranges = [(1, 3, 6), (1, 8, 9)];
    assert!(prove(straight(), a_time(), Some("0/6FFFFC0"), &ranges).is_ok());
    // it goes on in the next segment
    assert!(matches!(
        prove(straight(), a_time(), Some("0/6FFFFC8"), &ranges),
        Err(Refusal::Hole { missing, .. }) if missing.to_string().ends_with('7')
    ));
}

#[test]
fn a_gap_before_the_stop_is_refused_and_one_behind_it_is_noted() {
    let ranges = [(1, 3, 5), (1, 8, 9)];
    let plan = prove(straight(), a_time(), Some("0/5000028"), &ranges).unwrap();
    assert!(plan.gap_behind);
    for kind in [a_time(), at("0/9000000")] {
        let refusal = prove(straight(), kind, Some("0/9000028"), &ranges).unwrap_err();
        assert!(
            matches!(refusal, Refusal::Hole { end, .. } if end == lsn("0/6000000")),
            "{refusal}"
        );
    }
    let refusal = prove(straight(), RecoveryTargetKind::Latest, None, &ranges).unwrap_err();
    assert!(
        refusal.to_string().contains("000000010000000000000006"),
        "{refusal}"
    );
}

#[test]
fn a_target_that_no_record_meets_is_refused() {
    let ranges = [(1, 3, 5)];
    let refused = |kind| prove(straight(), kind, None, &ranges).unwrap_err();
    assert!(matches!(
        refused(a_time()),
        Refusal::AfterLastCommit { end, .. } if end == lsn("0/5000028")
    ));
    assert!(matches!(
        refused(at("0/5000030")),
        Refusal::BeyondArchive { .. }
    ));
    let xid = RecoveryTargetKind::Xid(TransactionId::new(700).unwrap());
    assert!(matches!(refused(xid), Refusal::UnknownTransaction { .. }));
    assert!(prove(straight(), RecoveryTargetKind::Latest, None, &ranges).is_ok());
}

#[test]
fn a_stop_before_consistency_is_refused() {
    let mut point = point(Some("0/4000080"));
    if let Some(stop) = &mut point.stop {
        stop.consistent = false;
    }
    let target = RecoveryTarget::to(a_time());
    let wal = archive(&[(1, 3, 9)]);
    let refusal = super::prove(straight(), &target, point, &wal, &BTreeSet::new()).unwrap_err();
    assert!(matches!(refusal, Refusal::BeforeConsistency { .. }));
}

#[test]
fn damage_is_the_end_of_the_log() {
    let damaged = StopPoint {
        end: ReadEnd::Damaged {
            segment: "000000010000000000000005".parse().unwrap(),
            lsn: Some(lsn("0/5000100")),
            what: "its CRC is wrong".to_owned(),
        },
        ..point(None)
    };
    let wal = archive(&[(1, 3, 9)]);
    let prove = |kind| {
        let target = RecoveryTarget::to(kind);
        super::prove(straight(), &target, damaged.clone(), &wal, &BTreeSet::new())
    };
    assert!(matches!(prove(a_time()), Err(Refusal::Damaged { .. })));
    // everything up to there can still be had
    let plan = prove(RecoveryTargetKind::Latest).unwrap();
    assert!(matches!(plan.notes[..], [PlanNote::EndsDamaged { .. }]));
    assert!(plan.notes[0].hint().is_some());
}

#[test]
fn the_branch_segment_must_be_there_from_the_child() {
    let choice = || forked("0/5000100");
    let parent_only = [(1, 3, 9)];
    for (kind, stop) in [(RecoveryTargetKind::Latest, None), (a_time(), None)] {
        assert!(matches!(
            prove(choice(), kind, stop, &parent_only),
            Err(Refusal::TimelineNotBegun { parent, .. }) if parent == tli(1)
        ));
    }
    assert!(prove(choice(), at("0/4FFFF00"), Some("0/4FFFF00"), &parent_only).is_ok());
    let plan = prove(
        choice(),
        RecoveryTargetKind::Latest,
        None,
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
        None,
        &[(1, 3, 9)],
    )
    .unwrap();
    assert_eq!(plan.coverage.end, lsn("0/6000000"));
    assert!(matches!(plan.notes[..], [PlanNote::TimelineEmpty { .. }]));
}
