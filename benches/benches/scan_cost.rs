//! What the scan of the records adds to the wall time of a push: both ways in turn, so that both see the same noise.
//!
//!     cargo bench -p pitr-benches --bench scan_cost -- [SEGMENT...]
//!
//! Without segments, those of a pgbench run and of COPY. Each push is durable: the object
//! and its folder are synced. No command has a switch for pushing without the
//! scan.

use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pitr_benches::{Kind, RealSegment, pgbench_segments};
use pitr_core::{SegmentName, SegmentSummaryBuilder, WalFileName, WalReader, WalSegmentSize};
use pitr_store::wal::identify;
use pitr_store::{Codec, LocalStore, Repository, WalBytes};

type Failure = Box<dyn std::error::Error>;

/// Pairs that are measured, after one that warms up.
const PAIRS: usize = 41;

fn push(segment: &RealSegment, folder: &Path, scanned: bool) -> Result<Duration, Failure> {
    let name: WalFileName = segment.name.parse()?;
    let identity = identify(&name, &segment.bytes, segment.bytes.len() as u64)?;
    let repository = Repository::init(Arc::new(LocalStore::new(folder.to_owned())))?;
    let mut archive = repository.into_repository().claim(&identity.cluster)?.wal();
    if !scanned {
        archive = archive.without_scan_to_compare();
    }
    let mut source = WalBytes::new(segment.bytes.as_slice(), "bench");
    let began = Instant::now();
    archive.push(&name, &mut source, Codec::Zstd { level: 1 })?;
    let took = began.elapsed();
    std::fs::remove_dir_all(folder)?;
    Ok(took)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn quickest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn compare(what: &str, segment: &RealSegment, out: &mut impl Write) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path().join("repo");
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        // neither is always the first
        let first = pair % 2 == 0;
        for scanned in [first, !first] {
            let took = push(segment, &folder, scanned)?.as_secs_f64() * 1e3;
            if pair > 0 {
                let list = if scanned { &mut with } else { &mut without };
                list.push(took);
            }
        }
    }
    let ratios = with.iter().zip(&without).map(|(a, b)| a / b).collect();
    let (least, least_without) = (quickest(&with), quickest(&without));
    writeln!(
        out,
        "{what}: with the scan {:.1} ms, without {:.1} ms, ratio {:.3} ({PAIRS} pairs, medians); \
         the quickest {least:.1} ms, {least_without:.1} ms, ratio {:.3}",
        median(with),
        median(without),
        median(ratios),
        least / least_without
    )?;
    Ok(())
}

/// The scan without a push: the quickest reading of all records, and the quickest summary.
fn alone(segment: &RealSegment, out: &mut impl Write) -> Result<(), Failure> {
    let name: SegmentName = segment.name.parse()?;
    let size = WalSegmentSize::new(segment.bytes.len() as u64)?;
    let (mut reading, mut summary, mut records) = (Vec::new(), Vec::new(), 0);
    for _ in 0..PAIRS {
        let began = Instant::now();
        let mut reader = WalReader::new(name.number(size)?, size);
        let mut found = reader.feed(&segment.bytes);
        records = 0;
        while let Some(record) = found.next_record() {
            records += u64::from(record.is_ok());
        }
        drop(found);
        reading.push(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        let mut builder = SegmentSummaryBuilder::new(name, size)?;
        segment
            .bytes
            .chunks(256 << 10)
            .for_each(|chunk| builder.feed(chunk));
        black_box(builder.finish());
        summary.push(began.elapsed().as_secs_f64() * 1e3);
    }
    writeln!(
        out,
        "    {records} records: read in {:.2} ms, summed up in {:.2} ms (the quickest of {PAIRS})",
        quickest(&reading),
        quickest(&summary)
    )?;
    Ok(())
}

fn segments() -> Result<Vec<(String, RealSegment)>, Failure> {
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    if named.is_empty() {
        let mut found = Vec::new();
        for kind in [Kind::SmallRecords, Kind::PageImages, Kind::BulkLoad] {
            let last = pgbench_segments(kind, 4)?.pop().ok_or("no segment")?;
            found.push((kind.name().to_owned(), last));
        }
        return Ok(found);
    }
    let read = |path: String| {
        let name = Path::new(&path).file_name().and_then(|name| name.to_str());
        let name = name.ok_or("the name is not text")?.to_owned();
        let bytes = std::fs::read(&path)?;
        Ok((path, RealSegment { name, bytes }))
    };
    named.into_iter().map(read).collect()
}

fn main() -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for (what, segment) in segments()? {
        compare(&what, &segment, &mut out)?;
        alone(&segment, &mut out)?;
    }
    Ok(())
}
