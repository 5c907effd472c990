//! The control file, with `pg_controldata` as the oracle.

use std::collections::BTreeMap;

use pitr_core::{ClusterState, ControlFile, ControlFileError, Lsn, TimelineId, Timestamp};

use crate::{MAJORS, captured, captured_text};

const STATES: [(&str, ClusterState); 3] = [
    ("production", ClusterState::InProduction),
    ("recovery", ClusterState::InArchiveRecovery),
    ("shutdown", ClusterState::ShutDown),
];

/// What `pg_controldata` would print of `control`, by the names that it prints.
fn as_pg_controldata(control: &ControlFile) -> BTreeMap<&'static str, String> {
    let on = |flag: bool| if flag { "on" } else { "off" }.to_owned();
    let timeline = |timeline: Option<TimelineId>| timeline.map_or(0, TimelineId::get).to_string();
    let time = |time: Timestamp| {
        time.to_datetime()
            .expect("the time is of our days")
            .format("%a %b %e %H:%M:%S %Y")
            .to_string()
    };
    let copy = &control.checkpoint_copy;
    let settings = &control.required_settings;
    BTreeMap::from([
        (
            "pg_control version number",
            control.control_version.to_string(),
        ),
        (
            "Catalog version number",
            control.catalog_version.to_string(),
        ),
        (
            "Database system identifier",
            control.system_identifier.to_string(),
        ),
        ("Database cluster state", control.state.as_str().to_owned()),
        ("pg_control last modified", time(control.updated)),
        ("Latest checkpoint location", control.checkpoint.to_string()),
        (
            "Latest checkpoint's REDO location",
            control.redo().to_string(),
        ),
        (
            "Latest checkpoint's TimeLineID",
            control.timeline().to_string(),
        ),
        (
            "Latest checkpoint's PrevTimeLineID",
            copy.previous_timeline.to_string(),
        ),
        (
            "Latest checkpoint's full_page_writes",
            on(copy.full_page_writes),
        ),
        (
            "Latest checkpoint's NextXID",
            format!("{}:{}", copy.next_xid >> 32, copy.next_xid & 0xFFFF_FFFF),
        ),
        ("Latest checkpoint's NextOID", copy.next_oid.to_string()),
        (
            "Latest checkpoint's NextMultiXactId",
            copy.next_multi.to_string(),
        ),
        (
            "Latest checkpoint's NextMultiOffset",
            copy.next_multi_offset.to_string(),
        ),
        ("Latest checkpoint's oldestXID", copy.oldest_xid.to_string()),
        (
            "Latest checkpoint's oldestXID's DB",
            copy.oldest_xid_database.to_string(),
        ),
        (
            "Latest checkpoint's oldestActiveXID",
            copy.oldest_active_xid.to_string(),
        ),
        (
            "Latest checkpoint's oldestMultiXid",
            copy.oldest_multi.to_string(),
        ),
        (
            "Latest checkpoint's oldestMulti's DB",
            copy.oldest_multi_database.to_string(),
        ),
        (
            "Latest checkpoint's oldestCommitTsXid",
            copy.oldest_commit_timestamp_xid.to_string(),
        ),
        (
            "Latest checkpoint's newestCommitTsXid",
            copy.newest_commit_timestamp_xid.to_string(),
        ),
        ("Time of latest checkpoint", time(copy.time)),
        (
            "Fake LSN counter for unlogged rels",
            control.unlogged_lsn.to_string(),
        ),
        (
            "Minimum recovery ending location",
            control.min_recovery_point.to_string(),
        ),
        (
            "Min recovery ending loc's timeline",
            timeline(control.min_recovery_timeline),
        ),
        ("Backup start location", control.backup_start.to_string()),
        ("Backup end location", control.backup_end.to_string()),
        (
            "End-of-backup record required",
            if control.backup_end_required {
                "yes"
            } else {
                "no"
            }
            .to_owned(),
        ),
        ("wal_level setting", control.wal_level.as_str().to_owned()),
        ("wal_log_hints setting", on(control.wal_log_hints)),
        (
            "max_connections setting",
            settings.max_connections.to_string(),
        ),
        (
            "max_worker_processes setting",
            settings.max_worker_processes.to_string(),
        ),
        (
            "max_wal_senders setting",
            settings.max_wal_senders.to_string(),
        ),
        (
            "max_prepared_xacts setting",
            settings.max_prepared_transactions.to_string(),
        ),
        (
            "max_locks_per_xact setting",
            settings.max_locks_per_transaction.to_string(),
        ),
        (
            "track_commit_timestamp setting",
            on(control.track_commit_timestamp),
        ),
        ("Database block size", control.block_size.to_string()),
        (
            "Blocks per segment of large relation",
            control.relation_segment_blocks.to_string(),
        ),
        ("WAL block size", control.wal_block_size.to_string()),
        (
            "Bytes per WAL segment",
            control.wal_segment_size.bytes().to_string(),
        ),
        (
            "Data page checksum version",
            control.data_checksum_version.to_string(),
        ),
    ])
}

#[test]
fn every_field_is_what_pg_controldata_prints() {
    for major in MAJORS {
        for (name, state) in STATES {
            let control =
                ControlFile::parse(&captured(major, &format!("pg_control.{name}"))).unwrap();
            assert_eq!(control.major.get(), major);
            assert_eq!(control.state, state);
            let printed = captured_text(major, &format!("pg_control.{name}.txt"));
            let printed: BTreeMap<&str, &str> = printed
                .lines()
                .filter_map(|line| line.split_once(':'))
                .map(|(field, value)| (field, value.trim()))
                .collect();
            for (field, ours) in as_pg_controldata(&control) {
                assert_eq!(
                    printed.get(field),
                    Some(&ours.as_str()),
                    "{field} of {major} {name}"
                );
            }
        }
    }
}

#[test]
fn a_standbys_control_file_says_how_far_to_replay() {
    for major in MAJORS {
        let control = ControlFile::parse(&captured(major, "pg_control.recovery")).unwrap();
        assert!(control.min_recovery_point > Lsn::INVALID);
        assert_eq!(control.min_recovery_timeline, Some(TimelineId::FIRST));
    }
}

#[test]
fn a_real_file_that_is_torn_is_told_as_damaged() {
    for major in MAJORS {
        let mut torn = captured(major, "pg_control.production");
        let later = captured(major, "pg_control.shutdown");
        torn[..64].copy_from_slice(&later[..64]);
        assert!(matches!(
            ControlFile::parse(&torn),
            Err(ControlFileError::Checksum { .. })
        ));
    }
}
