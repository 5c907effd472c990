//! Counts the records of consecutive segments by resource manager, and the rows that they change.
//!
//!     cargo run --release -p pitr-core --example walstats -- FILE...
//!
//! Much as `pg_waldump --stats` does; the last line says how fast.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::time::{Duration, Instant};

use pitr_core::{
    PageHeader, RelationFile, ResourceManager, RowChange, RowChangeKind, SegmentNumber, WalReader,
};

#[derive(Default)]
struct Stats {
    managers: BTreeMap<ResourceManager, (u64, u64)>,
    rows: BTreeMap<(RelationFile, RowChangeKind), u64>,
    damages: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut stats = Stats::default();
    let mut reader = None;
    let (mut bytes, mut took) = (0, Duration::ZERO);
    for file in std::env::args_os().skip(1) {
        let segment = std::fs::read(file)?;
        let mut continued = match reader.take() {
            Some(reader) => reader,
            None => reader_for(&segment)?,
        };
        let begin = Instant::now();
        count(&mut continued, &segment, &mut stats);
        took += begin.elapsed();
        bytes += segment.len();
        reader = Some(continued);
    }
    print(&stats, &mut BufWriter::new(io::stdout().lock()))?;
    let rate = bytes as f64 / took.as_secs_f64() / 1e6;
    writeln!(io::stderr(), "{bytes} bytes in {took:.3?}: {rate:.0} MB/s")?;
    Ok(())
}

fn reader_for(segment: &[u8]) -> Result<WalReader, Box<dyn Error>> {
    let header = PageHeader::parse(segment)?;
    let size = header
        .long
        .ok_or("not the beginning of a segment")?
        .segment_size;
    let number = SegmentNumber::containing(header.page_address, size);
    Ok(WalReader::new(number, size).may_end())
}

fn count(reader: &mut WalReader, segment: &[u8], stats: &mut Stats) {
    let mut records = reader.feed(segment);
    while let Some(record) = records.next_record() {
        let Ok(record) = record else {
            stats.damages += 1;
            continue;
        };
        let header = record.header();
        let (count, bytes) = stats.managers.entry(header.resource_manager).or_default();
        *count += 1;
        *bytes += u64::from(header.total_len);
        let body = record.body().ok();
        let change = body.and_then(|body| RowChange::of(header, &body));
        if let Some(change) = change {
            let rows = stats
                .rows
                .entry((change.relation, change.kind))
                .or_default();
            *rows += u64::from(change.rows);
        }
    }
}

fn print(stats: &Stats, out: &mut impl Write) -> io::Result<()> {
    for (manager, (count, bytes)) in &stats.managers {
        writeln!(out, "{manager:<18} {count:>10} records {bytes:>14} bytes")?;
    }
    for ((relation, kind), rows) in &stats.rows {
        writeln!(out, "{:<24} {kind:?} {rows}", relation.to_string())?;
    }
    writeln!(out, "{} damages", stats.damages)?;
    out.flush()
}
