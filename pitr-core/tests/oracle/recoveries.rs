//! Logs of servers that crashed, and of servers that recovered onto a new timeline.

use std::path::PathBuf;

use pitr_core::{Lsn, RecordContents, TimelineId, XlogRecord};
use pitr_testbed::{Cluster, PostgresInstall, StopMode};

use crate::segments::{self, Segment};

fn cluster(install: &PostgresInstall) -> Cluster {
    let mut cluster = Cluster::builder(install)
        .segment_size(1 << 20)
        .setting("wal_keep_size", "1GB")
        .setting("autovacuum", "off")
        .create()
        .expect("a cluster");
    cluster.start().expect("a server");
    cluster
}

fn position(cluster: &Cluster) -> Lsn {
    let text = cluster.sql("SELECT pg_current_wal_insert_lsn()");
    text.parse().expect("an LSN")
}

fn wal(cluster: &Cluster) -> PathBuf {
    cluster.data_dir().join("pg_wal")
}

/// What the log says of itself from the first of these segments on, by one reader.
fn told(run: &[Segment], each: &mut dyn FnMut(&XlogRecord<'_>)) -> (Lsn, TimelineId) {
    let mut reader = run[0].reader().may_end();
    let mut prev = None;
    for segment in run {
        let mut records = reader.feed(&segment.bytes);
        while let Some(record) = records.next_record() {
            let record = record.unwrap_or_else(|damage| panic!("{}: {damage}", segment.name));
            assert!(prev.is_none() || prev == Some(record.header().prev));
            prev = Some(record.lsn());
            if let Ok(RecordContents::Xlog(xlog)) = record.contents() {
                each(&xlog);
            }
        }
    }
    let end = reader.end_of_log().expect("an end");
    (end.good_until(), reader.timeline())
}

#[test]
fn one_reader_follows_a_log_onto_a_new_timeline() {
    for install in PostgresInstall::all_found() {
        let mut cluster = cluster(&install);
        cluster.execute("CREATE TABLE t AS SELECT n FROM generate_series(1, 30000) n");
        cluster.stop(StopMode::Fast).unwrap();
        // recovery from an archive that has nothing: it ends where the log does
        cluster.configure("restore_command", "false").unwrap();
        let signal = cluster.data_dir().join("recovery.signal");
        std::fs::write(&signal, "").unwrap();
        pitr_testbed::chown_to_server_user(&signal).unwrap();
        cluster.start().unwrap();
        cluster
            .wait_for_sql(
                "SELECT NOT pg_is_in_recovery()",
                std::time::Duration::from_secs(60),
            )
            .unwrap();
        cluster.execute("INSERT INTO t SELECT n FROM generate_series(1, 30000) n; CHECKPOINT");
        cluster.stop(StopMode::Fast).unwrap();

        let (child, parent): (Vec<_>, Vec<_>) = segments::in_folder(&wal(&cluster))
            .into_iter()
            .partition(|segment| segment.name.timeline() > TimelineId::FIRST);
        // the child's first segment begins with the parent's pages
        let branch = child[0].number();
        assert_eq!(child[0].header().timeline, TimelineId::FIRST);
        let path: Vec<Segment> = parent
            .into_iter()
            .filter(|segment| segment.number() < branch)
            .chain(child)
            .collect();
        assert!(path.len() >= 4, "{}", path.len());
        let mut begun = Vec::new();
        let (_, timeline) = told(&path, &mut |xlog| match xlog {
            XlogRecord::EndOfRecovery(end) => begun.push((end.timeline, end.previous_timeline)),
            XlogRecord::CheckpointShutdown(checkpoint)
                if checkpoint.timeline != checkpoint.previous_timeline =>
            {
                begun.push((checkpoint.timeline, checkpoint.previous_timeline));
            }
            _ => {}
        });
        let second = TimelineId::new(2).unwrap();
        assert_eq!(timeline, second);
        assert_eq!(begun[0], (second, TimelineId::FIRST), "{}", install.major());
    }
}

#[test]
fn a_record_that_a_crash_tore_is_no_damage() {
    for install in PostgresInstall::all_found() {
        let mut cluster = cluster(&install);
        cluster.execute("CREATE TABLE t (n int)");
        let before = position(&cluster);
        cluster.execute(
            "SELECT length(pg_logical_emit_message(true, 'big', repeat('much ', 700000))::text)",
        );
        cluster.kill_9();
        // the crash took what was written last: all segments but the one that the record begins in
        let folder = wal(&cluster);
        let written = segments::in_folder(&folder);
        let torn = before.get() >> 20;
        for segment in written
            .iter()
            .filter(|segment| segment.number().get() > torn)
        {
            std::fs::remove_file(folder.join(segment.name.to_string())).unwrap();
        }
        cluster.start().unwrap();
        cluster.execute("INSERT INTO t SELECT n FROM generate_series(1, 30000) n");
        let end = position(&cluster);
        cluster.stop(StopMode::Immediate).unwrap();

        let run = segments::in_folder(&folder);
        assert!(run.iter().any(|segment| segment.number().get() == torn));
        let mut overwritten = Vec::new();
        let (found_end, _) = told(&run, &mut |xlog| {
            if let XlogRecord::OverwriteContrecord {
                overwritten: lsn, ..
            } = xlog
            {
                overwritten.push(*lsn);
            }
        });
        assert!(found_end >= end);
        assert_eq!(overwritten.len(), 1, "{}", install.major());
        assert!(overwritten[0] >= before);
    }
}
