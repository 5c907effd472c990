//! Lists the commits of one segment: where, when, by which transaction, and what storage they removed.
//!
//!     cargo run -p pitr-core --example commits -- pg_wal/000000010000000000000004

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use pitr_core::{RecordContents, ResourceManager, SegmentName, WalReader, WalSegmentSize};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: commits FILE")?;
    let path = Path::new(&path);
    let segment = std::fs::read(path)?;

    // the name says where in the log the segment belongs, given the size of all segments
    let name = path.file_name().and_then(|name| name.to_str());
    let name: SegmentName = name.ok_or("the name is not text")?.parse()?;
    let size = WalSegmentSize::new(segment.len() as u64)?;
    let mut reader = WalReader::new(name.number(size)?, size);

    let mut out = BufWriter::new(io::stdout().lock());
    let mut records = reader.feed(&segment);
    while let Some(record) = records.next_record() {
        let record = match record {
            Ok(record) => record,
            Err(damage) => {
                writeln!(io::stderr(), "damaged {damage}")?;
                continue;
            }
        };
        // of other records only as much is held as memory is meant for: 4 MiB
        if record.header().resource_manager != ResourceManager::TRANSACTION {
            continue;
        }
        let RecordContents::Transaction(xact) = record.contents()? else {
            continue;
        };
        if let Some(commit) = xact.commit() {
            write!(out, "{} {} {}", record.lsn(), commit.time, commit.xid)?;
            for file in commit.dropped_files.iter() {
                write!(out, " -{file}")?;
            }
            writeln!(out)?;
        }
    }
    drop(records);
    if let Some(unfinished) = reader.unfinished() {
        writeln!(
            out,
            "the last record goes on in the next segment: {unfinished:?}"
        )?;
    }
    out.flush()?;
    Ok(())
}
