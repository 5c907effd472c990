//! Why a restore cannot lead where it should.

use chrono::{DateTime, Utc};
use pitr_console::{Explain, PointInTime};
use pitr_core::{
    Lsn, PathError, RecoveryTarget, RestorePointSeen, SegmentName, TimelineId, Timestamp,
    TransactionId,
};
use pitr_store::backup::Label;

use super::choice::BackupFacts;
use super::elsewhere::Elsewhere;
use super::nearest::Reachable;

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
        /// Those that backups lead to.
        leads_to: Vec<TimelineId>,
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
    /// No record in the archive begins at the target or after it.
    #[error("LSN {target} lies beyond the archived log, whose last record ends at {end}")]
    BeyondArchive {
        /// The target.
        target: Lsn,
        /// Where the log ends.
        end: Lsn,
    },
    /// Nothing was committed or rolled back after the target.
    #[error(
        "no transaction ends after {} in the archived log, which ends at {end}: PostgreSQL would not stop there",
        local_time(*target)
    )]
    AfterLastCommit {
        /// The target.
        target: Timestamp,
        /// Where the log ends.
        end: Lsn,
    },
    /// No transaction of this number ends in the log.
    #[error("transaction {xid} does not end in the archived log of timeline {timeline}")]
    UnknownTransaction {
        /// The transaction.
        xid: TransactionId,
        /// The timeline that is followed.
        timeline: TimelineId,
        /// A segment that is missing, in which it may be.
        missing: Option<SegmentName>,
    },
    /// No restore point has this name.
    #[error("there is no restore point \"{name}\" in the archived log of timeline {timeline}")]
    UnknownName {
        /// The name.
        name: String,
        /// The timeline that is followed.
        timeline: TimelineId,
        /// A segment that is missing, in which it may be.
        missing: Option<SegmentName>,
        /// The last ones that there are, in the order of the log.
        known: Vec<RestorePointSeen>,
    },
    /// Several restore points have this name.
    #[error("there are {} restore points \"{name}\" in the archived log", points.len())]
    AmbiguousName {
        /// The name.
        name: String,
        /// All of them, in the order of the log.
        points: Vec<RestorePointSeen>,
    },
    /// What a server takes for the end of the log lies before the target.
    #[error(
        "segment {segment} is damaged{}, and recovery to the target needs it: {what}",
        lsn.map(|lsn| format!(" at {lsn}")).unwrap_or_default()
    )]
    Damaged {
        /// The segment.
        segment: SegmentName,
        /// Where, if its records show it.
        lsn: Option<Lsn>,
        /// What is wrong.
        what: String,
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
            Self::NoBackupOnTimeline { leads_to, .. } => {
                let known: Vec<String> = leads_to.iter().map(ToString::to_string).collect();
                format!("The backups lead to timeline {}.", list(&known))
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
                "Recovery can reach any point before {end}. To get beyond the gap, a backup taken after it is needed."
            ),
            Self::BeyondArchive { .. } => {
                "If the server still runs, SELECT pg_switch_wal() makes it archive what it has. \
                 Leave the target out to recover to the end of the archived log."
                    .to_owned()
            }
            Self::AfterLastCommit { .. } => {
                "Leave the target out to recover to the end of the archived log. If the server still \
                 runs, any commit followed by SELECT pg_switch_wal() makes the time reachable."
                    .to_owned()
            }
            Self::UnknownTransaction {
                missing: Some(missing),
                ..
            }
            | Self::UnknownName {
                missing: Some(missing),
                ..
            } => format!("Segment {missing} is not in the repository: it may be there, out of reach."),
            Self::UnknownTransaction { .. } => {
                "Only ends of transactions count: neither one that only read, nor a committed part of \
                 another (SAVEPOINT), nor one that still ran has one of its own."
                    .to_owned()
            }
            Self::UnknownName { known, .. } if known.is_empty() => {
                "There is no restore point at all.".to_owned()
            }
            Self::UnknownName { known, .. } => {
                let known: Vec<String> = known
                    .iter()
                    .map(|point| format!("\"{}\" at {} ({})", point.name, point.lsn, local_time(point.time)))
                    .collect();
                format!("The last ones are {}.", list(&known))
            }
            Self::AmbiguousName { points, .. } => {
                let points: Vec<String> = points
                    .iter()
                    .map(|point| format!("--target-lsn {} ({})", point.lsn, local_time(point.time)))
                    .collect();
                format!(
                    "PostgreSQL would stop at the first one behind the backup. Say which one is meant: {}.",
                    points.join(", or ")
                )
            }
            Self::Damaged { .. } => {
                "A server takes this for the end of the log. Put an intact copy of the segment in its \
                 place, or choose a target before it, or a backup taken after it."
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

/// A refusal, and what can be reached instead.
#[derive(Debug, thiserror::Error)]
#[error("{refusal}")]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    /// The last thing before the target that can be reached.
    pub(crate) before: Option<Reachable>,
    /// The first thing after it.
    pub(crate) after: Option<Reachable>,
    /// Where else in the archive it is.
    pub(crate) elsewhere: Vec<Elsewhere>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            before: None,
            after: None,
            elsewhere: Vec::new(),
        }
    }
}

impl Explain for Refused {
    fn hint(&self) -> Option<String> {
        let mut lines: Vec<String> = self.elsewhere.iter().map(ToString::to_string).collect();
        lines.extend(self.refusal.hint());
        if let Some(before) = &self.before {
            lines.push(format!("The nearest before it: {before}."));
        }
        if let Some(after) = &self.after {
            lines.push(format!("The nearest after it: {after}."));
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}
