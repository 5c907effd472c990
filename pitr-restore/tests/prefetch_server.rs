//! Segments that are fetched ahead of a real server: through crashes of
//! everybody, a standby, base backups of it, and `pg_rewind`.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on is a failed test"
)]

#[cfg(test)]
mod original;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pitr_testbed::{Cluster, StopMode, as_server_user, chown_to_server_user};

use original::{Original, names, run, succeeded, values};

const LIMIT: Duration = Duration::from_secs(60);
const AHEAD: &str = "pg_wal/pgsql_tmp_pitr_ahead";

/// Writes about `segments` segments of 1 MiB into the archive, and a row with each.
fn fill(original: &Original, segments: u32) {
    for number in 0..segments {
        original.cluster.execute(&format!(
            "INSERT INTO t VALUES ('{number:03}'); \
             SELECT pg_logical_emit_message(false, 'fill', repeat('x', 900000)); \
             SELECT pg_switch_wal()"
        ));
    }
    original.archive_all();
}

fn all_of(segments: u32) -> String {
    let rows: Vec<String> = (0..segments).map(|number| format!("{number:03}")).collect();
    rows.join(",")
}

#[track_caller]
fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ahead(data: &Path) -> usize {
    let names = fs::read_dir(data.join(AHEAD)).into_iter().flatten();
    names
        .filter(|entry| {
            entry
                .as_ref()
                .is_ok_and(|entry| entry.file_name().len() == 24)
        })
        .count()
}

/// Process that fetches ahead for the server in `data`.
fn filler(data: &Path) -> Option<String> {
    let text = fs::read(data.join(AHEAD).join("origin.json")).ok()?;
    let origin: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(origin["process"].to_string())
}

/// Hooks that run for the server in `data`.
fn hooks(data: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|process| {
            fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data)
                && fs::read(process.path().join("cmdline")).is_ok_and(|words| {
                    words.ends_with(b"pg_wal/RECOVERYXLOG\0")
                        && !words.windows(13).any(|word| word == b"--fetch-ahead")
                })
        })
        .filter_map(|process| process.file_name().into_string().ok())
        .collect()
}

fn kill_9(process: &str) {
    let _ = Command::new("kill").args(["-9", process]).output();
}

#[test]
fn recovery_is_whole_whoever_is_killed_on_the_way() {
    const SEGMENTS: u32 = 24;
    let original = Original::start();
    original.backup();
    fill(&original, SEGMENTS);
    let to = original.place("copy");
    succeeded(&original.restore(&to, &["--prefetch", "5"]));
    let mut cluster = Cluster::adopt(original.cluster.install(), &to).unwrap();
    let enough = AtomicBool::new(false);
    let mut killed = [0; 3];
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut random = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(std::process::id());
            let mut killed = [0; 3];
            while !enough.load(Ordering::Relaxed) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                std::thread::sleep(Duration::from_millis(5 + random % 60));
                match random >> 32 & 7 {
                    0..=3 => {
                        if let Some(filler) = filler(&to) {
                            kill_9(&filler);
                            killed[0] += 1;
                        }
                    }
                    4..=6 => {
                        for hook in hooks(&to) {
                            kill_9(&hook);
                            killed[1] += 1;
                        }
                    }
                    _ => {
                        let file = fs::read_to_string(to.join("postmaster.pid"));
                        if let Some(server) = file
                            .ok()
                            .and_then(|file| file.lines().next().map(str::to_owned))
                        {
                            kill_9(&server);
                            killed[2] += 1;
                        }
                    }
                }
            }
            killed
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            // it may be killed on its way up, and on its way down
            let _ = cluster.start();
            cluster.kill_9();
        }
        enough.store(true, Ordering::Relaxed);
        killed = killer.join().unwrap();
    });
    assert!(killed.iter().sum::<u32>() > 0, "nobody was killed");
    cluster.kill_9();
    cluster.start().unwrap();
    let promoted = "SELECT NOT pg_is_in_recovery()";
    cluster.wait_for_sql(promoted, LIMIT).unwrap();
    assert_eq!(values(&cluster), all_of(SEGMENTS), "killed: {killed:?}");
    wait_until("the folder stays", || !to.join(AHEAD).exists());
}

#[test]
fn a_standby_leaves_nothing_of_it_in_a_base_backup_and_behind_itself() {
    const SEGMENTS: u32 = 12;
    let original = Original::start();
    original.backup();
    fill(&original, SEGMENTS);
    let to = original.place("standby");
    succeeded(&original.restore(&to, &["--prefetch", "6"]));
    fs::rename(to.join("recovery.signal"), to.join("standby.signal")).unwrap();
    let mut standby = Cluster::adopt(original.cluster.install(), &to).unwrap();
    // so that what was fetched ahead waits
    let settings = fs::OpenOptions::new()
        .append(true)
        .open(to.join("postgresql.auto.conf"));
    writeln!(settings.unwrap(), "recovery_min_apply_delay = '1h'").unwrap();
    standby.start().unwrap();
    wait_until("nothing is fetched ahead", || ahead(&to) > 2);
    // no file of the server is kept open, which up to 15 its commands inherit
    let open = fs::read_dir(format!("/proc/{}/fd", filler(&to).unwrap())).unwrap();
    for file in open.flatten() {
        let file = fs::read_link(file.path()).unwrap_or_default();
        assert!(
            !file.starts_with(&to) || file.starts_with(to.join(AHEAD)),
            "{}",
            file.display()
        );
    }
    // it would end by itself if nothing is taken for long, and a backup may take its time
    kill_9(&filler(&to).unwrap());

    let copy = original.place("copy");
    let mut command = original.cluster.install().command("pg_basebackup").unwrap();
    command
        .args([
            "--checkpoint",
            "fast",
            "--wal-method",
            "none",
            "--no-sync",
            "--dbname",
        ])
        .arg(standby.conninfo())
        .arg("--pgdata")
        .arg(&copy);
    succeeded(&command.output().unwrap());
    assert!(ahead(&to) > 0, "nothing was there to be left out");
    assert_eq!(names(&copy.join("pg_wal")), ["archive_status"]);
    standby.restart().unwrap();
    wait_until("nothing is fetched ahead", || ahead(&to) > 2);

    // neither an immediate shutdown nor a crash leaves anything
    for crash in [false, true] {
        let process = filler(&to).unwrap();
        if crash {
            standby.kill_9();
        } else {
            standby.stop(StopMode::Immediate).unwrap();
        }
        wait_until("the folder stays", || !to.join(AHEAD).exists());
        wait_until("the process stays", || {
            fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|words| words.is_empty())
                || !Path::new(&format!("/proc/{process}")).exists()
        });
        standby.start().unwrap();
        wait_until("nothing is fetched ahead", || ahead(&to) > 2);
    }
    standby.promote().unwrap();
    wait_until("the folder stays", || !to.join(AHEAD).exists());
    // what it had replayed, and the archive goes on to the end before a promotion
    assert_eq!(values(&standby), all_of(SEGMENTS));
}

#[test]
fn pg_rewind_takes_what_a_killed_process_left_away_and_copies_none_of_it() {
    let original =
        Original::start_with(|builder| builder.checksums(true).setting("wal_keep_size", "64MB"));
    original.backup();
    original.insert("a");
    original.archive_all();
    let new = original.promoted("new", &[]);
    original.insert("lost");
    original.cluster.execute("CHECKPOINT");
    let mut old = original.cluster;
    old.stop(StopMode::Fast).unwrap();
    for data in [new.data_dir(), old.data_dir()] {
        let folder = data.join(AHEAD);
        fs::create_dir_all(&folder).unwrap();
        for name in [
            "lock",
            "origin.json",
            "000000010000000000000077",
            "000000010000000000000078.part",
        ] {
            fs::write(folder.join(name), name).unwrap();
        }
        chown_to_server_user(&folder).unwrap();
    }
    let mut command = old.install().command("pg_rewind").unwrap();
    command
        .arg("--target-pgdata")
        .arg(old.data_dir())
        .arg("--source-server")
        .arg(format!("{} dbname=postgres", new.conninfo()));
    let mut dry = old.install().command("pg_rewind").unwrap();
    dry.args(command.get_args()).arg("--dry-run");
    succeeded(&as_server_user(dry).unwrap().output().unwrap());
    assert!(old.data_dir().join(AHEAD).join("lock").exists());
    succeeded(&run(command));
    assert!(!old.data_dir().join(AHEAD).exists());
    assert!(new.data_dir().join(AHEAD).exists());
}

#[test]
fn a_server_that_is_started_finds_the_first_segments_there() {
    let original = Original::start();
    original.backup();
    original
        .cluster
        .execute("SELECT pg_create_restore_point('here')");
    fill(&original, 6);
    let to = original.place("copy");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    drop(listener);
    let bin = original.cluster.install().bin();
    let output = original.restore(
        &to,
        &[
            "--start",
            "--port",
            &port,
            "--pg-bin",
            bin.to_str().unwrap(),
            "--target-name",
            "here",
        ],
    );
    // it pauses before the end of the log: what lies behind that waits
    let process = filler(&to);
    let words = process
        .as_deref()
        .map(|process| fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default());
    let mut stop = original.cluster.install().command("pg_ctl").unwrap();
    stop.args(["stop", "--mode", "immediate", "--silent", "--pgdata"])
        .arg(&to);
    let _ = run(stop);
    succeeded(&output);
    let words = String::from_utf8(words.unwrap()).unwrap();
    assert!(words.contains("--fetch-ahead=from"), "{words}");
    wait_until("the folder stays", || !to.join(AHEAD).exists());
}
