//! Bits that change in a file.

use std::ops::Range;

use pitr_core::{
    LogSeams, PageHeader, Record, SegmentSummary, SegmentSummaryBuilder, UnfinishedRecord,
    WalReader,
};

use crate::segments::Segment;

/// Bytes in a page.
const PAGE: usize = 8192;

/// How many bits to change: `PITR_TEST_FLIPS`, or a few.
pub(crate) fn wanted(few: usize) -> usize {
    std::env::var("PITR_TEST_FLIPS").map_or(few, |count| count.parse().expect("a number"))
}

/// Changes one bit after the other, at places drawn from all that are written in `run`.
///
/// Panics if one goes unnoticed that PostgreSQL covers. It does not cover
/// padding between records and in page headers, the flag that no backup ran,
/// the count of continued bytes where nothing is continued, and what follows a
/// segment switch: there a change may go unnoticed. A record at the end of the
/// run whose length has grown beyond it is noticed by the next segment, which
/// continues another record, or none. What reading the whole run notices, the
/// summaries of its segments, each read by itself, must notice together. Gives
/// what was noticed, by kind.
pub(crate) fn every_one_is_noticed(run: &[Segment], count: usize) -> String {
    let start = run[0].number().start(run[0].size()).get();
    let mut bytes: Vec<u8> = run
        .iter()
        .flat_map(|segment| &segment.bytes)
        .copied()
        .collect();
    let (covered, unfinished) = covered(&run[0], start, &bytes);
    let mut summaries: Vec<SegmentSummary> = run
        .iter()
        .map(|segment| summary(segment, &segment.bytes))
        .collect();
    assert_eq!(noticed_alone(&summaries, unfinished), None);
    let places: usize = covered.iter().map(Range::len).sum();
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..count {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let place = usize::try_from(random >> 8).expect("64 bits") % places;
        let bit = 1u8 << (random & 7);
        let position = nth(&covered, place);
        // the flag that no backup ran
        if position % PAGE == 2 && bit == 0x04 {
            continue;
        }
        bytes[position] ^= bit;
        let noticed = difference(run[0].reader(), &bytes, run[0].bytes.len(), unfinished);
        let segment = position / run[0].bytes.len();
        let begin = segment * run[0].bytes.len();
        let changed = &bytes[begin..begin + run[0].bytes.len()];
        let whole = std::mem::replace(&mut summaries[segment], summary(&run[segment], changed));
        let alone = noticed_alone(&summaries, unfinished);
        summaries[segment] = whole;
        bytes[position] ^= bit;
        let Some(kind) = noticed else {
            let lsn = start + position as u64;
            panic!(
                "bit {bit:#04X} at {lsn:X} of {} was not noticed",
                run[0].name
            );
        };
        *kinds.entry(kind).or_default() += 1;
        let lsn = start + position as u64;
        let alone =
            alone.unwrap_or_else(|| panic!("summaries tell nothing of {bit:#04X} at {lsn:X}"));
        *kinds.entry(alone.to_owned()).or_default() += 1;
    }
    format!(
        "{count} bits of {places} bytes from {} on: {kinds:?}",
        run[0].name
    )
}

fn summary(segment: &Segment, bytes: &[u8]) -> SegmentSummary {
    let mut builder = SegmentSummaryBuilder::new(segment.name, segment.size()).expect("a name");
    builder.feed(bytes);
    builder.finish()
}

/// Where the summaries show damage, or that another record is unfinished at the end.
fn noticed_alone(
    summaries: &[SegmentSummary],
    unfinished: Option<UnfinishedRecord>,
) -> Option<&'static str> {
    if summaries.iter().any(SegmentSummary::is_damaged) {
        return Some("in a summary");
    }
    let mut seams = LogSeams::default();
    let edges = summaries.iter().filter_map(SegmentSummary::edges);
    if edges.filter_map(|edges| seams.add(&edges)).next().is_some() {
        return Some("between summaries");
    }
    let found = summaries.last().and_then(|summary| summary.unfinished);
    let missing = |record: UnfinishedRecord| record.remaining;
    (found.map(|found| found.missing_bytes) != unfinished.map(missing)).then_some("at the end")
}

/// The first damage, by its kind, or that another record is unfinished at the end.
fn difference(
    mut reader: WalReader,
    bytes: &[u8],
    chunk: usize,
    unfinished: Option<UnfinishedRecord>,
) -> Option<String> {
    for segment in bytes.chunks(chunk) {
        let mut records = reader.feed(segment);
        while let Some(record) = records.next_record() {
            if let Err(damage) = record {
                let kind = format!("{:?}", damage.kind);
                let word = kind.split([' ', '(']).next();
                return word.map(str::to_owned);
            }
        }
    }
    (reader.unfinished() != unfinished).then(|| "unfinished".to_owned())
}

/// Everything that belongs to a record or to a page header that is in use; and what is unfinished at the end.
fn covered(
    first: &Segment,
    start: u64,
    bytes: &[u8],
) -> (Vec<Range<usize>>, Option<UnfinishedRecord>) {
    let mut reader = first.reader().may_end();
    let mut covered = Vec::new();
    let mut page = 0;
    let mut records = reader.feed(bytes);
    while let Some(record) = records.next_record() {
        let record = record.expect("an undamaged segment");
        let begin = usize::try_from(record.lsn().get() - start).expect("within the run");
        cover(begin, &record, bytes, &mut page, &mut covered);
    }
    drop(records);
    (covered, reader.unfinished())
}

fn cover(
    begin: usize,
    record: &Record<'_>,
    bytes: &[u8],
    next_page: &mut usize,
    covered: &mut Vec<Range<usize>>,
) {
    let mut position = begin;
    let mut missing = record.header().total_len as usize;
    let mut headers = |up_to: usize, covered: &mut Vec<Range<usize>>| {
        while *next_page <= up_to {
            let page = *next_page;
            *next_page += PAGE;
            // pages behind a segment switch are never written
            let Ok(header) = PageHeader::parse(&bytes[page..]) else {
                continue;
            };
            // what the first page continues is not there to be compared
            let counts = header.first_is_contrecord() && page > 0;
            covered.push(page..page + if counts { 20 } else { 16 });
            if header.is_long() {
                covered.push(page + PageHeader::SHORT_LEN..page + PageHeader::LONG_LEN);
            }
        }
    };
    headers(position, covered);
    while missing > 0 {
        if position.is_multiple_of(PAGE) {
            headers(position, covered);
            let header = PageHeader::parse(&bytes[position..]).expect("a page header");
            position += header.header_len();
        }
        let here = missing.min(PAGE - position % PAGE);
        covered.push(position..position + here);
        position += here;
        missing -= here;
    }
}

fn nth(ranges: &[Range<usize>], mut place: usize) -> usize {
    for range in ranges {
        if place < range.len() {
            return range.start + place;
        }
        place -= range.len();
    }
    unreachable!("places are counted from the same ranges")
}
