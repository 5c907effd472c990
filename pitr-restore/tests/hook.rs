//! `pitr-restore %f %p`: what PostgreSQL is told, and what lies at `%p`
//! afterwards.

#[cfg(test)]
mod scratch;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pitr_store::Codec;
use pitr_testbed::{as_server_user, chown_to_server_user};
use scratch::{SYSTEM_IDENTIFIER, Scratch, names, segment};

const ONE: &str = "000000010000000000000001";
const TWO: &str = "000000010000000000000002";
const FIVE: &str = "000000010000000000000005";
/// Timeline 2 leaves 1 in segment 5; segments have 1 MiB.
const FORK: &str = "1\t0/500100\tno recovery target specified\n";

#[test]
fn a_segment_arrives_whole_from_every_codec() {
    for codec in ["zstd:1", "xz:0", "none"] {
        let scratch = Scratch::new();
        scratch.push_as(ONE, Codec::parse(codec).unwrap());
        scratch.fetch(ONE).is_segment(ONE);
    }
}

#[test]
fn what_lay_at_its_place_is_replaced() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    fs::write(scratch.data.join("pg_wal/RECOVERYXLOG"), "old").unwrap();
    fs::write(scratch.data.join("pg_wal/RECOVERYXLOG.pitr-tmp"), "dead").unwrap();
    scratch.fetch(ONE).is_segment(ONE);
}

#[test]
fn an_absolute_path_and_any_working_directory_will_do() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    let mut command = scratch.command();
    command
        .current_dir("/")
        .arg(ONE)
        .arg(scratch.dir.path().join("elsewhere"));
    assert!(command.status().unwrap().success());
    let found = fs::read(scratch.dir.join("elsewhere")).unwrap();
    assert!(found == segment(&ONE.parse().unwrap()));
}

#[test]
fn a_history_file_arrives_as_it_is() {
    let scratch = Scratch::new();
    scratch.push_history(2, FORK);
    let outcome = scratch.fetch("00000002.history");
    assert_eq!(outcome.exit, Some(0), "{}", outcome.stderr);
    assert_eq!(outcome.file.unwrap(), FORK.as_bytes());
}

#[test]
fn absence_that_is_proven_is_1_and_touches_nothing() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    for name in [TWO, "00000002.history", "000000020000000000000001"] {
        let outcome = scratch.fetch(name);
        outcome.is_refused(1, "");
        assert_eq!(
            outcome.stderr, "",
            "routine questions leave no trace in the log"
        );
    }
}

#[test]
fn an_empty_repository_proves_nothing_to_a_server_that_recovers() {
    Scratch::without_cluster()
        .fetch(ONE)
        .is_refused(200, "holds no cluster yet");
}

#[test]
fn a_repository_that_is_not_there_proves_nothing() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    fs::remove_file(scratch.repository.join("pitr.json")).unwrap();
    scratch.fetch(TWO).is_refused(200, "is not a repository");
    fs::remove_dir_all(&scratch.repository).unwrap();
    scratch.fetch(TWO).is_refused(200, "Is the disk mounted?");
    fs::write(&scratch.repository, "a file").unwrap();
    scratch.fetch(TWO).is_refused(200, "ERROR:");
}

#[test]
fn a_repository_of_another_format_proves_nothing() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    let path = scratch.repository.join("pitr.json");
    fs::write(&path, r#"{"format": 99}"#).unwrap();
    scratch.fetch(ONE).is_refused(200, "has format 99");
    fs::write(&path, "{").unwrap();
    scratch.fetch(ONE).is_refused(200, "cannot be read");
}

#[test]
fn a_configuration_that_cannot_be_used_proves_nothing() {
    let scratch = Scratch::new();
    let mut command = scratch.command();
    command.args(["--config", "/nonexistent.toml", ONE, "pg_wal/RECOVERYXLOG"]);
    let outcome = scratch.outcome(command.output().unwrap());
    outcome.is_refused(200, "configuration file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pitr-restore"));
    let output = command
        .env_clear()
        .current_dir(&scratch.data)
        .args([ONE, "pg_wal/RECOVERYXLOG"])
        .output()
        .unwrap();
    // unless the machine has a configuration of its own
    assert_eq!(output.status.code(), Some(200));
}

#[test]
fn wrong_usage_is_never_taken_for_absence() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    let path = "pg_wal/RECOVERYXLOG";
    let wrong: [&[&str]; 12] = [
        &[],
        &[ONE],
        &[ONE, path, "more"],
        &["--bogus", ONE, path],
        &["../../etc/passwd", path],
        &["", path],
        &["00000001000000000000001", path],
        &["00000001000000000000000g", path],
        &["RECOVERYXLOG", path],
        &["--timeline", "0", ONE, path],
        &["--system-identifier", "x", ONE, path],
        &["--dry-run", ONE, path],
    ];
    for words in wrong {
        let mut command = scratch.command();
        command.args(words);
        let outcome = scratch.outcome(command.output().unwrap());
        outcome.is_refused(201, "ERROR:");
        assert!(outcome.stderr.contains("HINT:"), "{}", outcome.stderr);
    }
}

#[test]
fn a_name_that_is_no_text_is_wrong_usage() {
    use std::os::unix::ffi::OsStrExt as _;
    let scratch = Scratch::new();
    let mut command = scratch.command();
    command
        .arg(std::ffi::OsStr::from_bytes(b"\xff\xfe"))
        .arg("pg_wal/RECOVERYXLOG");
    scratch
        .outcome(command.output().unwrap())
        .is_refused(201, "is not the name of a WAL file");
}

#[test]
fn help_is_no_failure() {
    for flag in ["--help", "--version"] {
        let output = Command::new(env!("CARGO_BIN_EXE_pitr-restore"))
            .arg(flag)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn a_damaged_object_is_never_served() {
    for codec in ["zstd:1", "xz:0"] {
        let scratch = Scratch::new();
        scratch.push_as(ONE, Codec::parse(codec).unwrap());
        let object = scratch.object(ONE);
        let whole = fs::read(&object).unwrap();
        let make_writable = || {
            let permissions = fs::Permissions::from_mode(0o600);
            fs::set_permissions(&object, permissions).unwrap();
        };
        make_writable();
        let damaged = |bytes: &[u8]| {
            fs::write(&object, bytes).unwrap();
            scratch.fetch(ONE).is_refused(200, "ERROR:");
        };
        for at in [0, 5, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            fs::write(&object, &bytes).unwrap();
            let outcome = scratch.fetch(ONE);
            // a flipped bit in what no reader looks at changes nothing
            if outcome.exit == Some(0) {
                outcome.is_segment(ONE);
                fs::remove_file(scratch.data.join("pg_wal/RECOVERYXLOG")).unwrap();
            } else {
                outcome.is_refused(200, "damaged");
            }
        }
        damaged(b"");
        damaged(&whole[..whole.len() / 2]);
        damaged(b"garbage");
    }
}

#[test]
fn another_segment_under_its_name_is_never_served() {
    for codec in ["zstd:1", "none"] {
        let scratch = Scratch::new();
        scratch.push_as(ONE, Codec::parse(codec).unwrap());
        scratch.push_as(TWO, Codec::parse(codec).unwrap());
        fs::rename(scratch.object(TWO), scratch.object(ONE)).unwrap();
        scratch.fetch(ONE).is_refused(200, "is not what");
    }
}

#[test]
fn a_short_plain_segment_is_never_served() {
    let scratch = Scratch::new();
    scratch.push_as(ONE, Codec::None);
    let object = scratch.object(ONE);
    fs::write(&object, &segment(&ONE.parse().unwrap())[..8192]).unwrap();
    scratch.fetch(ONE).is_refused(200, "damaged");
}

#[test]
fn a_folder_in_the_segments_place_proves_nothing() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    let object = scratch.object(ONE);
    fs::remove_file(&object).unwrap();
    fs::create_dir(&object).unwrap();
    scratch
        .fetch(ONE)
        .is_refused(200, "a directory where a file belongs");
}

#[test]
fn a_repository_that_may_not_be_read_proves_nothing() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    chown_to_server_user(&scratch.repository).unwrap();
    chown_to_server_user(&scratch.data).unwrap();
    let denied = |place: &std::path::Path| {
        fs::set_permissions(place, fs::Permissions::from_mode(0o000)).unwrap();
        for name in [ONE, TWO] {
            let mut command = as_server_user(scratch.command()).unwrap();
            command
                .args(["--system-identifier", &SYSTEM_IDENTIFIER.to_string()])
                .args([name, "pg_wal/RECOVERYXLOG"]);
            let outcome = scratch.outcome(command.output().unwrap());
            if name == ONE || place.is_dir() {
                outcome.is_refused(200, "permission denied");
            }
        }
        fs::set_permissions(place, fs::Permissions::from_mode(0o700)).unwrap();
    };
    let object = scratch.object(ONE);
    denied(&object);
    denied(object.parent().unwrap());
    denied(&scratch.repository);
}

#[test]
fn a_place_that_cannot_be_written_is_no_absence() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    for path in ["nowhere/RECOVERYXLOG", "/", "pg_wal"] {
        let mut command = scratch.command();
        command.args([ONE, path]);
        scratch
            .outcome(command.output().unwrap())
            .is_refused(200, "ERROR:");
    }
    assert_eq!(names(&scratch.data), ["global", "pg_wal"]);
}

#[test]
fn a_full_disk_is_named_with_what_is_missing_and_leaves_nothing() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    let small = scratch.data.join("pg_wal");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "none"])
        .arg(&small)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        return; // only root can make a disk so small
    }
    let outcome = scratch.fetch(ONE);
    let left = names(&small);
    Command::new("umount").arg(&small).status().unwrap();
    outcome.is_refused(
        200,
        "no space left on device: 1048576 bytes needed, 262144 available",
    );
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_standby_is_told_to_ask_again_when_the_place_fails() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    scratch.signal("standby.signal");
    let document = scratch.repository.join("pitr.json");
    let aside = scratch.repository.join("aside");
    fs::rename(&document, &aside).unwrap();
    let started = std::time::Instant::now();
    let outcome = scratch.fetch(ONE);
    outcome.is_refused(1, "WARNING:");
    assert!(outcome.stderr.contains("will ask again"));
    assert!(started.elapsed().as_secs() < 10);
    // ... and no longer once it is back
    fs::rename(&aside, &document).unwrap();
    scratch.fetch(ONE).is_segment(ONE);
}

#[test]
fn a_standby_waits_for_a_fault_to_pass() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    scratch.signal("standby.signal");
    let document = scratch.repository.join("pitr.json");
    let aside = scratch.repository.join("aside");
    fs::rename(&document, &aside).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(500));
            fs::rename(&aside, &document).unwrap();
        });
        scratch.fetch(ONE).is_segment(ONE);
    });
}

#[test]
fn a_standby_is_not_told_that_a_damaged_segment_does_not_exist() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    scratch.signal("standby.signal");
    fs::write(scratch.object(ONE), "garbage").unwrap();
    scratch.fetch(ONE).is_refused(200, "damaged");
    scratch.fetch("../x").is_refused(201, "ERROR:");
}

#[test]
fn the_cluster_has_to_be_clear() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    let elsewhere = |words: &[&str]| {
        let mut command = scratch.command();
        command
            .current_dir("/")
            .args(words)
            .arg(ONE)
            .arg(scratch.dir.join("elsewhere"));
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    // the only one
    assert_eq!(elsewhere(&[]).0, Some(0));
    let (exit, text) = elsewhere(&["--system-identifier", "7"]);
    assert_eq!(exit, Some(200));
    assert!(text.contains("does not know cluster 7"), "{text}");
    assert!(text.contains(&SYSTEM_IDENTIFIER.to_string()), "{text}");
    // one of two
    scratch.claim(7);
    let (exit, text) = elsewhere(&[]);
    assert_eq!(exit, Some(200));
    assert!(text.contains("--system-identifier"), "{text}");
    let named = SYSTEM_IDENTIFIER.to_string();
    assert_eq!(elsewhere(&["--system-identifier", &named]).0, Some(0));
}

#[test]
fn a_control_file_that_cannot_be_understood_proves_nothing() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    fs::write(scratch.data.join("global/pg_control"), [0; 8192]).unwrap();
    let mut command = scratch.command();
    command.args([ONE, "pg_wal/RECOVERYXLOG"]);
    scratch
        .outcome(command.output().unwrap())
        .is_refused(200, "pg_control");
}

#[test]
fn a_parents_segment_beyond_the_branch_is_refused() {
    // by the history that the server keeps, and by the option
    for kept in [true, false] {
        let scratch = Scratch::new();
        for number in 1..=7 {
            scratch.push(&format!("00000001000000000000000{number}"));
        }
        scratch.push_history(2, FORK);
        let options: &[&str] = if kept {
            scratch.keep_history(2, FORK);
            &[]
        } else {
            &["--timeline", "2"]
        };
        let fetch = |name: &str| scratch.fetch_with(options, name);
        fetch("000000010000000000000004").is_segment("000000010000000000000004");
        fs::remove_file(scratch.data.join("pg_wal/RECOVERYXLOG")).unwrap();

        // the branch segment: the child's copy is needed, and is not there
        let outcome = fetch(FIVE);
        outcome.is_refused(200, "000000020000000000000005 is not in the repository");
        assert!(outcome.stderr.contains("HINT:"), "{}", outcome.stderr);
        let outcome = fetch("000000010000000000000006");
        outcome.is_refused(1, "WARNING:");
        assert!(
            outcome.stderr.contains("left timeline 1 at 0/500100"),
            "{}",
            outcome.stderr
        );

        // with it, the parent's copy is still not served
        scratch.push("000000020000000000000005");
        fetch(FIVE).is_refused(200, "needs segment 000000020000000000000005");
        fetch("000000020000000000000005").is_segment("000000020000000000000005");
    }
}

#[test]
fn along_the_parent_its_own_segments_are_served() {
    let scratch = Scratch::new();
    scratch.push(FIVE);
    scratch.push_history(2, FORK);
    scratch
        .fetch_with(&["--timeline", "1"], FIVE)
        .is_segment(FIVE);
    // a server that follows timeline 1 keeps no history
    scratch.fetch(FIVE).is_segment(FIVE);
}

#[test]
fn a_standby_is_told_to_ask_again_for_the_childs_copy() {
    let scratch = Scratch::new();
    scratch.push(FIVE);
    scratch.push_history(2, FORK);
    scratch.keep_history(2, FORK);
    scratch.signal("standby.signal");
    scratch.fetch(FIVE).is_refused(1, "WARNING:");
}

#[test]
fn histories_in_pg_wal_that_disagree_decide_nothing() {
    let scratch = Scratch::new();
    scratch.push("000000010000000000000004");
    scratch.push(FIVE);
    scratch.keep_history(2, FORK);
    scratch.keep_history(3, "1\t0/400100\tr\n");
    scratch
        .fetch("000000010000000000000004")
        .is_refused(200, "--timeline");
    scratch
        .fetch_with(&["--timeline", "2"], "000000010000000000000004")
        .is_segment("000000010000000000000004");
    fs::remove_file(scratch.data.join("pg_wal/RECOVERYXLOG")).unwrap();
    // an option that was left behind when the server went on to timeline 2
    scratch
        .fetch_with(&["--timeline", "1"], FIVE)
        .is_refused(200, "pg_wal does not show which");
    // a standby is not ended for it: it has its primary, and asks again
    scratch.signal("standby.signal");
    scratch
        .fetch_with(&["--timeline", "1"], FIVE)
        .is_refused(1, "pg_wal does not show which");
}

#[test]
fn a_damaged_history_decides_nothing() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    scratch.keep_history(2, "garbage\n");
    scratch.fetch(ONE).is_refused(200, "00000002.history");
}

#[test]
fn a_partial_is_served_where_nothing_else_can_come() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    scratch.push("000000010000000000000002.partial");
    let outcome = scratch.fetch(TWO);
    outcome.is_segment(TWO);
    assert!(outcome.stderr.starts_with("LOG:"), "{}", outcome.stderr);
    fs::remove_file(scratch.data.join("pg_wal/RECOVERYXLOG")).unwrap();
    scratch
        .fetch_with(&["--timeline", "1"], TWO)
        .is_segment(TWO);
}

#[test]
fn a_partial_is_not_served_where_something_else_can_come() {
    let partial = "000000010000000000000005.partial";
    // a standby can get the rest over the network
    let scratch = Scratch::new();
    scratch.push(partial);
    scratch.signal("standby.signal");
    scratch.fetch(FIVE).is_refused(1, "");

    // a child goes on where it ends
    let scratch = Scratch::new();
    scratch.push(partial);
    scratch.push_history(2, FORK);
    scratch.keep_history(2, FORK);
    scratch
        .fetch(FIVE)
        .is_refused(200, "000000020000000000000005");

    // a later segment shows that this one was finished
    let scratch = Scratch::new();
    scratch.push(partial);
    scratch.push("000000010000000000000006");
    scratch.fetch(FIVE).is_refused(200, "has later ones");

    // nothing is known of what is followed
    let scratch = Scratch::new();
    scratch.push(partial);
    fs::remove_file(scratch.data.join("global/pg_control")).unwrap();
    scratch.fetch(FIVE).is_refused(1, "");

    // the whole one is there
    let scratch = Scratch::new();
    scratch.push(partial);
    scratch.push(FIVE);
    let outcome = scratch.fetch(FIVE);
    outcome.is_segment(FIVE);
    assert_eq!(outcome.stderr, "");
}

#[test]
fn a_hole_in_the_log_is_not_its_end() {
    let scratch = Scratch::new();
    scratch.push(ONE);
    scratch.push("000000010000000000000003");
    let outcome = scratch.fetch(TWO);
    outcome.is_refused(200, "000000010000000000000003");
    assert!(
        outcome.stderr.contains("before 0/200000"),
        "{}",
        outcome.stderr
    );
    // a file made in advance, and one recycled from an older segment, are not it
    let own = scratch.data.join("pg_wal").join(TWO);
    fs::write(&own, [0; 8192]).unwrap();
    scratch.fetch(TWO).is_refused(200, "has later ones");
    fs::write(&own, segment(&ONE.parse().unwrap())).unwrap();
    scratch.fetch(TWO).is_refused(200, "has later ones");
    // the server has it itself, and takes it when told that there is no other
    fs::write(&own, segment(&TWO.parse().unwrap())).unwrap();
    scratch.fetch(TWO).is_refused(1, "");
    // a standby has another source
    fs::remove_file(scratch.data.join("pg_wal").join(TWO)).unwrap();
    scratch.signal("standby.signal");
    scratch.fetch(TWO).is_refused(1, "");
    // nobody in recovery is asking
    fs::remove_file(scratch.data.join("global/pg_control")).unwrap();
    scratch.fetch(TWO).is_refused(1, "");
}

/// An archiver works off a backlog: the segment comes after it was looked for, and its
/// successor before that was.
#[test]
fn a_segment_that_comes_between_two_looks_is_no_hole() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: strace is not installed (apt-get install strace)");
        return;
    }
    let scratch = Scratch::new();
    scratch.push(ONE);
    let object = scratch.object(ONE);
    let timeline = object.parent().unwrap().parent().unwrap();
    let trace = scratch.data.join("trace");
    let hook = scratch.command();
    let mut command = Command::new("strace");
    command
        .arg("-f")
        .arg("-o")
        .arg(&trace)
        .arg("-P")
        .arg(timeline);
    command.arg("-P").arg(object.parent().unwrap());
    // the lists are read five seconds after the segment was looked for
    command.args(["-e", "inject=getdents64:delay_enter=5s:when=1"]);
    command.arg(hook.get_program()).args(hook.get_args());
    command.args(["--system-identifier", &SYSTEM_IDENTIFIER.to_string()]);
    command.args([TWO, "pg_wal/RECOVERYXLOG"]);
    command.current_dir(&scratch.data);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !fs::read_to_string(&trace).is_ok_and(|trace| trace.contains(TWO)) {
        assert!(begun.elapsed().as_secs() < 60, "it was never looked for");
        std::thread::sleep(Duration::from_millis(5));
    }
    scratch.push("000000010000000000000003");
    scratch.push(TWO);
    let outcome = scratch.outcome(child.wait_with_output().unwrap());
    assert_eq!(outcome.exit, Some(0), "{}", outcome.stderr);
    assert_eq!(outcome.file, Some(segment(&TWO.parse().unwrap())));
}

/// The old primary died before it had archived everything, and the new one
/// goes on behind what is missing.
#[test]
fn a_hole_before_a_branch_is_not_the_end_of_the_log() {
    let scratch = Scratch::new();
    scratch.push("000000010000000000000003");
    scratch.push("000000020000000000000005");
    scratch.push_history(2, FORK);
    let missing = "000000010000000000000004";
    for options in [&[][..], &["--timeline", "2"]] {
        scratch.keep_history(2, FORK);
        let outcome = scratch.fetch_with(options, missing);
        outcome.is_refused(200, "left timeline 1 behind it at 0/500100");
        assert!(
            outcome.stderr.contains("before 0/400000"),
            "{}",
            outcome.stderr
        );
    }
    // the server has it itself
    let own = scratch.data.join("pg_wal").join(missing);
    fs::write(&own, segment(&missing.parse().unwrap())).unwrap();
    scratch.fetch(missing).is_refused(1, "");
    fs::remove_file(own).unwrap();
    // a standby has another source
    scratch.signal("standby.signal");
    scratch.fetch(missing).is_refused(1, "");
}

/// Told that a segment is not there, the server takes the one in its `pg_wal`.
#[test]
fn a_servers_own_segment_beyond_the_branch_stops_recovery() {
    let scratch = Scratch::new();
    let own = scratch.data.join("pg_wal/000000010000000000000006");
    fs::write(&own, segment(&"000000010000000000000006".parse().unwrap())).unwrap();
    scratch.keep_history(2, FORK);
    let outcome = scratch.fetch("000000010000000000000006");
    outcome.is_refused(200, "would replay");
    assert!(outcome.stderr.contains("out of pg_wal"));
    fs::remove_file(own).unwrap();
    scratch
        .fetch("000000010000000000000006")
        .is_refused(1, "left timeline 1");
}

/// Every call of these kinds, one after the other, ends in SIGKILL.
#[test]
fn whenever_it_is_killed_nothing_half_lies_at_its_place() {
    if Command::new("strace").arg("-V").output().is_err() {
        return;
    }
    let scratch = Scratch::new();
    scratch.push(ONE);
    let mut killed = 0;
    for call in ["openat", "flock", "ftruncate", "write", "rename"] {
        for number in 1..40 {
            let mut command = Command::new("strace");
            command
                .args(["-f", "-o", "/dev/null", "-e"])
                .arg(format!("inject={call}:signal=KILL:when={number}"))
                .arg(env!("CARGO_BIN_EXE_pitr-restore"))
                .arg("--repo")
                .arg(&scratch.repository)
                .args(["--system-identifier", &SYSTEM_IDENTIFIER.to_string()])
                .args([ONE, "pg_wal/RECOVERYXLOG"])
                .current_dir(&scratch.data);
            let output = command.output().unwrap();
            let place = scratch.data.join("pg_wal/RECOVERYXLOG");
            if let Ok(found) = fs::read(&place) {
                assert!(found == segment(&ONE.parse().unwrap()), "{call} {number}");
                fs::remove_file(&place).unwrap();
            }
            if output.status.success() {
                break; // it makes no more such calls
            }
            killed += 1;
            // the next one takes over whatever was left
            scratch.fetch(ONE).is_segment(ONE);
            fs::remove_file(&place).unwrap();
        }
    }
    assert!(killed >= 5, "{killed}");
}

#[test]
fn it_opens_no_socket_and_starts_no_thread() {
    if Command::new("strace").arg("-V").output().is_err() {
        return;
    }
    let scratch = Scratch::new();
    scratch.push(ONE);
    let trace = scratch.dir.join("trace");
    let status = Command::new("strace")
        .args(["-f", "-e", "trace=socket,clone,clone3,fork,vfork", "-o"])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_pitr-restore"))
        .arg("--repo")
        .arg(&scratch.repository)
        .args(["--system-identifier", &SYSTEM_IDENTIFIER.to_string()])
        .args([ONE, "pg_wal/RECOVERYXLOG"])
        .current_dir(&scratch.data)
        .status()
        .unwrap();
    assert!(status.success());
    let calls = fs::read_to_string(trace).unwrap();
    let calls: Vec<&str> = calls
        .lines()
        .filter(|line| !line.contains("exited"))
        .collect();
    assert!(calls.is_empty(), "{calls:?}");
}
