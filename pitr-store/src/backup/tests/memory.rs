//! Memory does not grow with the backup.

use super::*;

const RAW_BYTES: u64 = 1 << 30;

/// A tar archive of about [`RAW_BYTES`], made while it is read: files of
/// 64 MiB, then what every backup needs.
fn long_tar() -> impl Read {
    let block: Arc<[u8]> = noise(1 << 20, 9).into();
    let member = |name: String, size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        std::io::Cursor::new(header.as_bytes().to_vec())
    };
    let mut tar: Box<dyn Read> = Box::new(std::io::empty());
    for file in 0..RAW_BYTES >> 26 {
        tar = Box::new(tar.chain(member(format!("base/5/{file}"), 64 << 20)));
        for _ in 0..64 {
            tar = Box::new(tar.chain(std::io::Cursor::new(Arc::clone(&block))));
        }
    }
    for name in ["backup_label", "global/pg_control"] {
        tar = Box::new(tar.chain(member(name.to_owned(), 0)));
    }
    tar
}

/// Peak resident memory of this process, in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child_writes_and_reads_a_gibibyte() {
    let Some(folder) = std::env::var_os("PITR_TEST_FOLDER") else {
        return;
    };
    let before = peak_memory();
    let catalog = catalog_in(Path::new(&folder));
    let options = BackupOptions {
        threads: std::num::NonZeroUsize::new(2),
        ..BackupOptions::default()
    };
    let mut writer = catalog.begin(at("2026-11-20T07:45:02Z"), options).unwrap();
    writer.add_tar(Archive::Base, long_tar()).unwrap();
    let info = writer.commit(details()).unwrap();
    assert!(info.sizes.raw_bytes > RAW_BYTES);
    assert!(info.parts.len() > 4);
    let written = peak_memory();
    let reader = catalog.open(info.label).unwrap().unwrap();
    // as many at once as a restore with four threads reads
    std::thread::scope(|scope| {
        for first in 0..4 {
            let parts = info.parts.iter().skip(first).step_by(4);
            let reader = &reader;
            scope.spawn(move || {
                for part in parts {
                    reader.verify_part(&part.name).unwrap();
                }
            });
        }
    });
    println!("before={before} written={written} read={}", peak_memory());
}

#[test]
fn a_gibibyte_passes_in_a_bounded_memory() {
    let folder = TempDir::new().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "backup::tests::memory::child_writes_and_reads_a_gibibyte",
            "--ignored",
            "--nocapture",
        ])
        .env("PITR_TEST_FOLDER", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let peak = |name: &str| -> u64 {
        let (_, rest) = text.split_once(name).unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (before, written, read) = (peak("before="), peak("written="), peak("read="));
    // four frames of 4 MiB, raw and compressed, 64 MiB that wait for a slow
    // disk, two compressors, and what the allocator keeps
    assert!(
        written - before < 144 << 20,
        "{} bytes to write",
        written - before
    );
    // four parts at once, each with a window of 4 MiB and what decoding needs
    assert!(
        read - written < 64 << 20,
        "{} bytes more to read",
        read - written
    );
}
