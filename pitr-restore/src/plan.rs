//! The way from a backup to a target, proven before a byte is copied.

pub(crate) mod choice;
pub(crate) mod elsewhere;
pub(crate) mod inventory;
pub(crate) mod log;
pub(crate) mod make;
pub(crate) mod names;
pub(crate) mod nearest;
pub(crate) mod refusal;
pub(crate) mod report;
pub(crate) mod search;
pub(crate) mod stop;
pub(crate) mod wal;
pub(crate) mod way;

use std::collections::BTreeSet;
use std::fmt;

use pitr_core::{
    Lsn, ParameterChangeSeen, PassedRecord, PassedRecordKind, RecoveryStop, RecoveryTarget,
    RecoveryTargetKind, SegmentName, TimelineId,
};

use pitr_store::backup::Settings;

use choice::Choice;
use log::{Effort, ReadEnd};
use refusal::Refusal;
use stop::StopPoint;
use wal::{ArchivedWal, Coverage};

/// A restore that can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecoveryPlan {
    pub(crate) choice: Choice,
    pub(crate) target: RecoveryTarget,
    /// The segments up to the target, all of them there.
    pub(crate) coverage: Coverage,
    /// The record at which recovery stops.
    pub(crate) point: StopPoint,
    /// Whether the log has a gap close behind the target, or may have: a server
    /// that reads ahead of what it replays would stop at it before the target.
    pub(crate) gap_behind: bool,
    /// Segments on the way that only a receiver's spool on this machine holds.
    pub(crate) spooled_segments: u64,
    /// What the summaries between the backup and the target say.
    pub(crate) passed: Passed,
    /// What was looked at for it.
    pub(crate) effort: Effort,
    /// What the DBA should know besides.
    pub(crate) notes: Vec<PlanNote>,
}

/// What recovery passes on its way, as far as summaries were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Segments whose summary was looked at.
    pub(crate) looked_at: u64,
    /// Where a server would take the log for ended, on a way without a target.
    pub(crate) damage: Option<PlanNote>,
    /// Changes of settings that recovery must not fall below.
    pub(crate) parameter_changes: Vec<ParameterChangeSeen>,
}

impl RecoveryPlan {
    /// The settings that recovery must not fall below: those of the backup, and
    /// what the log raises them to on the way.
    pub(crate) fn required_settings(&self, recorded: &Settings) -> Settings {
        let mut required = recorded.clone();
        for change in &self.passed.parameter_changes {
            let raise = |known: &mut Option<u32>, value: u32| {
                *known = Some(known.map_or(value, |known| known.max(value)));
            };
            let settings = &change.settings;
            raise(&mut required.max_connections, settings.max_connections);
            raise(
                &mut required.max_worker_processes,
                settings.max_worker_processes,
            );
            raise(&mut required.max_wal_senders, settings.max_wal_senders);
            raise(
                &mut required.max_prepared_transactions,
                settings.max_prepared_transactions,
            );
            raise(
                &mut required.max_locks_per_transaction,
                settings.max_locks_per_transaction,
            );
        }
        required
    }
}

/// Something that the DBA should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PlanNote {
    /// The timeline branched off, and nothing was archived on it since.
    TimelineEmpty { timeline: TimelineId },
    /// The log ends with a `.partial`.
    Partial { segment: SegmentName },
    /// The log is damaged, and everything behind that is out of reach.
    EndsDamaged {
        segment: SegmentName,
        lsn: Option<Lsn>,
        what: String,
    },
}

/// Proves that `wal` leads from the chosen backup to the target, which lies
/// where `point` says.
///
/// `brought` are the segments that lie in the backup itself.
///
/// # Errors
/// The first segment that is missing on the way, or why the target is not
/// reached, and what can be done.
pub(crate) fn prove(
    choice: Choice,
    target: &RecoveryTarget,
    point: StopPoint,
    wal: &ArchivedWal,
    brought: &BTreeSet<SegmentName>,
) -> Result<RecoveryPlan, Refusal> {
    let stop_lsn = choice.backup.stop_lsn;
    let until = point.stop.as_ref().map(|stop| stop.read_to.max(stop_lsn));
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
    let mut notes = Vec::new();
    if let Some(missing) = coverage.missing {
        notes.extend(gap(&choice, target, &coverage, missing)?);
        if point.stop.is_some() {
            return Err(Refusal::Hole {
                missing,
                resumes: missing,
                end: coverage.end,
            });
        }
    }
    if let Some(stop) = &point.stop {
        if !stop.consistent {
            return Err(Refusal::BeforeConsistency {
                target: target.clone(),
                earliest: Box::new(choice.backup),
                named: false,
            });
        }
    } else if target.kind != RecoveryTargetKind::Latest {
        return Err(unreached(&choice, target, &point));
    } else if let ReadEnd::Damaged { segment, lsn, what } = &point.end {
        notes.push(PlanNote::EndsDamaged {
            segment: *segment,
            lsn: *lsn,
            what: what.clone(),
        });
    }
    let gap_behind = match until {
        None => coverage.missing.is_some(),
        // a server reads ahead by less than this
        Some(until) => wal
            .follow(
                &choice.path,
                Some(wal.end_of(&choice.path, stop_lsn).min(margin_behind(until))),
                brought,
                stop_lsn,
            )
            .missing
            .is_some(),
    };
    notes.extend(
        coverage
            .partial
            .map(|segment| PlanNote::Partial { segment }),
    );
    Ok(RecoveryPlan {
        choice,
        target: target.clone(),
        coverage,
        point,
        gap_behind,
        spooled_segments: 0,
        passed: Passed::default(),
        effort: Effort::default(),
        notes,
    })
}

/// Proves the way to just before the record at `lsn`, which is known to be
/// there.
///
/// # Errors
/// As [`prove`].
pub(crate) fn prove_before(
    choice: Choice,
    lsn: Lsn,
    wal: &ArchivedWal,
    brought: &BTreeSet<SegmentName>,
) -> Result<RecoveryPlan, Refusal> {
    let target = RecoveryTarget {
        kind: RecoveryTargetKind::Lsn(lsn),
        inclusive: false,
    };
    let stop = RecoveryStop {
        record: PassedRecord {
            lsn,
            kind: PassedRecordKind::Other {
                resource_manager: String::new(),
            },
        },
        replayed: false,
        read_to: lsn.checked_add(1).unwrap_or(lsn),
        end_of_replay: lsn,
        consistent: choice.backup.stop_lsn <= lsn,
    };
    let point = StopPoint {
        stop: Some(stop),
        last_kept: None,
        first_lost: None,
        end_of_log: lsn,
        end: ReadEnd::Enough,
    };
    prove(choice, &target, point, wal, brought)
}

/// How far behind the target gaps matter: more than any server reads ahead
/// (`wal_decode_buffer_size`, 1 GiB at most).
pub(crate) fn margin_behind(until: Lsn) -> Lsn {
    until.checked_add(2 << 30).unwrap_or(until)
}

/// What a gap before the target means.
fn gap(
    choice: &Choice,
    target: &RecoveryTarget,
    coverage: &Coverage,
    missing: SegmentName,
) -> Result<Option<PlanNote>, Refusal> {
    let end = coverage.end;
    let steps = choice.path.steps();
    let last_step = steps.last();
    let parent = steps
        .len()
        .checked_sub(2)
        .and_then(|index| steps.get(index))
        .map_or(choice.backup.timeline, |step| step.timeline);
    if let Some(resumes) = coverage.resumes {
        return Err(Refusal::Hole {
            missing,
            resumes,
            end,
        });
    }
    if last_step.is_some_and(|step| end < step.begin) {
        return Err(Refusal::TimelineNotBegun {
            timeline: choice.timeline,
            missing,
            parent,
        });
    }
    // the way leads exactly to the branch
    let at_branch = last_step.is_some_and(|step| end == step.begin) && steps.len() > 1;
    Ok(
        (at_branch && target.kind == RecoveryTargetKind::Latest).then_some(
            PlanNote::TimelineEmpty {
                timeline: choice.timeline,
            },
        ),
    )
}

/// Why recovery does not stop at the target, where no segment is missing.
fn unreached(choice: &Choice, target: &RecoveryTarget, point: &StopPoint) -> Refusal {
    if let ReadEnd::Damaged { segment, lsn, what } = &point.end {
        return Refusal::Damaged {
            segment: *segment,
            lsn: *lsn,
            what: what.clone(),
        };
    }
    let (end, timeline) = (point.end_of_log, choice.timeline);
    match &target.kind {
        RecoveryTargetKind::Time(target) => Refusal::AfterLastCommit {
            target: *target,
            end,
        },
        RecoveryTargetKind::Lsn(target) => Refusal::BeyondArchive {
            target: *target,
            end,
        },
        RecoveryTargetKind::Xid(xid) => Refusal::UnknownTransaction {
            xid: *xid,
            timeline,
            missing: None,
        },
        RecoveryTargetKind::Name(name) => Refusal::UnknownName {
            name: name.to_string(),
            timeline,
            missing: None,
            known: Vec::new(),
        },
        // the server looks whether it is consistent when it has the next record
        RecoveryTargetKind::Immediate | RecoveryTargetKind::Latest => Refusal::BeyondArchive {
            target: choice.backup.stop_lsn,
            end,
        },
    }
}

impl PlanNote {
    fn is_damage(&self) -> bool {
        matches!(self, Self::EndsDamaged { .. })
    }

    /// What can be done about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::EndsDamaged { .. } => {
                Some("Put an intact copy of the segment in its place to get beyond it.".to_owned())
            }
            Self::TimelineEmpty { .. } | Self::Partial { .. } => None,
        }
    }
}

impl fmt::Display for PlanNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimelineEmpty { timeline } => write!(
                f,
                "nothing was archived on timeline {timeline} since it branched off"
            ),
            Self::Partial { segment } => write!(
                f,
                "the log ends with {segment}.partial, the unfinished last segment of its timeline"
            ),
            Self::EndsDamaged { segment, lsn, what } => {
                write!(f, "segment {segment} is damaged")?;
                if let Some(lsn) = lsn {
                    write!(f, " at {lsn}")?;
                }
                write!(f, ", and recovery ends there: {what}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
