//! Segments that are fetched ahead: what the hook serves of them, when the
//! process that fetches them ends, and what is left behind.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on is a failed test"
)]

#[cfg(test)]
#[allow(dead_code, reason = "the other tests of the hook use the rest of it")]
mod scratch;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use pitr_store::{StoreOptions, open_store};
use scratch::{AHEAD, SYSTEM_IDENTIFIER, Scratch, names, segment};

const LIMIT: Duration = Duration::from_secs(30);

/// A data directory in recovery, whose server is a process that does nothing.
struct Recovering {
    scratch: Scratch,
    server: Child,
}

impl Recovering {
    fn new() -> Self {
        Self::around(Scratch::new())
    }

    fn around(scratch: Scratch) -> Self {
        // as the one that runs in the data directory
        let server = Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(
            scratch.data.join("postmaster.pid"),
            format!("{}\n{}\n", server.id(), scratch.data.display()),
        )
        .unwrap();
        scratch.signal("recovery.signal");
        Self { scratch, server }
    }

    /// With the first `count` segments of timeline 1 in the repository.
    fn with_segments(count: u32) -> Self {
        let recovering = Self::new();
        for number in 1..=count {
            recovering.scratch.push(&name(1, number));
        }
        recovering
    }

    fn folder(&self) -> PathBuf {
        self.scratch.data.join("pg_wal").join(AHEAD)
    }

    /// Whole segments in the folder.
    fn ahead(&self) -> Vec<String> {
        if !self.folder().exists() {
            return Vec::new();
        }
        let mut names: Vec<String> = fs::read_dir(self.folder())
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.len() == 24)
            .collect();
        names.sort();
        names
    }

    #[track_caller]
    fn wait_for(&self, expected: &[String]) {
        wait_until(
            || self.ahead() == expected,
            || format!("{:?} instead of {expected:?}", self.ahead()),
        );
    }

    #[track_caller]
    fn wait_until_gone(&self) {
        wait_until(
            || !self.folder().exists(),
            || format!("{:?}", names(&self.folder())),
        );
    }

    /// Process that fills the folder.
    fn filler(&self) -> u32 {
        let text = fs::read(self.folder().join("origin.json")).unwrap();
        let origin: serde_json::Value = serde_json::from_slice(&text).unwrap();
        u32::try_from(origin["process"].as_u64().unwrap()).unwrap()
    }

    /// As the server does: it takes the file, under whatever name.
    fn fetch(&self, options: &[&str], name: &str) -> scratch::Outcome {
        let outcome = self.scratch.fetch_with(options, name);
        let _ = fs::remove_file(self.scratch.data.join("pg_wal/RECOVERYXLOG"));
        outcome
    }
}

impl Drop for Recovering {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        // nothing outlives the test
        let begun = Instant::now();
        while self.folder().exists() && begun.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn name(timeline: u32, number: u32) -> String {
    format!("{timeline:08X}{:08X}{number:08X}", 0)
}

#[track_caller]
fn wait_until(reached: impl Fn() -> bool, what: impl Fn() -> String) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < LIMIT, "{}", what());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_alive(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap()
            .trim_start()
            .starts_with('Z')
    })
}

fn kill_9(process: u32) {
    let status = Command::new("kill")
        .args(["-9", &process.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
    wait_until(|| !is_alive(process), || format!("{process} lives"));
}

#[test]
fn the_next_segments_wait_and_are_handed_over() {
    let recovering = Recovering::with_segments(6);
    let options = ["--prefetch", "3"];
    recovering
        .fetch(&options, &name(1, 1))
        .is_segment(&name(1, 1));
    recovering.wait_for(&[name(1, 2), name(1, 3), name(1, 4)]);
    // the repository is not asked for what waits
    let away = recovering.scratch.dir.join("away");
    fs::rename(&recovering.scratch.repository, &away).unwrap();
    recovering
        .fetch(&options, &name(1, 2))
        .is_segment(&name(1, 2));
    recovering
        .fetch(&options, &name(1, 3))
        .is_segment(&name(1, 3));
    fs::rename(&away, &recovering.scratch.repository).unwrap();
}

#[test]
fn what_was_taken_makes_room_for_the_next_and_the_end_of_the_archive_ends_it() {
    let recovering = Recovering::with_segments(5);
    let options = ["--prefetch", "2"];
    recovering
        .fetch(&options, &name(1, 1))
        .is_segment(&name(1, 1));
    recovering.wait_for(&[name(1, 2), name(1, 3)]);
    let filler = recovering.filler();
    recovering
        .fetch(&options, &name(1, 2))
        .is_segment(&name(1, 2));
    recovering.wait_for(&[name(1, 3), name(1, 4)]);
    // out of turn: the one in between is not wanted any more
    recovering
        .fetch(&options, &name(1, 4))
        .is_segment(&name(1, 4));
    recovering.wait_for(&[name(1, 5)]);
    assert_eq!(recovering.filler(), filler);
    recovering
        .fetch(&options, &name(1, 5))
        .is_segment(&name(1, 5));
    recovering.wait_until_gone();
    wait_until(|| !is_alive(filler), || format!("{filler} lives"));
    recovering.fetch(&options, &name(1, 6)).is_refused(1, "");
    assert!(!recovering.folder().exists(), "begun for nothing");
}

#[test]
fn a_segment_that_the_server_asks_for_again_is_fetched_again() {
    let recovering = Recovering::with_segments(4);
    let options = ["--prefetch", "2"];
    for number in [1, 2, 1, 2, 3, 1, 2, 1] {
        recovering
            .fetch(&options, &name(1, number))
            .is_segment(&name(1, number));
    }
    recovering.wait_for(&[name(1, 2), name(1, 3)]);
}

#[test]
fn it_ends_with_the_server_and_with_recovery() {
    for end in ["killed", "stopped", "recovered", "restarted"] {
        let mut recovering = Recovering::with_segments(3);
        recovering.fetch(&[], &name(1, 1)).is_segment(&name(1, 1));
        recovering.wait_for(&[name(1, 2), name(1, 3)]);
        let filler = recovering.filler();
        let pid_file = recovering.scratch.data.join("postmaster.pid");
        match end {
            "killed" => {
                recovering.server.kill().unwrap();
                recovering.server.wait().unwrap();
            }
            "stopped" => fs::remove_file(pid_file).unwrap(),
            "recovered" => {
                fs::remove_file(recovering.scratch.data.join("recovery.signal")).unwrap();
            }
            _ => fs::write(pid_file, format!("{}\n", std::process::id())).unwrap(),
        }
        recovering.wait_until_gone();
        wait_until(|| !is_alive(filler), || format!("{end}: {filler} lives"));
    }
}

#[test]
fn what_a_killed_one_left_is_not_served_and_swept() {
    let recovering = Recovering::with_segments(3);
    recovering.fetch(&[], &name(1, 1)).is_segment(&name(1, 1));
    recovering.wait_for(&[name(1, 2), name(1, 3)]);
    kill_9(recovering.filler());
    // whole by its looks
    let mut torn = segment(&name(1, 2).parse().unwrap());
    torn[4096..].fill(0);
    fs::write(recovering.folder().join(name(1, 2)), torn).unwrap();
    fs::write(
        recovering.folder().join(format!("{}.part", name(1, 3))),
        "half",
    )
    .unwrap();
    recovering.fetch(&[], &name(1, 2)).is_segment(&name(1, 2));
    // the next one begins anew
    recovering.wait_for(&[name(1, 3)]);
    assert!(!names(&recovering.folder()).contains(&name(1, 2)));

    kill_9(recovering.filler());
    recovering.fetch(&[], &name(1, 9)).is_refused(1, "");
    assert!(!recovering.folder().exists());
}

#[test]
fn a_hook_that_is_killed_leaves_the_next_one_nothing_wrong() {
    let recovering = Recovering::with_segments(8);
    for round in 0..12_u64 {
        let mut command = recovering.scratch.command();
        command
            .args(["--system-identifier", &SYSTEM_IDENTIFIER.to_string()])
            .args(["--prefetch", "2", &name(1, 1), "pg_wal/RECOVERYXLOG"]);
        let mut hook = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(2 * round));
        hook.kill().unwrap();
        hook.wait().unwrap();
    }
    for number in 1..=8 {
        let number = name(1, number);
        recovering
            .fetch(&["--prefetch", "2"], &number)
            .is_segment(&number);
    }
}

#[test]
fn a_damaged_object_is_not_served_ahead_and_told_in_its_turn() {
    let recovering = Recovering::with_segments(4);
    damage(&recovering.scratch.object(&name(1, 3)));
    recovering.fetch(&[], &name(1, 1)).is_segment(&name(1, 1));
    recovering.wait_for(&[name(1, 2)]);
    recovering.fetch(&[], &name(1, 2)).is_segment(&name(1, 2));
    recovering
        .fetch(&[], &name(1, 3))
        .is_refused(200, "damaged");
}

#[test]
fn another_repository_takes_the_place_of_a_damaged_object_and_the_log_says_so() {
    let recovering = Recovering::with_segments(4);
    let other = copy_of(&recovering.scratch);
    let other = ["--repo", other.to_str().unwrap()];
    damage(&recovering.scratch.object(&name(1, 3)));
    recovering
        .fetch(&other, &name(1, 1))
        .is_segment(&name(1, 1));
    recovering.wait_for(&[name(1, 2), name(1, 3), name(1, 4)]);
    for number in [2, 3, 4] {
        let outcome = recovering.fetch(&other, &name(1, number));
        outcome.is_segment(&name(1, number));
        assert_eq!(
            outcome.stderr.contains("is passed over, another one has"),
            number == 3,
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn a_segment_whose_summary_is_damaged_is_served_with_the_warning() {
    let recovering = Recovering::with_segments(3);
    let object = recovering.scratch.object(&name(1, 2));
    let mut bytes = fs::read(&object).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 0x40;
    write(&object, &bytes);
    let alone = Recovering::fetch(&recovering, &["--prefetch", "0"], &name(1, 2));
    alone.is_segment(&name(1, 2));
    assert!(
        alone.stderr.contains("something beside it is damaged"),
        "{}",
        alone.stderr
    );
    recovering.fetch(&[], &name(1, 1)).is_segment(&name(1, 1));
    let ahead = recovering.fetch(&[], &name(1, 2));
    ahead.is_segment(&name(1, 2));
    assert!(
        ahead.stderr.contains("something beside it is damaged"),
        "{}",
        ahead.stderr
    );
}

#[test]
fn a_file_that_is_not_the_segment_is_not_served() {
    let recovering = Recovering::with_segments(4);
    recovering.fetch(&[], &name(1, 1)).is_segment(&name(1, 1));
    recovering.wait_for(&[name(1, 2), name(1, 3), name(1, 4)]);
    let other = segment(&name(1, 9).parse().unwrap());
    let half = &segment(&name(1, 3).parse().unwrap())[..4096];
    let mut foreign = segment(&name(1, 4).parse().unwrap());
    // the system identifier
    foreign[24] ^= 1;
    for (number, bytes) in [(2, &other[..]), (3, half), (4, &foreign)] {
        write(&recovering.folder().join(name(1, number)), bytes);
    }
    for number in 2..=4 {
        recovering
            .fetch(&[], &name(1, number))
            .is_segment(&name(1, number));
    }
}

#[test]
fn what_comes_from_another_repository_is_not_served() {
    let recovering = Recovering::with_segments(4);
    let other = copy_of(&recovering.scratch);
    recovering.fetch(&[], &name(1, 1)).is_segment(&name(1, 1));
    recovering.wait_for(&[name(1, 2), name(1, 3), name(1, 4)]);
    let filler = recovering.filler();
    // restore_command was changed: what lies there is nothing to it
    let both = ["--repo", other.to_str().unwrap()];
    write(
        &recovering.folder().join(name(1, 2)),
        &segment(&name(1, 2).parse().unwrap()),
    );
    let away = recovering.scratch.dir.join("away");
    fs::rename(recovering.scratch.object(&name(1, 2)), &away).unwrap();
    fs::remove_file(object_in(&other, &name(1, 2))).unwrap();
    assert_eq!(
        recovering.fetch(&both, &name(1, 2)).exit,
        Some(200),
        "a hole"
    );
    recovering.fetch(&both, &name(1, 3)).is_segment(&name(1, 3));
    wait_until(|| !is_alive(filler), || format!("{filler} lives"));
}

#[cfg(feature = "encryption")]
#[test]
fn an_encrypted_repository_is_read_with_the_key_that_the_hook_has() {
    use std::os::unix::fs::PermissionsExt as _;
    let places = pitr_testbed::TestDir::new().unwrap();
    let key = places.join("key");
    fs::write(&key, [7; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let scratch = Scratch::made(|store| {
        let keys = pitr_store::encryption::NewKeys {
            key_files: vec![key.clone()],
            ..Default::default()
        };
        pitr_store::Repository::init_encrypted(store, &keys).unwrap();
    });
    scratch.claim(SYSTEM_IDENTIFIER);
    let recovering = Recovering::around(scratch);
    for number in 1..=3 {
        recovering.scratch.push(&name(1, number));
    }
    let options = ["--encryption-key-file", key.to_str().unwrap()];
    recovering
        .fetch(&options, &name(1, 1))
        .is_segment(&name(1, 1));
    recovering.wait_for(&[name(1, 2), name(1, 3)]);
    // without the key, or with another file for it, nothing that waits is handed over
    recovering
        .fetch(&[], &name(1, 2))
        .is_refused(200, "is encrypted");
    recovering
        .fetch(&options, &name(1, 2))
        .is_segment(&name(1, 2));
}

#[cfg(feature = "s3")]
#[test]
fn segments_come_ahead_from_a_bucket_too() {
    use pitr_store::wal::WalBytes;
    use pitr_store::{Codec, Repository, S3Options, Secret};
    let Ok(moto) = pitr_testbed::Moto::start() else {
        return; // scripts/remote-servers installs it
    };
    moto.make_bucket("backups").unwrap();
    let options = StoreOptions {
        s3: S3Options {
            endpoint: Some(moto.endpoint()),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some("AKIDTEST".to_owned()),
            secret_access_key: Some(Secret::new("any")),
            ..S3Options::default()
        },
        ..StoreOptions::default()
    };
    let store = open_store("s3://backups/pg", &options).unwrap();
    Repository::init(store.clone()).unwrap();
    let repository = Repository::open(store).unwrap();
    let identity = scratch::identity(SYSTEM_IDENTIFIER);
    let wal = repository.add(&identity).unwrap().wal();
    for number in 1..=6 {
        let name = name(1, number);
        let bytes = segment(&name.parse().unwrap());
        let mut bytes = WalBytes::new(bytes, "the test");
        let codec = Codec::Zstd { level: 1 };
        wal.push(&name.parse().unwrap(), &mut bytes, codec).unwrap();
    }
    let recovering = Recovering::new();
    let config = recovering.scratch.dir.join("pitr.toml");
    let text = format!(
        "repo = \"s3://backups/pg\"\n[s3]\nendpoint = \"{}\"\nregion = \"us-east-1\"\n\
         access_key_id = \"AKIDTEST\"\nsecret_access_key = \"any\"\n",
        moto.endpoint()
    );
    fs::write(&config, text).unwrap();
    let fetch = |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pitr-restore"));
        command
            .env_clear()
            .current_dir(&recovering.scratch.data)
            .arg("--config")
            .arg(&config)
            .args(["--system-identifier", &SYSTEM_IDENTIFIER.to_string()])
            .args([name, "pg_wal/RECOVERYXLOG"]);
        let outcome = recovering.scratch.outcome(command.output().unwrap());
        let _ = fs::remove_file(recovering.scratch.data.join("pg_wal/RECOVERYXLOG"));
        outcome
    };
    fetch(&name(1, 1)).is_segment(&name(1, 1));
    recovering.wait_for(&[2, 3, 4, 5, 6].map(|number| name(1, number)));
    // what waits needs no server any more
    drop(moto);
    for number in 2..=6 {
        fetch(&name(1, number)).is_segment(&name(1, number));
    }
}

#[test]
fn a_switch_of_the_timeline_is_followed() {
    let recovering = Recovering::with_segments(2);
    // the parent goes on, and so would recovery along it
    recovering.scratch.push(&name(1, 3));
    recovering.scratch.push(&name(1, 4));
    for number in [3, 4] {
        recovering.scratch.push(&name(2, number));
    }
    recovering
        .scratch
        .keep_history(2, "1\t0/300100\tno recovery target specified\n");
    let ahead = [name(1, 2), name(2, 3), name(2, 4)];
    for options in [&[][..], &["--timeline", "2"]] {
        recovering
            .fetch(options, &name(1, 1))
            .is_segment(&name(1, 1));
        recovering.wait_for(&ahead);
        for name in &ahead {
            recovering.fetch(options, name).is_segment(name);
        }
        recovering.wait_until_gone();
    }
}

#[test]
fn what_lies_beyond_a_branch_is_not_served_though_it_waits() {
    let recovering = Recovering::with_segments(5);
    recovering.fetch(&[], &name(1, 1)).is_segment(&name(1, 1));
    recovering.wait_for(&[name(1, 2), name(1, 3), name(1, 4), name(1, 5)]);
    // the server learns of another timeline
    recovering
        .scratch
        .keep_history(2, "1\t0/400100\tno recovery target specified\n");
    recovering
        .fetch(&[], &name(1, 5))
        .is_refused(1, "is not served");
    recovering
        .fetch(&[], &name(1, 4))
        .is_refused(200, &name(2, 4));
    recovering.fetch(&[], &name(1, 3)).is_segment(&name(1, 3));
}

#[test]
fn nothing_is_fetched_ahead_where_that_is_switched_off() {
    let recovering = Recovering::with_segments(3);
    recovering
        .fetch(&["--prefetch", "0"], &name(1, 1))
        .is_segment(&name(1, 1));
    let config = recovering.scratch.dir.join("pitr.toml");
    fs::write(&config, "prefetch = 0\n").unwrap();
    let by_file = ["--config", config.to_str().unwrap()];
    recovering
        .fetch(&by_file, &name(1, 2))
        .is_segment(&name(1, 2));
    assert!(!recovering.folder().exists());
    // and ends where it had begun
    recovering.fetch(&[], &name(1, 1)).is_segment(&name(1, 1));
    recovering.wait_for(&[name(1, 2), name(1, 3)]);
    recovering
        .fetch(&by_file, &name(1, 2))
        .is_segment(&name(1, 2));
    recovering.wait_until_gone();
}

#[test]
fn only_a_server_that_recovers_has_segments_fetched_ahead() {
    let recovering = Recovering::with_segments(3);
    let elsewhere = |path: &str| {
        let mut command = recovering.scratch.command();
        command.args(["--system-identifier", &SYSTEM_IDENTIFIER.to_string()]);
        // pg_rewind's server would be at rest, and this one is not read
        let output = command.args([&name(1, 1), path]).output().unwrap();
        assert!(output.status.success() || path.starts_with("pg_wal"));
        assert!(!recovering.folder().exists(), "{path}");
    };
    // pg_rewind, a person
    elsewhere(&format!("pg_wal/{}", name(1, 1)));
    elsewhere("RECOVERYXLOG");
    // a standby that asks for what is not there yet, again and again
    recovering.scratch.signal("standby.signal");
    recovering.fetch(&[], &name(1, 9)).is_refused(1, "");
    assert!(!recovering.folder().exists());
    // no server
    fs::remove_file(recovering.scratch.data.join("postmaster.pid")).unwrap();
    recovering.fetch(&[], &name(1, 1)).is_segment(&name(1, 1));
    assert!(!recovering.folder().exists());
    // the first process of a container
    fs::write(recovering.scratch.data.join("postmaster.pid"), "1\n").unwrap();
    recovering.fetch(&[], &name(1, 1)).is_segment(&name(1, 1));
    assert!(!recovering.folder().exists());
}

#[test]
fn a_disk_that_is_nearly_full_is_left_to_the_server() {
    let recovering = Recovering::with_segments(4);
    let small = recovering.scratch.data.join("pg_wal");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3500k", "none"])
        .arg(&small)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        return; // only root can make a disk so small
    }
    let outcome = recovering.fetch(&[], &name(1, 1));
    // it begins, finds no room, and ends
    recovering.wait_until_gone();
    let again = recovering.fetch(&[], &name(1, 2));
    recovering.wait_until_gone();
    Command::new("umount").arg(&small).status().unwrap();
    outcome.is_segment(&name(1, 1));
    again.is_segment(&name(1, 2));
}

#[test]
fn nothing_of_the_server_is_kept_open_by_what_is_left_behind() {
    let recovering = Recovering::with_segments(3);
    let table = recovering.scratch.dir.join("a table");
    fs::write(&table, "x").unwrap();
    // up to 15 the server's files are open in its commands too
    let status = Command::new("sh")
        .arg("-c")
        .arg("exec 7<\"$0\" && exec \"$@\" 2>&7")
        .arg(&table)
        .arg(env!("CARGO_BIN_EXE_pitr-restore"))
        .arg("--repo")
        .arg(&recovering.scratch.repository)
        .args(["--system-identifier", &SYSTEM_IDENTIFIER.to_string()])
        .args([&name(1, 1), "pg_wal/RECOVERYXLOG"])
        .current_dir(&recovering.scratch.data)
        .env_clear()
        .status()
        .unwrap();
    assert!(status.success());
    recovering.wait_for(&[name(1, 2), name(1, 3)]);
    let filler = recovering.filler();
    for entry in fs::read_dir(format!("/proc/{filler}/fd")).unwrap() {
        let open = fs::read_link(entry.unwrap().path());
        assert_ne!(open.ok().as_deref(), Some(table.as_path()));
    }
    // a shutdown is signalled to a whole session
    let stat = fs::read_to_string(format!("/proc/{filler}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let session = fields.split_whitespace().nth(3).unwrap();
    assert_eq!(session, filler.to_string());
}

#[test]
fn the_hook_itself_starts_no_thread_and_opens_no_socket() {
    if Command::new("strace").arg("-V").output().is_err() {
        return;
    }
    let recovering = Recovering::with_segments(4);
    for (number, begins) in [(1, true), (2, false)] {
        let trace = recovering.scratch.dir.join("trace");
        let status = Command::new("strace")
            // the hook alone, and not what it leaves behind
            .args(["-e", "trace=socket,clone,clone3,fork,vfork", "-o"])
            .arg(&trace)
            .arg(env!("CARGO_BIN_EXE_pitr-restore"))
            .arg("--repo")
            .arg(&recovering.scratch.repository)
            .args(["--system-identifier", &SYSTEM_IDENTIFIER.to_string()])
            .args([&name(1, number), "pg_wal/RECOVERYXLOG"])
            .current_dir(&recovering.scratch.data)
            .env_clear()
            .status()
            .unwrap();
        assert!(status.success());
        let calls = fs::read_to_string(trace).unwrap();
        let calls: Vec<&str> = calls
            .lines()
            .filter(|line| !line.contains("exited") && !line.contains("--- SIGCHLD"))
            .collect();
        if begins {
            assert_eq!(calls.len(), 1, "{calls:?}");
            assert!(!calls[0].contains("CLONE_THREAD"), "{calls:?}");
            recovering.wait_for(&[name(1, 2), name(1, 3), name(1, 4)]);
        } else {
            assert!(calls.is_empty(), "{calls:?}");
        }
    }
}

fn write(path: &std::path::Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn damage(object: &std::path::Path) {
    let mut bytes = fs::read(object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    write(object, &bytes);
}

/// Another repository with the same objects.
fn copy_of(scratch: &Scratch) -> PathBuf {
    let other = scratch.dir.join("other");
    let status = Command::new("cp")
        .arg("-a")
        .arg(&scratch.repository)
        .arg(&other)
        .status()
        .unwrap();
    assert!(status.success());
    other
}

fn object_in(repository: &std::path::Path, name: &str) -> PathBuf {
    let store = open_store(repository.to_str().unwrap(), &StoreOptions::default()).unwrap();
    let repository = pitr_store::Repository::open(store).unwrap();
    let mut clusters = repository.clusters().unwrap();
    let wal = clusters.pop().unwrap().wal();
    let stored = wal.locate(&name.parse().unwrap()).unwrap().unwrap();
    stored.location.into()
}
