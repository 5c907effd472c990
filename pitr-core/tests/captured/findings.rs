//! What happened in the captured segments, by the log alone.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashSet;
use std::sync::Arc;

use pitr_core::{
    DigestBuilder, Finding, Follower, FoundEvent, Interest, NoCatalogFiles, PageHeader,
    PostgresMajor, SegmentNumber, SegmentSummary, SegmentSummaryBuilder, Thresholds,
};

use crate::wal::segment;

fn findings(major: u16) -> Vec<Finding> {
    let bytes = segment(major, "000000010000000000000004.gz");
    let header = PageHeader::parse(&bytes).unwrap();
    let size = header.long.unwrap().segment_size;
    let first = SegmentNumber::containing(header.page_address, size);
    let quiet_micros = i64::MAX;
    let interest = Interest {
        catalog_files: HashSet::new(),
        rows: true,
        quiet_micros,
    };
    let mut builder = DigestBuilder::new(first, first.end(size), size, Arc::new(interest));
    for chunk in bytes.chunks(5000) {
        builder.feed(chunk);
    }
    assert!(!builder.wants_more());
    let thresholds = Thresholds {
        min_rows: 10,
        long_micros: i64::MAX,
        large_bytes: u64::MAX,
        drops_only: false,
        xid: None,
    };
    let major = PostgresMajor::new(major).unwrap();
    let mut follower = Follower::new(Box::new(NoCatalogFiles), major, thresholds, quiet_micros);
    follower.follow(&builder.finish());
    follower.findings()
}

fn said(finding: &Finding) -> String {
    let names = |finding: &Finding| {
        let objects = finding.event.objects();
        let names: Vec<String> = objects
            .iter()
            .map(|object| format!("{} {}", object.kind, object.name.as_deref().unwrap_or("?")))
            .collect();
        names.join(", ")
    };
    match &finding.event {
        FoundEvent::RestorePoint { name } => format!("restore point {name}"),
        FoundEvent::Delete { rows, .. } => format!("delete {rows} of {}", names(finding)),
        event => format!("{} {}", event.kind(), names(finding)),
    }
}

/// Rolled-back drops, a truncated table of the same transaction and whatever
/// `VACUUM FULL` does to catalogs are not among them.
#[test]
fn the_scenario_is_told_as_it_was_written() {
    for major in [13, 14] {
        let said: Vec<String> = findings(major).iter().map(said).collect();
        assert_eq!(
            said,
            [
                "drop table victim, index victim_pkey",
                "truncate table tr",
                "delete 10 of table tr",
                "drop table tc",
                "drop sequence sq",
                "drop_database database ?",
                "restore point rp two",
            ],
            "{major}"
        );
    }
}

/// By it a search knows which segments it need not read.
#[test]
fn a_summary_tells_whether_catalogs_were_changed() {
    let bytes = segment(14, "000000010000000000000004.gz");
    let header = PageHeader::parse(&bytes).unwrap();
    let size = header.long.unwrap().segment_size;
    let name = "000000010000000000000004".parse().unwrap();
    let mut builder = SegmentSummaryBuilder::new(name, size).unwrap();
    builder.feed(&bytes);
    let summary = builder.finish();
    let changes = summary.catalog_changes.as_ref().unwrap();
    assert!(changes.records > 10, "{changes:?}");
    // VACUUM FULL pg_class
    assert_eq!(changes.moved.len(), 1, "{changes:?}");
    // what an earlier version wrote does not say
    let mut json = serde_json::to_value(&summary).unwrap();
    json.as_object_mut().unwrap().remove("catalog_changes");
    let earlier: SegmentSummary = serde_json::from_value(json).unwrap();
    assert_eq!(earlier.catalog_changes, None);
}
