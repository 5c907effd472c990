//! Sums up a segment while its bytes pass.

use crate::catalog::row::NAMING_CATALOGS;
use crate::lsn::Lsn;
use crate::timestamp::Timestamp;
use crate::transaction_id::TransactionId;
use crate::wal::file_name::{WalFileName, WalFileNameError};
use crate::wal::reader::WalReader;
use crate::wal::reader::content_crc;
use crate::wal::reader::damage::{WalDamage, WalDamageKind};
use crate::wal::record::Record;
use crate::wal::record::body;
use crate::wal::record::contents::RecordContents;
use crate::wal::record::header::RecordHeader;
use crate::wal::record::resource_manager::ResourceManager;
use crate::wal::rmgr::database::DatabaseRecord;
use crate::wal::rmgr::relmap::RelmapUpdate;
use crate::wal::rmgr::standby::StandbyRecord;
use crate::wal::rmgr::xact::{self, TransactionEnd, XactRecord};
use crate::wal::rmgr::xlog::{self, XlogRecord};
use crate::wal::segment_name::SegmentName;
use crate::wal::segment_size::WalSegmentSize;
use crate::wal::summary::{
    CatalogChangesSeen, CheckpointSeen, ContinuedRecord, DamageSeen, DatabaseSeen, Moment,
    ParameterChangeSeen, RestorePointSeen, RunningSeen, SUMMARY_LIST_LIMIT, SegmentSummary,
    StorageDropSeen, TimelineSwitchSeen, UnfinishedInSegment, XidSpan,
};

/// Reads a segment, in chunks of any size, and sums up what is in it.
///
/// Every record that is complete in the segment is decoded, and its CRC
/// checked. What continues a record of an earlier segment cannot be checked
/// without it.
///
/// ```
/// use pitr_core::{SegmentSummaryBuilder, WalSegmentSize};
///
/// fn commits(name: &str, segment: &[u8]) -> Result<u64, Box<dyn std::error::Error>> {
///     let mut builder = SegmentSummaryBuilder::new(name.parse()?, WalSegmentSize::DEFAULT)?;
///     for chunk in segment.chunks(1 << 18) {
///         builder.feed(chunk);
///     }
///     Ok(builder.finish().commits)
/// }
/// ```
#[derive(Debug)]
pub struct SegmentSummaryBuilder {
    reader: WalReader,
    summary: SegmentSummary,
}

impl SegmentSummaryBuilder {
    /// Begins the summary of a whole segment.
    ///
    /// # Errors
    /// If no cluster with this segment size has such a segment.
    pub fn new(segment: SegmentName, size: WalSegmentSize) -> Result<Self, WalFileNameError> {
        Ok(Self {
            reader: WalReader::new(segment.number(size)?, size)
                .noting_stretches()
                .holding_beginning_only(is_told_by_its_beginning),
            summary: empty(WalFileName::Segment(segment), segment.timeline()),
        })
    }

    /// Begins the summary of a `.partial`: the log may end anywhere in it.
    ///
    /// # Errors
    /// As [`SegmentSummaryBuilder::new`].
    pub fn of_partial(
        segment: SegmentName,
        size: WalSegmentSize,
    ) -> Result<Self, WalFileNameError> {
        Ok(Self {
            reader: WalReader::new(segment.number(size)?, size)
                .may_end()
                .noting_stretches()
                .holding_beginning_only(is_told_by_its_beginning),
            summary: empty(WalFileName::Partial(segment), segment.timeline()),
        })
    }

    /// Reads on.
    pub fn feed(&mut self, chunk: &[u8]) {
        let summary = &mut self.summary;
        summary.bytes += chunk.len() as u64;
        let position = self.reader.position().get();
        let mut records = self.reader.feed(chunk);
        loop {
            while let Some(passed) =
                records.pass_proven(may_be_told, |record| summary.look_into(record))
            {
                summary.records += passed.records;
                summary.first_record.get_or_insert(passed.first);
                summary.last_record = Some(passed.last);
            }
            match records.next_by_itself() {
                Some(Ok(record)) => summary.count(&record),
                Some(Err(damage)) => summary.note_damage(&damage),
                None => break,
            }
        }
        drop(records);
        summary.crc32c =
            content_crc::append(summary.crc32c, chunk, position, self.reader.stretches());
    }

    /// The summary of what was fed.
    #[must_use]
    pub fn finish(mut self) -> SegmentSummary {
        let summary = &mut self.summary;
        summary.system_identifier = self.reader.system_identifier();
        summary.postgres_major = self.reader.major();
        // the name's is the highest that any of its pages can have
        let (named, found) = (summary.timeline, self.reader.timeline());
        if found > named && !summary.is_damaged() {
            summary.note_damage(&WalDamage {
                lsn: self.reader.edges().start,
                record: None,
                kind: WalDamageKind::TimelineUnannounced {
                    previous: named,
                    found,
                },
            });
        }
        let edges = self.reader.edges();
        summary.timeline = found;
        summary.overwrites = edges.overwrites;
        summary.previous_record = edges.previous_record;
        summary.unfinished = self.reader.unfinished().map(|record| UnfinishedInSegment {
            record: record.lsn,
            missing_bytes: record.remaining,
            part: edges.begun,
        });
        if let Some(lsn) = summary.unfinished.and_then(|unfinished| unfinished.record) {
            summary.first_record.get_or_insert(lsn);
            summary.last_record = Some(lsn);
        }
        let leading = self.reader.leading().filter(|leading| leading.len > 0);
        summary.continues = leading.map(|leading| ContinuedRecord {
            bytes: leading.len,
            record: edges.previous_record,
            part: edges.continued,
        });
        self.summary
    }
}

fn empty(segment: WalFileName, timeline: crate::timeline::id::TimelineId) -> SegmentSummary {
    SegmentSummary {
        format: SegmentSummary::FORMAT,
        segment,
        system_identifier: None,
        postgres_major: None,
        bytes: 0,
        crc32c: 0,
        timeline,
        first_record: None,
        last_record: None,
        previous_record: None,
        overwrites: false,
        continues: None,
        unfinished: None,
        records: 0,
        commits: 0,
        aborts: 0,
        earliest_commit: None,
        latest_commit: None,
        latest_end: None,
        ended_xids: None,
        running: None,
        restore_points: Vec::new(),
        checkpoints: Vec::new(),
        timeline_switches: Vec::new(),
        parameter_changes: Vec::new(),
        storage_drops: Vec::new(),
        databases: Vec::new(),
        catalog_changes: Some(CatalogChangesSeen::default()),
        damage: Vec::new(),
        capped: Vec::new(),
    }
}

impl SegmentSummary {
    fn count(&mut self, record: &Record<'_>) {
        self.records += 1;
        self.first_record.get_or_insert(record.lsn());
        self.last_record = Some(record.lsn());
        self.look_into(record);
    }

    /// Sums up what is in a record; most are of resource managers that there is nothing to be told of.
    fn look_into(&mut self, record: &Record<'_>) {
        match record.header().resource_manager {
            ResourceManager::HEAP | ResourceManager::HEAP2 => self.note_rows(record),
            manager if is_one_of(manager, LOOKED_INTO) => self.note_contents(record),
            _ => {}
        }
    }

    fn note_contents(&mut self, record: &Record<'_>) {
        let header = record.header();
        if header.resource_manager == ResourceManager::TRANSACTION
            && let Some((committed, time)) = xact::plain_end(header, record.held_bytes())
        {
            if committed {
                self.commits += 1;
                self.note_commit_time(record.lsn(), time, header.xid);
            } else {
                self.aborts += 1;
                self.note_end(record.lsn(), time, header.xid);
            }
            return;
        }
        let contents = record
            .body()
            .ok()
            .and_then(|body| RecordContents::parse(header, &body, record.major()).ok());
        match contents {
            Some(RecordContents::Xlog(contents)) => self.note_xlog(record.lsn(), &contents),
            Some(RecordContents::Transaction(contents)) => {
                self.note_transaction(record.lsn(), &contents);
            }
            Some(RecordContents::Database(contents)) => {
                self.note_database(record.lsn(), &contents);
            }
            Some(RecordContents::Relmap(update)) => self.note_moved_catalogs(&update),
            Some(RecordContents::Standby(StandbyRecord::RunningXacts(running))) => {
                self.running = Some(RunningSeen {
                    lsn: record.lsn(),
                    next_xid: running.next_xid,
                    oldest_running_xid: running.oldest_running_xid,
                });
            }
            _ => {}
        }
    }

    /// Counts changes of rows of the catalogs that give names.
    fn note_rows(&mut self, record: &Record<'_>) {
        let header = record.header();
        let changes_rows = match header.resource_manager {
            // insert, delete, update, and update without indexes
            ResourceManager::HEAP => matches!(header.operation() & 0x70, 0x00 | 0x10 | 0x20 | 0x40),
            _ => header.operation() & 0x70 == 0x50,
        };
        if !changes_rows {
            return;
        }
        let behind_header = record.held_bytes().get(RecordHeader::LEN..);
        let file = behind_header.and_then(|bytes| body::first_relation(bytes, record.major()));
        if file.is_some_and(|file| NAMING_CATALOGS.contains(&file.relation)) {
            self.catalog_changes.get_or_insert_default().records += 1;
        }
    }

    fn note_moved_catalogs(&mut self, update: &RelmapUpdate<'_>) {
        let moved = update.mappings.iter();
        let moved = moved.filter(|map| NAMING_CATALOGS.contains(&map.oid) && map.file != map.oid);
        for mapping in moved {
            let seen = self.catalog_changes.get_or_insert_default();
            if !seen.moved.contains(&mapping.file) {
                push(
                    &mut seen.moved,
                    mapping.file,
                    "moved_catalogs",
                    &mut self.capped,
                );
            }
        }
    }

    fn note_xlog(&mut self, lsn: Lsn, contents: &XlogRecord<'_>) {
        match contents {
            XlogRecord::CheckpointShutdown(checkpoint)
            | XlogRecord::CheckpointOnline(checkpoint) => {
                let shutdown = matches!(contents, XlogRecord::CheckpointShutdown(_));
                let seen = CheckpointSeen {
                    lsn,
                    redo: checkpoint.redo,
                    shutdown,
                    time: checkpoint.time,
                };
                push(&mut self.checkpoints, seen, "checkpoints", &mut self.capped);
                if shutdown && checkpoint.timeline != checkpoint.previous_timeline {
                    self.note_switch(TimelineSwitchSeen {
                        lsn,
                        timeline: checkpoint.timeline,
                        previous_timeline: checkpoint.previous_timeline,
                    });
                }
            }
            XlogRecord::EndOfRecovery(end) => self.note_switch(TimelineSwitchSeen {
                lsn,
                timeline: end.timeline,
                previous_timeline: end.previous_timeline,
            }),
            XlogRecord::RestorePoint { time, name } => {
                let seen = RestorePointSeen {
                    lsn,
                    time: *time,
                    name: String::from_utf8_lossy(name).into_owned(),
                };
                push(
                    &mut self.restore_points,
                    seen,
                    "restore_points",
                    &mut self.capped,
                );
            }
            XlogRecord::ParameterChange(change) => {
                let seen = ParameterChangeSeen {
                    lsn,
                    settings: change.required_settings,
                };
                push(
                    &mut self.parameter_changes,
                    seen,
                    "parameter_changes",
                    &mut self.capped,
                );
            }
            _ => {}
        }
    }

    fn note_switch(&mut self, seen: TimelineSwitchSeen) {
        push(
            &mut self.timeline_switches,
            seen,
            "timeline_switches",
            &mut self.capped,
        );
    }

    fn note_transaction(&mut self, lsn: Lsn, contents: &XactRecord<'_>) {
        match contents {
            XactRecord::Commit(end) | XactRecord::CommitPrepared(end) => {
                self.commits += 1;
                self.note_commit(lsn, end);
            }
            XactRecord::Abort(end) | XactRecord::AbortPrepared(end) => {
                self.aborts += 1;
                self.note_end(lsn, end.time, end.xid);
            }
            _ => {}
        }
    }

    fn note_commit(&mut self, lsn: Lsn, end: &TransactionEnd<'_>) {
        self.note_commit_time(lsn, end.time, end.xid);
        if let Some(first) = end.dropped_files.iter().next() {
            let seen = StorageDropSeen {
                lsn,
                xid: end.xid,
                time: end.time,
                files: end.dropped_files.len() as u64,
                first: Some(first),
            };
            push(
                &mut self.storage_drops,
                seen,
                "storage_drops",
                &mut self.capped,
            );
        }
    }

    fn note_commit_time(&mut self, lsn: Lsn, time: Timestamp, xid: u32) {
        let now = Moment { time, lsn };
        if self.earliest_commit.is_none_or(|at| time < at.time) {
            self.earliest_commit = Some(now);
        }
        if self.latest_commit.is_none_or(|at| time > at.time) {
            self.latest_commit = Some(now);
        }
        self.note_end(lsn, time, xid);
    }

    fn note_end(&mut self, lsn: Lsn, time: Timestamp, xid: u32) {
        if self.latest_end.is_none_or(|at| time > at.time) {
            self.latest_end = Some(Moment { time, lsn });
        }
        if let Some(xid) = TransactionId::new(xid) {
            let span = self.ended_xids.map(|span| span.with(xid));
            self.ended_xids = Some(span.unwrap_or(XidSpan::of(xid)));
        }
    }

    fn note_database(&mut self, lsn: Lsn, contents: &DatabaseRecord<'_>) {
        let (database, dropped) = match contents {
            DatabaseRecord::CreateFileCopy { database, .. }
            | DatabaseRecord::CreateWalLog { database, .. } => (*database, false),
            DatabaseRecord::Drop { database, .. } => (*database, true),
        };
        let seen = DatabaseSeen {
            lsn,
            database,
            dropped,
        };
        push(&mut self.databases, seen, "databases", &mut self.capped);
    }

    fn note_damage(&mut self, damage: &WalDamage) {
        let seen = DamageSeen::from(damage);
        push(&mut self.damage, seen, "damage", &mut self.capped);
    }
}

/// Resource managers whose records are taken apart, a bit for each by its number.
const LOOKED_INTO: u32 = 1 << ResourceManager::XLOG.get()
    | 1 << ResourceManager::TRANSACTION.get()
    | 1 << ResourceManager::DATABASE.get()
    | 1 << ResourceManager::RELMAP.get()
    | 1 << ResourceManager::STANDBY.get();

/// Resource managers whose records may change rows of the catalogs.
const ROWS: u32 = 1 << ResourceManager::HEAP.get() | 1 << ResourceManager::HEAP2.get();

/// Whether the summary needs no more of a record than its header and its first block reference.
fn is_told_by_its_beginning(header: &RecordHeader) -> bool {
    !is_one_of(header.resource_manager, LOOKED_INTO) || xlog::is_page_image(header)
}

const fn is_one_of(manager: ResourceManager, set: u32) -> bool {
    manager.get() < 32 && set >> manager.get() & 1 == 1
}

/// Whether the summary may tell of the record that `bytes` begins with: `false` of nearly all that there are, and
/// found without a branch, which would be guessed wrongly for every other record.
#[inline]
fn may_be_told(header: &RecordHeader, bytes: &[u8]) -> bool {
    let rows = is_one_of(header.resource_manager, ROWS);
    is_one_of(header.resource_manager, LOOKED_INTO)
        | (rows & !body::begins_with_users_relation(bytes))
}

/// Adds to a list as long as there is room, and notes that there was none.
fn push<T>(list: &mut Vec<T>, entry: T, name: &str, capped: &mut Vec<String>) {
    if list.len() < SUMMARY_LIST_LIMIT {
        list.push(entry);
    } else if !capped.iter().any(|known| known == name) {
        capped.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::reader::test_log::{SEGMENT, TestLog};

    #[test]
    fn a_commit_of_more_than_a_million_subtransactions_counts() {
        let subtransactions = 1_100_000_u32;
        let time = 848_474_700_721_052_i64;
        let mut commit = time.to_le_bytes().to_vec();
        // XACT_XINFO_HAS_SUBXACTS
        commit.extend(2_u32.to_le_bytes());
        commit.extend(subtransactions.to_le_bytes());
        (0..subtransactions).for_each(|xid| commit.extend((1000 + xid).to_le_bytes()));
        let mut log = TestLog::new(4 * SEGMENT - 24);
        // it says more than when and which
        let lsn = log.push(1, 0x80, &commit);
        let size = TestLog::size();
        let name = SegmentName::new(
            crate::timeline::id::TimelineId::FIRST,
            crate::wal::segment_number::SegmentNumber::new(4),
            size,
        );
        let mut builder = SegmentSummaryBuilder::new(name, size).unwrap();
        builder.feed(&log.bytes);
        let summary = builder.finish();
        assert!(!summary.is_damaged(), "{:?}", summary.damage);
        assert_eq!((summary.records, summary.commits), (1, 1));
        let latest = summary.latest_commit.unwrap();
        assert_eq!((latest.lsn.get(), latest.time.micros()), (lsn, time));
    }
}
