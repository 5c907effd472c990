//! Every system call of a push and a fetch fails once, or is the last one of
//! its process: the repository holds a whole object or none, what was
//! acknowledged is there, and the next try succeeds.
//!
//! The faults come from `strace -e inject`; where it is not installed or not
//! allowed to trace, the tests say so and pass.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "what the tests share is not seen as test code"
)]

mod child;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use child::{ABSENT, DONE, FAILED, SEGMENT};
use pitr_store::made_wal::made_segment;
use pitr_store::{FetchError, PushError};

/// More calls of one kind than a push or fetch can make.
const MOST_CALLS: u32 = 200;

#[test]
fn child_process() {
    child::run();
}

/// Whether faults can be injected here.
fn can_inject() -> bool {
    let works = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-e",
            "trace=fsync",
            "-e",
            "inject=fsync:error=EIO",
            "true",
        ])
        .output()
        .is_ok_and(|output| output.status.success());
    if !works {
        println!("skipped: strace is not installed, or may not trace here");
    }
    works
}

/// `strace` that does `fault` to the calls of `call` that `when` names.
fn inject(call: &str, fault: &str, when: &str) -> Vec<String> {
    [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={call}"),
        "-e",
        &format!("inject={call}:{fault}:when={when}"),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// How many calls of a kind `command` makes when nothing is injected.
fn count_calls(call: &str, command: impl Fn(&[String]) -> Command) -> u32 {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let prefix = ["strace", "-f", "-qq", "-o"]
        .map(str::to_owned)
        .into_iter()
        .chain([
            trace.path().display().to_string(),
            "-e".to_owned(),
            format!("trace={call}"),
            "-e".to_owned(),
            "signal=none".to_owned(),
        ])
        .collect::<Vec<_>>();
    let output = command(&prefix).output().unwrap();
    assert!(output.status.success(), "{}", child::text(&output));
    let text = fs::read_to_string(trace.path()).unwrap();
    let calls = text
        .lines()
        .filter(|line| line.contains(&format!("{call}(")))
        .count();
    u32::try_from(calls).unwrap().min(MOST_CALLS)
}

/// Names that a finished push has no use for.
fn debris(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(debris(&path));
        } else if path.file_name().unwrap().to_string_lossy().starts_with('.')
            // A second link of a published document takes no room, and stays
            // where no rename without replacing is to be had.
            && fs::metadata(&path).unwrap().nlink() == 1
        {
            found.push(path);
        }
    }
    found
}

/// What must hold after a push that met a fault.
fn check_after_push(repository: &Path, output: &Output, case: &str) {
    let content = made_segment(SEGMENT, 1);
    let wal = child::wal(repository);
    let name = SEGMENT.parse().unwrap();
    let mut back = Vec::new();
    match wal.fetch_to(&name, &mut back) {
        Ok(_) => assert_eq!(back, content, "{case}: the object is not whole"),
        Err(FetchError::Absent { .. }) => assert!(
            !output.status.success(),
            "{case}: acknowledged and not there"
        ),
        Err(error) => panic!("{case}: {error}"),
    }
    let again = child::push(&[], repository, 1, "zstd:1").output().unwrap();
    assert_eq!(
        again.status.code(),
        Some(DONE),
        "{case}: the next try: {}",
        child::text(&again)
    );
    back.clear();
    wal.fetch_to(&name, &mut back).unwrap();
    assert_eq!(back, content, "{case}: after the next try");
    assert_eq!(
        debris(repository),
        Vec::<PathBuf>::new(),
        "{case}: after the next try"
    );
    let other = child::push(&[], repository, 2, "zstd:1").output().unwrap();
    assert_eq!(
        other.status.code(),
        Some(FAILED),
        "{case}: other bytes were taken"
    );
}

fn push_with(call: &str, fault: &str, when: &str) -> (tempfile::TempDir, PathBuf, Output) {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repo");
    child::init(&repository);
    let output = child::push(&inject(call, fault, when), &repository, 1, "zstd:1")
        .output()
        .unwrap();
    (dir, repository, output)
}

fn count_push_calls(call: &str) -> u32 {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repo");
    child::init(&repository);
    count_calls(call, |prefix| child::push(prefix, &repository, 1, "zstd:1"))
}

/// The calls that change something on the disk.
const CHANGING_CALLS: [&str; 7] = [
    "write",
    "fsync",
    "renameat2",
    "mkdirat",
    "unlinkat",
    "fchmod",
    "flock",
];

#[test]
fn a_push_killed_at_any_step_leaves_a_whole_object_or_none() {
    if !can_inject() {
        return;
    }
    for call in CHANGING_CALLS {
        for when in 1..=count_push_calls(call) {
            let case = format!("killed at {call} {when}");
            let (_dir, repository, output) = push_with(call, "signal=KILL", &when.to_string());
            check_after_push(&repository, &output, &case);
        }
    }
}

#[test]
fn a_push_whose_every_step_can_fail_fails_clean() {
    if !can_inject() {
        return;
    }
    for (call, errors) in [
        ("write", &["EIO", "ENOSPC", "EDQUOT"][..]),
        ("fsync", &["EIO", "ENOSPC", "EDQUOT"]),
        ("renameat2", &["EIO", "ENOSPC", "EACCES"]),
        ("mkdirat", &["EIO", "ENOSPC", "EACCES"]),
        ("fchmod", &["EIO", "EPERM"]),
        ("flock", &["EIO"]),
        ("getdents64", &["EIO"]),
        ("newfstatat", &["EIO"]),
    ] {
        for when in 1..=count_push_calls(call) {
            for error in errors {
                let case = format!("{error} at {call} {when}");
                let (_dir, repository, output) =
                    push_with(call, &format!("error={error}"), &when.to_string());
                // 101: the write was the test program's own message; 127: the
                // call was the loader's.
                assert!(
                    matches!(output.status.code(), Some(DONE | FAILED | 101 | 127)),
                    "{case}: {}",
                    child::text(&output)
                );
                if output.status.code() == Some(FAILED) {
                    assert_eq!(debris(&repository), Vec::<PathBuf>::new(), "{case}");
                }
                check_after_push(&repository, &output, &case);
            }
        }
    }
}

#[test]
fn an_interrupted_call_is_repeated() {
    if !can_inject() {
        return;
    }
    for call in ["write", "fsync", "renameat2", "mkdirat", "flock", "openat"] {
        for when in 1..=count_push_calls(call) {
            let case = format!("EINTR at {call} {when}");
            let (_dir, repository, output) = push_with(call, "error=EINTR", &when.to_string());
            // The loader of the test program gives up where its own open is interrupted.
            let loading = call == "openat" && output.status.code() == Some(127);
            assert!(
                output.status.success() || loading,
                "{case}: {}",
                child::text(&output)
            );
            check_after_push(&repository, &output, &case);
        }
    }
}

#[test]
fn a_failed_sync_of_the_file_publishes_nothing() {
    if !can_inject() {
        return;
    }
    let mut failed = 0;
    for when in 1..=count_push_calls("fsync") {
        let (_dir, repository, output) = push_with("fsync", "error=EIO", &when.to_string());
        assert_eq!(output.status.code(), Some(FAILED), "fsync {when}");
        let text = child::text(&output);
        assert!(text.contains("could not synchronize"), "{text}");
        let stored = child::wal(&repository)
            .locate(&SEGMENT.parse().unwrap())
            .unwrap();
        failed += u32::from(stored.is_none());
    }
    // All but the last one, which is the folder's.
    assert_eq!(failed, count_push_calls("fsync") - 1);
}

#[test]
fn without_no_replace_renames_a_link_publishes() {
    if !can_inject() {
        return;
    }
    for error in ["EINVAL", "ENOSYS"] {
        let (_dir, repository, output) = push_with("renameat2", &format!("error={error}"), "1+");
        assert_eq!(output.status.code(), Some(DONE), "{}", child::text(&output));
        check_after_push(&repository, &output, error);
    }
}

#[test]
fn a_push_killed_between_link_and_unlink_leaves_the_object_whole() {
    if !can_inject() {
        return;
    }
    for (call, when) in [("linkat", 1), ("linkat", 2), ("linkat", 3)]
        .into_iter()
        .chain([("unlinkat", 1), ("unlinkat", 2), ("unlinkat", 3)])
    {
        let case = format!("killed at {call} {when}");
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("repo");
        child::init(&repository);
        let mut prefix = inject(call, "signal=KILL", &when.to_string());
        prefix.extend(["-e", "trace=renameat2", "-e"].map(str::to_owned));
        prefix.push("inject=renameat2:error=EINVAL:when=1+".to_owned());
        // The last -e trace= counts: name both calls.
        for argument in &mut prefix {
            if argument.starts_with("trace=") {
                *argument = format!("trace={call},renameat2");
            }
        }
        let output = child::push(&prefix, &repository, 1, "zstd:1")
            .output()
            .unwrap();
        assert!(!output.status.success(), "{case}: {}", child::text(&output));
        check_after_push(&repository, &output, &case);
    }
}

#[test]
fn without_locks_objects_are_still_published_once() {
    if !can_inject() {
        return;
    }
    for error in ["EOPNOTSUPP", "ENOLCK"] {
        let (_dir, repository, output) = push_with("flock", &format!("error={error}"), "1+");
        assert_eq!(output.status.code(), Some(DONE), "{}", child::text(&output));
        assert_eq!(debris(&repository), Vec::<PathBuf>::new());
        check_after_push(&repository, &output, error);
    }
}

#[test]
fn no_fault_makes_a_stored_segment_absent_or_other() {
    if !can_inject() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repo");
    child::init(&repository);
    let output = child::push(&[], &repository, 1, "zstd:1").output().unwrap();
    assert!(output.status.success(), "{}", child::text(&output));
    let target = dir.path().join("fetched");
    let content = made_segment(SEGMENT, 1);
    for (call, errors) in [
        ("openat", &["EIO", "EACCES", "ESTALE", "EMFILE"][..]),
        ("newfstatat", &["EIO", "ESTALE"]),
        ("fstat", &["EIO"]),
        ("read", &["EIO", "ESTALE"]),
    ] {
        let calls = count_calls(call, |prefix| child::fetch(prefix, &repository, &target));
        for when in 1..=calls {
            for error in errors {
                let case = format!("{error} at {call} {when}");
                let _ = fs::remove_file(&target);
                let prefix = inject(call, &format!("error={error}"), &when.to_string());
                let output = child::fetch(&prefix, &repository, &target)
                    .output()
                    .unwrap();
                assert_ne!(
                    output.status.code(),
                    Some(ABSENT),
                    "{case}: {}",
                    child::text(&output)
                );
                if output.status.code() == Some(DONE) {
                    assert_eq!(fs::read(&target).unwrap(), content, "{case}");
                }
            }
        }
    }
}

#[test]
fn a_conflict_is_still_a_conflict_after_a_kill_between_rename_and_sync() {
    if !can_inject() {
        return;
    }
    // The last sync is the folder's: the object shows already.
    let last = count_push_calls("fsync").to_string();
    let (_dir, repository, output) = push_with("fsync", "signal=KILL", &last);
    assert!(!output.status.success());
    let mut other = pitr_store::WalBytes::new(made_segment(SEGMENT, 2), "pg_wal/other");
    let error = child::wal(&repository)
        .push(
            &SEGMENT.parse().unwrap(),
            &mut other,
            pitr_store::Codec::default(),
        )
        .unwrap_err();
    assert!(matches!(error, PushError::Conflict { .. }), "{error}");
}
