//! PostgreSQL WAL, timelines, control file, backup label and manifest, recovery targets: pure parsing, no I/O.
//!
//! Bytes and text go in, checked values come out. Nothing here opens a file,
//! asks the time or talks to a server, and no input can make it panic or
//! allocate more than a small multiple of that input's own length.
//!
//! | of | types |
//! |---|---|
//! | positions and names | [`Lsn`], [`TimelineId`], [`WalSegmentSize`], [`SegmentNumber`], [`SegmentName`], [`WalFileName`] |
//! | the cluster | [`SystemIdentifier`], [`PostgresMajor`], [`ControlFile`], [`RequiredSettings`] |
//! | the log | [`WalReader`], [`Record`], [`RecordContents`], [`WalDamage`], [`PageHeader`] |
//! | what happened | [`DigestBuilder`], [`Follower`], [`Finding`] |
//! | timelines | [`TimelineHistory`], [`TimelinePath`], [`SegmentPlacement`] |
//! | base backups | [`BackupLabel`], [`TablespaceMap`], [`BackupManifest`] |
//! | recovery | [`RecoveryTarget`], [`RecoveryTargetTimeline`], [`TargetAction`], [`Timestamp`], [`TransactionId`] |
//!
//! Which segments does it take to get from a backup on timeline 1 to a
//! position on timeline 2, which branched off within segment 4?
//!
//! ```
//! use pitr_core::{Lsn, SegmentPlacement, TimelineHistory, TimelineId, WalSegmentSize};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let size = WalSegmentSize::DEFAULT;
//! let timeline = TimelineId::from_hex("00000002").ok_or("no timeline")?;
//! let history = TimelineHistory::parse(timeline, b"1\t0/4000100\tbefore transaction 779\n")?;
//!
//! let path = history.path(TimelineId::FIRST, "0/3000028".parse()?)?;
//! let segments: Vec<String> = path.segments_until("0/5000060".parse()?, size).map(|name| name.to_string()).collect();
//! assert_eq!(segments, ["000000010000000000000003", "000000020000000000000004", "000000020000000000000005"]);
//!
//! // what PostgreSQL would replay past the branch, if it were served
//! let parents = "000000010000000000000005".parse()?;
//! assert_eq!(
//!     history.placement(&parents, size)?,
//!     SegmentPlacement::BeyondBranch { switch_lsn: Lsn::new(0x400_0100), child: timeline }
//! );
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod backup_label;
mod backup_manifest;
mod catalog;
mod control_file;
pub mod crc32c;
mod file_hasher;
mod finding;
mod line;
mod lsn;
mod manifest_file;
mod postgres_major;
mod recovery_target;
mod required_settings;
mod system_identifier;
mod tablespace_map;
mod text;
mod timeline;
mod timestamp;
mod transaction_id;
mod wal;

pub use backup_label::{BackupFrom, BackupLabel, BackupLabelError, BackupMethod, IncrementalFrom};
pub use backup_manifest::{BackupManifest, BackupManifestError, WalRange};
pub use catalog::commit_log::TRANSACTIONS_PER_COMMIT_LOG_FILE;
pub use catalog::databases::{CatalogFiles, NoCatalogFiles};
pub use catalog::file_map::{RelationMap, RelationMapError};
pub use catalog::row::NAMING_CATALOGS;
pub use control_file::checkpoint::Checkpoint;
pub use control_file::cluster_state::ClusterState;
pub use control_file::{ControlFile, ControlFileError};
pub use file_hasher::FileHasher;
pub use finding::digest::{Digest, DigestBuilder, Interest};
pub use finding::event::{Finding, FoundEvent, TableRows, TransactionFound};
pub use finding::follower::{Follower, Thresholds};
pub use finding::object::{FoundObject, ObjectKind, Sureness};
pub use lsn::{Lsn, ParseLsnError};
pub use manifest_file::{ChecksumAlgorithm, FileChecksum, ManifestFile, ManifestFileError};
pub use postgres_major::PostgresMajor;
pub use recovery_target::action::{ParseTargetActionError, TargetAction};
pub use recovery_target::restore_point_name::{RestorePointName, RestorePointNameError};
pub use recovery_target::stop::{
    EndedTransaction, PassedRecord, PassedRecordKind, RecoveryStop, RecoveryStops,
};
pub use recovery_target::timeline::{ParseRecoveryTargetTimelineError, RecoveryTargetTimeline};
pub use recovery_target::{RecoveryTarget, RecoveryTargetKind};
pub use required_settings::RequiredSettings;
pub use system_identifier::{ParseSystemIdentifierError, SystemIdentifier};
pub use tablespace_map::{TablespaceMap, TablespaceMapEntry, TablespaceMapError};
pub use timeline::history::{HistoryEntry, TimelineHistory, TimelineHistoryError};
pub use timeline::id::{ParseTimelineIdError, TimelineId};
pub use timeline::path::{PathError, PathStep, TimelinePath};
pub use timeline::placement::SegmentPlacement;
pub use timestamp::{ParseTimestampError, Timestamp};
pub use transaction_id::{ParseTransactionIdError, TransactionId};
pub use wal::file_name::{WalFileName, WalFileNameError};
pub use wal::level::WalLevel;
pub use wal::page_header::{LongHeader, PageHeader, PageHeaderError};
pub use wal::reader::damage::{WalDamage, WalDamageKind};
pub use wal::reader::part::RecordPart;
pub use wal::reader::segment_scan::SegmentScan;
pub use wal::reader::{LeadingBytes, Records, UnfinishedRecord, WalReader};
pub use wal::record::Record;
pub use wal::record::block_image::{BlockImage, ImageCompression};
pub use wal::record::block_reference::BlockReference;
pub use wal::record::body::{Blocks, RecordBody, RecordBodyError};
pub use wal::record::contents::{RecordContents, RecordContentsError};
pub use wal::record::header::{RecordHeader, RecordHeaderError};
pub use wal::record::packed_list::PackedList;
pub use wal::record::page_image::PageImageError;
pub use wal::record::relation_file::{Fork, RelationFile};
pub use wal::record::resource_manager::ResourceManager;
pub use wal::record::row_change::{RowChange, RowChangeKind};
pub use wal::rmgr::database::DatabaseRecord;
pub use wal::rmgr::heap::{HeapRecord, HeapTuple, RowPlace};
pub use wal::rmgr::heap2::{Heap2Record, MultiInsert};
pub use wal::rmgr::invalidation::Invalidation;
pub use wal::rmgr::logical_message::LogicalMessage;
pub use wal::rmgr::prepare::PreparedTransaction;
pub use wal::rmgr::relmap::{RelationMapping, RelmapUpdate};
pub use wal::rmgr::standby::{RunningXacts, StandbyLock, StandbyRecord};
pub use wal::rmgr::storage::StorageRecord;
pub use wal::rmgr::tablespace::TablespaceRecord;
pub use wal::rmgr::xact::{DroppedStats, TransactionEnd, TransactionOrigin, XactRecord};
pub use wal::rmgr::xlog::{EndOfRecovery, ParameterChange, XlogRecord};
pub use wal::seam::{LogEdges, LogSeams};
pub use wal::segment_name::SegmentName;
pub use wal::segment_number::SegmentNumber;
pub use wal::segment_size::{WalSegmentSize, WalSegmentSizeError};
pub use wal::summary::builder::SegmentSummaryBuilder;
pub use wal::summary::{
    CatalogChangesSeen, CheckpointSeen, ContinuedRecord, DamageSeen, DatabaseSeen, Moment,
    ParameterChangeSeen, RestorePointSeen, RunningSeen, SUMMARY_LIST_LIMIT, SegmentSummary,
    StorageDropSeen, TimelineSwitchSeen, UnfinishedInSegment, XidSpan,
};
