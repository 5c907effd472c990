//! What one repository has and another lacks, by names alone.

use std::collections::BTreeSet;

use pitr_core::{TimelineId, WalFileName};

use crate::StoreError;
use crate::backup::{BackupInfo, BackupReadError, DamagedBackup, Label};
use crate::repository::Cluster;
use crate::wal::WalArchive;

/// What a target lacks of a source, and what both have.
#[derive(Debug, Default)]
pub struct Difference {
    /// Files of the log that the target lacks: histories first, then each
    /// timeline as it runs.
    pub wal: Vec<MissingWal>,
    /// Files of the log that both have, in the same order. Their contents were
    /// not compared.
    pub common_wal: Vec<WalFileName>,
    /// Complete backups that the target lacks, oldest first.
    pub backups: Vec<BackupInfo>,
    /// Backups that both have. Their contents were not compared.
    pub common_backups: Vec<Label>,
    /// Backups of the source that cannot be used.
    pub damaged_backups: Vec<DamagedBackup>,
}

/// A file of the log that the target lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingWal {
    /// Its name.
    pub name: WalFileName,
    /// Bytes that it takes in the source's store; 0 for a history file, which
    /// is not listed with its size.
    pub stored_bytes: u64,
}

impl Difference {
    /// What `to` lacks of `from`, of the same cluster. `None`: the target does
    /// not know the cluster yet, and lacks everything.
    ///
    /// # Errors
    /// One of the stores failed.
    pub fn between(from: &Cluster, to: Option<&Cluster>) -> Result<Self, BackupReadError> {
        let mut difference = Self::default();
        difference.compare_wal(&from.wal(), to.map(Cluster::wal).as_ref())?;
        let there: BTreeSet<Label> = match to {
            None => BTreeSet::new(),
            Some(to) => {
                let listing = to.backups().list()?;
                let complete = listing.backups.iter().map(|info| info.label);
                let damaged = listing.damaged.iter().map(|damaged| damaged.label);
                complete.chain(damaged).collect()
            }
        };
        let listing = from.backups().list()?;
        difference.damaged_backups = listing.damaged;
        for info in listing.backups {
            if there.contains(&info.label) {
                difference.common_backups.push(info.label);
            } else {
                difference.backups.push(info);
            }
        }
        Ok(difference)
    }

    /// What `to` lacks of the log `from`.
    ///
    /// # Errors
    /// One of the stores failed.
    pub fn of_wal(from: &WalArchive, to: &WalArchive) -> Result<Self, StoreError> {
        let mut difference = Self::default();
        difference.compare_wal(from, Some(to))?;
        Ok(difference)
    }

    /// Whether the target lacks nothing.
    pub fn is_none(&self) -> bool {
        self.wal.is_empty() && self.backups.is_empty()
    }

    /// Bytes that copying takes in the source's store.
    pub fn stored_bytes(&self) -> u64 {
        let wal = self.wal.iter().map(|file| file.stored_bytes);
        let backups = self.backups.iter().map(|info| info.sizes.stored_bytes);
        wal.chain(backups).fold(0, u64::saturating_add)
    }

    fn compare_wal(
        &mut self,
        from: &WalArchive,
        to: Option<&WalArchive>,
    ) -> Result<(), StoreError> {
        let timelines = from.timelines()?;
        for timeline in &timelines {
            let name = WalFileName::History(*timeline);
            if from.locate(&name)?.is_none() {
                continue;
            }
            let is_there = match to {
                Some(to) => to.locate(&name)?.is_some(),
                None => false,
            };
            self.add(name, 0, is_there);
        }
        for timeline in timelines {
            let there = match to {
                Some(to) => names(to, timeline)?,
                None => BTreeSet::new(),
            };
            let mut last = None;
            for file in from.content(timeline)?.files {
                // the same once more, under another codec
                if last.replace(file.name) == Some(file.name) {
                    continue;
                }
                self.add(file.name, file.stored_bytes, there.contains(&file.name));
            }
        }
        Ok(())
    }

    fn add(&mut self, name: WalFileName, stored_bytes: u64, is_there: bool) {
        if is_there {
            self.common_wal.push(name);
        } else {
            self.wal.push(MissingWal { name, stored_bytes });
        }
    }
}

fn names(archive: &WalArchive, timeline: TimelineId) -> Result<BTreeSet<WalFileName>, StoreError> {
    let files = archive.content(timeline)?.files;
    Ok(files.into_iter().map(|file| file.name).collect())
}
