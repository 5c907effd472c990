//! Whole segments, record by record.

use std::io::Read;

use flate2::read::GzDecoder;
use pitr_core::{
    Lsn, PageHeader, PostgresMajor, Record, SegmentNumber, WalDamageKind, WalReader, WalSegmentSize,
};

use crate::captured;

pub(crate) fn segment(major: u16, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(&captured(major, name)[..])
        .read_to_end(&mut bytes)
        .expect("a whole segment");
    bytes
}

/// A reader for a segment whose first page is in `bytes`.
pub(crate) fn reader(bytes: &[u8]) -> WalReader {
    let header = PageHeader::parse(bytes).expect("a whole segment");
    let size = header.long.expect("a whole segment").segment_size;
    WalReader::new(SegmentNumber::containing(header.page_address, size), size)
}

#[test]
fn every_record_of_a_real_segment_is_whole_and_can_be_taken_apart() {
    // as many as pg_waldump of 14 lists; there is no pg_waldump of 13 at hand
    for (major, expected) in [(13, 942), (14, 835)] {
        let bytes = segment(major, "000000010000000000000004.gz");
        let mut reader = reader(&bytes);
        let mut records = reader.feed(&bytes);
        let (mut count, mut last) = (0, Lsn::INVALID);
        while let Some(record) = records.next_record() {
            let record = record.unwrap();
            assert_eq!(record.major().get(), major);
            let body = record.body().unwrap();
            assert!(record.contents().is_ok());
            assert_eq!(body.blocks().count(), body.block_count());
            assert!(count == 0 || record.header().prev == last);
            (count, last) = (count + 1, record.lsn());
        }
        drop(records);
        assert_eq!(count, expected, "{major}");
        assert_eq!(reader.position(), Lsn::new(0x500_0000));
        assert_eq!(reader.unfinished(), None);
    }
}

#[test]
fn a_partial_segment_ends_where_the_new_timeline_branched_off() {
    let bytes = segment(15, "000000010000000000000009.partial.gz");
    let mut reader = reader(&bytes).may_end();
    let mut records = reader.feed(&bytes);
    let mut end = Lsn::INVALID;
    while let Some(record) = records.next_record() {
        end = record.unwrap().end_lsn();
    }
    drop(records);
    let found = reader.end_of_log().unwrap();
    assert_eq!(found.good_until(), end);
    assert_eq!(end, "0/9031898".parse().unwrap());
    assert!(matches!(found.kind, WalDamageKind::Record(_)));
}

/// Real records as they stand in the log: version, position, bytes.
pub(crate) const GOLDEN: [(u16, &str, &str); 16] = [
    (
        13,
        "0/401B8A0",
        "22000000ed01000060b80104000000000001000053da7ac5ff089c2b23e9ae030300",
    ),
    (
        13,
        "0/40296E0",
        "32000000f7010000a0960204000000008001000083b9cdcbff18267b23e9ae0303000200000002000000f8010000fa010000",
    ),
    (
        13,
        "0/4027EB0",
        "36000000f3010000687e020400000000a0010000c16caf97ff1c946523e9ae03030044000000010000007f0600004734000022400000",
    ),
    (
        13,
        "0/402A0C8",
        "2a00000000000000c09f020400000000c0010000796c9145ff108c8f23e9ae03030050000000fc010000",
    ),
    (
        13,
        "0/4061170",
        "2a00000004020000f810060400000000010400002f51286dff10354000007f060000010000007f060000",
    ),
    (
        13,
        "0/4061970",
        "2600000005020000f818060400000000110400000924a91dff0c35400000010000007f060000",
    ),
    (
        15,
        "0/3042A50",
        "1800000000000000182a04030000000040000000a2d20243",
    ),
    (
        15,
        "0/4000060",
        "2a000000e60200002800000400000000000800008b15d440ff1001000000e60200000500000014400000",
    ),
    (
        15,
        "0/402E838",
        "2e000000f0020000f8e7020400000000210200006005b59cff14000000007f060000050000002640000007000000",
    ),
    (
        15,
        "0/402CE78",
        "46000000ed02000018ce020400000000a101000053c5077aff2cc9c735e9ae03030044010000010000007f060000050000002340000001000000020000000500000023400000",
    ),
    (
        15,
        "0/40698A0",
        "22000000fe020000f09706040000000010040000bd102fabff08354000007f060000",
    ),
    (
        15,
        "0/44A6E40",
        "26000000ff020000c86d4a040000000021040000b79f89bfff0c35400000010000007f060000",
    ),
    (
        15,
        "0/A00028",
        "2a000000000000002800900000000000d00000002f16acd8ff10b8b69a00000000006662e903af030300",
    ),
    (
        15,
        "0/60000D8",
        "2200000000000000600000060000000050000000d866a7bdff082800000600000000",
    ),
    (
        18,
        "0/4026888",
        "4a000000ff0200004068020400000000a10100002e31ede9ff3057a852e9ae03030044010000010000007f06000005000000274000000100000002000000050000002740000000000000",
    ),
    (
        18,
        "0/4496DC8",
        "1e00000000000000906d490400000000e00000000831db90ff0401000000",
    ),
];

/// Puts a record where it stood, behind the rest of one that fills the segment up to there.
pub(crate) fn read_golden(
    (major, lsn, record): (u16, &str, &str),
    consume: impl FnOnce(&Record<'_>),
) {
    let lsn: Lsn = lsn.parse().expect("a golden record");
    let record: Vec<u8> = (0..record.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&record[at..at + 2], 16).expect("a golden record"))
        .collect();
    // the record of a page that was overwritten begins its segment, which was of 1 MiB
    let overwrites = record[17] == 0 && record[16] == 0xD0;
    let size = if overwrites { 1 << 20 } else { 16 << 20 };
    let size = WalSegmentSize::new(size).expect("a golden record");
    let start = SegmentNumber::containing(lsn, size).start(size).get();
    let before = usize::try_from(lsn.get() - start).expect("a golden record");
    let pages = before / 8192 + 1;
    let mut remaining = before - 40 - 24 * (pages - 1);
    let mut bytes = Vec::new();
    let magic = (0..=u16::MAX)
        .find(|magic| PostgresMajor::from_magic(*magic).is_some_and(|found| found.get() == major));
    for page in 0..pages {
        let mut info = if page == 0 { 2u16 } else { 0 };
        info |= if overwrites {
            8
        } else {
            u16::from(remaining > 0)
        };
        bytes.extend(magic.expect("a golden record").to_le_bytes());
        bytes.extend(info.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend((start + page as u64 * 8192).to_le_bytes());
        bytes.extend(
            u32::try_from(remaining)
                .expect("a golden record")
                .to_le_bytes(),
        );
        bytes.extend([0; 4]);
        if page == 0 {
            bytes.extend(1u64.to_le_bytes());
            bytes.extend(
                u32::try_from(size.bytes())
                    .expect("a golden record")
                    .to_le_bytes(),
            );
            bytes.extend(8192u32.to_le_bytes());
        }
        let here = remaining.min((page + 1) * 8192 - bytes.len());
        bytes.resize(bytes.len() + here, 0x55);
        remaining -= here;
    }
    assert_eq!(bytes.len(), before);
    bytes.extend(&record);
    let mut reader = reader(&bytes);
    let mut records = reader.feed(&bytes);
    let found = records
        .next_record()
        .expect("a record")
        .expect("a golden record");
    assert_eq!(found.lsn(), lsn);
    assert_eq!(found.bytes(), Some(&record[..]));
    consume(&found);
}

#[test]
fn golden_records_are_whole_and_say_what_they_said() {
    let said: [&str; GOLDEN.len()] = [
        "COMMIT 2026-11-20 07:25:00.721052+00",
        "COMMIT 2026-11-20 07:25:00.741414+00; subxacts: 504 506",
        "ABORT 2026-11-20 07:25:00.735892+00; rels: 1663/13383/16418",
        "ABORT_PREPARED 508: 2026-11-20 07:25:00.746636+00",
        "CREATE_FILE_COPY copy dir 1663/1 to 1663/16437",
        "DROP dir 1663/16437",
        "SWITCH",
        "LOCK xid 742 db 5 rel 16404",
        "TRUNCATE 1663/5/16422 to 0 blocks flags 7",
        "ABORT 2026-11-20 07:25:01.940681+00; rels: 1663/5/16419; dropped stats: 2/5/16419",
        "CREATE_WAL_LOG create dir 1663/16437",
        "DROP dir 1663/16437",
        "OVERWRITE_CONTRECORD lsn 0/9AB6B8; time 2026-11-20 07:32:29.918822+00",
        "BACKUP_END 0/6000028",
        "ABORT 2026-11-20 07:25:03.833175+00; rels: 1663/5/16423; dropped stats: 2/5/16423",
        "CHECKPOINT_REDO wal_level replica",
    ];
    for (golden, said) in GOLDEN.into_iter().zip(said) {
        read_golden(golden, |record| {
            assert_eq!(record.contents().unwrap().to_string(), said);
        });
    }
}
