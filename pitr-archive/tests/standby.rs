//! Several servers of one cluster that archive into one repository.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where something that it needs fails"
)]

use std::time::Duration;

use pitr_testbed::{Cluster, PostgresInstall, Site, StopMode};

const LIMIT: Duration = Duration::from_secs(60);

/// Nothing that a server offered was ever refused.
fn never_failed(server: &Cluster) {
    assert_eq!(
        server.sql("SELECT failed_count FROM pg_stat_archiver"),
        "0",
        "{}",
        server.log()
    );
    assert!(!server.log().contains("ERROR:  "), "{}", server.log());
}

fn archived(server: &Cluster, name: &str) {
    server
        .wait_until(name, LIMIT, |server| {
            let status = server.data_dir().join("pg_wal/archive_status");
            status.join(format!("{name}.done")).exists()
        })
        .unwrap();
}

#[test]
fn a_standby_that_archives_always_never_disagrees_with_its_primary() {
    let install = PostgresInstall::any().unwrap();
    let site = Site::new().unwrap();
    let mut primary = site
        .archiving(Cluster::builder(&install).segment_size(1 << 20))
        .create()
        .unwrap();
    primary.start().unwrap();
    let copy = site.dir().join("standby");
    let copied = install
        .command("pg_basebackup")
        .unwrap()
        .args(["-R", "-Xs", "-c", "fast", "-d", &primary.conninfo(), "-D"])
        .arg(&copy)
        .output()
        .unwrap();
    assert!(copied.status.success());
    let mut standby = Cluster::adopt(&install, &copy).unwrap();
    standby.configure("archive_mode", "always").unwrap();
    standby.start().unwrap();

    // both offer the same segments at the same time
    primary.execute("CREATE TABLE t (i int)");
    for _ in 0..8 {
        primary.execute("INSERT INTO t SELECT generate_series(1, 20000)");
        primary.execute("SELECT pg_switch_wal()");
    }
    primary.execute("INSERT INTO t VALUES (0)");
    let last = primary.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    primary.execute("SELECT pg_switch_wal()");
    archived(&primary, &last);
    archived(&standby, &last);
    never_failed(&primary);
    never_failed(&standby);

    // the primary dies in the middle of a segment, and the standby goes on
    primary.execute("INSERT INTO t VALUES (1)");
    let end = primary.sql("SELECT pg_current_wal_lsn()");
    standby
        .wait_for_sql(
            &format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"),
            LIMIT,
        )
        .unwrap();
    let torn = primary.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    primary.kill_9();
    standby.promote().unwrap();
    standby.execute("INSERT INTO t VALUES (2)");
    let first = standby.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    standby.execute("SELECT pg_switch_wal()");
    archived(&standby, "00000002.history");
    archived(&standby, &format!("{torn}.partial"));
    archived(&standby, &first);
    never_failed(&standby);

    // what is offered once more is taken once more, as after a crash
    let mut offered = 0;
    for name in [last.as_str(), &first, "00000002.history"] {
        let status = standby.data_dir().join("pg_wal/archive_status");
        let (done, ready) = (
            status.join(format!("{name}.done")),
            status.join(format!("{name}.ready")),
        );
        if standby.data_dir().join("pg_wal").join(name).exists() {
            std::fs::rename(done, ready).unwrap();
            offered += 1;
        }
    }
    assert!(offered >= 2, "{offered}");
    standby.execute("INSERT INTO t VALUES (3)");
    standby.execute("SELECT pg_switch_wal()");
    archived(&standby, &first);
    archived(&standby, "00000002.history");
    never_failed(&standby);

    // and the old primary, started by mistake, cannot change what is there
    primary.start().unwrap();
    primary.execute("INSERT INTO t VALUES (4)");
    primary.execute("SELECT pg_switch_wal()");
    archived(&primary, &torn);
    never_failed(&primary);
}

#[test]
fn a_backup_brings_the_history_that_was_archived_elsewhere() {
    for install in PostgresInstall::all_found() {
        let site = Site::new().unwrap();
        let mut cluster = site
            .archiving(Cluster::builder(&install).segment_size(1 << 20))
            .create()
            .unwrap();
        cluster.configure("archive_command", "/bin/true").unwrap();
        cluster.start().unwrap();
        cluster.stop(StopMode::Fast).unwrap();
        std::fs::write(cluster.data_dir().join("standby.signal"), "").unwrap();
        cluster.start().unwrap();
        cluster.promote().unwrap();
        archived(&cluster, "00000002.history");
        cluster
            .configure("archive_command", &site.archive_command())
            .unwrap();
        cluster.reload().unwrap();

        let output = site
            .run(
                site.archive()
                    .unwrap()
                    .args(["backup", "-d", &cluster.conninfo()]),
            )
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", install.version());
        assert!(said.contains("stored \"00000002.history\""), "{said}");
        let history = cluster.data_dir().join("pg_wal/00000002.history");
        let history = std::fs::read(history).unwrap();
        let identifier = cluster.sql("SELECT system_identifier FROM pg_control_system()");
        let stored = site.repo().join(identifier).join("wal/00000002.history");
        assert_eq!(std::fs::read(stored).unwrap(), history);
        never_failed(&cluster);
    }
}
