//! A push under injected faults: an error, or `kill -9`, at every single
//! system call that makes a segment durable.
//!
//! Faults are injected into the real command by strace. What must hold after
//! each of them: the repository holds the whole object or none, whatever was
//! acknowledged is there, the next run succeeds, and nothing else is left.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where something that it needs fails, and says what it skips"
)]

mod scene;

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};

use scene::{Repo, Segment};

/// System calls that change a file system, or promise that it is changed.
const CALLS: [&str; 7] = [
    "write",
    "fsync",
    "fdatasync",
    "renameat2",
    "mkdirat",
    "flock",
    "ftruncate",
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

fn push_under(repo: &Repo, segment: &Segment, strace: &[&str]) -> Output {
    let push = repo.push_command(segment.path(), segment.name());
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-o"])
        .arg(repo.trace())
        .args(strace);
    command.arg(push.get_program()).args(push.get_args());
    for (name, value) in push.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.output().unwrap()
}

/// How often a healthy first push makes each call.
fn calls_of_a_healthy_push(segment: &Segment) -> Vec<(&'static str, usize)> {
    let repo = Repo::init();
    let traced = format!("trace={}", CALLS.join(","));
    let output = push_under(&repo, segment, &["-e", &traced]);
    assert!(output.status.success(), "{output:?}");
    let trace = std::fs::read_to_string(repo.trace()).unwrap();
    CALLS
        .into_iter()
        .map(|call| {
            let made = trace
                .lines()
                .filter(|line| line.contains(&format!(" {call}(")))
                .count();
            (call, made)
        })
        .filter(|(_, made)| *made > 0)
        .collect()
}

fn check_what_is_left(repo: &Repo, segment: &Segment, what: &str, output: &Output) {
    let stored = repo.stored(segment.name());
    if let Some(stored) = &stored {
        assert!(
            *stored == segment.bytes(),
            "{what}: a half object is served"
        );
    }
    if output.status.success() {
        assert!(stored.is_some(), "{what}: acknowledged and not there");
    } else if let Some(code) = output.status.code() {
        assert!((1..=125).contains(&code), "{what}: exit code {code}");
        let said = String::from_utf8_lossy(&output.stderr);
        // where the fault was in printing the message itself nothing can be said
        if !what.starts_with("write") {
            assert!(
                said.contains("ERROR:  "),
                "{what}: no error was printed: {said}"
            );
        }
    }
    let again = repo
        .push_command(segment.path(), segment.name())
        .output()
        .unwrap();
    assert!(
        again.status.success(),
        "{what}: the next run failed: {}",
        String::from_utf8_lossy(&again.stderr)
    );
    assert!(
        repo.stored(segment.name()).unwrap() == segment.bytes(),
        "{what}"
    );
    assert_eq!(
        repo.debris(),
        Vec::<String>::new(),
        "{what}: debris is left"
    );
}

#[test]
fn an_error_at_any_call_of_a_push_loses_nothing_and_leaves_nothing() {
    if !strace_works() {
        return;
    }
    let segment = Segment::real();
    let mut faults = 0;
    for (call, made) in calls_of_a_healthy_push(&segment) {
        let errors: &[&str] = match call {
            "write" | "mkdirat" => &["ENOSPC", "EIO"],
            "flock" => &["ENOLCK"],
            // a file system that does not know RENAME_NOREPLACE answers EINVAL
            "renameat2" => &["EIO", "EINVAL"],
            _ => &["EIO"],
        };
        for error in errors {
            for nth in 1..=made {
                let repo = Repo::init();
                let inject = format!("inject={call}:error={error}:when={nth}");
                let output = push_under(&repo, &segment, &["-e", &inject]);
                check_what_is_left(&repo, &segment, &format!("{call} {nth} {error}"), &output);
                faults += 1;
            }
        }
    }
    assert!(faults >= 10, "only {faults} faults were injected");
}

#[test]
fn a_kill_9_at_any_call_of_a_push_loses_nothing_and_leaves_nothing() {
    if !strace_works() {
        return;
    }
    let segment = Segment::real();
    let mut killed = 0;
    for (call, made) in calls_of_a_healthy_push(&segment) {
        for nth in 1..=made {
            let repo = Repo::init();
            let inject = format!("inject={call}:signal=KILL:when={nth}");
            let output = push_under(&repo, &segment, &["-e", &inject]);
            if output.status.signal() == Some(9) || output.status.code() == Some(137) {
                killed += 1;
            }
            check_what_is_left(&repo, &segment, &format!("{call} {nth} KILL"), &output);
        }
    }
    assert!(killed >= 10, "only {killed} pushes were killed");
}

#[test]
fn an_fsync_that_fails_is_never_acknowledged() {
    if !strace_works() {
        return;
    }
    let segment = Segment::real();
    let repo = Repo::init();
    let output = push_under(&repo, &segment, &["-e", "inject=fsync,fdatasync:error=EIO"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    check_what_is_left(&repo, &segment, "every fsync", &output);
}
