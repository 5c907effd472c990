//! What a checkpoint writes down.

use nom::bytes::complete::take;
use nom::combinator::map;
use nom::number::complete::{le_i32, le_i64, le_u8, le_u32, le_u64};
use nom::{IResult, Parser};

use crate::control_file::ControlFileError;
use crate::control_file::field::{boolean, field, time, wal_level as level};
use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::timeline::id::TimelineId;
use crate::timestamp::Timestamp;
use crate::wal::level::WalLevel;

/// What a checkpoint's record says.
///
/// Source: `CheckPoint`, src/include/catalog/pg_control.h.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where replay must begin to recover from this checkpoint.
    pub redo: Lsn,
    /// Timeline of the checkpoint.
    pub timeline: TimelineId,
    /// Timeline before it, where this checkpoint began a new one; the same otherwise.
    pub previous_timeline: TimelineId,
    /// `full_page_writes`.
    pub full_page_writes: bool,
    /// `wal_level`; not recorded before 17.
    pub wal_level: Option<WalLevel>,
    /// Next transaction, with its epoch in the high half.
    pub next_xid: u64,
    /// Next object identifier.
    pub next_oid: u32,
    /// Next multixact.
    pub next_multi: u32,
    /// Next offset among the members of multixacts.
    pub next_multi_offset: u64,
    /// Oldest transaction that any table may still speak of.
    pub oldest_xid: u32,
    /// Database with that transaction.
    pub oldest_xid_database: u32,
    /// Oldest multixact that any table may still speak of.
    pub oldest_multi: u32,
    /// Database with that multixact.
    pub oldest_multi_database: u32,
    /// When the checkpoint was made; whole seconds.
    pub time: Timestamp,
    /// Oldest transaction with a commit time; zero for none.
    pub oldest_commit_timestamp_xid: u32,
    /// Newest transaction with a commit time; zero for none.
    pub newest_commit_timestamp_xid: u32,
    /// Oldest transaction running; zero for none or unknown.
    pub oldest_active_xid: u32,
}

/// The fields in the order of the C struct, with the padding that a 64-bit compiler puts between them.
pub(crate) fn checkpoint_fields(
    input: &[u8],
    major: PostgresMajor,
) -> IResult<&[u8], Result<Checkpoint, ControlFileError>> {
    // up to 16, the bytes of wal_level are padding
    let (input, (redo, timeline, previous_timeline, full_page_writes, _, wal_level)) =
        (le_u64, le_u32, le_u32, le_u8, take(3usize), le_i32).parse(input)?;
    // 19: logicalDecodingEnabled
    let (input, _) = take(if major.get() < 19 { 0usize } else { 8 }).parse(input)?;
    let (input, (next_xid, next_oid, next_multi)) = (le_u64, le_u32, le_u32).parse(input)?;
    // 19 widened nextMultiOffset to 64 bits; up to 18, padding after oldestMultiDB makes the struct as long
    let (input, next_multi_offset) = if major.get() < 19 {
        map(le_u32, u64::from).parse(input)?
    } else {
        le_u64(input)?
    };
    let (input, (oldest_xid, oldest_xid_database, oldest_multi, oldest_multi_database)) =
        (le_u32, le_u32, le_u32, le_u32).parse(input)?;
    let (input, _) = take(if major.get() < 19 { 4usize } else { 0 }).parse(input)?;
    let (
        input,
        (at, oldest_commit_timestamp_xid, newest_commit_timestamp_xid, oldest_active_xid, _),
    ) = (le_i64, le_u32, le_u32, le_u32, take(4usize)).parse(input)?;

    let checked = || -> Result<Checkpoint, ControlFileError> {
        Ok(Checkpoint {
            redo: Lsn::new(redo),
            timeline: TimelineId::new(timeline).ok_or(field("ThisTimeLineID", timeline))?,
            previous_timeline: TimelineId::new(previous_timeline)
                .ok_or(field("PrevTimeLineID", previous_timeline))?,
            full_page_writes: boolean("fullPageWrites", full_page_writes)?,
            wal_level: if major.get() < 17 {
                None
            } else {
                Some(level(wal_level)?)
            },
            next_xid,
            next_oid,
            next_multi,
            next_multi_offset,
            oldest_xid,
            oldest_xid_database,
            oldest_multi,
            oldest_multi_database,
            time: time("checkpoint time", at)?,
            oldest_commit_timestamp_xid,
            newest_commit_timestamp_xid,
            oldest_active_xid,
        })
    };
    Ok((input, checked()))
}
