//! `pitr-restore %f %p` with several repositories: what one has is served, and
//! absence is proven by all of them together.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set its stage has failed"
)]

#[cfg(test)]
mod scratch;

use std::fs;
use std::path::PathBuf;

use pitr_store::{Repository, StoreOptions, open_store};
use scratch::{Outcome, SYSTEM_IDENTIFIER, Scratch};

const ONE: &str = "000000010000000000000001";
const TWO: &str = "000000010000000000000002";
const THREE: &str = "000000010000000000000003";

/// A data directory and two repositories of its cluster.
struct Pair {
    scratch: Scratch,
    places: [PathBuf; 2],
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self::with_an_empty_second();
        pair.use_repository(1);
        pair.scratch.claim(SYSTEM_IDENTIFIER);
        pair
    }

    fn with_an_empty_second() -> Self {
        let scratch = Scratch::new();
        let places = [scratch.repository.clone(), scratch.dir.join("second")];
        let store = open_store(places[1].to_str().unwrap(), &StoreOptions::default()).unwrap();
        Repository::init(store).unwrap();
        Self { scratch, places }
    }

    /// What the scratch archives goes there.
    fn use_repository(&mut self, index: usize) {
        self.scratch.repository.clone_from(&self.places[index]);
    }

    fn push(&mut self, index: usize, names: &[&str]) {
        self.use_repository(index);
        for name in names {
            self.scratch.push(name);
        }
    }

    fn damage(&mut self, index: usize, name: &str) {
        self.use_repository(index);
        let object = self.scratch.object(name);
        let mut bytes = fs::read(&object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(object, bytes).unwrap();
    }

    fn fetch(&mut self, name: &str) -> Outcome {
        let _ = fs::remove_file(self.scratch.data.join("pg_wal/RECOVERYXLOG"));
        self.use_repository(0);
        let second = self.places[1].to_str().unwrap().to_owned();
        self.scratch.fetch_with(&["--repo", &second], name)
    }

    /// The disk of a repository is not mounted.
    fn unmount(&self, index: usize) {
        let place = &self.places[index];
        fs::rename(place, place.with_extension("away")).unwrap();
    }
}

#[test]
fn different_segments_in_each_are_served_as_one_log() {
    let mut pair = Pair::new();
    pair.push(0, &[ONE, THREE]);
    pair.push(1, &[TWO]);
    for name in [ONE, TWO, THREE] {
        let outcome = pair.fetch(name);
        outcome.is_segment(name);
        assert_eq!(outcome.stderr, "");
    }
}

#[test]
fn absence_is_proven_when_all_say_so() {
    let mut pair = Pair::new();
    pair.push(0, &[ONE]);
    pair.push(1, &[ONE]);
    for name in [TWO, "00000002.history"] {
        let outcome = pair.fetch(name);
        outcome.is_refused(1, "");
        assert_eq!(outcome.stderr, "");
    }
}

#[test]
fn one_that_is_away_is_doubt_and_no_absence() {
    for away in [0, 1] {
        let mut pair = Pair::new();
        pair.push(0, &[ONE]);
        pair.push(1, &[ONE]);
        pair.unmount(away);
        for name in [TWO, "00000002.history"] {
            let outcome = pair.fetch(name);
            outcome.is_refused(200, "1 of 2 repositories gave no answer");
            assert!(outcome.stderr.contains("is not a repository"));
        }
        // what the other one has is served all the same
        let outcome = pair.fetch(ONE);
        outcome.is_segment(ONE);
        assert_eq!(outcome.stderr.contains("is passed over"), away == 0);
    }
}

#[test]
fn both_away_is_doubt_that_names_both() {
    let mut pair = Pair::new();
    pair.unmount(0);
    pair.unmount(1);
    let outcome = pair.fetch(ONE);
    outcome.is_refused(200, "2 of 2 repositories gave no answer");
    for place in &pair.places {
        assert!(outcome.stderr.contains(place.to_str().unwrap()));
    }
}

#[test]
fn a_standby_is_told_1_with_a_warning_while_one_is_away() {
    let mut pair = Pair::new();
    pair.push(0, &[ONE]);
    pair.scratch.signal("standby.signal");
    pair.unmount(1);
    let outcome = pair.fetch(TWO);
    outcome.is_refused(1, "WARNING:");
    assert!(
        outcome.stderr.contains("gave no answer"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_damaged_copy_is_passed_over_with_a_warning() {
    let mut pair = Pair::new();
    pair.push(0, &[ONE, TWO]);
    pair.push(1, &[ONE]);
    pair.damage(0, ONE);
    let outcome = pair.fetch(ONE);
    outcome.is_segment(ONE);
    assert!(outcome.stderr.starts_with("WARNING:"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("is damaged"), "{}", outcome.stderr);
    // with no other copy it is no absence
    pair.damage(0, TWO);
    pair.fetch(TWO).is_refused(200, "is damaged");
}

#[test]
fn a_later_segment_in_the_other_repository_makes_a_hole() {
    let mut pair = Pair::new();
    pair.push(0, &[ONE]);
    pair.push(1, &[THREE]);
    pair.fetch(TWO).is_refused(200, "which has later ones");
}

#[test]
fn a_partial_does_not_stand_in_where_the_other_has_more() {
    let mut pair = Pair::new();
    let partial = "000000010000000000000002.partial";
    pair.push(0, &[ONE, partial]);
    pair.push(1, &[ONE]);
    pair.scratch.keep_history(2, "1\t0/900100\tr\n");
    let alone = pair.fetch(TWO);
    // the last timeline of the path is 2: a partial of 1 is none of its own
    assert_ne!(alone.exit, Some(0), "{}", alone.stderr);

    let mut pair = Pair::new();
    pair.push(0, &[ONE, partial]);
    pair.fetch(TWO).is_segment(TWO);
    pair.push(1, &[THREE]);
    assert_ne!(pair.fetch(TWO).exit, Some(0));
    // ... or its whole copy
    pair.push(1, &[TWO]);
    pair.fetch(TWO).is_segment(TWO);
}

#[test]
fn the_branch_is_known_from_whichever_repository_has_the_history() {
    let mut pair = Pair::new();
    pair.push(0, &["000000010000000000000007"]);
    pair.use_repository(1);
    pair.scratch.push_history(2, "1\t0/500100\tr\n");
    pair.use_repository(0);
    let second = pair.places[1].to_str().unwrap().to_owned();
    let options = ["--repo", &second, "--timeline", "2"];
    let beyond = "000000010000000000000007";
    pair.scratch
        .fetch_with(&options, beyond)
        .is_refused(1, "left timeline 1 at 0/500100");
    // without that repository nobody can tell where the branch is
    pair.unmount(1);
    pair.scratch
        .fetch_with(&options, beyond)
        .is_refused(200, "the history of timeline 2 was not found");
}

#[test]
fn a_new_repository_says_that_it_has_nothing() {
    let mut pair = Pair::with_an_empty_second();
    pair.push(0, &[ONE]);
    pair.fetch(ONE).is_segment(ONE);
    pair.fetch(TWO).is_refused(1, "");
    // alone it is hardly the one that is meant
    let _ = fs::remove_file(pair.scratch.data.join("pg_wal/RECOVERYXLOG"));
    pair.use_repository(1);
    pair.scratch
        .fetch(TWO)
        .is_refused(200, "holds no cluster yet");
}

#[test]
fn a_repository_of_another_cluster_proves_nothing() {
    let mut pair = Pair::with_an_empty_second();
    pair.push(0, &[ONE]);
    pair.use_repository(1);
    pair.scratch.claim(4711);
    pair.fetch(ONE).is_segment(ONE);
    pair.fetch(TWO).is_refused(200, "does not know cluster");
}

#[test]
fn the_order_of_the_setting_decides_and_the_rest_is_not_opened() {
    let mut pair = Pair::new();
    pair.push(0, &[ONE]);
    pair.unmount(1);
    let outcome = pair.fetch(ONE);
    outcome.is_segment(ONE);
    assert_eq!(outcome.stderr, "");
}

#[test]
fn a_server_that_does_not_answer_delays_no_segment_that_another_one_has() {
    let mut pair = Pair::new();
    pair.push(1, &[ONE]);
    // accepts, and never says a word
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!(
        "sftp://nobody@127.0.0.1:{}/srv",
        silent.local_addr().unwrap().port()
    );
    let config = pair.scratch.dir.join("pitr.toml");
    let write = |timeout: u64, retry: u64| {
        let sftp = format!("[sftp]\ntimeout_seconds = {timeout}\nretry_seconds = {retry}\n");
        fs::write(&config, sftp).unwrap();
    };
    let second = pair.places[1].clone();
    pair.scratch.repository = PathBuf::from(&address);
    let words = [
        "--config",
        config.to_str().unwrap(),
        "--repo",
        second.to_str().unwrap(),
    ];
    write(600, 600);
    let begun = std::time::Instant::now();
    let outcome = pair.scratch.fetch_with(&words, ONE);
    outcome.is_segment(ONE);
    assert!(outcome.stderr.contains("WARNING") && outcome.stderr.contains("is passed over"));
    assert!(begun.elapsed() < std::time::Duration::from_secs(120));
    // what nobody has is in doubt as long as it does not answer
    write(1, 1);
    fs::remove_file(pair.scratch.data.join("pg_wal/RECOVERYXLOG")).unwrap();
    let outcome = pair.scratch.fetch_with(&words, TWO);
    outcome.is_refused(200, "1 of 2 repositories gave no answer");
}
