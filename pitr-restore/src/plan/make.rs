//! Making the plan: backup, record of the stop, proof; or why not.

use std::collections::BTreeSet;

use chrono::Utc;
use pitr_console::{Console, Failure};
use pitr_core::{
    ControlFile, DamageSeen, Lsn, ParameterChangeSeen, RecoveryTarget, RecoveryTargetKind,
    SegmentName, SegmentSummary, Timestamp, WalFileName,
};
use pitr_store::backup::{BackupReader, BackupSource};

use super::choice::{Candidates, Choice, Wish, candidates};
use super::elsewhere::{Elsewhere, look_elsewhere};
use super::inventory::{Inventory, brought_segments};
use super::log::{Effort, Log, ReadEnd, RepositoryLog};
use super::names::{each_summary, restore_points};
use super::nearest::{Reachable, backup_behind, commits_around};
use super::refusal::{Refusal, Refused};
use super::stop::{ReplayStart, StopPoint, commit_before, find, from_segment, segment_of};
use super::way::Way;
use super::{Passed, PlanNote, RecoveryPlan, margin_behind, prove};
use crate::request::RestoreRequest;
use crate::sources::Sources;

/// Segments between the backup and the target that a plan looks at for what
/// lies in them, by their summaries: 64 GiB of log in segments of 16 MiB.
const LOOKED_AT_MOST: u64 = 4096;

/// The same where none are stored, so that every segment has to be read.
const READ_AT_MOST: u64 = 48;

/// How many of the segments on the way are looked at for damage and changes of
/// settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookAt {
    /// As many as cost little.
    Few,
    /// Every one.
    All,
}

/// Bytes of a `pg_control`, and more than any has.
const MAX_CONTROL_FILE_BYTES: u64 = 64 << 10;

/// Restore points that a refusal names.
const NAMES_SHOWN: usize = 10;

/// Chooses a backup, finds the record at which recovery stops, and proves the
/// way there.
///
/// # Errors
/// Why the target cannot be reached, and what can be instead.
pub(crate) fn make(
    sources: &mut Sources,
    request: &RestoreRequest,
    look_at: LookAt,
    console: Console,
) -> Result<(BackupReader, RecoveryPlan), Failure> {
    let inventory = sources.inventory(console)?;
    let wish = Wish {
        target: &request.target,
        timeline: request.timeline,
        backup: request.backup,
        now: Utc::now(),
    };
    let known = candidates(&inventory.backups, &inventory.histories, &wish);
    let is_to_come = matches!(known, Err(Refusal::TimeToCome { .. }));
    let everything = RecoveryTarget::LATEST;
    let (candidates, target) = match &known {
        Ok(candidates) => (candidates.clone(), &request.target),
        Err(_) if is_to_come => {
            // for what can be reached instead
            let target = &everything;
            let wish = Wish { target, ..wish };
            let latest = candidates(&inventory.backups, &inventory.histories, &wish)?;
            (latest, target)
        }
        Err(_) => return Err(known.err().unwrap_or(Refusal::NoBackup).into()),
    };
    let mut planner = Planner {
        sources,
        console,
        inventory,
        candidates,
        target,
        effort: Effort::default(),
        look_at: if is_to_come { LookAt::Few } else { look_at },
    };
    let planned = planner.plan();
    match known {
        Ok(_) => planned,
        Err(refusal) => Err(Refused {
            refusal,
            before: planned
                .ok()
                .and_then(|(_, plan)| plan.point.last_kept)
                .map(Reachable::commit),
            after: None,
            elsewhere: Vec::new(),
        }
        .into()),
    }
}

struct Planner<'a> {
    sources: &'a Sources,
    console: Console,
    inventory: Inventory,
    candidates: Candidates,
    target: &'a RecoveryTarget,
    /// Of attempts that are over.
    effort: Effort,
    look_at: LookAt,
}

/// A backup on trial.
struct Attempt {
    choice: Choice,
    reader: BackupReader,
    brought: BTreeSet<SegmentName>,
    start: ReplayStart,
}

impl Planner<'_> {
    fn plan(&mut self) -> Result<(BackupReader, RecoveryPlan), Failure> {
        let (mut index, place) = match self.target.kind {
            RecoveryTargetKind::Xid(_) | RecoveryTargetKind::Name(_) => {
                let place = self.place_of_target()?;
                (self.newest_before(place)?, Some(place))
            }
            _ => (self.newest_by_backups()?, None),
        };
        loop {
            let attempt = self.attempt(index)?;
            match self.look(&attempt, place)? {
                Ok(plan) => return Ok((attempt.reader, plan)),
                // what the log shows: an older backup is needed
                Err(Refused {
                    refusal: Refusal::BeforeConsistency { .. },
                    ..
                }) if index > 0 => index -= 1,
                Err(refused) => return Err(refused.into()),
            }
        }
    }

    /// The newest backup that ends before the target by its own account; else
    /// one that the target lies within: where nothing ends meanwhile, recovery
    /// does not stop before the backup is consistent.
    fn newest_by_backups(&self) -> Result<usize, Failure> {
        let refusal = match self.candidates.preferred(self.target) {
            Ok(index) => return Ok(index),
            Err(refusal) => refusal,
        };
        let within =
            self.candidates
                .backups()
                .enumerate()
                .filter(|(_, backup)| match self.target.kind {
                    RecoveryTargetKind::Time(time) => {
                        Timestamp::from_datetime(backup.start_time) <= time
                    }
                    RecoveryTargetKind::Lsn(lsn) => backup.start_lsn <= lsn,
                    _ => false,
                });
        match within.last() {
            Some((index, _)) => Ok(index),
            None => Err(self.too_early(refusal).into()),
        }
    }

    /// The newest backup that is consistent before the record at `place`.
    fn newest_before(&self, place: Place) -> Result<usize, Failure> {
        let consistent = self
            .candidates
            .backups()
            .enumerate()
            .filter(|(_, backup)| backup.stop_lsn <= place.consistent_by)
            .last();
        match consistent {
            Some((index, _)) => Ok(index),
            None => {
                let refusal = self.candidates.before_all(self.target);
                Err(self.too_early(refusal).into())
            }
        }
    }

    fn too_early(&self, refusal: Refusal) -> Refused {
        let earliest = self
            .candidates
            .backups()
            .min_by_key(|backup| backup.stop_lsn);
        Refused {
            after: earliest.map(Reachable::backup),
            before: None,
            elsewhere: Vec::new(),
            refusal,
        }
    }

    fn log<'s>(&self, way: Way, source: &'s RepositoryLog<'s>) -> Log<'s> {
        Log::new(source, way, self.inventory.system_identifier())
    }

    /// Where the transaction ends or the restore point stands, on the longest
    /// way that any candidate opens.
    fn place_of_target(&mut self) -> Result<Place, Failure> {
        let Some(longest) = self.candidates.longest() else {
            return Err(Refusal::NoBackup.into());
        };
        self.inventory.look_at_ends(&longest.path)?;
        let brought = BTreeSet::new();
        let archived = self.inventory.log().clone();
        let source = RepositoryLog {
            archived: &archived,
            backup: None,
            brought: &brought,
        };
        let log = self.log(
            Way::new(&longest.path, self.inventory.wal(), &brought),
            &source,
        );
        let start = ReplayStart {
            redo: longest.backup.start_lsn,
            checkpoint: longest.backup.checkpoint_lsn,
            consistent_from: Lsn::INVALID,
        };
        let timeline = self.candidates.timeline;
        let lsn = match &self.target.kind {
            RecoveryTargetKind::Xid(xid) => {
                let point = find(&log, start, self.target)?;
                if point.stop.is_none()
                    && let ReadEnd::Missing(_) = point.end
                    && let Some(index) = segment_of(&log, *xid)?
                {
                    // it ends behind a gap: the look at the way there names it
                    let lsn = log.way().number(index).start(log.way().size());
                    self.effort = self.effort + log.effort();
                    return Ok(Place {
                        lsn,
                        consistent_by: lsn,
                    });
                }
                let Some(stop) = point.stop else {
                    let (before, after) = commits_around(&log, *xid)?;
                    return Err(Refused {
                        refusal: Refusal::UnknownTransaction {
                            xid: *xid,
                            timeline,
                            missing: self.first_missing(&longest)?,
                        },
                        before,
                        after,
                        elsewhere: self.elsewhere(&longest)?,
                    }
                    .into());
                };
                self.effort = self.effort + log.effort();
                return Ok(Place {
                    lsn: stop.record.lsn,
                    consistent_by: if stop.replayed {
                        stop.read_to
                    } else {
                        stop.record.lsn
                    },
                });
            }
            RecoveryTargetKind::Name(name) => {
                let found = restore_points(&log)?;
                self.effort.summaries += found.summaries;
                let mut points = found.points.clone();
                let wanted = |point: &&pitr_core::RestorePointSeen| {
                    point.name == name.as_str() && point.lsn >= start.redo
                };
                if !points.iter().any(|point| wanted(&point)) {
                    points.extend(found.across(&log)?);
                }
                let named: Vec<_> = points.iter().filter(wanted).cloned().collect();
                match named.as_slice() {
                    [one] => one.lsn,
                    [] => {
                        let known = points.len().saturating_sub(NAMES_SHOWN);
                        return Err(Refused {
                            refusal: Refusal::UnknownName {
                                name: name.to_string(),
                                timeline,
                                missing: self.first_missing(&longest)?,
                                known: points.split_off(known),
                            },
                            before: None,
                            after: None,
                            elsewhere: self.elsewhere(&longest)?,
                        }
                        .into());
                    }
                    _ => {
                        return Err(Refusal::AmbiguousName {
                            name: name.to_string(),
                            points: named,
                        }
                        .into());
                    }
                }
            }
            _ => Lsn::INVALID,
        };
        let point = from_segment(&log, start, self.target, log.way().index_of(lsn))?;
        self.effort = self.effort + log.effort();
        Ok(Place {
            lsn,
            consistent_by: point.stop.map_or(lsn, |stop| stop.read_to),
        })
    }

    /// Where the target is, if not on a way.
    fn elsewhere(&mut self, searched: &Choice) -> Result<Vec<Elsewhere>, Failure> {
        let history = self.inventory.history_of(searched.timeline);
        let from = searched.path.begin();
        look_elsewhere(&mut self.inventory, &history, from, &self.target.kind)
    }

    /// The first segment that is missing on a way.
    fn first_missing(&mut self, choice: &Choice) -> Result<Option<SegmentName>, Failure> {
        self.inventory
            .look_until(&choice.path, Lsn::new(u64::MAX))?;
        let wal = self.inventory.wal();
        let coverage = wal.follow(&choice.path, None, &BTreeSet::new(), choice.backup.stop_lsn);
        Ok(coverage.missing)
    }

    fn attempt(&self, index: usize) -> Result<Attempt, Failure> {
        let Some(choice) = self.candidates.choice(index) else {
            return Err(Refusal::NoBackup.into());
        };
        let label = choice.backup.label;
        let reader = self.sources.open_backup(label, self.console)?;
        let start = ReplayStart {
            redo: choice.backup.start_lsn,
            checkpoint: choice.backup.checkpoint_lsn,
            consistent_from: consistent_from(&reader, &choice)?,
        };
        Ok(Attempt {
            brought: brought_segments(&reader),
            choice,
            reader,
            start,
        })
    }

    /// Finds the stop of recovery from one backup, and proves the way there.
    fn look(
        &mut self,
        attempt: &Attempt,
        place: Option<Place>,
    ) -> Result<Result<RecoveryPlan, Refused>, Failure> {
        let Attempt {
            choice,
            reader,
            brought,
            start,
        } = attempt;
        self.inventory.look_at_ends(&choice.path)?;
        let archived = self.inventory.log().clone();
        let source = RepositoryLog {
            archived: &archived,
            backup: Some(reader),
            brought,
        };
        let log = self.log(
            Way::new(&choice.path, self.inventory.wal(), brought),
            &source,
        );
        let point = match place {
            Some(place) => {
                let index = log.way().index_of(place.lsn);
                from_segment(&log, *start, self.target, index)?
            }
            None => find(&log, *start, self.target)?,
        };
        let until = match &point.stop {
            Some(stop) => margin_behind(stop.read_to.max(choice.backup.stop_lsn)),
            None => Lsn::new(u64::MAX),
        };
        self.inventory.look_until(&choice.path, until)?;
        let wal = self.inventory.wal();
        let mut refused: Refused =
            match prove(choice.clone(), self.target, point.clone(), wal, brought) {
                Ok(mut plan) => match self.passed(&log, &point, *start)? {
                    Ok(passed) => {
                        if plan.notes.iter().all(|note| !note.is_damage()) {
                            plan.notes.extend(passed.damage.clone());
                        }
                        plan.passed = passed;
                        let end = plan.coverage.end;
                        plan.spooled_segments = self.inventory.spooled_alone(&choice.path, end);
                        plan.effort = self.effort + log.effort();
                        plan.effort.folders = self.inventory.folders_listed();
                        return Ok(Ok(plan));
                    }
                    Err(damaged) => damaged.into(),
                },
                Err(refusal) => {
                    // to tell where the log goes on
                    self.inventory
                        .look_until(&choice.path, Lsn::new(u64::MAX))?;
                    let wal = self.inventory.wal();
                    prove(choice.clone(), self.target, point.clone(), wal, brought)
                        .err()
                        .unwrap_or(refusal)
                        .into()
                }
            };
        self.effort = self.effort + log.effort();
        self.look_for_nearest(&mut refused, &log, *start, &point)?;
        Ok(Err(refused))
    }

    /// What can be reached instead of a target that cannot.
    fn look_for_nearest(
        &self,
        refused: &mut Refused,
        log: &Log<'_>,
        start: ReplayStart,
        point: &StopPoint,
    ) -> Result<(), Failure> {
        let behind = |lsn: Lsn| backup_behind(self.candidates.backups(), lsn);
        let (end, after) = match &refused.refusal {
            Refusal::Hole { end, .. } => (*end, behind(*end)),
            Refusal::TimelineNotBegun { missing, .. } => {
                let number = missing.number(log.way().size());
                (
                    number.map_or(Lsn::INVALID, |n| n.start(log.way().size())),
                    None,
                )
            }
            Refusal::Damaged { segment, lsn, .. } => {
                let begin = segment.number(log.way().size());
                let begin = begin.map_or(Lsn::INVALID, |n| n.start(log.way().size()));
                let lsn = lsn.unwrap_or(begin);
                (lsn, behind(lsn))
            }
            Refusal::AfterLastCommit { end, .. } | Refusal::BeyondArchive { end, .. } => {
                refused.before = point.last_kept.map(Reachable::commit);
                (*end, None)
            }
            Refusal::BeforeConsistency { .. } => {
                *refused = self.too_early(self.candidates.before_all(self.target));
                return Ok(());
            }
            _ => return Ok(()),
        };
        refused.after = after;
        if refused.before.is_none() && end > start.consistent_from {
            let index = log.way().index_of(end).saturating_add(1);
            refused.before = commit_before(log, start, index, end)?
                .filter(|commit| commit.lsn >= start.consistent_from)
                .map(Reachable::commit);
        }
        Ok(())
    }

    /// What the summaries between the backup and the stop say: of every one, or
    /// of those that are known where there are too many.
    fn passed(
        &mut self,
        log: &Log<'_>,
        point: &StopPoint,
        start: ReplayStart,
    ) -> Result<Result<Passed, Refusal>, Failure> {
        let stop = point.stop.as_ref().map(|stop| stop.read_to);
        let last = match stop {
            Some(lsn) => log
                .way()
                .index_of(lsn)
                .min(log.way().len().saturating_sub(1)),
            None => log.way().len().saturating_sub(1),
        };
        let mut passed = Passed::default();
        let before_stop = |lsn: Lsn| lsn >= start.redo && stop.is_none_or(|stop| lsn < stop);
        let look = |summary: &SegmentSummary| Look {
            // the log may end anywhere in what is not a whole segment
            damage: matches!(summary.segment, WalFileName::Segment(_))
                .then(|| {
                    summary
                        .damage
                        .iter()
                        .find(|damage| before_stop(damage.lsn))
                        .cloned()
                })
                .flatten(),
            changes: summary
                .parameter_changes
                .iter()
                .filter(|change| before_stop(change.lsn))
                .cloned()
                .collect(),
        };
        let looks: Vec<(u64, Look)> = if self.look_at == LookAt::All || last < LOOKED_AT_MOST {
            let source = log.source();
            // where none is stored a segment has to be read: of few, or before a restore
            let may_read = self.look_at == LookAt::All || last < READ_AT_MOST;
            let summary = |name: &WalFileName| match may_read {
                true => source.summary(name),
                false => source.quick_summary(name),
            };
            let looks = each_summary(&summary, log.way(), last + 1, &|summary| look(&summary))?;
            self.effort.passed += last + 1;
            looks
        } else {
            let seen = log.seen().into_iter();
            let passed = seen.filter(|(index, _)| *index <= last);
            passed
                .map(|(index, summary)| (index, look(&summary)))
                .collect()
        };
        for (index, look) in looks {
            passed.looked_at += 1;
            if let Some(damage) = look.damage {
                let (segment, lsn) = (log.way().segment(index), Some(damage.lsn));
                let what = damage.what;
                if stop.is_some() {
                    return Ok(Err(Refusal::Damaged { segment, lsn, what }));
                }
                // everything up to there can still be had
                let note = PlanNote::EndsDamaged { segment, lsn, what };
                passed.damage.get_or_insert(note);
            }
            passed.parameter_changes.extend(look.changes);
        }
        Ok(Ok(passed))
    }
}

/// What one summary says of the way.
struct Look {
    damage: Option<DamageSeen>,
    changes: Vec<ParameterChangeSeen>,
}

/// Where the record of a target stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    lsn: Lsn,
    /// A backup must be consistent by then.
    consistent_by: Lsn,
}

/// From where on a cluster restored from the backup is consistent: a standby's
/// backup as soon as the minimum recovery point of its own `pg_control`.
///
/// Source: `CheckRecoveryConsistency`, src/backend/access/transam/xlogrecovery.c.
fn consistent_from(reader: &BackupReader, choice: &Choice) -> Result<Lsn, Failure> {
    let stop_lsn = choice.backup.stop_lsn;
    if reader.info().from == BackupSource::Primary {
        return Ok(stop_lsn);
    }
    let Ok(path) = "global/pg_control".parse() else {
        return Ok(stop_lsn);
    };
    let bytes = reader.read_member(&path, MAX_CONTROL_FILE_BYTES)?;
    // one that cannot be read is told where it is laid down
    Ok(ControlFile::parse(&bytes).map_or(stop_lsn, |control| {
        control
            .min_recovery_point
            .max(choice.backup.start_lsn)
            .min(stop_lsn)
    }))
}
