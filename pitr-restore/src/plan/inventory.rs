//! What the repository holds of a cluster, as far as a plan needs to know.

use std::collections::{BTreeMap, BTreeSet};

use pitr_console::Explain;
use pitr_core::{BackupManifest, SegmentName, TimelineHistory, TimelineId, WalFileName};
use pitr_store::backup::{
    Archive, BackupInfo, BackupReadError, BackupReader, BackupSource, DamagedBackup, Label,
};
use pitr_store::wal::FetchError;
use pitr_store::{Cluster, StoreError};

use super::choice::BackupFacts;
use super::wal::ArchivedWal;

/// The backups, timelines and segments of one cluster, listed once.
#[derive(Debug)]
pub(crate) struct Inventory {
    pub(crate) backups: Vec<BackupFacts>,
    /// Backups that cannot be used, with the reason.
    pub(crate) damaged_backups: Vec<DamagedBackup>,
    /// Histories that are in the repository.
    pub(crate) histories: BTreeMap<TimelineId, TimelineHistory>,
    /// Histories that cannot be used, with the reason.
    pub(crate) damaged_histories: Vec<(TimelineId, FetchError)>,
    pub(crate) wal: ArchivedWal,
}

/// Why the repository could not be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InventoryError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A backup's description could not be read.
    #[error(transparent)]
    Backup(#[from] BackupReadError),
    /// Two repositories tell different things of the same timeline.
    #[error("two repositories hold different histories of timeline {timeline}")]
    Histories {
        /// The timeline.
        timeline: TimelineId,
    },
    /// Two repositories hold different backups of one label.
    #[error("two repositories hold different backups {label}")]
    Backups {
        /// The label.
        label: Label,
    },
}

impl Explain for InventoryError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Backup(error) => error.hint(),
            Self::Histories { .. } | Self::Backups { .. } => Some(
                "Name the one to restore from with --repo; \"pitr-archive sync --dry-run\" and \
                 \"pitr-archive list\" show what each of them holds."
                    .to_owned(),
            ),
        }
    }
}

impl Inventory {
    /// Lists what there is; reads no segment and no part of a backup.
    ///
    /// # Errors
    /// Of the store. What is damaged is told apart, and does not hide the rest.
    pub(crate) fn take(cluster: &Cluster) -> Result<Self, InventoryError> {
        let archive = cluster.wal();
        let mut histories = BTreeMap::new();
        let mut damaged_histories = Vec::new();
        let mut wal = ArchivedWal::new(cluster.identity().segment_size);
        for timeline in archive.timelines()? {
            match archive.history(timeline) {
                Ok(Some(history)) if timeline != TimelineId::FIRST => {
                    histories.insert(timeline, history);
                }
                Ok(_) => {}
                Err(FetchError::Store(error)) => return Err(error.into()),
                Err(error) => damaged_histories.push((timeline, error)),
            }
            let content = archive.content(timeline)?;
            let size = cluster.identity().segment_size;
            let ranges = content.ranges().into_iter().filter_map(|range| {
                Some(range.first.number(size).ok()?..=range.last.number(size).ok()?)
            });
            let partials = content.files.iter().filter_map(|file| match file.name {
                WalFileName::Partial(segment) => Some(segment),
                _ => None,
            });
            wal.add(timeline, ranges, partials);
        }
        let listing = cluster.backups().list()?;
        let mut backups = Vec::new();
        for info in &listing.backups {
            backups.push(facts(cluster, info)?);
        }
        Ok(Self {
            backups,
            damaged_backups: listing.damaged,
            histories,
            damaged_histories,
            wal,
        })
    }
}

impl Inventory {
    /// Adds what another repository of the same cluster holds. What is damaged
    /// in one and sound in the other is sound.
    ///
    /// # Errors
    /// The two do not agree on a timeline's history, or on a backup.
    pub(crate) fn join(&mut self, other: Self) -> Result<(), InventoryError> {
        for (timeline, history) in other.histories {
            match self.histories.get(&timeline) {
                Some(known) if *known != history => {
                    return Err(InventoryError::Histories { timeline });
                }
                Some(_) => {}
                None => {
                    self.histories.insert(timeline, history);
                }
            }
        }
        for backup in other.backups {
            match self
                .backups
                .iter()
                .find(|known| known.label == backup.label)
            {
                Some(known) if *known != backup => {
                    return Err(InventoryError::Backups {
                        label: backup.label,
                    });
                }
                Some(_) => {}
                None => self.backups.push(backup),
            }
        }
        self.backups.sort_by_key(|backup| backup.label);
        self.wal.join(other.wal);
        self.damaged_histories.extend(other.damaged_histories);
        self.damaged_backups.extend(other.damaged_backups);
        let (histories, backups) = (&self.histories, &self.backups);
        self.damaged_histories
            .retain(|(timeline, _)| !histories.contains_key(timeline));
        self.damaged_backups
            .retain(|damaged| !backups.iter().any(|known| known.label == damaged.label));
        Ok(())
    }
}

fn facts(cluster: &Cluster, info: &BackupInfo) -> Result<BackupFacts, InventoryError> {
    Ok(BackupFacts {
        label: info.label,
        timeline: info.timeline,
        end_timeline: match info.from {
            BackupSource::Primary => info.timeline,
            BackupSource::Standby => end_timeline(cluster, info)?,
        },
        start_lsn: info.start_lsn,
        stop_lsn: info.stop_lsn,
        start_time: info.start_time,
        stop_time: info.stop_time,
    })
}

/// The timeline on which a standby's backup ended: the newest of the ranges in
/// its manifest, where it has one.
fn end_timeline(cluster: &Cluster, info: &BackupInfo) -> Result<TimelineId, InventoryError> {
    let manifest = match cluster.backups().open(info.label)? {
        Some(reader) => reader.manifest()?,
        None => None,
    };
    let newest = manifest
        .and_then(|bytes| BackupManifest::parse(&bytes).ok())
        .and_then(|manifest| manifest.wal_ranges.iter().map(|range| range.timeline).max());
    Ok(newest.unwrap_or(info.timeline))
}

/// The segments that a backup holds itself, as `pg_basebackup -X` puts them
/// there.
pub(crate) fn brought_segments(reader: &BackupReader) -> BTreeSet<SegmentName> {
    reader
        .index()
        .files()
        .filter(|(part, _)| part.archive() == Archive::Base)
        .filter_map(|(_, file)| {
            let path = file.path.as_str()?.strip_prefix("pg_wal/")?;
            match path.parse() {
                Ok(WalFileName::Segment(segment)) => Some(segment),
                _ => None,
            }
        })
        .collect()
}
