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
    /// Backups of a label that both have, in a target that is encrypted and
    /// whose key is not here: whether they are the same cannot be told.
    pub sealed_backups: Vec<Label>,
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
    /// A target that cannot be read for want of a key is written to all the
    /// same: what it lacks shows by names.
    ///
    /// # Errors
    /// One of the stores failed, or the source cannot be read for want of a key.
    pub fn between(from: &Cluster, to: Option<&Cluster>) -> Result<Self, BackupReadError> {
        let mut difference = Self::default();
        difference.compare_wal(&from.wal(), to.map(Cluster::wal).as_ref())?;
        let (there, are_sealed) = match to {
            None => (BTreeSet::new(), false),
            Some(to) => backups_of_target(to)?,
        };
        let listing = from.backups().list()?;
        difference.damaged_backups = listing.damaged;
        for info in listing.backups {
            match (there.contains(&info.label), are_sealed) {
                (false, _) => difference.backups.push(info),
                (true, false) => difference.common_backups.push(info.label),
                (true, true) => difference.sealed_backups.push(info.label),
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

/// Labels of the target's backups, and whether nothing but their names can be
/// read.
fn backups_of_target(to: &Cluster) -> Result<(BTreeSet<Label>, bool), BackupReadError> {
    let catalog = to.backups();
    match catalog.list() {
        Ok(listing) => {
            let complete = listing.backups.iter().map(|info| info.label);
            let damaged = listing.damaged.iter().map(|damaged| damaged.label);
            Ok((complete.chain(damaged).collect(), false))
        }
        Err(BackupReadError::Store(error)) if error.is_locked() => {
            let outlines = catalog.outlines()?;
            Ok((outlines.iter().map(|outline| outline.label).collect(), true))
        }
        Err(error) => Err(error),
    }
}

fn names(archive: &WalArchive, timeline: TimelineId) -> Result<BTreeSet<WalFileName>, StoreError> {
    let files = archive.content(timeline)?.files;
    Ok(files.into_iter().map(|file| file.name).collect())
}
