//! A real server that archives with `pitr-archive`, and what is restored of it.
#![allow(dead_code, reason = "each test program uses another part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use pitr_testbed::{
    Cluster, ClusterBuilder, PostgresInstall, TestDir, as_server_user, chown_to_server_user,
    program,
};

const LIMIT: Duration = Duration::from_secs(60);

/// The server, its repository, and a folder for the restored copies.
pub(crate) struct Original {
    pub(crate) cluster: Cluster,
    pub(crate) repository: PathBuf,
    pub(crate) places: TestDir,
    archive: PathBuf,
    pub(crate) restore: PathBuf,
}

impl Original {
    /// Starts a server with segments of 1 MiB that archives at once.
    pub(crate) fn start() -> Self {
        Self::start_with(|builder| builder)
    }

    pub(crate) fn start_with(more: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Self {
        Self::start_on(&PostgresInstall::any().unwrap(), more)
    }

    pub(crate) fn start_on(
        install: &PostgresInstall,
        more: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Self {
        Self::start_in(TestDir::new().unwrap(), &[], install, more)
    }

    /// The same in a folder that is there already, with a repository made by
    /// `pitr-archive init` and these words.
    pub(crate) fn start_in(
        places: TestDir,
        init_words: &[&str],
        install: &PostgresInstall,
        more: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Self {
        let repository = places.join("repository");
        let archive = places.reachable(program("pitr-archive").unwrap()).unwrap();
        let restore = places
            .reachable(env!("CARGO_BIN_EXE_pitr-restore"))
            .unwrap();
        let mut init = Command::new(&archive);
        init.env_clear()
            .arg("--repo")
            .arg(&repository)
            .arg("init")
            .args(init_words);
        succeeded(&run(init));
        let command = format!(
            "{} --repo {} %p %f",
            archive.display(),
            repository.display()
        );
        let builder = Cluster::builder(install)
            .segment_size(1 << 20)
            .setting("archive_mode", "on")
            .setting("archive_command", command)
            .setting("max_wal_size", "4MB")
            .setting("min_wal_size", "2MB");
        let mut cluster = more(builder).create().unwrap();
        cluster.start().unwrap();
        cluster.execute("CREATE TABLE t (v text)");
        Self {
            cluster,
            repository,
            places,
            archive,
            restore,
        }
    }

    /// Takes a base backup of `cluster`; returns its label.
    pub(crate) fn backup_of(&self, cluster: &Cluster) -> String {
        self.archive_verb(&["backup", "--dbname", &cluster.conninfo()]);
        self.newest_backup()
    }

    /// `pitr-archive`, where the server's user can run it.
    pub(crate) fn archive_program(&self) -> &Path {
        &self.archive
    }

    /// `pitr-archive VERB` as the server's user.
    pub(crate) fn archive_verb(&self, words: &[&str]) {
        let mut command = Command::new(&self.archive);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .arg("--repo")
            .arg(&self.repository)
            .args(words);
        succeeded(&run(command));
    }

    /// Label of the newest backup.
    pub(crate) fn newest_backup(&self) -> String {
        names(&self.cluster_folder().join("backups")).pop().unwrap()
    }

    /// Takes a base backup; returns its label.
    pub(crate) fn backup(&self) -> String {
        self.backup_of(&self.cluster)
    }

    /// `<repository>/<system identifier>`.
    pub(crate) fn cluster_folder(&self) -> PathBuf {
        let name = names(&self.repository)
            .into_iter()
            .find(|name| name.parse::<u64>().is_ok())
            .unwrap();
        self.repository.join(name)
    }

    /// The object of a segment.
    pub(crate) fn object(&self, segment: &str) -> PathBuf {
        let (timeline, log) = (&segment[..8], &segment[8..16]);
        self.cluster_folder()
            .join("wal")
            .join(timeline)
            .join(log)
            .join(format!("{segment}.zst"))
    }

    /// Commits a row; returns the time after it.
    pub(crate) fn insert(&self, value: &str) -> String {
        insert(&self.cluster, value)
    }

    /// Makes the server archive everything that it has written.
    pub(crate) fn archive_all(&self) -> String {
        archive_all(&self.cluster)
    }

    /// A place that nothing was restored to yet.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.places.join(name)
    }

    /// `pitr-restore --to` as the server's user.
    pub(crate) fn restore(&self, to: &Path, arguments: &[&str]) -> Output {
        run(self.restore_command(to, arguments))
    }

    pub(crate) fn restore_command(&self, to: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.restore);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .arg("--repo")
            .arg(&self.repository)
            .arg("--to")
            .arg(to)
            .args(arguments);
        command
    }

    /// A verb of `pitr-restore` as the server's user.
    pub(crate) fn restore_verb(&self, words: &[&str]) -> Output {
        let mut command = Command::new(&self.restore);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .arg("--repo")
            .arg(&self.repository)
            .args(words);
        run(command)
    }

    /// Restores and starts a copy.
    pub(crate) fn restored(&self, name: &str, arguments: &[&str]) -> Cluster {
        let to = self.place(name);
        succeeded(&self.restore(&to, arguments));
        let mut cluster = Cluster::adopt(self.cluster.install(), &to).unwrap();
        cluster.start().unwrap();
        cluster
    }

    /// Restores a copy and waits until it has become a primary.
    pub(crate) fn promoted(&self, name: &str, arguments: &[&str]) -> Cluster {
        let cluster = self.restored(name, arguments);
        cluster
            .wait_for_sql("SELECT NOT pg_is_in_recovery()", LIMIT)
            .unwrap();
        cluster
    }
}

/// The values of table `t`, joined with commas.
pub(crate) fn values(cluster: &Cluster) -> String {
    cluster.sql("SELECT string_agg(v, ',' ORDER BY v) FROM t")
}

pub(crate) fn insert(cluster: &Cluster, value: &str) -> String {
    cluster.execute(&format!("INSERT INTO t VALUES ('{value}')"));
    cluster.sql("SELECT clock_timestamp()")
}

pub(crate) fn archive_all(cluster: &Cluster) -> String {
    cluster.archive_all().unwrap()
}

/// Runs a command as the user who runs the servers.
pub(crate) fn run(command: Command) -> Output {
    as_server_user(command).unwrap().output().unwrap()
}

#[track_caller]
pub(crate) fn succeeded(output: &Output) {
    assert!(
        output.status.success(),
        "{}\n{}",
        output.status,
        said(output)
    );
}

/// Refused with exit code 1 and this text, and nothing was made.
#[track_caller]
pub(crate) fn refused(output: &Output, to: &Path, text: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", said(output));
    assert!(said(output).contains(text), "{}", said(output));
    assert!(said(output).contains("ERROR:"), "{}", said(output));
    assert!(!to.exists(), "something was made");
}

/// Both streams.
pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Names in a folder, in order.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Overwrites a stored object, which is there for its owner alone.
pub(crate) fn tamper(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
    chown_to_server_user(path).unwrap();
}
