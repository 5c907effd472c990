//! `pitr-archive list` says what can be recovered, and why not more.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where something that it needs fails"
)]

use std::path::PathBuf;

use pitr_testbed::{Cluster, PostgresInstall, Site, StopMode};
use serde_json::Value;

fn verb(site: &Site, words: &[&str]) -> String {
    let output = site.run(site.archive().unwrap().args(words)).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn listed(site: &Site) -> Value {
    let document: Value = serde_json::from_str(&verb(site, &["list", "--json"])).unwrap();
    document["clusters"][0].clone()
}

fn object(site: &Site, cluster: &Cluster, segment: &str) -> PathBuf {
    let identifier = cluster.sql("SELECT system_identifier FROM pg_control_system()");
    let (timeline, log) = (&segment[..8], &segment[8..16]);
    let folder = site.repo().join(identifier).join("wal");
    folder
        .join(timeline)
        .join(log)
        .join(format!("{segment}.zst"))
}

#[test]
fn the_window_ends_at_a_gap_and_opens_again_with_the_next_backup() {
    let install = PostgresInstall::any().unwrap();
    let site = Site::new().unwrap();
    let mut cluster = site
        .archiving(Cluster::builder(&install).segment_size(1 << 20))
        .create()
        .unwrap();
    cluster.start().unwrap();
    cluster.execute("CREATE TABLE t (i int)");
    verb(&site, &["backup", "-d", &cluster.conninfo()]);
    cluster.execute("INSERT INTO t VALUES (1)");
    let kept = cluster.archive_all().unwrap();
    cluster.execute("INSERT INTO t VALUES (2)");
    let lost = cluster.archive_all().unwrap();
    cluster.execute("INSERT INTO t VALUES (3)");
    cluster.archive_all().unwrap();

    let timeline = |listed: &Value, number: usize| listed["timelines"][number].clone();
    let whole = timeline(&listed(&site), 0);
    assert_eq!(whole["windows"].as_array().unwrap().len(), 1, "{whole}");
    assert_eq!(whole["windows"][0]["end"]["cause"], "end_of_log");
    assert_eq!(whole["damage_looked_for"], true);
    let last = whole["windows"][0]["last_commit"]["lsn"].as_str().unwrap();
    let last: pitr_core::Lsn = last.parse().unwrap();

    std::fs::remove_file(object(&site, &cluster, &lost)).unwrap();
    let before = timeline(&listed(&site), 0);
    let window = &before["windows"][0];
    assert_eq!(window["end"]["cause"], "missing");
    assert_eq!(window["end"]["first"], lost.as_str());
    assert_eq!(window["end"]["segments"], 1);
    // the last commit before the gap is that in the segment before it
    let commit: pitr_core::Lsn = window["last_commit"]["lsn"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(commit < last);
    let until: pitr_core::Lsn = window["until_lsn"].as_str().unwrap().parse().unwrap();
    assert_eq!(
        pitr_core::WalFileName::Segment(kept.parse().unwrap()).to_string(),
        kept
    );
    assert!(commit < until);

    verb(&site, &["backup", "-d", &cluster.conninfo()]);
    cluster.execute("INSERT INTO t VALUES (4)");
    cluster.archive_all().unwrap();
    // the cluster goes on on a timeline of its own
    cluster.stop(StopMode::Fast).unwrap();
    std::fs::write(cluster.data_dir().join("standby.signal"), "").unwrap();
    cluster.start().unwrap();
    cluster.promote().unwrap();
    cluster.execute("INSERT INTO t VALUES (5)");
    cluster.archive_all().unwrap();

    let listed = listed(&site);
    let (first, second) = (timeline(&listed, 0), timeline(&listed, 1));
    assert_eq!(first["windows"].as_array().unwrap().len(), 2, "{first}");
    assert_eq!(second["windows"].as_array().unwrap().len(), 2, "{second}");
    assert_eq!(second["branch"]["parent"], 1);
    let newest = &listed["backups"][1];
    assert_eq!(newest["reaches"].as_array().unwrap().len(), 2, "{newest}");

    let text = verb(&site, &["list"]);
    for wanted in [
        "timeline 1\n",
        "└─ timeline 2, left 1 at",
        "no recovery target specified",
        "GAP: 1 segment is missing",
        "last commit",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(!text.contains("WAL IS MISSING"), "{text}");
}
