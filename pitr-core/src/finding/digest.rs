//! What matters of a stretch of the log, so that stretches can be read at once
//! and then be followed in order.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::catalog::row::NAMING_CATALOGS;
use crate::finding::activity::{Activity, ByXid, RowCount};
use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::timestamp::Timestamp;
use crate::wal::reader::WalReader;
use crate::wal::reader::damage::WalDamage;
use crate::wal::record::Record;
use crate::wal::record::body;
use crate::wal::record::contents::RecordContents;
use crate::wal::record::header::RecordHeader;
use crate::wal::record::relation_file::RelationFile;
use crate::wal::record::resource_manager::ResourceManager;
use crate::wal::record::row_change::{RowChange, RowChangeKind};
use crate::wal::rmgr::storage::StorageRecord;
use crate::wal::rmgr::xact::XactRecord;
use crate::wal::segment_number::SegmentNumber;
use crate::wal::segment_size::WalSegmentSize;

/// Damage that a digest tells of at most.
const MAX_DAMAGE: usize = 16;

/// What to look for in a stretch of the log.
#[derive(Debug, Clone)]
pub struct Interest {
    /// Files that catalogs lie in, in any database; those of
    /// [`NAMING_CATALOGS`] always count.
    pub catalog_files: HashSet<u32>,
    /// Whether rows of all tables are to be counted.
    pub rows: bool,
    /// Commits so many microseconds apart have a quiet span between them.
    pub quiet_micros: i64,
}

impl Interest {
    fn is_catalog(&self, file: u32) -> bool {
        NAMING_CATALOGS.contains(&file) || self.catalog_files.contains(&file)
    }
}

/// A record that the follower looks into itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) lsn: Lsn,
    pub(crate) header: RecordHeader,
    /// All of the record but its header.
    pub(crate) body: Vec<u8>,
}

/// The end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndNote {
    pub(crate) lsn: Lsn,
    pub(crate) xid: u32,
    pub(crate) time: Timestamp,
    pub(crate) committed: bool,
    /// What it and its subtransactions wrote in this stretch.
    pub(crate) first_lsn: Lsn,
    pub(crate) bytes: u64,
    /// Its part of [`Digest::rows`].
    pub(crate) rows: std::ops::Range<usize>,
    /// Its part of [`Digest::subtransactions`].
    pub(crate) subtransactions: std::ops::Range<usize>,
}

/// What matters of a stretch of the log.
#[derive(Debug, Clone, Default)]
pub struct Digest {
    pub(crate) major: Option<PostgresMajor>,
    pub(crate) notes: Vec<Note>,
    pub(crate) ends: Vec<EndNote>,
    pub(crate) rows: Vec<RowCount>,
    pub(crate) subtransactions: Vec<u32>,
    /// Transactions that go on behind the stretch.
    pub(crate) open: Vec<(u32, Activity)>,
    /// New files of relations that rows or pages were written to.
    pub(crate) filled: HashSet<RelationFile>,
    /// Spans without a commit: the last one before, the one that ended it.
    pub(crate) quiet: Vec<(Timestamp, Timestamp, Lsn)>,
    pub(crate) first_commit: Option<(Timestamp, Lsn)>,
    /// Commits at least a second apart, from which the time of other records follows.
    pub(crate) clock: Vec<(Lsn, Timestamp)>,
    pub(crate) latest_commit: Option<Timestamp>,
    pub(crate) damage: Vec<WalDamage>,
}

/// Reads a stretch of the log, in chunks of any size, and keeps what matters.
#[derive(Debug)]
pub struct DigestBuilder {
    reader: WalReader,
    interest: Arc<Interest>,
    /// Records that begin here belong to the next stretch.
    end: Lsn,
    digest: Digest,
    open: ByXid<Activity>,
    created: HashMap<RelationFile, u32>,
    clock: Option<Timestamp>,
}

impl DigestBuilder {
    /// Begins with the first byte of segment `first`; records that begin at
    /// `end` or behind it belong to the next stretch.
    #[must_use]
    pub fn new(
        first: SegmentNumber,
        end: Lsn,
        size: WalSegmentSize,
        interest: Arc<Interest>,
    ) -> Self {
        Self {
            reader: WalReader::new(first, size),
            interest,
            end,
            digest: Digest::default(),
            open: ByXid::default(),
            created: HashMap::new(),
            clock: None,
        }
    }

    /// Takes it for the end of the log if what looks damaged is followed by
    /// nothing, as at the end of a `.partial`.
    #[must_use]
    pub fn may_end(mut self) -> Self {
        self.reader = self.reader.may_end();
        self
    }

    /// Reads on.
    pub fn feed(&mut self, chunk: &[u8]) {
        let Self {
            reader,
            interest,
            end,
            digest,
            open,
            created,
            clock,
        } = self;
        let mut records = reader.feed(chunk);
        loop {
            while records
                .pass_proven(
                    |header, _| may_matter(header, interest.rows),
                    |record| {
                        if record.lsn() < *end {
                            take(digest, interest, open, created, clock, record);
                        }
                    },
                )
                .is_some()
            {}
            match records.next_by_itself() {
                Some(Ok(record)) => {
                    if record.lsn() < *end {
                        take(digest, interest, open, created, clock, &record);
                    }
                }
                Some(Err(damage)) => {
                    if damage.lsn < *end && digest.damage.len() < MAX_DAMAGE {
                        digest.damage.push(damage);
                    }
                }
                None => return,
            }
        }
    }

    /// Whether a record of the stretch goes on in what was not fed yet.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.reader
            .unfinished()
            .and_then(|unfinished| unfinished.lsn)
            .is_some_and(|lsn| lsn < self.end)
    }

    /// What matters of what was fed.
    #[must_use]
    pub fn finish(mut self) -> Digest {
        self.digest.major = self.reader.major();
        self.digest.open = self.open.into_iter().collect();
        self.digest
    }
}

impl Digest {
    /// What is wrong with the stretch.
    #[must_use]
    pub fn damage(&self) -> &[WalDamage] {
        &self.damage
    }
}

/// Whether [`take`] may have anything to do with a record; `rows` as in [`Interest`].
#[inline]
fn may_matter(header: &RecordHeader, rows: bool) -> bool {
    rows && header.xid != 0
        || matches!(
            header.resource_manager,
            ResourceManager::HEAP
                | ResourceManager::HEAP2
                | ResourceManager::XLOG
                | ResourceManager::STORAGE
                | ResourceManager::DATABASE
                | ResourceManager::RELMAP
                | ResourceManager::STANDBY
                | ResourceManager::TRANSACTION
        )
}

#[inline]
fn take(
    digest: &mut Digest,
    interest: &Interest,
    open: &mut ByXid<Activity>,
    created: &mut HashMap<RelationFile, u32>,
    clock: &mut Option<Timestamp>,
    record: &Record<'_>,
) {
    let header = record.header();
    let lsn = record.lsn();
    let manager = header.resource_manager;
    let mut activity = None;
    if header.xid != 0 && interest.rows {
        let of_xid = open
            .entry(header.xid)
            .or_insert_with(|| Activity::begin(lsn));
        of_xid.bytes += u64::from(header.total_len);
        activity = Some(of_xid);
    }
    let is_heap = matches!(manager, ResourceManager::HEAP | ResourceManager::HEAP2);
    if is_heap {
        let behind_header = record.held_bytes().get(RecordHeader::LEN..);
        let file = behind_header.and_then(|bytes| body::first_relation(bytes, record.major()));
        let Some(file) = file else { return };
        if interest.rows || !created.is_empty() {
            let main_data = || Some(record.body().ok()?.main_data());
            let change = RowChange::in_relation(header, file, main_data);
            if let Some(change) = change {
                if let Some(activity) = activity {
                    activity.count(change);
                }
                if change.kind != RowChangeKind::Delete && created.contains_key(&file) {
                    digest.filled.insert(file);
                }
            }
        }
        if interest.is_catalog(file.relation) {
            note(digest, record);
        }
        return;
    }
    match manager {
        ResourceManager::XLOG => match header.operation() {
            // a restore point
            0x70 => note(digest, record),
            // pages
            0xA0 | 0xB0 => {
                let Ok(body) = record.body() else { return };
                let mut files = body.blocks().map(|block| block.relation);
                if files.clone().any(|file| interest.is_catalog(file.relation)) {
                    note(digest, record);
                }
                digest
                    .filled
                    .extend(files.find(|file| created.contains_key(file)));
            }
            _ => {}
        },
        ResourceManager::STORAGE => {
            if let Ok(RecordContents::Storage(StorageRecord::Create { relation, .. })) =
                record.contents()
            {
                created.insert(relation, header.xid);
                note(digest, record);
            }
        }
        ResourceManager::DATABASE | ResourceManager::RELMAP => note(digest, record),
        // which transactions are still running
        ResourceManager::STANDBY if header.operation() == 0x10 => note(digest, record),
        ResourceManager::TRANSACTION => {
            let Ok(RecordContents::Transaction(contents)) = record.contents() else {
                return;
            };
            end_of_transaction(digest, interest, open, clock, record, &contents);
        }
        _ => {}
    }
}

fn end_of_transaction(
    digest: &mut Digest,
    interest: &Interest,
    open: &mut ByXid<Activity>,
    clock: &mut Option<Timestamp>,
    record: &Record<'_>,
    contents: &XactRecord<'_>,
) {
    let Some(end) = contents.end() else { return };
    let committed = contents.commit().is_some();
    let lsn = record.lsn();
    let mut whole = open.remove(&end.xid).unwrap_or_default();
    let first_subtransaction = digest.subtransactions.len();
    for xid in end.subtransactions.iter() {
        digest.subtransactions.push(xid);
        if let Some(activity) = open.remove(&xid) {
            whole.absorb(&activity);
        }
    }
    let first_row = digest.rows.len();
    digest.rows.extend_from_slice(&whole.rows);
    digest.ends.push(EndNote {
        lsn,
        xid: end.xid,
        time: end.time,
        committed,
        first_lsn: if whole.first_lsn.is_valid() {
            whole.first_lsn
        } else {
            lsn
        },
        bytes: whole.bytes,
        rows: first_row..digest.rows.len(),
        subtransactions: first_subtransaction..digest.subtransactions.len(),
    });
    if committed {
        if let Some(before) = *clock
            && end.time.micros().saturating_sub(before.micros()) >= interest.quiet_micros
        {
            digest.quiet.push((before, end.time, lsn));
        }
        digest.first_commit.get_or_insert((end.time, lsn));
        let is_later =
            |(_, last): &(Lsn, Timestamp)| end.time.micros() >= last.micros() + 1_000_000;
        if digest.clock.last().is_none_or(is_later) {
            digest.clock.push((lsn, end.time));
        }
        *clock = (*clock).max(Some(end.time));
        digest.latest_commit = *clock;
    }
    // one that changes catalogs or removes files
    let says_more = !end.dropped_files.is_empty()
        || !end.dropped_stats.is_empty()
        || !end.invalidations.is_empty()
        || end.forces_sync();
    if says_more {
        note(digest, record);
    }
}

fn note(digest: &mut Digest, record: &Record<'_>) {
    let body = record
        .bytes()
        .and_then(|bytes| bytes.get(RecordHeader::LEN..));
    // one too long to be held was checked, and is none of those that give names
    if let Some(body) = body {
        digest.notes.push(Note {
            lsn: record.lsn(),
            header: *record.header(),
            body: body.to_vec(),
        });
    }
}
