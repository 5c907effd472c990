//! The plan, for people and for programs.

use std::fmt::Write as _;

use pitr_console::{ByteCount, Elapsed, PointInTime};
use pitr_core::{EndedTransaction, TargetAction};
use pitr_store::backup::BackupInfo;
use serde_json::{Value, json};

use super::RecoveryPlan;
use super::refusal::local_time;
use crate::earlier_restores::Estimate;
use crate::layout::Layout;
use crate::request::RestoreRequest;
use crate::role::RoleChoice;

/// Everything that a restore will do.
pub(crate) struct PlanReport<'a> {
    pub(crate) repository: String,
    pub(crate) info: &'a BackupInfo,
    pub(crate) plan: &'a RecoveryPlan,
    pub(crate) request: &'a RestoreRequest,
    pub(crate) layout: &'a Layout,
    pub(crate) role: RoleChoice,
    pub(crate) estimate: Estimate,
}

impl PlanReport<'_> {
    /// Lines of `what  value`.
    pub(crate) fn text(&self) -> String {
        let info = self.info;
        let mut text = String::new();
        let mut line = |what: &str, value: String| {
            // writing to a String cannot fail
            let _ = writeln!(text, "{what:<12}{value}");
        };
        line(
            "cluster",
            format!(
                "{} (PostgreSQL {}) in {}",
                info.system_identifier, info.postgres_major, self.repository
            ),
        );
        line(
            "backup",
            format!(
                "{}, {} in {} files, ended {}",
                info.label,
                ByteCount(info.sizes.raw_bytes),
                info.sizes.files,
                PointInTime::local(info.stop_time)
            ),
        );
        line(
            "",
            format!(
                "timeline {}, {} to {}",
                info.timeline, info.start_lsn, info.stop_lsn
            ),
        );
        line("", self.why().to_owned());
        line("target", self.target());
        for (what, value) in self.path() {
            line(what, value);
        }
        line("WAL", self.wal());
        line("", self.looked_at());
        if self.plan.spooled_segments > 0 {
            let segments = self.plan.spooled_segments;
            line(
                "",
                format!("{segments} of them in the receiver's spool, and in no repository yet"),
            );
        }
        for (what, value) in self.stop() {
            line(what, value);
        }
        let exists = if self.layout.directory.is_occupied() {
            "brought to the backup's state"
        } else if self.layout.directory.exists() {
            "empty"
        } else {
            "new"
        };
        line(
            "directory",
            format!("{} ({exists})", self.layout.directory.path().display()),
        );
        for tablespace in &self.layout.tablespaces {
            let new = tablespace.directory.path();
            let value = if new == tablespace.old {
                format!("{} ({})", new.display(), tablespace.oid)
            } else {
                format!(
                    "{} ({}), moved from {}",
                    new.display(),
                    tablespace.oid,
                    tablespace.old.display()
                )
            };
            line("tablespace", value);
        }
        line(
            "writes",
            "the backup's files; recovery settings in postgresql.auto.conf; recovery.signal"
                .to_owned(),
        );
        for (what, value) in self.raised() {
            line(what, value);
        }
        line(
            "copies",
            format!(
                "{} in {} files{}",
                ByteCount(info.sizes.raw_bytes),
                info.sizes.files,
                about(self.estimate.copy)
            ),
        );
        line(
            "replays",
            format!(
                "{} segments, {}{}",
                self.plan.coverage.segments,
                ByteCount(self.replayed_bytes()),
                about(self.estimate.replay)
            ),
        );
        line("role", self.role.to_string());
        if let Some(owner) = &self.layout.owner {
            line("owner", owner.name.clone());
        }
        line(
            "room",
            format!(
                "about {} needed, {} available",
                ByteCount(self.layout.needed_bytes),
                ByteCount(self.layout.available_bytes)
            ),
        );
        text
    }

    fn target(&self) -> String {
        let target = match &self.request.target_time {
            Some(time) => {
                let exclusive = if self.plan.target.inclusive {
                    ""
                } else {
                    ", exclusive"
                };
                format!("time {time}{exclusive}")
            }
            None => self.plan.target.to_string(),
        };
        if !self.request.has_target() {
            return format!("{target}, then the server goes into production");
        }
        let then = match self.request.action {
            TargetAction::Pause => "pauses",
            TargetAction::Promote => "goes into production",
            TargetAction::Shutdown => "shuts down",
        };
        format!("{target}, then the server {then}")
    }

    /// The timelines on the way, one below the other.
    fn path(&self) -> Vec<(&'static str, String)> {
        let steps = self.plan.choice.path.steps();
        let end = match &self.plan.point.stop {
            Some(stop) => format!("{} (stop)", stop.end_of_replay),
            None => format!("{} (end of the log)", self.plan.point.end_of_log),
        };
        steps
            .iter()
            .enumerate()
            .map(|(depth, step)| {
                let indent = "   ".repeat(depth.min(8));
                let branch = if depth == 0 { "" } else { "└─ " };
                let end = step.end.map_or_else(|| end.clone(), |end| end.to_string());
                let what = if depth == 0 { "timeline" } else { "" };
                let indent = indent.get(3..).unwrap_or_default();
                (
                    what,
                    format!("{indent}{branch}{}: {} ── {end}", step.timeline, step.begin),
                )
            })
            .collect()
    }

    /// The record at which recovery stops, and what it keeps and loses.
    fn stop(&self) -> Vec<(&'static str, String)> {
        let point = &self.plan.point;
        let commit = |commit: &EndedTransaction| {
            format!(
                "commit of transaction {} at {}, {}",
                commit.xid,
                commit.lsn,
                local_time(commit.time)
            )
        };
        let mut lines = Vec::new();
        if let Some(stop) = &point.stop {
            let when = if stop.replayed { "after" } else { "before" };
            let time = stop.record.kind.time();
            let time = time.map_or_else(String::new, |time| format!(", {}", local_time(time)));
            lines.push(("stops", format!("{when} the {}{time}", stop.record)));
        }
        if let Some(kept) = &point.last_kept {
            lines.push(("keeps", format!("up to the {}", commit(kept))));
        }
        if let Some(lost) = &point.first_lost {
            lines.push(("loses", format!("from the {} on", commit(lost))));
        } else if point.stop.is_some() {
            lines.push(("loses", "no commit that is near in the log".to_owned()));
        }
        lines
    }

    fn why(&self) -> &'static str {
        if self.request.backup.is_some() {
            "named by --backup"
        } else {
            "the newest that leads there"
        }
    }

    fn replayed_bytes(&self) -> u64 {
        let segment_bytes = self.info.segment_size.bytes();
        self.plan.coverage.segments.saturating_mul(segment_bytes)
    }

    /// How sure it is that none of the segments is damaged.
    fn looked_at(&self) -> String {
        let (looked_at, all) = (self.plan.passed.looked_at, self.plan.coverage.segments);
        if looked_at >= all {
            "none missing, none damaged".to_owned()
        } else {
            format!(
                "none missing; none of {looked_at} looked at is damaged, the restore looks at all {all}"
            )
        }
    }

    /// Settings that the log raises on the way.
    fn raised(&self) -> Vec<(&'static str, String)> {
        let required = self.plan.required_settings(&self.info.settings);
        let recorded = &self.info.settings;
        let raised: Vec<String> = [
            (
                "max_connections",
                recorded.max_connections,
                required.max_connections,
            ),
            (
                "max_worker_processes",
                recorded.max_worker_processes,
                required.max_worker_processes,
            ),
            (
                "max_wal_senders",
                recorded.max_wal_senders,
                required.max_wal_senders,
            ),
            (
                "max_prepared_transactions",
                recorded.max_prepared_transactions,
                required.max_prepared_transactions,
            ),
            (
                "max_locks_per_transaction",
                recorded.max_locks_per_transaction,
                required.max_locks_per_transaction,
            ),
        ]
        .into_iter()
        .filter(|(_, before, after)| before != after)
        .filter_map(|(name, _, after)| Some(format!("{name} = {}", after?)))
        .collect();
        if raised.is_empty() {
            Vec::new()
        } else {
            let text = format!("{} (raised in the log on the way)", raised.join(", "));
            vec![("settings", text)]
        }
    }

    fn wal(&self) -> String {
        let coverage = &self.plan.coverage;
        let segments = if coverage.segments == 1 {
            "segment"
        } else {
            "segments"
        };
        format!(
            "{} {segments} from {} on, without a gap to {}",
            coverage.segments, coverage.first, coverage.end
        )
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        let (info, plan) = (self.info, self.plan);
        let coverage = &plan.coverage;
        let settings: serde_json::Map<String, Value> = plan
            .target
            .settings()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        json!({
            "repository": self.repository,
            "system_identifier": info.system_identifier,
            "postgres_major": info.postgres_major,
            "backup": {
                "label": info.label,
                "timeline": info.timeline,
                "start_lsn": info.start_lsn,
                "stop_lsn": info.stop_lsn,
                "start_time": info.start_time.to_rfc3339(),
                "stop_time": info.stop_time.to_rfc3339(),
                "files": info.sizes.files,
                "raw_bytes": info.sizes.raw_bytes,
            },
            "target": {
                "description": plan.target.to_string(),
                "settings": settings,
                "action": self.request.has_target().then(|| self.request.action.as_str()),
            },
            "timeline": plan.choice.timeline,
            "path": plan.choice.path.steps().iter().map(|step| json!({
                "timeline": step.timeline,
                "begin": step.begin,
                "end": step.end,
            })).collect::<Vec<_>>(),
            "wal": {
                "first_segment": coverage.first,
                "segments": coverage.segments,
                "end": coverage.end,
                "partial": coverage.partial,
                "spooled_segments": plan.spooled_segments,
                "first_missing_segment": coverage.missing,
            },
            "stop": plan.point.stop,
            "last_kept": plan.point.last_kept,
            "first_lost": plan.point.first_lost,
            "end_of_log": plan.point.stop.is_none().then_some(plan.point.end_of_log),
            "why": self.why(),
            "damage_looked_for": plan.passed.looked_at >= coverage.segments,
            "required_settings": plan.required_settings(&info.settings),
            "copy_bytes": info.sizes.raw_bytes,
            "copy_estimate_ms": self.estimate.copy.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            "replay_bytes": self.replayed_bytes(),
            "replay_estimate_ms": self.estimate.replay.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            "parameter_changes": plan.passed.parameter_changes,
            "looked_at": plan.effort,
            "directory": self.layout.directory.path(),
            "tablespaces": self.layout.tablespaces.iter().map(|tablespace| json!({
                "oid": tablespace.oid,
                "old": tablespace.old,
                "new": tablespace.directory.path(),
            })).collect::<Vec<_>>(),
            "role": self.role.role,
            "owner": self.layout.owner.as_ref().map(|owner| &owner.name),
            "needed_bytes": self.layout.needed_bytes,
            "available_bytes": self.layout.available_bytes,
            "notes": plan.notes.iter().map(|note| json!({
                "message": note.to_string(),
                "hint": note.hint(),
            })).collect::<Vec<_>>(),
        })
    }
}

/// An estimate, or why there is none.
fn about(estimate: Option<std::time::Duration>) -> String {
    estimate.map_or_else(
        || "; no earlier restore here to estimate the time by".to_owned(),
        |time| format!("; about {}, by earlier restores", Elapsed(time)),
    )
}
