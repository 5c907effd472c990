//! A real server that archives into two repositories, and what comes back when
//! one of them, or a part of each, is lost.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where something that it needs fails"
)]

#[cfg(test)]
mod original;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use original::{Original, names, said, succeeded, values};

const LIMIT: Duration = Duration::from_secs(60);

/// The server and its second repository.
struct Doubled {
    original: Original,
    second: PathBuf,
}

impl Doubled {
    fn start() -> Self {
        let original = Original::start();
        let second = original.place("second");
        let doubled = Self { original, second };
        doubled.archive_verb(&["init"]);
        let command = doubled
            .original
            .cluster
            .sql("SHOW archive_command")
            .replace(" %p %f", &format!(" --repo {} %p %f", doubled.second()));
        let cluster = &doubled.original.cluster;
        cluster.execute(&format!("ALTER SYSTEM SET archive_command = '{command}'"));
        cluster.execute("SELECT pg_reload_conf()");
        // what went into the first one alone before
        doubled.original.archive_all();
        doubled.archive_verb(&["sync"]);
        doubled
    }

    fn second(&self) -> &str {
        self.second.to_str().unwrap()
    }

    /// With both repositories.
    fn archive_verb(&self, words: &[&str]) {
        let mut all = vec!["--repo", self.second()];
        all.extend(words);
        self.original.archive_verb(&all);
    }

    fn backup(&self) {
        let conninfo = self.original.cluster.conninfo();
        self.archive_verb(&["backup", "--dbname", &conninfo]);
    }

    fn restored(&self, name: &str, arguments: &[&str]) -> pitr_testbed::Cluster {
        let mut all = vec!["--repo", self.second()];
        all.extend(arguments);
        self.original.restored(name, &all)
    }

    fn promoted(&self, name: &str, arguments: &[&str]) -> pitr_testbed::Cluster {
        let cluster = self.restored(name, arguments);
        cluster
            .wait_for_sql("SELECT NOT pg_is_in_recovery()", LIMIT)
            .unwrap();
        cluster
    }

    /// The folders of timeline 1's segments in both.
    fn segments(&self) -> [PathBuf; 2] {
        let first = self.original.cluster_folder();
        let name = first.file_name().unwrap();
        [&first, &self.second.join(name)].map(|folder| folder.join("wal/00000001/00000000"))
    }
}

fn whole_segments(folder: &Path) -> Vec<String> {
    let mut segments = names(folder);
    segments.retain(|name| name.len() == 24 + ".zst".len());
    segments
}

#[test]
fn either_repository_alone_and_the_union_of_both_bring_everything_back() {
    let doubled = Doubled::start();
    let original = &doubled.original;
    doubled.backup();
    for value in ["a", "b", "c", "d"] {
        original.insert(value);
        original.archive_all();
    }
    let [first, second] = doubled.segments();
    assert_eq!(names(&first), names(&second));
    let backups = |segments: &Path| names(&segments.join("../../../backups"));
    assert_eq!(backups(&first).len(), 1);
    assert_eq!(backups(&first), backups(&second));

    // every other segment is lost in each, and the backup in the first
    for (at, name) in whole_segments(&first).iter().enumerate() {
        let folder = if at % 2 == 0 { &first } else { &second };
        fs::remove_file(folder.join(name)).unwrap();
    }
    let lost = first.join("../../../backups").join(&backups(&first)[0]);
    fs::remove_dir_all(&lost).unwrap();
    let cluster = doubled.promoted("from-both", &[]);
    assert_eq!(values(&cluster), "a,b,c,d");
    drop(cluster);

    // sync heals both
    doubled.archive_verb(&["sync"]);
    assert_eq!(names(&first), names(&second));
    assert_eq!(backups(&first), backups(&second));
    for name in whole_segments(&first) {
        let (one, other) = (first.join(&name), second.join(&name));
        assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{name}");
    }

    // one is lost wholly
    fs::rename(&original.repository, original.place("lost")).unwrap();
    let mut alone = doubled;
    alone.original.repository = alone.second.clone();
    let cluster = alone.original.promoted("from-second", &[]);
    assert_eq!(values(&cluster), "a,b,c,d");
    drop(cluster);
    fs::rename(&alone.second, alone.original.place("lost-too")).unwrap();
    alone.original.repository = alone.original.place("lost");
    let cluster = alone.original.promoted("from-first", &[]);
    assert_eq!(values(&cluster), "a,b,c,d");
}

/// Turns one bit of a stored object around.
fn damage(object: &Path, place: impl FnOnce(usize) -> usize) {
    let mut bytes = fs::read(object).unwrap();
    let place = place(bytes.len());
    bytes[place] ^= 1;
    fs::write(object, bytes).unwrap();
}

#[test]
fn what_is_damaged_of_a_backup_in_one_repository_is_taken_from_the_other() {
    let doubled = Doubled::start();
    let original = &doubled.original;
    original.insert("a");
    doubled.backup();
    original.insert("b");
    original.archive_all();
    let [first, second] = doubled.segments();
    let backup = |segments: &Path| {
        let backups = segments.join("../../../backups");
        backups.join(&names(&backups)[0])
    };
    let (first, second) = (backup(&first), backup(&second));
    let mut parts = names(&first);
    parts.retain(|name| name.ends_with(".tar.zst"));
    let part = &parts[0];
    // far into the part, after much of it was laid down, and the manifest
    damage(&first.join(part), |bytes| bytes / 10 * 7);
    damage(&first.join("backup_manifest"), |bytes| bytes / 2);
    let to = original.place("healed");
    let output = original.restore(&to, &["--repo", doubled.second()]);
    succeeded(&output);
    let told = said(&output);
    assert!(told.contains("WARNING") && told.contains(part), "{told}");
    assert!(told.contains("backup_manifest"), "{told}");
    let mut cluster = pitr_testbed::Cluster::adopt(original.cluster.install(), &to).unwrap();
    cluster.start().unwrap();
    cluster
        .wait_for_sql("SELECT NOT pg_is_in_recovery()", LIMIT)
        .unwrap();
    assert_eq!(values(&cluster), "a,b");
    drop(cluster);

    // damaged in both: refused, and no server starts there
    damage(&second.join(part), |bytes| bytes / 10 * 8);
    let to = original.place("lost-in-both");
    let output = original.restore(&to, &["--repo", doubled.second()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(!to.join("global/pg_control").exists());
}

#[test]
fn while_one_is_away_a_target_is_reached_and_the_end_of_the_log_is_not_assumed() {
    let doubled = Doubled::start();
    let original = &doubled.original;
    doubled.backup();
    original.insert("a");
    original
        .cluster
        .execute("SELECT pg_create_restore_point('here')");
    original.insert("b");
    original.archive_all();
    let away = original.place("away");
    fs::rename(&original.repository, &away).unwrap();

    let plan = original.restore(
        &original.place("unused"),
        &["--repo", doubled.second(), "--dry-run"],
    );
    succeeded(&plan);
    assert!(said(&plan).contains("is passed over"), "{}", said(&plan));

    let paused = doubled.restored("paused", &["--target-name", "here"]);
    paused
        .wait_for_sql("SELECT pg_is_wal_replay_paused()", LIMIT)
        .unwrap();
    assert_eq!(values(&paused), "a");
    let command = paused.sql("SHOW restore_command");
    for repository in [&original.repository, &doubled.second] {
        assert!(command.contains(repository.to_str().unwrap()), "{command}");
    }
    drop(paused);

    // to the end of the log: nobody can say where that is
    let to = original.place("latest");
    succeeded(&original.restore(&to, &["--repo", doubled.second()]));
    let mut latest = pitr_testbed::Cluster::adopt(original.cluster.install(), &to).unwrap();
    assert!(latest.start().is_err(), "it went into production");
    fs::rename(&away, &original.repository).unwrap();
    latest.start().unwrap();
    latest
        .wait_for_sql("SELECT NOT pg_is_in_recovery()", LIMIT)
        .unwrap();
    assert_eq!(values(&latest), "a,b");
}

#[test]
fn a_search_a_finding_and_a_rescue_are_made_of_what_both_hold_together() {
    let doubled = Doubled::start();
    let original = &doubled.original;
    let cluster = &original.cluster;
    cluster.execute("CREATE TABLE gone (id int); INSERT INTO gone SELECT generate_series(1, 500)");
    doubled.backup();
    for value in ["a", "b", "c"] {
        original.insert(value);
        original.archive_all();
    }
    cluster.execute("DROP TABLE gone");
    for value in ["d", "e"] {
        original.insert(value);
        original.archive_all();
    }
    let [first, second] = doubled.segments();
    let lost = first.join("../../../backups");
    fs::remove_dir_all(lost.join(&names(&lost)[0])).unwrap();
    // every other segment is lost in each of them; of those that both have one
    // copy is damaged, late in it
    let segments = whole_segments(&first);
    for (at, name) in segments.iter().enumerate() {
        match at % 4 {
            0 => fs::remove_file(first.join(name)).unwrap(),
            1 => fs::remove_file(second.join(name)).unwrap(),
            2 => damage(&first.join(name), content_byte),
            _ => damage(&second.join(name), content_byte),
        }
    }
    let both = ["--repo", doubled.second()];
    let find = |words: &[&str]| -> serde_json::Value {
        let output = original.restore_verb(&[&both, &["find", "--json"], words].concat());
        succeeded(&output);
        assert!(!said(&output).contains("WARNING"), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    // every record of the log is read, and none is missed
    for words in [&["--dropped"][..], &["--table", "gone", "--min-rows", "1"]] {
        let document = find(words);
        let findings = document["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 1, "{document:#}");
        assert_eq!(findings[0]["kind"], "drop");
        assert_eq!(findings[0]["objects"][0]["name_is"], "certain");
        assert_eq!(findings[0]["reachable"], true, "{document:#}");
        assert_eq!(document["missing_segments"], serde_json::json!([]));
    }
    let everything = find(&["--large", "0"]);
    let commits = everything["findings"].as_array().unwrap().iter();
    let inserts = commits.filter(|found| found["kind"] == "large_transaction");
    assert!(inserts.count() >= 6, "{everything:#}");
    let drop = find(&["--dropped"]);
    let id = drop["findings"][0]["id"].as_str().unwrap();

    let copy = doubled.promoted("before", &["--before", id]);
    assert_eq!(copy.sql("SELECT count(*) FROM gone"), "500");
    assert_eq!(values(&copy), "a,b,c");
    std::mem::drop(copy);

    let file = original.place("gone.sql");
    let scratch = original.places.folder("scratch").unwrap();
    let words = ["table", "gone", "--before", id, "--into"];
    let places = [
        file.to_str().unwrap(),
        "--scratch",
        scratch.to_str().unwrap(),
    ];
    let output = original.restore_verb(&[&both[..], &words, &places].concat());
    succeeded(&output);
    assert!(
        said(&output).contains("gone: 500 rows"),
        "{}",
        said(&output)
    );

    // one of them alone knows less, and says what is missing
    let alone = original.restore_verb(&["find", "--large", "0"]);
    succeeded(&alone);
    let told = said(&alone);
    assert!(told.contains("is not in the repository"), "{told}");
    assert!(told.contains("is damaged in the repository"), "{told}");
}

/// A byte late in the data of an object, before the summary behind it.
fn content_byte(bytes: usize) -> usize {
    bytes.saturating_sub(3000).max(bytes / 2)
}
