//! A server, a repository and a receiver between them.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses another part of it"
)]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pitr_testbed::{Cluster, ClusterBuilder, PostgresInstall, Site};

pub const LIMIT: Duration = Duration::from_secs(90);

pub struct Scene {
    pub site: Site,
    pub cluster: Cluster,
    pub spool: PathBuf,
}

impl Scene {
    /// A running server with segments of 1 MiB that archives into the site's repository.
    pub fn of(
        site: Site,
        install: &PostgresInstall,
        with: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Self {
        Self::of_size(site, install, 1 << 20, with)
    }

    /// The same with segments of so many bytes.
    pub fn of_size(
        site: Site,
        install: &PostgresInstall,
        segment_size: u64,
        with: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Self {
        let builder = Cluster::builder(install).segment_size(segment_size);
        let mut cluster = with(site.archiving(builder)).create().unwrap();
        cluster.start().unwrap();
        let spool = site.dir().folder("spool").unwrap();
        Self {
            site,
            cluster,
            spool,
        }
    }

    /// Another repository.
    pub fn repository(&self, name: &str) -> PathBuf {
        let path = self.site.dir().join(name);
        let mut init = self.site.archive().unwrap();
        init.env("PITR_REPO", &path).arg("init");
        assert!(self.site.run(&mut init).unwrap().status.success());
        path
    }

    pub fn receive(&self, options: &[&str]) -> Receiver {
        self.receive_into(&self.site.repo(), options)
    }

    pub fn receive_into(&self, repo: &Path, options: &[&str]) -> Receiver {
        self.receive_from(&self.cluster, repo, options)
    }

    /// As a service that tells how it is at `socket`.
    pub fn receive_notifying(&self, socket: &Path) -> Receiver {
        let mut command = self.site.archive().unwrap();
        command
            .env("NOTIFY_SOCKET", socket)
            .args(["receive", "-d", &self.cluster.conninfo(), "--spool"])
            .arg(&self.spool);
        Receiver::start(command)
    }

    pub fn receive_from(&self, server: &Cluster, repo: &Path, options: &[&str]) -> Receiver {
        let mut command = self.site.archive().unwrap();
        command
            .env("PITR_REPO", repo)
            .args(["receive", "-d", &server.conninfo(), "--spool"])
            .arg(&self.spool)
            .args(options);
        Receiver::start(command)
    }

    pub fn backup(&self) {
        let mut command = self.site.archive().unwrap();
        command.args(["backup", "-d", &self.cluster.conninfo()]);
        let output = self.site.run(&mut command).unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// From here on no commit is acknowledged that the receiver has not confirmed.
    pub fn be_synchronous(&self) {
        self.cluster
            .configure("synchronous_standby_names", "\"pitr-receive\"")
            .unwrap();
        self.cluster.reload().unwrap();
        self.cluster
            .wait_for_sql(
                "SELECT count(*) = 1 FROM pg_stat_replication \
                 WHERE sync_state = 'sync' AND state = 'streaming'",
                LIMIT,
            )
            .unwrap();
    }

    /// What the repository and the spool give, started and at its end.
    pub fn restore(&self) -> Cluster {
        self.restore_within(LIMIT)
    }

    /// The same where replay takes longer.
    pub fn restore_within(&self, limit: Duration) -> Cluster {
        let copy = self.site.dir().join("restored");
        let mut command = self.site.restore().unwrap();
        command
            .arg("--to")
            .arg(&copy)
            .arg("--spool")
            .arg(&self.spool);
        let output = self.site.run(&mut command).unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut restored = Cluster::adopt(self.cluster.install(), &copy).unwrap();
        restored.configure("synchronous_standby_names", "").unwrap();
        restored.start().unwrap();
        restored
            .wait_for_sql("SELECT NOT pg_is_in_recovery()", limit)
            .unwrap();
        restored
    }

    pub fn wait_published(&self, repo: &Path, name: &str) {
        let deadline = Instant::now() + LIMIT;
        while !segments(repo).contains_key(name) {
            assert!(Instant::now() < deadline, "{name} was not published");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn spooled(&self) -> Vec<String> {
        let mut names = Vec::new();
        for folder in std::fs::read_dir(&self.spool).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                names.push(file.unwrap().file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        names
    }

    /// Until `name` was received, and no whole segment waits any more.
    pub fn wait_spool_is_empty_up_to(&self, name: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let spooled = self.spooled();
            let is_published = segments(&self.site.repo()).contains_key(name);
            if is_published && !spooled.iter().any(|file| file.len() == 24) {
                let passed = spooled
                    .iter()
                    .any(|file| file.ends_with(".partial") && file.as_str() > name);
                if passed || !spooled.iter().any(|file| file.starts_with(name)) {
                    return;
                }
            }
            assert!(Instant::now() < deadline, "{name}: {spooled:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn partials_of_timeline(&self, timeline: &str) -> Vec<String> {
        let mut spooled = self.spooled();
        spooled.retain(|file| file.starts_with(timeline) && file.ends_with(".partial"));
        spooled
    }

    /// Makes the spool a file system of its own.
    pub fn mount_spool(&self, bytes: u64) -> Option<Mounted> {
        let path = self.spool.clone();
        let status = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={bytes},mode=0777"),
                "tmpfs",
            ])
            .arg(&path)
            .stderr(Stdio::null())
            .status()
            .ok()?;
        status.success().then_some(Mounted { path })
    }

    /// A session that carries out one statement.
    pub fn psql(&self, sql: &str) -> Child {
        let mut psql = self.cluster.install().command("psql").unwrap();
        psql.args(["-XAtq", "-d", &self.cluster.conninfo(), "-c", sql])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Inserts numbers above `from`, one a transaction, as long as that goes well.
    pub fn writer(&self, from: u64) -> Writer {
        let conninfo = self.cluster.conninfo();
        let psql = self.cluster.install().command("psql").unwrap();
        let program = psql.get_program().to_owned();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut acknowledged = from;
            let mut next = from;
            while !told.load(Ordering::Relaxed) {
                next += 1;
                let sql = format!(
                    "INSERT INTO t VALUES ({next}, repeat(md5('{next}'), 900)) RETURNING 'done'"
                );
                let output = Command::new(&program)
                    .args(["-XAtq", "-d", &conninfo, "-c", &sql])
                    .stdin(Stdio::null())
                    .output()
                    .unwrap();
                // a commit that was cut off while it waited is "not replicated", said as a warning
                let said = String::from_utf8_lossy(&output.stderr);
                if output.status.success() && said.is_empty() && acknowledged + 1 == next {
                    acknowledged = next;
                } else {
                    next = acknowledged;
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            acknowledged
        });
        Writer { stop, thread }
    }
}

pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Writer {
    /// The last number that was acknowledged.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

pub struct Mounted {
    path: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// A running `pitr-archive receive`.
pub struct Receiver {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Receiver {
    fn start(mut command: Command) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    pub fn wait_for_line(&self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.said().contains(text) {
            assert!(
                Instant::now() < deadline,
                "no \"{text}\" in: {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to stop, and gives what it said.
    pub fn stop(mut self) -> String {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(asked.success());
        let status = self.child.wait().unwrap();
        let said = self.said();
        assert_eq!(status.code(), Some(0), "{said}");
        said
    }

    /// `kill -9`.
    pub fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.said()
    }

    /// Waits for its own end.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.said());
            }
            assert!(Instant::now() < deadline, "still there: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every file of the log in a repository, decoded by the stock decoder.
pub fn segments(repo: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    collect(repo, &mut found);
    found
}

fn collect(folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().unwrap() != "backups" {
                collect(&path, found);
            }
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') || name.ends_with(".json") {
            continue;
        }
        let mut bytes = Vec::new();
        let Ok(mut file) = std::fs::File::open(&path) else {
            continue;
        };
        file.read_to_end(&mut bytes).unwrap();
        match name.strip_suffix(".zst") {
            Some(name) => found.insert(name.to_owned(), zstd::decode_all(&bytes[..]).unwrap()),
            None => found.insert(name, bytes),
        };
    }
}
