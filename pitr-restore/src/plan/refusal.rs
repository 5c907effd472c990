//! Why a restore cannot lead where it should.

use chrono::{DateTime, Utc};
use pitr_console::{Explain, PointInTime};
use pitr_core::{Lsn, PathError, RecoveryTarget, SegmentName, TimelineId, Timestamp};
use pitr_store::backup::Label;

use super::choice::BackupFacts;

/// What the plan found against it, before anything was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// No complete backup in the repository.
    #[error("the repository has no base backup of this cluster")]
    NoBackup,
    /// `--backup` names none.
    #[error("the repository has no base backup {label}")]
    UnknownBackup {
        /// The name.
        label: Label,
        /// Those that there are, oldest first.
        known: Vec<Label>,
    },
    /// `--target-timeline` names none.
    #[error("the repository knows no timeline {timeline}")]
    UnknownTimeline {
        /// The number.
        timeline: TimelineId,
        /// Those that there are.
        known: Vec<TimelineId>,
    },
    /// No backup leads to the timeline.
    #[error("no base backup lies on the history of timeline {timeline}")]
    NoBackupOnTimeline {
        /// The timeline.
        timeline: TimelineId,
    },
    /// The named backup does not lead to the timeline.
    #[error("base backup {label} does not lead to the target's timeline: {source}")]
    BackupNotOnTimeline {
        /// The backup.
        label: Label,
        /// Why not.
        source: PathError,
    },
    /// The target lies before the earliest moment that can be reached.
    #[error(
        "{target} lies before base backup {} is consistent, at {} on {}",
        earliest.label, earliest.stop_lsn, PointInTime::local(earliest.stop_time)
    )]
    BeforeConsistency {
        /// The target.
        target: RecoveryTarget,
        /// The earliest backup that could be used.
        earliest: Box<BackupFacts>,
        /// Whether that backup was asked for by name.
        named: bool,
    },
    /// The target time has not come yet.
    #[error("the target {} lies in the future", local_time(*target))]
    TimeToCome {
        /// The target.
        target: Timestamp,
        /// This machine's time.
        now: DateTime<Utc>,
    },
    /// A segment that the backup itself needs is not there.
    #[error(
        "segment {missing} is not in the repository, and base backup {label} cannot become consistent without it"
    )]
    BackupIncomplete {
        /// The backup.
        label: Label,
        /// The first segment that is missing.
        missing: SegmentName,
        /// Where the backup would be consistent.
        stop_lsn: Lsn,
    },
    /// A segment before the target is not there, but later ones are.
    #[error(
        "segment {missing} is not in the repository, and recovery needs it: the log goes on with {resumes}"
    )]
    Hole {
        /// The first segment that is missing.
        missing: SegmentName,
        /// The next one that is there.
        resumes: SegmentName,
        /// How far recovery could come.
        end: Lsn,
    },
    /// The archived log ends before the target.
    #[error(
        "LSN {target} lies beyond the archived log, which ends at {end} without segment {missing}"
    )]
    BeyondArchive {
        /// The target.
        target: Lsn,
        /// Where the log ends.
        end: Lsn,
        /// The first segment that is missing.
        missing: SegmentName,
    },
    /// The target's timeline has a history but its log does not begin.
    #[error("segment {missing}, with which timeline {timeline} begins, is not in the repository")]
    TimelineNotBegun {
        /// The timeline.
        timeline: TimelineId,
        /// Its first segment.
        missing: SegmentName,
        /// The timeline before it on the path.
        parent: TimelineId,
    },
}

impl Explain for Refusal {
    fn hint(&self) -> Option<String> {
        let list = |items: &[String]| items.join(", ");
        Some(match self {
            Self::NoBackup => {
                "Take one with \"pitr-archive backup\", or bring one in with \"pitr-archive import\"."
                    .to_owned()
            }
            Self::UnknownBackup { known, .. } => {
                let known: Vec<String> = known.iter().map(ToString::to_string).collect();
                format!("There are: {}.", list(&known))
            }
            Self::UnknownTimeline { known, .. } => {
                let known: Vec<String> = known.iter().map(ToString::to_string).collect();
                format!("There are: {}.", list(&known))
            }
            Self::NoBackupOnTimeline { .. } => {
                "\"pitr-archive list\" shows the backups with their timelines.".to_owned()
            }
            Self::BackupNotOnTimeline { source, .. } => return source.hint(),
            Self::BeforeConsistency { earliest, named, .. } => format!(
                "{} can be reached from {} or LSN {} on.{}",
                if *named { "With this backup, a point" } else { "A point" },
                PointInTime::local(earliest.stop_time),
                earliest.stop_lsn,
                if *named { " Leave --backup out to let an older backup be chosen." } else { "" },
            ),
            Self::TimeToCome { now, .. } => format!(
                "It is {} here. Leave the target out to recover to the end of the archived log.",
                PointInTime::local(*now)
            ),
            Self::BackupIncomplete { .. } => {
                "If the server still has it in pg_wal, it will archive it (pg_stat_archiver shows why \
                 it has not). Otherwise choose another backup with --backup."
                    .to_owned()
            }
            Self::Hole { end, .. } => format!(
                "Recovery can reach any point before {end}: name it, as with --target-lsn. \
                 To get beyond the gap, a backup taken after it is needed."
            ),
            Self::BeyondArchive { .. } => {
                "If the server still runs, SELECT pg_switch_wal() makes it archive what it has. \
                 Leave the target out to recover to the end of the archived log."
                    .to_owned()
            }
            Self::TimelineNotBegun { parent, .. } => format!(
                "If the server on it still runs, SELECT pg_switch_wal() makes it archive what it has. \
                 --target-timeline {parent} recovers without it."
            ),
        })
    }
}

/// A time as people here read it.
pub(crate) fn local_time(time: Timestamp) -> String {
    time.to_datetime().map_or_else(
        || time.to_string(),
        |time| PointInTime::local(time).to_string(),
    )
}
