//! Records about the log itself.

use std::fmt;

use nom::bytes::complete::{take, take_while};
use nom::combinator::{map_opt, map_parser};
use nom::number::complete::{le_i32, le_i64, le_u8, le_u32, le_u64};
use nom::{IResult, Parser};

use crate::control_file::checkpoint::{Checkpoint, checkpoint_fields};
use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::required_settings::RequiredSettings;
use crate::timeline::id::TimelineId;
use crate::timestamp::Timestamp;
use crate::wal::level::WalLevel;
use crate::wal::record::contents::Parsed;
use crate::wal::record::header::RecordHeader;
use crate::wal::record::resource_manager::ResourceManager;

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
const NOOP: u8 = 0x20;
const NEXTOID: u8 = 0x30;
const SWITCH: u8 = 0x40;
const BACKUP_END: u8 = 0x50;
const PARAMETER_CHANGE: u8 = 0x60;
const RESTORE_POINT: u8 = 0x70;
const FPW_CHANGE: u8 = 0x80;
const END_OF_RECOVERY: u8 = 0x90;
const FPI_FOR_HINT: u8 = 0xA0;
const FPI: u8 = 0xB0;
const OVERWRITE_CONTRECORD: u8 = 0xD0;
const CHECKPOINT_REDO: u8 = 0xE0;

/// Bytes for the name of a restore point.
///
/// Source: `MAXFNAMELEN`, src/include/access/xlog_internal.h.
const NAME_LEN: usize = 64;

/// A record about the log itself.
///
/// Source: src/include/catalog/pg_control.h, src/include/access/xlog_internal.h.
#[derive(Debug, Clone)]
pub enum XlogRecord<'a> {
    /// A checkpoint of a server that stops, or one that ends recovery.
    CheckpointShutdown(Checkpoint),
    /// A checkpoint of a running server.
    CheckpointOnline(Checkpoint),
    /// Nothing.
    Noop,
    /// Object identifiers are handed out up to this one.
    NextOid(u32),
    /// The rest of the segment is empty.
    Switch,
    /// A base backup ends: a copy that began at `start` is consistent from here on.
    BackupEnd {
        /// Where replay of the backup begins.
        start: Lsn,
    },
    /// Settings changed that recovery compares with its own.
    ParameterChange(ParameterChange),
    /// A name for this place of the log.
    RestorePoint {
        /// When it was made.
        time: Timestamp,
        /// The name, of at most 63 bytes.
        name: &'a [u8],
    },
    /// `full_page_writes` changed.
    FullPageWritesChange {
        /// The new value.
        full_page_writes: bool,
    },
    /// A timeline begins, without a checkpoint.
    EndOfRecovery(EndOfRecovery),
    /// A page whose change needs no record of its own.
    PageImageForHint,
    /// Pages.
    PageImage,
    /// A record before this one was never finished: its rest was lost in a crash.
    OverwriteContrecord {
        /// Beginning of that record.
        overwritten: Lsn,
        /// When this one was written.
        time: Timestamp,
    },
    /// Where replay of the next online checkpoint begins (17 and later).
    CheckpointRedo {
        /// `wal_level`.
        wal_level: WalLevel,
    },
}

/// The settings that changed, all of them as they are now.
///
/// Source: `xl_parameter_change`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterChange {
    /// What a recovering server must not fall below.
    pub required_settings: RequiredSettings,
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}

/// The first record of a timeline.
///
/// Source: `xl_end_of_recovery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndOfRecovery {
    /// When recovery ended.
    pub time: Timestamp,
    /// The new timeline.
    pub timeline: TimelineId,
    /// The timeline that it branches off from.
    pub previous_timeline: TimelineId,
    /// `wal_level`; not recorded before 17.
    pub wal_level: Option<WalLevel>,
}

impl<'a> XlogRecord<'a> {
    pub(crate) fn fields(data: &'a [u8], operation: u8, major: PostgresMajor) -> Parsed<'a, Self> {
        let (data, record) = match operation {
            CHECKPOINT_SHUTDOWN => {
                let (data, checkpoint) = checkpoint(data, major)?;
                (data, XlogRecord::CheckpointShutdown(checkpoint))
            }
            CHECKPOINT_ONLINE => {
                let (data, checkpoint) = checkpoint(data, major)?;
                (data, XlogRecord::CheckpointOnline(checkpoint))
            }
            NOOP => (data, XlogRecord::Noop),
            NEXTOID => {
                let (data, oid) = le_u32(data)?;
                (data, XlogRecord::NextOid(oid))
            }
            SWITCH => (data, XlogRecord::Switch),
            BACKUP_END => {
                let (data, start) = lsn(data)?;
                (data, XlogRecord::BackupEnd { start })
            }
            PARAMETER_CHANGE => {
                let (data, change) = parameter_change(data)?;
                (data, XlogRecord::ParameterChange(change))
            }
            RESTORE_POINT => {
                // what follows the NUL was never written
                let name = map_parser(take(NAME_LEN), take_while(|byte| byte != 0));
                let (data, (time, name)) = (time, name).parse(data)?;
                (data, XlogRecord::RestorePoint { time, name })
            }
            FPW_CHANGE => {
                let (data, full_page_writes) = boolean(data)?;
                (data, XlogRecord::FullPageWritesChange { full_page_writes })
            }
            END_OF_RECOVERY => {
                let (data, (time, timeline, previous_timeline)) =
                    (time, timeline, timeline).parse(data)?;
                let (data, wal_level) = if major.get() < 17 {
                    (data, None)
                } else {
                    let (data, level) = level(data)?;
                    (data, Some(level))
                };
                let end = EndOfRecovery {
                    time,
                    timeline,
                    previous_timeline,
                    wal_level,
                };
                (data, XlogRecord::EndOfRecovery(end))
            }
            FPI_FOR_HINT => (data, XlogRecord::PageImageForHint),
            FPI => (data, XlogRecord::PageImage),
            OVERWRITE_CONTRECORD => {
                let (data, (overwritten, time)) = (lsn, time).parse(data)?;
                (data, XlogRecord::OverwriteContrecord { overwritten, time })
            }
            CHECKPOINT_REDO => {
                let (data, wal_level) = level(data)?;
                (data, XlogRecord::CheckpointRedo { wal_level })
            }
            _ => return Ok((data, None)),
        };
        Ok((data, Some(record)))
    }
}

fn checkpoint(data: &[u8], major: PostgresMajor) -> IResult<&[u8], Checkpoint> {
    map_opt(
        |data| checkpoint_fields(data, major),
        |checked| checked.ok(),
    )
    .parse(data)
}

fn parameter_change(data: &[u8]) -> IResult<&[u8], ParameterChange> {
    let (data, (connections, workers, senders, prepared, locks)) =
        (setting, setting, setting, setting, setting).parse(data)?;
    let (data, (wal_level, wal_log_hints, track_commit_timestamp)) =
        (level, boolean, boolean).parse(data)?;
    let change = ParameterChange {
        required_settings: RequiredSettings {
            max_connections: connections,
            max_worker_processes: workers,
            max_wal_senders: senders,
            max_prepared_transactions: prepared,
            max_locks_per_transaction: locks,
        },
        wal_level,
        wal_log_hints,
        track_commit_timestamp,
    };
    Ok((data, change))
}

fn setting(data: &[u8]) -> IResult<&[u8], u32> {
    map_opt(le_i32, |number| u32::try_from(number).ok()).parse(data)
}

fn level(data: &[u8]) -> IResult<&[u8], WalLevel> {
    map_opt(le_i32, WalLevel::from_number).parse(data)
}

fn boolean(data: &[u8]) -> IResult<&[u8], bool> {
    let (data, byte) = le_u8(data)?;
    Ok((data, byte != 0))
}

fn lsn(data: &[u8]) -> IResult<&[u8], Lsn> {
    let (data, bytes) = le_u64(data)?;
    Ok((data, Lsn::new(bytes)))
}

fn time(data: &[u8]) -> IResult<&[u8], Timestamp> {
    let (data, micros) = le_i64(data)?;
    Ok((data, Timestamp::new(micros)))
}

fn timeline(data: &[u8]) -> IResult<&[u8], TimelineId> {
    map_opt(le_u32, TimelineId::new).parse(data)
}

impl fmt::Display for XlogRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            XlogRecord::CheckpointShutdown(checkpoint) => {
                f.write_str("CHECKPOINT_SHUTDOWN ")?;
                describe(f, checkpoint)?;
                f.write_str("; shutdown")
            }
            XlogRecord::CheckpointOnline(checkpoint) => {
                f.write_str("CHECKPOINT_ONLINE ")?;
                describe(f, checkpoint)?;
                f.write_str("; online")
            }
            XlogRecord::Noop => f.write_str("NOOP"),
            XlogRecord::NextOid(oid) => write!(f, "NEXTOID {oid}"),
            XlogRecord::Switch => f.write_str("SWITCH"),
            XlogRecord::BackupEnd { start } => write!(f, "BACKUP_END {start}"),
            XlogRecord::ParameterChange(change) => {
                f.write_str("PARAMETER_CHANGE")?;
                for (name, value) in change.required_settings.named() {
                    write!(f, " {name}={value}")?;
                }
                write!(
                    f,
                    " wal_level={} wal_log_hints={} track_commit_timestamp={}",
                    change.wal_level.as_str(),
                    on_or_off(change.wal_log_hints),
                    on_or_off(change.track_commit_timestamp)
                )
            }
            XlogRecord::RestorePoint { name, .. } => {
                write!(f, "RESTORE_POINT {}", String::from_utf8_lossy(name))
            }
            XlogRecord::FullPageWritesChange { full_page_writes } => {
                write!(f, "FPW_CHANGE {full_page_writes}")
            }
            XlogRecord::EndOfRecovery(end) => write!(
                f,
                "END_OF_RECOVERY tli {}; prev tli {}; time {}",
                end.timeline, end.previous_timeline, end.time
            ),
            XlogRecord::PageImageForHint => f.write_str("FPI_FOR_HINT"),
            XlogRecord::PageImage => f.write_str("FPI"),
            XlogRecord::OverwriteContrecord { overwritten, time } => {
                write!(f, "OVERWRITE_CONTRECORD lsn {overwritten}; time {time}")
            }
            XlogRecord::CheckpointRedo { wal_level } => {
                write!(f, "CHECKPOINT_REDO wal_level {}", wal_level.as_str())
            }
        }
    }
}

fn on_or_off(setting: bool) -> &'static str {
    if setting { "on" } else { "off" }
}

fn describe(f: &mut fmt::Formatter<'_>, checkpoint: &Checkpoint) -> fmt::Result {
    write!(
        f,
        "redo {}; tli {}; prev tli {}; fpw {}; xid {}:{}; oid {}; multi {}; offset {}; \
         oldest xid {} in DB {}; oldest multi {} in DB {}; \
         oldest/newest commit timestamp xid: {}/{}; oldest running xid {}",
        checkpoint.redo,
        checkpoint.timeline,
        checkpoint.previous_timeline,
        checkpoint.full_page_writes,
        checkpoint.next_xid >> 32,
        checkpoint.next_xid & 0xFFFF_FFFF,
        checkpoint.next_oid,
        checkpoint.next_multi,
        checkpoint.next_multi_offset,
        checkpoint.oldest_xid,
        checkpoint.oldest_xid_database,
        checkpoint.oldest_multi,
        checkpoint.oldest_multi_database,
        checkpoint.oldest_commit_timestamp_xid,
        checkpoint.newest_commit_timestamp_xid,
        checkpoint.oldest_active_xid,
    )
}

fn is(header: &RecordHeader, operation: u8) -> bool {
    header.resource_manager == ResourceManager::XLOG && header.operation() == operation
}

/// Source: `XLOG_SWITCH`, src/include/catalog/pg_control.h.
pub(crate) fn is_switch(header: &RecordHeader) -> bool {
    is(header, SWITCH)
}

/// Source: `XLOG_FPI`, `XLOG_FPI_FOR_HINT`.
pub(crate) fn is_page_image(header: &RecordHeader) -> bool {
    is(header, FPI) || is(header, FPI_FOR_HINT)
}

/// Source: `XLOG_FPW_CHANGE`.
pub(crate) fn is_full_page_writes_change(header: &RecordHeader) -> bool {
    is(header, FPW_CHANGE)
}

/// Source: `XLOG_OVERWRITE_CONTRECORD`.
pub(crate) fn is_overwrite_contrecord(header: &RecordHeader) -> bool {
    is(header, OVERWRITE_CONTRECORD)
}

/// Whether the record is one of those that a new timeline begins with.
///
/// Source: `PerformRecoveryXLogAction`, src/backend/access/transam/xlog.c.
pub(crate) fn may_begin_timeline(header: &RecordHeader) -> bool {
    is(header, END_OF_RECOVERY) || is(header, CHECKPOINT_SHUTDOWN)
}

/// The timeline that such a record names as its own.
///
/// In both it stands after eight bytes: of time, or of the redo position.
pub(crate) fn timeline_begun(main_data: &[u8]) -> Option<TimelineId> {
    let bytes = main_data.get(8..)?.first_chunk::<4>()?;
    TimelineId::new(u32::from_le_bytes(*bytes))
}
