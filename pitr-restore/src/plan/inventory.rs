//! What the repository holds of a cluster, as far as a plan needs to know.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::rc::Rc;

use pitr_console::Explain;
use pitr_core::{
    BackupManifest, Lsn, SegmentName, SegmentNumber, SystemIdentifier, TimelineHistory, TimelineId,
    TimelinePath, WalFileName,
};
use pitr_store::backup::{
    Archive, BackupInfo, BackupReadError, BackupReader, BackupSource, DamagedBackup, Label,
};
use pitr_store::spool::SpoolError;
use pitr_store::wal::FetchError;
use pitr_store::{Cluster, StoreError};

use super::choice::BackupFacts;
use super::wal::ArchivedWal;
use crate::archived_log::{ArchivedLog, SpooledLog};

/// The backups and timelines of one cluster, and of its segments what has been
/// looked for: an archive may hold a hundred thousand, of which a recovery
/// passes a few.
#[derive(Debug)]
pub(crate) struct Inventory {
    log: ArchivedLog,
    /// Timelines of which there is anything.
    timelines: BTreeSet<TimelineId>,
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
    logs: BTreeMap<TimelineId, Rc<[u32]>>,
    /// Log folders that were listed.
    listed: BTreeSet<(TimelineId, u32)>,
    /// Segments that a receiver holds and no repository does.
    spooled_alone: BTreeSet<SegmentName>,
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
    /// A receiver's spool could not be read.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The spool tells another thing of a timeline than the repository.
    #[error("\"{}\" holds another history of timeline {timeline} than the repository", folder.display())]
    SpooledHistory {
        /// The spool.
        folder: PathBuf,
        /// The timeline.
        timeline: TimelineId,
    },
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
            Self::Spool(error) => error.hint(),
            Self::SpooledHistory { .. } => Some(
                "The receiver followed another server than the one that archived it. --spool names \
                 another folder, one that need not exist."
                    .to_owned(),
            ),
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
        let timelines = archive.timelines()?;
        for timeline in timelines.iter().copied() {
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
            log: ArchivedLog::of(archive),
            timelines: timelines.into_iter().collect(),
            backups,
            damaged_backups: listing.damaged,
            histories,
            damaged_histories,
            logs: BTreeMap::new(),
            listed: BTreeSet::new(),
            spooled_alone: BTreeSet::new(),
        })
    }

    /// What was looked for so far.
    pub(crate) fn wal(&self) -> &ArchivedWal {
        &self.wal
    }

    /// The log wherever it lies.
    pub(crate) fn log(&self) -> &ArchivedLog {
        &self.log
    }

    /// Timelines of which there is log or a history, ascending.
    pub(crate) fn timelines(&self) -> &BTreeSet<TimelineId> {
        &self.timelines
    }

    /// The history of a timeline, as far as it is known.
    pub(crate) fn history_of(&self, timeline: TimelineId) -> TimelineHistory {
        let known = self.histories.get(&timeline).cloned();
        known.unwrap_or_else(|| TimelineHistory::root(timeline))
    }

    /// Segments up to `end` on `path` that only the receiver's spool holds.
    pub(crate) fn spooled_alone(&self, path: &TimelinePath, end: Lsn) -> u64 {
        let on_way = path.segments_until(end, self.wal.size());
        let count = on_way.filter(|segment| self.spooled_alone.contains(segment));
        u64::try_from(count.count()).unwrap_or(u64::MAX)
    }

    /// Whose log it is.
    pub(crate) fn system_identifier(&self) -> SystemIdentifier {
        self.log.identity().system_identifier
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
            for log in logs.iter().rev().copied() {
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
            self.look_between(step.timeline, step.begin, end)?;
        }
        Ok(())
    }

    /// Looks for every segment of a timeline from `begin` to `end`.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) fn look_between(
        &mut self,
        timeline: TimelineId,
        begin: Lsn,
        end: Lsn,
    ) -> Result<(), InventoryError> {
        let folders = log_of(begin)..=log_of(end);
        for log in self.logs(timeline)?.iter().copied() {
            if folders.contains(&log) {
                self.look_into(timeline, log)?;
            }
        }
        Ok(())
    }

    /// Looks for the first segment of a timeline.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) fn first_of(
        &mut self,
        timeline: TimelineId,
    ) -> Result<Option<SegmentNumber>, InventoryError> {
        for log in self.logs(timeline)?.iter().copied() {
            self.look_into(timeline, log)?;
            let first = self.wal.first(timeline);
            if first.is_some() {
                return Ok(first);
            }
        }
        Ok(None)
    }

    /// The log folders of a timeline, ascending: there may be thousands.
    fn logs(&mut self, timeline: TimelineId) -> Result<Rc<[u32]>, InventoryError> {
        if let Some(known) = self.logs.get(&timeline) {
            return Ok(Rc::clone(known));
        }
        let mut logs = self.log.log_folders(timeline)?;
        let size = self.wal.size();
        logs.extend(self.spooled().filter_map(|(segment, _)| {
            let begin = segment.start(size).ok()?;
            (segment.timeline() == timeline).then(|| log_of(begin))
        }));
        logs.sort_unstable();
        logs.dedup();
        let logs = Rc::from(logs);
        self.logs.insert(timeline, Rc::clone(&logs));
        Ok(logs)
    }

    fn spooled(&self) -> impl Iterator<Item = (SegmentName, WalFileName)> + '_ {
        let spooled = self.log.spooled().into_iter();
        let files = spooled.flat_map(SpooledLog::segments);
        files.filter_map(|name| Some((name.segment()?, name)))
    }

    fn look_into(&mut self, timeline: TimelineId, log: u32) -> Result<(), InventoryError> {
        if !self.listed.insert((timeline, log)) {
            return Ok(());
        }
        let size = self.wal.size();
        let archived = self.log.files_of(timeline, log)?;
        let spooled = self.spooled().filter(|(segment, _)| {
            let begin = segment.start(size).ok();
            segment.timeline() == timeline && begin.is_some_and(|begin| log_of(begin) == log)
        });
        let spooled: Vec<_> = spooled.collect();
        let is_archived = |segment: &SegmentName| {
            let name = WalFileName::Segment(*segment);
            archived.contains(&(*segment, name))
        };
        let alone = spooled.iter().map(|(segment, _)| *segment);
        let alone: Vec<_> = alone.filter(|segment| !is_archived(segment)).collect();
        self.spooled_alone.extend(alone);
        let mut ranges: Vec<RangeInclusive<SegmentNumber>> = Vec::new();
        let mut partials = Vec::new();
        for (segment, name) in archived.into_iter().chain(spooled) {
            match (name, segment.number(size)) {
                (WalFileName::Partial(segment), _) => partials.push(segment),
                (_, Ok(number)) => match ranges.last_mut() {
                    Some(range) if range.end().next() == number => {
                        *range = *range.start()..=number;
                    }
                    _ => ranges.push(number..=number),
                },
                // of another segment size: no segment of this cluster
                (_, Err(_)) => {}
            }
        }
        self.wal.add(timeline, ranges, partials);
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
        self.log.join(other.log);
        self.timelines.extend(other.timelines);
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

impl Inventory {
    /// Adds what a receiver on this machine holds, as it lay there before the
    /// repositories were looked into.
    ///
    /// # Errors
    /// Its histories cannot be read, or are others than those of the repository.
    pub(crate) fn add_spooled(&mut self, spooled: SpooledLog) -> Result<(), InventoryError> {
        for history in spooled.histories()? {
            let timeline = history.timeline();
            match self.histories.get(&timeline) {
                Some(known) if *known != history => {
                    let folder = spooled.folder().to_owned();
                    return Err(InventoryError::SpooledHistory { folder, timeline });
                }
                Some(_) => {}
                None => {
                    self.histories.insert(timeline, history);
                }
            }
        }
        let histories = &self.histories;
        self.damaged_histories
            .retain(|(timeline, _)| !histories.contains_key(timeline));
        let timelines = spooled.segments().filter_map(|name| name.segment());
        self.timelines
            .extend(timelines.map(|segment| segment.timeline()));
        self.timelines.extend(self.histories.keys());
        self.log.add_spooled(spooled);
        self.logs.clear();
        self.listed.clear();
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
