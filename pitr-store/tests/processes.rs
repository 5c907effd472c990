//! Archivers as processes of their own: racing each other, under a strange
//! umask, as another user, and on a full disk.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "what the tests share is not seen as test code"
)]

mod child;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use child::{ABSENT, DONE, FAILED, SEGMENT};
use pitr_core::WalFileName;
use pitr_store::made_wal::made_segment;
use pitr_store::{
    Codec, Operation, PushError, Pushed, SpaceLimit, StoreError, WalArchive, WalBytes,
};

/// User and group that own nothing.
const NOBODY: u32 = 65_534;

#[test]
fn child_process() {
    child::run();
}

fn fetched(wal: &WalArchive) -> Vec<u8> {
    let mut content = Vec::new();
    wal.fetch_to(&name(), &mut content).unwrap();
    content
}

fn name() -> WalFileName {
    SEGMENT.parse().unwrap()
}

fn push(wal: &WalArchive, content: Vec<u8>, codec: Codec) -> Result<Pushed, PushError> {
    wal.push(&name(), &mut WalBytes::new(content, "pg_wal/test"), codec)
}

/// Everything below `folder`, hidden names included.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

const CODECS: [&str; 3] = ["zstd:1", "xz:0", "none"];

#[test]
fn processes_that_push_the_same_bytes_all_succeed() {
    for round in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("repo");
        child::init(&repository);
        let archivers: Vec<_> = (0..4)
            .map(|n| {
                child::push(&[], &repository, round, CODECS[n % 3])
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for archiver in archivers {
            let output = archiver.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(DONE), "{}", child::text(&output));
        }
        let wal = child::wal(&repository);
        assert_eq!(fetched(&wal), made_segment(SEGMENT, round));
        let stored = files(&repository.join(format!("{}/wal", wal.cluster().system_identifier)));
        assert_eq!(
            stored.iter().filter(|p| p.is_file()).count(),
            1,
            "{stored:?}"
        );
    }
}

#[test]
fn of_processes_that_push_other_bytes_exactly_one_succeeds() {
    for round in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("repo");
        child::init(&repository);
        let archivers: Vec<_> = (0..4_u64)
            .zip(["zstd:1", "xz:0", "none", "zstd:1"])
            .map(|(n, codec)| {
                child::push(&[], &repository, round * 4 + n, codec)
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let codes: Vec<_> = archivers
            .into_iter()
            .map(|mut archiver| archiver.wait().unwrap().code())
            .collect();
        let winners: Vec<_> = (0..4_u64)
            .zip(&codes)
            .filter(|(_, code)| **code == Some(DONE))
            .map(|(n, _)| n)
            .collect();
        assert_eq!(winners.len(), 1, "{codes:?}");
        let content = made_segment(SEGMENT, round * 4 + winners[0]);
        assert_eq!(fetched(&child::wal(&repository)), content);
    }
}

#[test]
fn the_umask_neither_opens_nor_closes_a_repository() {
    for umask in ["0000", "0022", "0777"] {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("repo");
        child::init(&repository);
        let prefix = ["sh", "-c", "umask \"$0\"; exec \"$@\"", umask].map(str::to_owned);
        let output = child::push(&prefix, &repository, 1, "zstd:1")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(DONE), "{}", child::text(&output));
        for path in files(&repository) {
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            let expected = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode, expected, "umask {umask}: {}", path.display());
        }
    }
}

/// The prefix that runs a child as an ordinary user. `None`, with a line, where
/// that cannot be.
fn ordinary_user(repository: &Path) -> Option<Vec<String>> {
    if !is_root() {
        return Some(Vec::new());
    }
    for path in files(repository)
        .iter()
        .map(PathBuf::as_path)
        .chain([repository])
    {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let parent = repository.parent().unwrap();
    fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).unwrap();
    let prefix: Vec<_> = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ]
    .map(str::to_owned)
    .to_vec();
    let reaches = Command::new(&prefix[0])
        .args(&prefix[1..])
        .arg(std::env::current_exe().unwrap())
        .arg("--list")
        .output()
        .is_ok_and(|output| output.status.success());
    if !reaches {
        println!("skipped: as root, and no way to run this program as another user");
        return None;
    }
    Some(prefix)
}

#[test]
fn a_store_without_permission_is_named_and_makes_nothing_absent() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repo");
    child::init(&repository);
    let pushed = push(
        &child::wal(&repository),
        made_segment(SEGMENT, 1),
        Codec::default(),
    );
    let stored = PathBuf::from(&pushed.unwrap().object().location);
    let Some(prefix) = ordinary_user(&repository) else {
        return;
    };
    let target = dir.path().join("fetched");
    let folder = stored.parent().unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };

    // Unreadable objects, unreadable folders, an unreadable root.
    for (path, kept) in [
        (stored.as_path(), 0o600),
        (folder, 0o700),
        (&repository, 0o700),
    ] {
        mode(path, 0);
        for output in [
            child::fetch(&prefix, &repository, &target)
                .output()
                .unwrap(),
            child::push(&prefix, &repository, 1, "zstd:1")
                .output()
                .unwrap(),
        ] {
            let text = child::text(&output);
            assert_eq!(
                output.status.code(),
                Some(FAILED),
                "{}: {text}",
                path.display()
            );
            assert!(text.contains("permission denied"), "{text}");
            assert!(text.contains(repository.to_str().unwrap()), "{text}");
        }
        mode(path, kept);
    }
    assert!(!target.exists());

    // A folder that cannot be written.
    fs::remove_file(&stored).unwrap();
    let before = files(&repository);
    mode(folder, 0o500);
    let output = child::push(&prefix, &repository, 1, "zstd:1")
        .output()
        .unwrap();
    let text = child::text(&output);
    assert_eq!(output.status.code(), Some(FAILED), "{text}");
    assert!(
        text.contains("permission denied") && text.contains("must own"),
        "{text}"
    );
    assert_eq!(files(&repository), before);
    let output = child::fetch(&prefix, &repository, &target)
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(ABSENT),
        "{}",
        child::text(&output)
    );
    mode(folder, 0o700);
}

#[test]
fn debris_of_another_user_does_not_stop_the_archiver() {
    if !is_root() {
        println!("skipped: only root can leave another user's file");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repo");
    child::init(&repository);
    let pushed = push(
        &child::wal(&repository),
        made_segment(SEGMENT, 1),
        Codec::default(),
    );
    let stored = PathBuf::from(&pushed.unwrap().object().location);
    let Some(prefix) = ordinary_user(&repository) else {
        return;
    };
    fs::remove_file(&stored).unwrap();
    let debris = stored.with_file_name(format!(".{SEGMENT}.zst.tmp"));
    fs::write(&debris, "torn").unwrap();
    fs::set_permissions(&debris, fs::Permissions::from_mode(0o600)).unwrap();
    let output = child::push(&prefix, &repository, 1, "zstd:1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(DONE), "{}", child::text(&output));
    assert_eq!(fs::metadata(&stored).unwrap().uid(), NOBODY);
}

/// A small file system of its own; gone with the value.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, with a line, where nothing can be mounted.
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "pitr-test"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: no tmpfs can be mounted here (needs root)");
            return None;
        }
        Some(Self { dir })
    }

    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.dir.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_in_bytes_and_leaves_no_debris() {
    let Some(disk) = SmallDisk::mount("size=300k") else {
        return;
    };
    let repository = disk.dir.path().join("repo");
    child::init(&repository);
    let wal = child::wal(&repository);
    let mut before = files(&repository);
    for (codec, stored_bytes) in [
        (Codec::default(), 350_000..400_000),
        (Codec::Xz { level: 0 }, 350_000..400_000),
        (Codec::None, 1_048_576..1_048_577),
    ] {
        let error = push(&wal, made_segment(SEGMENT, 1), codec).unwrap_err();
        let PushError::Store(StoreError::NoSpace {
            operation: Operation::Write,
            location,
            limit: SpaceLimit::Disk,
            needed_bytes: Some(needed),
            available_bytes: Some(available),
        }) = &error
        else {
            panic!("{codec}: {error:?}")
        };
        assert!(location.contains(SEGMENT), "{location}");
        assert!(stored_bytes.contains(needed), "{codec}: {needed}");
        assert_eq!(*available, disk.free_bytes(), "{codec}");
        assert!(
            error
                .to_string()
                .contains(&format!("{} missing", needed - available)),
            "{error}"
        );
        // The folders of the segment stay, and nothing else.
        before.extend(files(&repository).into_iter().filter(|p| p.is_dir()));
        before.sort();
        before.dedup();
        assert_eq!(files(&repository), before, "{codec}");
    }
    // Room enough once the segment compresses.
    let mut small = made_segment(SEGMENT, 1);
    small[40..].fill(7);
    push(&wal, small, Codec::default()).unwrap();
}

#[test]
fn a_disk_without_inodes_is_told_from_a_full_one() {
    // The root, the repository, pitr.json, claim.json, cluster.json and its folder.
    let Some(disk) = SmallDisk::mount("size=10m,nr_inodes=10") else {
        return;
    };
    let repository = disk.dir.path().join("repo");
    child::init(&repository);
    let wal = child::wal(&repository);
    let used = files(disk.dir.path()).len() + 1;
    for n in used..10 {
        fs::write(disk.dir.path().join(format!("filler-{n}")), "").unwrap();
    }
    let error = push(&wal, made_segment(SEGMENT, 1), Codec::default()).unwrap_err();
    assert!(error.to_string().contains("no inodes left"), "{error}");
}
