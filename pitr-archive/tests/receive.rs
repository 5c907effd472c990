//! `pitr-archive receive` beside real servers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where something that it needs fails"
)]

mod receiving;

use std::time::Duration;

use pitr_testbed::{Cluster, PostgresInstall, Site, StopMode};
use receiving::{LIMIT, Scene, segments};

const MIB: u64 = 1 << 20;

#[test]
fn what_is_received_is_what_archive_command_archives_byte_for_byte() {
    for install in PostgresInstall::all_found() {
        let site = Site::new().unwrap();
        let scene = Scene::of(site, &install, |builder| builder);
        // a repository of its own, so that neither can copy from the other
        let second = scene.repository("received");
        let receiver = scene.receive_into(&second, &["--slot", "pitr", "--create-slot"]);
        receiver.wait_for_line("receiving from");
        scene.cluster.execute("CREATE TABLE t (i int, t text)");
        for _ in 0..4 {
            scene
                .cluster
                .execute("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 12000) i");
            scene.cluster.execute("SELECT pg_switch_wal()");
        }
        let last = scene.cluster.archive_all().unwrap();
        scene.wait_published(&second, &last);
        let archived = segments(&scene.site.repo());
        let received = segments(&second);
        let common: Vec<&String> = received
            .keys()
            .filter(|name| archived.contains_key(*name))
            .collect();
        assert!(common.len() >= 5, "{}: {common:?}", install.version());
        for name in common {
            // not as a comparison that would print them
            assert!(
                archived[name] == received[name],
                "{}: {name} differs",
                install.version()
            );
        }
        // and into one repository side by side, nothing is refused
        let said = receiver.stop();
        let both = scene.receive_into(&scene.site.repo(), &["--slot", "pitr"]);
        both.wait_for_line("receiving from");
        for _ in 0..3 {
            scene
                .cluster
                .execute("INSERT INTO t SELECT i, '' FROM generate_series(1, 9000) i");
            scene.cluster.execute("SELECT pg_switch_wal()");
        }
        let last = scene.cluster.archive_all().unwrap();
        scene.wait_spool_is_empty_up_to(&last);
        assert_eq!(
            scene
                .cluster
                .sql("SELECT failed_count FROM pg_stat_archiver"),
            "0"
        );
        let also_said = both.stop();
        for said in [said, also_said] {
            assert!(
                !said.contains("WARNING") && !said.contains("ERROR"),
                "{said}"
            );
        }
    }
}

#[test]
fn a_commit_that_was_acknowledged_survives_the_loss_of_the_server() {
    let install = PostgresInstall::any().unwrap();
    let mut scene = Scene::of(Site::new().unwrap(), &install, |builder| {
        builder.setting("archive_mode", "off")
    });
    let receiver = scene.receive(&["--slot", "pitr", "--create-slot"]);
    receiver.wait_for_line("receiving from");
    scene.cluster.execute("CREATE TABLE t (i int)");
    scene.backup();
    scene.be_synchronous();
    for i in 0..40 {
        scene
            .cluster
            .execute(&format!("INSERT INTO t VALUES ({i})"));
    }
    scene.cluster.kill_9();
    std::fs::remove_dir_all(scene.cluster.data_dir()).unwrap();
    drop(receiver.kill());

    let copy = scene.restore();
    assert_eq!(copy.sql("SELECT count(*) FROM t"), "40");
    // without the spool it is not: so it was the unfinished segment that had it
    let archived = segments(&scene.site.repo());
    assert!(!archived.is_empty());
}

#[test]
fn every_acknowledged_transaction_outlives_kills_of_everybody() {
    let install = PostgresInstall::any().unwrap();
    let mut scene = Scene::of(Site::new().unwrap(), &install, |builder| {
        builder.setting("wal_sender_timeout", "5s")
    });
    let mut receiver = scene.receive(&["--slot", "pitr", "--create-slot"]);
    receiver.wait_for_line("receiving from");
    scene.cluster.execute("CREATE TABLE t (i int, filler text)");
    scene.backup();
    scene.be_synchronous();
    let mut acknowledged = 0;
    for round in 0..6 {
        let writer = scene.writer(acknowledged);
        std::thread::sleep(Duration::from_millis(300 + 170 * round));
        if round % 2 == 0 {
            drop(receiver.kill());
            std::thread::sleep(Duration::from_millis(100));
            receiver = scene.receive(&["--slot", "pitr", "--create-slot"]);
            std::thread::sleep(Duration::from_millis(400));
        }
        if round % 3 != 1 {
            scene.cluster.kill_9();
        }
        acknowledged = writer.stop();
        if round % 3 != 1 {
            scene.cluster.start().unwrap();
        }
    }
    assert!(acknowledged > 20, "{acknowledged}");
    scene.cluster.kill_9();
    drop(receiver.kill());
    std::fs::remove_dir_all(scene.cluster.data_dir()).unwrap();
    let copy = scene.restore();
    let missing = copy.sql(&format!(
        "SELECT count(*) FROM generate_series(1, {acknowledged}) i \
         WHERE NOT EXISTS (SELECT FROM t WHERE t.i = i.i)"
    ));
    assert_eq!(missing, "0", "of {acknowledged}");
}

#[test]
fn a_promoted_server_is_followed_onto_its_timeline() {
    let install = PostgresInstall::any().unwrap();
    let mut scene = Scene::of(Site::new().unwrap(), &install, |builder| builder);
    let copy = scene.site.dir().join("standby");
    let copied = install
        .command("pg_basebackup")
        .unwrap()
        .args([
            "-R",
            "-Xs",
            "-c",
            "fast",
            "-d",
            &scene.cluster.conninfo(),
            "-D",
        ])
        .arg(&copy)
        .output()
        .unwrap();
    assert!(copied.status.success());
    scene.backup();
    let mut standby = Cluster::adopt(&install, &copy).unwrap();
    standby.start().unwrap();
    scene.cluster.execute("CREATE TABLE t (i int)");
    scene.cluster.execute("INSERT INTO t VALUES (1)");
    let end = scene.cluster.sql("SELECT pg_current_wal_lsn()");
    standby
        .wait_for_sql(
            &format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"),
            LIMIT,
        )
        .unwrap();

    // received from the standby while it becomes a primary
    let receiver = scene.receive_from(
        &standby,
        &scene.site.repo(),
        &["--slot", "pitr", "--create-slot"],
    );
    receiver.wait_for_line("receiving from");
    scene.cluster.stop(StopMode::Fast).unwrap();
    standby.promote().unwrap();
    standby.execute("INSERT INTO t VALUES (2)");
    receiver.wait_for_line("timeline 2 follows");
    standby.execute("SELECT pg_switch_wal()");
    standby.execute("INSERT INTO t VALUES (3)");
    let last = standby.archive_all().unwrap();
    scene.wait_spool_is_empty_up_to(&last);
    // the unfinished segment of timeline 1 is in that of timeline 2, and was removed
    assert_eq!(scene.partials_of_timeline("00000001"), Vec::<String>::new());
    assert_eq!(
        standby.sql("SELECT failed_count FROM pg_stat_archiver"),
        "0"
    );
    let history = std::fs::read(standby.data_dir().join("pg_wal/00000002.history")).unwrap();
    assert_eq!(segments(&scene.site.repo())["00000002.history"], history);
    let said = receiver.stop();
    assert!(!said.contains("WARNING"), "{said}");

    drop(standby);
    let copy = scene.restore();
    assert_eq!(
        copy.sql("SELECT string_agg(i::text, ',' ORDER BY i) FROM t"),
        "1,2,3"
    );
}

#[test]
fn a_slot_that_was_lost_is_named_and_nothing_goes_on_silently() {
    for major in [15, 18] {
        let Ok(install) = PostgresInstall::find(major) else {
            continue;
        };
        let mut scene = Scene::of(Site::new().unwrap(), &install, |builder| {
            builder
                .setting("archive_mode", "off")
                .setting("max_slot_wal_keep_size", "1MB")
                .setting("wal_keep_size", "0")
                .setting("min_wal_size", "2MB")
                .setting("max_wal_size", "2MB")
        });
        let receiver = scene.receive(&["--slot", "pitr", "--create-slot"]);
        receiver.wait_for_line("receiving from");
        scene.cluster.execute("CREATE TABLE t (t text)");
        receiver.stop();
        for _ in 0..6 {
            scene
                .cluster
                .execute("INSERT INTO t SELECT md5(i::text) FROM generate_series(1, 9000) i");
            scene.cluster.execute("SELECT pg_switch_wal()");
            scene.cluster.execute("CHECKPOINT");
        }
        assert_eq!(
            scene
                .cluster
                .sql("SELECT wal_status FROM pg_replication_slots"),
            "lost"
        );
        let (status, said) = scene.receive(&["--slot", "pitr"]).wait();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(
            said.contains("replication slot \"pitr\" was lost"),
            "{major}: {said}"
        );
        assert!(
            said.contains("HINT:") && said.contains("base backup"),
            "{said}"
        );
        // as the hint says
        let (status, said) = scene.receive(&["--slot", "pitr", "--drop-slot"]).wait();
        assert!(status.success(), "{said}");
        let receiver = scene.receive(&["--slot", "pitr", "--create-slot"]);
        receiver.wait_for_line("receiving from");
        let said = receiver.stop();
        assert!(
            said.contains("WARNING") && said.contains("is missing"),
            "{said}"
        );
        scene.cluster.stop(StopMode::Immediate).unwrap();
    }
}

#[test]
fn a_slot_that_is_not_there_is_an_error_unless_it_may_be_made() {
    let install = PostgresInstall::any().unwrap();
    let scene = Scene::of(Site::new().unwrap(), &install, |builder| builder);
    let (status, said) = scene.receive(&["--slot", "nobody"]).wait();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("\"nobody\" does not exist") && said.contains("--create-slot"),
        "{said}"
    );
    let (status, said) = scene.receive(&["--slot", "No Body"]).wait();
    assert_eq!(status.code(), Some(1), "{said}");
    let receiver = scene.receive(&["--temporary-slot"]);
    receiver.wait_for_line("receiving from");
    assert_eq!(
        scene
            .cluster
            .sql("SELECT temporary, active FROM pg_replication_slots"),
        "t|t"
    );
    receiver.stop();
    scene
        .cluster
        .wait_for_sql("SELECT count(*) = 0 FROM pg_replication_slots", LIMIT)
        .unwrap();
}

#[test]
fn a_server_that_restarts_is_found_again_and_a_second_receiver_is_refused() {
    for major in [14, 15] {
        let Ok(install) = PostgresInstall::find(major) else {
            continue;
        };
        let mut scene = Scene::of(Site::new().unwrap(), &install, |builder| builder);
        let receiver = scene.receive(&["--slot", "pitr", "--create-slot"]);
        receiver.wait_for_line("receiving from");
        let (status, said) = scene.receive(&["--slot", "pitr"]).wait();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("another receiver of cluster"), "{said}");
        scene.cluster.execute("CREATE TABLE t (i int)");
        scene.cluster.stop(StopMode::Fast).unwrap();
        receiver.wait_for_line("not receiving");
        scene.cluster.start().unwrap();
        scene.be_synchronous();
        scene.cluster.execute("INSERT INTO t VALUES (1)");
        let said = receiver.stop();
        assert!(said.contains("connection to the server was lost"), "{said}");
        assert!(said.contains("stopped receiving"), "{said}");
    }
}

#[test]
fn systemd_hears_when_the_log_streams_and_when_it_stops() {
    let install = PostgresInstall::any().unwrap();
    let scene = Scene::of(Site::new().unwrap(), &install, |builder| builder);
    let path = scene.site.dir().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let anybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&path, anybody).unwrap();
    let receiver = scene.receive_notifying(&path);
    let mut heard = String::new();
    let mut hear = |until: &str| {
        while !heard.contains(until) {
            let mut message = [0; 1024];
            let length = socket.recv(&mut message).unwrap();
            heard.push_str(&String::from_utf8_lossy(&message[..length]));
        }
    };
    hear("STATUS=receiving from");
    hear("READY=1");
    receiver.stop();
    hear("STOPPING=1");
}

#[test]
fn a_repository_that_is_away_does_not_keep_the_server_waiting() {
    let install = PostgresInstall::any().unwrap();
    let scene = Scene::of(Site::new().unwrap(), &install, |builder| {
        builder
            .setting("wal_sender_timeout", "2s")
            .setting("archive_mode", "off")
    });
    let receiver = scene.receive(&["--slot", "pitr", "--create-slot"]);
    receiver.wait_for_line("receiving from");
    scene.cluster.execute("CREATE TABLE t (t text)");
    scene.be_synchronous();
    let repo = scene.site.repo();
    let away = repo.with_extension("away");
    std::fs::rename(&repo, &away).unwrap();
    let sender = scene.cluster.sql("SELECT pid FROM pg_stat_replication");
    for _ in 0..3 {
        scene
            .cluster
            .execute("INSERT INTO t SELECT md5(i::text) FROM generate_series(1, 9000) i");
        scene.cluster.execute("SELECT pg_switch_wal()");
    }
    receiver.wait_for_line("could not publish");
    // three times as long as the server waits for an answer
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(
        scene.cluster.sql("SELECT pid FROM pg_stat_replication"),
        sender
    );
    let last = scene
        .cluster
        .sql("SELECT pg_walfile_name(pg_switch_wal() - 1)");
    std::fs::rename(&away, &repo).unwrap();
    scene.wait_spool_is_empty_up_to(&last);
    receiver.stop();
}

#[test]
fn a_full_spool_stops_the_confirming_and_says_so() {
    let install = PostgresInstall::any().unwrap();
    let scene = Scene::of(Site::new().unwrap(), &install, |builder| {
        builder.setting("archive_mode", "off")
    });
    let Some(_small) = scene.mount_spool(4 * MIB) else {
        return eprintln!("skipped: no tmpfs can be mounted here");
    };
    let repo = scene.site.repo();
    let receiver = scene.receive(&["--slot", "pitr", "--create-slot"]);
    receiver.wait_for_line("receiving from");
    scene.cluster.execute("CREATE TABLE t (t text)");
    scene.be_synchronous();
    let away = repo.with_extension("away");
    std::fs::rename(&repo, &away).unwrap();
    scene.cluster.execute("SET synchronous_commit = local; INSERT INTO t SELECT md5(i::text) FROM generate_series(1, 90000) i");
    receiver.wait_for_line("No space left");
    // a commit waits, and is not lost
    let mut waiting = scene.psql("INSERT INTO t VALUES ('x')");
    std::thread::sleep(Duration::from_secs(2));
    assert!(waiting.try_wait().unwrap().is_none(), "it did not wait");
    let said = receiver.said();
    assert!(said.contains("Nothing more is confirmed"), "{said}");
    std::fs::rename(&away, &repo).unwrap();
    assert!(waiting.wait().unwrap().success());
    receiver.stop();
}
