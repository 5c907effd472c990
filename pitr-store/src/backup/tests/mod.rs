//! Base backups written and read on a real store, with real tar archives.

mod catalog;
mod copy;
mod damage;
mod faults;
mod hand;
mod memory;
mod pick;
mod round_trip;
mod transfer;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use pitr_core::{Lsn, PostgresMajor, SystemIdentifier, TimelineId, WalSegmentSize};
use tempfile::TempDir;

use super::*;
use crate::{LocalStore, ObjectKey, Store};

/// A store in a folder of its own, and the catalog of a cluster in it.
struct Scratch {
    folder: TempDir,
    catalog: BackupCatalog,
}

impl Scratch {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        Self::at(folder)
    }

    fn at(folder: TempDir) -> Self {
        let catalog = catalog_in(folder.path());
        Self { folder, catalog }
    }

    fn backups(&self) -> std::path::PathBuf {
        self.folder.path().join("7000000000000000001/backups")
    }

    fn begin(&self, options: BackupOptions) -> BackupWriter {
        self.catalog
            .begin(at("2026-11-20T07:45:02Z"), options)
            .unwrap()
    }
}

fn catalog_in(folder: &Path) -> BackupCatalog {
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(folder));
    let folder = ObjectKey::parse("7000000000000000001/backups").unwrap();
    BackupCatalog::new(store, folder)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect(),
        Err(_) => Vec::new(),
    };
    names.sort();
    names
}

fn at(time: &str) -> DateTime<Utc> {
    time.parse().unwrap()
}

fn path(name: &str) -> MemberPath {
    name.parse().unwrap()
}

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap()
}

fn details() -> BackupDetails {
    BackupDetails {
        postgres_version: "15.8 (Debian 15.8-0+deb12u1)".to_owned(),
        postgres_major: PostgresMajor::from_server_version_num(150_008).unwrap(),
        system_identifier: SystemIdentifier::new(7_000_000_000_000_000_001),
        segment_size: WalSegmentSize::DEFAULT,
        timeline: TimelineId::FIRST,
        start_lsn: lsn("0/4000028"),
        stop_lsn: lsn("0/4000138"),
        checkpoint_lsn: lsn("0/4000060"),
        start_time: at("2026-11-20T07:45:02Z"),
        stop_time: at("2026-11-20T07:46:10.5Z"),
        from: BackupSource::Primary,
        tablespaces: vec![Tablespace {
            oid: 16384,
            location: "/srv/fast".to_owned(),
            size: Some(1_000_000),
        }],
        origin: Origin {
            data_directory: Some("/var/lib/postgresql/15/main".to_owned()),
            ..Origin::default()
        },
        settings: Settings {
            max_connections: Some(100),
            wal_level: Some("replica".to_owned()),
            ..Settings::default()
        },
        manifest_checksums: Some("CRC32C".to_owned()),
    }
}

/// Small parts and frames, so that small trees make many of both.
fn small(part_bytes: u64, frame_bytes: u32) -> BackupOptions {
    BackupOptions {
        part_bytes,
        frame_bytes,
        threads: std::num::NonZeroUsize::new(3),
        ..BackupOptions::default()
    }
}

/// Bytes that differ from one `seed` to the next and compress a little.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes()[..4]);
        bytes.extend_from_slice(b"0000");
    }
    bytes.truncate(length);
    bytes
}

fn write(folder: &Path, name: &str, contents: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, contents).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A data directory in small, with what a real one has of oddities.
fn data_directory(folder: &Path) {
    write(
        folder,
        "backup_label",
        b"START WAL LOCATION: 0/4000028 (file 000000010000000000000004)\n",
    );
    write(folder, "tablespace_map", b"16384 /srv/fast\n");
    write(folder, "PG_VERSION", b"15\n");
    write(folder, "base/1/1259", &noise(300_000, 1));
    write(folder, "base/1/1259_fsm", &noise(24_576, 2));
    write(folder, "base/1/empty", b"");
    for oid in 16400..16440_u32 {
        let length = usize::try_from(oid).unwrap() * 7 % 40_000;
        write(
            folder,
            &format!("base/5/{oid}"),
            &noise(length, u64::from(oid)),
        );
    }
    write(folder, "base/5/16500", &vec![0; 1_000_000]);
    write(folder, "with space/añb", b"x");
    for empty in ["pg_tblspc", "pg_wal/archive_status", "pg_notify"] {
        fs::create_dir_all(folder.join(empty)).unwrap();
        fs::set_permissions(folder.join(empty), fs::Permissions::from_mode(0o700)).unwrap();
    }
    write(folder, "global/1260", &noise(8192, 3));
    write(folder, "global/pg_control", &noise(8192, 4));
}

fn tablespace_directory(folder: &Path) {
    write(folder, "PG_15_202209061/5/20000", &noise(500_000, 5));
    write(folder, "PG_15_202209061/5/20001", &noise(100, 6));
}

/// What the tar command makes of `folder`; `last` comes last, as pg_control does.
fn real_tar(folder: &Path, arguments: &[&str], last: Option<&str>) -> Vec<u8> {
    let mut entries = names(folder);
    let mut command = Command::new("tar");
    command.arg("-C").arg(folder).args(arguments);
    if let Some(last) = last {
        command.arg(format!("--exclude={last}"));
        entries.push(last.to_owned());
        // the exclusion would cover the last one too
        let first = real_tar_of(command.arg("-cf-").args(&entries[..entries.len() - 1]));
        let mut command = Command::new("tar");
        let last = real_tar_of(
            command
                .arg("-C")
                .arg(folder)
                .args(arguments)
                .args(["-cf-", last]),
        );
        let end = first.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        // whole blocks of the last member, without the end blocks
        let members = members_end(&first).max(end.next_multiple_of(512));
        return [&first[..members], &last].concat();
    }
    real_tar_of(command.arg("-cf-").args(entries))
}

fn real_tar_of(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Where the end blocks of `tar` begin.
fn members_end(tar: &[u8]) -> usize {
    let mut archive = ::tar::Archive::new(tar);
    let mut end = 0;
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        end = entry.raw_file_position() + entry.size().next_multiple_of(512);
    }
    usize::try_from(end).unwrap()
}

/// Files, directories and links below `folder`, with mode and contents.
fn tree(folder: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(folder)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let metadata = path.symlink_metadata().unwrap();
            let mode = metadata.permissions().mode();
            let contents = if metadata.is_dir() {
                pending.push(path);
                Vec::new()
            } else if metadata.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(name, (mode, contents));
        }
    }
    found
}

/// A backup of [`data_directory`] and [`tablespace_directory`].
struct Sample {
    scratch: Scratch,
    data: TempDir,
    tablespace: TempDir,
    info: BackupInfo,
}

impl Sample {
    fn new(options: BackupOptions) -> Self {
        let scratch = Scratch::new();
        let data = TempDir::new().unwrap();
        data_directory(data.path());
        let tablespace = TempDir::new().unwrap();
        tablespace_directory(tablespace.path());
        let mut writer = scratch.begin(options);
        let tar = real_tar(tablespace.path(), &["--format=ustar"], None);
        writer
            .add_tar(Archive::Tablespace(16384), tar.as_slice())
            .unwrap();
        let tar = real_tar(data.path(), &["--format=ustar"], Some("global/pg_control"));
        writer.add_tar(Archive::Base, tar.as_slice()).unwrap();
        writer
            .put_manifest(&b"{ \"PostgreSQL-Backup-Manifest-Version\": 1 }\n"[..])
            .unwrap();
        let info = writer.commit(details()).unwrap();
        Self {
            scratch,
            data,
            tablespace,
            info,
        }
    }

    fn reader(&self) -> BackupReader {
        self.scratch.catalog.open(self.info.label).unwrap().unwrap()
    }

    fn folder(&self) -> std::path::PathBuf {
        self.scratch.backups().join(self.info.label.to_string())
    }

    /// What the backup should give back, by path in the manifest.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for (folder, prefix) in [(&self.data, ""), (&self.tablespace, "pg_tblspc/16384/")] {
            for (name, (mode, contents)) in tree(folder.path()) {
                if mode & 0o170_000 == 0o100_000 {
                    files.insert(format!("{prefix}{name}"), contents);
                }
            }
        }
        files
    }
}

fn read_all(mut data: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).unwrap();
    bytes
}
