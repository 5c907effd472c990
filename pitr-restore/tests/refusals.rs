//! A target that cannot be reached is refused before anything is made, with
//! what can be reached instead.
#![allow(clippy::unwrap_used, reason = "what a test is for")]

mod original;

use std::fs;

use original::{Original, refused, said, succeeded, tamper};
use pitr_testbed::Cluster;

#[test]
fn every_target_out_of_reach_is_refused_with_the_nearest_that_is_not() {
    let original = Original::start();
    let sql = |text: &str| original.cluster.sql(text);
    let early = sql("INSERT INTO t VALUES ('early') RETURNING pg_current_xact_id()");
    original.backup();
    original
        .cluster
        .execute("SELECT pg_create_restore_point('twice')");
    let kept = sql("INSERT INTO t VALUES ('a') RETURNING pg_current_xact_id()");
    original
        .cluster
        .execute("SELECT pg_create_restore_point('once')");
    let before_gap = original.archive_all();
    let in_gap = sql("INSERT INTO t VALUES ('b') RETURNING pg_current_xact_id()");
    let gap_time = sql("SELECT clock_timestamp()");
    let lost = original.archive_all();
    let last = sql("INSERT INTO t VALUES ('c') RETURNING pg_current_xact_id()");
    original
        .cluster
        .execute("SELECT pg_create_restore_point('twice')");
    let switched = sql("SELECT pg_walfile_name(pg_switch_wal() - 1)");
    let archived = format!("SELECT last_archived_wal >= '{switched}' FROM pg_stat_archiver");
    original
        .cluster
        .wait_for_sql(&archived, std::time::Duration::from_secs(120))
        .unwrap();
    let end = sql("SELECT pg_current_wal_lsn()");
    let after = sql("SELECT clock_timestamp()");

    let to = original.place("unused");
    let refuse = |words: &[&str], text: &str, wanted: &[&str]| {
        let output = original.restore(&to, words);
        refused(&output, &to, text);
        for wanted in wanted {
            assert!(
                said(&output).contains(wanted),
                "{wanted}: {}",
                said(&output)
            );
        }
    };
    let immediate = "--target-immediate";
    // too early: before the backup is consistent
    refuse(
        &["--target-xid", &early],
        "does not end in the archived log",
        &[],
    );
    refuse(
        &["--target-time", "2020-01-01 00:00:00+00"],
        "lies before base backup",
        &["The nearest after it", immediate],
    );
    refuse(
        &["--target-lsn", "0/100"],
        "lies before base backup",
        &[immediate],
    );
    // too late: after the last commit
    let nearest = format!("--target-xid {last}");
    refuse(
        &["--target-time", &after],
        "no transaction ends after",
        &["The nearest before it", &nearest],
    );
    refuse(
        &["--target-time", "2100-01-01 00:00:00+00"],
        "lies in the future",
        &["The nearest before it", &nearest],
    );
    // beyond the end, exactly at it included
    for lsn in [end.as_str(), "FF/0"] {
        refuse(
            &["--target-lsn", lsn],
            "lies beyond the archived log",
            &[&nearest],
        );
        refuse(
            &["--target-lsn", lsn, "--exclusive"],
            "lies beyond the archived log",
            &[&nearest],
        );
    }
    // names and transactions that there are not
    refuse(
        &["--target-name", "never"],
        "there is no restore point \"never\"",
        &["\"once\" at"],
    );
    refuse(
        &["--target-xid", "999999"],
        "transaction 999999 does not end",
        &["The nearest before it", &nearest],
    );
    // a name that there is twice; either can be told by its LSN
    refuse(
        &["--target-name", "twice"],
        "there are 2 restore points \"twice\"",
        &["--target-lsn 0/"],
    );
    let output = original.restore(&to, &["--target-name", "once", "--dry-run"]);
    succeeded(&output);
    assert!(
        said(&output).contains("stops       after the restore point \"once\""),
        "{}",
        said(&output)
    );
    // a timeline that no backup leads to
    refuse(
        &["--target-timeline", "7"],
        "the repository knows no timeline 7",
        &[],
    );

    // in a gap, and behind it
    fs::remove_file(original.object(&lost)).unwrap();
    let nearest = format!("--target-xid {kept}");
    refuse(
        &["--target-xid", &in_gap],
        "does not end in the archived log",
        &[&lost],
    );
    for words in [["--target-xid", &last], ["--target-time", &gap_time]] {
        refuse(
            &words,
            &format!("segment {lost} is not in the repository"),
            &["The nearest before it", &nearest],
        );
    }

    // damage is the end of the log to a server: the commit is behind it
    tamper(&original.object(&before_gap), |bytes| {
        let middle = bytes.len() / 4;
        bytes[middle] ^= 0xFF;
    });
    refuse(&["--target-xid", &kept], "", &[]);
}

/// What is asked for on one timeline and lies on another is named with the way there.
#[test]
fn a_name_or_transaction_of_another_timeline_is_refused_with_the_command_that_goes_there() {
    let original = Original::start();
    let first = &original.cluster;
    let point = |cluster: &Cluster, name: &str| {
        let name = name.replace('\'', "''");
        cluster.execute(&format!("SELECT pg_create_restore_point('{name}')"));
    };
    let commit = |cluster: &Cluster, value: &str| {
        cluster.sql(&format!(
            "INSERT INTO t VALUES ('{value}') RETURNING pg_current_xact_id()"
        ))
    };
    point(first, "before it all");
    let early = commit(first, "early");
    original.backup();
    let branch = original.insert("branch");
    // more on the first than on the second, so that the last number is its own
    let lasts: Vec<String> = (0..4).map(|n| commit(first, &format!("one {n}"))).collect();
    point(first, "it's on one");
    original.archive_all();
    let words = ["--target-time", &branch, "--target-action", "promote"];
    let second = original.promoted("second", &[&words[..], &["--role", "primary"]].concat());
    point(&second, "on two");
    let of_two = second.sql("SELECT pg_current_wal_insert_lsn()");
    commit(&second, "two");
    original::archive_all(&second);
    drop(second);

    let to = original.place("unused");
    let refuse = |words: &[&str], text: &str, wanted: &str| {
        let output = original.restore(&to, words);
        refused(&output, &to, text);
        assert!(
            said(&output).contains(wanted),
            "{wanted}: {}",
            said(&output)
        );
    };
    let on_one = lasts.last().unwrap();
    refuse(
        &["--target-name", "it's on one"],
        "there is no restore point \"it's on one\" in the archived log of timeline 2",
        "--target-timeline 1 --target-name 'it'\\''s on one' leads there.",
    );
    refuse(
        &["--target-xid", on_one],
        "does not end in the archived log of timeline 2",
        &format!("--target-timeline 1 --target-xid {on_one} leads there."),
    );
    refuse(
        &["--target-name", "on two", "--target-timeline", "1"],
        "there is no restore point",
        "Timeline 2 has it at",
    );
    // what lies before every backup is there, and out of reach
    refuse(
        &["--target-name", "before it all"],
        "there is no restore point",
        "where no base backup leads.",
    );
    refuse(
        &["--target-xid", &early],
        "does not end in the archived log",
        "Timeline 1 has it at",
    );
    // nowhere at all
    let output = original.restore(&to, &["--target-name", "never"]);
    assert!(!said(&output).contains("has it at"), "{}", said(&output));
    // what the hints say is true
    for words in [
        ["--target-name", "it's on one", "--target-timeline", "1"],
        ["--target-xid", on_one, "--target-timeline", "1"],
        ["--target-name", "on two", "--target-timeline", "2"],
    ] {
        succeeded(&original.restore(&to, &[&words[..], &["--dry-run"]].concat()));
    }
    // a search says so too
    let found = original.restore_verb(&["find", "--xid", on_one]);
    succeeded(&found);
    assert!(
        said(&found).contains("nothing on timeline 2"),
        "{}",
        said(&found)
    );
    assert!(said(&found).contains(": --timeline 1"), "{}", said(&found));
    let found = original.restore_verb(&["find", "--xid", on_one, "--timeline", "1"]);
    assert!(
        said(&found).contains("transaction committed"),
        "{}",
        said(&found)
    );
    // and so does a finding that is on no other than the second
    let words = ["--before", &of_two, "--target-timeline", "1"];
    refuse(&words, &of_two, "Timeline 2 has a log of its own there");
}
