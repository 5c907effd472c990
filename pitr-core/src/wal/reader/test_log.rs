//! A log as a server would write it, for tests.

use crate::crc32c;
use crate::wal::segment_size::WalSegmentSize;

pub(crate) const SEGMENT: u64 = 1 << 20;
pub(crate) const PAGE: u64 = 8192;
pub(crate) const MAGIC_15: u16 = 0xD110;
pub(crate) const SYSTEM: u64 = 7_574_012_345_678_901_235;

/// Writes records behind one another, with page headers where they belong.
#[derive(Debug, Clone)]
pub(crate) struct TestLog {
    pub(crate) bytes: Vec<u8>,
    start: u64,
    prev: u64,
    pub(crate) timeline: u32,
    pub(crate) magic: u16,
}

impl TestLog {
    /// A log that begins with segment 4, after a record at `prev`.
    pub(crate) fn new(prev: u64) -> Self {
        TestLog {
            bytes: Vec::new(),
            start: 4 * SEGMENT,
            prev,
            timeline: 1,
            magic: MAGIC_15,
        }
    }

    pub(crate) fn size() -> WalSegmentSize {
        WalSegmentSize::new(SEGMENT).unwrap()
    }

    pub(crate) fn position(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn page_header(&mut self, info: u16, remaining: usize) {
        let position = self.position();
        let long = position.is_multiple_of(SEGMENT);
        let info = info | if long { 2 } else { 0 };
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend(info.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(position.to_le_bytes());
        let remaining = u32::try_from(remaining).unwrap();
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(SYSTEM.to_le_bytes());
            self.bytes
                .extend(u32::try_from(SEGMENT).unwrap().to_le_bytes());
            self.bytes
                .extend(u32::try_from(PAGE).unwrap().to_le_bytes());
        }
    }

    /// Begins a page here, if a page ends here.
    pub(crate) fn open_page(&mut self, info: u16) {
        if self.position().is_multiple_of(PAGE) {
            self.page_header(info, 0);
        }
    }

    /// Begins a page that goes on with a record of which `remaining` bytes are missing.
    pub(crate) fn continue_page(&mut self, remaining: usize) {
        self.page_header(1, remaining);
    }

    /// The same log without the bytes that it has so far.
    pub(crate) fn forget(self) -> Self {
        TestLog {
            start: self.position(),
            bytes: Vec::new(),
            ..self
        }
    }

    /// Puts `bytes` on the pages from here on, as the rest of a record where a page begins.
    pub(crate) fn spread(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.position().is_multiple_of(PAGE) {
                self.page_header(1, bytes.len());
            }
            let room = usize::try_from(PAGE - self.position() % PAGE).unwrap();
            let (here, rest) = bytes.split_at(room.min(bytes.len()));
            self.bytes.extend(here);
            bytes = rest;
        }
        self.align();
    }

    fn align(&mut self) {
        while !self.position().is_multiple_of(8) {
            self.bytes.push(0);
        }
    }

    /// The bytes of a record that would be written here, and where its beginning would be.
    pub(crate) fn record(&mut self, manager: u8, info: u8, main_data: &[u8]) -> (u64, Vec<u8>) {
        self.open_page(0);
        let mut body = Vec::new();
        match u8::try_from(main_data.len()) {
            Ok(0) => {}
            Ok(len) => body.extend([255, len]),
            Err(_) => {
                body.push(254);
                body.extend(u32::try_from(main_data.len()).unwrap().to_le_bytes());
            }
        }
        body.extend(main_data);
        let mut record = Vec::new();
        record.extend(u32::try_from(24 + body.len()).unwrap().to_le_bytes());
        record.extend(700u32.to_le_bytes());
        record.extend(self.prev.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &record);
        record.extend(crc.to_le_bytes());
        record.extend(body);
        (self.position(), record)
    }

    /// Writes a record and gives its position.
    pub(crate) fn push(&mut self, manager: u8, info: u8, main_data: &[u8]) -> u64 {
        let (lsn, record) = self.record(manager, info, main_data);
        self.spread(&record);
        self.prev = lsn;
        lsn
    }

    /// Writes a record of the resource manager for sequences, which nobody here understands.
    pub(crate) fn push_data(&mut self, len: usize) -> u64 {
        let data: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        self.push(15, 0, &data)
    }

    /// Begins timeline `timeline` here: with a record of the end of recovery.
    pub(crate) fn push_end_of_recovery(&mut self, timeline: u32) -> u64 {
        let mut data = 848_474_700_721_052i64.to_le_bytes().to_vec();
        data.extend(timeline.to_le_bytes());
        data.extend(self.timeline.to_le_bytes());
        // pages that begin from here on are the new timeline's
        self.open_page(0);
        self.timeline = timeline;
        self.push(0, 0x90, &data)
    }

    /// Ends the segment early.
    pub(crate) fn push_switch(&mut self) -> u64 {
        let lsn = self.push(0, 0x40, &[]);
        self.zeros_to(SEGMENT);
        lsn
    }

    /// Zeros up to the next multiple of `boundary`.
    pub(crate) fn zeros_to(&mut self, boundary: u64) {
        while !self.position().is_multiple_of(boundary) {
            self.bytes.push(0);
        }
    }
}
