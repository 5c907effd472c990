//! Memory of a push and a fetch is bounded, whatever the size of the segment.

#![allow(
    clippy::unwrap_used,
    reason = "what the tests share is not seen as test code"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use pitr_core::{WalFileName, WalSegmentSize};
use pitr_store::made_wal::{made_cluster, made_segment};
use pitr_store::{ClusterIdentity, LocalStore, Repository, Store, WalFile};

const TASK: &str = "PITR_STORE_TEST_TASK";
const SEGMENT: &str = "000000010000000100000001";

/// Pushes and fetches one segment, and prints the most memory that it ever had.
#[test]
fn child_process() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let words: Vec<_> = task.split('\n').collect();
    let [place, mebibytes, codec] = words[..] else {
        panic!("no such task: {words:?}");
    };
    let place = Path::new(place);
    let segment_size = WalSegmentSize::new(mebibytes.parse::<u64>().unwrap() << 20).unwrap();
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(place.join("repo")));
    let cluster = Repository::init(store)
        .unwrap()
        .into_repository()
        .claim(&ClusterIdentity {
            segment_size,
            ..made_cluster()
        })
        .unwrap();
    let name: WalFileName = SEGMENT.parse().unwrap();
    let mut source = WalFile::open(place.join(SEGMENT)).unwrap();
    cluster
        .wal()
        .push(&name, &mut source, codec.parse().unwrap())
        .unwrap();
    // Once more: that compares.
    cluster
        .wal()
        .push(&name, &mut source, codec.parse().unwrap())
        .unwrap();
    let fetched = cluster.wal().fetch_to(&name, &mut std::io::sink()).unwrap();
    assert_eq!(fetched.content_bytes, segment_size.bytes());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    println!("{line}");
}

/// A segment with something in every mebibyte, the rest of the file a hole.
fn make_segment(path: &Path, mebibytes: u64) {
    let size = WalSegmentSize::new(mebibytes << 20).unwrap();
    let name: WalFileName = SEGMENT.parse().unwrap();
    let mut content = made_segment("000000010000000000000001", 1);
    content[8..16].copy_from_slice(
        &name
            .segment()
            .unwrap()
            .start(size)
            .unwrap()
            .get()
            .to_le_bytes(),
    );
    content[32..36].copy_from_slice(&u32::try_from(size.bytes()).unwrap().to_le_bytes());
    let file = File::create(path).unwrap();
    file.set_len(size.bytes()).unwrap();
    for n in 0..mebibytes {
        file.write_all_at(&content[..100_000], n << 20).unwrap();
    }
}

fn peak_mebibytes(mebibytes: u64, codec: &str) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    make_segment(&dir.path().join(SEGMENT), mebibytes);
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(
            TASK,
            format!("{}\n{mebibytes}\n{codec}", dir.path().display()),
        )
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let (_, peak) = text.split_once("VmHWM:").unwrap();
    let kibibytes: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    kibibytes / 1024
}

#[test]
fn a_segment_of_16_mib_takes_less_than_64_mib() {
    for codec in ["zstd:1", "xz:1", "none"] {
        let peak = peak_mebibytes(16, codec);
        println!("{codec}: {peak} MiB");
        assert!(peak < 64, "{codec}: {peak} MiB");
    }
}

#[test]
fn a_segment_of_1_gib_takes_less_than_256_mib() {
    for codec in ["zstd:1", "none"] {
        let peak = peak_mebibytes(1024, codec);
        println!("{codec}: {peak} MiB");
        assert!(peak < 256, "{codec}: {peak} MiB");
    }
}
