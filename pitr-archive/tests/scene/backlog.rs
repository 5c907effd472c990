//! Segments that a real server has ready, in a folder like its data directory.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses another part of the scene"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use pitr_testbed::{Cluster, PostgresInstall};

use super::Repo;

/// Segments in order, and the `pg_control` of their cluster.
struct Real {
    segments: Vec<(String, Vec<u8>)>,
    control: Vec<u8>,
}

/// A data directory whose segments are all ready, and nothing is archived of.
pub struct Backlog {
    folder: tempfile::TempDir,
    names: Vec<String>,
}

impl Backlog {
    /// The first `count` (up to 10) segments of 1 MiB of a cluster.
    pub fn of(count: usize) -> Self {
        static MADE: OnceLock<Real> = OnceLock::new();
        Self::lay_out(MADE.get_or_init(|| make(1 << 20, 10)), count)
    }

    /// The same of the usual size, up to 5.
    pub fn of_16_mib(count: usize) -> Self {
        static MADE: OnceLock<Real> = OnceLock::new();
        Self::lay_out(MADE.get_or_init(|| make(16 << 20, 5)), count)
    }

    fn lay_out(real: &Real, count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for below in ["global", "pg_wal", "pg_wal/archive_status"] {
            fs::create_dir(folder.path().join(below)).unwrap();
        }
        fs::write(folder.path().join("global/pg_control"), &real.control).unwrap();
        let mut backlog = Self {
            folder,
            names: Vec::new(),
        };
        for (name, bytes) in &real.segments[..count] {
            backlog.add(name, bytes);
        }
        backlog
    }

    /// One more file that is ready.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
        self.mark(name, "ready");
        self.names.push(name.to_owned());
    }

    pub fn mark(&self, name: &str, mark: &str) {
        fs::write(self.status(name, mark), "").unwrap();
    }

    pub fn status(&self, name: &str, mark: &str) -> PathBuf {
        let folder = self.folder.path().join("pg_wal/archive_status");
        folder.join(format!("{name}.{mark}"))
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn data_directory(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("pg_wal").join(name)
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Where the command keeps what it knows: outside of the data directory.
    pub fn state(&self, repo: &Repo) -> PathBuf {
        repo.path().parent().unwrap().join("state")
    }

    /// As the server calls it: in the data directory, with a relative path.
    pub fn command(&self, repo: &Repo, name: &str) -> Command {
        let relative = format!("pg_wal/{name}");
        let mut command = repo.push_command(Path::new(&relative), name);
        command
            .current_dir(self.data_directory())
            // a slow machine is not what is tested
            .args(["--look-ahead-seconds", "600"])
            .arg("--state")
            .arg(self.state(repo));
        command
    }

    pub fn push(&self, repo: &Repo, name: &str) -> Output {
        self.command(repo, name).output().unwrap()
    }

    /// What the server does after 0.
    pub fn done(&self, name: &str) {
        fs::rename(self.status(name, "ready"), self.status(name, "done")).unwrap();
    }

    /// Pushes in the server's order all that is ready; every call must succeed. Gives
    /// back what the calls have said.
    pub fn archive_all(&self, repo: &Repo) -> String {
        let mut said = String::new();
        for name in &self.names {
            if !self.status(name, "ready").exists() {
                continue;
            }
            let output = self.push(repo, name);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{name}: {text}");
            self.done(name);
            said += &text;
        }
        said
    }

    /// Whether all that is stored of it is whole, and nothing is stored behind a hole.
    pub fn check_stored(&self, repo: &Repo, what: &str) {
        let mut hole = None;
        for name in &self.names {
            match repo.stored(name) {
                Some(stored) => {
                    assert!(stored == self.bytes(name), "{what}: {name} differs");
                    assert_eq!(hole, None, "{what}: {name} is stored behind a hole");
                }
                None => hole = hole.or(Some(name)),
            }
        }
    }
}

fn make(segment_bytes: u64, count: usize) -> Real {
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install)
        .segment_size(segment_bytes)
        .setting("archive_mode", "on")
        // nothing is archived, and what is ready stays
        .setting("archive_command", "")
        .create()
        .unwrap();
    cluster.start().unwrap();
    let _ = cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 3000) i");
    let status = cluster.data_dir().join("pg_wal/archive_status");
    let ready = || {
        let entries = fs::read_dir(&status).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names
            .filter_map(|name| name.strip_suffix(".ready").map(str::to_owned))
            .collect();
        names.sort();
        names
    };
    while ready().len() < count {
        let _ = cluster.sql("UPDATE t SET md5 = md5(md5)");
        let _ = cluster.sql("SELECT pg_switch_wal()");
    }
    let segments = ready().into_iter().take(count).map(|name| {
        let bytes = fs::read(cluster.data_dir().join("pg_wal").join(&name)).unwrap();
        (name, bytes)
    });
    let segments = segments.collect();
    let control = fs::read(cluster.data_dir().join("global/pg_control")).unwrap();
    Real { segments, control }
}
