//! What a sync has done, for people and for programs.

use std::fmt::Write as _;

use pitr_console::{ByteCount, Console, Failure};
use pitr_core::{SegmentName, SystemIdentifier, WalFileName};
use pitr_store::backup::Label;
use pitr_store::sync::{Difference, Outcome};
use serde::Serialize;

/// One run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Whether nothing was done, and the numbers say what would be.
    pub(super) dry_run: bool,
    pub(super) syncs: Vec<PairReport>,
    /// Configured repositories that gave no answer.
    pub(super) unreachable: Vec<UnreachableReport>,
}

/// From one repository into another.
#[derive(Debug, Serialize)]
pub(super) struct PairReport {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) clusters: Vec<ClusterReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct UnreachableReport {
    pub(super) repository: String,
    pub(super) error: String,
}

/// One cluster on the way.
#[derive(Debug, Serialize)]
pub(super) struct ClusterReport {
    pub(super) system_identifier: SystemIdentifier,
    /// Files of the log that were copied, or are missing with `dry_run`.
    pub(super) wal_copied: u64,
    pub(super) wal_bytes: u64,
    /// Files that both have; the same by content, except with `dry_run`.
    pub(super) wal_present: u64,
    pub(super) backups_copied: Vec<Label>,
    pub(super) backup_bytes: u64,
    pub(super) backups_present: u64,
    /// Backups of a label that both have, which could not be compared: the
    /// target is encrypted, and its key is not here.
    pub(super) backups_not_compared: Vec<Label>,
    /// What was not copied, or is not the same.
    pub(super) problems: Vec<ProblemReport>,
    /// Segments that are whole, with a damaged summary behind them.
    pub(super) damaged_summaries: Vec<WalFileName>,
    /// Backups that were copied and whose log the target does not have.
    pub(super) unrecoverable: Vec<UnrecoverableReport>,
    /// Whether a store failed, so that the rest was left.
    pub(super) stopped: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct ProblemReport {
    pub(super) what: String,
    pub(super) error: String,
    pub(super) hint: Option<String>,
    /// Whether the repositories hold different contents under this name.
    pub(super) conflict: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct UnrecoverableReport {
    pub(super) label: Label,
    pub(super) first_missing: SegmentName,
    pub(super) missing: u64,
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

impl ClusterReport {
    /// What would be done.
    pub(super) fn planned(system_identifier: SystemIdentifier, difference: &Difference) -> Self {
        let sum = |bytes: &mut dyn Iterator<Item = u64>| bytes.fold(0, u64::saturating_add);
        Self {
            system_identifier,
            wal_copied: count(difference.wal.len()),
            wal_bytes: sum(&mut difference.wal.iter().map(|file| file.stored_bytes)),
            wal_present: count(difference.common_wal.len()),
            backups_copied: difference.backups.iter().map(|info| info.label).collect(),
            backup_bytes: sum(&mut difference.backups.iter().map(|i| i.sizes.stored_bytes)),
            backups_present: count(difference.common_backups.len()),
            backups_not_compared: difference.sealed_backups.clone(),
            problems: Vec::new(),
            damaged_summaries: Vec::new(),
            unrecoverable: Vec::new(),
            stopped: false,
        }
    }

    /// What was done.
    pub(super) fn done(
        system_identifier: SystemIdentifier,
        outcome: Outcome,
        sealed: Vec<Label>,
    ) -> Self {
        Self {
            system_identifier,
            wal_copied: outcome.wal_copied,
            wal_bytes: outcome.wal_bytes,
            wal_present: outcome.wal_present,
            backups_copied: outcome.backups_copied,
            backup_bytes: outcome.backup_bytes,
            backups_present: outcome.backups_present,
            backups_not_compared: sealed,
            problems: outcome
                .problems
                .into_iter()
                .map(|problem| ProblemReport {
                    error: problem.error.to_string(),
                    hint: problem.error.hint(),
                    conflict: problem.error.is_conflict(),
                    what: problem.what,
                })
                .collect(),
            damaged_summaries: outcome
                .damaged_summaries
                .into_iter()
                .map(|(name, _)| name)
                .collect(),
            unrecoverable: outcome
                .unrecoverable
                .into_iter()
                .map(|backup| UnrecoverableReport {
                    label: backup.label,
                    first_missing: backup.first_missing,
                    missing: backup.missing,
                })
                .collect(),
            stopped: outcome.stopped,
        }
    }

    fn text(&self, dry_run: bool) -> String {
        let (copied, there) = if dry_run {
            ("would be copied", "are in both by name")
        } else {
            ("copied", "are in both with the same content")
        };
        format!(
            "cluster {}: {} WAL files ({}) and {} backups ({}) {copied}; {} WAL files and {} backups {there}",
            self.system_identifier,
            self.wal_copied,
            ByteCount(self.wal_bytes),
            self.backups_copied.len(),
            ByteCount(self.backup_bytes),
            self.wal_present,
            self.backups_present,
        )
    }

    fn warn(&self, pair: &PairReport, console: Console) {
        if !self.backups_not_compared.is_empty() {
            console.log(format!(
                "{} backups of the same label in \"{}\" were not compared: it is encrypted, and no identity was named",
                self.backups_not_compared.len(),
                pair.to
            ));
        }
        for problem in &self.problems {
            console.warn(
                format!("{} is not in order: {}", problem.what, problem.error),
                None,
                problem.hint.as_deref(),
            );
        }
        for name in &self.damaged_summaries {
            console.warn(
                format!(
                    "{name} is whole, but its summary in \"{}\" is damaged",
                    pair.from
                ),
                None,
                Some("Check the disk that the repository lies on."),
            );
        }
        for backup in &self.unrecoverable {
            console.warn(
                format!(
                    "backup {} cannot be restored from \"{}\" alone: segment {}, which it needs, is not there",
                    backup.label, pair.to, backup.first_missing
                ),
                Some(&format!("{} of its segments are missing.", backup.missing)),
                Some("The source does not have them either. Keep the backup only if another repository does."),
            );
        }
    }
}

impl Report {
    /// Prints warnings to stderr and the result to stdout.
    pub(super) fn print(&self, json: bool, console: Console) -> Result<(), Failure> {
        let unwritten =
            |reason: String| Failure::new("could not write the result").with_detail(reason);
        let mut text = String::new();
        for pair in &self.syncs {
            // writing to a String cannot fail
            let _ = writeln!(text, "\"{}\" to \"{}\"", pair.from, pair.to);
            if pair.clusters.is_empty() {
                let _ = writeln!(text, "  nothing: the source holds no cluster yet");
            }
            for cluster in &pair.clusters {
                cluster.warn(pair, console);
                let _ = writeln!(text, "  {}", cluster.text(self.dry_run));
            }
        }
        if json {
            text = serde_json::to_string_pretty(self).map_err(|e| unwritten(e.to_string()))?;
        }
        console
            .result(text)
            .map_err(|error| unwritten(error.to_string()))
    }

    /// Success only where every repository has everything now.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let clusters = || self.syncs.iter().flat_map(|pair| &pair.clusters);
        let problems: usize = clusters().map(|cluster| cluster.problems.len()).sum();
        let conflicts = clusters()
            .flat_map(|cluster| &cluster.problems)
            .filter(|problem| problem.conflict)
            .count();
        if problems == 0 && self.unreachable.is_empty() {
            return Ok(());
        }
        let mut details = Vec::new();
        if conflicts > 0 {
            details.push(format!(
                "{conflicts} of them have different content under the same name; nothing was overwritten."
            ));
        }
        if clusters().any(|cluster| cluster.stopped) {
            details.push("A repository failed, and the rest was left for the next run.".to_owned());
        }
        for unreachable in &self.unreachable {
            details.push(format!("\"{}\" did not answer.", unreachable.repository));
        }
        let failure = Failure::new(format!(
            "the repositories are not level: {problems} files or backups are not in order, \
             {} repositories did not answer",
            self.unreachable.len()
        ))
        .with_detail(details.join("\n"))
        .with_hint("See the warnings before this. Running it again is safe.");
        Err(failure)
    }
}
