//! The plan, for people and for programs.

use std::fmt::Write as _;

use pitr_console::{ByteCount, PointInTime};
use pitr_core::TargetAction;
use pitr_store::backup::BackupInfo;
use serde_json::{Value, json};

use super::RecoveryPlan;
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
        line("target", self.target());
        line("timeline", self.timeline());
        line("WAL", self.wal());
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

    /// `2 (1 until 0/5000100)`.
    fn timeline(&self) -> String {
        let choice = &self.plan.choice;
        let before: Vec<String> = choice
            .path
            .steps()
            .iter()
            .filter_map(|step| Some(format!("{} until {}", step.timeline, step.end?)))
            .collect();
        if before.is_empty() {
            choice.timeline.to_string()
        } else {
            format!("{} (after {})", choice.timeline, before.join(", "))
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
                "first_missing_segment": coverage.missing,
            },
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
