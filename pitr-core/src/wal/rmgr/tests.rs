//! Every resource manager on real records, and on made ones where there are none.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::timestamp::Timestamp;
use crate::wal::reader::WalReader;
use crate::wal::record::Record;
use crate::wal::record::body::RecordBody;
use crate::wal::record::contents::RecordContents;
use crate::wal::record::header::RecordHeader;
use crate::wal::record::relation_file::RelationFile;
use crate::wal::record::resource_manager::ResourceManager;
use crate::wal::record::row_change::{RowChange, RowChangeKind};
use crate::wal::rmgr::database::DatabaseRecord;
use crate::wal::rmgr::heap::HeapRecord;
use crate::wal::rmgr::heap2::Heap2Record;
use crate::wal::rmgr::invalidation::Invalidation;
use crate::wal::rmgr::standby::StandbyRecord;
use crate::wal::rmgr::storage::StorageRecord;
use crate::wal::rmgr::tablespace::TablespaceRecord;
use crate::wal::rmgr::xact::XactRecord;
use crate::wal::rmgr::xlog::XlogRecord;
use crate::wal::segment_number::SegmentNumber;
use crate::wal::segment_size::WalSegmentSize;

/// Calls `each` for every record of the two whole segments that are kept: of 13 and of 14.
fn for_each_real_record(mut each: impl FnMut(&Record<'_>, &RecordContents<'_>)) {
    for segment in [
        &include_bytes!("../../../tests/fixtures/v13/000000010000000000000004.gz")[..],
        &include_bytes!("../../../tests/fixtures/v14/000000010000000000000004.gz")[..],
    ] {
        let mut bytes = Vec::new();
        GzDecoder::new(segment).read_to_end(&mut bytes).unwrap();
        let mut reader = WalReader::new(SegmentNumber::new(4), WalSegmentSize::DEFAULT);
        let mut records = reader.feed(&bytes);
        while let Some(record) = records.next_record() {
            let record = record.unwrap();
            each(&record, &record.contents().unwrap());
        }
    }
}

fn major(number: u16) -> PostgresMajor {
    PostgresMajor::new(number).unwrap()
}

fn with_contents(
    number: u16,
    (manager, info): (u8, u8),
    main_data: &[u8],
    check: impl FnOnce(Result<RecordContents<'_>, crate::RecordContentsError>),
) {
    let mut body = vec![254];
    body.extend(u32::try_from(main_data.len()).unwrap().to_le_bytes());
    body.extend(main_data);
    let body = RecordBody::parse(&body, major(number)).unwrap();
    let header = RecordHeader {
        total_len: 0,
        xid: 700,
        prev: Lsn::INVALID,
        info,
        resource_manager: ResourceManager::new(manager).unwrap(),
        crc: 0,
    };
    check(RecordContents::parse(&header, &body, major(number)));
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

#[test]
fn the_end_of_a_transaction_is_read_to_its_last_byte() {
    let mut ends = 0;
    for_each_real_record(|record, contents| {
        if let RecordContents::Transaction(xact) = contents
            && xact.end().is_some()
        {
            let body = record.body().unwrap();
            let (rest, _) =
                XactRecord::fields(body.main_data(), record.header(), record.major()).unwrap();
            assert_eq!(rest, b"", "{}", record.lsn());
            ends += 1;
        }
    });
    assert!(ends > 40, "{ends}");
}

#[test]
fn the_story_of_a_segment_is_told() {
    let mut told = Vec::new();
    for_each_real_record(|record, contents| {
        let major = record.major();
        match contents {
            RecordContents::Xlog(XlogRecord::RestorePoint { name, .. }) => {
                told.push(format!("{major} restore point {}", name.escape_ascii()));
            }
            RecordContents::LogicalMessage(message) => told.push(format!(
                "{major} {} {} {}",
                message.transactional,
                message.prefix.escape_ascii(),
                message.content.escape_ascii()
            )),
            RecordContents::Transaction(XactRecord::Prepare(prepared)) => told.push(format!(
                "{major} prepared {} drops {}",
                prepared.gid.escape_ascii(),
                prepared.dropped_on_commit.len()
            )),
            RecordContents::Transaction(XactRecord::CommitPrepared(end)) => {
                assert!(end.prepared && record.header().xid == 0 && end.xid != 0);
                told.push(format!(
                    "{major} committed, drops {}",
                    end.dropped_files.len()
                ));
            }
            RecordContents::Transaction(XactRecord::AbortPrepared(_)) => {
                told.push(format!("{major} rolled back"));
            }
            RecordContents::Database(DatabaseRecord::CreateFileCopy {
                source_database, ..
            }) => {
                told.push(format!("{major} database from {source_database}"));
            }
            RecordContents::Database(DatabaseRecord::Drop { tablespaces, .. }) => {
                let tablespaces: Vec<u32> = tablespaces.iter().collect();
                told.push(format!("{major} database dropped from {tablespaces:?}"));
            }
            RecordContents::Relmap(update) => {
                assert!(update.mappings.iter().any(|mapping| mapping.oid == 1259));
                told.push(format!("{major} map of database {}", update.database));
            }
            RecordContents::Xlog(XlogRecord::Switch) => told.push(format!("{major} switch")),
            _ => {}
        }
    });
    let of = |major: u16, database: u32| {
        [
            "prepared gid-1 drops 1".to_owned(),
            "committed, drops 1".to_owned(),
            "prepared gid-2 drops 0".to_owned(),
            "rolled back".to_owned(),
            format!("map of database {database}"),
            "database from 1".to_owned(),
            "database dropped from [1663]".to_owned(),
            "restore point rp two".to_owned(),
            "true pfx hello".to_owned(),
            "false pfx hello2".to_owned(),
            "switch".to_owned(),
        ]
        .map(|what| format!("{major} {what}"))
    };
    let database = |major: u16| {
        told.iter().find_map(|line| {
            let number = line.strip_prefix(&format!("{major} map of database "))?;
            number.parse().ok()
        })
    };
    let expected = [of(13, database(13).unwrap()), of(14, database(14).unwrap())].concat();
    assert_eq!(told, expected);
}

#[test]
fn rows_are_counted_by_what_happens_to_them() {
    let mut rows = std::collections::BTreeMap::<_, u32>::new();
    let mut tuples = 0;
    for_each_real_record(|record, contents| {
        let body = record.body().unwrap();
        let Some(change) = RowChange::of(record.header(), &body) else {
            return;
        };
        let key = (
            record.major().get(),
            change.relation.relation > 16_383,
            change.kind,
        );
        *rows.entry(key).or_default() += change.rows;
        if let RecordContents::Heap2(Heap2Record::MultiInsert(insert)) = contents {
            let image = body.first_block().unwrap().image;
            assert_eq!(
                (change.relation, change.rows),
                (insert.relation, u32::from(insert.rows))
            );
            let found = insert.tuples().count();
            assert_eq!(
                found,
                if image.is_some() {
                    0
                } else {
                    usize::from(insert.rows)
                }
            );
            assert!(insert.tuples().all(|tuple| tuple.columns().is_some()));
            tuples += found;
        }
        if let RecordContents::Heap(HeapRecord::Insert {
            tuple: Some(tuple), ..
        }) = contents
        {
            assert!(tuple.columns().is_some());
        }
    });
    assert!(tuples > 100);
    for major in [13, 14] {
        // 13 rows of the script, and one of pg_class after VACUUM FULL gave it a new file
        assert_eq!(
            rows.get(&(major, true, RowChangeKind::Delete)),
            Some(&14),
            "{major}"
        );
        assert_eq!(
            rows.get(&(major, true, RowChangeKind::Insert)),
            Some(&27),
            "{major}"
        );
    }
}

#[test]
fn each_part_of_a_commit_is_found_behind_the_others() {
    let xinfo = 0x1u32 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x100 | (1 << 31);
    for version in [15u16, 18] {
        let mut data = 848_474_700_721_052i64.to_le_bytes().to_vec();
        data.extend(numbers(&[xinfo, 5, 1663]));
        data.extend(numbers(&[2, 701, 702]));
        data.extend(numbers(&[1, 1663, 5, 16_404]));
        data.extend(numbers(&[1, 2, 5, 16_400]));
        if version == 18 {
            data.extend(numbers(&[7]));
        }
        data.extend(numbers(&[1, 0xFFFF_FFFE, 5, 16_399, 0]));
        data.extend(numbers(&[757]));
        data.extend(b"gid-1\0");
        data.extend(0x500_0028u64.to_le_bytes());
        data.extend(9i64.to_le_bytes());
        with_contents(version, (1, 0x30 | 0x80), &data, |contents| {
            let Ok(RecordContents::Transaction(xact)) = contents else {
                panic!("{contents:?}");
            };
            let end = xact.commit().unwrap();
            assert_eq!((end.xid, end.prepared), (757, true));
            assert_eq!(end.time.to_string(), "2026-11-20 07:25:00.721052+00");
            assert_eq!(end.database, Some((5, 1663)));
            assert_eq!(end.subtransactions.iter().collect::<Vec<_>>(), [701, 702]);
            assert_eq!(
                end.dropped_files.iter().collect::<Vec<_>>(),
                [RelationFile {
                    tablespace: 1663,
                    database: 5,
                    relation: 16_404
                }]
            );
            let stats = end.dropped_stats.iter().next().unwrap();
            let high = if version == 18 { 7u64 << 32 } else { 0 };
            assert_eq!(
                (stats.kind, stats.database, stats.object),
                (2, 5, high | 16_400)
            );
            assert_eq!(
                end.invalidations.iter().collect::<Vec<_>>(),
                [Invalidation::Relation {
                    database: 5,
                    relation: 16_399
                }]
            );
            assert_eq!(end.gid, Some(&b"gid-1"[..]));
            let origin = end.origin.unwrap();
            assert_eq!(
                (origin.lsn, origin.time),
                (Lsn::new(0x500_0028), Timestamp::new(9))
            );
            assert!(end.has_exclusive_locks() && end.forces_sync());
        });
        // every cut is noticed
        for len in 0..data.len() {
            with_contents(version, (1, 0x30 | 0x80), &data[..len], |contents| {
                assert!(contents.is_err(), "{len}");
            });
        }
    }
}

#[test]
fn a_count_without_its_items_is_refused() {
    for (which, data) in [
        ((8, 0x00), numbers(&[u32::MAX])),
        ((8, 0x00), numbers(&[0x7FFF_FFFF, 1, 1, 1])),
        ((10, 0x30), numbers(&[5, u32::MAX, 0])),
        ((4, 0x20), numbers(&[5, 3, 1663])),
        (
            (21, 0x00),
            numbers(&[5, 1, u32::MAX, u32::MAX, u32::MAX, u32::MAX]),
        ),
    ] {
        with_contents(15, which, &data, |contents| {
            assert!(contents.is_err(), "{which:?}");
        });
    }
}

#[test]
fn operations_mean_what_their_version_says() {
    let data = numbers(&[5, 1, 1663]);
    with_contents(14, (4, 0x10), &data, |contents| {
        assert!(matches!(
            contents,
            Ok(RecordContents::Database(DatabaseRecord::Drop {
                database: 5,
                ..
            }))
        ));
    });
    with_contents(15, (4, 0x10), &data, |contents| {
        assert!(matches!(
            contents,
            Ok(RecordContents::Database(
                DatabaseRecord::CreateWalLog { .. }
            ))
        ));
    });
    for (version, name) in [(13, "CLEAN"), (16, "PRUNE"), (17, "PRUNE_ON_ACCESS")] {
        with_contents(version, (9, 0x10), &[], |contents| {
            assert_eq!(contents.unwrap().to_string(), name);
        });
    }
    with_contents(15, (0, 0xC0), &[], |contents| {
        assert!(matches!(
            contents,
            Ok(RecordContents::Other {
                operation: 0xC0,
                ..
            })
        ));
    });
}

/// What PostgreSQL 15 wrote at 0/9012DD0 when it was promoted.
#[test]
fn the_end_of_a_recovery_tells_the_timelines_and_the_time() {
    let written: [u8; 16] = [
        0x3B, 0xEC, 0x3F, 0x00, 0xAF, 0x03, 0x03, 0x00, 2, 0, 0, 0, 1, 0, 0, 0,
    ];
    with_contents(15, (0, 0x90), &written, |contents| {
        let contents = contents.unwrap();
        let RecordContents::Xlog(XlogRecord::EndOfRecovery(end)) = &contents else {
            panic!("{contents:?}");
        };
        assert_eq!(end.time.to_string(), "2026-11-20 07:31:28.481339+00");
        let timelines = (end.timeline.get(), end.previous_timeline.get());
        assert_eq!((timelines, end.wal_level), ((2, 1), None));
    });
}

#[test]
fn settings_that_changed_are_all_told() {
    let mut data = numbers(&[100, 8, 10, 2, 64, 2]);
    data.extend([1, 0, 0, 0]);
    with_contents(16, (0, 0x60), &data, |contents| {
        let contents = contents.unwrap();
        let RecordContents::Xlog(XlogRecord::ParameterChange(change)) = &contents else {
            panic!("{contents:?}");
        };
        assert_eq!(change.required_settings.max_prepared_transactions, 2);
        assert!(change.wal_log_hints && !change.track_commit_timestamp);
        assert!(
            contents
                .to_string()
                .ends_with("wal_level=logical wal_log_hints=on track_commit_timestamp=off")
        );
    });
}

#[test]
fn tables_that_are_emptied_are_named() {
    let data = numbers(&[5, 2, 0x0000_0003, 16_400, 16_401]);
    with_contents(15, (10, 0x30), &data, |contents| {
        let Ok(RecordContents::Heap(HeapRecord::Truncate {
            database,
            relations,
            cascade,
            restart_sequences,
        })) = contents
        else {
            panic!("{contents:?}");
        };
        assert_eq!((database, cascade, restart_sequences), (5, true, true));
        assert_eq!(relations.iter().collect::<Vec<_>>(), [16_400, 16_401]);
    });
}

#[test]
fn tablespaces_are_told_with_their_folder() {
    let data = [&numbers(&[16_500])[..], b"/srv/a b\0"].concat();
    with_contents(15, (5, 0x00), &data, |contents| {
        assert!(matches!(
            contents,
            Ok(RecordContents::Tablespace(TablespaceRecord::Create {
                tablespace: 16_500,
                path: b"/srv/a b"
            }))
        ));
    });
    with_contents(15, (5, 0x10), &numbers(&[16_500]), |contents| {
        assert_eq!(contents.unwrap().to_string(), "DROP 16500");
    });
}

#[test]
fn a_standby_learns_of_locks_and_running_transactions() {
    let mut data = numbers(&[2, 1, 0, 800, 790, 799]);
    data.extend(numbers(&[790, 795, 796]));
    with_contents(15, (8, 0x10), &data, |contents| {
        let Ok(RecordContents::Standby(StandbyRecord::RunningXacts(running))) = contents else {
            panic!("{contents:?}");
        };
        assert_eq!(running.transactions.iter().collect::<Vec<_>>(), [790, 795]);
        assert_eq!(running.subtransactions.iter().collect::<Vec<_>>(), [796]);
        assert_eq!((running.next_xid, running.oldest_running_xid), (800, 790));
        assert!(!running.subxids_overflowed);
    });
    let mut locks = 0;
    let mut truncated = 0;
    for_each_real_record(|_, contents| match contents {
        RecordContents::Standby(StandbyRecord::Locks(list)) => {
            assert!(list.iter().all(|lock| lock.xid > 2 && lock.relation > 0));
            locks += list.len();
        }
        RecordContents::Storage(StorageRecord::Truncate { blocks, flags, .. }) => {
            assert_eq!((*blocks, *flags), (0, 7));
            truncated += 1;
        }
        _ => {}
    });
    assert!(locks > 20 && truncated >= 2, "{locks} {truncated}");
}
