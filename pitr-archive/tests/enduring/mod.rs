//! What an endurance run is made of: who writes, who is killed, what must be there afterwards.
#![allow(unreachable_pub, reason = "for the test program beside it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use pitr_testbed::{Cluster, Site};
use sha2::{Digest as _, Sha256};

/// Chance that can be had again by its seed.
pub struct Dice(u64);

impl Dice {
    /// From `PITR_TEST_SEED`, or from the clock; says which.
    pub fn seeded() -> Self {
        let seed = std::env::var("PITR_TEST_SEED").map_or_else(
            |_| {
                let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
                u64::from(now.subsec_nanos())
            },
            |text| text.parse().unwrap(),
        );
        eprintln!("PITR_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    /// Of so many milliseconds.
    pub fn between(&mut self, milliseconds: Range<u64>) -> Duration {
        let span = milliseconds.end - milliseconds.start;
        Duration::from_millis(milliseconds.start + self.below(span))
    }
}

/// Numbers that clients write one by one, beside work that fills the log: what was
/// acknowledged is known outside of the server.
pub struct Ledger {
    /// Statements of pgbench.
    scripts: PathBuf,
    /// What pgbench was told, a folder.
    told: PathBuf,
    scale: u32,
}

/// Clients at once.
const CLIENTS: u32 = 6;

impl Ledger {
    pub fn make(cluster: &Cluster, scale: u32) -> Self {
        let scripts = cluster.dir().folder("scripts").unwrap();
        let told = cluster.dir().folder("told").unwrap();
        fs::write(
            scripts.join("ledger.sql"),
            "\\set n :n + 1\n\
             \\set aid random(1, 100000 * :scale)\n\
             \\set tid random(1, 10 * :scale)\n\
             \\set bid random(1, :scale)\n\
             \\set delta random(-5000, 5000)\n\
             BEGIN;\n\
             UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n\
             UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;\n\
             UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;\n\
             INSERT INTO pgbench_history VALUES (:tid, :bid, :aid, :delta, clock_timestamp());\n\
             INSERT INTO ledger VALUES (:run, :client_id, :n);\n\
             END;\n",
        )
        .unwrap();
        fs::write(
            scripts.join("bulk.sql"),
            "BEGIN;\n\
             TRUNCATE bulk_:client_id;\n\
             INSERT INTO bulk_:client_id SELECT i, md5(i::text || random()::text) \
             FROM generate_series(1, 10000) i;\n\
             END;\n",
        )
        .unwrap();
        for script in ["ledger.sql", "bulk.sql"] {
            pitr_testbed::chown_to_server_user(&scripts.join(script)).unwrap();
        }
        let made = cluster
            .install()
            .command("pgbench")
            .unwrap()
            .args(["-i", "-q", "-s", &scale.to_string(), &cluster.conninfo()])
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        cluster.execute("CREATE TABLE ledger (run int, client int, n int)");
        for client in 0..CLIENTS {
            cluster.execute(&format!("CREATE TABLE bulk_{client} (i int, t text)"));
        }
        Self {
            scripts,
            told,
            scale,
        }
    }

    /// Begins to write, as fast as the server takes it, until the server is gone.
    pub fn run(&self, cluster: &Cluster, run: usize) -> Run {
        let prefix = self.told.join(format!("run{run}"));
        let script = |name: &str| self.scripts.join(name).display().to_string();
        let child = cluster
            .install()
            .command("pgbench")
            .unwrap()
            .args(["-n", "-T", "100000", "-c", &CLIENTS.to_string(), "-l"])
            .arg(format!("--log-prefix={}", prefix.display()))
            .args(["-D", "n=0", "-D", &format!("run={run}")])
            .args(["-D", &format!("scale={}", self.scale)])
            .args(["-f", &format!("{}@30", script("ledger.sql"))])
            .args(["-f", &format!("{}@1", script("bulk.sql"))])
            .arg(cluster.conninfo())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Run { child, prefix }
    }

    /// Everything that the server acknowledged to the clients of a run.
    pub fn holds(&self, copy: &Cluster, run: usize, clients: &BTreeMap<u32, u64>) {
        for (client, acknowledged) in clients {
            let missing = copy.sql(&format!(
                "SELECT count(*) FROM (SELECT generate_series(1, {acknowledged}) EXCEPT \
                 SELECT n FROM ledger WHERE run = {run} AND client = {client}) m"
            ));
            assert_eq!(
                missing, "0",
                "of {acknowledged} transactions of client {client} in run {run}"
            );
        }
    }

    /// No transaction is there by halves.
    pub fn is_balanced(&self, copy: &Cluster) {
        let sums = copy.sql(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), \
                    (SELECT sum(tbalance) FROM pgbench_tellers), \
                    (SELECT sum(bbalance) FROM pgbench_branches), \
                    (SELECT sum(delta) FROM pgbench_history)",
        );
        let sums: BTreeSet<&str> = sums.split('|').collect();
        assert_eq!(sums.len(), 1, "{sums:?}");
        assert_eq!(
            copy.sql("SELECT count(*) FROM pgbench_history"),
            copy.sql("SELECT count(*) FROM ledger")
        );
    }
}

/// Clients at work.
pub struct Run {
    child: Child,
    prefix: PathBuf,
}

impl Run {
    /// Waits until all clients have lost the server; how many transactions of the
    /// ledger each was told to be committed.
    pub fn end(mut self) -> BTreeMap<u32, u64> {
        self.child.wait().unwrap();
        let name = self
            .prefix
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned()
            + ".";
        let mut clients = BTreeMap::new();
        for entry in fs::read_dir(self.prefix.parent().unwrap()).unwrap() {
            let path = entry.unwrap().path();
            if !path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(&name)
            {
                continue;
            }
            for line in fs::read_to_string(&path).unwrap().lines() {
                // client, transaction, microseconds, script, second, microsecond
                let words: Vec<&str> = line.split(' ').collect();
                if words[3] == "0" {
                    *clients.entry(words[0].parse().unwrap()).or_default() += 1;
                }
            }
        }
        clients
    }
}

/// Processes of a site's two commands.
pub struct Victims {
    archive: PathBuf,
    restore: PathBuf,
}

impl Victims {
    pub fn of(site: &Site) -> Self {
        let program = |command: std::process::Command| PathBuf::from(command.get_program());
        Self {
            archive: program(site.archive().unwrap()),
            restore: program(site.restore().unwrap()),
        }
    }

    /// Every archiver; gives how many there were.
    pub fn kill_archivers(&self) -> u64 {
        kill(&self.archive, |arguments| !arguments.contains("receive"))
    }

    /// Every hook, and whatever one has left behind at work.
    pub fn kill_hooks(&self) -> u64 {
        kill(&self.restore, |_| true)
    }
}

/// They live for milliseconds: waits a while until there is one.
fn kill(program: &Path, is_meant: impl Fn(&str) -> bool) -> u64 {
    (0..400)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            Some(kill_now(program, &is_meant)).filter(|&killed| killed > 0)
        })
        .unwrap_or(0)
}

fn kill_now(program: &Path, is_meant: impl Fn(&str) -> bool) -> u64 {
    let mut killed = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if fs::read_link(path.join("exe")).is_ok_and(|exe| exe == program)
            && fs::read(path.join("cmdline"))
                .is_ok_and(|words| is_meant(&String::from_utf8_lossy(&words)))
        {
            let status = std::process::Command::new("kill")
                .args(["-9", &pid.to_string()])
                .stderr(Stdio::null())
                .status()
                .unwrap();
            killed += u64::from(status.success());
        }
    }
    killed
}

/// SHA-256 of each name that was acknowledged, from the empty files `NAME.DIGEST`.
pub fn acknowledged_digests(folder: &Path) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let (name, digest) = file.rsplit_once('.').unwrap();
        found
            .entry(name.to_owned())
            .or_default()
            .push(digest.to_owned());
    }
    found
}

/// SHA-256 of each file of the log in a repository, decoded by the stock decoder.
pub fn repository_digests(repository: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![repository.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "backups" {
                    folders.push(path);
                }
            } else if !name.starts_with('.') && !name.ends_with(".json") {
                let file = fs::File::open(&path).unwrap();
                let mut digest = Sha256::new();
                let name = match name.strip_suffix(".zst") {
                    Some(name) => {
                        zstd::stream::copy_decode(file, &mut digest).unwrap();
                        name.to_owned()
                    }
                    None => {
                        std::io::copy(&mut &file, &mut digest).unwrap();
                        name
                    }
                };
                found.insert(name, hex(&digest.finalize()));
            }
        }
    }
    found
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Where a segment of timeline 1 begins.
pub fn start_of(name: &str, segment_size: u64) -> u64 {
    let field = |range| u64::from_str_radix(&name[range], 16).unwrap();
    field(8..16) * (1 << 32) + field(16..24) * segment_size
}

/// The segments of the log follow each other.
pub fn no_hole<'a>(names: impl Iterator<Item = &'a String>, segment_size: u64) {
    let mut before: Option<u64> = None;
    for name in names.filter(|name| name.len() == 24) {
        let start = start_of(name, segment_size);
        if let Some(before) = before {
            assert_eq!(start, before + segment_size, "at {name}");
        }
        before = Some(start);
    }
}
