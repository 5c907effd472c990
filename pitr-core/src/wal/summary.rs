//! What happened in a segment, in a few hundred bytes.

pub(crate) mod builder;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::required_settings::RequiredSettings;
use crate::system_identifier::SystemIdentifier;
use crate::timeline::id::TimelineId;
use crate::timestamp::Timestamp;
use crate::wal::file_name::WalFileName;
use crate::wal::record::relation_file::RelationFile;

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
}

/// A record that goes on in a later segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedInSegment {
    /// Where it begins; `None` if that is in an earlier segment.
    pub record: Option<Lsn>,
    /// Bytes still to come; `None` if its length is not complete.
    pub missing_bytes: Option<u64>,
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

impl SegmentSummary {
    /// The format that this version writes; it reads no later one.
    pub const FORMAT: u32 = 1;

    /// Whether anything in the segment cannot be trusted.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        !self.damage.is_empty()
    }
}
