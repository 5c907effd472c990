//! docs/store-format.md is true: its examples are what the code writes and
//! reads, and its script restores without pitr.

#![allow(
    clippy::unwrap_used,
    reason = "what the tests share is not seen as test code"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use pitr_core::SystemIdentifier;
use pitr_store::made_wal::{SYSTEM_IDENTIFIER, made_cluster, made_segment};
use pitr_store::{
    Cluster, ClusterIdentity, Codec, LocalStore, Pushed, Repository, Store, WalBytes,
};

const SEGMENT: &str = "000000010000000000000004";

fn specification() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/store-format.md");
    fs::read_to_string(path).unwrap()
}

/// The first block of this language below the heading.
fn block(text: &str, heading: &str, language: &str) -> String {
    let (_, below) = text.split_once(&format!("\n{heading}\n")).unwrap();
    let (_, block) = below.split_once(&format!("```{language}\n")).unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block.to_owned()
}

fn repository(path: &Path) -> Repository {
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(path));
    Repository::init(store).unwrap().into_repository()
}

fn push(cluster: &Cluster, name: &str, bytes: Vec<u8>, codec: Codec) -> PathBuf {
    let pushed = cluster
        .wal()
        .push(
            &name.parse().unwrap(),
            &mut WalBytes::new(bytes, "test"),
            codec,
        )
        .unwrap();
    assert!(matches!(pushed, Pushed::Stored { .. }));
    pushed.object().location.clone().into()
}

#[test]
fn the_documents_look_as_specified() {
    let text = specification();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("repo");
    repository(&root)
        .claim(&ClusterIdentity {
            segment_size: pitr_core::WalSegmentSize::DEFAULT,
            ..made_cluster()
        })
        .unwrap();
    for (heading, path) in [
        ("### `pitr.json`", "pitr.json".to_owned()),
        ("### `claim.json`", "claim.json".to_owned()),
        (
            "### `<system identifier>/cluster.json`",
            format!("{SYSTEM_IDENTIFIER}/cluster.json"),
        ),
    ] {
        let specified = block(&text, heading, "json");
        let written = fs::read_to_string(root.join(&path)).unwrap();
        // The same bytes, but for the times.
        let without_times = |text: &str| {
            text.lines()
                .filter(|line| !line.contains("created") && !line.contains("first_seen"))
                .map(|line| format!("{line}\n"))
                .collect::<String>()
        };
        assert_eq!(without_times(&written), without_times(&specified), "{path}");
        assert_eq!(written.lines().count(), specified.lines().count());
        // And the specified ones are read.
        fs::write(root.join(&path), specified).unwrap();
    }
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(&root));
    let opened = Repository::open(store).unwrap();
    let known = opened
        .cluster(SystemIdentifier::new(SYSTEM_IDENTIFIER))
        .unwrap();
    assert_eq!(known.unwrap().document().first_seen, "2026-11-20T07:45:03Z");
}

#[test]
fn a_segment_object_begins_as_specified() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = repository(&dir.path().join("repo"))
        .claim(&made_cluster())
        .unwrap();
    let path = push(
        &cluster,
        SEGMENT,
        made_segment(SEGMENT, 1),
        Codec::default(),
    );
    let stored = fs::read(path).unwrap();
    // As specified for 16 MiB, but for the size.
    assert_eq!(stored[..6], [0x28, 0xb5, 0x2f, 0xfd, 0x84, 0x40]);
    assert_eq!(stored[6..10], 1_048_576_u32.to_le_bytes());
}

#[test]
fn the_script_restores_without_pitr() {
    for tool in ["zstd", "xz"] {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("skipped: stock {tool} is not installed");
            return;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("fetch-wal");
    fs::write(
        &script,
        block(&specification(), "## Reading WAL by hand", "sh"),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let root = dir.path().join("repo");
    let cluster = repository(&root).claim(&made_cluster()).unwrap();
    let wal = root.join(format!("{SYSTEM_IDENTIFIER}/wal"));
    let target = dir.path().join("RECOVERYXLOG");
    let fetch = |wal: &Path, file: &str| {
        let status = Command::new(&script)
            .args([wal, Path::new(file), &target])
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        status.code().unwrap()
    };

    let mut last = PathBuf::new();
    for (file, codec) in [
        ("000000010000000000000004", Codec::default()),
        ("000000010000000000000005", Codec::Xz { level: 0 }),
        ("000000010000000000000006", Codec::None),
        ("000000020000000100000007", Codec::default()),
    ] {
        let content = made_segment(file, 3);
        last = push(&cluster, file, content.clone(), codec);
        assert_eq!(fetch(&wal, file), 0, "{file}");
        assert_eq!(fs::read(&target).unwrap(), content, "{file}");
    }
    let history = b"1\t0/400028\tno recovery target specified\n";
    push(&cluster, "00000002.history", history.to_vec(), Codec::None);
    assert_eq!(fetch(&wal, "00000002.history"), 0);
    assert_eq!(fs::read(&target).unwrap(), history);

    assert_eq!(fetch(&wal, "000000010000000000000009"), 1);
    assert_eq!(fetch(&wal, "00000003.history"), 1);
    assert_eq!(
        fetch(&dir.path().join("unmounted"), "00000003.history"),
        200
    );
    let mut damaged = fs::read(&last).unwrap();
    damaged[200_000] ^= 1;
    fs::write(&last, damaged).unwrap();
    assert_eq!(fetch(&wal, "000000020000000100000007"), 200);
}
