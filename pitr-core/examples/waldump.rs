//! Prints one line for each record of consecutive segments, in the columns of `pg_waldump`.
//!
//!     cargo run -p pitr-core --example waldump -- FILE...
//!
//! The files may be of any supported version of PostgreSQL, and are named in
//! order. In the last one, if its name does not end as that of a complete
//! segment does (24 hex digits), the log may end early. Damage goes to
//! standard error; the exit code is then 1.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use pitr_core::{Fork, Lsn, PageHeader, Record, SegmentName, SegmentNumber, WalReader};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let files: Vec<_> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let mut out = BufWriter::new(io::stdout().lock());
    let damaged = print(&files, &mut out)?;
    Ok(ExitCode::from(u8::from(damaged)))
}

/// Whether there was damage.
pub(crate) fn print(files: &[PathBuf], out: &mut impl Write) -> Result<bool, Box<dyn Error>> {
    let first = files.first().ok_or("usage: waldump FILE...")?;
    let mut reader = reader_for(first)?;
    let mut damaged = false;
    for path in files {
        if !is_complete(path) {
            reader = reader.may_end();
        }
        damaged |= dump(path, &mut reader, out)?;
    }
    if let Some(end) = reader.end_of_log() {
        writeln!(
            io::stderr(),
            "the log ends at {}: {}",
            end.good_until(),
            end.kind
        )?;
    }
    out.flush()?;
    Ok(damaged)
}

/// A reader that begins where the file says that it stands in the log.
fn reader_for(path: &Path) -> Result<WalReader, Box<dyn Error>> {
    let mut first_bytes = [0; PageHeader::LONG_LEN];
    File::open(path)?.read_exact(&mut first_bytes)?;
    let header = PageHeader::parse(&first_bytes)?;
    let long = header.long.ok_or("not the beginning of a segment")?;
    let number = SegmentNumber::containing(header.page_address, long.segment_size);
    Ok(WalReader::new(number, long.segment_size))
}

fn is_complete(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.parse::<SegmentName>().is_ok())
}

/// Whether there was damage.
fn dump(path: &Path, reader: &mut WalReader, out: &mut impl Write) -> Result<bool, Box<dyn Error>> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; CHUNK];
    let mut damaged = false;
    loop {
        let len = file.read(&mut chunk)?;
        let Some(bytes) = chunk.get(..len).filter(|bytes| !bytes.is_empty()) else {
            return Ok(damaged);
        };
        let mut records = reader.feed(bytes);
        while let Some(record) = records.next_record() {
            match record {
                Ok(record) => line(&record, out)?,
                Err(damage) => {
                    damaged = true;
                    out.flush()?;
                    writeln!(io::stderr(), "{}: damaged {damage}", path.display())?;
                }
            }
        }
    }
}

fn line(record: &Record<'_>, out: &mut impl Write) -> io::Result<()> {
    let header = record.header();
    let body = record.body();
    let image_bytes = body.as_ref().map_or(0, |body| body.image_bytes());
    write!(
        out,
        "rmgr: {:<11} len (rec/tot): {:>6}/{:>6}, tx: {:>10}, lsn: {}, prev {}, desc: ",
        header.resource_manager,
        header.total_len as usize - image_bytes,
        header.total_len,
        header.xid,
        padded(record.lsn()),
        padded(header.prev),
    )?;
    match record.contents() {
        Ok(contents) => write!(out, "{contents}")?,
        Err(error) => write!(out, "({error})")?,
    }
    if let Ok(body) = &body {
        for block in body.blocks() {
            write!(out, ", blkref #{}: rel {}", block.id, block.relation)?;
            if block.fork != Fork::Main {
                write!(out, " fork {}", block.fork)?;
            }
            write!(out, " blk {}", block.block)?;
            if block.image.is_some() {
                write!(out, " FPW")?;
            }
        }
    }
    writeln!(out)
}

/// As `pg_waldump` prints positions: eight digits in the lower half.
fn padded(lsn: Lsn) -> String {
    format!("{:X}/{:08X}", lsn.get() >> 32, lsn.get() & 0xFFFF_FFFF)
}
