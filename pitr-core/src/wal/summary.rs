//! What happened in a segment, in a few hundred bytes.

pub(crate) mod builder;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::required_settings::RequiredSettings;
use crate::system_identifier::SystemIdentifier;
use crate::timeline::id::TimelineId;
use crate::timestamp::Timestamp;
use crate::transaction_id::TransactionId;
use crate::wal::file_name::WalFileName;
use crate::wal::reader::damage::WalDamage;
use crate::wal::reader::part::RecordPart;
use crate::wal::record::relation_file::RelationFile;
use crate::wal::seam::LogEdges;
use crate::wal::segment_size::WalSegmentSize;

/// Most entries that any list of a summary holds.
pub const SUMMARY_LIST_LIMIT: usize = 64;

/// What a segment holds, found by reading every record in it.
///
/// As JSON it stands in the stored object; fields that a later version adds
/// are passed over when read. Positions are those at which records begin.
/// Every list holds at most [`SUMMARY_LIST_LIMIT`] entries, the first of their
/// kind; a list that would have had more is named in `capped`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentSummary {
    /// Format of the summary: [`SegmentSummary::FORMAT`].
    pub format: u32,
    /// The segment, or the `.partial`.
    pub segment: WalFileName,
    /// The cluster that wrote it.
    pub system_identifier: Option<SystemIdentifier>,
    /// Version of the server that wrote it.
    pub postgres_major: Option<PostgresMajor>,
    /// Length in bytes.
    pub bytes: u64,
    /// CRC-32C of all its bytes.
    pub crc32c: u32,
    /// Timeline that its last page or record names.
    pub timeline: TimelineId,
    /// The first record that begins in it.
    pub first_record: Option<Lsn>,
    /// The last record that begins in it.
    pub last_record: Option<Lsn>,
    /// The record before the first one that begins in it, as that one says.
    #[serde(default)]
    pub previous_record: Option<Lsn>,
    /// Whether the rest of the record that it would begin in the middle of was lost in a crash.
    #[serde(default)]
    pub overwrites: bool,
    /// What the segment begins in the middle of.
    pub continues: Option<ContinuedRecord>,
    /// What goes on in the next segment.
    pub unfinished: Option<UnfinishedInSegment>,
    /// Records that are complete in it.
    pub records: u64,
    /// Transactions committed, prepared ones included.
    pub commits: u64,
    /// Transactions rolled back, prepared ones and subtransactions included.
    pub aborts: u64,
    /// Lowest time of a commit.
    pub earliest_commit: Option<Moment>,
    /// Highest time of a commit.
    pub latest_commit: Option<Moment>,
    /// Highest time of any end of a transaction, by which recovery to a time stops.
    pub latest_end: Option<Moment>,
    /// Which transactions end in it; absent in summaries of the first versions.
    #[serde(default)]
    pub ended_xids: Option<XidSpan>,
    /// The last account of running transactions in it; absent in summaries of the first versions.
    #[serde(default)]
    pub running: Option<RunningSeen>,
    /// Named restore points.
    pub restore_points: Vec<RestorePointSeen>,
    /// Checkpoints.
    pub checkpoints: Vec<CheckpointSeen>,
    /// Beginnings of timelines.
    pub timeline_switches: Vec<TimelineSwitchSeen>,
    /// Changes of settings that recovery compares with its own.
    pub parameter_changes: Vec<ParameterChangeSeen>,
    /// Commits that remove files: of tables dropped, truncated or rewritten.
    pub storage_drops: Vec<StorageDropSeen>,
    /// Databases created or dropped.
    pub databases: Vec<DatabaseSeen>,
    /// Changes of what relations are called and where they lie; `None` in
    /// summaries that were written before this was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog_changes: Option<CatalogChangesSeen>,
    /// What is wrong with the segment.
    pub damage: Vec<DamageSeen>,
    /// Lists that would have had more entries than they may.
    pub capped: Vec<String>,
}

/// A record that began in an earlier segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinuedRecord {
    /// Bytes of it that were still to come, page headers excluded.
    pub bytes: u64,
    /// Where it begins, as the record after it says; `None` where that is not
    /// in this segment.
    pub record: Option<Lsn>,
    /// As much of it as is in this segment.
    #[serde(default)]
    pub part: Option<RecordPart>,
}

/// A record that goes on in a later segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedInSegment {
    /// Where it begins; `None` if that is in an earlier segment.
    pub record: Option<Lsn>,
    /// Bytes still to come; `None` if its length is not complete.
    pub missing_bytes: Option<u64>,
    /// As much of it as is in this segment, where it begins here.
    #[serde(default)]
    pub part: Option<RecordPart>,
}

/// Numbers of transactions, from the one that was given out first to the last; both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct XidSpan {
    /// The lowest, in the order in which they are given out.
    pub lowest: u32,
    /// The highest.
    pub highest: u32,
}

/// An account of the running transactions, which the server writes every few seconds.
///
/// Source: `xl_running_xacts`, src/include/storage/standbydefs.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningSeen {
    /// The record.
    pub lsn: Lsn,
    /// The number that will be given out next.
    pub next_xid: u32,
    /// Every transaction before this one has ended.
    pub oldest_running_xid: u32,
}

impl XidSpan {
    /// The span of one transaction.
    pub const fn of(xid: TransactionId) -> Self {
        XidSpan {
            lowest: xid.get(),
            highest: xid.get(),
        }
    }

    /// The span with `xid` in it.
    #[must_use]
    pub fn with(self, xid: TransactionId) -> Self {
        let beyond =
            |end: u32, beyond: fn(TransactionId, TransactionId) -> bool| match TransactionId::new(
                end,
            ) {
                Some(end) if !beyond(xid, end) => end.get(),
                _ => xid.get(),
            };
        XidSpan {
            lowest: beyond(self.lowest, |xid, end| xid.precedes(end)),
            highest: beyond(self.highest, |xid, end| end.precedes(xid)),
        }
    }

    /// Whether `xid` may be one of them.
    pub fn contains(&self, xid: TransactionId) -> bool {
        self.with(xid) == *self
    }
}

/// A time, and the record that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The time, by the server's clock.
    pub time: Timestamp,
    /// The record.
    pub lsn: Lsn,
}

/// A restore point (`pg_create_restore_point`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePointSeen {
    /// The record.
    pub lsn: Lsn,
    /// When it was made.
    pub time: Timestamp,
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
}

/// A checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointSeen {
    /// The record.
    pub lsn: Lsn,
    /// Where replay begins.
    pub redo: Lsn,
    /// Whether the server stopped, or ended a recovery.
    pub shutdown: bool,
    /// When it was done.
    pub time: Timestamp,
}

/// The first record of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineSwitchSeen {
    /// The record.
    pub lsn: Lsn,
    /// The new timeline.
    pub timeline: TimelineId,
    /// The timeline that it branches off from.
    pub previous_timeline: TimelineId,
}

/// Settings that a recovering server must not fall below, as they are from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterChangeSeen {
    /// The record.
    pub lsn: Lsn,
    /// The settings.
    #[serde(flatten)]
    pub settings: RequiredSettings,
}

/// A commit that removes files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageDropSeen {
    /// The commit: recovery that stops before it keeps the files.
    pub lsn: Lsn,
    /// The transaction.
    pub xid: u32,
    /// When it was committed.
    pub time: Timestamp,
    /// How many files.
    pub files: u64,
    /// The first of them, as tablespace, database and file number.
    pub first: Option<RelationFile>,
}

/// A database created or dropped. Replay acts at once, before the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseSeen {
    /// The record.
    pub lsn: Lsn,
    /// OID of the database.
    pub database: u32,
    /// Whether it is dropped.
    pub dropped: bool,
}

/// Changes of the catalogs that give names, as long as they lie in the files
/// that they had at first.
///
/// What is changed where it is (as statistics are) does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogChangesSeen {
    /// Records about rows of `pg_class`, `pg_namespace` and `pg_database`.
    pub records: u64,
    /// Files that these catalogs have moved to (`VACUUM FULL`).
    pub moved: Vec<u32>,
}

/// A place where the log is not what the server wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageSeen {
    /// Where it shows.
    pub lsn: Lsn,
    /// The record that cannot be trusted, where that is known.
    pub record: Option<Lsn>,
    /// What is wrong, in words.
    pub what: String,
}

impl From<&WalDamage> for DamageSeen {
    fn from(damage: &WalDamage) -> Self {
        DamageSeen {
            lsn: damage.lsn,
            record: damage.record,
            what: damage.kind.to_string(),
        }
    }
}

impl SegmentSummary {
    /// The format that this version writes; it reads no later one.
    pub const FORMAT: u32 = 1;

    /// How the segment begins and ends, by which it is joined with its neighbours.
    ///
    /// `None` for a `.partial`, behind which nothing follows, and for a segment
    /// in which there is damage, of whose ends little is certain. Summaries of
    /// versions that did not write everything about the ends say less.
    #[must_use]
    pub fn edges(&self) -> Option<LogEdges> {
        let WalFileName::Segment(segment) = self.segment else {
            return None;
        };
        let size = WalSegmentSize::new(self.bytes).ok()?;
        let number = segment.number(size).ok().filter(|_| !self.is_damaged())?;
        let (continues, unfinished) = (self.continues, self.unfinished);
        let known = continues.and_then(|continued| continued.record);
        Some(LogEdges {
            start: number.start(size),
            end: number.end(size),
            system_identifier: self.system_identifier,
            continued_bytes: continues.map_or(0, |continued| continued.bytes),
            continued: continues.and_then(|continued| continued.part),
            overwrites: self.overwrites,
            previous_record: self.previous_record.or(known),
            last_record: self.last_record,
            is_unfinished: unfinished.is_some(),
            missing_bytes: unfinished.and_then(|unfinished| unfinished.missing_bytes),
            begun: unfinished.and_then(|unfinished| unfinished.part),
        })
    }

    /// Whether anything in the segment cannot be trusted.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        !self.damage.is_empty()
    }
}
