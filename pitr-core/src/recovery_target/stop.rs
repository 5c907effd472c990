//! At which record recovery stops, by the server's own rules.

use std::fmt;

use serde::Serialize;

use crate::lsn::Lsn;
use crate::recovery_target::{RecoveryTarget, RecoveryTargetKind};
use crate::timestamp::Timestamp;
use crate::wal::record::Record;
use crate::wal::record::contents::RecordContents;
use crate::wal::record::resource_manager::ResourceManager;
use crate::wal::rmgr::xact::{TransactionEnd, XactRecord};
use crate::wal::rmgr::xlog::XlogRecord;

/// Follows the records that recovery replays, and says at which of them it stops.
///
/// Feed it every record from the backup's redo position on, in the order of
/// the log, or from any later one before which recovery cannot stop:
/// everything before the first one counts as replayed. It decides as `recoveryStopsBefore` and `recoveryStopsAfter` do, and in their
/// order; past the stop it goes on looking for the first transaction that is
/// lost.
///
/// ```
/// use pitr_core::{Lsn, RecoveryStops, RecoveryTarget, RecoveryTargetKind};
/// let target = RecoveryTarget::to(RecoveryTargetKind::Lsn("0/3000100".parse()?));
/// let stops = RecoveryStops::new(&target, "0/2000138".parse()?);
/// assert!(stops.stop().is_none());
/// # Ok::<(), pitr_core::ParseLsnError>(())
/// ```
///
/// Source: src/backend/access/transam/xlogrecovery.c (13 and 14: xlog.c).
#[derive(Debug, Clone)]
pub struct RecoveryStops<'t> {
    target: &'t RecoveryTarget,
    consistent_from: Lsn,
    /// End of the last record that was replayed.
    replayed_to: Lsn,
    stop: Option<RecoveryStop>,
    last_kept: Option<EndedTransaction>,
    first_lost: Option<EndedTransaction>,
}

/// Where recovery stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryStop {
    /// The record at which it is decided.
    #[serde(flatten)]
    pub record: PassedRecord,
    /// Whether that record is replayed.
    pub replayed: bool,
    /// End of that record, which the server has read whole even where it does
    /// not replay it.
    pub read_to: Lsn,
    /// Everything before this position is replayed, nothing from it on: the
    /// end of the last record that is replayed. A timeline that begins here
    /// branches off at this position.
    pub end_of_replay: Lsn,
    /// Whether the cluster is consistent there. If not, the server ends with
    /// "requested recovery stop point is before consistent recovery point".
    pub consistent: bool,
}

/// A record as messages name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedRecord {
    /// Where it begins.
    pub lsn: Lsn,
    /// What it is.
    #[serde(flatten)]
    pub kind: PassedRecordKind,
}

/// What a record is to recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PassedRecordKind {
    /// A transaction is committed.
    Commit {
        /// The transaction.
        xid: u32,
        /// When, by the server's clock.
        time: Timestamp,
        /// Whether it had been prepared for two-phase commit.
        prepared: bool,
    },
    /// A transaction, or a part of one that has a number of its own, is rolled back.
    Abort {
        /// The transaction.
        xid: u32,
        /// When, by the server's clock.
        time: Timestamp,
        /// Whether it had been prepared for two-phase commit.
        prepared: bool,
    },
    /// A restore point.
    RestorePoint {
        /// Its name; bytes that are not UTF-8 are replaced.
        name: String,
        /// When it was made.
        time: Timestamp,
    },
    /// Anything else.
    Other {
        /// Name of the resource manager, as `pg_waldump` has it.
        resource_manager: String,
    },
}

/// A transaction that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EndedTransaction {
    /// Where the record of its commit begins.
    pub lsn: Lsn,
    /// The transaction.
    pub xid: u32,
    /// When, by the server's clock.
    pub time: Timestamp,
}

impl<'t> RecoveryStops<'t> {
    /// Recovery to `target` of a backup that is consistent once everything
    /// before `consistent_from` is replayed (its stop LSN).
    pub const fn new(target: &'t RecoveryTarget, consistent_from: Lsn) -> Self {
        RecoveryStops {
            target,
            consistent_from,
            replayed_to: Lsn::INVALID,
            stop: None,
            last_kept: None,
            first_lost: None,
        }
    }

    /// Takes the next record.
    pub fn pass(&mut self, record: &Record<'_>) {
        // only these can stop recovery by what they say, and few records are theirs
        let contents = match record.header().resource_manager {
            ResourceManager::TRANSACTION | ResourceManager::XLOG => record.contents().ok(),
            _ => None,
        };
        let end = contents.as_ref().and_then(end_of_transaction);
        if self.replayed_to == Lsn::INVALID {
            self.replayed_to = record.lsn();
        }
        if self.stop.is_some() {
            self.look_for_lost(record.lsn(), end.as_ref());
            return;
        }
        if self.stops_before(record, end.as_ref()) {
            self.stop_at(record, contents.as_ref(), false);
            self.look_for_lost(record.lsn(), end.as_ref());
            return;
        }
        self.replayed_to = record.end_lsn();
        if let Some(end) = end.as_ref().filter(|end| end.committed) {
            self.last_kept = Some(end.transaction(record.lsn()));
        }
        if self.stops_after(record, contents.as_ref(), end.as_ref()) {
            self.stop_at(record, contents.as_ref(), true);
        }
    }

    /// Where recovery stops, once that is known.
    pub const fn stop(&self) -> Option<&RecoveryStop> {
        self.stop.as_ref()
    }

    /// The last transaction, in the order of the log, whose commit is replayed.
    pub const fn last_kept(&self) -> Option<EndedTransaction> {
        self.last_kept
    }

    /// The first transaction, in the order of the log, whose commit is not replayed.
    pub const fn first_lost(&self) -> Option<EndedTransaction> {
        self.first_lost
    }

    /// End of the last record that was replayed.
    pub const fn end_of_replay(&self) -> Lsn {
        self.replayed_to
    }

    fn is_consistent(&self) -> bool {
        self.consistent_from <= self.replayed_to
    }

    /// Source: `recoveryStopsBefore`.
    fn stops_before(&self, record: &Record<'_>, end: Option<&End>) -> bool {
        let exclusive = !self.target.inclusive;
        match &self.target.kind {
            RecoveryTargetKind::Immediate => self.is_consistent(),
            RecoveryTargetKind::Lsn(lsn) => exclusive && record.lsn() >= *lsn,
            RecoveryTargetKind::Xid(xid) => {
                exclusive && end.is_some_and(|end| end.xid == xid.get())
            }
            RecoveryTargetKind::Time(time) => end.is_some_and(|end| {
                if exclusive {
                    end.time >= *time
                } else {
                    end.time > *time
                }
            }),
            RecoveryTargetKind::Name(_) | RecoveryTargetKind::Latest => false,
        }
    }

    /// Source: `recoveryStopsAfter`.
    fn stops_after(
        &self,
        record: &Record<'_>,
        contents: Option<&RecordContents<'_>>,
        end: Option<&End>,
    ) -> bool {
        match &self.target.kind {
            RecoveryTargetKind::Name(wanted) => matches!(
                contents,
                Some(RecordContents::Xlog(XlogRecord::RestorePoint { name, .. }))
                    if *name == wanted.as_str().as_bytes()
            ),
            RecoveryTargetKind::Lsn(lsn) => self.target.inclusive && record.lsn() >= *lsn,
            RecoveryTargetKind::Xid(xid) => {
                self.target.inclusive && end.is_some_and(|end| end.xid == xid.get())
            }
            // the server looks here after records of transactions alone, else before the next one
            RecoveryTargetKind::Immediate => {
                record.header().resource_manager == ResourceManager::TRANSACTION
                    && self.is_consistent()
            }
            RecoveryTargetKind::Time(_) | RecoveryTargetKind::Latest => false,
        }
    }

    fn stop_at(
        &mut self,
        record: &Record<'_>,
        contents: Option<&RecordContents<'_>>,
        replayed: bool,
    ) {
        self.stop = Some(RecoveryStop {
            record: PassedRecord::of(record, contents),
            replayed,
            read_to: record.end_lsn(),
            end_of_replay: self.replayed_to,
            consistent: self.is_consistent(),
        });
    }

    fn look_for_lost(&mut self, lsn: Lsn, end: Option<&End>) {
        if let Some(end) = end.filter(|end| end.committed) {
            self.first_lost.get_or_insert(end.transaction(lsn));
        }
    }
}

impl PassedRecord {
    fn of(record: &Record<'_>, contents: Option<&RecordContents<'_>>) -> Self {
        let kind = match contents {
            Some(RecordContents::Transaction(
                XactRecord::Commit(end) | XactRecord::CommitPrepared(end),
            )) => PassedRecordKind::Commit {
                xid: end.xid,
                time: end.time,
                prepared: end.prepared,
            },
            Some(RecordContents::Transaction(
                XactRecord::Abort(end) | XactRecord::AbortPrepared(end),
            )) => PassedRecordKind::Abort {
                xid: end.xid,
                time: end.time,
                prepared: end.prepared,
            },
            Some(RecordContents::Xlog(XlogRecord::RestorePoint { time, name })) => {
                PassedRecordKind::RestorePoint {
                    name: String::from_utf8_lossy(name).into_owned(),
                    time: *time,
                }
            }
            _ => PassedRecordKind::Other {
                resource_manager: record.header().resource_manager.to_string(),
            },
        };
        PassedRecord {
            lsn: record.lsn(),
            kind,
        }
    }
}

impl fmt::Display for PassedRecord {
    /// `commit of transaction 745 at 0/3000100`, as PostgreSQL's log has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let two_phase = |prepared: bool| if prepared { "prepared " } else { "" };
        match &self.kind {
            PassedRecordKind::Commit { xid, prepared, .. } => {
                write!(f, "commit of {}transaction {xid}", two_phase(*prepared))?;
            }
            PassedRecordKind::Abort { xid, prepared, .. } => {
                write!(f, "abort of {}transaction {xid}", two_phase(*prepared))?;
            }
            PassedRecordKind::RestorePoint { name, .. } => write!(f, "restore point \"{name}\"")?,
            PassedRecordKind::Other { resource_manager } => {
                write!(f, "record of {resource_manager}")?;
            }
        }
        write!(f, " at {}", self.lsn)
    }
}

impl PassedRecordKind {
    /// The time that the record carries, if it does.
    pub const fn time(&self) -> Option<Timestamp> {
        match self {
            PassedRecordKind::Commit { time, .. }
            | PassedRecordKind::Abort { time, .. }
            | PassedRecordKind::RestorePoint { time, .. } => Some(*time),
            PassedRecordKind::Other { .. } => None,
        }
    }

    /// The transaction that it ends, if it does.
    pub const fn xid(&self) -> Option<u32> {
        match self {
            PassedRecordKind::Commit { xid, .. } | PassedRecordKind::Abort { xid, .. } => {
                Some(*xid)
            }
            PassedRecordKind::RestorePoint { .. } | PassedRecordKind::Other { .. } => None,
        }
    }
}

/// The end of a transaction, as far as targets look at it.
#[derive(Debug, Clone, Copy)]
struct End {
    xid: u32,
    time: Timestamp,
    committed: bool,
}

impl End {
    const fn of(end: &TransactionEnd<'_>, committed: bool) -> Self {
        End {
            xid: end.xid,
            time: end.time,
            committed,
        }
    }

    const fn transaction(self, lsn: Lsn) -> EndedTransaction {
        EndedTransaction {
            lsn,
            xid: self.xid,
            time: self.time,
        }
    }
}

fn end_of_transaction(contents: &RecordContents<'_>) -> Option<End> {
    match contents {
        RecordContents::Transaction(XactRecord::Commit(end) | XactRecord::CommitPrepared(end)) => {
            Some(End::of(end, true))
        }
        RecordContents::Transaction(XactRecord::Abort(end) | XactRecord::AbortPrepared(end)) => {
            Some(End::of(end, false))
        }
        _ => None,
    }
}
