//! Catalogs of a base backup and a log that changes them: nothing panics, what is found lies in the log and has a place
//! before it, and the same is found however the log is cut and in whatever order tables are hashed.
//!
//! Pages, links and CRCs are made right, so that every byte of the input gets to the replay: it is a few files, then
//! records, of which some are about rows of the catalogs that give names.
#![no_main]

use pitr_core::crc32c;
use std::collections::HashSet;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pitr_core::{
    CatalogFiles, DigestBuilder, Finding, Follower, Interest, PostgresMajor, SegmentNumber,
    Thresholds, WalSegmentSize,
};

const SEGMENT: u64 = 1 << 20;
const FIRST: u64 = 4;
const PAGE: usize = 8192;
/// Of 14 to 18.
const VERSIONS: [(u16, u16); 5] = [
    (14, 0xD10D),
    (15, 0xD110),
    (16, 0xD113),
    (17, 0xD116),
    (18, 0xD118),
];
/// Tablespace, database and file of what records are about: the naming catalogs, files that they may have moved to,
/// and a table.
const FILES: [[u32; 3]; 8] = [
    [1663, 5, 1259],
    [1663, 5, 2615],
    [1664, 0, 1262],
    [1663, 5, 16999],
    [1663, 6, 1259],
    [1664, 0, 16998],
    [1663, 5, 16384],
    [1700, 6, 16385],
];

fuzz_target!(|input: &[u8]| {
    let Some((files, rest)) = Files::take(input) else {
        return;
    };
    let [version, mode, cut, records @ ..] = rest else {
        return;
    };
    let (major, magic) = VERSIONS[usize::from(*version) % VERSIONS.len()];
    let major = PostgresMajor::new(major).unwrap();
    let log = Log::of(records, magic);
    let found = find(&files, &log, log.len(), major, *mode);
    let end = FIRST * SEGMENT + log.len() as u64;
    for finding in &found {
        assert!(finding.safe_lsn <= finding.lsn);
        assert!((FIRST * SEGMENT..end).contains(&finding.safe_lsn.get()));
        for object in finding.event.objects() {
            // 63 bytes, each of which may have been replaced by three
            assert!(object.to_string().len() < 3 * 200 + 100);
        }
    }
    let cut = 1 + usize::from(*cut) * 31;
    assert_eq!(find(&files, &log, cut, major, *mode), found);
});

fn find(files: &Files, log: &[u8], cut: usize, major: PostgresMajor, mode: u8) -> Vec<Finding> {
    let size = WalSegmentSize::new(SEGMENT).unwrap();
    let first = SegmentNumber::new(FIRST);
    let interest = Interest {
        catalog_files: if mode & 1 != 0 {
            HashSet::from([16998, 16999])
        } else {
            HashSet::new()
        },
        rows: mode & 2 != 0,
        quiet_micros: 1_000_000,
    };
    let mut builder =
        DigestBuilder::new(first, first.end(size), size, Arc::new(interest)).may_end();
    for chunk in log.chunks(cut.max(1)) {
        builder.feed(chunk);
    }
    let digest = builder.finish();
    let thresholds = Thresholds {
        min_rows: u64::from(mode >> 4),
        long_micros: 1,
        large_bytes: 1000,
        drops_only: mode & 4 != 0,
        xid: (mode & 8 != 0).then_some(700),
    };
    let mut follower = Follower::new(Box::new(files.clone()), major, thresholds, 1_000_000);
    follower.follow(&digest);
    let mut found = follower.findings();
    // a second stretch behind a hole knows the catalogs, and no open transaction
    follower.gap();
    assert!(!follower.has_open_changes());
    follower.follow(&digest);
    found.extend(follower.findings());
    found
}

/// Files of a base backup: two maps that are made right, three catalogs, and a piece of `pg_xact`.
#[derive(Clone)]
struct Files {
    maps: [Vec<u8>; 2],
    tables: [Vec<u8>; 3],
    commit_log: Vec<u8>,
}

impl Files {
    fn take(input: &[u8]) -> Option<(Self, &[u8])> {
        let (map, input) = field(input)?;
        let (shared_map, input) = field(input)?;
        let (class, input) = field(input)?;
        let (namespace, input) = field(input)?;
        let (database, input) = field(input)?;
        let (commit_log, input) = field(input)?;
        let files = Self {
            maps: [relation_map(map), relation_map(shared_map)],
            tables: [pages(class), pages(namespace), pages(database)],
            commit_log: commit_log.to_vec(),
        };
        Some((files, input))
    }
}

impl CatalogFiles for Files {
    fn map(&mut self, database: u32) -> Option<Vec<u8>> {
        match database {
            0 => Some(self.maps[1].clone()),
            5 => Some(self.maps[0].clone()),
            _ => None,
        }
    }

    fn table(&mut self, database: u32, file: u32) -> Option<Vec<u8>> {
        match (database, file) {
            (5, 1259 | 16999) => Some(self.tables[0].clone()),
            (5, 2615) => Some(self.tables[1].clone()),
            (0, 1262 | 16998) => Some(self.tables[2].clone()),
            _ => None,
        }
    }

    fn commit_log(&mut self, number: u32) -> Option<Vec<u8>> {
        (number == 0).then(|| self.commit_log.clone())
    }
}

/// Two bytes of length, and as many bytes as there are of it.
fn field(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    Some(rest.split_at(length))
}

/// A map of 512 bytes with its magic and checksum; as it is, where it is too long for one.
fn relation_map(content: &[u8]) -> Vec<u8> {
    if content.len() > 500 {
        return content.to_vec();
    }
    let mut map = 0x0059_2717_u32.to_le_bytes().to_vec();
    map.extend((content.len() as u32 / 8).to_le_bytes());
    map.extend(content);
    map.resize(504, 0);
    let checksum = crc32c::crc32c(&map);
    map.extend(checksum.to_le_bytes());
    map.resize(512, 0);
    map
}

/// Whole pages: what is left of the last one is zeros, as in a relation that was just extended.
fn pages(content: &[u8]) -> Vec<u8> {
    let mut pages = content.to_vec();
    pages.resize(pages.len().next_multiple_of(PAGE), 0);
    pages
}

/// Records one behind the other on pages of a log.
struct Log {
    bytes: Vec<u8>,
    magic: u16,
    last: u64,
}

impl Log {
    fn of(mut input: &[u8], magic: u16) -> Vec<u8> {
        let mut log = Self {
            bytes: Vec::new(),
            magic,
            last: 0,
        };
        while let [kind, xid, info, which, rest @ ..] = input {
            let Some((data, rest)) = field(rest) else {
                break;
            };
            input = rest;
            let xid = 700 + u32::from(*xid);
            let body;
            let manager = match kind % 4 {
                // any record whatever
                0 => {
                    body = data.to_vec();
                    *which
                }
                // one about a row or several: heap, or heap2
                1 | 2 => {
                    let Some((block, rest)) = field(data) else {
                        break;
                    };
                    body = about_rows(
                        FILES[usize::from(*which) % FILES.len()],
                        which / 8,
                        *info,
                        block,
                        rest,
                    );
                    if kind % 4 == 1 { 10 } else { 9 }
                }
                // the end of a transaction
                _ => {
                    body = main_data(data);
                    1
                }
            };
            if log.bytes.len() + body.len() + PAGE > SEGMENT as usize {
                break;
            }
            log.record(xid, *info, manager, &body);
        }
        log.bytes
    }

    fn record(&mut self, xid: u32, info: u8, manager: u8, body: &[u8]) {
        let mut record = (24 + body.len() as u32).to_le_bytes().to_vec();
        record.extend(xid.to_le_bytes());
        self.align();
        let begin = self.position();
        record.extend(self.last.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend(checksum.to_le_bytes());
        record.extend(body);
        self.last = begin;
        let mut rest = &record[..];
        while !rest.is_empty() {
            if self.bytes.len().is_multiple_of(PAGE) {
                self.page(if rest.len() == record.len() {
                    0
                } else {
                    rest.len()
                });
            }
            let room = PAGE - self.bytes.len() % PAGE;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        if self.bytes.len().is_multiple_of(PAGE) {
            self.page(0);
        }
    }

    fn position(&self) -> u64 {
        FIRST * SEGMENT + self.bytes.len() as u64
    }

    fn page(&mut self, remaining: usize) {
        let (address, is_first) = (self.position(), self.bytes.is_empty());
        let flags = u16::from(remaining > 0) | if is_first { 2 } else { 0 };
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend((remaining as u32).to_le_bytes());
        self.bytes.extend([0; 4]);
        if is_first {
            self.bytes.extend(7_u64.to_le_bytes());
            self.bytes.extend((SEGMENT as u32).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }
}

/// A block with its data, then what the record says of it.
fn about_rows(file: [u32; 3], block: u8, info: u8, data: &[u8], main: &[u8]) -> Vec<u8> {
    let has_data = if data.is_empty() { 0 } else { 0x20 };
    let will_init = if info & 0x80 != 0 { 0x40 } else { 0 };
    let mut body = vec![0, has_data | will_init];
    body.extend((data.len() as u16).to_le_bytes());
    for number in file {
        body.extend(number.to_le_bytes());
    }
    body.extend(u32::from(block).to_le_bytes());
    let main = main.get(..255).unwrap_or(main);
    body.extend([0xFF, main.len() as u8]);
    body.extend(data);
    body.extend(main);
    body
}

fn main_data(data: &[u8]) -> Vec<u8> {
    let mut body = vec![0xFE];
    body.extend((data.len() as u32).to_le_bytes());
    body.extend(data);
    body
}
