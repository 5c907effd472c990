//! Scanning many segments, with every CRC and their summaries, beside `pg_waldump --stats` of the same files: in turn, so that all see the same noise.
//!
//!     cargo bench -p pitr-benches --bench beside_waldump -- [--segments N] [--rounds N] [FOLDER...]
//!
//! Without a folder, `--segments` (64) of pgbench's transactions long after a
//! checkpoint, right after checkpoints, and of `COPY`. A folder holds
//! consecutive segments of one timeline and nothing else. `pg_waldump` is a
//! process of its own, on one core as ever, and its time that of the whole
//! process; the scan is measured with its threads in this one: of bytes in
//! memory, and of the files, which both read from the page cache. Both must
//! count the same records. Beside wall times stand those of the processors
//! (Linux), which say more where others use them, too.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use pitr_benches::{Kind, pgbench_folder, pgbench_segments};
use pitr_core::{
    LogSeams, PageHeader, SegmentName, SegmentSummary, SegmentSummaryBuilder, WalSegmentSize,
};
use pitr_testbed::PostgresInstall;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Bytes that are read at once: they stay in the processor's cache.
const CHUNK: usize = 512 << 10;

/// Where the bytes of a segment come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Memory,
    Files,
}

struct Segment {
    path: PathBuf,
    name: SegmentName,
    bytes: Vec<u8>,
}

fn segments(folder: &Path, count: usize) -> Result<Vec<Segment>, Failure> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.and_then(|name| name.parse().ok());
        let name = name.ok_or_else(|| format!("{} is not a segment", path.display()))?;
        let bytes = std::fs::read(&path)?;
        found.push(Segment { path, name, bytes });
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found.truncate(count);
    Ok(found)
}

/// How long something took.
#[derive(Clone, Copy)]
struct Took {
    wall_ms: f64,
    /// Of all processors together.
    cpu_ms: f64,
}

/// Milliseconds for which this thread had a processor; 0 where the system does not tell.
fn own_cpu_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next();
    nanoseconds
        .and_then(|word| word.parse::<f64>().ok())
        .map_or(0.0, |nanoseconds| nanoseconds / 1e6)
}

/// The same for the processes that this one has waited for, in steps of 10 ms.
///
/// Source: proc_pid_stat(5), `cutime` and `cstime`, in 1/100 s on Linux.
fn children_cpu_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // the name before may have blanks in it
    let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = fields.split(' ').skip(13).take(2);
    10.0 * ticks
        .filter_map(|word| word.parse::<f64>().ok())
        .sum::<f64>()
}

fn sum_up(
    segment: &Segment,
    size: WalSegmentSize,
    from: From,
    chunk: &mut [u8],
) -> Result<SegmentSummary, Failure> {
    let mut builder = SegmentSummaryBuilder::new(segment.name, size)?;
    if from == From::Memory {
        segment
            .bytes
            .chunks(CHUNK)
            .for_each(|chunk| builder.feed(chunk));
        return Ok(builder.finish());
    }
    let mut file = std::fs::File::open(&segment.path)?;
    loop {
        match io::Read::read(&mut file, chunk)? {
            0 => return Ok(builder.finish()),
            len => builder.feed(chunk.get(..len).unwrap_or(&[])),
        }
    }
}

/// Records that are whole in their segment, once all segments have been read and joined; CPU time of the threads.
fn scan(
    segments: &[Segment],
    size: WalSegmentSize,
    from: From,
    threads: usize,
) -> Result<(u64, f64), Failure> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let work = || -> Result<f64, Failure> {
        let begun = own_cpu_ms();
        let mut chunk = vec![0; CHUNK];
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(segment) = segments.get(number) else {
                return Ok(own_cpu_ms() - begun);
            };
            let summary = sum_up(segment, size, from, &mut chunk)?;
            if let Ok(mut found) = found.lock() {
                found.push((number, summary));
            }
        }
    };
    let cpu_ms = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut cpu_ms = work()?;
        for other in others {
            cpu_ms += other.join().map_err(|_| "a thread has died")??;
        }
        Ok::<f64, Failure>(cpu_ms)
    })?;
    let mut found = found.into_inner().map_err(|_| "a thread has died")?;
    found.sort_by_key(|(number, _)| *number);
    let (mut seams, mut records) = (LogSeams::default(), 0);
    for (_, summary) in &found {
        records += summary.records;
        let torn = summary.edges().and_then(|edges| seams.add(&edges));
        if summary.is_damaged() || torn.is_some() {
            return Err(format!("{} is damaged", summary.segment).into());
        }
    }
    Ok((records, cpu_ms))
}

/// Records that `pg_waldump` counts; it ends with an error where the log goes on behind the last file.
fn waldump(program: &Path, segments: &[Segment]) -> Result<u64, Failure> {
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        return Err("no segments".into());
    };
    let output = Command::new(program)
        .arg("--stats")
        .args([first.path.as_os_str(), last.path.as_os_str()])
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let total = text.lines().find_map(|line| line.strip_prefix("Total"));
    let count = total.and_then(|line| line.split_whitespace().next());
    Ok(count.ok_or("pg_waldump counts nothing")?.parse()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn compare(
    what: &str,
    segments: &[Segment],
    rounds: usize,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let first = segments.first().ok_or("no segments")?;
    let long = PageHeader::parse(&first.bytes)?.long;
    let long = long.ok_or("not the beginning of a segment")?;
    let major = PageHeader::parse(&first.bytes)?.major;
    let program = PostgresInstall::find(major.get())?.program("pg_waldump");
    let cores = std::thread::available_parallelism()?.get();
    let ways = [
        ("in memory, 1 core".to_owned(), From::Memory, 1),
        (format!("in memory, {cores} cores"), From::Memory, cores),
        ("from files, 1 core".to_owned(), From::Files, 1),
        (format!("from files, {cores} cores"), From::Files, cores),
    ];
    let mut theirs = Vec::new();
    let mut ours = vec![Vec::new(); ways.len()];
    let mut counted = (0, 0);
    for round in 0..=rounds {
        let (began, cpu) = (Instant::now(), children_cpu_ms());
        let their_records = waldump(&program, segments)?;
        let took = Took {
            wall_ms: began.elapsed().as_secs_f64() * 1e3,
            cpu_ms: children_cpu_ms() - cpu,
        };
        // the first round warms up
        if round > 0 {
            theirs.push(took);
        }
        for ((_, from, threads), times) in ways.iter().zip(&mut ours) {
            let began = Instant::now();
            let (records, cpu_ms) = scan(segments, long.segment_size, *from, *threads)?;
            let took = Took {
                wall_ms: began.elapsed().as_secs_f64() * 1e3,
                cpu_ms,
            };
            // those that lie in two segments are whole in neither
            let split = their_records.checked_sub(records);
            if split.is_none_or(|split| split >= segments.len() as u64) {
                return Err(format!("{records} records, pg_waldump {their_records}").into());
            }
            counted = (records, their_records);
            if round > 0 {
                times.push(took);
            }
        }
    }
    let bytes: usize = segments.iter().map(|segment| segment.bytes.len()).sum();
    writeln!(
        out,
        "{what}: {} segments, {} of {} records whole in one; medians of {rounds}",
        segments.len(),
        counted.0,
        counted.1
    )?;
    let name = "pg_waldump --stats";
    print(name, &theirs, &theirs, bytes, out)?;
    for ((way, _, _), times) in ways.iter().zip(&ours) {
        print(way, times, &theirs, bytes, out)?;
    }
    Ok(())
}

/// Times, and how many times faster they are than theirs: the medians of both, round by round.
fn print(
    what: &str,
    times: &[Took],
    theirs: &[Took],
    bytes: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    let wall = |took: &Took| took.wall_ms;
    let cpu = |took: &Took| took.cpu_ms;
    let of = |of: fn(&Took) -> f64| {
        let ratios = theirs.iter().zip(times).map(|(a, b)| of(a) / of(b));
        (
            median(times.iter().map(of).collect()),
            median(ratios.collect()),
        )
    };
    let ((wall_ms, wall_ratio), (cpu_ms, cpu_ratio)) = (of(wall), of(cpu));
    writeln!(
        out,
        "    {what:<20} wall {wall_ms:7.1} ms ({:4.1} GB/s), {wall_ratio:4.1} times faster; \
         CPU {cpu_ms:7.1} ms, {cpu_ratio:4.1} times less",
        bytes as f64 / wall_ms / 1e6
    )
}

fn main() -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let (mut count, mut rounds, mut folders) = (64, 9, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<usize, Failure> {
            let next = arguments.next().ok_or("a number is missing")?;
            Ok(next.parse::<usize>()?.max(1))
        };
        match argument.as_str() {
            "--segments" => count = number()?,
            "--rounds" => rounds = number()?,
            "--bench" => {}
            folder => folders.push(PathBuf::from(folder)),
        }
    }
    for folder in &folders {
        let what = folder.display().to_string();
        compare(&what, &segments(folder, usize::MAX)?, rounds, &mut out)?;
    }
    if folders.is_empty() {
        for kind in [Kind::SmallRecords, Kind::PageImages, Kind::BulkLoad] {
            drop(pgbench_segments(kind, count)?);
            let found = segments(&pgbench_folder(kind), count)?;
            compare(kind.name(), &found, rounds, &mut out)?;
        }
    }
    Ok(())
}
