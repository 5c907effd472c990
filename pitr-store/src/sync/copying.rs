//! Carrying out a [`Difference`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use pitr_core::{SegmentName, SegmentNumber, WalFileName, WalSegmentSize};

use super::Difference;
use crate::backup::{BackupCopied, BackupCopyError, BackupInfo, Label};
use crate::repository::Cluster;
use crate::wal::{Copied, CopyError};

/// Most missing segments of a backup that are looked for one by one.
const MOST_NEEDED: u64 = 1 << 16;

/// What is told while copying, from several threads.
pub type Observer<'o> = dyn Fn(u64) + Sync + 'o;

/// One cluster on its way from one repository into another.
#[derive(Debug)]
pub struct Syncing<'a> {
    from: &'a Cluster,
    to: &'a Cluster,
    threads: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Files of the log that were stored now.
    pub wal_copied: u64,
    /// Bytes of them.
    pub wal_bytes: u64,
    /// Files of the log that the target had already, with the same content.
    pub wal_present: u64,
    /// Backups that were stored now.
    pub backups_copied: Vec<Label>,
    /// Bytes of them.
    pub backup_bytes: u64,
    /// Backups that the target had already.
    pub backups_present: u64,
    /// What could not be copied, or is not the same.
    pub problems: Vec<Problem>,
    /// Segments that are whole, with a damaged summary behind them.
    pub damaged_summaries: Vec<(WalFileName, String)>,
    /// Backups that were copied and whose log the target does not have.
    pub unrecoverable: Vec<UnrecoverableBackup>,
    /// Whether a store failed, so that the rest was left for the next time.
    pub stopped: bool,
}

/// Something that was not copied.
#[derive(Debug)]
pub struct Problem {
    /// Name of the file, or label of the backup.
    pub what: String,
    /// Why.
    pub error: ProblemError,
}

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
pub enum ProblemError {
    /// A file of the log.
    #[error(transparent)]
    Wal(#[from] CopyError),
    /// A backup.
    #[error(transparent)]
    Backup(#[from] BackupCopyError),
    /// A backup that cannot be used in the source.
    #[error("{reason}")]
    Damaged {
        /// What is wrong with it.
        reason: String,
        /// What can be done about it.
        hint: Option<String>,
    },
}

impl ProblemError {
    /// Whether the repositories hold different contents under the same name.
    pub fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Wal(CopyError::Conflict { .. }) | Self::Backup(BackupCopyError::Conflict { .. })
        )
    }

    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Wal(error) => error.hint(),
            Self::Backup(error) => error.hint(),
            Self::Damaged { hint, .. } => hint.clone(),
        }
    }

    fn is_of_one_object(&self) -> bool {
        match self {
            Self::Wal(error) => error.is_of_one_file(),
            Self::Backup(error) => error.is_of_one_backup(),
            Self::Damaged { .. } => true,
        }
    }
}

/// A backup that the target cannot restore yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnrecoverableBackup {
    /// The backup.
    pub label: Label,
    /// The first segment that it needs and the target lacks.
    pub first_missing: SegmentName,
    /// How many of them.
    pub missing: u64,
}

impl<'a> Syncing<'a> {
    /// From `from` to `to`, which are the same cluster, with `threads`.
    pub fn new(from: &'a Cluster, to: &'a Cluster, threads: usize) -> Self {
        Self {
            from,
            to,
            threads: threads.max(1),
        }
    }

    /// Copies what the target lacks, and compares what both have: the log
    /// first, then the backups. Once a store has failed nothing more is begun.
    /// `observer` is told of stored bytes as they are copied.
    pub fn run(&self, difference: &Difference, observer: &Observer<'_>) -> Outcome {
        let mut outcome = self.wal(difference, observer);
        for damaged in &difference.damaged_backups {
            outcome.problems.push(Problem {
                what: format!("backup {}", damaged.label),
                error: ProblemError::Damaged {
                    reason: damaged.error.to_string(),
                    hint: damaged.error.hint(),
                },
            });
        }
        let labels = difference
            .common_backups
            .iter()
            .map(|label| (*label, None))
            .chain(
                difference
                    .backups
                    .iter()
                    .map(|info| (info.label, Some(info))),
            );
        for (label, info) in labels {
            if outcome.stopped {
                break;
            }
            self.backup(label, info, observer, &mut outcome);
        }
        outcome
    }

    /// The log, with several threads that take the next file each.
    fn wal(&self, difference: &Difference, observer: &Observer<'_>) -> Outcome {
        let (from, to) = (self.from.wal(), self.to.wal());
        let missing = difference
            .wal
            .iter()
            .map(|file| (file.name, file.stored_bytes));
        let common = difference.common_wal.iter().map(|name| (*name, 0));
        let files: Vec<(WalFileName, u64)> = missing.chain(common).collect();
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let outcome = Mutex::new(Outcome::default());
        let work = || {
            while !stop.load(Ordering::Relaxed)
                && let Some((name, stored_bytes)) = files.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let copied = to.copy_from(&from, name);
                observer(*stored_bytes);
                let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                match copied {
                    Ok(Copied::Stored {
                        object,
                        summary_damage,
                    }) => {
                        outcome.wal_copied += 1;
                        outcome.wal_bytes = outcome.wal_bytes.saturating_add(object.stored_bytes);
                        outcome
                            .damaged_summaries
                            .extend(summary_damage.map(|damage| (*name, damage)));
                    }
                    Ok(Copied::AlreadyPresent(_)) => outcome.wal_present += 1,
                    Err(error) => {
                        if !error.is_of_one_file() {
                            stop.store(true, Ordering::Relaxed);
                        }
                        outcome.add(name.to_string(), error.into());
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.min(files.len()) {
                // what cannot be started is done by the others
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn backup(
        &self,
        label: Label,
        info: Option<&BackupInfo>,
        observer: &Observer<'_>,
        outcome: &mut Outcome,
    ) {
        let (from, to) = (self.from.backups(), self.to.backups());
        match to.copy_from(&from, label, self.threads, observer) {
            Ok(BackupCopied::AlreadyPresent) => outcome.backups_present += 1,
            Ok(BackupCopied::Stored { .. }) => {
                outcome.backups_copied.push(label);
                if let Some(info) = info {
                    let bytes = info.sizes.stored_bytes;
                    outcome.backup_bytes = outcome.backup_bytes.saturating_add(bytes);
                    match self.unrecoverable(info) {
                        Ok(missing) => outcome.unrecoverable.extend(missing),
                        Err(error) => outcome.add(format!("backup {label}"), error),
                    }
                }
            }
            Err(error) => outcome.add(format!("backup {label}"), error.into()),
        }
    }

    /// What the target lacks of the log that the backup cannot do without.
    fn unrecoverable(
        &self,
        info: &BackupInfo,
    ) -> Result<Option<UnrecoverableBackup>, ProblemError> {
        let wal = self.to.wal();
        let size = self.to.identity().segment_size;
        let mut missing = Vec::new();
        for segment in needed(info, size) {
            let there = wal.locate(&WalFileName::Segment(segment));
            if there.map_err(CopyError::from)?.is_none() {
                missing.push(segment);
            }
        }
        if missing.is_empty() {
            return Ok(None);
        }
        // pg_basebackup -X puts them into the backup itself; the copy is the
        // same, and may be encrypted for others
        if let Some(reader) = self
            .from
            .backups()
            .open(info.label)
            .map_err(BackupCopyError::from)?
        {
            missing.retain(|segment| {
                let brought = format!("pg_wal/{segment}").parse();
                !brought.is_ok_and(|path| reader.index().find(&path).is_some())
            });
        }
        Ok(missing.first().map(|first| UnrecoverableBackup {
            label: info.label,
            first_missing: *first,
            missing: u64::try_from(missing.len()).unwrap_or(u64::MAX),
        }))
    }
}

/// The segments from a backup's start to its stop, on the timeline that it was
/// begun on.
fn needed(info: &BackupInfo, size: WalSegmentSize) -> impl Iterator<Item = SegmentName> {
    let timeline = info.timeline;
    let first = SegmentNumber::containing(info.start_lsn, size).get();
    let last = SegmentNumber::last_before(info.stop_lsn, size).get();
    (first..=last.min(first.saturating_add(MOST_NEEDED)))
        .map(move |number| SegmentName::new(timeline, SegmentNumber::new(number), size))
}

impl Outcome {
    /// Whether the target has everything now, with the same content.
    pub fn is_level(&self) -> bool {
        self.problems.is_empty() && !self.stopped
    }

    fn add(&mut self, what: String, error: ProblemError) {
        self.stopped |= !error.is_of_one_object();
        self.problems.push(Problem { what, error });
    }
}
