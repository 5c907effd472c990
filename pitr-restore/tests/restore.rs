//! `pitr-restore --to`: a real server's data come back to any point, and
//! nothing else does.

#[cfg(test)]
mod original;

use std::fs;
use std::path::Path;
use std::process::Command;

use original::{
    Original, archive_all, insert, names, refused, run, said, succeeded, tamper, values,
};
use pitr_testbed::{Cluster, PostgresInstall, StopMode, chown_to_server_user};

#[test]
fn every_kind_of_target_is_reached() {
    let original = Original::start();
    original.insert("a");
    original.backup();
    original.insert("b");
    let time = original.insert("c");
    let lsn = original.cluster.sql("SELECT pg_current_wal_insert_lsn()");
    let xid = original
        .cluster
        .sql("INSERT INTO t VALUES ('d') RETURNING pg_current_xact_id()");
    original
        .cluster
        .execute("SELECT pg_create_restore_point('before the mistake')");
    original.cluster.execute("DELETE FROM t");
    original.insert("z");
    original.archive_all();

    let reached = |name: &str, arguments: &[&str]| {
        let mut arguments = arguments.to_vec();
        if arguments.iter().any(|word| word.starts_with("--target")) {
            arguments.extend(["--target-action", "promote"]);
        }
        values(&original.promoted(name, &arguments))
    };
    assert_eq!(reached("latest", &[]), "z");
    assert_eq!(reached("time", &["--target-time", &time]), "a,b,c");
    assert_eq!(
        reached("lsn", &["--target-lsn", &lsn, "--exclusive"]),
        "a,b,c"
    );
    assert_eq!(reached("xid", &["--target-xid", &xid]), "a,b,c,d");
    assert_eq!(
        reached("xid-exclusive", &["--target-xid", &xid, "--exclusive"]),
        "a,b,c"
    );
    assert_eq!(
        reached("name", &["--target-name", "before the mistake"]),
        "a,b,c,d"
    );
    assert_eq!(reached("immediate", &["--target-immediate"]), "a");
}

#[test]
fn a_paused_server_can_be_looked_at_and_resumed() {
    let original = Original::start();
    original.backup();
    original.insert("a");
    original
        .cluster
        .execute("SELECT pg_create_restore_point('here')");
    original.insert("b");
    original.archive_all();
    let paused = original.restored("paused", &["--target-name", "here"]);
    let limit = std::time::Duration::from_secs(30);
    paused
        .wait_for_sql("SELECT pg_is_wal_replay_paused()", limit)
        .unwrap();
    assert_eq!(values(&paused), "a");
    paused.execute("SELECT pg_wal_replay_resume()");
    paused
        .wait_for_sql("SELECT NOT pg_is_in_recovery()", limit)
        .unwrap();
    insert(&paused, "c");
    assert_eq!(values(&paused), "a,c");
}

#[test]
fn the_newest_backup_before_the_target_is_taken() {
    let original = Original::start();
    let first = original.backup();
    let between = original.insert("a");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = original.backup();
    let after = original.insert("b");
    original.insert("c");
    original.archive_all();
    let plan = |arguments: &[&str]| {
        let to = original.place("unused");
        let mut words = arguments.to_vec();
        words.extend(["--dry-run", "--json"]);
        let output = original.restore(&to, &words);
        succeeded(&output);
        assert!(!to.exists(), "a dry run makes nothing");
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        document["backup"]["label"].as_str().unwrap().to_owned()
    };
    assert_eq!(plan(&["--target-time", &between]), first);
    assert_eq!(plan(&["--target-time", &after]), second);
    assert_eq!(plan(&[]), second);
    assert_eq!(plan(&["--backup", &first]), first);
    // inside the second backup, and before the first
    let to = original.place("unused");
    refused(
        &original.restore(&to, &["--target-time", &between, "--backup", &second]),
        &to,
        "lies before base backup",
    );
    let output = original.restore(&to, &["--target-time", "2020-01-01 00:00:00+00"]);
    refused(&output, &to, "lies before base backup");
    assert!(said(&output).contains("can be reached from"));
    refused(
        &original.restore(&to, &["--target-time", "2200-01-01 00:00:00+00"]),
        &to,
        "lies in the future",
    );
    refused(
        &original.restore(&to, &["--target-lsn", "FF/0"]),
        &to,
        "beyond the archived log",
    );
    // nothing ends after it: PostgreSQL would recover everything, and then fail
    let now = original.cluster.sql("SELECT clock_timestamp()");
    let output = original.restore(&to, &["--target-time", &now]);
    refused(&output, &to, "no transaction ends after");
    assert!(
        said(&output).contains("The nearest before it: the commit of transaction"),
        "{}",
        said(&output)
    );
    refused(
        &original.restore(&to, &["--target-timeline", "9"]),
        &to,
        "knows no timeline 9",
    );
}

#[test]
fn pg_verifybackup_accepts_what_was_laid_down() {
    let original = Original::start();
    let space = original.places.folder("space").unwrap();
    original.cluster.execute(&format!(
        "CREATE TABLESPACE space LOCATION '{}'",
        space.display()
    ));
    original
        .cluster
        .execute("CREATE TABLE s TABLESPACE space AS SELECT generate_series(1, 1000) AS n");
    original.backup();
    original.archive_all();
    let verify = |to: &Path, more: &[&str]| {
        let mut command = original
            .cluster
            .install()
            .command("pg_verifybackup")
            .unwrap();
        command.arg("--no-parse-wal").args(more).arg(to);
        succeeded(&command.output().unwrap());
    };

    let to = original.place("moved");
    refused(&original.restore(&to, &[]), &to, "exists on this machine");
    let elsewhere = original.place("elsewhere");
    let mapping = format!("{}={}", space.display(), elsewhere.display());
    let output = original.restore(&to, &["--tablespace", &mapping]);
    succeeded(&output);
    assert!(said(&output).contains("--ignore=tablespace_map"));
    verify(&to, &["--ignore=tablespace_map"]);
    let mut moved = Cluster::adopt(original.cluster.install(), &to).unwrap();
    moved.start().unwrap();
    assert_eq!(moved.sql("SELECT count(*) FROM s"), "1000");
    assert_eq!(
        moved.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'"),
        elsewhere.display().to_string()
    );
    drop(moved);

    // the original and its tablespace are gone: everything fits where it was
    let mut original = original;
    original.cluster.stop(StopMode::Fast).unwrap();
    fs::remove_dir_all(&space).unwrap();
    let to = original.place("in place");
    succeeded(&original.restore(&to, &[]));
    let mut command = original
        .cluster
        .install()
        .command("pg_verifybackup")
        .unwrap();
    command.arg("--no-parse-wal").arg(&to);
    succeeded(&command.output().unwrap());
    let mut in_place = Cluster::adopt(original.cluster.install(), &to).unwrap();
    in_place.start().unwrap();
    assert_eq!(in_place.sql("SELECT count(*) FROM s"), "1000");
}

#[test]
fn after_total_loss_the_primary_comes_back_and_archives_again() {
    let mut original = Original::start();
    original.backup();
    original.insert("a");
    original.archive_all();
    original.cluster.kill_9();
    let data = original.cluster.data_dir().to_owned();
    fs::remove_dir_all(&data).unwrap();

    let output = original.restore(&data, &[]);
    succeeded(&output);
    assert!(
        said(&output).contains("primary, at the place it came from"),
        "{}",
        said(&output)
    );
    original.cluster.start().unwrap();
    let limit = std::time::Duration::from_secs(30);
    original
        .cluster
        .wait_for_sql("SELECT NOT pg_is_in_recovery()", limit)
        .unwrap();
    assert_eq!(values(&original.cluster), "a");
    original.insert("b");
    let segment = original.archive_all();
    assert!(segment.starts_with("00000002"), "{segment}");
    assert!(original.object(&segment).exists());
    // ... and can be lost once more
    original.cluster.kill_9();
    fs::remove_dir_all(&data).unwrap();
    succeeded(&original.restore(&data, &[]));
    original.cluster.start().unwrap();
    original
        .cluster
        .wait_for_sql("SELECT NOT pg_is_in_recovery()", limit)
        .unwrap();
    assert_eq!(values(&original.cluster), "a,b");
}

#[test]
fn a_copy_elsewhere_is_a_clone_and_archives_nothing() {
    let original = Original::start();
    original.backup();
    original.insert("a");
    original.archive_all();
    let before = original
        .cluster
        .sql("SELECT last_archived_wal FROM pg_stat_archiver");
    let clone = original.promoted("clone", &[]);
    assert_eq!(clone.sql("SHOW archive_mode"), "off");
    insert(&clone, "b");
    clone.execute("SELECT pg_switch_wal()");
    clone.execute("CHECKPOINT");
    assert!(
        !original
            .cluster_folder()
            .join("wal/00000002.history")
            .exists()
    );
    assert_eq!(
        original
            .cluster
            .sql("SELECT last_archived_wal FROM pg_stat_archiver"),
        before
    );
    let primary = original.promoted("primary", &["--role", "primary"]);
    assert_eq!(primary.sql("SHOW archive_mode"), "on");
    archive_all(&primary);
    assert!(
        original
            .cluster_folder()
            .join("wal/00000002.history")
            .exists()
    );
}

/// The server that went on along timeline 2 is followed by default, and the
/// way back to timeline 1 stays open.
#[test]
fn a_fork_can_be_followed_and_gone_back_from() {
    let original = Original::start();
    original.insert("a");
    original.backup();
    original
        .cluster
        .execute("SELECT pg_create_restore_point('fork')");
    original.insert("only on 1");
    original.archive_all();

    let second = original.promoted(
        "second",
        &[
            "--target-name",
            "fork",
            "--target-action",
            "promote",
            "--role",
            "primary",
        ],
    );
    insert(&second, "only on 2");
    archive_all(&second);

    assert_eq!(values(&original.promoted("newest", &[])), "a,only on 2");
    assert_eq!(
        values(&original.promoted("back", &["--target-timeline", "1"])),
        "a,only on 1"
    );
    let to = original.place("unused");
    let output = original.restore(&to, &["--dry-run"]);
    assert!(
        said(&output).contains("timeline    1: 0/") && said(&output).contains("└─ 2: 0/"),
        "{}",
        said(&output)
    );
}

/// Facts of PostgreSQL that promise 6 answers: with the child's first segment
/// missing, a server that is served the parent's replays past the branch.
#[test]
fn no_server_replays_past_a_branch() {
    let original = Original::start();
    original.insert("a");
    original.backup();
    original
        .cluster
        .execute("SELECT pg_create_restore_point('fork')");
    original.insert("only on 1");
    original.archive_all();
    let second = original.promoted(
        "second",
        &[
            "--target-name",
            "fork",
            "--target-action",
            "promote",
            "--role",
            "primary",
        ],
    );
    insert(&second, "only on 2");
    archive_all(&second);
    insert(&second, "more on 2");
    archive_all(&second);
    drop(second);

    // restored while everything is there, then the child's first segment goes
    let to = original.place("followed");
    succeeded(&original.restore(&to, &[]));
    let first = names(&original.cluster_folder().join("wal/00000002/00000000"))[0].clone();
    let first = first.trim_end_matches(".zst").to_owned();
    fs::remove_file(original.object(&first)).unwrap();
    let mut followed = Cluster::adopt(original.cluster.install(), &to).unwrap();
    let _ = followed.start();
    let limit = std::time::Duration::from_secs(30);
    followed
        .wait_until("the server to stop", limit, |cluster| !cluster.is_running())
        .unwrap();
    let log = followed.log();
    assert!(
        log.contains("exit code 200") || log.contains("FATAL:"),
        "{log}"
    );
    assert!(
        log.contains(&format!("segment {first} is not in the repository")),
        "{log}"
    );

    // and no new restore begins
    let to = original.place("unused");
    refused(&original.restore(&to, &[]), &to, &first);
}

/// `pg_rewind --restore-target-wal` runs the restore_command for the log of a
/// server that stands still, and needs that server's own segments from behind
/// the branch. The new primary's history lies in `pg_wal` where somebody tried
/// to let the old one follow before.
#[test]
fn pg_rewind_gets_the_old_primarys_segments_from_behind_the_branch() {
    let mut original = Original::start_with(|builder| builder.checksums(true));
    original.insert("a");
    original.backup();
    original
        .cluster
        .execute("SELECT pg_create_restore_point('fork')");
    for value in ["only on 1", "more on 1"] {
        original.insert(value);
        original.archive_all();
    }
    let arguments = ["--target-name", "fork", "--target-action", "promote"];
    let second = original.promoted("second", &[&arguments[..], &["--role", "primary"]].concat());
    insert(&second, "only on 2");
    archive_all(&second);

    let repository = original.repository.display();
    let command = format!("{} --repo {repository} %f %p", original.restore.display());
    original
        .cluster
        .configure("restore_command", &command)
        .unwrap();
    original.cluster.stop(StopMode::Fast).unwrap();
    let data = original.cluster.data_dir().to_owned();
    let wal = data.join("pg_wal");
    fs::copy(
        second.data_dir().join("pg_wal/00000002.history"),
        wal.join("00000002.history"),
    )
    .unwrap();
    chown_to_server_user(&wal.join("00000002.history")).unwrap();
    let archived = names(&original.cluster_folder().join("wal/00000001/00000000"));
    for name in archived {
        let _ = fs::remove_file(wal.join(name.trim_end_matches(".zst")));
    }
    let mut rewind = original.cluster.install().command("pg_rewind").unwrap();
    rewind
        .args(["--restore-target-wal", "--no-sync", "--target-pgdata"])
        .arg(&data)
        .args(["--source-server", &second.conninfo()]);
    let output = rewind.output().unwrap();
    succeeded(&output);
    assert!(said(&output).contains("Done!"), "{}", said(&output));
}

#[test]
fn the_first_missing_segment_is_named_and_nothing_is_made() {
    let original = Original::start();
    original.backup();
    original.insert("a");
    let missing = original.archive_all();
    let lsn = original.cluster.sql("SELECT pg_current_wal_lsn()");
    original.insert("b");
    original.archive_all();
    fs::remove_file(original.object(&missing)).unwrap();
    let to = original.place("unused");
    for arguments in [&[][..], &["--target-lsn", &lsn]] {
        let output = original.restore(&to, arguments);
        refused(
            &output,
            &to,
            &format!("segment {missing} is not in the repository"),
        );
        assert!(said(&output).contains("HINT:"));
    }
    // what is not found may lie in it
    let output = original.restore(&to, &["--target-xid", "999999"]);
    refused(
        &output,
        &to,
        "transaction 999999 does not end in the archived log",
    );
    assert!(said(&output).contains(&missing), "{}", said(&output));
}

#[test]
fn a_directory_that_holds_anything_is_left_alone() {
    let original = Original::start();
    original.backup();
    original.archive_all();
    let to = original.places.folder("occupied").unwrap();
    fs::write(to.join("precious"), "x").unwrap();
    let output = original.restore(&to, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("is not empty"), "{}", said(&output));
    assert_eq!(names(&to), ["precious"]);

    let output = original.restore(original.cluster.data_dir(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("a PostgreSQL server runs in"),
        "{}",
        said(&output)
    );
    original.insert("still there");

    // an empty one is filled, and gets the mode that a server insists on
    let empty = original.places.folder("empty").unwrap();
    succeeded(&original.restore(&empty, &[]));
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(
        fs::metadata(&empty).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn wrong_usage_is_2() {
    let original = Original::start();
    let to = original.place("unused");
    for arguments in [
        &["--bogus"][..],
        &["--target-lsn", "x"],
        &["--target-time", "yesterdayish"],
        &["--target-xid", "1", "--target-lsn", "0/1"],
        &["--target-name", "x", "--exclusive"],
        &["--tablespace", "x"],
    ] {
        let output = original.restore(&to, arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            said(&output)
        );
    }
    // no backup yet is no wrong usage
    refused(&original.restore(&to, &[]), &to, "HINT:");
}

#[test]
fn an_interrupted_restore_is_marked_and_cannot_be_started() {
    if Command::new("strace").arg("-V").output().is_err() {
        return;
    }
    let original = Original::start();
    original.backup();
    original.archive_all();
    for (number, call) in ["fchmod", "syncfs", "fsync", "unlinkat"].iter().enumerate() {
        let to = original.place(&format!("interrupted{number}"));
        let restore = original.restore_command(&to, &[]);
        let mut command = Command::new("strace");
        command
            .args(["-f", "-o", "/dev/null", "-e"])
            .arg(format!("inject={call}:signal=KILL:when=1"))
            .arg(restore.get_program())
            .args(restore.get_args());
        let output = run(command);
        assert!(!output.status.success());
        assert!(to.exists(), "{call}: {}", said(&output));
        let whole = to.join("global/pg_control").exists();
        let marked = to.join("pitr-restore.unfinished").exists();
        assert!(marked, "{call}");
        if !whole {
            let mut cluster = Cluster::adopt(original.cluster.install(), &to).unwrap();
            assert!(cluster.start().is_err(), "{call}");
            assert!(!cluster.is_running());
        }
        let output = original.restore(&to, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            said(&output).contains("holds an unfinished restore"),
            "{}",
            said(&output)
        );
    }
    let to = original.place("in one go");
    succeeded(&original.restore(&to, &[]));
    assert!(!to.join("pitr-restore.unfinished").exists());
}

#[test]
fn a_damaged_backup_is_told_and_leaves_no_cluster() {
    let original = Original::start();
    let label = original.backup();
    original.archive_all();
    let part = original
        .cluster_folder()
        .join("backups")
        .join(label)
        .join("base-00001.tar.zst");
    tamper(&part, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let to = original.place("damaged");
    let output = original.restore(&to, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("is damaged"), "{}", said(&output));
    assert!(
        said(&output).contains("cannot be used"),
        "{}",
        said(&output)
    );
    assert!(!to.join("global/pg_control").exists());
}

#[test]
fn a_damaged_segment_stops_recovery_and_does_not_end_it() {
    let original = Original::start();
    original.backup();
    original.insert("a");
    let segment = original.archive_all();
    original.insert("b");
    original.archive_all();
    tamper(&original.object(&segment), |bytes| {
        // in the first frame: the summary of the records follows it
        bytes[100] ^= 1;
    });
    let to = original.place("damaged");
    succeeded(&original.restore(&to, &[]));
    let mut cluster = Cluster::adopt(original.cluster.install(), &to).unwrap();
    let _ = cluster.start();
    let limit = std::time::Duration::from_secs(30);
    cluster
        .wait_until("the server to stop", limit, |cluster| !cluster.is_running())
        .unwrap();
    // which check finds it first depends on what the byte stood for
    let log = cluster.log();
    assert!(
        log.contains(&segment) && log.contains("exit code 200"),
        "{log}"
    );
    assert!(
        to.join("recovery.signal").exists(),
        "recovery has not ended"
    );
}

#[test]
fn older_recovery_settings_do_not_apply_again() {
    let original = Original::start_with(|builder| {
        // in the main file, where nobody takes it out
        builder.setting("recovery_target_name", "an older one")
    });
    original
        .cluster
        .execute("ALTER SYSTEM SET recovery_target_action = 'shutdown'");
    original
        .cluster
        .execute("ALTER SYSTEM SET restore_command = 'false'");
    original
        .cluster
        .execute("ALTER SYSTEM SET work_mem = '9MB'");
    original.backup();
    let time = original.insert("a");
    original.insert("b");
    original.archive_all();
    let output = {
        let to = original.place("looked at");
        let output = original.restore(&to, &["--target-time", &time]);
        let text = fs::read_to_string(to.join("postgresql.auto.conf")).unwrap();
        assert!(text.contains("work_mem"), "{text}");
        assert!(!text.contains("'false'"), "{text}");
        output
    };
    assert!(said(&output).contains("restore_command, recovery_target_action"));
    let arguments = ["--target-time", &time, "--target-action", "promote"];
    assert_eq!(values(&original.promoted("time", &arguments)), "a");
    assert_eq!(values(&original.promoted("latest", &[])), "a,b");
}

#[test]
fn a_backup_of_a_standby_recovers_instead_of_following() {
    let original = Original::start();
    original.backup();
    original.insert("a");
    original.archive_all();
    let to = original.place("standby");
    succeeded(&original.restore(&to, &[]));
    fs::remove_file(to.join("recovery.signal")).unwrap();
    fs::write(to.join("standby.signal"), "").unwrap();
    let mut standby = Cluster::adopt(original.cluster.install(), &to).unwrap();
    standby.start().unwrap();
    let limit = std::time::Duration::from_secs(30);
    standby
        .wait_for_sql("SELECT count(*) = 1 FROM t", limit)
        .unwrap();
    // the standby's restartpoint wants something to have been archived since
    original.cluster.execute("CHECKPOINT");
    original.archive_all();
    original.backup_of(&standby);
    original.insert("b");
    original.archive_all();
    let copy = original.promoted("copy", &[]);
    assert_eq!(values(&copy), "a,b");
}

#[test]
fn starting_a_copy_never_starts_the_original() {
    let original = Original::start();
    // the configuration in the data directory names the data directory
    let main = original.cluster.data_dir().join("postgresql.conf");
    let mut text = fs::read_to_string(&main).unwrap();
    text.push_str(&format!(
        "data_directory = '{}'\n",
        original.cluster.data_dir().display()
    ));
    fs::write(&main, text).unwrap();
    original.backup();
    original.insert("a");
    original.archive_all();
    let to = original.place("copy");
    let output = original.restore(&to, &[]);
    succeeded(&output);
    assert!(
        said(&output).contains("The line was taken out"),
        "{}",
        said(&output)
    );
    assert!(
        said(&output).contains("--ignore=postgresql.conf"),
        "{}",
        said(&output)
    );
    let mut copy = Cluster::adopt(original.cluster.install(), &to).unwrap();
    copy.start().unwrap();
    assert_eq!(
        copy.sql("SHOW data_directory"),
        to.display().to_string(),
        "the copy runs in another directory"
    );
}

#[test]
fn a_backup_without_configuration_files_makes_a_clone_that_starts() {
    let mut original = Original::start();
    // as on Debian: the configuration lies elsewhere
    original.cluster.stop(StopMode::Fast).unwrap();
    let data = original.cluster.data_dir().to_owned();
    let etc = original.places.folder("etc").unwrap();
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::rename(data.join(name), etc.join(name)).unwrap();
    }
    let mut text = fs::read_to_string(etc.join("postgresql.conf")).unwrap();
    for (setting, name) in [("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")] {
        text.push_str(&format!("{setting} = '{}'\n", etc.join(name).display()));
    }
    text.push_str(&format!("data_directory = '{}'\n", data.display()));
    fs::write(etc.join("postgresql.conf"), text).unwrap();
    let mut start = original.cluster.install().command("pg_ctl").unwrap();
    start
        .args(["start", "--wait", "--log"])
        .arg(original.place("log"))
        .arg("--pgdata")
        .arg(&etc)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    assert!(start.status().unwrap().success());
    original.backup();
    original.insert("a");
    original.archive_all();

    let to = original.place("clone");
    let output = original.restore(&to, &[]);
    succeeded(&output);
    assert!(
        said(&output).contains("holds no postgresql.conf"),
        "{}",
        said(&output)
    );
    let mut verify = original
        .cluster
        .install()
        .command("pg_verifybackup")
        .unwrap();
    verify
        .args(["--no-parse-wal", "--ignore=postgresql.conf"])
        .args(["--ignore=pg_hba.conf", "--ignore=pg_ident.conf"])
        .arg(&to);
    succeeded(&verify.output().unwrap());
    // nobody but the owner may connect, and the tests may be run by another
    let hba = fs::read_to_string(to.join("pg_hba.conf")).unwrap();
    assert!(hba.contains("peer") && !hba.contains("trust"), "{hba}");
    fs::write(to.join("pg_hba.conf"), "local all all trust\n").unwrap();
    let mut clone = Cluster::adopt(original.cluster.install(), &to).unwrap();
    clone.start().unwrap();
    let limit = std::time::Duration::from_secs(30);
    clone
        .wait_for_sql("SELECT NOT pg_is_in_recovery()", limit)
        .unwrap();
    assert_eq!(values(&clone), "a");
    drop(clone);

    let to = original.place("primary");
    let output = original.restore(&to, &["--role", "primary"]);
    succeeded(&output);
    let config_file = format!("config_file={}", etc.join("postgresql.conf").display());
    assert!(said(&output).contains(&config_file), "{}", said(&output));
    assert!(!to.join("postgresql.conf").exists());

    // and what is started is the new primary, whatever directory that file names
    original.cluster.stop(StopMode::Fast).unwrap();
    let to = original.place("started");
    let bin = original.cluster.install().bin().to_owned();
    let bin = [
        "--role",
        "primary",
        "--start",
        "--pg-bin",
        bin.to_str().unwrap(),
    ];
    let output = original.restore(&to, &bin);
    let mut stop = original.cluster.install().command("pg_ctl").unwrap();
    stop.args(["stop", "--mode", "immediate", "--pgdata"])
        .arg(&to);
    let runs = to.join("postmaster.pid").exists();
    let _ = stop.output();
    succeeded(&output);
    assert!(runs, "the original was started");
}

#[test]
fn a_backup_that_brought_its_own_wal_needs_no_archive() {
    // nothing is archived: the backup's segments are all that there is
    let original = Original::start_with(|builder| builder.setting("archive_mode", "off"));
    original.insert("a");
    for (format, name) in [("plain", "plain"), ("tar", "tar")] {
        let place = original.place(name);
        let mut command = original.cluster.install().command("pg_basebackup").unwrap();
        command
            .args([
                "--format",
                format,
                "--wal-method",
                "stream",
                "--checkpoint",
                "fast",
            ])
            .args(["--dbname", &original.cluster.conninfo(), "--pgdata"])
            .arg(&place);
        succeeded(&command.output().unwrap());
        original.archive_verb(&["import", place.to_str().unwrap()]);
        let label = original.newest_backup();
        let arguments = ["--backup", &label];
        let copy = original.promoted(&format!("{name}.restored"), &arguments);
        assert_eq!(values(&copy), "a");
        drop(copy);
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    // it reaches to its own end, and no further
    let to = original.place("unused");
    refused(
        &original.restore(&to, &["--target-lsn", "F/0"]),
        &to,
        "beyond the archived log",
    );
}

#[test]
fn too_small_a_disk_is_told_before_anything_is_made() {
    let original = Original::start();
    original.backup();
    original.archive_all();
    let small = original.places.folder("small").unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m,mode=777", "none"])
        .arg(&small)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        return; // only root can make a disk so small
    }
    let to = small.join("data");
    let output = original.restore(&to, &[]);
    let left = names(&small);
    Command::new("umount").arg(&small).status().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("has too little room"),
        "{}",
        said(&output)
    );
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn root_gives_everything_to_the_servers_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    use std::os::unix::fs::MetadataExt as _;
    let original = Original::start();
    original.backup();
    original.insert("a");
    original.archive_all();
    let to = original.place("by root/data");
    let output = original.restore_command(&to, &[]).output().unwrap();
    succeeded(&output);
    assert!(
        said(&output).contains("owner       postgres"),
        "{}",
        said(&output)
    );
    let owner = fs::metadata(original.cluster.data_dir()).unwrap().uid();
    for place in [
        "",
        "global/pg_control",
        "postgresql.auto.conf",
        "base/1",
        "pg_wal",
    ] {
        assert_eq!(
            fs::metadata(to.join(place)).unwrap().uid(),
            owner,
            "{place}"
        );
    }
    let mut cluster = Cluster::adopt(original.cluster.install(), &to).unwrap();
    cluster.start().unwrap();
    assert_eq!(values(&cluster), "a");

    // a program or repository that the user cannot reach is told before
    let hidden = original.place("hidden");
    fs::create_dir(&hidden).unwrap();
    let program = hidden.join("pitr-restore");
    fs::copy(env!("CARGO_BIN_EXE_pitr-restore"), &program).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).unwrap();
    let to = original.place("unused");
    let output = Command::new(&program)
        .arg("--repo")
        .arg(&original.repository)
        .arg("--to")
        .arg(&to)
        .output()
        .unwrap();
    refused(&output, &to, "restore_command does not work for user");
}

#[test]
fn every_supported_major_comes_back() {
    for install in PostgresInstall::all_found() {
        let original = Original::start_on(&install, |builder| builder);
        original.insert("a");
        original.backup();
        let time = original.insert("b");
        original.insert("c");
        original.archive_all();
        let arguments = ["--target-time", &time, "--target-action", "promote"];
        assert_eq!(
            values(&original.promoted("time", &arguments)),
            "a,b",
            "PostgreSQL {}",
            install.version()
        );
        assert_eq!(values(&original.promoted("latest", &[])), "a,b,c");
    }
}
