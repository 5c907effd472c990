//! What the archiver leaves of a segment's records in the stored object, and
//! what it does with a segment that is damaged.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where something that it needs fails, and says what it skips"
)]

mod scene;

use std::path::Path;
use std::process::{Command, Output};

use pitr_core::{SegmentSummary, WalFileName};
use pitr_store::wal::WalArchive;
use pitr_store::{Repository, StoreOptions, open_store};
use pitr_testbed::{Cluster, PostgresInstall, Site};
use scene::{Repo, Segment};

fn archive_in(repo: &Path) -> WalArchive {
    let store = open_store(repo.to_str().unwrap(), &StoreOptions::default()).unwrap();
    let repository = Repository::open(store).unwrap();
    repository.clusters().unwrap().remove(0).wal()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Lines of `pg_waldump` for one segment that match.
fn waldump(install: &PostgresInstall, segment: &Path, rmgr: &str) -> Vec<String> {
    let output = Command::new(install.program("pg_waldump"))
        .arg(format!("--rmgr={rmgr}"))
        .arg(segment)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_summary_of_every_majors_segment_tells_what_happened_in_it() {
    for install in PostgresInstall::all_found() {
        let site = Site::new().unwrap();
        let mut cluster = site
            .archiving(Cluster::builder(&install))
            .setting("max_prepared_transactions", "4")
            .setting("wal_keep_size", "64MB")
            .create()
            .unwrap();
        cluster.start().unwrap();
        cluster.execute("SELECT pg_switch_wal()");
        cluster.execute("CREATE TABLE gone AS SELECT generate_series(1, 100) i");
        cluster.execute("SELECT pg_create_restore_point('before the mistake')");
        cluster.execute("DROP TABLE gone");
        cluster.execute("BEGIN; CREATE TABLE never (i int); ROLLBACK");
        cluster.execute("BEGIN; CREATE TABLE two (i int); PREPARE TRANSACTION 'p'");
        cluster.execute("COMMIT PREPARED 'p'");
        cluster.execute("CREATE DATABASE other");
        cluster.execute("DROP DATABASE other");
        cluster.execute("CHECKPOINT");
        let name = cluster.archive_all().unwrap();

        let archive = archive_in(&site.repo());
        let file: WalFileName = name.parse().unwrap();
        let summary = archive.summary(&file).unwrap().unwrap();
        let version = install.version();
        assert_eq!(archive.scan(&file).unwrap(), summary, "{version}");

        let segment = cluster.data_dir().join("pg_wal").join(&name);
        let transactions = waldump(&install, &segment, "Transaction");
        let commits: Vec<&String> = transactions
            .iter()
            .filter(|line| line.contains("desc: COMMIT"))
            .collect();
        assert_eq!(summary.commits, commits.len() as u64, "{version}");
        let drops = commits
            .iter()
            .filter(|line| line.contains("; rels: "))
            .count();
        assert_eq!(summary.storage_drops.len(), drops, "{version}");
        assert!(drops >= 1, "{version}");
        for moment in [summary.earliest_commit, summary.latest_commit] {
            let lsn = format!(
                "lsn: {:X}/{:08X}",
                moment.unwrap().lsn.get() >> 32,
                moment.unwrap().lsn.get() & 0xffff_ffff
            );
            let line = commits.iter().find(|line| line.contains(&lsn));
            assert!(line.is_some(), "{version}: no commit at {lsn}");
        }
        assert!(summary.aborts >= 1, "{version}");
        let points: Vec<&str> = summary
            .restore_points
            .iter()
            .map(|p| p.name.as_str())
            .collect();
        assert_eq!(points, ["before the mistake"], "{version}");
        assert!(!summary.checkpoints.is_empty(), "{version}");
        let dropped: Vec<bool> = summary.databases.iter().map(|d| d.dropped).collect();
        assert_eq!(dropped, [false, true], "{version}");
        assert_eq!(summary.damage, [], "{version}");
        assert_eq!(
            summary.postgres_major.map(|m| m.get()),
            Some(install.major())
        );
        let all = waldump_count(&install, &segment);
        assert_eq!(summary.records, all, "{version}");
    }
}

/// Records in a segment, by `pg_waldump --stats`.
fn waldump_count(install: &PostgresInstall, segment: &Path) -> u64 {
    let output = Command::new(install.program("pg_waldump"))
        .arg(segment)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.starts_with("rmgr: "))
        .count() as u64
}

fn summary_of(repo: &Repo, segment: &Segment) -> Option<SegmentSummary> {
    archive_in(&repo.path())
        .summary(&segment.name().parse().unwrap())
        .unwrap()
}

#[test]
fn a_damaged_segment_is_archived_warned_of_and_found_again_by_summaries_alone() {
    let real = Segment::real();
    let mut bytes = real.bytes();
    // inside the data of some record in the middle of the segment
    let at = bytes.len() / 2 + 100;
    bytes[at] ^= 0x10;
    let damaged = Segment::made_of(real.name(), &bytes);
    let repo = Repo::init();
    let output = repo.push(damaged.path(), damaged.name());
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("WARNING:  "), "{said}");
    assert!(said.contains("is damaged at "), "{said}");
    assert!(said.contains("HINT:  Take a base backup now"), "{said}");
    assert!(
        repo.stored(damaged.name()).unwrap() == bytes,
        "not stored as it is"
    );

    let summary = summary_of(&repo, &damaged).unwrap();
    assert!(summary.is_damaged());
    let lsn = summary.damage[0].lsn;
    assert!(said.contains(&lsn.to_string()), "{said}");

    let listed = repo.command().args(["list", "--damaged"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains(damaged.name()), "{listed}");
    assert!(listed.contains(&lsn.to_string()), "{listed}");

    // the same again is the same again
    assert!(repo.push(damaged.path(), damaged.name()).status.success());
    // and a healthy one says nothing
    let repo = Repo::init();
    let output = repo.push(real.path(), real.name());
    assert_eq!(text(&output), "");
    assert!(!summary_of(&repo, &real).unwrap().is_damaged());
}

#[test]
fn codecs_without_room_for_a_summary_have_it_computed() {
    let segment = Segment::real();
    let name: WalFileName = segment.name().parse().unwrap();
    let mut scanned = Vec::new();
    for codec in ["zstd", "xz:0", "none"] {
        let repo = Repo::init();
        let output = repo
            .push_command(segment.path(), segment.name())
            .args(["--compression", codec])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let archive = archive_in(&repo.path());
        assert_eq!(archive.summary(&name).unwrap().is_some(), codec == "zstd");
        scanned.push(archive.summary_or_scan(&name).unwrap());
    }
    assert_eq!(scanned[0], scanned[1]);
    assert_eq!(scanned[0], scanned[2]);
}

#[test]
fn the_stock_tool_reads_past_the_summary_and_can_show_it() {
    let segment = Segment::real();
    let repo = Repo::init();
    assert!(repo.push(segment.path(), segment.name()).status.success());
    let object = repo
        .files()
        .into_iter()
        .find(|file| file.ends_with(".zst"))
        .unwrap();
    let object = repo.path().join(object);
    let plain = Command::new("zstd")
        .args(["-q", "-dc"])
        .arg(&object)
        .output()
        .unwrap();
    assert!(plain.stdout == segment.bytes());
    // as docs/store-format.md says
    let shown = Command::new("sh")
        .args(["-c", r#"tail -c 16384 "$0" | grep -ao '{"format":1,.*}'"#])
        .arg(&object)
        .output()
        .unwrap();
    let summary: SegmentSummary = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(Some(summary), summary_of(&repo, &segment));
}
