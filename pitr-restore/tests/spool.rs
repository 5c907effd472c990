//! What a receiver holds counts for the plan, as it does for the hook.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod original;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use original::{Original, refused, said, succeeded, values};
use pitr_testbed::as_server_user;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

/// A running `pitr-archive receive`.
struct Receiver {
    child: Child,
    spool: PathBuf,
}

impl Receiver {
    fn start(original: &Original) -> Self {
        let spool = original.places.folder("spool").unwrap();
        let mut command = Command::new(original.archive_program());
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .arg("--repo")
            .arg(&original.repository)
            .args(["receive", "-d", &original.cluster.conninfo(), "--spool"])
            .arg(&spool)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let child = as_server_user(command).unwrap().spawn().unwrap();
        Self { child, spool }
    }

    /// Until it has confirmed all that the server has written.
    fn has_everything(&self, original: &Original) {
        let end = original.cluster.sql("SELECT pg_current_wal_flush_lsn()");
        let confirmed = format!(
            "SELECT count(*) = 1 FROM pg_stat_replication \
             WHERE application_name = 'pitr-receive' AND flush_lsn >= '{end}'"
        );
        original.cluster.wait_for_sql(&confirmed, LIMIT).unwrap();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn plan(original: &Original, words: &[&str]) -> Value {
    let all = [words, &["--dry-run", "--json"]].concat();
    let output = original.restore(&original.place("unused"), &all);
    succeeded(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_target_that_only_the_receiver_holds_is_reached_with_its_spool_and_refused_without() {
    let original = Original::start();
    let cluster = &original.cluster;
    let receiver = Receiver::start(&original);
    receiver.has_everything(&original);
    original.backup();
    original.insert("a");
    original.archive_all();
    let archived = plan(&original, &[]);

    // from here on nothing gets into the repository
    let wal = original.cluster_folder().join("wal/00000001");
    let folder = wal.join("00000000");
    let close = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    close(0o500);
    let committed = |value: &str| {
        let sql = format!("INSERT INTO t VALUES ('{value}') RETURNING pg_current_xact_id()");
        let xid = cluster.sql(&sql);
        (xid, cluster.sql("SELECT clock_timestamp()"))
    };
    // one in a segment that is whole, two in the unfinished one
    let (whole, _) = committed("b");
    cluster.execute("SELECT pg_switch_wal()");
    let (_, between) = committed("c");
    let (last, _) = committed("d");
    receiver.has_everything(&original);
    let spool = receiver.spool.to_str().unwrap().to_owned();
    let with = |words: &[&str]| plan(&original, &[words, &["--spool", &spool]].concat());

    // the last commit is the last that was received
    let latest = with(&[]);
    assert_eq!(latest["last_kept"]["xid"].to_string(), last, "{latest:#}");
    assert!(latest["wal"]["partial"].is_string(), "{latest:#}");
    assert_eq!(latest["wal"]["spooled_segments"], 2, "{latest:#}");
    assert_eq!(plan(&original, &[])["last_kept"], archived["last_kept"]);
    let to = original.place("without");
    let reaches = |words: &[&str], said: &str| {
        refused(&original.restore(&to, words), &to, said);
        with(words)
    };
    let stop = reaches(&["--target-time", &between], "no transaction ends after");
    assert_eq!(stop["stop"]["xid"].to_string(), last);
    let stop = reaches(
        &["--target-xid", &whole],
        "does not end in the archived log",
    );
    assert_eq!(stop["stop"]["xid"].to_string(), whole);
    // a search sees what a restore can reach
    let found = original.restore_verb(&["find", "--xid", &last, "--json", "--spool", &spool]);
    succeeded(&found);
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    let first = &found["findings"][0];
    assert_eq!(
        (&first["kind"], &first["reachable"]),
        (&"transaction".into(), &true.into())
    );

    // server and receiver die; what was promised comes true
    drop(receiver);
    let words = ["--spool", &spool, "--target-time", &between];
    let paused = original.restored("paused", &words);
    paused
        .wait_for_sql("SELECT pg_is_wal_replay_paused()", LIMIT)
        .unwrap();
    assert_eq!(values(&paused), "a,b,c");
    drop(paused);
    let copy = original.promoted("latest", &["--spool", &spool]);
    assert_eq!(values(&copy), "a,b,c,d");
    drop(copy);

    // a spool that cannot be trusted is no reason to guess
    let mut held = fs::read_dir(&spool).unwrap();
    let held = held.next().unwrap().unwrap().path();
    let segments = original::names(&held).into_iter();
    let whole_segment = segments.filter(|name| name.len() == 24).max().unwrap();
    let whole_segment = held.join(whole_segment);
    fs::write(&whole_segment, "something else").unwrap();
    let output = original.restore(&to, &["--spool", &spool, "--target-xid", &last]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("is not what a receiver leaves"),
        "{}",
        said(&output)
    );
    close(0o700);
}
