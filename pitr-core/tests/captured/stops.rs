//! Where recovery stops in a real segment.

use pitr_core::{
    EndedTransaction, Lsn, PassedRecordKind, Record, RecordContents, RecoveryStop, RecoveryStops,
    RecoveryTarget, RecoveryTargetKind, RestorePointName, Timestamp, TransactionId, XactRecord,
};

use crate::wal::{reader, segment};

/// A commit or abort of the segment.
struct End {
    lsn: Lsn,
    next: Lsn,
    xid: u32,
    time: Timestamp,
    committed: bool,
}

fn bytes() -> Vec<u8> {
    segment(14, "000000010000000000000004.gz")
}

fn each_record(bytes: &[u8], mut look: impl FnMut(&Record<'_>)) {
    let mut reader = reader(bytes);
    let mut records = reader.feed(bytes);
    while let Some(record) = records.next_record() {
        look(&record.expect("a whole segment"));
    }
}

fn ends(bytes: &[u8]) -> Vec<End> {
    let mut ends = Vec::new();
    each_record(bytes, |record| {
        let RecordContents::Transaction(contents) = record.contents().expect("a whole segment")
        else {
            return;
        };
        let (end, committed) = match contents {
            XactRecord::Commit(end) | XactRecord::CommitPrepared(end) => (end, true),
            XactRecord::Abort(end) | XactRecord::AbortPrepared(end) => (end, false),
            _ => return,
        };
        ends.push(End {
            lsn: record.lsn(),
            next: record.end_lsn(),
            xid: end.xid,
            time: end.time,
            committed,
        });
    });
    ends
}

struct Stopped {
    stop: Option<RecoveryStop>,
    kept: Option<EndedTransaction>,
    lost: Option<EndedTransaction>,
}

fn stopped(bytes: &[u8], kind: RecoveryTargetKind, inclusive: bool, consistent: Lsn) -> Stopped {
    let target = RecoveryTarget { kind, inclusive };
    let mut stops = RecoveryStops::new(&target, consistent);
    each_record(bytes, |record| stops.pass(record));
    Stopped {
        stop: stops.stop().cloned(),
        kept: stops.last_kept(),
        lost: stops.first_lost(),
    }
}

#[test]
fn a_time_stops_before_the_first_end_in_the_order_of_the_log() {
    let bytes = bytes();
    let ends = ends(&bytes);
    assert!(ends.iter().any(|end| !end.committed), "aborts count");
    for wanted in &ends {
        for inclusive in [true, false] {
            let first = ends
                .iter()
                .position(|end| end.time > wanted.time || (!inclusive && end.time == wanted.time));
            let kind = RecoveryTargetKind::Time(wanted.time);
            let found = stopped(&bytes, kind, inclusive, Lsn::INVALID);
            let stop = found.stop.as_ref();
            assert_eq!(
                stop.map(|stop| stop.record.lsn),
                first.map(|at| ends[at].lsn)
            );
            assert!(stop.is_none_or(|stop| !stop.replayed));
            let (kept, lost) = ends.split_at(first.unwrap_or(ends.len()));
            let committed = |end: &&End| end.committed;
            assert_eq!(
                found.kept.map(|kept| kept.lsn),
                kept.iter().rfind(committed).map(|end| end.lsn)
            );
            assert_eq!(
                found.lost.map(|lost| lost.lsn),
                lost.iter().find(committed).map(|end| end.lsn)
            );
        }
    }
}

#[test]
fn a_transaction_stops_at_its_own_end() {
    let bytes = bytes();
    for end in ends(&bytes) {
        let xid = || RecoveryTargetKind::Xid(TransactionId::new(end.xid).unwrap());
        let after = stopped(&bytes, xid(), true, Lsn::INVALID).stop.unwrap();
        assert_eq!((after.record.lsn, after.replayed), (end.lsn, true));
        assert_eq!(after.end_of_replay, end.next);
        assert_eq!(after.record.kind.xid(), Some(end.xid));
        assert_eq!(
            matches!(after.record.kind, PassedRecordKind::Commit { .. }),
            end.committed
        );
        let before = stopped(&bytes, xid(), false, Lsn::INVALID).stop.unwrap();
        assert_eq!((before.record.lsn, before.replayed), (end.lsn, false));
        assert!(before.end_of_replay <= end.lsn);
    }
    let none = RecoveryTargetKind::Xid(TransactionId::new(999_999).unwrap());
    assert!(stopped(&bytes, none, true, Lsn::INVALID).stop.is_none());
}

#[test]
fn an_lsn_is_that_of_a_records_beginning() {
    let bytes = bytes();
    let mut places = Vec::new();
    each_record(&bytes, |record| {
        places.push((record.lsn(), record.end_lsn()))
    });
    for window in places.windows(3).step_by(29) {
        let [before, (lsn, next), _] = window else {
            unreachable!()
        };
        // one byte behind the record before: the same record is the first from there on
        for wanted in [*lsn, Lsn::new(before.0.get() + 1)] {
            let kind = || RecoveryTargetKind::Lsn(wanted);
            let after = stopped(&bytes, kind(), true, Lsn::INVALID).stop.unwrap();
            assert_eq!((after.record.lsn, after.end_of_replay), (*lsn, *next));
            let stop = stopped(&bytes, kind(), false, Lsn::INVALID).stop.unwrap();
            assert_eq!((stop.record.lsn, stop.end_of_replay), (*lsn, before.1));
        }
    }
    let (last, end) = *places.last().unwrap();
    let beyond = RecoveryTargetKind::Lsn(end);
    assert!(stopped(&bytes, beyond, false, Lsn::INVALID).stop.is_none());
    let at_last = RecoveryTargetKind::Lsn(last);
    assert!(stopped(&bytes, at_last, true, Lsn::INVALID).stop.is_some());
}

#[test]
fn before_consistency_a_stop_is_told_as_such() {
    let bytes = bytes();
    let ends = ends(&bytes);
    let end = &ends[ends.len() / 2];
    let xid = || RecoveryTargetKind::Xid(TransactionId::new(end.xid).unwrap());
    let consistent = |inclusive, from| {
        let found = stopped(&bytes, xid(), inclusive, from);
        found.stop.unwrap().consistent
    };
    assert!(consistent(true, end.next));
    assert!(!consistent(false, end.next));
    assert!(!consistent(true, Lsn::new(end.next.get() + 1)));
}

#[test]
fn the_first_consistent_point_is_after_a_transactions_end_or_before_the_next_record() {
    let bytes = bytes();
    let mut places = Vec::new();
    each_record(&bytes, |record| {
        let transaction = matches!(record.contents(), Ok(RecordContents::Transaction(_)));
        places.push((record.lsn(), record.end_lsn(), transaction));
    });
    let (mut after, mut before) = (0, 0);
    for pair in places.windows(2) {
        let [(lsn, end, transaction), (next, ..)] = pair else {
            unreachable!()
        };
        let found = stopped(&bytes, RecoveryTargetKind::Immediate, true, *end);
        let stop = found.stop.unwrap();
        assert_eq!(stop.end_of_replay, *end);
        assert!(stop.consistent);
        if *transaction {
            assert_eq!((stop.record.lsn, stop.replayed), (*lsn, true));
            after += 1;
        } else {
            assert_eq!((stop.record.lsn, stop.replayed), (*next, false));
            before += 1;
        }
    }
    assert!(after > 0 && before > 0);
    // no record after it: the server looks before a record, and there is none
    let (_, end, transaction) = *places.last().unwrap();
    assert!(!transaction);
    let found = stopped(&bytes, RecoveryTargetKind::Immediate, true, end);
    assert!(found.stop.is_none());
}

#[test]
fn a_restore_point_is_replayed_and_must_bear_the_very_name() {
    let bytes = bytes();
    let mut points = Vec::new();
    each_record(&bytes, |record| {
        if let Ok(RecordContents::Xlog(pitr_core::XlogRecord::RestorePoint { name, .. })) =
            record.contents()
        {
            points.push((record.lsn(), String::from_utf8(name.to_vec()).unwrap()));
        }
    });
    assert!(!points.is_empty());
    for (_, name) in &points {
        let first = points.iter().find(|(_, other)| other == name).unwrap();
        let kind = RecoveryTargetKind::Name(RestorePointName::new(name.as_str()).unwrap());
        let stop = stopped(&bytes, kind, true, Lsn::INVALID).stop.unwrap();
        assert_eq!((stop.record.lsn, stop.replayed), (first.0, true));
    }
    let other = RecoveryTargetKind::Name(RestorePointName::new("no such point").unwrap());
    assert!(stopped(&bytes, other, true, Lsn::INVALID).stop.is_none());
}

#[test]
fn a_summary_tells_which_transactions_end_in_the_segment() {
    let bytes = bytes();
    let name = "000000010000000000000004".parse().unwrap();
    let size = pitr_core::WalSegmentSize::new(bytes.len() as u64).unwrap();
    let mut builder = pitr_core::SegmentSummaryBuilder::new(name, size).unwrap();
    builder.feed(&bytes);
    let summary = builder.finish();
    let span = summary.ended_xids.unwrap();
    let ends = ends(&bytes);
    let xids = || ends.iter().map(|end| end.xid);
    assert_eq!(
        (span.lowest, span.highest),
        (xids().min().unwrap(), xids().max().unwrap())
    );
    for xid in xids() {
        assert!(span.contains(TransactionId::new(xid).unwrap()));
    }
    for other in [span.lowest - 1, span.highest + 1, u32::MAX] {
        assert!(!span.contains(TransactionId::new(other).unwrap()));
    }
    let running = summary.running.unwrap();
    assert!(running.oldest_running_xid <= running.next_xid);
    assert!(running.next_xid > span.lowest);
}
