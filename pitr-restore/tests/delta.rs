//! `pitr-restore --to DIR --delta`: a data directory that is there becomes what
//! a restore into an empty one would be, and nothing outside of it changes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where something that it needs fails, and says what it skips"
)]

#[cfg(test)]
mod original;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use original::{Original, insert, names, run, said, succeeded, values};
use pitr_testbed::{Cluster, StopMode, chown_to_server_user};

/// Every name below a folder: mode, and contents or target.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    fn walk(top: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let contents = if metadata.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if metadata.is_dir() {
                walk(top, &path, found);
                b"(folder)".to_vec()
            } else if metadata.is_file() {
                fs::read(&path).unwrap()
            } else {
                b"(other)".to_vec()
            };
            let name = path.strip_prefix(top).unwrap().to_owned();
            found.insert(name, (metadata.mode(), contents));
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

#[track_caller]
fn assert_same_tree(one: &Path, other: &Path) {
    let (one, other) = (tree(one), tree(other));
    for (name, what) in &one {
        assert!(other.get(name) == Some(what), "{} differs", name.display());
    }
    let more: Vec<_> = other
        .keys()
        .filter(|name| !one.contains_key(*name))
        .collect();
    assert!(more.is_empty(), "{more:?}");
}

/// A relation file of some pages.
fn large_file(data: &Path) -> PathBuf {
    let folder = data.join("base/1");
    names(&folder)
        .into_iter()
        .map(|name| folder.join(name))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap()
}

/// Changes a byte and keeps size and time of modification.
fn flip_a_byte(path: &Path) {
    let times = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(times).unwrap();
}

fn put(path: &Path, contents: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
    for path in [path.parent().unwrap(), path] {
        chown_to_server_user(path).unwrap();
    }
}

fn delta(original: &Original, to: &Path, arguments: &[&str]) -> Output {
    let mut words = vec!["--delta"];
    words.extend(arguments);
    original.restore(to, &words)
}

#[track_caller]
fn refused_and_left(
    output: &Output,
    to: &Path,
    before: &BTreeMap<PathBuf, (u32, Vec<u8>)>,
    text: &str,
) {
    assert_eq!(output.status.code(), Some(1), "{}", said(output));
    assert!(said(output).contains(text), "{}", said(output));
    assert!(said(output).contains("HINT:"), "{}", said(output));
    assert!(tree(to) == *before, "something was changed");
}

/// Whatever a cluster's life and somebody's hands leave in a data directory.
fn disturb(data: &Path, outside: &Path) {
    flip_a_byte(&large_file(data));
    put(&data.join("precious.txt"), "x");
    put(&data.join("foreign/a/b/c"), "x");
    put(&data.join("base/1/99999"), "x");
    // a folder where a file belongs, a file where a folder does, a link for each
    fs::remove_file(data.join("PG_VERSION")).unwrap();
    put(&data.join("PG_VERSION/inside"), "x");
    fs::remove_dir_all(data.join("pg_notify")).unwrap();
    put(&data.join("pg_notify"), "x");
    fs::remove_file(data.join("pg_ident.conf")).unwrap();
    symlink(outside.join("file"), data.join("pg_ident.conf")).unwrap();
    fs::remove_dir_all(data.join("pg_logical")).unwrap();
    symlink(outside, data.join("pg_logical")).unwrap();
    symlink(outside, data.join("base/1/link")).unwrap();
    let pipe = Command::new("mkfifo")
        .arg(data.join("global/pipe"))
        .status();
    assert!(pipe.unwrap().success());
    fs::set_permissions(data.join("pg_hba.conf"), fs::Permissions::from_mode(0o666)).unwrap();
    // a second name elsewhere for the same file: it must keep its contents
    let hard = large_file(data);
    fs::hard_link(&hard, outside.join("snapshot")).unwrap();
}

#[test]
fn whatever_lies_there_it_becomes_what_a_fresh_restore_is() {
    let original = Original::start();
    original.insert("a");
    original.backup();
    original.insert("b");
    original.archive_all();
    let fresh = original.place("fresh");
    succeeded(&original.restore(&fresh, &[]));

    // a copy that went its own way
    let mut copy = original.promoted("copy", &[]);
    insert(&copy, "only here");
    copy.execute("CREATE TABLE more AS SELECT generate_series(1, 10000) AS n");
    copy.stop(StopMode::Fast).unwrap();
    let to = copy.data_dir().to_owned();
    let outside = original.places.folder("outside").unwrap();
    put(&outside.join("file"), "precious");
    disturb(&to, &outside);
    let snapshot = fs::read(outside.join("snapshot")).unwrap();

    let before = tree(&to);
    let output = delta(&original, &to, &["--dry-run", "--json"]);
    succeeded(&output);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(tree(&to) == before, "a dry run changes nothing");
    let count = |what: &str| plan["delta"][what].as_u64().unwrap();
    assert!(count("same_files") > 500, "{plan}");
    assert!(count("written_files") >= 5, "{plan}");
    assert!(count("deleted_files") >= 6, "{plan}");

    let output = delta(&original, &to, &[]);
    succeeded(&output);
    assert!(
        said(&output).contains("was a link to a folder"),
        "{}",
        said(&output)
    );
    assert_same_tree(&fresh, &to);
    assert_eq!(
        fs::read_to_string(outside.join("file")).unwrap(),
        "precious"
    );
    assert_eq!(fs::read(outside.join("snapshot")).unwrap(), snapshot);
    assert_eq!(names(&outside), ["file", "snapshot"]);
    copy.start().unwrap();
    let limit = std::time::Duration::from_secs(60);
    copy.wait_for_sql("SELECT NOT pg_is_in_recovery()", limit)
        .unwrap();
    assert_eq!(values(&copy), "a,b");
}

#[test]
fn what_is_in_place_is_not_written() {
    let original = Original::start();
    original.backup();
    original.archive_all();
    let to = original.place("data");
    succeeded(&original.restore(&to, &[]));
    let identities = |to: &Path| -> BTreeMap<PathBuf, (u64, i64, i64)> {
        tree(to)
            .into_keys()
            .filter(|name| to.join(name).is_file())
            .map(|name| {
                let found = fs::metadata(to.join(&name)).unwrap();
                (name, (found.ino(), found.mtime(), found.mtime_nsec()))
            })
            .collect()
    };
    let before = identities(&to);
    succeeded(&delta(&original, &to, &[]));
    let after = identities(&to);
    let written: Vec<&Path> = after
        .iter()
        .filter(|(name, identity)| before.get(*name) != Some(identity))
        .map(|(name, _)| name.as_path())
        .collect();
    // what every restore makes anew
    let expected = [
        "backup_manifest",
        "global/pg_control",
        "postgresql.auto.conf",
        "recovery.signal",
        "tablespace_map",
    ];
    assert_eq!(written, expected.map(Path::new));

    // one file differs: it alone is fetched and written as well
    flip_a_byte(&large_file(&to));
    let output = delta(&original, &to, &["--dry-run", "--json"]);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["delta"]["written_files"], 2, "{plan}");
    succeeded(&delta(&original, &to, &[]));
    let fresh = original.place("fresh");
    succeeded(&original.restore(&fresh, &[]));
    assert_same_tree(&fresh, &to);
}

#[test]
fn an_empty_or_absent_directory_is_filled_as_ever() {
    let original = Original::start();
    original.backup();
    original.archive_all();
    let fresh = original.place("fresh");
    succeeded(&original.restore(&fresh, &[]));
    let absent = original.place("absent");
    succeeded(&delta(&original, &absent, &[]));
    assert_same_tree(&fresh, &absent);
    let empty = original.places.folder("empty").unwrap();
    succeeded(&delta(&original, &empty, &[]));
    assert_same_tree(&fresh, &empty);
}

#[test]
fn only_this_clusters_data_directory_is_taken() {
    let original = Original::start();
    original.insert("a");
    original.backup();
    original.archive_all();

    // a running server: its own files are never touched
    let data = original.cluster.data_dir().to_owned();
    let output = delta(&original, &data, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("a PostgreSQL server runs in"),
        "{}",
        said(&output)
    );
    assert_eq!(values(&original.cluster), "a");

    // something else
    let other = original.places.folder("other").unwrap();
    put(&other.join("precious"), "x");
    let before = tree(&other);
    let output = delta(&original, &other, &[]);
    refused_and_left(&output, &other, &before, "no data directory of cluster");

    // another cluster, and what an interrupted restore of one left
    let mut stranger = Cluster::builder(original.cluster.install())
        .create()
        .unwrap();
    let place = stranger.data_dir().to_owned();
    let before = tree(&place);
    let output = delta(&original, &place, &[]);
    refused_and_left(&output, &place, &before, "belongs to cluster");
    stranger.start().unwrap();
    stranger.stop(StopMode::Fast).unwrap();
    let marked = original.places.folder("marked").unwrap();
    for (mark, text) in [
        (
            r#"{"label":"20261120T074502Z","system_identifier":"7","folders":[]}"#,
            "belongs to cluster 7",
        ),
        (
            r#"{"label":"20261120T074502Z","folders":[]}"#,
            "does not say of which cluster",
        ),
        ("", "does not say of which cluster"),
    ] {
        put(&marked.join("pitr-restore.unfinished"), mark);
        let before = tree(&marked);
        refused_and_left(&delta(&original, &marked, &[]), &marked, &before, text);
    }

    // a damaged control file proves nothing
    let to = original.place("restored");
    succeeded(&original.restore(&to, &[]));
    flip_first_byte(&to.join("global/pg_control"));
    let before = tree(&to);
    let output = delta(&original, &to, &[]);
    refused_and_left(&output, &to, &before, "no data directory of cluster");
}

fn flip_first_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn log_that_nobody_else_has_is_not_deleted() {
    let mut original = Original::start();
    original.backup();
    original.insert("a");
    original.archive_all();
    original.cluster.stop(StopMode::Fast).unwrap();
    let data = original.cluster.data_dir().to_owned();
    // as if the archiver had failed since
    let mut command = original
        .cluster
        .install()
        .command("pg_controldata")
        .unwrap();
    let output = command.arg(&data).output().unwrap();
    let newest = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("Latest checkpoint's REDO WAL file:"))
        .unwrap()
        .trim()
        .to_owned();
    assert!(!original.object(&newest).exists());
    put(
        &data.join(format!("pg_wal/archive_status/{newest}.ready")),
        "",
    );
    let before = tree(&data);
    let output = delta(&original, &data, &[]);
    refused_and_left(&output, &data, &before, &newest);
    // archived, as the hint says, it is let go
    let pushed = data.join("pg_wal").join(&newest);
    original.archive_verb(&[pushed.to_str().unwrap(), &newest]);
    succeeded(&delta(&original, &data, &[]));
    original.cluster.start().unwrap();
    let limit = std::time::Duration::from_secs(60);
    let cluster = &original.cluster;
    cluster
        .wait_for_sql("SELECT NOT pg_is_in_recovery()", limit)
        .unwrap();
    assert_eq!(values(cluster), "a");
}

#[test]
fn a_tablespace_is_taken_only_where_the_data_directory_has_it() {
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
    let mapping = |to: &Path| format!("{}={}", space.display(), to.display());
    let (to, own) = (original.place("data"), original.place("own"));
    succeeded(&original.restore(&to, &["--tablespace", &mapping(&own)]));
    let fresh = tree(&own);
    let version = names(&own).pop().unwrap();

    // unmapped it would go to the original's, which is in use
    let live = tree(&space);
    let output = delta(&original, &to, &[]);
    assert!(
        said(&output).contains("exists on this machine"),
        "{}",
        said(&output)
    );
    // mapped there, the link of this data directory does not lead to it
    let output = delta(&original, &to, &["--tablespace", &mapping(&space)]);
    assert!(said(&output).contains("no link to it"), "{}", said(&output));
    assert!(tree(&space) == live);

    // its own: brought back, and another cluster's folder beside it left alone
    put(&own.join("PG_13_202007201/16384/1"), "another cluster's");
    put(&own.join(&version).join("5/1"), "x");
    let table = tree(&own)
        .into_iter()
        .filter(|(name, (_, bytes))| name.starts_with(&version) && bytes.len() > 8000)
        .map(|(name, _)| own.join(name))
        .next()
        .unwrap();
    flip_a_byte(&table);
    succeeded(&delta(&original, &to, &["--tablespace", &mapping(&own)]));
    assert_eq!(
        fs::read_to_string(own.join("PG_13_202007201/16384/1")).unwrap(),
        "another cluster's"
    );
    fs::remove_dir_all(own.join("PG_13_202007201")).unwrap();
    assert!(tree(&own) == fresh);

    // to a new place: the old one is left
    let new = original.place("new");
    succeeded(&delta(&original, &to, &["--tablespace", &mapping(&new)]));
    assert!(tree(&own) == fresh);
    let mut copy = Cluster::adopt(original.cluster.install(), &to).unwrap();
    copy.start().unwrap();
    assert_eq!(copy.sql("SELECT count(*) FROM s"), "1000");
    assert_eq!(
        copy.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'"),
        new.display().to_string()
    );
}

#[test]
fn a_pg_wal_that_is_a_link_is_not_followed() {
    let original = Original::start();
    original.backup();
    original.archive_all();
    let to = original.place("data");
    succeeded(&original.restore(&to, &[]));
    let elsewhere = original.places.folder("elsewhere").unwrap();
    put(&elsewhere.join("000000010000000000000042"), "precious");
    put(
        &elsewhere.join("archive_status/000000010000000000000042.ready"),
        "",
    );
    fs::remove_dir_all(to.join("pg_wal")).unwrap();
    symlink(&elsewhere, to.join("pg_wal")).unwrap();
    let before = tree(&elsewhere);
    let output = delta(&original, &to, &[]);
    succeeded(&output);
    assert!(
        said(&output).contains("pg_wal\" was a link"),
        "{}",
        said(&output)
    );
    assert!(tree(&elsewhere) == before);
    let fresh = original.place("fresh");
    succeeded(&original.restore(&fresh, &[]));
    assert_same_tree(&fresh, &to);
}

/// SHA-256 in the manifest: the file is compared by that.
#[test]
fn the_manifests_algorithm_decides() {
    let original = Original::start_with(|builder| builder.setting("archive_mode", "off"));
    original.insert("a");
    let place = original.place("taken");
    let mut command = original.cluster.install().command("pg_basebackup").unwrap();
    command
        .args([
            "--format",
            "plain",
            "--wal-method",
            "stream",
            "--checkpoint",
            "fast",
        ])
        .args(["--manifest-checksums", "SHA256"])
        .args(["--dbname", &original.cluster.conninfo(), "--pgdata"])
        .arg(&place);
    succeeded(&command.output().unwrap());
    original.archive_verb(&["import", place.to_str().unwrap()]);
    let (to, fresh) = (original.place("data"), original.place("fresh"));
    succeeded(&original.restore(&to, &[]));
    succeeded(&original.restore(&fresh, &[]));
    flip_a_byte(&large_file(&to));
    succeeded(&delta(&original, &to, &[]));
    assert_same_tree(&fresh, &to);
}

/// Killed at any step it is either the old cluster, or none at all; and the
/// same command makes it whole.
#[test]
fn killed_anywhere_it_is_finished_by_running_it_again() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: strace is not installed (apt-get install strace)");
        return;
    }
    let original = Original::start();
    original.insert("a");
    original.backup();
    original.archive_all();
    let fresh = original.place("fresh");
    succeeded(&original.restore(&fresh, &[]));
    let outside = original.places.folder("outside").unwrap();
    put(&outside.join("file"), "precious");
    let to = original.place("data");
    let whole = |to: &Path| to.join("global/pg_control").exists();
    for (call, when) in [
        ("renameat", 1),
        ("fsync", 1),
        ("fsync", 2),
        ("fsync", 3),
        ("unlinkat", 2),
        ("unlinkat", 3),
        ("unlinkat", 9),
        ("symlinkat,mkdirat", 1),
        ("fchmod", 2),
        ("write", 12),
        ("write", 30),
        ("syncfs", 1),
        ("fsync", 4),
        ("fsync", 5),
        ("unlinkat", 25),
    ] {
        if !to.exists() {
            succeeded(&original.restore(&to, &[]));
        }
        let _ = fs::remove_file(outside.join("snapshot"));
        disturb(&to, &outside);
        let before = fs::read(to.join("global/pg_control")).unwrap();
        let restore = delta_command(&original, &to);
        let mut command = Command::new("strace");
        command
            .args(["-f", "-o", "/dev/null", "-e"])
            .arg(format!("inject={call}:signal=KILL:when={when}"))
            .arg(restore.get_program())
            .args(restore.get_args());
        let output = run(command);
        let what = format!("{call} {when}: {}", said(&output));
        if !output.status.success() {
            let marked = to.join("pitr-restore.unfinished").exists();
            if whole(&to) && !marked {
                // not begun
                assert_eq!(
                    fs::read(to.join("global/pg_control")).unwrap(),
                    before,
                    "{what}"
                );
                assert!(to.join("precious.txt").exists(), "{what}");
            }
            if !whole(&to) {
                assert!(marked, "{what}");
                let mut cluster = Cluster::adopt(original.cluster.install(), &to).unwrap();
                assert!(cluster.start().is_err(), "{what}");
            }
            let output = original.restore(&to, &[]);
            assert_eq!(output.status.code(), Some(1), "{what}");
            let again = delta(&original, &to, &[]);
            assert!(again.status.success(), "{what}\nthen: {}", said(&again));
        } else {
            eprintln!("not reached: {call} {when}");
        }
        assert_same_tree(&fresh, &to);
        assert_eq!(
            fs::read_to_string(outside.join("file")).unwrap(),
            "precious"
        );
    }
}

fn delta_command(original: &Original, to: &Path) -> Command {
    original.restore_command(to, &["--delta"])
}

#[test]
fn nobody_starts_a_server_meanwhile() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: strace is not installed (apt-get install strace)");
        return;
    }
    let original = Original::start();
    original.backup();
    original.archive_all();
    let to = original.place("data");
    succeeded(&original.restore(&to, &[]));
    // held up before its mark: the control file is still there
    let restore = delta_command(&original, &to);
    let mut command = Command::new("strace");
    command
        .args([
            "-f",
            "-o",
            "/dev/null",
            "-e",
            "inject=renameat:delay_enter=15000000:when=1",
        ])
        .arg(restore.get_program())
        .args(restore.get_args());
    let mut command = pitr_testbed::as_server_user(command).unwrap();
    let mut restoring = command.spawn().unwrap();
    let lock = to.join("postmaster.pid");
    while !fs::read_to_string(&lock).is_ok_and(|text| text.contains('\n')) {
        assert!(
            restoring.try_wait().unwrap().is_none(),
            "it ended too early"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut start = original.cluster.install().command("postgres").unwrap();
    let output = start.arg("-D").arg(&to).output().unwrap();
    assert!(!output.status.success());
    assert!(
        said(&output).contains("postmaster.pid"),
        "{}",
        said(&output)
    );
    let second = delta(&original, &to, &[]);
    assert_eq!(second.status.code(), Some(1), "{}", said(&second));
    assert!(restoring.wait().unwrap().success());
    assert!(!lock.exists());
    let mut copy = Cluster::adopt(original.cluster.install(), &to).unwrap();
    copy.start().unwrap();
}

/// A `pg_wal` on a file system of its own, mounted and not linked.
#[test]
fn what_is_mounted_below_stays_mounted_and_is_synced_as_well() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: strace is not installed (apt-get install strace)");
        return;
    }
    let original = Original::start();
    original.backup();
    original.archive_all();
    let (to, fresh) = (original.place("data"), original.place("fresh"));
    succeeded(&original.restore(&to, &[]));
    succeeded(&original.restore(&fresh, &[]));
    let pg_wal = to.join("pg_wal");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m,mode=777", "none"])
        .arg(&pg_wal)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        eprintln!("SKIPPED: only root can mount");
        return;
    }
    chown_to_server_user(&pg_wal).unwrap();
    put(&pg_wal.join("stray"), "x");
    fs::create_dir(pg_wal.join("lost+found")).unwrap();
    let log = original.place("strace");
    let restore = delta_command(&original, &to);
    let mut command = Command::new("strace");
    command
        .args(["-f", "-e", "trace=syncfs", "-o"])
        .arg(&log)
        .arg(restore.get_program())
        .args(restore.get_args());
    let output = run(command);
    let found = names(&pg_wal);
    let unmounted = Command::new("umount").arg(&pg_wal).output().unwrap();
    assert!(unmounted.status.success());
    succeeded(&output);
    assert_eq!(found, ["archive_status", "lost+found"]);
    let syncs = fs::read_to_string(&log)
        .unwrap()
        .matches(" syncfs(")
        .count();
    assert_eq!(syncs, 2);
}
