//! What a hot standby must know.

use std::fmt;

use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u32};

use crate::wal::record::contents::Parsed;
use crate::wal::record::packed_list::{PackedList, count, number};
use crate::wal::rmgr::invalidation::Invalidation;

/// A record for hot standbys.
///
/// Source: src/include/storage/standbydefs.h.
#[derive(Debug, Clone)]
pub enum StandbyRecord<'a> {
    /// Transactions hold `ACCESS EXCLUSIVE` locks.
    ///
    /// Source: `xl_standby_locks`.
    Locks(PackedList<'a, StandbyLock>),
    /// Which transactions are running.
    RunningXacts(RunningXacts<'a>),
    /// What caches must forget, from a transaction without a number.
    ///
    /// Source: `xl_invalidations`.
    Invalidations {
        /// OID of the database.
        database: u32,
        /// OID of its default tablespace.
        tablespace: u32,
        /// Messages to all sessions.
        messages: PackedList<'a, Invalidation>,
    },
}

/// A lock that keeps every reader out.
///
/// Source: `xl_standby_lock`, src/include/storage/lockdefs.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyLock {
    /// Who holds it.
    pub xid: u32,
    /// OID of the database; 0 for shared relations.
    pub database: u32,
    /// OID of the relation.
    pub relation: u32,
}

/// The transactions that are running where the record stands.
///
/// Source: `xl_running_xacts`.
#[derive(Debug, Clone)]
pub struct RunningXacts<'a> {
    /// Whether there are more subtransactions than the list has.
    pub subxids_overflowed: bool,
    /// Number of the next transaction.
    pub next_xid: u32,
    /// Lowest number of a running one.
    pub oldest_running_xid: u32,
    /// Highest number of one that has ended.
    pub latest_completed_xid: u32,
    /// Transactions.
    pub transactions: PackedList<'a, u32>,
    /// Their subtransactions.
    pub subtransactions: PackedList<'a, u32>,
}

impl<'a> StandbyRecord<'a> {
    pub(crate) fn fields(data: &'a [u8], operation: u8) -> Parsed<'a, Self> {
        match operation {
            0x00 => {
                let (data, locks) = PackedList::counted(data, 12, |bytes| {
                    Some(StandbyLock {
                        xid: number(bytes)?,
                        database: number(bytes.get(4..)?)?,
                        relation: number(bytes.get(8..)?)?,
                    })
                })?;
                Ok((data, Some(StandbyRecord::Locks(locks))))
            }
            0x10 => {
                let (data, (xacts, subxacts, overflow, _pad)) =
                    (count, count, le_u8, take(3usize)).parse(data)?;
                let (data, (next_xid, oldest_running_xid, latest_completed_xid)) =
                    (le_u32, le_u32, le_u32).parse(data)?;
                let (data, transactions) = PackedList::take(data, xacts, 4, number)?;
                let (data, subtransactions) = PackedList::take(data, subxacts, 4, number)?;
                let running = RunningXacts {
                    subxids_overflowed: overflow != 0,
                    next_xid,
                    oldest_running_xid,
                    latest_completed_xid,
                    transactions,
                    subtransactions,
                };
                Ok((data, Some(StandbyRecord::RunningXacts(running))))
            }
            0x20 => {
                let (data, (database, tablespace, _init_file, _pad)) =
                    (le_u32, le_u32, le_u8, take(3usize)).parse(data)?;
                let (data, messages) = Invalidation::counted(data)?;
                let invalidations = StandbyRecord::Invalidations {
                    database,
                    tablespace,
                    messages,
                };
                Ok((data, Some(invalidations)))
            }
            _ => Ok((data, None)),
        }
    }
}

impl fmt::Display for StandbyRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StandbyRecord::Locks(locks) => {
                f.write_str("LOCK")?;
                locks.write(f, |f, lock| {
                    write!(
                        f,
                        "xid {} db {} rel {}",
                        lock.xid, lock.database, lock.relation
                    )
                })
            }
            StandbyRecord::RunningXacts(running) => {
                write!(
                    f,
                    "RUNNING_XACTS nextXid {} latestCompletedXid {} oldestRunningXid {}",
                    running.next_xid, running.latest_completed_xid, running.oldest_running_xid
                )?;
                if !running.transactions.is_empty() {
                    write!(f, "; {} xacts:", running.transactions.len())?;
                    running.transactions.write(f, |f, xid| write!(f, "{xid}"))?;
                }
                if running.subxids_overflowed {
                    f.write_str("; subxid overflowed")?;
                }
                if !running.subtransactions.is_empty() {
                    write!(f, "; {} subxacts:", running.subtransactions.len())?;
                    running
                        .subtransactions
                        .write(f, |f, xid| write!(f, "{xid}"))?;
                }
                Ok(())
            }
            StandbyRecord::Invalidations { messages, .. } => {
                f.write_str("INVALIDATIONS ; inval msgs:")?;
                messages.write(f, |f, one| write!(f, "{one}"))
            }
        }
    }
}
