//! One segment of a log, read beside others.

use crate::lsn::Lsn;
use crate::wal::reader::WalReader;
use crate::wal::reader::damage::WalDamage;
use crate::wal::record::Record;
use crate::wal::seam::LogEdges;
use crate::wal::segment_number::SegmentNumber;
use crate::wal::segment_size::WalSegmentSize;

/// Finds the records that begin in one segment, so that all processors can read a log: each its own segment.
///
/// It is fed the segment, in chunks of any size, and then the beginning of the
/// segments behind it for as long as [`SegmentScan::feed`] asks for more: the
/// last record may end there. So every record comes out of exactly one scan,
/// whole and with its CRC proven. That the segments belong together is for
/// [`LogSeams`](crate::LogSeams) to tell, from the [`SegmentScan::edges`] of each.
///
/// ```
/// use pitr_core::{SegmentNumber, SegmentScan, WalSegmentSize};
///
/// /// How many records begin in the segment that is `log[0]`; behind it comes the rest of the log.
/// fn count(number: SegmentNumber, size: WalSegmentSize, log: &[&[u8]]) -> u64 {
///     let mut scan = SegmentScan::new(number, size);
///     let mut count = 0;
///     for segment in log {
///         if !scan.feed(segment, |record| count += u64::from(record.is_ok())) {
///             break;
///         }
///     }
///     count
/// }
/// ```
#[derive(Debug)]
pub struct SegmentScan {
    reader: WalReader,
    end: Lsn,
    edges: Option<LogEdges>,
}

/// What is fed of the next segment at a time: it is that segment's own scan that reads all of it.
const PIECE: usize = 4096;

impl SegmentScan {
    /// Begins with the first byte of segment `number`, of a cluster whose segments are of `size`.
    pub fn new(number: SegmentNumber, size: WalSegmentSize) -> Self {
        Self::of(WalReader::new(number, size))
    }

    /// Reads with `reader`, which has been fed nothing.
    pub fn of(reader: WalReader) -> Self {
        let size = reader.segment_size;
        SegmentScan {
            end: SegmentNumber::containing(reader.position(), size).end(size),
            reader,
            edges: None,
        }
    }

    /// Reads on, and shows `each` the records that begin in the segment, and damage. Gives whether there must be more.
    ///
    /// Behind the segment, what comes after the end of its last record is passed over.
    pub fn feed(
        &mut self,
        chunk: &[u8],
        mut each: impl FnMut(Result<Record<'_>, WalDamage>),
    ) -> bool {
        let room = self.end.get().saturating_sub(self.reader.position().get());
        let room = usize::try_from(room).map_or(chunk.len(), |room| room.min(chunk.len()));
        let (own, behind) = chunk.split_at(room);
        let mut records = self.reader.feed(own);
        loop {
            while let Some(record) = records.next_proven() {
                each(Ok(record));
            }
            match records.next_by_itself() {
                Some(found) => each(found),
                None => break,
            }
        }
        drop(records);
        if self.reader.position() < self.end {
            return true;
        }
        if self.edges.is_none() {
            self.edges = Some(self.reader.edges());
        }
        for piece in behind.chunks(PIECE) {
            if !self.goes_on() {
                break;
            }
            let mut records = self.reader.feed(piece);
            while let Some(found) = records.next_record() {
                let begins = match &found {
                    Ok(record) => record.lsn(),
                    Err(damage) => damage.good_until(),
                };
                if begins < self.end {
                    each(found);
                }
            }
        }
        self.goes_on()
    }

    /// Whether the segment has been read and a record that begins in it is not complete.
    fn goes_on(&self) -> bool {
        let unfinished = self.reader.unfinished().and_then(|record| record.lsn);
        unfinished.is_some_and(|lsn| lsn < self.end)
    }

    /// How the segment begins and ends; `None` before all of it has been fed.
    pub const fn edges(&self) -> Option<&LogEdges> {
        self.edges.as_ref()
    }

    /// The reader: version, timeline, end of the log.
    pub const fn reader(&self) -> &WalReader {
        &self.reader
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::reader::test_log::{SEGMENT, TestLog};
    use crate::wal::seam::LogSeams;

    const SEGMENT_LEN: usize = 1 << 20;

    fn log() -> TestLog {
        let mut log = TestLog::new(4 * SEGMENT - 24);
        for len in [100, SEGMENT_LEN, 2 * SEGMENT_LEN + 5000, 40] {
            log.push_data(len);
        }
        for number in 0..9000 {
            log.push_data(number * 13 % 200);
        }
        log.push_switch();
        log.push_data(10);
        log.zeros_to(SEGMENT);
        log
    }

    /// Positions of all records, segment by segment, and damage.
    fn scanned(log: &[u8], chunk: usize) -> (Vec<u64>, Vec<WalDamage>) {
        let (mut found, mut damages, mut seams) = (Vec::new(), Vec::new(), LogSeams::default());
        for begin in (0..log.len()).step_by(SEGMENT_LEN) {
            let number = SegmentNumber::new(4 + (begin / SEGMENT_LEN) as u64);
            let reader = WalReader::new(number, TestLog::size()).may_end();
            let mut scan = SegmentScan::of(reader);
            for chunk in log[begin..].chunks(chunk) {
                let more = scan.feed(chunk, |record| match record {
                    Ok(record) => {
                        assert!(record.bytes().is_some());
                        found.push(record.lsn().get());
                    }
                    Err(damage) => damages.push(damage),
                });
                if !more {
                    break;
                }
            }
            damages.extend(seams.add(scan.edges().unwrap()));
        }
        (found, damages)
    }

    #[test]
    fn every_record_comes_out_of_exactly_one_scan() {
        let log = log();
        let mut expected = Vec::new();
        let mut reader = WalReader::new(SegmentNumber::new(4), TestLog::size()).may_end();
        let mut records = reader.feed(&log.bytes);
        while let Some(record) = records.next_record() {
            expected.push(record.unwrap().lsn().get());
        }
        assert!(expected.len() > 9000);
        for chunk in [1 << 18, 5000, SEGMENT_LEN + 17, log.bytes.len()] {
            assert_eq!(scanned(&log.bytes, chunk), (expected.clone(), Vec::new()));
        }
    }

    #[test]
    fn a_record_that_is_damaged_behind_its_segment_is_told_by_the_scan_that_it_begins_in() {
        let log = log();
        let mut bytes = log.bytes.clone();
        bytes[SEGMENT_LEN + 80] ^= 1;
        let (_, damages) = scanned(&bytes, 1 << 18);
        assert!(!damages.is_empty());
        assert!(
            damages
                .iter()
                .all(|damage| damage.good_until().get() < 5 * SEGMENT)
        );
    }
}
