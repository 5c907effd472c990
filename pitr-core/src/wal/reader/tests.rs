use crate::crc32c;
use proptest::prelude::*;

use super::test_log::{MAGIC_15, PAGE, SEGMENT, SYSTEM, TestLog};
use super::*;
use crate::wal::reader::damage::WalDamageKind;

/// What came out of a reader, with nothing borrowed.
#[derive(Debug, Clone, PartialEq)]
enum Event {
    Record {
        lsn: u64,
        end: u64,
        total_len: u32,
        held: Option<Vec<u8>>,
    },
    Damage(WalDamage),
}

fn reader() -> WalReader {
    WalReader::new(SegmentNumber::new(4), TestLog::size())
}

fn read(reader: &mut WalReader, bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut records = reader.feed(bytes);
    while let Some(record) = records.next_record() {
        events.push(match record {
            Ok(record) => Event::Record {
                lsn: record.lsn().get(),
                end: record.end_lsn().get(),
                total_len: record.header().total_len,
                held: record.bytes().map(<[u8]>::to_vec),
            },
            Err(damage) => Event::Damage(damage),
        });
    }
    events
}

fn positions(events: &[Event]) -> Vec<u64> {
    events
        .iter()
        .map(|event| match event {
            Event::Record { lsn, .. } => *lsn,
            Event::Damage(damage) => panic!("{damage}"),
        })
        .collect()
}

fn damages(events: &[Event]) -> Vec<&WalDamage> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Damage(damage) => Some(damage),
            Event::Record { .. } => None,
        })
        .collect()
}

/// Where in `log` the byte at `lsn` is.
fn at(lsn: u64) -> usize {
    usize::try_from(lsn - 4 * SEGMENT).unwrap()
}

#[test]
fn records_are_found_wherever_they_begin_and_end() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    let mut pushed = Vec::new();
    // every offset of a header from the end of its page, and every length over several pages
    for len in (0..3000).chain((3000..60_000).step_by(997)) {
        pushed.push(log.push_data(len));
    }
    let mut reader = reader();
    let events = read(&mut reader, &log.bytes);
    assert_eq!(positions(&events), pushed);
    for (event, len) in events
        .iter()
        .zip((0..3000).chain((3000..60_000).step_by(997)))
    {
        let Event::Record { held, .. } = event else {
            unreachable!()
        };
        let held = held.as_ref().unwrap();
        let data: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        assert!(held.ends_with(&data), "{len}");
    }
    assert_eq!(reader.unfinished(), None);
    assert_eq!(reader.leading(), None);
    assert_eq!(reader.major().unwrap().get(), 15);
    assert_eq!(reader.system_identifier().unwrap().get(), SYSTEM);
}

#[test]
fn a_record_may_fill_whole_segments() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    let first = log.push_data(100);
    let long = log.push_data(2_500_000);
    let last = log.push_data(10);
    let mut reader = reader();
    let segment = usize::try_from(SEGMENT).unwrap();
    let mut events = Vec::new();
    for (number, bytes) in log.bytes.chunks(segment).enumerate() {
        events.extend(read(&mut reader, bytes));
        if number < 2 {
            let unfinished = reader.unfinished().unwrap();
            assert_eq!(unfinished.lsn, Some(Lsn::new(long)));
            assert!(unfinished.remaining.unwrap() > 0);
        }
    }
    assert_eq!(positions(&events), [first, long, last]);
}

#[test]
fn a_reader_that_begins_within_a_record_finds_the_next_one_and_where_that_began() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    log.push_data(100);
    let long = log.push_data(2_500_000);
    let after = log.push_data(10);
    let segment = usize::try_from(SEGMENT).unwrap();

    let mut from_second = WalReader::new(SegmentNumber::new(5), TestLog::size());
    let events = read(&mut from_second, &log.bytes[segment..2 * segment]);
    assert_eq!(events, []);
    let leading = from_second.leading().unwrap();
    assert_eq!(leading.record, None);
    assert!(leading.len > SEGMENT);
    assert_eq!(from_second.unfinished().unwrap().lsn, None);
    let events = read(&mut from_second, &log.bytes[2 * segment..]);
    assert_eq!(positions(&events), [after]);
    assert_eq!(from_second.leading().unwrap().record, Some(Lsn::new(long)));
}

#[test]
fn a_segment_switch_is_followed_by_the_next_segment() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    let first = log.push_data(10);
    let switch = log.push_switch();
    let second = log.push_data(10);
    let events = read(&mut reader(), &log.bytes);
    assert_eq!(positions(&events), [first, switch, second]);
    let Event::Record { end, .. } = events[1] else {
        unreachable!()
    };
    assert_eq!(end, 5 * SEGMENT);
    assert_eq!(second, 5 * SEGMENT + 40);
}

#[test]
fn a_switch_that_ends_with_its_segment_skips_nothing() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    while SEGMENT - log.position() % SEGMENT > PAGE {
        log.push_data(1000);
    }
    let room = SEGMENT - log.position() % SEGMENT;
    log.push_data(usize::try_from(room).unwrap() - 24 - 5 - 24);
    let switch = log.push_switch();
    assert_eq!((switch + 24) % SEGMENT, 0);
    let after = log.push_data(7);
    let events = read(&mut reader(), &log.bytes);
    assert!(positions(&events).ends_with(&[switch, after]));
}

#[test]
fn a_record_whose_rest_was_lost_in_a_crash_is_no_damage() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    let whole = log.push_data(10);
    let (torn, record) = log.record(15, 0, &[1; 20_000]);
    log.spread(&record);
    // the server starts again at the page where the rest should have been
    log.bytes.truncate(at(4 * SEGMENT + PAGE));
    log.open_page(8);
    let mut data = torn.to_le_bytes().to_vec();
    data.extend(0i64.to_le_bytes());
    let overwrite = log.push(0, 0xD0, &data);
    let after = log.push_data(10);
    let events = read(&mut reader(), &log.bytes);
    assert_eq!(positions(&events), [whole, overwrite, after]);

    // the mark without the record that belongs to it
    let mut log = TestLog::new(4 * SEGMENT - 24);
    let (_, record) = log.record(15, 0, &[1; 20_000]);
    log.spread(&record);
    log.bytes.truncate(at(4 * SEGMENT + PAGE));
    log.open_page(8);
    log.push_data(10);
    let events = read(&mut reader(), &log.bytes);
    assert_eq!(damages(&events)[0].kind, WalDamageKind::OverwriteMissing);
}

#[test]
fn a_new_timeline_is_announced_by_its_first_record() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    log.push_data(9000);
    log.push_end_of_recovery(2);
    log.push_data(9000);
    let mut reader = reader();
    assert_eq!(
        damages(&read(&mut reader, &log.bytes)),
        [] as [&WalDamage; 0]
    );
    assert_eq!(reader.timeline().get(), 2);

    // at the very beginning of a page
    let mut log = TestLog::new(4 * SEGMENT - 24);
    log.push_data(usize::try_from(PAGE).unwrap() - 40 - 24 - 5);
    assert_eq!(log.position() % PAGE, 0);
    log.timeline = 2;
    log.push_end_of_recovery(2);
    assert_eq!(
        damages(&read(&mut self::reader(), &log.bytes)),
        [] as [&WalDamage; 0]
    );
}

#[test]
fn a_timeline_out_of_nowhere_and_one_that_goes_back_are_damage() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    log.push_data(100);
    log.timeline = 3;
    log.push_data(9000);
    log.push_data(100);
    log.timeline = 2;
    log.push_data(9000);
    let events = read(&mut reader(), &log.bytes);
    let timeline = |number| TimelineId::new(number).unwrap();
    let kinds: Vec<_> = damages(&events).iter().map(|d| d.kind.clone()).collect();
    assert!(
        damages(&events)
            .iter()
            .all(|damage| damage.record.is_none())
    );
    assert_eq!(
        kinds,
        [
            WalDamageKind::TimelineUnannounced {
                previous: timeline(1),
                found: timeline(3)
            },
            WalDamageKind::TimelineBack {
                previous: timeline(3),
                found: timeline(2)
            },
        ]
    );
    // all four records are read all the same
    assert_eq!(events.len(), 6);
}

#[test]
fn a_partial_segment_ends_where_zeros_begin() {
    for at_page_end in [false, true] {
        let mut log = TestLog::new(4 * SEGMENT - 24);
        log.push_data(10);
        if at_page_end {
            let room = usize::try_from(PAGE - log.position() % PAGE).unwrap();
            log.push_data(room - 24 - 5);
        }
        let end = log.position();
        log.zeros_to(SEGMENT);
        let mut reader = reader().may_end();
        positions(&read(&mut reader, &log.bytes));
        assert_eq!(reader.end_of_log().unwrap().good_until().get(), end);
        // of a segment that must be complete that is damage
        let events = read(&mut self::reader(), &log.bytes);
        assert_eq!(damages(&events).len(), 1);
    }
}

#[test]
fn a_recycled_file_ends_where_its_old_pages_begin() {
    let mut old = TestLog::new(4 * SEGMENT - 24);
    while old.position() < 5 * SEGMENT {
        old.push_data(700);
    }
    // the same file, named two segments on
    let mut log = TestLog::new(6 * SEGMENT - 24);
    let two = usize::try_from(2 * SEGMENT).unwrap();
    log.bytes.resize(two, 0);
    let first = log.push_data(100);
    log.push_data(30_000);
    let torn = log.push_data(50_000);
    let written = log.bytes.split_off(two);
    for len in [written.len(), written.len() - 20_000] {
        let mut file = old.bytes[..usize::try_from(SEGMENT).unwrap()].to_vec();
        file[..len].copy_from_slice(&written[..len]);
        let mut reader = WalReader::new(SegmentNumber::new(6), TestLog::size()).may_end();
        let found = positions(&read(&mut reader, &file));
        assert_eq!(found[0], first);
        let end = reader.end_of_log().unwrap().good_until().get();
        if len == written.len() {
            assert_eq!(
                (found.len(), end),
                (3, log.position() + written.len() as u64)
            );
        } else {
            assert_eq!((found.len(), end), (2, torn));
        }
    }
}

#[test]
fn damage_that_the_log_goes_on_behind_is_no_end() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    let lsns: Vec<u64> = (0..100).map(|_| log.push_data(700)).collect();
    let end = log.position();
    log.zeros_to(SEGMENT);
    log.bytes[at(lsns[50]) + 100] ^= 1;
    let mut reader = reader().may_end();
    let events = read(&mut reader, &log.bytes);
    assert_eq!(damages(&events)[0].good_until().get(), lsns[50]);
    assert_eq!(damages(&events).len(), 1);
    assert_eq!(reader.end_of_log().unwrap().good_until().get(), end);
}

#[test]
fn a_changed_record_takes_no_other_with_it() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    let lsns: Vec<u64> = (0..100).map(|_| log.push_data(700)).collect();
    let within_a_page = |lsn: &&u64| **lsn / PAGE == (**lsn + 128) / PAGE;
    for lsn in lsns.iter().filter(within_a_page) {
        let mut bytes = log.bytes.clone();
        bytes[at(lsn + 24 + 4 + 100)] ^= 0x10;
        let events = read(&mut reader(), &bytes);
        let damages = damages(&events);
        assert_eq!(damages.len(), 1, "{lsn}");
        assert_eq!(damages[0].record, Some(Lsn::new(*lsn)));
        assert!(matches!(damages[0].kind, WalDamageKind::Crc { .. }));
        assert_eq!(events.len(), 100);
    }
}

#[test]
fn a_bad_page_costs_its_own_records_only() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    let lsns: Vec<u64> = (0..100).map(|_| log.push_data(700)).collect();
    let page = 4 * SEGMENT + 2 * PAGE;
    let mut bytes = log.bytes.clone();
    bytes[at(page) + 9] ^= 1; // its address
    let events = read(&mut reader(), &bytes);
    let torn = lsns.iter().rfind(|lsn| **lsn < page).copied().unwrap();
    assert_eq!(
        damages(&events),
        [&WalDamage {
            lsn: Lsn::new(page),
            record: Some(Lsn::new(torn)),
            kind: WalDamageKind::PageAddress {
                expected: Lsn::new(page),
                found: Lsn::new(page ^ 0x100)
            }
        }]
    );
    let read_after = events.iter().filter_map(|event| match event {
        Event::Record { lsn, .. } if *lsn > page => Some(*lsn),
        _ => None,
    });
    let expected = lsns.iter().copied().filter(|lsn| *lsn > page + PAGE);
    assert_eq!(read_after.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[test]
fn a_segment_of_another_cluster_is_noticed() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    log.push_data(10);
    let mut reader = reader().expect_system(SystemIdentifier::new(7));
    let events = read(&mut reader, &log.bytes);
    assert!(matches!(
        damages(&events)[0].kind,
        WalDamageKind::SystemIdentifier { .. }
    ));
    assert_eq!(events.len(), 2);
}

#[test]
fn a_record_too_long_to_hold_is_checked_all_the_same() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    let held = log.push_data(WalReader::MIN_HOLD - 24 - 5);
    let long = log.push_data(WalReader::MIN_HOLD + 1);
    let after = log.push_data(10);
    let mut reader = reader().hold_at_most(0);
    let events = read(&mut reader, &log.bytes);
    assert_eq!(positions(&events), [held, long, after]);
    let held = |event: &Event| matches!(event, Event::Record { held: Some(_), .. });
    assert!(held(&events[0]) && !held(&events[1]) && held(&events[2]));
    let Event::Record { total_len, .. } = events[1] else {
        unreachable!()
    };
    assert_eq!(total_len as usize, WalReader::MIN_HOLD + 1 + 24 + 5);

    let mut bytes = log.bytes.clone();
    bytes[at(after) - 20] ^= 1;
    let events = read(&mut self::reader().hold_at_most(0), &bytes);
    assert!(matches!(
        damages(&events)[0].kind,
        WalDamageKind::Crc { .. }
    ));
}

#[test]
fn the_longest_record_of_all_is_checked_in_little_memory() {
    let body_len = RecordHeader::MAX_TOTAL_LEN as usize - RecordHeader::LEN;
    let mut header = Vec::new();
    header.extend(RecordHeader::MAX_TOTAL_LEN.to_le_bytes());
    header.extend(700u32.to_le_bytes());
    header.extend((4 * SEGMENT - 24).to_le_bytes());
    header.extend([0, 15, 0, 0]);
    let page = vec![0xA5; usize::try_from(PAGE).unwrap()];
    let whole_pages =
        (0..body_len / page.len()).fold(0, |crc, _| crc32c::crc32c_append(crc, &page));
    let crc = crc32c::crc32c_append(whole_pages, &page[..body_len % page.len()]);
    header.extend(crc32c::crc32c_append(crc, &header).to_le_bytes());

    for changed in [false, true] {
        let mut log = TestLog::new(4 * SEGMENT - 24);
        let mut reader = reader().hold_at_most(1 << 20);
        let mut found = Vec::new();
        log.open_page(0);
        log.bytes.extend(&header);
        let mut missing = body_len;
        while missing > 0 {
            let room = usize::try_from(PAGE - log.position() % PAGE).unwrap();
            let here = room.min(missing);
            log.bytes.extend(&page[..here]);
            missing -= here;
            if changed && missing == 0 {
                *log.bytes.last_mut().unwrap() ^= 1;
            }
            found.extend(read(&mut reader, &log.bytes));
            assert!(reader.assembly.capacity() <= 1 << 20);
            // a page at a time, none of them kept
            log = log.forget();
            if missing > 0 {
                log.continue_page(missing);
            }
        }
        assert_eq!(found.len(), 1);
        match &found[0] {
            Event::Record {
                total_len, held, ..
            } if !changed => {
                assert_eq!((*total_len, held), (RecordHeader::MAX_TOTAL_LEN, &None));
            }
            Event::Damage(damage) if changed => {
                assert!(matches!(damage.kind, WalDamageKind::Crc { .. }));
            }
            event => panic!("{event:?}"),
        }
    }
}

#[test]
fn the_end_of_a_transaction_is_held_where_another_record_would_be_too_long() {
    let long = WalReader::DEFAULT_HOLD + 1;
    let mut log = TestLog::new(4 * SEGMENT - 24);
    for manager in [15, 1] {
        log.push(manager, 0, &vec![7; long]);
    }
    let events = read(&mut reader(), &log.bytes);
    let held = |event: &Event| match event {
        Event::Record { held, .. } => held.as_ref().map(Vec::len),
        Event::Damage(damage) => panic!("{damage}"),
    };
    let held: Vec<_> = events.iter().map(held).collect();
    assert_eq!(held, [None, Some(24 + 5 + long)]);
    // whoever says how much is to be held is obeyed
    let mut little = reader().hold_at_most(1 << 20);
    read(&mut little, &log.bytes);
    assert!(little.assembly.capacity() <= 1 << 20);
}

#[test]
fn no_memory_is_taken_for_what_has_not_come() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    let (_, mut record) = log.record(15, 0, &[0; 100]);
    record[..4].copy_from_slice(&RecordHeader::MAX_TOTAL_LEN.to_le_bytes());
    log.spread(&record);
    let mut reader = reader().hold_at_most(usize::MAX);
    assert_eq!(read(&mut reader, &log.bytes), []);
    assert!(reader.assembly.capacity() < 4096);
}

#[test]
fn a_record_that_no_server_could_write_is_refused_at_once() {
    for (magic, refused) in [(MAGIC_15, false), (0xD113, true)] {
        let mut log = TestLog::new(4 * SEGMENT - 24);
        log.magic = magic;
        let (_, mut record) = log.record(15, 0, &[0; 100]);
        record[..4].copy_from_slice(&(RecordHeader::MAX_TOTAL_LEN + 1).to_le_bytes());
        log.spread(&record);
        assert_eq!(read(&mut reader(), &log.bytes).len(), usize::from(refused));
    }
}

#[test]
fn what_a_consumer_leaves_is_read_all_the_same() {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    log.push_data(9000);
    log.push_data(9000);
    let end = log.position();
    let mut reader = reader();
    drop(reader.feed(&log.bytes));
    assert_eq!(reader.position().get(), end);
    let more = log.bytes.len();
    let third = log.push_data(100);
    assert_eq!(positions(&read(&mut reader, &log.bytes[more..])), [third]);
}

#[test]
fn the_end_of_the_address_space_is_no_place_to_stumble() {
    let size = WalSegmentSize::SMALLEST;
    let mut reader = WalReader::new(SegmentNumber::new(u64::MAX), size);
    let bytes = vec![0xA5; usize::try_from(SEGMENT).unwrap() + 100];
    assert_eq!(damages(&read(&mut reader, &bytes)).len(), 1);
    assert_eq!(reader.position().get(), u64::MAX);
}

/// A log with everything in it that a reader must get over.
fn eventful_log() -> TestLog {
    let mut log = TestLog::new(4 * SEGMENT - 24);
    for len in [0, 10, 300, 8000, 8100, 20_000, 5, 8192, 70_000, 1] {
        log.push_data(len);
    }
    log.push_end_of_recovery(2);
    log.push_data(9000);
    log.push_switch();
    for number in 0..400 {
        log.push_data(number * 7 % 120);
    }
    for len in [100, 9000, 7, 30_000] {
        log.push_data(len);
    }
    log
}

#[test]
fn every_bit_is_noticed_that_postgres_covers() {
    let log = eventful_log();
    let whole = read(&mut reader(), &log.bytes);
    assert_eq!(damages(&whole).len(), 0);
    // the zeros behind the switch are nobody's
    let written = |position: usize| {
        let Event::Record { lsn, .. } = whole[12] else {
            unreachable!()
        };
        position < at(lsn) + 24 || position >= at(5 * SEGMENT)
    };
    let mut unnoticed = Vec::new();
    for position in (0..log.bytes.len()).filter(|position| written(*position)) {
        // all bytes of the small records and the headers, some of the others
        let in_page = position % usize::try_from(PAGE).unwrap();
        if position > 2000 && in_page > 64 && position % 61 > 1 {
            continue;
        }
        let mut bytes = log.bytes.clone();
        let bit = position % 8;
        bytes[position] ^= 1 << bit;
        if damages(&read(&mut reader(), &bytes)).is_empty() {
            unnoticed.push((position, bit));
        }
    }
    for (position, bit) in unnoticed {
        assert!(
            is_uncovered(&log, &whole, position, bit),
            "{position} {bit}"
        );
    }
}

/// The bits that PostgreSQL does not cover: the flag for backups, counts that count nothing, padding.
fn is_uncovered(log: &TestLog, whole: &[Event], position: usize, bit: usize) -> bool {
    let page = usize::try_from(PAGE).unwrap();
    let in_page = position % page;
    let header = &log.bytes[position - in_page..];
    let continues = header[2] & 1 != 0;
    match in_page {
        2 => bit == 2,
        16..20 => !continues,
        20..24 => true,
        _ => whole.iter().any(|event| match event {
            Event::Record { end, .. } => (at(*end) - 8..at(*end)).contains(&position),
            Event::Damage(_) => false,
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chunks_make_no_difference(
        cuts in proptest::collection::vec(1usize..40_000, 1..200),
        flips in proptest::collection::vec((0usize..1_150_000, 0u32..8), 0..4),
        may_end: bool,
    ) {
        let mut bytes = eventful_log().bytes;
        for (position, bit) in flips {
            let position = position % bytes.len();
            bytes[position] ^= 1 << bit;
        }
        let fresh = || if may_end { reader().may_end() } else { reader() };
        let mut whole = fresh();
        let expected = read(&mut whole, &bytes);
        let mut cut = fresh();
        let mut found = Vec::new();
        let mut rest = &bytes[..];
        for len in cuts.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, later) = rest.split_at(len.min(rest.len()));
            found.extend(read(&mut cut, chunk));
            rest = later;
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(cut.end_of_log(), whole.end_of_log());
        prop_assert_eq!(cut.unfinished(), whole.unfinished());
    }

    #[test]
    fn tiny_chunks_make_no_difference(cuts in proptest::collection::vec(1usize..30, 20..60)) {
        let mut log = TestLog::new(4 * SEGMENT - 24);
        for len in [0, 10, 300, 8000, 1, 30] {
            log.push_data(len);
        }
        let expected = read(&mut reader(), &log.bytes);
        let mut cut = reader();
        let mut found = Vec::new();
        let mut rest = &log.bytes[..];
        for len in cuts.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, later) = rest.split_at(len.min(rest.len()));
            found.extend(read(&mut cut, chunk));
            rest = later;
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_bytes_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..20_000),
        number: u64,
        with_header: bool,
    ) {
        let mut bytes = bytes;
        if with_header {
            let mut log = TestLog::new(4 * SEGMENT - 24);
            log.open_page(0);
            let len = log.bytes.len().min(bytes.len());
            bytes[..len].copy_from_slice(&log.bytes[..len]);
        }
        let number = if with_header { 4 } else { number };
        let mut reader = WalReader::new(SegmentNumber::new(number), TestLog::size());
        read(&mut reader, &bytes);
    }
}
