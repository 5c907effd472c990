//! A batch under injected faults: an error, `kill -9` or SIGTERM at the system calls
//! that store it and write down what was stored.
//!
//! What must hold after each of them: every object is whole or not there, none is there
//! behind a hole, a call that exited with 0 has stored its file, and the server's next calls
//! archive everything and leave nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where something that it needs fails, and says what it skips"
)]

mod scene;

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};

use scene::Repo;
use scene::backlog::Backlog;

/// Files in a batch.
const FILES: usize = 3;

/// System calls that change a file system, or promise that it is changed, with the
/// places at which a fault is injected. strace counts the calls of each thread, so
/// that a place is met by the first thread that gets there.
const CALLS: [(&str, &[usize]); 8] = [
    ("write", &[1, 2, 4]),
    ("fsync", &[1, 2, 3, 4]),
    ("renameat2", &[1, 2]),
    // of what is written down
    ("rename", &[1]),
    ("mkdir", &[1]),
    ("mkdirat", &[1, 3]),
    ("flock", &[1, 3]),
    ("ftruncate", &[1]),
];

fn strace_works() -> bool {
    let works = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        eprintln!(
            "SKIPPED: strace is not installed or may not trace here (apt-get install strace)"
        );
    }
    works
}

fn push_under(repo: &Repo, backlog: &Backlog, strace: &[&str]) -> Output {
    let push = backlog.command(repo, &backlog.names()[0]);
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-o"])
        .arg(repo.trace())
        .args(strace);
    command.arg(push.get_program()).args(push.get_args());
    command
        .env("PITR_REPO", repo.path())
        .current_dir(backlog.data_directory());
    command.output().unwrap()
}

fn check_what_is_left(repo: &Repo, backlog: &Backlog, what: &str, output: &Output) {
    backlog.check_stored(repo, what);
    let own = &backlog.names()[0];
    if output.status.success() {
        assert!(
            repo.stored(own).is_some(),
            "{what}: acknowledged, not there"
        );
    } else if let Some(code) = output.status.code() {
        assert!((1..=125).contains(&code), "{what}: exit code {code}");
    }
    // the server comes for every file, and no record may make it lose one
    backlog.archive_all(repo);
    backlog.check_stored(repo, what);
    for name in backlog.names() {
        assert!(repo.stored(name).is_some(), "{what}: {name} is missing");
        std::fs::rename(backlog.status(name, "done"), backlog.status(name, "ready")).unwrap();
    }
    assert_eq!(
        repo.debris(),
        Vec::<String>::new(),
        "{what}: debris is left"
    );
}

fn inject(fault: &str, ended: impl Fn(&Output) -> bool) -> usize {
    let backlog = Backlog::of(FILES);
    let mut ends = 0;
    for (call, places) in CALLS {
        for place in places {
            let repo = Repo::init();
            let inject = format!("inject={call}:{fault}:when={place}");
            let output = push_under(&repo, &backlog, &["-e", &inject]);
            ends += usize::from(ended(&output));
            check_what_is_left(&repo, &backlog, &inject, &output);
        }
    }
    ends
}

#[test]
fn a_kill_9_anywhere_in_a_batch_loses_nothing_and_leaves_nothing() {
    if !strace_works() {
        return;
    }
    let killed = inject("signal=KILL", |output| output.status.signal() == Some(9));
    assert!(killed >= 10, "only {killed} calls were killed");
}

#[test]
fn sigterm_ends_a_batch_at_once_with_nothing_half_there() {
    if !strace_works() {
        return;
    }
    let ended = inject("signal=TERM", |output| output.status.signal() == Some(15));
    assert!(ended >= 10, "only {ended} calls were ended");
}

#[test]
fn an_error_anywhere_in_a_batch_loses_nothing_and_leaves_nothing() {
    if !strace_works() {
        return;
    }
    let failed = inject("error=EIO", |output| output.status.code() == Some(1));
    assert!(failed >= 3, "only {failed} calls failed");
}

#[test]
fn no_file_of_a_batch_is_acknowledged_or_written_down_where_the_folder_cannot_be_synced() {
    if !strace_works() {
        return;
    }
    let backlog = Backlog::of(FILES);
    let repo = Repo::init();
    let output = push_under(&repo, &backlog, &["-e", "trace=fsync,renameat2"]);
    assert!(output.status.success(), "{output:?}");
    let trace = std::fs::read_to_string(repo.trace()).unwrap();
    // objects appear in their order, and the last sync is that of their folder
    let renames: Vec<&str> = trace
        .lines()
        .filter(|line| line.contains(" renameat2(") && line.contains(".zst"))
        .collect();
    assert_eq!(renames.len(), FILES, "{trace}");
    for (line, name) in renames.iter().zip(backlog.names()) {
        assert!(line.contains(name.as_str()), "{trace}");
    }
    let lines: Vec<&str> = trace.lines().collect();
    let place = |what: &str| lines.iter().rposition(|line| line.contains(what)).unwrap();
    assert!(place(" fsync(") > place(" renameat2("), "{trace}");
    // one for each file, one for their folder; the first one's folders are made besides
    let syncs = trace
        .lines()
        .filter(|line| line.contains(" fsync("))
        .count();
    let after = trace
        .lines()
        .skip(place(" renameat2("))
        .filter(|line| line.contains(" fsync("));
    assert_eq!(after.count(), 1, "{trace}");

    for nth in 1..=syncs {
        let repo = Repo::init();
        let inject = format!("inject=fsync:error=EIO:when={nth}+");
        let output = push_under(&repo, &backlog, &["-e", &inject]);
        let record = backlog.state(&repo).join("look-ahead");
        let is_written = std::fs::read_dir(&record).is_ok_and(|mut files| files.next().is_some());
        assert_eq!(is_written, output.status.success(), "{inject}: {output:?}");
        check_what_is_left(&repo, &backlog, &inject, &output);
    }
}
