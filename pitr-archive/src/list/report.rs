//! What a repository holds, as `--json` shows it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use pitr_console::Failure;
use pitr_core::{BackupManifest, TimelineHistory};
use pitr_core::{Lsn, PostgresMajor, SegmentName, SystemIdentifier, TimelineId, WalFileName};
use pitr_core::{SegmentNumber, WalSegmentSize};
use pitr_store::backup::{
    BackupCatalog, BackupInfo, BackupReadError, BackupSource, Label, Listing,
};
use pitr_store::wal::{TimelineContent, WalRange};
use pitr_store::{Cluster, FetchError, Repository};
use serde::Serialize;

use super::window::{Archived, BackupOnWay, TimelineWindows};
use crate::key::Encryption;

/// A repository.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) repository: String,
    pub(super) format: u32,
    /// What the medium that it lies on cannot promise.
    pub(super) warnings: Vec<&'static str>,
    /// How it is encrypted, if it is.
    pub(super) encryption: Option<Encryption>,
    /// False where it is encrypted and no key was named: then names and sizes
    /// are all there is to tell.
    pub(super) readable: bool,
    pub(super) clusters: Vec<ClusterReport>,
}

/// One cluster of it.
#[derive(Debug, Serialize)]
pub(super) struct ClusterReport {
    pub(super) system_identifier: SystemIdentifier,
    pub(super) postgres_major: PostgresMajor,
    pub(super) wal_segment_size: WalSegmentSize,
    pub(super) timelines: Vec<TimelineReport>,
    pub(super) backups: Vec<BackupReport>,
    /// Backups of which no more can be told without a key.
    pub(super) sealed_backups: Vec<SealedReport>,
    /// Backups whose `backup.json` cannot be used, with the reason.
    pub(super) damaged_backups: Vec<DamagedReport>,
    /// Every file of the log that it holds, in their order.
    #[serde(skip)]
    pub(super) files: BTreeSet<LogFile>,
}

/// A file of the log: histories first, then segments and what belongs to them.
pub(super) type LogFile = (Option<SegmentName>, WalFileName);

/// The WAL of one timeline.
#[derive(Debug, Serialize)]
pub(super) struct TimelineReport {
    pub(super) timeline: TimelineId,
    /// Where it left its parent; `None` for timeline 1.
    pub(super) branch: Option<BranchReport>,
    /// What is wrong with its history file, if anything is.
    pub(super) history_error: Option<String>,
    pub(super) ranges: Vec<RangeReport>,
    pub(super) gaps: Vec<GapReport>,
    pub(super) partial: Vec<String>,
    pub(super) stored_bytes: u64,
    /// What can be recovered along it, and why not more.
    #[serde(flatten)]
    pub(super) recoverable: TimelineWindows,
}

#[derive(Debug, Serialize)]
pub(super) struct BranchReport {
    pub(super) parent: TimelineId,
    pub(super) switch_lsn: Lsn,
    pub(super) reason: String,
}

/// Segments without a gap.
#[derive(Debug, Serialize)]
pub(super) struct RangeReport {
    pub(super) first: String,
    pub(super) last: String,
    pub(super) begin: Lsn,
    pub(super) end: Lsn,
    pub(super) segments: u64,
    pub(super) stored_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct GapReport {
    pub(super) first: String,
    pub(super) last: String,
    pub(super) segments: u64,
}

/// A complete backup.
#[derive(Debug, Serialize)]
pub(super) struct BackupReport {
    pub(super) label: Label,
    pub(super) postgres_version: String,
    pub(super) timeline: TimelineId,
    pub(super) start_lsn: Lsn,
    pub(super) stop_lsn: Lsn,
    pub(super) start_time: DateTime<Utc>,
    pub(super) stop_time: DateTime<Utc>,
    pub(super) from: BackupSource,
    pub(super) raw_bytes: u64,
    pub(super) stored_bytes: u64,
    pub(super) files: u64,
    pub(super) tablespaces: usize,
    /// Timeline on which it ended.
    pub(super) end_timeline: TimelineId,
    /// End of the WAL that continues the backup on the timeline on which it
    /// ended without a gap; `None` where not even the WAL that it needs is there.
    pub(super) wal_until: Option<Lsn>,
    /// How far it leads, on every timeline that it leads to.
    pub(super) reaches: Vec<ReachReport>,
    /// Whether the WAL that it needs came with the backup, and only so.
    pub(super) brings_wal: bool,
}

/// How far a backup leads on a timeline.
#[derive(Debug, Serialize)]
pub(super) struct ReachReport {
    pub(super) timeline: TimelineId,
    pub(super) until_lsn: Lsn,
}

/// A complete backup that cannot be read here.
#[derive(Debug, Serialize)]
pub(super) struct SealedReport {
    pub(super) label: Label,
    pub(super) stored_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct DamagedReport {
    pub(super) label: Label,
    pub(super) error: String,
}

impl ClusterReport {
    /// Labels of all backups, usable or not.
    pub(super) fn labels(&self) -> BTreeSet<Label> {
        let complete = self.whole_backups().into_iter();
        let damaged = self.damaged_backups.iter().map(|backup| backup.label);
        complete.chain(damaged).collect()
    }

    /// Labels of the backups with which nothing is known to be wrong.
    pub(super) fn whole_backups(&self) -> BTreeSet<Label> {
        let read = self.backups.iter().map(|backup| backup.label);
        let sealed = self.sealed_backups.iter().map(|backup| backup.label);
        read.chain(sealed).collect()
    }
}

pub(super) fn gather(repository: &Repository, clusters: &[Cluster]) -> Result<Report, Failure> {
    // without any key there is still something to tell; a wrong one is an error
    let readable = repository.has_keys();
    if readable {
        repository.unlock()?;
    }
    Ok(Report {
        encryption: Encryption::of(repository)?,
        readable,
        repository: repository.location(),
        format: repository.document().format,
        warnings: repository.store().promises().warnings(),
        clusters: clusters
            .iter()
            .map(|one| cluster(one, readable))
            .collect::<Result<_, Failure>>()?,
    })
}

fn cluster(cluster: &Cluster, readable: bool) -> Result<ClusterReport, Failure> {
    let identity = cluster.identity();
    let size = identity.segment_size;
    let archive = cluster.wal();
    let mut timelines = Vec::new();
    let mut histories: BTreeMap<TimelineId, TimelineHistory> = BTreeMap::new();
    let mut ranges: Vec<WalRange> = Vec::new();
    let mut files = BTreeSet::new();
    for id in archive.timelines()? {
        let content = archive.content(id)?;
        files.extend(content.files.iter().map(|f| (f.name.segment(), f.name)));
        let name = WalFileName::History(id);
        if archive.locate(&name)?.is_some() {
            files.insert((None, name));
        }
        // one that is damaged must not hide the rest
        let history = if readable {
            archive.history(id)
        } else {
            Ok(None)
        };
        let (history, history_error) = match history {
            Ok(history) => (history, None),
            Err(FetchError::Store(error)) => return Err(error.into()),
            Err(error) => (None, Some(error.to_string())),
        };
        let branch = history.as_ref().and_then(|history| {
            let last = history.entries().last()?;
            Some(BranchReport {
                parent: last.parent,
                switch_lsn: last.switch_lsn,
                reason: last.reason.clone(),
            })
        });
        ranges.extend(content.ranges());
        if history_error.is_none() {
            histories.insert(id, history.unwrap_or_else(|| TimelineHistory::root(id)));
        }
        timelines.push(timeline(&content, branch, history_error, size));
    }
    let catalog = cluster.backups();
    let (listing, sealed) = if readable {
        (catalog.list()?, Vec::new())
    } else {
        (Listing::default(), catalog.outlines()?)
    };
    let sealed_backups = sealed
        .into_iter()
        .map(|outline| SealedReport {
            label: outline.label,
            stored_bytes: outline.stored_bytes,
        })
        .collect();
    let on_way: Vec<BackupOnWay> = listing
        .backups
        .iter()
        .map(|info| on_way(&catalog, info, &ranges, size))
        .collect::<Result<_, Failure>>()?;
    let archived = Archived {
        archive: &archive,
        ranges: &ranges,
        size,
    };
    if readable {
        for timeline in &mut timelines {
            if let Some(history) = histories.get(&timeline.timeline) {
                timeline.recoverable = archived
                    .windows(history, &on_way)
                    .map_err(|error| Failure::new(error.to_string()))?;
            }
        }
    }
    let backups = listing
        .backups
        .iter()
        .zip(&on_way)
        .map(|(info, on_way)| backup(info, on_way, &timelines))
        .collect();
    let damaged_backups = listing
        .damaged
        .into_iter()
        .map(|damaged| DamagedReport {
            label: damaged.label,
            error: damaged.error.to_string(),
        })
        .collect();
    Ok(ClusterReport {
        system_identifier: identity.system_identifier,
        postgres_major: identity.major,
        wal_segment_size: size,
        timelines,
        backups,
        sealed_backups,
        damaged_backups,
        files,
    })
}

fn timeline(
    content: &TimelineContent,
    branch: Option<BranchReport>,
    history_error: Option<String>,
    size: WalSegmentSize,
) -> TimelineReport {
    let ranges = content.ranges();
    TimelineReport {
        timeline: content.timeline,
        branch,
        history_error,
        gaps: WalRange::gaps(&ranges, size)
            .iter()
            .map(|gap| GapReport {
                first: gap.first.to_string(),
                last: gap.last.to_string(),
                segments: gap.segments,
            })
            .collect(),
        partial: content
            .files
            .iter()
            .filter(|file| matches!(file.name, WalFileName::Partial(_)))
            .map(|file| file.name.to_string())
            .collect(),
        stored_bytes: content.files.iter().map(|file| file.stored_bytes).sum(),
        recoverable: TimelineWindows::default(),
        ranges: ranges
            .iter()
            .map(|range| RangeReport {
                first: range.first.to_string(),
                last: range.last.to_string(),
                begin: range.begin,
                end: range.end,
                segments: range.segments,
                stored_bytes: range.stored_bytes,
            })
            .collect(),
    }
}

fn backup(info: &BackupInfo, on_way: &BackupOnWay, timelines: &[TimelineReport]) -> BackupReport {
    let reaches: Vec<ReachReport> = timelines
        .iter()
        .filter_map(|timeline| {
            Some(ReachReport {
                timeline: timeline.timeline,
                until_lsn: *timeline.recoverable.reaches.get(&info.label)?,
            })
        })
        .collect();
    let wal_until = reaches
        .iter()
        .find(|reach| reach.timeline == on_way.end_timeline)
        .map(|reach| reach.until_lsn)
        .or(on_way.brings_wal.then_some(info.stop_lsn));
    BackupReport {
        label: info.label,
        postgres_version: info.postgres_version.clone(),
        timeline: info.timeline,
        start_lsn: info.start_lsn,
        stop_lsn: info.stop_lsn,
        start_time: info.start_time,
        stop_time: info.stop_time,
        from: info.from,
        raw_bytes: info.sizes.raw_bytes,
        stored_bytes: info.sizes.stored_bytes,
        files: info.sizes.files,
        tablespaces: info.tablespaces.len(),
        end_timeline: on_way.end_timeline,
        wal_until,
        reaches,
        brings_wal: on_way.brings_wal,
    }
}

/// What recovery from a backup depends on.
fn on_way(
    catalog: &BackupCatalog,
    info: &BackupInfo,
    ranges: &[WalRange],
    size: WalSegmentSize,
) -> Result<BackupOnWay, Failure> {
    let end_timeline = match info.from {
        BackupSource::Primary => info.timeline,
        BackupSource::Standby => end_timeline(catalog, info)?,
    };
    // one that went over to another timeline is never brought in with its log
    let archived = end_timeline != info.timeline || is_archived(info, ranges, size);
    Ok(BackupOnWay {
        label: info.label,
        timeline: info.timeline,
        end_timeline,
        start_lsn: info.start_lsn,
        stop_lsn: info.stop_lsn,
        stop_time: info.stop_time,
        brings_wal: !archived && brings_wal(catalog, info, size)?,
    })
}

/// The timeline on which a standby's backup ended: the newest of the ranges in
/// its manifest, where it has one.
fn end_timeline(catalog: &BackupCatalog, info: &BackupInfo) -> Result<TimelineId, Failure> {
    let manifest = match catalog.open(info.label) {
        Ok(Some(reader)) => reader.manifest().ok().flatten(),
        Ok(None) | Err(BackupReadError::Document { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let newest = manifest
        .and_then(|bytes| BackupManifest::parse(&bytes).ok())
        .and_then(|manifest| manifest.wal_ranges.iter().map(|range| range.timeline).max());
    Ok(newest.unwrap_or(info.timeline))
}

/// First and last segment that the backup cannot do without.
fn needed(info: &BackupInfo, size: WalSegmentSize) -> (SegmentNumber, SegmentNumber) {
    (
        SegmentNumber::containing(info.start_lsn, size),
        SegmentNumber::last_before(info.stop_lsn, size),
    )
}

/// Whether one range holds all that the backup needs.
fn is_archived(info: &BackupInfo, ranges: &[WalRange], size: WalSegmentSize) -> bool {
    let (first, last) = needed(info, size);
    let segment = |number| SegmentName::new(info.timeline, number, size);
    ranges.iter().any(|range| {
        range.first.timeline() == info.timeline
            && range.first <= segment(first)
            && segment(last) <= range.last
    })
}

/// Whether the backup was brought in together with what it needs.
fn brings_wal(
    catalog: &BackupCatalog,
    info: &BackupInfo,
    size: WalSegmentSize,
) -> Result<bool, Failure> {
    let reader = match catalog.open(info.label) {
        Ok(Some(reader)) => reader,
        Ok(None) => return Ok(false),
        // without its index nobody can tell: the restore says what is wrong
        Err(BackupReadError::Document { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let (mut number, last) = needed(info, size);
    while number <= last {
        let name = SegmentName::new(info.timeline, number, size);
        let brought = format!("pg_wal/{name}")
            .parse()
            .is_ok_and(|path| reader.index().find(&path).is_some());
        if !brought {
            return Ok(false);
        }
        number = number.next();
    }
    Ok(true)
}
