//! Prints the summary of each segment as JSON: what the archiver leaves in
//! the stored object.
//!
//!     cargo run -p pitr-core --example summary -- FILE...

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use pitr_core::{PageHeader, SegmentSummaryBuilder, WalFileName};

fn main() -> Result<(), Box<dyn Error>> {
    for file in std::env::args_os().skip(1) {
        let path = Path::new(&file);
        let name = path.file_name().and_then(|name| name.to_str());
        let name: WalFileName = name.ok_or("a file without a name")?.parse()?;
        let bytes = std::fs::read(path)?;
        let size = PageHeader::parse(&bytes)?
            .long
            .ok_or("not the beginning of a segment")?
            .segment_size;
        let mut builder = match name {
            WalFileName::Segment(segment) => SegmentSummaryBuilder::new(segment, size)?,
            WalFileName::Partial(segment) => SegmentSummaryBuilder::of_partial(segment, size)?,
            _ => return Err(format!("{name} has no records").into()),
        };
        builder.feed(&bytes);
        let summary = builder.finish();
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&summary)?)?;
    }
    Ok(())
}
