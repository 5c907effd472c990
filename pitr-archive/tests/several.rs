//! Archiving into several repositories, and bringing them level.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where something that it needs fails, and says what it skips"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pitr_store::encryption::KeySource;
use pitr_store::made_wal::{SYSTEM_IDENTIFIER, made_cluster, made_segment};
use pitr_store::{LocalStore, Repository, WalArchive};
use serde_json::Value;

/// A server's folder and the repositories that it archives into.
struct Site {
    dir: tempfile::TempDir,
    repositories: Vec<PathBuf>,
    /// What the tests read encrypted repositories with. The commands are not
    /// told of it.
    keys: KeySource,
}

impl Site {
    /// Made by one `pitr-archive init`.
    fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pg_wal")).unwrap();
        let site = Self {
            repositories: (0..count)
                .map(|i| dir.path().join(format!("r{i}")))
                .collect(),
            dir,
            keys: KeySource::default(),
        };
        site.configure(None);
        let output = site.run(&["init"]);
        assert!(output.status.success(), "{}", said(&output));
        site
    }

    /// One plain repository and, after it, one that is encrypted for a key
    /// file; with the key file's path.
    fn with_encrypted_second() -> (Self, String) {
        let mut site = Self::new(1);
        let second = site.dir.path().join("r1");
        let path = site.dir.path().join("key");
        fs::write(&path, [201; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let key = path.to_str().unwrap().to_owned();
        let repository = second.to_str().unwrap();
        let output = site.run(&["--repo", repository, "init", "--encrypt-key-file", &key]);
        assert!(output.status.success(), "{}", said(&output));
        site.repositories.push(second);
        site.keys.key_file = Some(path);
        site.configure(None);
        (site, key)
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("pitr.toml")
    }

    fn configure(&self, required: Option<usize>) {
        let mut text = format!("repo = {:?}\n", self.repositories);
        if let Some(required) = required {
            text += &format!("required = {required}\n");
        }
        fs::write(self.config(), text).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pitr-archive"));
        command
            .env_clear()
            .env("PITR_CONFIG", self.config())
            .args(words)
            .current_dir("/");
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// The server offers segment `number` of timeline 1.
    fn push(&self, number: u32) -> Output {
        self.push_bytes(&name(number), &made_segment(&name(number), number.into()))
    }

    fn push_bytes(&self, name: &str, bytes: &[u8]) -> Output {
        let path = self.dir.path().join("pg_wal").join(name);
        fs::write(&path, bytes).unwrap();
        self.run(&[path.to_str().unwrap(), name])
    }

    fn pushed(&self, number: u32) {
        let output = self.push(number);
        assert!(output.status.success(), "{number}: {}", said(&output));
    }

    fn wal(&self, repository: usize) -> WalArchive {
        let store = LocalStore::new(self.repositories[repository].clone());
        let repository = Repository::open_with(std::sync::Arc::new(store), &self.keys).unwrap();
        repository.claim(&made_cluster()).unwrap().wal()
    }

    /// What a repository gives back under the name of segment `number`.
    fn fetched(&self, repository: usize, number: u32) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        match self
            .wal(repository)
            .fetch_to(&name(number).parse().unwrap(), &mut bytes)
        {
            Ok(_) => Some(bytes),
            Err(pitr_store::FetchError::Absent { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn holds(&self, repository: usize, numbers: &[u32]) {
        let held: Vec<u32> = (1..=40)
            .filter(|&number| match self.fetched(repository, number) {
                None => false,
                Some(bytes) => {
                    assert!(bytes == made_segment(&name(number), number.into()));
                    true
                }
            })
            .collect();
        assert_eq!(held, numbers, "repository {repository}");
    }

    /// The disk of a repository is not mounted, for as long as `during` runs.
    fn without<T>(&self, repository: usize, during: impl FnOnce() -> T) -> T {
        let away = self.dir.path().join("away");
        fs::rename(&self.repositories[repository], &away).unwrap();
        let result = during();
        fs::rename(&away, &self.repositories[repository]).unwrap();
        result
    }

    fn object(&self, repository: usize, number: u32) -> PathBuf {
        let name = name(number);
        self.repositories[repository]
            .join(SYSTEM_IDENTIFIER.to_string())
            .join(format!("wal/{}/{}/{name}.zst", &name[..8], &name[8..16]))
    }

    fn debris(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for repository in &self.repositories {
            walk(repository, &mut found);
        }
        found.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with('.'));
        found
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// With segments of 1 MiB.
fn name(number: u32) -> String {
    format!("0000000100000000{number:08X}")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)))
}

#[test]
fn a_push_is_done_when_all_have_it_and_each_copy_is_the_same() {
    let site = Site::new(3);
    site.pushed(1);
    let first = fs::read(site.object(0, 1)).unwrap();
    for repository in 0..3 {
        site.holds(repository, &[1]);
        assert!(fs::read(site.object(repository, 1)).unwrap() == first);
    }
    // offered again, as after a crash
    let output = site.push(1);
    assert!(output.status.success());
    assert!(said(&output).contains("is in all repositories already"));
    assert_eq!(site.debris(), Vec::<PathBuf>::new());
}

#[test]
fn a_repository_that_fails_fails_the_push_and_the_others_keep_what_they_have() {
    let site = Site::new(2);
    site.pushed(1);
    let output = site.without(1, || site.push(2));
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(text.contains("r1\" does not have"), "{text}");
    assert!(text.contains("It is in 1 of 2 repositories"), "{text}");
    assert!(text.contains("Is the disk mounted?"), "{text}");
    site.holds(0, &[1, 2]);
    // the retry finds the same bytes in one, and stores them in the other
    site.pushed(2);
    site.holds(1, &[1, 2]);
}

#[test]
fn as_many_as_required_are_enough_and_the_rest_catches_up_with_the_next_pushes() {
    let site = Site::new(2);
    site.configure(Some(1));
    site.pushed(1);
    site.without(1, || {
        for number in 2..=7 {
            let output = site.push(number);
            assert!(output.status.success(), "{}", said(&output));
            assert!(said(&output).contains("is behind"), "{}", said(&output));
        }
    });
    site.holds(1, &[1]);
    // a bounded number with each push, the oldest first
    let output = site.push(8);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("4 files that it had missed"),
        "{}",
        said(&output)
    );
    site.holds(1, &[1, 2, 3, 4, 5, 8]);
    site.pushed(9);
    site.holds(1, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    site.holds(0, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn fewer_than_required_are_not_enough() {
    let site = Site::new(3);
    site.configure(Some(2));
    site.pushed(1);
    let away = |repository: usize| {
        let place = &site.repositories[repository];
        fs::rename(place, place.with_extension("away")).unwrap();
    };
    away(0);
    assert!(site.push(2).status.success());
    away(1);
    let output = site.push(3);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("It is in 1 of 3 repositories, and 2 must have it"),
        "{}",
        said(&output)
    );
    site.holds(2, &[1, 2, 3]);
}

#[test]
fn what_is_older_than_all_that_a_repository_holds_is_not_brought_back() {
    let site = Site::new(2);
    for number in 1..=5 {
        site.pushed(number);
    }
    // this one keeps its log for a shorter time
    for number in 1..=3 {
        fs::remove_file(site.object(1, number)).unwrap();
    }
    site.pushed(6);
    site.holds(1, &[4, 5, 6]);
}

#[test]
fn other_content_in_one_repository_refuses_the_segment_everywhere() {
    let site = Site::new(2);
    site.configure(Some(1));
    site.pushed(1);
    let only_first = ["--repo", site.repositories[0].to_str().unwrap()];
    let other = made_segment(&name(2), 99);
    let path = site.dir.path().join("pg_wal").join(name(2));
    fs::write(&path, &other).unwrap();
    let (two, path) = (name(2), path.to_str().unwrap().to_owned());
    let output = site.run(&[only_first[0], only_first[1], &path, &two]);
    assert!(output.status.success(), "{}", said(&output));

    // not even where one would be enough
    let output = site.push(2);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = said(&output);
    assert!(
        text.contains("archived already with other content"),
        "{text}"
    );
    assert!(text.contains("r0/"), "{text}");
    assert!(text.contains("Nothing was stored in repository"), "{text}");
    assert!(site.fetched(1, 2).is_none());
    assert!(site.fetched(0, 2).unwrap() == other);

    // each of the two has its own: both are named
    let only_second = ["--repo", site.repositories[1].to_str().unwrap()];
    fs::write(&path, made_segment(&name(2), 2)).unwrap();
    let output = site.run(&[only_second[0], only_second[1], &path, &two]);
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&site.push(2));
    assert!(text.contains("r0/") && text.contains("r1/"), "{text}");
    assert!(text.contains("has the content that is offered"), "{text}");
}

#[test]
fn a_repository_of_another_cluster_among_them_is_an_error() {
    let site = Site::new(2);
    site.configure(Some(1));
    let mut foreign = made_segment(&name(1), 1);
    foreign[24..32].copy_from_slice(&4711_u64.to_le_bytes());
    let path = site.dir.path().join("foreign");
    fs::write(&path, &foreign).unwrap();
    let second = site.repositories[1].to_str().unwrap();
    let output = site.run(&["--repo", second, path.to_str().unwrap(), &name(1)]);
    assert!(output.status.success(), "{}", said(&output));
    let output = site.push(1);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("belongs to cluster 4711"),
        "{}",
        said(&output)
    );
    assert!(!site.object(0, 1).exists());
}

#[test]
fn a_full_disk_of_one_repository_names_it_and_leaves_nothing_half() {
    let site = Site::new(2);
    let full = &site.repositories[1];
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(full)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("SKIPPED: only root can mount a small tmpfs");
        return;
    }
    let unmount = scopeguard(full);
    assert!(site.run(&["init"]).status.success());
    let output = site.push(1);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no space left on device"), "{text}");
    assert!(text.contains("r1\" does not have"), "{text}");
    site.holds(0, &[1]);
    assert_eq!(site.debris(), Vec::<PathBuf>::new());
    drop(unmount);
}

/// Unmounts at the end, whatever comes before it.
fn scopeguard(path: &Path) -> impl Drop {
    struct Mount(PathBuf);
    impl Drop for Mount {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }
    Mount(path.to_owned())
}

#[test]
fn segments_lost_in_each_are_healed_from_the_other() {
    let site = Site::new(2);
    for number in 1..=8 {
        site.pushed(number);
    }
    fs::write(
        site.dir.path().join("pg_wal/00000002.history"),
        "1\t0/300000\tr\n",
    )
    .unwrap();
    let history = site.dir.path().join("pg_wal/00000002.history");
    let output = site.run(&[history.to_str().unwrap(), "00000002.history"]);
    assert!(output.status.success(), "{}", said(&output));
    for number in [2, 3] {
        fs::remove_file(site.object(0, number)).unwrap();
    }
    for number in [3, 5, 8] {
        fs::remove_file(site.object(1, number)).unwrap();
    }
    let lost_history = site.repositories[1]
        .join(SYSTEM_IDENTIFIER.to_string())
        .join("wal/00000002.history");
    fs::remove_file(&lost_history).unwrap();

    let planned = json(&site.run(&["sync", "--dry-run", "--json"]));
    assert_eq!(
        planned["syncs"][0]["clusters"][0]["wal_copied"], 3,
        "{planned}"
    );
    assert_eq!(
        planned["syncs"][1]["clusters"][0]["wal_copied"], 1,
        "{planned}"
    );
    site.holds(0, &[1, 4, 5, 6, 7, 8]);

    let output = site.run(&["sync", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let done = json(&output);
    assert_eq!(done["syncs"][0]["clusters"][0]["wal_copied"], 3, "{done}");
    // 3 is lost in both
    let all = [1, 2, 4, 5, 6, 7, 8];
    site.holds(0, &all);
    site.holds(1, &all);
    assert_eq!(
        fs::read_to_string(lost_history).unwrap(),
        "1\t0/300000\tr\n"
    );
    assert!(fs::read(site.object(0, 2)).unwrap() == fs::read(site.object(1, 2)).unwrap());
    assert_eq!(site.debris(), Vec::<PathBuf>::new());
}

#[test]
fn sync_reports_a_conflict_overwrites_nothing_and_copies_the_rest() {
    let site = Site::new(2);
    for number in 1..=3 {
        site.pushed(number);
    }
    fs::remove_file(site.object(1, 1)).unwrap();
    fs::remove_file(site.object(1, 2)).unwrap();
    let path = site.dir.path().join("other");
    fs::write(&path, made_segment(&name(2), 77)).unwrap();
    let second = site.repositories[1].to_str().unwrap();
    let output = site.run(&["--repo", second, path.to_str().unwrap(), &name(2)]);
    assert!(output.status.success(), "{}", said(&output));
    let before = fs::read(site.object(1, 2)).unwrap();

    let first = site.repositories[0].to_str().unwrap();
    let output = site.run(&["sync", "--from", first, "--to", second, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(text.contains("r0/") && text.contains("r1/"), "{text}");
    let cluster = &json(&output)["syncs"][0]["clusters"][0];
    assert_eq!(cluster["problems"][0]["conflict"], true, "{cluster}");
    assert_eq!(cluster["wal_copied"], 1, "{cluster}");
    assert!(fs::read(site.object(1, 2)).unwrap() == before);
    assert!(site.object(1, 1).exists());
}

#[test]
fn another_codec_is_no_conflict() {
    let site = Site::new(2);
    let path = site.dir.path().join("pg_wal").join(name(1));
    fs::write(&path, made_segment(&name(1), 1)).unwrap();
    for (repository, codec) in [(0, "none"), (1, "xz:0")] {
        let repository = site.repositories[repository].to_str().unwrap();
        let path = path.to_str().unwrap();
        let output = site.run(&["--repo", repository, "--compression", codec, path, &name(1)]);
        assert!(output.status.success(), "{}", said(&output));
    }
    let output = site.run(&["sync", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(json(&output)["syncs"][0]["clusters"][0]["wal_present"], 1);
}

#[test]
fn a_damaged_segment_is_never_spread() {
    let site = Site::new(2);
    for number in 1..=2 {
        site.pushed(number);
    }
    fs::remove_file(site.object(1, 1)).unwrap();
    let object = site.object(0, 1);
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&object, bytes).unwrap();
    let output = site.run(&["sync"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("is damaged in the repository"),
        "{}",
        said(&output)
    );
    assert!(!site.object(1, 1).exists());
    assert_eq!(site.debris(), Vec::<PathBuf>::new());
}

#[test]
fn sync_fills_only_a_repository_that_exists_and_is_the_clusters() {
    let site = Site::new(1);
    site.pushed(1);
    let first = site.repositories[0].to_str().unwrap();
    let nowhere = site.dir.path().join("nowhere");
    let output = site.run(&["sync", "--from", first, "--to", nowhere.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("is not a repository"),
        "{}",
        said(&output)
    );
    assert!(!nowhere.exists());

    let fresh = site.dir.path().join("fresh");
    let fresh = fresh.to_str().unwrap();
    assert!(site.run(&["--repo", fresh, "init"]).status.success());
    let output = site.run(&["sync", "--from", first, "--to", fresh]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(fs::read(site.object(0, 1)).unwrap().len() > 1000);

    let foreign = site.dir.path().join("foreign");
    let foreign = foreign.to_str().unwrap();
    assert!(site.run(&["--repo", foreign, "init"]).status.success());
    let mut bytes = made_segment(&name(1), 1);
    bytes[24..32].copy_from_slice(&4711_u64.to_le_bytes());
    let path = site.dir.path().join("bytes");
    fs::write(&path, bytes).unwrap();
    let output = site.run(&["--repo", foreign, path.to_str().unwrap(), &name(1)]);
    assert!(output.status.success(), "{}", said(&output));
    for dry in [&["--dry-run"][..], &[]] {
        let mut words = vec!["sync", "--from", first, "--to", foreign];
        words.extend(dry);
        let output = site.run(&words);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            said(&output).contains("belongs to cluster 4711"),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn a_sync_that_is_killed_leaves_nothing_half_and_running_it_again_completes() {
    let site = Site::new(1);
    for number in 1..=12 {
        site.pushed(number);
    }
    let site = Site {
        keys: KeySource::default(),
        repositories: vec![site.repositories[0].clone(), site.dir.path().join("copy")],
        dir: site.dir,
    };
    site.configure(None);
    assert!(site.run(&["init"]).status.success());
    let mut killed = 0;
    for pause in 0..60 {
        let mut child = site
            .command(&["sync", "--threads", "2"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(4 + pause * 3));
        let _ = child.kill();
        let status = child.wait().unwrap();
        killed += u32::from(status.signal() == Some(9));
        // whatever is there is whole
        for number in 1..=12 {
            if let Some(bytes) = site.fetched(1, number) {
                assert!(bytes == made_segment(&name(number), number.into()));
            }
        }
        if status.success() {
            break;
        }
    }
    assert!(killed > 0, "no run was killed");
    let output = site.run(&["sync"]);
    assert!(output.status.success(), "{}", said(&output));
    let all: Vec<u32> = (1..=12).collect();
    site.holds(1, &all);
}

#[test]
fn of_a_plain_and_an_encrypted_repository_each_is_brought_level_as_far_as_keys_allow() {
    let (site, key) = Site::with_encrypted_second();
    site.configure(Some(1));
    for number in 1..=2 {
        site.pushed(number);
    }
    site.holds(0, &[1, 2]);
    site.holds(1, &[1, 2]);
    let stored = fs::read(site.object(1, 1)).unwrap();
    assert!(stored.starts_with(b"pitrenc"));
    // offered again: the same, as both can tell; and another content
    site.pushed(2);
    let output = site.push_bytes(&name(2), &made_segment(&name(2), 77));
    assert!(!output.status.success());
    let text = said(&output);
    assert!(text.contains("with other content"), "{text}");
    assert!(text.contains("their digests differ"), "{text}");

    // the encrypted one catches up out of the plain one, by its public key
    site.without(1, || site.pushed(3));
    site.pushed(4);
    site.holds(1, &[1, 2, 3, 4]);

    // the other way the encrypted one cannot be read, and this is said
    site.without(0, || site.pushed(5));
    let output = site.push(6);
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    assert!(
        text.contains("WARNING:") && text.contains("HINT:"),
        "{text}"
    );
    assert!(
        text.contains("is encrypted, and no identity was named"),
        "{text}"
    );
    assert!(
        text.contains(site.repositories[1].to_str().unwrap()),
        "{text}"
    );
    site.holds(0, &[1, 2, 3, 4, 6]);
    let output = site.run(&["sync"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = said(&output);
    assert!(
        text.contains("is encrypted, and no identity was named"),
        "{text}"
    );

    // by the key both become level, and a second run finds them so
    let output = site.run(&["sync", "--encryption-key-file", &key, "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let all = [1, 2, 3, 4, 5, 6];
    site.holds(0, &all);
    site.holds(1, &all);
    let output = site.run(&["sync", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(json(&output)["syncs"][0]["clusters"][0]["wal_present"], 6);
    assert_eq!(site.debris(), Vec::<PathBuf>::new());
}

#[test]
fn list_says_how_far_each_is_behind() {
    let site = Site::new(2);
    site.configure(Some(1));
    site.pushed(1);
    site.without(1, || {
        for number in 2..=4 {
            assert!(site.push(number).status.success());
        }
        let output = site.run(&["list", "--json"]);
        assert!(output.status.success(), "{}", said(&output));
        let report = json(&output);
        assert_eq!(report["repositories"].as_array().unwrap().len(), 1);
        let away = report["unreachable"][0]["repository"].as_str().unwrap();
        assert!(away.ends_with("r1"), "{report}");
        assert!(said(&output).contains("gives no answer"));
    });
    let report = json(&site.run(&["list", "--json"]));
    assert_eq!(report["behind"][0]["wal_files"], 0, "{report}");
    assert_eq!(report["behind"][1]["wal_files"], 3, "{report}");
    assert_eq!(report["behind"][1]["first_missing"], name(2), "{report}");
    let text = site.run(&["list"]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("is behind by 3 WAL files"), "{text}");
    assert!(text.contains("has all that the others have"), "{text}");
    assert!(site.run(&["list", "--damaged"]).status.success());
}
