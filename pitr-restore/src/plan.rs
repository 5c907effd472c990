//! The way from a backup to a target, proven before a byte is copied.

pub(crate) mod choice;
pub(crate) mod inventory;
pub(crate) mod refusal;
pub(crate) mod report;
pub(crate) mod wal;

use std::collections::BTreeSet;
use std::fmt;

use pitr_core::{Lsn, RecoveryTarget, RecoveryTargetKind, SegmentName, TimelineId, Timestamp};

use choice::Choice;
use refusal::{Refusal, local_time};
use wal::{ArchivedWal, Coverage};

/// A restore that can be done as far as the repository can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecoveryPlan {
    pub(crate) choice: Choice,
    pub(crate) target: RecoveryTarget,
    pub(crate) coverage: Coverage,
    /// Whether the log has a gap behind the target, or may have: a server that
    /// reads ahead of what it replays would stop at it before the target.
    pub(crate) gap_behind: bool,
    /// What only the recovery itself will show.
    pub(crate) notes: Vec<PlanNote>,
}

/// Something that the plan cannot prove, and that the DBA should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PlanNote {
    /// The time is later than anything known of the log.
    TimeUnknown {
        target: Timestamp,
        newest_known: Timestamp,
    },
    /// Nothing says where this transaction or restore point is.
    PlaceUnknown { target: RecoveryTarget },
    /// The log has a gap, which the target may lie behind.
    Hole {
        missing: SegmentName,
        resumes: SegmentName,
        end: Lsn,
    },
    /// The timeline's log does not begin, so that recovery ends before it.
    TimelineNotBegun {
        timeline: TimelineId,
        missing: SegmentName,
    },
    /// The timeline branched off, and nothing was archived on it since.
    TimelineEmpty { timeline: TimelineId },
    /// The log ends with a `.partial`.
    Partial { segment: SegmentName },
}

/// Proves that `wal` leads from the chosen backup to the target.
///
/// `brought` are the segments that lie in the backup itself.
///
/// # Errors
/// The first segment that is missing on the way, and what can be done.
pub(crate) fn prove(
    choice: Choice,
    target: &RecoveryTarget,
    wal: &ArchivedWal,
    brought: &BTreeSet<SegmentName>,
) -> Result<RecoveryPlan, Refusal> {
    let stop_lsn = choice.backup.stop_lsn;
    let until = match target.kind {
        RecoveryTargetKind::Immediate => Some(stop_lsn),
        // the record that begins at the target has to be read
        RecoveryTargetKind::Lsn(lsn) => Some(lsn.max(stop_lsn).checked_add(1).unwrap_or(lsn)),
        _ => None,
    };
    let coverage = wal.follow(&choice.path, until, brought, stop_lsn);
    if coverage.end < stop_lsn
        && let Some(missing) = coverage.missing
    {
        return Err(Refusal::BackupIncomplete {
            label: choice.backup.label,
            missing,
            stop_lsn,
        });
    }
    let gap_behind = match until {
        None => coverage.missing.is_some(),
        Some(_) => wal
            .follow(&choice.path, None, brought, stop_lsn)
            .missing
            .is_some(),
    };
    let mut notes = doubts_of_target(&choice, target);
    if let Some(missing) = coverage.missing {
        match gap(&choice, target, &coverage, missing) {
            Ok(note) => notes.extend(note),
            Err(refusal) => return Err(refusal),
        }
    }
    notes.extend(
        coverage
            .partial
            .map(|segment| PlanNote::Partial { segment }),
    );
    Ok(RecoveryPlan {
        choice,
        target: target.clone(),
        coverage,
        gap_behind,
        notes,
    })
}

/// What a gap in the log means for the target: a target whose place is not
/// known may lie before it.
fn gap(
    choice: &Choice,
    target: &RecoveryTarget,
    coverage: &Coverage,
    missing: SegmentName,
) -> Result<Option<PlanNote>, Refusal> {
    let end = coverage.end;
    let steps = choice.path.steps();
    let last_step = steps.last();
    let before_timeline = last_step.is_some_and(|step| end < step.begin);
    let parent = steps
        .len()
        .checked_sub(2)
        .and_then(|index| steps.get(index))
        .map_or(choice.backup.timeline, |step| step.timeline);
    match (&target.kind, coverage.resumes) {
        (RecoveryTargetKind::Lsn(_) | RecoveryTargetKind::Latest, Some(resumes)) => {
            Err(Refusal::Hole {
                missing,
                resumes,
                end,
            })
        }
        (RecoveryTargetKind::Lsn(target), None) if !before_timeline => {
            Err(Refusal::BeyondArchive {
                target: *target,
                end,
                missing,
            })
        }
        (RecoveryTargetKind::Lsn(_) | RecoveryTargetKind::Latest, None) if before_timeline => {
            Err(Refusal::TimelineNotBegun {
                timeline: choice.timeline,
                missing,
                parent,
            })
        }
        (_, Some(resumes)) => Ok(Some(PlanNote::Hole {
            missing,
            resumes,
            end,
        })),
        (_, None) if before_timeline => Ok(Some(PlanNote::TimelineNotBegun {
            timeline: choice.timeline,
            missing,
        })),
        // the way leads exactly to the branch
        (_, None) if last_step.is_some_and(|step| end == step.begin) && steps.len() > 1 => {
            Ok(Some(PlanNote::TimelineEmpty {
                timeline: choice.timeline,
            }))
        }
        (_, None) => Ok(None),
    }
}

fn doubts_of_target(choice: &Choice, target: &RecoveryTarget) -> Vec<PlanNote> {
    match &target.kind {
        RecoveryTargetKind::Time(time) => {
            let newest_known = Timestamp::from_datetime(choice.newest_known_time);
            (*time > newest_known)
                .then_some(PlanNote::TimeUnknown {
                    target: *time,
                    newest_known,
                })
                .into_iter()
                .collect()
        }
        RecoveryTargetKind::Xid(_) | RecoveryTargetKind::Name(_) => {
            vec![PlanNote::PlaceUnknown {
                target: target.clone(),
            }]
        }
        RecoveryTargetKind::Latest | RecoveryTargetKind::Immediate | RecoveryTargetKind::Lsn(_) => {
            Vec::new()
        }
    }
}

impl PlanNote {
    /// What can be done about it.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TimeUnknown { .. } => {
                "If nothing was committed after that time, PostgreSQL stops with \"recovery ended \
                 before configured recovery target was reached\": then leave the target out."
                    .to_owned()
            }
            Self::PlaceUnknown { .. } => {
                "If it lies before the end of this backup, choose an older one with --backup."
                    .to_owned()
            }
            Self::Hole { end, .. } => {
                format!("Recovery stops with an error if the target does not lie before {end}.")
            }
            Self::TimelineNotBegun { .. } => {
                "Recovery stops with an error if the target does not lie before it.".to_owned()
            }
            Self::TimelineEmpty { .. } | Self::Partial { .. } => return None,
        })
    }
}

impl fmt::Display for PlanNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimeUnknown {
                target,
                newest_known,
            } => write!(
                f,
                "whether the log reaches {} is not known: the newest backup on this timeline ended at {}",
                local_time(*target),
                local_time(*newest_known)
            ),
            Self::PlaceUnknown { target } => {
                write!(f, "where {target} lies is not known before the log is read")
            }
            Self::Hole {
                missing, resumes, ..
            } => write!(
                f,
                "segment {missing} is not in the repository: the log goes on with {resumes}"
            ),
            Self::TimelineNotBegun { timeline, missing } => write!(
                f,
                "segment {missing}, with which timeline {timeline} begins, is not in the repository"
            ),
            Self::TimelineEmpty { timeline } => write!(
                f,
                "nothing was archived on timeline {timeline} since it branched off"
            ),
            Self::Partial { segment } => write!(
                f,
                "the log ends with {segment}.partial, the unfinished last segment of its timeline"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
