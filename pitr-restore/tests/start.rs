//! `pitr-restore --to DIR --start`: the command returns when the server
//! really stands at the target, and says why where it does not.

#[cfg(test)]
mod original;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};

use pitr_testbed::PostgresInstall;

use original::{Original, refused, said, succeeded, values};

/// A port for a socket beside that of the original.
fn free_port() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its port").port().to_string()
}

/// A server that `--start` has started; ended with the test.
struct Started<'a> {
    original: &'a Original,
    to: std::path::PathBuf,
    port: String,
    output: Output,
}

impl<'a> Started<'a> {
    fn new(original: &'a Original, name: &str, arguments: &[&str]) -> Self {
        let to = original.place(name);
        let port = free_port();
        let mut words = vec!["--start", "--json", "--port", &port];
        words.extend([
            "--pg-bin",
            original.cluster.install().bin().to_str().expect("UTF-8"),
        ]);
        words.extend(arguments);
        let output = original.restore(&to, &words);
        Self {
            original,
            to,
            port,
            output,
        }
    }

    #[track_caller]
    fn server(&self) -> serde_json::Value {
        succeeded(&self.output);
        let document: serde_json::Value =
            serde_json::from_slice(&self.output.stdout).expect("JSON");
        document["server"].clone()
    }

    fn sql(&self, sql: &str) -> String {
        let output = std::process::Command::new("psql")
            .args([
                "-XAtq", "-U", "postgres", "-d", "postgres", "-p", &self.port, "-h",
            ])
            .arg(self.original.cluster.socket_dir())
            .args(["-c", sql])
            .output()
            .expect("psql");
        said(&output).trim().to_owned()
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        stop(self.original, &self.to);
    }
}

fn stop(original: &Original, to: &Path) {
    let mut command = original
        .cluster
        .install()
        .command("pg_ctl")
        .expect("a user");
    command
        .args(["stop", "--mode", "immediate", "--silent", "--pgdata"])
        .arg(to)
        .stderr(Stdio::null());
    let _ = command.status();
}

#[test]
fn every_action_is_waited_for() {
    let original = Original::start();
    original.backup();
    original.insert("a");
    original
        .cluster
        .execute("SELECT pg_create_restore_point('here')");
    original.insert("b");
    original.archive_all();

    let paused = Started::new(&original, "paused", &["--target-name", "here"]);
    let server = paused.server();
    assert_eq!(server["state"], "paused");
    assert_eq!(server["timeline"], 1);
    assert!(server["last_commit_time"].is_string(), "{server}");
    assert_eq!(paused.sql("SELECT pg_is_wal_replay_paused()"), "t");
    assert_eq!(paused.sql("SELECT string_agg(v, ',') FROM t"), "a");

    let action = ["--target-name", "here", "--target-action", "promote"];
    let promoted = Started::new(&original, "promoted", &action);
    let server = promoted.server();
    assert_eq!(server["state"], "in production");
    assert_eq!(server["timeline"], 2);
    assert_eq!(promoted.sql("SELECT pg_is_in_recovery()"), "f");

    let action = ["--target-name", "here", "--target-action", "shutdown"];
    let shut_down = Started::new(&original, "shut down", &action);
    let server = shut_down.server();
    assert_eq!(server["state"], "shut down");
    assert_eq!(server["timeline"], 1);
    assert!(!shut_down.to.join("postmaster.pid").exists());
    assert!(shut_down.to.join("recovery.signal").exists());

    let latest = Started::new(&original, "latest", &[]);
    assert_eq!(latest.server()["state"], "in production");
    assert_eq!(
        latest.sql("SELECT string_agg(v, ',' ORDER BY v) FROM t"),
        "a,b"
    );
}

#[test]
fn every_supported_major_is_waited_for() {
    for install in PostgresInstall::all_found() {
        let original = Original::start_on(&install, |builder| builder);
        original.backup();
        original.insert("a");
        original
            .cluster
            .execute("SELECT pg_create_restore_point('here')");
        original.insert("b");
        original.archive_all();
        let paused = Started::new(&original, "paused", &["--target-name", "here"]);
        assert_eq!(paused.server()["state"], "paused", "{}", install.version());
        let latest = Started::new(&original, "latest", &[]);
        let server = latest.server();
        assert_eq!(server["state"], "in production", "{}", install.version());
        assert_eq!(server["timeline"], 2);
    }
}

#[test]
fn no_server_is_started_for_a_target_that_is_never_reached() {
    let original = Original::start();
    original.backup();
    original.insert("a");
    original.archive_all();
    // after the last commit, and not in the future
    let time = original.cluster.sql("SELECT clock_timestamp()");
    let started = Started::new(&original, "never", &["--target-time", &time]);
    assert_eq!(started.output.status.code(), Some(1));
    let said = said(&started.output);
    assert!(said.contains("no transaction ends after"), "{said}");
    assert!(said.contains("HINT:"), "{said}");
    assert!(!started.to.exists());
}

#[test]
fn a_damaged_segment_is_told_with_what_the_hook_said() {
    let original = Original::start();
    original.backup();
    original.insert("a");
    let segment = original.archive_all();
    original.insert("b");
    original.archive_all();
    original::tamper(&original.object(&segment), |bytes| {
        // in the first frame: the summary of the records follows it
        bytes[100] ^= 1;
    });
    let started = Started::new(&original, "damaged", &[]);
    assert_eq!(started.output.status.code(), Some(1));
    let said = said(&started.output);
    // the hook's own words, whichever check finds it first
    assert!(said.contains("exit code 200"), "{said}");
    assert!(
        said.lines()
            .any(|line| line.trim_start().starts_with("ERROR:") && line.contains(&segment)),
        "{said}"
    );
}

#[test]
fn a_clone_beside_the_original_gets_a_port_of_its_own() {
    let original = Original::start();
    original.backup();
    original.insert("a");
    original.archive_all();
    let to = original.place("beside");
    let bin = original.cluster.install().bin().to_str().unwrap();
    let output = original.restore(&to, &["--start", "--pg-bin", bin]);
    stop(&original, &to);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let taken = format!("another server here uses port {}", original.cluster.port());
    assert!(said.contains(&taken), "{said}");
    assert_eq!(values(&original.cluster), "a");
}

#[test]
fn a_port_that_was_asked_for_and_is_taken_is_told() {
    let original = Original::start();
    original.backup();
    original.archive_all();
    let to = original.place("same port");
    let bin = original.cluster.install().bin().to_str().unwrap();
    let port = original.cluster.port().to_string();
    let output = original.restore(&to, &["--start", "--pg-bin", bin, "--port", &port]);
    stop(&original, &to);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("--port"), "{}", said(&output));
}

#[test]
fn without_the_servers_programs_nothing_is_made() {
    let original = Original::start();
    original.backup();
    original.archive_all();
    let to = original.place("unused");
    let output = original.restore(&to, &["--start", "--pg-bin", "/nonexistent"]);
    refused(&output, &to, "/nonexistent/pg_ctl");
}

/// Root is not let in by `peer`: the command becomes the owner to ask.
#[test]
fn root_starts_it_as_its_owner_and_asks_as_its_owner() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let original = Original::start();
    // the backup gets this file; the server that is running has read another
    fs::write(
        original.cluster.data_dir().join("pg_hba.conf"),
        "local all all peer\n",
    )
    .unwrap();
    original.backup();
    original.archive_all();

    let to = original.place("by root");
    let port = free_port();
    let bin = original.cluster.install().bin().to_str().unwrap();
    let output = original
        .restore_command(
            &to,
            &[
                "--start",
                "--json",
                "--port",
                &port,
                "--pg-bin",
                bin,
                "--target-immediate",
            ],
        )
        .output()
        .unwrap();
    let log = fs::read_to_string(to.join("pitr-start.log")).unwrap_or_default();
    stop(&original, &to);
    succeeded(&output);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["server"]["state"], "paused");
    assert!(!log.contains("Peer authentication failed"), "{log}");
}

/// The files of the original's logging collector come with the backup.
#[test]
fn what_the_original_logged_is_not_taken_for_the_copys_own() {
    let original = Original::start_with(|builder| {
        builder
            .setting("logging_collector", "on")
            // one file for the whole day, as distributions set it
            .setting("log_filename", "postgresql.log")
    });
    let _ = original.cluster.psql_in("no_such_database", "SELECT 1");
    let log = original.cluster.data_dir().join("log/postgresql.log");
    let text = fs::read_to_string(&log).expect("a log");
    assert!(text.contains("FATAL:"), "{text}");
    original.backup();
    original.insert("a");
    original
        .cluster
        .execute("SELECT pg_create_restore_point('here')");
    original.archive_all();
    let paused = Started::new(&original, "paused", &["--target-name", "here"]);
    assert_eq!(paused.server()["state"], "paused");
}

/// PostgreSQL 15 and newer read ahead of what they replay: a gap behind the target must not
/// stop it before.
#[test]
fn a_target_just_before_a_gap_is_reached() {
    let original = Original::start();
    original.backup();
    original.insert("a");
    original
        .cluster
        .execute("SELECT pg_create_restore_point('here')");
    let lsn = original.cluster.sql("SELECT pg_current_wal_lsn()");
    original.insert("b");
    original.archive_all();
    original.insert("c");
    let missing = original.archive_all();
    original.insert("d");
    original.archive_all();
    fs::remove_file(original.object(&missing)).expect("it was archived");
    for target in [["--target-name", "here"], ["--target-lsn", lsn.as_str()]] {
        let paused = Started::new(&original, &target[0][2..], &target);
        assert_eq!(paused.server()["state"], "paused");
        assert_eq!(paused.sql("SELECT string_agg(v, ',') FROM t"), "a");
    }
}

/// The original got more connections after the backup: PostgreSQL would pause where
/// the log says so, before the target.
#[test]
fn a_setting_that_the_log_raises_is_raised_before() {
    let mut original = Original::start();
    original.backup();
    original.insert("a");
    original
        .cluster
        .configure("max_connections", "250")
        .expect("a setting");
    original.cluster.restart().expect("a restart");
    original.insert("b");
    original
        .cluster
        .execute("SELECT pg_create_restore_point('here')");
    original.archive_all();
    let paused = Started::new(&original, "paused", &["--target-name", "here"]);
    assert_eq!(paused.server()["state"], "paused");
    assert_eq!(paused.sql("SHOW max_connections"), "250");
    assert_eq!(
        paused.sql("SELECT string_agg(v, ',' ORDER BY v) FROM t"),
        "a,b"
    );
}

/// To PostgreSQL a record that it cannot read is the end of the log.
#[test]
fn a_log_that_ends_early_is_told() {
    let original = Original::start();
    original.backup();
    original.insert("a");
    original.archive_all();
    original.insert("b");
    let damaged = original.archive_all();
    for value in ["c", "d"] {
        original.insert(value);
        original.archive_all();
    }
    // as if it had been archived so: the object itself is whole
    let object = original.object(&damaged);
    let fetched = original.place("fetched");
    let mut fetch = std::process::Command::new(&original.restore);
    fetch.arg("--repo").arg(&original.repository);
    fetch.arg(&damaged).arg(&fetched);
    succeeded(&original::run(fetch));
    let mut bytes = fs::read(&fetched).expect("a segment");
    bytes[40..200].fill(0xFF);
    let plain = object.with_extension("");
    fs::remove_file(&object).expect("an object");
    fs::write(&plain, bytes).expect("an object");
    pitr_testbed::chown_to_server_user(&plain).expect("an owner");
    let server = Started::new(&original, "early", &[]);
    assert_eq!(server.output.status.code(), Some(1));
    let said = said(&server.output);
    assert!(said.contains("the archived log goes on to"), "{said}");
}
