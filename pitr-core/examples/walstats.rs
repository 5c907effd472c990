//! Sums up segments, on as many processors as there are, and tells how fast.
//!
//!     cargo run --release -p pitr-core --example walstats -- [--threads N] [--rows] FILE...
//!
//! Each thread reads a segment of its own, as the archiver does: the CRC of
//! every record, of the segment, and its summary. What is told at the end is
//! the sum, and damage, also where segments meet that follow one another. With
//! `--rows` the records are counted instead, by resource manager, and the rows
//! that they change, by relation.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use pitr_core::{
    LogEdges, LogSeams, PageHeader, Record, RelationFile, ResourceManager, RowChange,
    RowChangeKind, SegmentName, SegmentNumber, SegmentScan, SegmentSummaryBuilder, WalReader,
    WalSegmentSize,
};

/// Bytes that are read at once: they stay in the processor's cache.
const CHUNK: usize = 128 << 10;

type Failure = Box<dyn Error + Send + Sync>;

/// What was found, in one segment or in all.
#[derive(Default)]
struct Found {
    bytes: u64,
    records: u64,
    commits: u64,
    aborts: u64,
    managers: BTreeMap<ResourceManager, (u64, u64)>,
    rows: BTreeMap<(RelationFile, RowChangeKind), u64>,
    damage: Vec<String>,
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args_os().skip(1).peekable();
    let mut threads = std::thread::available_parallelism()?.get();
    let mut rows = false;
    while let Some(option) = arguments.next_if(|word| word.to_string_lossy().starts_with("--")) {
        match option.to_str() {
            Some("--threads") => {
                let count = arguments.next().ok_or("--threads needs a number")?;
                threads = count.to_str().ok_or("not a number")?.parse()?;
            }
            Some("--rows") => rows = true,
            _ => return Err("usage: walstats [--threads N] [--rows] FILE...".into()),
        }
    }
    let files: Vec<OsString> = arguments.collect();
    let began = Instant::now();
    let found = on_threads(&files, threads.max(1), rows)?;
    let took = began.elapsed();
    print(&found, &mut BufWriter::new(io::stdout().lock()))?;
    let rate = found.bytes as f64 / took.as_secs_f64() / 1e9;
    writeln!(
        io::stderr(),
        "{} bytes in {took:.3?}: {rate:.2} GB/s",
        found.bytes
    )?;
    Ok(())
}

/// Every segment by the thread that comes to it first; the edges are joined at the end.
fn on_threads(files: &[OsString], threads: usize, rows: bool) -> Result<Found, Failure> {
    let next = AtomicUsize::new(0);
    let edges = Mutex::new(vec![None; files.len()]);
    let work = || -> Result<Found, Failure> {
        let mut found = Found::default();
        let mut chunk = vec![0; CHUNK];
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(rest) = files.get(number..).filter(|rest| !rest.is_empty()) else {
                return Ok(found);
            };
            let of_this = if rows {
                count(rest, &mut chunk, &mut found)?
            } else {
                sum_up(&rest[0], &mut chunk, &mut found)?
            };
            if let Ok(mut edges) = edges.lock() {
                edges[number] = of_this;
            }
        }
    };
    let mut all = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work()?;
        for other in others {
            let found = other.join().map_err(|_| "a thread has died")??;
            all.add(found);
        }
        Ok::<Found, Failure>(all)
    })?;
    let mut seams = LogSeams::default();
    let edges = edges.into_inner().map_err(|_| "a thread has died")?;
    for damage in edges.iter().flatten().filter_map(|edges| seams.add(edges)) {
        all.damage.push(damage.to_string());
    }
    Ok(all)
}

/// The summary of one segment.
fn sum_up(
    path: &OsString,
    chunk: &mut [u8],
    found: &mut Found,
) -> Result<Option<LogEdges>, Failure> {
    let mut file = File::open(path)?;
    let mut len = file.read(chunk)?;
    let (_, size) = place(&chunk[..len])?;
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    let name: SegmentName = name.ok_or("the name is not text")?.parse()?;
    let mut builder = SegmentSummaryBuilder::new(name, size)?;
    while len > 0 {
        builder.feed(&chunk[..len]);
        len = file.read(chunk)?;
    }
    let summary = builder.finish();
    found.bytes += summary.bytes;
    found.records += summary.records;
    found.commits += summary.commits;
    found.aborts += summary.aborts;
    let damage = summary.damage.iter();
    found
        .damage
        .extend(damage.map(|damage| format!("at {}: {}", damage.lsn, damage.what)));
    Ok(summary.edges())
}

/// The records that begin in the first of these files; the others have the end of the last one.
fn count(
    files: &[OsString],
    chunk: &mut [u8],
    found: &mut Found,
) -> Result<Option<LogEdges>, Failure> {
    let mut scan = None;
    for (number, path) in files.iter().enumerate() {
        let mut file = File::open(path)?;
        loop {
            let len = file.read(chunk)?;
            let bytes = &chunk[..len];
            if bytes.is_empty() {
                break;
            }
            if number == 0 {
                found.bytes += len as u64;
            }
            let scan = match &mut scan {
                Some(scan) => scan,
                none => {
                    let (number, size) = place(bytes)?;
                    let reader = WalReader::new(number, size).may_end();
                    none.insert(SegmentScan::of(reader))
                }
            };
            let more = scan.feed(bytes, |record| match record {
                Ok(record) => found.count(&record),
                Err(damage) => found.damage.push(damage.to_string()),
            });
            if !more {
                // the log may end in the last one only
                let end = scan.reader().end_of_log().filter(|_| files.len() > 1);
                found.damage.extend(end.map(ToString::to_string));
                return Ok(scan.edges().copied());
            }
        }
    }
    Ok(scan.and_then(|scan| scan.edges().copied()))
}

/// Where the segment that begins with these bytes stands in the log.
fn place(bytes: &[u8]) -> Result<(SegmentNumber, WalSegmentSize), Failure> {
    let header = PageHeader::parse(bytes)?;
    let long = header.long.ok_or("not the beginning of a segment")?;
    let number = SegmentNumber::containing(header.page_address, long.segment_size);
    Ok((number, long.segment_size))
}

impl Found {
    fn count(&mut self, record: &Record<'_>) {
        let header = record.header();
        self.records += 1;
        let (count, bytes) = self.managers.entry(header.resource_manager).or_default();
        *count += 1;
        *bytes += u64::from(header.total_len);
        let body = record.body().ok();
        if let Some(change) = body.and_then(|body| RowChange::of(header, &body)) {
            let key = (change.relation, change.kind);
            *self.rows.entry(key).or_default() += u64::from(change.rows);
        }
    }

    fn add(&mut self, other: Found) {
        self.bytes += other.bytes;
        self.records += other.records;
        self.commits += other.commits;
        self.aborts += other.aborts;
        for (manager, (count, bytes)) in other.managers {
            let sum = self.managers.entry(manager).or_default();
            *sum = (sum.0 + count, sum.1 + bytes);
        }
        for (key, rows) in other.rows {
            *self.rows.entry(key).or_default() += rows;
        }
        self.damage.extend(other.damage);
    }
}

fn print(found: &Found, out: &mut impl Write) -> io::Result<()> {
    for (manager, (count, bytes)) in &found.managers {
        writeln!(out, "{manager:<18} {count:>10} records {bytes:>14} bytes")?;
    }
    for ((relation, kind), rows) in &found.rows {
        writeln!(out, "{:<24} {kind:?} {rows}", relation.to_string())?;
    }
    write!(out, "{} records", found.records)?;
    if found.managers.is_empty() {
        write!(out, ", {} commits, {} aborts", found.commits, found.aborts)?;
    }
    writeln!(out, "; damaged places: {}", found.damage.len())?;
    for damage in &found.damage {
        writeln!(out, "damaged {damage}")?;
    }
    out.flush()
}
