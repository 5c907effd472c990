//! A record on its way through several pages or chunks.

use crate::crc32c;
use crate::lsn::Lsn;
use crate::timeline::id::TimelineId;
use crate::wal::reader::part::RecordPart;
use crate::wal::record::header::RecordHeader;

/// A record that is being put together: its CRC as it comes, its bytes as far as they are to be held.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) lsn: Lsn,
    /// Timeline of the page on which it begins.
    pub(crate) timeline: TimelineId,
    /// Once its 24 bytes are there and have been checked.
    pub(crate) header: Option<RecordHeader>,
    /// Bytes from the beginning of the record, at most `held_of_this`.
    bytes: Vec<u8>,
    hold: usize,
    /// The same of a record that ends a transaction.
    hold_of_ends: usize,
    /// What is held of this record: one of these, or less where no more of it is asked for.
    held_of_this: usize,
    received: u64,
    /// CRC of the body up to `received`.
    crc: u32,
}

impl Assembly {
    pub(crate) fn new(hold: usize, hold_of_ends: usize) -> Self {
        Assembly {
            lsn: Lsn::INVALID,
            timeline: TimelineId::FIRST,
            header: None,
            bytes: Vec::new(),
            hold,
            hold_of_ends,
            held_of_this: hold,
            received: 0,
            crc: 0,
        }
    }

    /// Makes room for another record; the memory of the last one is kept for it.
    pub(crate) fn begin(&mut self, lsn: Lsn, timeline: TimelineId) {
        self.bytes.clear();
        (self.lsn, self.timeline, self.header) = (lsn, timeline, None);
        (self.received, self.crc) = (0, 0);
        self.held_of_this = self.hold;
    }

    /// Holds no more than so many bytes of this record, those of its header in any case.
    pub(crate) fn hold_of_this(&mut self, bytes: usize) {
        self.held_of_this = bytes.clamp(RecordHeader::LEN, self.hold);
    }

    /// Holds as much of this record as is held of one that ends a transaction.
    pub(crate) fn hold_as_end(&mut self) {
        self.held_of_this = self.hold_of_ends;
    }

    /// The record from its header on, as far as it is held.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The length that the record begins with; `None` before its four bytes are there.
    pub(crate) fn total_len(&self) -> Option<u32> {
        let bytes = self.bytes.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    }

    /// Bytes still to come.
    pub(crate) fn remaining(&self) -> Option<u64> {
        let total_len = u64::from(self.total_len()?);
        Some(total_len.saturating_sub(self.received))
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.header.is_some() && self.remaining() == Some(0)
    }

    /// Bytes that may be added before the record must be looked at again, of those that come next.
    pub(crate) fn wanted(&self, next: &[u8]) -> u64 {
        let until = |len: usize| (len as u64).saturating_sub(self.received);
        match self.header {
            Some(_) => self.remaining().unwrap_or(0),
            None if self.received == 0 => match next.first_chunk() {
                Some(len) if u32::from_le_bytes(*len) as usize >= RecordHeader::LEN => {
                    RecordHeader::LEN as u64
                }
                // the length first: nothing after an impossible one belongs to the record
                _ => 4,
            },
            None if self.received < 4 => until(4),
            None => until(RecordHeader::LEN),
        }
    }

    /// Adds what comes next, at most [`Assembly::wanted`] bytes.
    #[inline]
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if self.received >= RecordHeader::LEN as u64 {
            self.crc = crc32c::crc32c_append(self.crc, bytes);
        }
        self.received = self.received.saturating_add(bytes.len() as u64);
        let held = bytes
            .len()
            .min(self.held_of_this.saturating_sub(self.bytes.len()));
        if let Some(held) = bytes.get(..held) {
            self.grow(held.len());
            self.bytes.extend_from_slice(held);
        }
    }

    /// Twice as much each time, by what has come and never by what a length announces, and no more than is to be held.
    fn grow(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        let capacity = self.bytes.capacity();
        if needed > capacity {
            let target = needed.max(capacity.saturating_mul(2).min(self.held_of_this));
            self.bytes.reserve_exact(target - self.bytes.len());
        }
    }

    /// The record's CRC, once it is complete.
    pub(crate) fn crc(&self) -> u32 {
        let header = self.bytes.get(..RecordHeader::CRC_COVERS).unwrap_or(&[]);
        crc32c::crc32c_append(self.crc, header)
    }

    /// CRC of what has come of the body.
    pub(crate) fn body_crc(&self) -> u32 {
        self.crc
    }

    /// What has come of the record.
    pub(crate) fn part(&self) -> RecordPart {
        RecordPart::new(&self.bytes, self.received, self.crc)
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}
