//! Transactions prepared for two-phase commit.

use std::fmt;

use nom::bytes::complete::{tag, take};
use nom::number::complete::{le_i64, le_u8, le_u16, le_u32, le_u64};
use nom::{IResult, Parser};

use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::timestamp::Timestamp;
use crate::wal::record::packed_list::{PackedList, count, number};
use crate::wal::record::relation_file::RelationFile;
use crate::wal::rmgr::invalidation::Invalidation;
use crate::wal::rmgr::xact::{DroppedStats, TransactionOrigin, part};

/// First bytes of a prepared transaction's state, in little-endian order.
///
/// Source: `TWOPHASE_MAGIC`, src/backend/access/transam/twophase.c.
const MAGIC: u32 = 0x57F9_4534;

/// A transaction that is prepared, and what will happen when it ends.
///
/// Source: `xl_xact_prepare`, src/include/access/xact.h; `StartPrepare`, src/backend/access/transam/twophase.c.
#[derive(Debug, Clone)]
pub struct PreparedTransaction<'a> {
    /// Number of the transaction.
    pub xid: u32,
    /// OID of the database.
    pub database: u32,
    /// When it was prepared, by the server's clock.
    pub time: Timestamp,
    /// OID of the role that prepared it.
    pub owner: u32,
    /// Its name.
    pub gid: &'a [u8],
    /// Its subtransactions.
    pub subtransactions: PackedList<'a, u32>,
    /// Files that a commit removes.
    pub dropped_on_commit: PackedList<'a, RelationFile>,
    /// Files that a rollback removes.
    pub dropped_on_abort: PackedList<'a, RelationFile>,
    /// Statistics that a commit drops (15 and later).
    pub stats_dropped_on_commit: PackedList<'a, DroppedStats>,
    /// Statistics that a rollback drops (15 and later).
    pub stats_dropped_on_abort: PackedList<'a, DroppedStats>,
    /// What caches must forget at a commit.
    pub invalidations: PackedList<'a, Invalidation>,
    /// Where a replicated transaction was prepared first.
    pub origin: Option<TransactionOrigin>,
}

impl<'a> PreparedTransaction<'a> {
    /// What follows the fixed part is rounded up to multiples of eight, piece by piece.
    pub(crate) fn fields(data: &'a [u8], major: PostgresMajor) -> IResult<&'a [u8], Self> {
        let (data, (_magic, _total_len, xid, database, time, owner)) = (
            tag(&MAGIC.to_le_bytes()[..]),
            le_u32,
            le_u32,
            le_u32,
            le_i64,
            le_u32,
        )
            .parse(data)?;
        let (data, (subxacts, commit_rels, abort_rels)) = (count, count, count).parse(data)?;
        let (data, (commit_stats, abort_stats)) = if major.get() < 15 {
            (data, (0, 0))
        } else {
            (count, count).parse(data)?
        };
        let (data, (invalidations, _init_file, _pad, gid_len, origin_lsn, origin_time)) =
            (count, le_u8, take(1usize), le_u16, le_u64, le_i64).parse(data)?;

        let (data, gid) = padded(data, usize::from(gid_len), |data| take(gid_len).parse(data))?;
        let (data, subtransactions) = padded(data, subxacts.saturating_mul(4), |data| {
            PackedList::take(data, subxacts, 4, number)
        })?;
        let files = |data, count| {
            let len = RelationFile::LEN;
            padded(data, usize::saturating_mul(count, len), |data| {
                RelationFile::list(data, count)
            })
        };
        let (data, dropped_on_commit) = files(data, commit_rels)?;
        let (data, dropped_on_abort) = files(data, abort_rels)?;
        let stats = |data, count| {
            let len = DroppedStats::len_in(major);
            padded(data, usize::saturating_mul(count, len), |data| {
                PackedList::take(data, count, len, DroppedStats::read)
            })
        };
        let (data, stats_dropped_on_commit) = stats(data, commit_stats)?;
        let (data, stats_dropped_on_abort) = stats(data, abort_stats)?;
        let (data, invalidations) = Invalidation::list(data, invalidations)?;
        let prepared = PreparedTransaction {
            xid,
            database,
            time: Timestamp::new(time),
            owner,
            gid: gid.strip_suffix(b"\0").unwrap_or(gid),
            subtransactions,
            dropped_on_commit,
            dropped_on_abort,
            stats_dropped_on_commit,
            stats_dropped_on_abort,
            invalidations,
            origin: (origin_lsn != 0).then_some(TransactionOrigin {
                lsn: Lsn::new(origin_lsn),
                time: Timestamp::new(origin_time),
            }),
        };
        Ok((data, prepared))
    }
}

/// A piece of `len` bytes, and the zeros up to a multiple of eight behind it.
fn padded<'a, T>(
    data: &'a [u8],
    len: usize,
    parse: impl Fn(&'a [u8]) -> IResult<&'a [u8], T>,
) -> IResult<&'a [u8], T> {
    let (data, piece) = parse(data)?;
    let (data, _) = take(len.wrapping_neg() % 8).parse(data)?;
    Ok((data, piece))
}

impl fmt::Display for PreparedTransaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gid {}: {}", self.gid.escape_ascii(), self.time)?;
        part(f, "rels(commit)", &self.dropped_on_commit)?;
        part(f, "rels(abort)", &self.dropped_on_abort)?;
        part(f, "commit dropped stats", &self.stats_dropped_on_commit)?;
        part(f, "abort dropped stats", &self.stats_dropped_on_abort)?;
        part(f, "subxacts", &self.subtransactions)?;
        part(f, "inval msgs", &self.invalidations)
    }
}
