//! What a push, a fetch and a plan cost in a repository of very many segments, beside the same in a small one: whole processes in turn.
//!
//!     cargo build --release -p pitr-archive -p pitr-restore
//!     cargo bench -p pitr-benches --bench growth -- target/release/pitr-archive target/release/pitr-restore [--large 1000000] [--rounds 31]
//!
//! Each repository has a real end with a base backup in it, and before that objects of
//! segments of 16 MiB that hold nothing but a summary with one commit.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pitr_core::crc32c::crc32c;
use pitr_core::{
    Moment, SegmentName, SegmentNumber, SegmentSummaryBuilder, TimelineId, Timestamp,
    WalSegmentSize,
};
use pitr_testbed::{
    Cluster, PostgresInstall, StopMode, TestDir, as_server_user, chown_to_server_user,
};

type Failure = Box<dyn std::error::Error>;

/// One repository, and what is asked of it.
struct Archive {
    dir: TestDir,
    archive: PathBuf,
    restore: PathBuf,
    /// `<repository>/<system identifier>`.
    folder: PathBuf,
    system_identifier: String,
    /// The last whole segment, in the archive and as it was in `pg_wal`.
    last: String,
    segment: PathBuf,
    target: String,
    segments: u64,
}

fn succeeded(command: Command) -> Result<String, Failure> {
    let mut command = as_server_user(command)?;
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}\n{said}", output.status).into())
}

/// A frame without content, then that of the summary, as docs/store-format.md describes it.
fn object(name: SegmentName, size: WalSegmentSize, time: Timestamp) -> Result<Vec<u8>, Failure> {
    let mut summary = SegmentSummaryBuilder::new(name, size)?.finish();
    let begin = name.number(size)?.start(size);
    let moment = Moment {
        time,
        lsn: begin.checked_add(40).ok_or("no such position")?,
    };
    summary.commits = 1;
    summary.first_record = Some(moment.lsn);
    summary.latest_commit = Some(moment);
    summary.latest_end = Some(moment);
    let json = serde_json::to_vec(&summary)?;
    let length = u32::try_from(json.len())?;
    let mut bytes = vec![0x28, 0xB5, 0x2F, 0xFD, 0x20, 0, 1, 0, 0];
    bytes.extend(0x184D_2A59_u32.to_le_bytes());
    bytes.extend((length + 16).to_le_bytes());
    bytes.extend(&json);
    bytes.extend(length.to_le_bytes());
    bytes.extend(crc32c(&json).to_le_bytes());
    bytes.extend(b"pitrsum1");
    Ok(bytes)
}

impl Archive {
    fn make(archive: &Path, restore: &Path, segments: u64) -> Result<Self, Failure> {
        let dir = TestDir::new()?;
        let (archive, restore) = (dir.reachable(archive)?, dir.reachable(restore)?);
        let repository = dir.join("repository");
        let verb = |words: &[&str]| {
            let mut command = Command::new(&archive);
            command.env_clear().env("PATH", "/usr/bin:/bin");
            command.arg("--repo").arg(&repository).args(words);
            succeeded(command)
        };
        verb(&["init"])?;
        let mut cluster = Cluster::builder(&PostgresInstall::any()?)
            .setting("archive_mode", "on")
            .setting(
                "archive_command",
                format!(
                    "{} --repo {} --look-ahead 0 %p %f",
                    archive.display(),
                    repository.display()
                ),
            )
            .create()?;
        cluster.start()?;
        cluster.execute("CREATE TABLE t (v text)");
        let size = WalSegmentSize::DEFAULT;
        let first = cluster
            .archive_all()?
            .parse::<SegmentName>()?
            .number(size)?
            .next();
        let microseconds =
            cluster.sql("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
        // from the epoch of Unix to that of PostgreSQL
        let now: i64 = microseconds.parse::<i64>()? - 946_684_800_000_000;

        // what is made has a commit in every microsecond from now on: the server's come after it
        std::thread::sleep(Duration::from_micros(segments));
        // the server goes on with a log that is far ahead
        cluster.stop(StopMode::Fast)?;
        let goes_on = SegmentNumber::new(first.get() + segments);
        let name = |number| SegmentName::new(TimelineId::FIRST, number, size);
        let mut reset = cluster.install().command("pg_resetwal")?;
        reset.args(["-l", &name(goes_on).to_string(), "-D"]);
        reset.arg(cluster.data_dir());
        if !reset.output()?.status.success() {
            return Err("pg_resetwal has failed".into());
        }
        cluster.start()?;
        // behind what is made: a plan begins at the newest backup that it can
        verb(&["backup", "--dbname", &cluster.conninfo()])?;
        cluster.execute("INSERT INTO t VALUES ('before')");
        cluster.archive_all()?;
        cluster.execute("INSERT INTO t VALUES ('wanted')");
        let target = cluster.sql("SELECT clock_timestamp()");
        cluster.execute("INSERT INTO t VALUES ('behind')");
        let last = cluster.archive_all()?;
        let segment = dir.join(&last);
        fs::copy(cluster.data_dir().join("pg_wal").join(&last), &segment)?;
        chown_to_server_user(&segment)?;
        let system_identifier = cluster.sql("SELECT system_identifier FROM pg_control_system()");
        cluster.stop(StopMode::Fast)?;

        let folder = repository.join(&system_identifier);
        let mut made = PathBuf::new();
        for number in first.get()..goes_on.get() {
            let name = name(SegmentNumber::new(number));
            let time = now + i64::try_from(number - first.get())?;
            let path = object_of(&folder, &name.to_string())?;
            let parent = path.parent().ok_or("no folder")?;
            if made != parent {
                fs::create_dir_all(parent)?;
                made = parent.to_owned();
            }
            fs::write(&path, object(name, size, Timestamp::new(time))?)?;
        }
        chown_to_server_user(&folder)?;
        // what recovery looks at from its data directory
        for name in ["data/global", "data/pg_wal"] {
            fs::create_dir_all(dir.join(name))?;
        }
        fs::copy(
            cluster.data_dir().join("global/pg_control"),
            dir.join("data/global/pg_control"),
        )?;
        chown_to_server_user(&dir.join("data"))?;
        Ok(Self {
            dir,
            archive,
            restore,
            folder,
            system_identifier,
            last,
            segment,
            target,
            segments,
        })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PITR_CONFIG", "/dev/null")
            .env("PITR_REPO", self.dir.join("repository"))
            .current_dir(self.dir.join("data"));
        command
    }

    fn push(&self) -> Result<f64, Failure> {
        let object = object_of(&self.folder, &self.last)?;
        fs::remove_file(&object)?;
        let mut command = self.command(&self.archive);
        command
            .args(["--look-ahead", "0"])
            .arg(&self.segment)
            .arg(&self.last);
        timed(command).map(|(took, _)| took)
    }

    fn fetch(&self) -> Result<f64, Failure> {
        let mut command = self.command(&self.restore);
        command
            .args([
                "--prefetch",
                "0",
                "--system-identifier",
                &self.system_identifier,
            ])
            .args([self.last.as_str(), "pg_wal/RECOVERYXLOG"]);
        timed(command).map(|(took, _)| took)
    }

    fn plan(&self) -> Result<(f64, String), Failure> {
        let mut command = self.command(&self.restore);
        command
            .args(["--to", "unused", "--dry-run", "--json", "--target-time"])
            .arg(&self.target);
        timed(command)
    }
}

fn object_of(folder: &Path, segment: &str) -> Result<PathBuf, Failure> {
    let timeline = segment.get(..8).ok_or("no timeline")?;
    let log = segment.get(8..16).ok_or("no log")?;
    Ok(folder
        .join("wal")
        .join(timeline)
        .join(log)
        .join(format!("{segment}.zst")))
}

/// Milliseconds of a whole process, and what it printed.
fn timed(command: Command) -> Result<(f64, String), Failure> {
    let began = Instant::now();
    let printed = succeeded(command)?;
    Ok((began.elapsed().as_secs_f64() * 1e3, printed))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn compare(
    what: &str,
    rounds: usize,
    small: impl Fn() -> Result<f64, Failure>,
    large: impl Fn() -> Result<f64, Failure>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let (mut of_small, mut of_large) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let one = (small()?, large()?);
        // the first warms up
        if round > 0 {
            of_small.push(one.0);
            of_large.push(one.1);
        }
    }
    let ratios = of_small.iter().zip(&of_large).map(|(s, l)| l / s).collect();
    writeln!(
        out,
        "{what}: {:.2} ms in the small one, {:.2} ms in the large one, median of {rounds} ratios {:.3}",
        median(of_small),
        median(of_large),
        median(ratios)
    )?;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let (mut segments, mut rounds, mut programs) = (1_000_000, 31, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64, Failure> {
            Ok(arguments.next().ok_or("a number is missing")?.parse()?)
        };
        match argument.as_str() {
            "--large" => segments = number()?,
            "--rounds" => rounds = usize::try_from(number()?)?,
            "--bench" => {}
            program => programs.push(fs::canonicalize(
                Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(program),
            )?),
        }
    }
    let [archive, restore] = programs.as_slice() else {
        return Err("usage: PITR_ARCHIVE PITR_RESTORE [--large N] [--rounds N]".into());
    };
    let small = Archive::make(archive, restore, 1_000)?;
    writeln!(out, "made {} segments", small.segments)?;
    let large = Archive::make(archive, restore, segments)?;
    writeln!(out, "made {} segments", large.segments)?;
    for archive in [&small, &large] {
        let plan: serde_json::Value = serde_json::from_str(&archive.plan()?.1)?;
        writeln!(
            out,
            "a plan over {} segments looks at {}",
            plan["wal"]["segments"], plan["looked_at"]
        )?;
    }
    compare("push", rounds, || small.push(), || large.push(), &mut out)?;
    compare(
        "fetch",
        rounds,
        || small.fetch(),
        || large.fetch(),
        &mut out,
    )?;
    compare(
        "plan",
        rounds,
        || Ok(small.plan()?.0),
        || Ok(large.plan()?.0),
        &mut out,
    )
}
