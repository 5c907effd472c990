//! Ends of transactions.

use std::fmt;

use nom::bytes::complete::{take, take_until};
use nom::combinator::cond;
use nom::number::complete::{le_i64, le_u32, le_u64};
use nom::{IResult, Parser};

use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::timestamp::Timestamp;
use crate::transaction_id::TransactionId;
use crate::wal::record::contents::Parsed;
use crate::wal::record::header::RecordHeader;
use crate::wal::record::packed_list::{PackedList, number};
use crate::wal::record::relation_file::RelationFile;
use crate::wal::rmgr::invalidation::Invalidation;
use crate::wal::rmgr::prepare::PreparedTransaction;

const OPERATION: u8 = 0x70;
const HAS_INFO: u8 = 0x80;

/// A record about the life of a transaction.
///
/// Recovery targets by time and transaction stop at the first four alone.
///
/// Source: src/include/access/xact.h.
#[derive(Debug, Clone)]
pub enum XactRecord<'a> {
    /// A transaction is committed.
    Commit(TransactionEnd<'a>),
    /// A prepared transaction is committed.
    CommitPrepared(TransactionEnd<'a>),
    /// A transaction is rolled back, or only a part of it with a number of its own.
    Abort(TransactionEnd<'a>),
    /// A prepared transaction is rolled back.
    AbortPrepared(TransactionEnd<'a>),
    /// A transaction is prepared for two-phase commit.
    Prepare(PreparedTransaction<'a>),
    /// Subtransactions are assigned to their transaction.
    ///
    /// Source: `xl_xact_assignment`.
    Assignment {
        /// The transaction.
        toplevel_xid: u32,
        /// Its subtransactions.
        subtransactions: PackedList<'a, u32>,
    },
    /// What caches must forget while the transaction is still running (14 and later, `wal_level = logical`).
    ///
    /// Source: `xl_xact_invals`.
    Invalidations(PackedList<'a, Invalidation>),
}

/// The end of a transaction, with every part that its record may have.
///
/// Source: `xl_xact_commit`, `xl_xact_abort`, src/include/access/xact.h;
/// `ParseCommitRecord`, src/backend/access/rmgrdesc/xactdesc.c.
#[derive(Debug, Clone)]
pub struct TransactionEnd<'a> {
    /// Number of the transaction: that of the record or, for a prepared one, that within it.
    pub xid: u32,
    /// When it ended, by the server's clock: not in the order of the log.
    pub time: Timestamp,
    /// Which parts there are, and flags.
    ///
    /// Source: `xl_xact_xinfo.xinfo`.
    pub xinfo: u32,
    /// Database, and its default tablespace.
    pub database: Option<(u32, u32)>,
    /// Subtransactions that end with it.
    pub subtransactions: PackedList<'a, u32>,
    /// Files that are removed now: of relations dropped, truncated or rewritten.
    pub dropped_files: PackedList<'a, RelationFile>,
    /// Statistics that are dropped with their objects (15 and later).
    pub dropped_stats: PackedList<'a, DroppedStats>,
    /// What caches must forget.
    pub invalidations: PackedList<'a, Invalidation>,
    /// Whether this ends a prepared transaction.
    pub prepared: bool,
    /// Name of the prepared transaction (`wal_level = logical` alone).
    pub gid: Option<&'a [u8]>,
    /// Where a replicated transaction was committed first.
    pub origin: Option<TransactionOrigin>,
}

/// Where and when a replicated transaction was committed on the server that it came from.
///
/// Source: `xl_xact_origin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionOrigin {
    /// Position in that server's log.
    pub lsn: Lsn,
    /// Its clock.
    pub time: Timestamp,
}

/// An object whose statistics are dropped, because it is.
///
/// Source: `xl_xact_stats_item`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DroppedStats {
    /// What it is: 1 database, 2 relation, 3 function.
    pub kind: u32,
    /// OID of its database; 0 for shared objects.
    pub database: u32,
    /// OID of the object, of 64 bits from 18 on; for a relation that of `pg_class`, not its file.
    pub object: u64,
}

impl DroppedStats {
    /// Bytes in a record: 18 widened the object.
    pub(crate) fn len_in(major: PostgresMajor) -> usize {
        if major.get() < 18 { 12 } else { 16 }
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let high = bytes.get(12..).and_then(number).unwrap_or(0);
        Some(DroppedStats {
            kind: number(bytes)?,
            database: number(bytes.get(4..)?)?,
            object: u64::from(number(bytes.get(8..)?)?) | (u64::from(high) << 32),
        })
    }
}

impl fmt::Display for DroppedStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.database, self.object)
    }
}

impl<'a> XactRecord<'a> {
    pub(crate) fn fields(
        data: &'a [u8],
        header: &RecordHeader,
        major: PostgresMajor,
    ) -> Parsed<'a, Self> {
        let end = |wrap: fn(TransactionEnd<'a>) -> Self| {
            let (rest, end) = TransactionEnd::fields(data, header, major)?;
            Ok((rest, Some(wrap(end))))
        };
        match header.info & OPERATION {
            0x00 => end(XactRecord::Commit),
            0x10 => {
                let (rest, prepared) = PreparedTransaction::fields(data, major)?;
                Ok((rest, Some(XactRecord::Prepare(prepared))))
            }
            0x20 => end(XactRecord::Abort),
            0x30 => end(XactRecord::CommitPrepared),
            0x40 => end(XactRecord::AbortPrepared),
            0x50 => {
                let (rest, toplevel_xid) = le_u32(data)?;
                let (rest, subtransactions) = PackedList::counted(rest, 4, number)?;
                let assignment = XactRecord::Assignment {
                    toplevel_xid,
                    subtransactions,
                };
                Ok((rest, Some(assignment)))
            }
            0x60 => {
                let (rest, invalidations) = Invalidation::counted(data)?;
                Ok((rest, Some(XactRecord::Invalidations(invalidations))))
            }
            _ => Ok((data, None)),
        }
    }

    /// The end of a transaction that the record is, whichever way it ended.
    pub const fn end(&self) -> Option<&TransactionEnd<'a>> {
        match self {
            XactRecord::Commit(end)
            | XactRecord::CommitPrepared(end)
            | XactRecord::Abort(end)
            | XactRecord::AbortPrepared(end) => Some(end),
            _ => None,
        }
    }

    /// The end of a transaction that the record is, if its changes count from now on.
    pub const fn commit(&self) -> Option<&TransactionEnd<'a>> {
        match self {
            XactRecord::Commit(end) | XactRecord::CommitPrepared(end) => Some(end),
            _ => None,
        }
    }
}

impl<'a> TransactionEnd<'a> {
    fn fields(
        data: &'a [u8],
        header: &RecordHeader,
        major: PostgresMajor,
    ) -> IResult<&'a [u8], Self> {
        let (data, time) = le_i64(data)?;
        let (data, xinfo) = cond(header.info & HAS_INFO != 0, le_u32).parse(data)?;
        let xinfo = xinfo.unwrap_or(0);
        let has = |flag: u32| xinfo & flag != 0;
        let (data, database) = cond(has(0x001), (le_u32, le_u32)).parse(data)?;
        let (data, subtransactions) = list(has(0x002), data, |data| {
            PackedList::counted(data, 4, number)
        })?;
        let (data, dropped_files) = list(has(0x004), data, RelationFile::counted)?;
        let (data, dropped_stats) = list(has(0x100), data, |data| {
            PackedList::counted(data, DroppedStats::len_in(major), DroppedStats::read)
        })?;
        let (data, invalidations) = list(has(0x008), data, Invalidation::counted)?;
        let (data, twophase_xid) = cond(has(0x010), le_u32).parse(data)?;
        let (data, gid) = cond(has(0x080), c_string).parse(data)?;
        let (data, origin) = cond(has(0x020), (le_u64, le_i64)).parse(data)?;
        let end = TransactionEnd {
            xid: twophase_xid.unwrap_or(header.xid),
            time: Timestamp::new(time),
            xinfo,
            database,
            subtransactions,
            dropped_files,
            dropped_stats,
            invalidations,
            prepared: twophase_xid.is_some(),
            gid,
            origin: origin.map(|(lsn, time)| TransactionOrigin {
                lsn: Lsn::new(lsn),
                time: Timestamp::new(time),
            }),
        };
        Ok((data, end))
    }

    /// The transaction, where it is a real one.
    pub const fn transaction(&self) -> Option<TransactionId> {
        TransactionId::new(self.xid)
    }

    /// Whether it held locks that a standby must release.
    ///
    /// Source: `XACT_XINFO_HAS_AE_LOCKS`.
    pub const fn has_exclusive_locks(&self) -> bool {
        self.xinfo & 0x040 != 0
    }

    /// Whether replay must reach the disk before the transaction counts: set where files of a database are removed.
    ///
    /// Source: `XACT_COMPLETION_FORCE_SYNC_COMMIT`.
    pub const fn forces_sync(&self) -> bool {
        self.xinfo & (1 << 31) != 0
    }
}

/// Time of an end of a transaction that is nothing but that, and whether it is a commit: what most of them are.
///
/// `record` is all of it, header included. `None` says nothing about it.
#[inline]
pub(crate) fn plain_end(header: &RecordHeader, record: &[u8]) -> Option<(bool, Timestamp)> {
    let committed = match header.info & (OPERATION | HAS_INFO) {
        0x00 => true,
        0x20 => false,
        _ => return None,
    };
    let body: &[u8; 10] = record.get(RecordHeader::LEN..)?.try_into().ok()?;
    let [255, 8, time @ ..] = body else {
        return None;
    };
    Some((committed, Timestamp::new(i64::from_le_bytes(*time))))
}

fn list<'a, T>(
    present: bool,
    data: &'a [u8],
    parse: impl Fn(&'a [u8]) -> IResult<&'a [u8], PackedList<'a, T>>,
) -> IResult<&'a [u8], PackedList<'a, T>> {
    if present {
        parse(data)
    } else {
        Ok((data, PackedList::empty()))
    }
}

fn c_string(data: &[u8]) -> IResult<&[u8], &[u8]> {
    let (data, (text, _nul)) = (take_until(&b"\0"[..]), take(1usize)).parse(data)?;
    Ok((data, text))
}

impl fmt::Display for XactRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            XactRecord::Commit(end) => write!(f, "COMMIT {end}"),
            XactRecord::CommitPrepared(end) => write!(f, "COMMIT_PREPARED {}: {end}", end.xid),
            XactRecord::Abort(end) => write!(f, "ABORT {end}"),
            XactRecord::AbortPrepared(end) => write!(f, "ABORT_PREPARED {}: {end}", end.xid),
            XactRecord::Prepare(prepared) => write!(f, "PREPARE {prepared}"),
            XactRecord::Assignment {
                toplevel_xid,
                subtransactions,
            } => {
                write!(f, "ASSIGNMENT xtop {toplevel_xid}: subxacts:")?;
                subtransactions.write(f, |f, xid| write!(f, "{xid}"))
            }
            XactRecord::Invalidations(invalidations) => {
                f.write_str("INVALIDATION ; inval msgs:")?;
                invalidations.write(f, |f, one| write!(f, "{one}"))
            }
        }
    }
}

impl fmt::Display for TransactionEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.time)?;
        part(f, "rels", &self.dropped_files)?;
        part(f, "subxacts", &self.subtransactions)?;
        part(f, "dropped stats", &self.dropped_stats)?;
        part(f, "inval msgs", &self.invalidations)?;
        if self.forces_sync() {
            f.write_str("; sync")?;
        }
        if let Some(origin) = &self.origin {
            write!(f, "; origin lsn {}, at {}", origin.lsn, origin.time)?;
        }
        Ok(())
    }
}

pub(crate) fn part<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    list: &PackedList<'_, T>,
) -> fmt::Result {
    if list.is_empty() {
        return Ok(());
    }
    write!(f, "; {name}:")?;
    list.write(f, |f, one| write!(f, "{one}"))
}
