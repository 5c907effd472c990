//! The CRCs of many short records, proven at once.

use crate::crc32c;
use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::wal::reader::{ALIGNMENT, State, WalReader};
use crate::wal::record::Record;
use crate::wal::record::header::RecordHeader;
use crate::wal::record::resource_manager::ResourceManager;

/// Longest record that is proven together with others: for longer ones a call of its own costs little.
const LONGEST: usize = 1024;

/// Bodies are copied in blocks of this many bytes, most of them in one; what is too much is overwritten by what follows.
const BLOCK: usize = 64;

/// CRC of anything that its own CRC is appended to, least significant byte first.
const RESIDUE: u32 = 0x4867_4BC7;

/// Records whose CRCs were proven together, before the first of them is handed out.
///
/// A CRC call costs as much for the two dozen bytes of a header as for
/// hundreds, and a record needs two, since its CRC covers the body first and
/// the header after it. So the records of a page are put behind one another
/// in that order, each with its stored CRC at its end. Wherever a right CRC
/// ends, the state of the computation is the same constant, from which the
/// first four bytes of the next record lead it on as if it began anew. At the
/// end that constant comes out exactly if it did after every record, except
/// that the errors of two records may cancel each other out, for which the odds are
/// those of any error of passing a CRC: 1 in 2^32. Otherwise something is wrong with
/// one of them, and each is proven by itself.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// End of the last record that is proven, in the chunk that was fed last; before the first, 0.
    until: u64,
    /// Up to here records are proven one by one.
    singly_until: u64,
    /// Bodies and headers in the order in which the CRC covers them.
    stream: Vec<u8>,
    /// Where the records begin that were asked for, counted from the first one.
    picked: Vec<u16>,
}

/// Records that were proven together and passed over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passed {
    pub(crate) records: u64,
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
}

/// What a proof covers.
#[derive(Debug, Clone, Copy)]
struct Proven {
    /// Records.
    records: u64,
    /// Bytes, from the beginning of the first to the end of the last.
    bytes: usize,
    /// Where the last one begins, counted from the first one.
    last: usize,
    /// How many of them were picked.
    picked: usize,
}

impl Proof {
    /// What was proven of the last chunk says nothing of the next.
    pub(super) fn forget(&mut self) {
        (self.until, self.singly_until) = (0, 0);
    }

    /// Proves the records from `begin` on, as far as they lie whole in `here`, which ends with the page or earlier.
    ///
    /// Those that `picks` wants are noted, by their header and the bytes from their beginning on.
    fn prove(
        &mut self,
        here: &[u8],
        begin: u64,
        mut prev: Lsn,
        major: PostgresMajor,
        picks: impl Fn(&RecordHeader, &[u8]) -> bool,
    ) -> Option<Proven> {
        if self.stream.len() < here.len() + BLOCK {
            self.stream.resize(here.len() + BLOCK, 0);
        }
        let most = here.len() / RecordHeader::LEN + 1;
        if self.picked.len() < most {
            self.picked.resize(most, 0);
        }
        let (mut offset, mut end, mut filled) = (0, 0, 0);
        let (mut records, mut last, mut picked) = (0, 0, 0);
        while let Some(rest) = here.get(offset..)
            && let Some(header) = rest.first_chunk()
        {
            let Some(header) = short_header(header, prev, major) else {
                break;
            };
            let len = header.total_len as usize;
            let Some(()) = self.append(rest, len, filled) else {
                break;
            };
            filled += len;
            // written whether it is wanted or not: what comes next could not be guessed
            *self.picked.get_mut(picked)? = u16::try_from(offset).ok()?;
            picked += usize::from(picks(&header, rest));
            (records, last) = (records + 1, offset);
            prev = Lsn::new(begin + offset as u64);
            end = offset + len;
            offset = (end + 7) & !7;
        }
        let stream = self.stream.get(..filled).unwrap_or(&[]);
        if filled == 0 {
            // a single one that does not lend itself to this: the next may
            None
        } else if crc32c::crc32c(stream) == RESIDUE {
            self.until = begin + end as u64;
            Some(Proven {
                records,
                bytes: end,
                last,
                picked,
            })
        } else {
            self.singly_until = begin + here.len() as u64;
            None
        }
    }

    /// Puts the record of `len` bytes that `rest` begins with into the stream, from `at` on; `None` if it is not whole.
    fn append(&mut self, rest: &[u8], len: usize, at: usize) -> Option<()> {
        let record = rest.get(..len)?;
        let (head, body) = record.split_first_chunk::<{ RecordHeader::LEN }>()?;
        let target = self.stream.get_mut(at..)?;
        match (
            rest.get(RecordHeader::LEN..)?.first_chunk::<BLOCK>(),
            target.first_chunk_mut(),
        ) {
            // no loop and no length that could be guessed wrongly
            (Some(source), Some(target)) if body.len() <= BLOCK => *target = *source,
            _ => target.get_mut(..body.len())?.copy_from_slice(body),
        }
        *target.get_mut(body.len()..)?.first_chunk_mut()? = *head;
        if at > 0 {
            let first = target.first_chunk_mut::<4>()?;
            *first = (u32::from_le_bytes(*first) ^ RESIDUE).to_le_bytes();
        }
        Some(())
    }
}

/// The header of a short record without influence on the reader's state, if it is one and passes every check.
///
/// The log's own records are left to those who look at what they say.
#[inline]
fn short_header(
    bytes: &[u8; RecordHeader::LEN],
    prev: Lsn,
    major: PostgresMajor,
) -> Option<RecordHeader> {
    let header = RecordHeader::from_bytes(bytes).ok()?;
    let plain = header.total_len as usize <= LONGEST
        && header.prev == prev
        && header.resource_manager != ResourceManager::XLOG
        && header.resource_manager.exists_in(major);
    plain.then_some(header)
}

impl WalReader {
    /// The record that comes next, if it is one of those that can be proven together with their neighbours.
    ///
    /// `None` says nothing about it.
    #[inline]
    pub(super) fn proven_record<'i>(&mut self, input: &mut &'i [u8]) -> Option<Record<'i>> {
        let padding = self.position.wrapping_neg() & (ALIGNMENT - 1);
        let begin = self.position.wrapping_add(padding);
        if begin >= self.proof.until && !self.prove_from(begin, padding, input) {
            return None;
        }
        let rest = input.get(usize::try_from(padding).ok()?..)?;
        let header = RecordHeader::from_bytes(rest.first_chunk()?).ok()?;
        let (bytes, rest) = rest.split_at_checked(header.total_len as usize)?;
        *input = rest;
        let lsn = Lsn::new(begin);
        self.position = begin + u64::from(header.total_len);
        self.prev = Some(lsn);
        Some(Record {
            lsn,
            next: Lsn::new((self.position + (ALIGNMENT - 1)) & !(ALIGNMENT - 1)),
            major: self.major?,
            timeline: self.page_timeline,
            header,
            bytes,
        })
    }

    /// Whether the record at `begin`, after the padding that `input` begins with, is proven now.
    #[inline(never)]
    fn prove_from(&mut self, begin: u64, padding: u64, input: &[u8]) -> bool {
        self.prove_page(begin, padding, input, |_, _| false);
        begin < self.proof.until
    }

    /// Proves the records from `begin` to the end of the page, after the padding that `input` begins with.
    #[inline]
    fn prove_page(
        &mut self,
        begin: u64,
        padding: u64,
        input: &[u8],
        picks: impl Fn(&RecordHeader, &[u8]) -> bool,
    ) -> Option<Proven> {
        let (State::Boundary, Some(prev), Some(major)) = (self.state, self.prev, self.major) else {
            return None;
        };
        if self.overwrites || self.unsure || self.unannounced.is_some() {
            return None;
        }
        let in_page = begin & (self.block_size - 1);
        if in_page < self.page_header_len(begin) || begin < self.proof.singly_until {
            return None;
        }
        // what ends with the address space is nothing that a server wrote
        begin.checked_add(self.block_size)?;
        let room = usize::try_from(self.block_size - in_page).ok()?;
        let here = input.get(usize::try_from(padding).ok()?..)?;
        let here = here.get(..room).unwrap_or(here);
        self.proof.prove(here, begin, prev, major, picks)
    }

    /// Passes over the records that can be proven together, but for those that `picks` wants: `each` sees them.
    ///
    /// `picks` is asked before anything is proven, with the record's header and the bytes from its beginning on, which
    /// may end before it does or long after. `None` says nothing about the next record.
    #[inline]
    pub(super) fn pass_proven<'i>(
        &mut self,
        input: &mut &'i [u8],
        picks: impl Fn(&RecordHeader, &[u8]) -> bool,
        mut each: impl FnMut(&Record<'i>),
    ) -> Option<Passed> {
        let padding = self.position.wrapping_neg() & (ALIGNMENT - 1);
        let begin = self.position.wrapping_add(padding);
        if begin < self.proof.until {
            // begun record by record
            return None;
        }
        let proven = self.prove_page(begin, padding, input, picks)?;
        let (major, timeline) = (self.major?, self.page_timeline);
        let here = input.get(usize::try_from(padding).ok()?..)?;
        let (here, rest) = here.split_at_checked(proven.bytes)?;
        *input = rest;
        self.position = begin + proven.bytes as u64;
        let last = Lsn::new(begin + proven.last as u64);
        self.prev = Some(last);
        for offset in self.proof.picked.get(..proven.picked)? {
            let bytes = here.get(usize::from(*offset)..)?;
            let header = RecordHeader::from_bytes(bytes.first_chunk()?).ok()?;
            let bytes = bytes.get(..header.total_len as usize)?;
            let lsn = begin + u64::from(*offset);
            let end = lsn + u64::from(header.total_len);
            each(&Record {
                lsn: Lsn::new(lsn),
                next: Lsn::new((end + (ALIGNMENT - 1)) & !(ALIGNMENT - 1)),
                major,
                timeline,
                header,
                bytes,
            });
        }
        Some(Passed {
            records: proven.records,
            first: Lsn::new(begin),
            last,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wal::reader::test_log::{PAGE, TestLog};

    /// Proves the first page of a log, from its second record on; gives how far, from the page's beginning.
    fn proven(log: &[u8], first: u64, second: u64) -> u64 {
        let begin = second - 4 * crate::wal::reader::test_log::SEGMENT;
        let page = &log[..usize::try_from(PAGE).unwrap().min(log.len())];
        let mut proof = Proof::default();
        let major = PostgresMajor::new(15).unwrap();
        let here = &page[usize::try_from(begin).unwrap()..];
        proof.prove(here, second, Lsn::new(first), major, |_, _| false);
        proof.until
    }

    #[test]
    fn records_of_any_length_are_proven_together() {
        let mut log = TestLog::new(0);
        let first = log.push_data(3);
        let second = log.push_data(0);
        for len in [1, 2, 3, 7, 8, 9, 31, 32, 33, 100, 255, 256, 900] {
            log.push_data(len);
        }
        let end = log.position();
        let until = proven(&log.bytes, first, second);
        assert_eq!(until.next_multiple_of(8), end);
    }

    #[test]
    fn every_changed_bit_is_noticed_in_whichever_record_it_is() {
        let mut log = TestLog::new(0);
        let first = log.push_data(3);
        let second = log.push_data(11);
        for len in [0, 5, 40, 16] {
            log.push_data(len);
        }
        let end = log.position();
        let begin = usize::try_from(second - 4 * crate::wal::reader::test_log::SEGMENT).unwrap();
        for position in begin..log.bytes.len() {
            for bit in 0..8 {
                let mut changed = log.bytes.clone();
                changed[position] ^= 1 << bit;
                let until = proven(&changed, first, second);
                // what is proven ends before the changed bit, or the bit is padding
                let lsn = second + (position - begin) as u64;
                let padding = until.next_multiple_of(8) == end
                    && log.bytes[position] == 0
                    && !covered(&log, lsn);
                assert!(until <= lsn || padding, "bit {bit} of {lsn:X}: {until:X}");
            }
        }
    }

    /// Whether the byte at `lsn` belongs to a record.
    fn covered(log: &TestLog, lsn: u64) -> bool {
        let mut reader = WalReader::new(
            crate::wal::segment_number::SegmentNumber::new(4),
            TestLog::size(),
        );
        let mut records = reader.feed(&log.bytes);
        while let Some(record) = records.next_record() {
            let record = record.unwrap();
            let begin = record.lsn().get();
            if (begin..begin + u64::from(record.header().total_len)).contains(&lsn) {
                return true;
            }
        }
        false
    }

    #[test]
    fn whoever_passes_over_records_sees_those_that_were_picked_and_counts_them_all() {
        let mut log = TestLog::new(0);
        for number in 0..2000 {
            log.push_data(number * 37 % 1500);
        }
        let first = crate::wal::segment_number::SegmentNumber::new(4);
        let picks = |header: &RecordHeader| header.total_len.is_multiple_of(3);
        let mut expected = Vec::new();
        let mut reader = WalReader::new(first, TestLog::size());
        let mut records = reader.feed(&log.bytes);
        while let Some(record) = records.next_record() {
            let record = record.unwrap();
            expected.push((
                record.lsn(),
                record.end_lsn(),
                record.bytes().map(<[u8]>::to_vec),
            ));
        }
        assert_eq!(expected.len(), 2000);
        for chunk in [log.bytes.len(), 5000] {
            let (mut seen, mut count, mut passed_over, mut last) = (Vec::new(), 0, 0, Lsn::INVALID);
            let mut see = |record: &Record<'_>| {
                seen.push((
                    record.lsn(),
                    record.end_lsn(),
                    record.bytes().map(<[u8]>::to_vec),
                ));
            };
            let mut reader = WalReader::new(first, TestLog::size());
            for chunk in log.bytes.chunks(chunk) {
                let mut records = reader.feed(chunk);
                loop {
                    while let Some(passed) =
                        records.pass_proven(|header, _| picks(header), &mut see)
                    {
                        assert!(last < passed.first && passed.first <= passed.last);
                        (count, last) = (count + passed.records, passed.last);
                        passed_over += passed.records;
                    }
                    let Some(record) = records.next_by_itself() else {
                        break;
                    };
                    let record = record.unwrap();
                    (count, last) = (count + 1, record.lsn());
                    if picks(record.header()) {
                        see(&record);
                    }
                }
            }
            assert_eq!(count, 2000);
            assert!(passed_over > 1000, "{passed_over}");
            let wanted =
                |(_, _, bytes): &&(_, _, Option<Vec<u8>>)| bytes.as_ref().unwrap().len() % 3 == 0;
            let wanted: Vec<_> = expected.iter().filter(wanted).cloned().collect();
            assert_eq!(seen, wanted);
        }
    }

    proptest! {
        /// Bytes that are no records prove nothing, whatever they look like.
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), len in 0u32..80) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_chunk_mut::<4>() {
                *first = len.to_le_bytes();
            }
            let mut proof = Proof::default();
            proof.prove(&bytes, 4096, Lsn::new(4000), PostgresMajor::new(15).unwrap(), |_, _| true);
            prop_assert_eq!(proof.until, 0);
        }
    }
}
