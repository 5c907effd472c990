//! A repository and real segments for the tests of the archiver.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses another part of the scene"
)]

pub mod backlog;
pub mod small_disk;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use pitr_testbed::{Cluster, PostgresInstall};

/// A repository in a temporary folder, used by whoever runs the tests.
pub struct Repo {
    folder: tempfile::TempDir,
}

impl Repo {
    /// Made by `pitr-archive init`.
    pub fn init() -> Self {
        let repo = Self::nowhere();
        let output = repo.command().arg("init").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        repo
    }

    /// A folder in which nobody has made a repository.
    pub fn nowhere() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    pub fn trace(&self) -> PathBuf {
        self.folder.path().join("strace")
    }

    /// `pitr-archive` with this repository and nothing in its environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pitr-archive"));
        command
            .env_clear()
            .env("PITR_REPO", self.path())
            .current_dir("/");
        command
    }

    pub fn push_command(&self, path: &Path, name: &str) -> Command {
        let mut command = self.command();
        command.arg(path).arg(name);
        command
    }

    pub fn push(&self, path: &Path, name: &str) -> Output {
        self.push_command(path, name).output().unwrap()
    }

    /// What a reader of the repository gets under `name`, by the stock
    /// decoders; `None` where there is no object.
    pub fn stored(&self, name: &str) -> Option<Vec<u8>> {
        let mut found = self.files();
        found.retain(|file| {
            let file = file.rsplit('/').next().unwrap();
            [name.to_owned(), format!("{name}.zst"), format!("{name}.xz")]
                .contains(&file.to_owned())
        });
        assert!(found.len() <= 1, "more than one object: {found:?}");
        let file = self.path().join(found.first()?);
        let bytes = std::fs::read(&file).unwrap();
        Some(match file.extension().and_then(|e| e.to_str()) {
            Some("zst") => zstd::decode_all(&bytes[..]).expect("a whole zstd object"),
            Some("xz") => {
                let mut plain = Vec::new();
                xz2::read::XzDecoder::new(&bytes[..])
                    .read_to_end(&mut plain)
                    .expect("a whole xz object");
                plain
            }
            _ => bytes,
        })
    }

    /// Every file below the repository, relative to it.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        walk(&self.path(), &self.path(), &mut files);
        files.sort();
        files
    }

    /// Files that belong to no object.
    pub fn debris(&self) -> Vec<String> {
        let mut files = self.files();
        files.retain(|file| file.split('/').any(|part| part.starts_with('.')));
        files
    }
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, files);
        } else {
            files.push(path.strip_prefix(root).unwrap().display().to_string());
        }
    }
}

/// A segment that a real server wrote, in a folder like a data directory's.
pub struct Segment {
    folder: tempfile::TempDir,
    name: String,
    path: PathBuf,
}

impl Segment {
    /// A full segment of 1 MiB, with the `pg_control` of its cluster beside it.
    pub fn real() -> Self {
        static MADE: OnceLock<Real> = OnceLock::new();
        Self::of(MADE.get_or_init(|| make(1 << 20)))
    }

    /// The same of a cluster of its own.
    pub fn real_of_another_cluster() -> Self {
        static MADE: OnceLock<Real> = OnceLock::new();
        Self::of(MADE.get_or_init(|| make(1 << 20)))
    }

    /// A full segment of the usual size.
    pub fn real_of_16_mib() -> Self {
        static MADE: OnceLock<Real> = OnceLock::new();
        Self::of(MADE.get_or_init(|| make(16 << 20)))
    }

    fn of((name, bytes, control): &Real) -> Self {
        let segment = Self::made_of(name, bytes);
        std::fs::write(segment.folder.path().join("global/pg_control"), control).unwrap();
        segment
    }

    /// Any bytes under any name, without a `pg_control`.
    pub fn made_of(name: &str, bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pg_wal")).unwrap();
        std::fs::create_dir(folder.path().join("global")).unwrap();
        let path = folder.path().join("pg_wal").join(name);
        std::fs::write(&path, bytes).unwrap();
        Self {
            folder,
            name: name.to_owned(),
            path,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn data_directory(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }
}

/// Name, content, and the cluster's `pg_control`.
type Real = (String, Vec<u8>, Vec<u8>);

fn make(segment_bytes: u64) -> Real {
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install)
        .segment_size(segment_bytes)
        .setting("wal_keep_size", "256MB")
        .create()
        .unwrap();
    cluster.start().unwrap();
    // fills two segments of either size
    let rows = segment_bytes / 40;
    let _ = cluster.sql(&format!(
        "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, {rows}) i"
    ));
    let name = cluster.sql(&format!(
        "SELECT pg_walfile_name(pg_current_wal_lsn() - {segment_bytes})"
    ));
    let bytes = std::fs::read(cluster.data_dir().join("pg_wal").join(&name)).unwrap();
    let control = std::fs::read(cluster.data_dir().join("global/pg_control")).unwrap();
    assert_eq!(bytes.len() as u64, segment_bytes);
    (name, bytes, control)
}
