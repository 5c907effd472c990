//! Segments in files.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use pitr_core::{PageHeader, SegmentName, SegmentNumber, WalReader, WalSegmentSize};

/// A whole segment.
pub(crate) struct Segment {
    pub(crate) name: SegmentName,
    pub(crate) bytes: Vec<u8>,
}

impl Segment {
    fn new(name: SegmentName, bytes: Vec<u8>) -> Self {
        Segment { name, bytes }
    }

    pub(crate) fn size(&self) -> WalSegmentSize {
        WalSegmentSize::new(self.bytes.len() as u64).expect("a whole segment")
    }

    pub(crate) fn number(&self) -> SegmentNumber {
        self.name.number(self.size()).expect("a name of this size")
    }

    pub(crate) fn header(&self) -> PageHeader {
        PageHeader::parse(&self.bytes).expect("a page header")
    }

    pub(crate) fn major(&self) -> u16 {
        self.header().major.get()
    }

    pub(crate) fn reader(&self) -> WalReader {
        // every record is taken apart, however long
        WalReader::new(self.number(), self.size()).hold_at_most(usize::MAX)
    }
}

/// A fixture, by the folder of its version.
pub(crate) fn kept(version: &str, name: &str) -> Segment {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(version)
        .join(format!("{name}.gz"));
    let packed = std::fs::read(&path).expect("the fixture");
    let mut bytes = Vec::new();
    GzDecoder::new(&packed[..])
        .read_to_end(&mut bytes)
        .expect("gzip");
    Segment::new(name.parse().expect("a name"), bytes)
}

/// The segments in `folder` that hold what their names say, in the order of their names; not the recycled ones.
pub(crate) fn in_folder(folder: &Path) -> Vec<Segment> {
    let mut segments: Vec<Segment> = std::fs::read_dir(folder)
        .expect("the folder")
        .filter_map(|entry| {
            let name = entry.expect("an entry").file_name().into_string().ok()?;
            let bytes = std::fs::read(folder.join(&name));
            let segment = Segment::new(name.parse().ok()?, bytes.expect("a file"));
            let start = segment.number().start(segment.size());
            let header = PageHeader::parse(&segment.bytes).ok()?;
            (header.page_address == start).then_some(segment)
        })
        .collect();
    segments.sort_by_key(|segment| segment.name.to_string());
    segments
}

/// Divided where one does not follow the other.
pub(crate) fn consecutive(segments: Vec<Segment>) -> Vec<Vec<Segment>> {
    let mut runs: Vec<Vec<Segment>> = Vec::new();
    for segment in segments {
        let follows = runs.last().and_then(|run| run.last()).is_some_and(|last| {
            last.name.timeline() == segment.name.timeline()
                && last.size() == segment.size()
                && last.major() == segment.major()
                && last.number().next() == segment.number()
        });
        match runs.last_mut() {
            Some(run) if follows => run.push(segment),
            _ => runs.push(vec![segment]),
        }
    }
    runs
}
