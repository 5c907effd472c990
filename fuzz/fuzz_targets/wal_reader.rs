//! A log in chunks: no bytes panic, and the same comes out however they are cut; its summary counts the same records
//! and has the CRC of all the bytes.
//!
//! So that chance gets past the first checks, the input may ask for page
//! headers, links and CRCs to be made right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_core::crc32c;
use pitr_core::{
    SegmentNumber, SegmentSummaryBuilder, WalDamage, WalDamageKind, WalReader, WalSegmentSize,
};

/// Of 13 to 19.
const MAGICS: [u16; 7] = [0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118, 0xD122];
const SEGMENT: u64 = 1 << 20;
const FIRST: u64 = 4;

fuzz_target!(|input: &[u8]| {
    let [mode, version, cut, log @ ..] = input else {
        return;
    };
    let mut log = log.to_vec();
    let page = if mode & 1 != 0 { 1024 } else { 8192 };
    if mode & 2 != 0 {
        make_pages(&mut log, page, MAGICS[usize::from(*version) % MAGICS.len()]);
    }
    let may_end = mode & 4 != 0;
    let mut events = read(&log, log.len(), may_end);
    if mode & 8 != 0 {
        for _ in 0..16 {
            if !mend(&mut log, &events, page) {
                break;
            }
            events = read(&log, log.len(), may_end);
        }
    }
    let cut = 1 + usize::from(*cut) * 7;
    assert_eq!(read(&log, cut, may_end), events);
    for chunk in [cut, log.len()] {
        sum_up(&log, chunk, may_end, &events);
    }
});

/// What is summed up agrees with the records that were read.
fn sum_up(log: &[u8], chunk: usize, may_end: bool, events: &[Result<(u64, u32), WalDamage>]) {
    let size = WalSegmentSize::new(SEGMENT).unwrap();
    let name = "000000010000000000000004".parse().unwrap();
    let builder = match may_end {
        true => SegmentSummaryBuilder::of_partial(name, size),
        false => SegmentSummaryBuilder::new(name, size),
    };
    let mut builder = builder.unwrap();
    for chunk in log.chunks(chunk.max(1)) {
        builder.feed(chunk);
    }
    let summary = builder.finish();
    assert_eq!(summary.crc32c, crc32c::crc32c(log));
    // the last one is what is unfinished
    let records: Vec<_> = events[..events.len() - 1].iter().flatten().collect();
    assert_eq!(summary.records, records.len() as u64);
    if summary.unfinished.is_none() {
        let last = records.last().map(|record| record.0);
        assert_eq!(summary.last_record.map(|lsn| lsn.get()), last);
    }
    let first = summary.first_record.map(|lsn| lsn.get());
    if let Some(record) = records.first() {
        assert_eq!(first, Some(record.0));
    }
}

/// Position and length of each record, or damage; the end and what is unfinished as the last ones.
fn read(log: &[u8], chunk: usize, may_end: bool) -> Vec<Result<(u64, u32), WalDamage>> {
    let size = WalSegmentSize::new(SEGMENT).unwrap();
    let mut reader = WalReader::new(SegmentNumber::new(FIRST), size).hold_at_most(0);
    if may_end {
        reader = reader.may_end();
    }
    let mut events = Vec::new();
    for chunk in log.chunks(chunk.max(1)) {
        let mut records = reader.feed(chunk);
        while let Some(record) = records.next_record() {
            events.push(record.map(|record| {
                let _ = record.contents();
                assert!(record.end_lsn() > record.lsn());
                (record.lsn().get(), record.header().total_len)
            }));
        }
    }
    assert_eq!(reader.position().get(), FIRST * SEGMENT + log.len() as u64);
    events.extend(reader.end_of_log().cloned().map(Err));
    let unfinished = reader.unfinished().and_then(|record| record.remaining);
    events.push(Ok((unfinished.unwrap_or(0), 0)));
    events
}

/// Headers that any page here would have; flags and continued length stay as they are.
fn make_pages(log: &mut [u8], page: usize, magic: u16) {
    for (number, bytes) in log.chunks_mut(page).enumerate() {
        let address = FIRST * SEGMENT + (number * page) as u64;
        let long = address.is_multiple_of(SEGMENT);
        if bytes.len() < 40 {
            return;
        }
        bytes[0..2].copy_from_slice(&magic.to_le_bytes());
        bytes[2] = bytes[2] & 0x0D | if long { 2 } else { 0 };
        bytes[3] = 0;
        bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
        bytes[8..16].copy_from_slice(&address.to_le_bytes());
        if long {
            bytes[24..32].copy_from_slice(&7u64.to_le_bytes());
            bytes[32..36].copy_from_slice(&(SEGMENT as u32).to_le_bytes());
            bytes[36..40].copy_from_slice(&(page as u32).to_le_bytes());
        }
    }
}

/// Makes the first link, CRC or continued length that is wrong right, where it lies on one page.
fn mend(log: &mut [u8], events: &[Result<(u64, u32), WalDamage>], page: usize) -> bool {
    for damage in events.iter().filter_map(|event| event.as_ref().err()) {
        let Some(at) = damage.lsn.get().checked_sub(FIRST * SEGMENT) else {
            continue;
        };
        let (offset, value) = match &damage.kind {
            WalDamageKind::Crc { computed, .. } => (20, computed.to_le_bytes().to_vec()),
            WalDamageKind::PrevLink { expected, .. } => {
                let prev = expected.map_or(0, |lsn| lsn.get());
                (8, prev.to_le_bytes().to_vec())
            }
            WalDamageKind::ContinuationLength { expected, .. } => {
                (16, (*expected as u32).to_le_bytes().to_vec())
            }
            _ => continue,
        };
        let begin = at as usize + offset;
        let end = begin + value.len();
        if at as usize / page != (end - 1) / page {
            continue;
        }
        if let Some(target) = log.get_mut(begin..end) {
            target.copy_from_slice(&value);
            return true;
        }
    }
    false
}
