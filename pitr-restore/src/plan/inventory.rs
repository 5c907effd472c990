//! What the repository holds of a cluster, as far as a plan needs to know.

use std::collections::{BTreeMap, BTreeSet};

use pitr_console::Explain;
use pitr_core::{
    BackupManifest, Lsn, SegmentName, SystemIdentifier, TimelineHistory, TimelineId, TimelinePath,
    WalFileName,
};
use pitr_store::backup::{
    Archive, BackupInfo, BackupReadError, BackupReader, BackupSource, DamagedBackup, Label,
};
use pitr_store::wal::{FetchError, WalArchive};
use pitr_store::{Cluster, StoreError};

use super::choice::BackupFacts;
use super::wal::ArchivedWal;

/// The backups and timelines of one cluster, and of its segments what has been
/// looked for: an archive may hold a hundred thousand, of which a recovery
/// passes a few.
#[derive(Debug)]
pub(crate) struct Inventory {
    /// The log in each repository.
    archives: Vec<WalArchive>,
    pub(crate) backups: Vec<BackupFacts>,
    /// Backups that cannot be used, with the reason.
    pub(crate) damaged_backups: Vec<DamagedBackup>,
    /// Histories that are in the repository.
    pub(crate) histories: BTreeMap<TimelineId, TimelineHistory>,
    /// Histories that cannot be used, with the reason.
    pub(crate) damaged_histories: Vec<(TimelineId, FetchError)>,
    /// Segments, where they were looked for.
    wal: ArchivedWal,
    /// Log folders of the timelines that were asked for.
    logs: BTreeMap<TimelineId, BTreeSet<u32>>,
    /// Log folders that were listed.
    listed: BTreeSet<(TimelineId, u32)>,
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
    /// Lists backups and timelines; lists and reads no segment and no part of
    /// a backup.
    ///
    /// # Errors
    /// Of the store. What is damaged is told apart, and does not hide the rest.
    pub(crate) fn take(cluster: &Cluster) -> Result<Self, InventoryError> {
        let archive = cluster.wal();
        let mut histories = BTreeMap::new();
        let mut damaged_histories = Vec::new();
        for timeline in archive.timelines()? {
            match archive.history(timeline) {
                Ok(Some(history)) if timeline != TimelineId::FIRST => {
                    histories.insert(timeline, history);
                }
                Ok(_) => {}
                Err(FetchError::Store(error)) => return Err(error.into()),
                Err(error) => damaged_histories.push((timeline, error)),
            }
        }
        let listing = cluster.backups().list()?;
        let mut backups = Vec::new();
        for info in &listing.backups {
            backups.push(facts(cluster, info)?);
        }
        Ok(Self {
            wal: ArchivedWal::new(cluster.identity().segment_size),
            archives: vec![archive],
            backups,
            damaged_backups: listing.damaged,
            histories,
            damaged_histories,
            logs: BTreeMap::new(),
            listed: BTreeSet::new(),
        })
    }

    /// The same, with every segment that there is.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) fn take_whole(cluster: &Cluster) -> Result<Self, InventoryError> {
        let mut inventory = Self::take(cluster)?;
        for timeline in cluster.wal().timelines()? {
            for log in inventory.logs(timeline)? {
                inventory.look_into(timeline, log)?;
            }
        }
        Ok(inventory)
    }

    /// What was looked for so far.
    pub(crate) fn wal(&self) -> &ArchivedWal {
        &self.wal
    }

    /// The log in each repository, in the order of the setting.
    pub(crate) fn archives(&self) -> &[WalArchive] {
        &self.archives
    }

    /// Whose log it is.
    pub(crate) fn system_identifier(&self) -> SystemIdentifier {
        let archive = self.archives.first();
        archive.map_or(SystemIdentifier::new(0), |archive| {
            archive.cluster().system_identifier
        })
    }

    /// How many folders of segments were listed.
    pub(crate) fn folders_listed(&self) -> u64 {
        u64::try_from(self.listed.len()).unwrap_or(u64::MAX)
    }

    /// Looks for the last segment of every timeline of `path`.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) fn look_at_ends(&mut self, path: &TimelinePath) -> Result<(), InventoryError> {
        for step in path.steps() {
            let logs = self.logs(step.timeline)?;
            // a folder may hold no more than foreign files
            for log in logs.into_iter().rev() {
                self.look_into(step.timeline, log)?;
                let wal = &self.wal;
                if wal.last(step.timeline).is_some() || wal.last_partial(step.timeline).is_some() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Looks for every segment of `path` before `until`.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) fn look_until(
        &mut self,
        path: &TimelinePath,
        until: Lsn,
    ) -> Result<(), InventoryError> {
        for step in path.steps() {
            if step.begin >= until {
                break;
            }
            let end = step.end.map_or(until, |end| end.min(until));
            let folders = log_of(step.begin)..=log_of(end);
            for log in self.logs(step.timeline)? {
                if folders.contains(&log) {
                    self.look_into(step.timeline, log)?;
                }
            }
        }
        Ok(())
    }

    fn logs(&mut self, timeline: TimelineId) -> Result<BTreeSet<u32>, InventoryError> {
        if let Some(known) = self.logs.get(&timeline) {
            return Ok(known.clone());
        }
        let mut logs = BTreeSet::new();
        for archive in &self.archives {
            logs.extend(archive.log_folders(timeline)?);
        }
        self.logs.insert(timeline, logs.clone());
        Ok(logs)
    }

    fn look_into(&mut self, timeline: TimelineId, log: u32) -> Result<(), InventoryError> {
        if !self.listed.insert((timeline, log)) {
            return Ok(());
        }
        let size = self.wal.size();
        for archive in &self.archives {
            let content = archive.content_of(timeline, [log])?;
            let ranges = content.ranges().into_iter().filter_map(|range| {
                Some(range.first.number(size).ok()?..=range.last.number(size).ok()?)
            });
            let partials = content.files.iter().filter_map(|file| match file.name {
                WalFileName::Partial(segment) => Some(segment),
                _ => None,
            });
            self.wal.add(timeline, ranges, partials);
        }
        Ok(())
    }
}

/// The log folder that `lsn` lies in: 4 GiB each.
fn log_of(lsn: Lsn) -> u32 {
    u32::try_from(lsn.get() >> 32).unwrap_or(u32::MAX)
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
        self.archives.extend(other.archives);
        // the other has not been looked into there
        self.logs.clear();
        self.listed.clear();
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
        checkpoint_lsn: info.checkpoint_lsn,
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
