//! `list` over several repositories: what each holds, and how far each is
//! behind the others.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use pitr_console::{Console, Failure, Settings};
use pitr_core::{SystemIdentifier, WalFileName};
use pitr_store::backup::Label;
use pitr_store::sync::Difference;
use pitr_store::{Cluster, Repository};
use serde::Serialize;

use super::damage::{self, DamageReport};
use super::report::{self, Report};
use super::{print, text};
use crate::arguments::ListArguments;
use crate::repository;

/// All repositories.
#[derive(Debug, Serialize)]
struct SeveralReport {
    repositories: Vec<Report>,
    /// What each lacks of what the others have; one entry for each repository
    /// and cluster.
    behind: Vec<BehindReport>,
    /// Those that gave no answer.
    unreachable: Vec<UnreachableReport>,
}

#[derive(Debug, Serialize)]
struct BehindReport {
    repository: String,
    system_identifier: SystemIdentifier,
    /// Files of the log that another repository has and this one lacks.
    wal_files: usize,
    /// The first of them, in the order of the log.
    first_missing: Option<WalFileName>,
    backups: Vec<Label>,
}

#[derive(Debug, Serialize)]
struct UnreachableReport {
    repository: String,
    error: String,
}

/// `list --damaged`, for one repository of several.
#[derive(Debug, Serialize)]
struct DamageOf {
    repository: String,
    #[serde(flatten)]
    report: DamageReport,
}

pub(super) fn list(
    arguments: &ListArguments,
    settings: &Settings,
    console: Console,
) -> Result<(), Failure> {
    let only = arguments.system_identifier.as_deref();
    let only = only.map(repository::system_identifier).transpose()?;
    let reached = repository::set(settings)?.open();
    let mut unreachable = Vec::new();
    for unreached in reached.unreached {
        let failure = Failure::from(unreached.error);
        if reached.repositories.is_empty() {
            return Err(failure);
        }
        console.warn(
            format!(
                "repository \"{}\" gives no answer: {}",
                unreached.location,
                failure.message()
            ),
            failure.detail(),
            failure.hint(),
        );
        unreachable.push(UnreachableReport {
            repository: unreached.location,
            error: failure.message().to_owned(),
        });
    }
    let mut held: Vec<(&Repository, Vec<Cluster>)> = Vec::new();
    for repository in &reached.repositories {
        let mut clusters = repository.clusters()?;
        if let Some(only) = only {
            clusters.retain(|cluster| cluster.identity().system_identifier == only);
        }
        held.push((repository, clusters));
    }
    if arguments.damaged {
        let mut reports = Vec::new();
        for (repository, clusters) in &held {
            reports.push(DamageOf {
                repository: repository.location(),
                report: damage::gather(clusters)?,
            });
        }
        return print(arguments, &reports, || damage_text(&reports), console);
    }
    let mut report = SeveralReport {
        repositories: Vec::new(),
        behind: behind(&held)?,
        unreachable,
    };
    for (repository, clusters) in &held {
        report
            .repositories
            .push(report::gather(repository, clusters)?);
    }
    print(arguments, &report, || report.text(), console)
}

fn damage_text(reports: &[DamageOf]) -> String {
    let mut out = String::new();
    for of in reports {
        // writing to a String cannot fail
        let _ = write!(out, "repository {}\n{}", of.repository, of.report.text());
    }
    out
}

/// What each repository lacks of what the others have.
fn behind(held: &[(&Repository, Vec<Cluster>)]) -> Result<Vec<BehindReport>, Failure> {
    let known: BTreeSet<SystemIdentifier> = held
        .iter()
        .flat_map(|(_, clusters)| clusters)
        .map(|cluster| cluster.identity().system_identifier)
        .collect();
    let find = |clusters: &[Cluster], wanted: SystemIdentifier| {
        clusters
            .iter()
            .find(|cluster| cluster.identity().system_identifier == wanted)
            .cloned()
    };
    let mut reports = Vec::new();
    for system_identifier in known {
        for (at, (repository, clusters)) in held.iter().enumerate() {
            let own = find(clusters, system_identifier);
            let mut wal = BTreeSet::new();
            let mut backups = BTreeSet::new();
            for (other, (_, clusters)) in held.iter().enumerate() {
                if other != at
                    && let Some(theirs) = find(clusters, system_identifier)
                {
                    let difference = Difference::between(&theirs, own.as_ref())?;
                    wal.extend(difference.wal.iter().map(|f| (f.name.segment(), f.name)));
                    backups.extend(difference.backups.iter().map(|info| info.label));
                }
            }
            reports.push(BehindReport {
                repository: repository.location(),
                system_identifier,
                wal_files: wal.len(),
                first_missing: wal.first().map(|(_, name)| *name),
                backups: backups.into_iter().collect(),
            });
        }
    }
    Ok(reports)
}

impl SeveralReport {
    fn text(&self) -> String {
        let mut out = String::new();
        for report in &self.repositories {
            out.push_str(&text::render(report));
            out.push('\n');
        }
        // writing to a String cannot fail
        for behind in &self.behind {
            let place = format!(
                "repository {}, cluster {}",
                behind.repository, behind.system_identifier
            );
            let _ = match (behind.first_missing, behind.backups.len()) {
                (None, 0) => writeln!(out, "{place}: has all that the others have"),
                (first, backups) => writeln!(
                    out,
                    "{place}: is behind by {} WAL files{} and {backups} backups",
                    behind.wal_files,
                    first.map_or_else(String::new, |name| format!(" (the first is {name})")),
                ),
            };
        }
        for unreachable in &self.unreachable {
            let _ = writeln!(
                out,
                "repository {}: gives no answer: {}",
                unreachable.repository, unreachable.error
            );
        }
        out
    }
}
