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
fn a_record_damaged_in_either_of_its_segments_is_found_by_summaries_alone() {
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install)
        .segment_size(1 << 20)
        .setting("wal_keep_size", "64MB")
        .create()
        .unwrap();
    cluster.start().unwrap();
    cluster.execute("SELECT pg_switch_wal()");
    // longer than two segments
    cluster.execute("SELECT pg_logical_emit_message(true, 'p', repeat('long ', 500000))");
    cluster.execute("SELECT pg_switch_wal()");
    let mut names: Vec<String> = std::fs::read_dir(cluster.data_dir().join("pg_wal"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.parse::<pitr_core::SegmentName>().is_ok())
        .collect();
    names.sort();
    let read = |name: &String| std::fs::read(cluster.data_dir().join("pg_wal").join(name)).unwrap();
    let run: Vec<(&String, Vec<u8>)> = names.iter().map(|name| (name, read(name))).collect();
    let size = pitr_core::WalSegmentSize::new(1 << 20).unwrap();
    // the segments from the one in which the message begins
    let begins = run.iter().position(|(name, bytes)| {
        let name: pitr_core::SegmentName = name.parse().unwrap();
        let mut reader = pitr_core::WalReader::new(name.number(size).unwrap(), size);
        drop(reader.feed(bytes));
        let missing = reader.unfinished().and_then(|record| record.remaining);
        missing.is_some_and(|missing| missing > 1 << 20)
    });
    let run = &run[begins.unwrap()..];
    let listed = |repo: &Repo| {
        let output = repo.command().args(["list", "--damaged"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // none; at its beginning; where it fills a segment; its end
    for changed in [
        None,
        Some((0, (1 << 20) - 5)),
        Some((1, 500_000)),
        Some((2, 70)),
    ] {
        let repo = Repo::init();
        for (number, (name, bytes)) in run.iter().take(3).enumerate() {
            let mut bytes = bytes.clone();
            if let Some((_, at)) = changed.filter(|(segment, _)| *segment == number) {
                bytes[at] ^= 0x04;
            }
            let segment = Segment::made_of(name, &bytes);
            let output = repo.push(segment.path(), segment.name());
            assert!(output.status.success(), "{}", text(&output));
            // read alone, none of them shows it
            assert_eq!(text(&output), "", "{changed:?}");
        }
        let listed = listed(&repo);
        match changed {
            None => assert!(listed.starts_with("0 damaged segments, by 3"), "{listed}"),
            Some(_) => {
                assert!(listed.contains("record's CRC is "), "{changed:?}: {listed}");
                assert!(listed.contains(run[2].0.as_str()), "{changed:?}: {listed}");
            }
        }
    }
}

#[test]
fn a_segment_of_a_version_in_beta_is_archived_with_a_warning() {
    let real = Segment::real();
    let mut bytes = real.bytes();
    for page in bytes.chunks_mut(8192) {
        if page.iter().any(|byte| *byte != 0) {
            // of PostgreSQL 19, where the flag 0004 means something else
            page[..2].copy_from_slice(&0xD122_u16.to_le_bytes());
            page[2] &= !4;
        }
    }
    let segment = Segment::made_of(real.name(), &bytes);
    let repo = Repo::init();
    let output = repo.push(segment.path(), segment.name());
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("WARNING:  "), "{said}");
    assert!(said.contains("is from PostgreSQL 19"), "{said}");
    assert!(repo.stored(segment.name()).unwrap() == bytes);
    let summary = summary_of(&repo, &segment).unwrap();
    assert_eq!(summary.postgres_major.map(|major| major.get()), Some(19));
    assert_eq!(summary.damage, []);
    // it is there already: nothing new to be told
    assert_eq!(
        text(&repo.push(segment.path(), segment.name()))
            .matches("WARNING")
            .count(),
        0
    );
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
