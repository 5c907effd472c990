//! Targets that can be reached, offered in place of one that cannot.

use std::fmt;

use pitr_core::{EndedTransaction, Lsn, RecordContents, TransactionId, XactRecord};

use super::choice::BackupFacts;
use super::log::{Log, LogError};
use super::refusal::local_time;
use super::search::first_given_out;

/// Something that recovery can stop at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reachable {
    what: String,
    options: String,
}

impl fmt::Display for Reachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.options)
    }
}

impl Reachable {
    /// Right behind a commit.
    pub(crate) fn commit(commit: EndedTransaction) -> Self {
        Self {
            what: format!(
                "the commit of transaction {} at {}, {}",
                commit.xid,
                commit.lsn,
                local_time(commit.time)
            ),
            options: format!("--target-xid {}", commit.xid),
        }
    }

    /// Where a backup becomes consistent.
    pub(crate) fn backup(backup: &BackupFacts) -> Self {
        Self {
            what: format!(
                "the end of base backup {} at {}, {}",
                backup.label,
                backup.stop_lsn,
                pitr_console::PointInTime::local(backup.stop_time)
            ),
            options: format!("--backup {} --target-immediate", backup.label),
        }
    }
}

/// The first of `backups` that begins at or behind `lsn`.
pub(crate) fn backup_behind<'a>(
    backups: impl Iterator<Item = &'a BackupFacts>,
    lsn: Lsn,
) -> Option<Reachable> {
    backups
        .filter(|backup| backup.start_lsn >= lsn)
        .min_by_key(|backup| backup.stop_lsn)
        .map(Reachable::backup)
}

/// The commits whose numbers are next to that of `xid`, which has none.
pub(crate) fn commits_around(
    log: &Log<'_>,
    xid: TransactionId,
) -> Result<(Option<Reachable>, Option<Reachable>), LogError> {
    let found = first_given_out(log, xid)?.min(log.way().len().saturating_sub(1));
    let (mut before, mut after): (Option<EndedTransaction>, Option<EndedTransaction>) =
        (None, None);
    log.records(found.saturating_sub(1), &mut |index, record| {
        let contents = record.contents();
        if let Ok(RecordContents::Transaction(
            XactRecord::Commit(end) | XactRecord::CommitPrepared(end),
        )) = contents
            && let Some(number) = TransactionId::new(end.xid)
        {
            let commit = EndedTransaction {
                lsn: record.lsn(),
                xid: end.xid,
                time: end.time,
            };
            let nearer =
                |known: &Option<EndedTransaction>,
                 is_nearer: fn(TransactionId, TransactionId) -> bool| {
                    known
                        .and_then(|known| TransactionId::new(known.xid))
                        .is_none_or(|known| is_nearer(number, known))
                };
            if number.precedes(xid) {
                if nearer(&before, |number, known| known.precedes(number)) {
                    before = Some(commit);
                }
            } else if nearer(&after, TransactionId::precedes) {
                after = Some(commit);
            }
        }
        index <= found
    })?;
    Ok((before.map(Reachable::commit), after.map(Reachable::commit)))
}
