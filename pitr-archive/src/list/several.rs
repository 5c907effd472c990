//! `list` over several repositories: what each holds, and how far each is
//! behind the others.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use pitr_console::{Console, Failure, Settings};
use pitr_core::{SystemIdentifier, WalFileName};
use pitr_store::backup::Label;
use pitr_store::{Cluster, Repository};
use serde::Serialize;

use super::damage::{self, DamageReport};
use super::report::{self, ClusterReport, LogFile, Report};
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
    let repositories = held
        .iter()
        .map(|(repository, clusters)| report::gather(repository, clusters))
        .collect::<Result<Vec<_>, _>>()?;
    let report = SeveralReport {
        behind: behind(&repositories),
        repositories,
        unreachable,
    };
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

/// What each repository lacks of what the others have, by what was listed.
fn behind(repositories: &[Report]) -> Vec<BehindReport> {
    let known: BTreeSet<SystemIdentifier> = repositories
        .iter()
        .flat_map(|repository| &repository.clusters)
        .map(|cluster| cluster.system_identifier)
        .collect();
    let mut reports = Vec::new();
    for system_identifier in known {
        let held: Vec<Option<&ClusterReport>> = repositories
            .iter()
            .map(|repository| {
                let mut clusters = repository.clusters.iter();
                clusters.find(|cluster| cluster.system_identifier == system_identifier)
            })
            .collect();
        for (at, repository) in repositories.iter().enumerate() {
            let own = held.get(at).copied().flatten();
            let own_backups = own.map(ClusterReport::labels).unwrap_or_default();
            let mut wal = BTreeSet::new();
            let mut backups = BTreeSet::new();
            let others = held.iter().enumerate().filter(|(other, _)| *other != at);
            for theirs in others.filter_map(|(_, theirs)| *theirs) {
                let is_missing = |file: &&LogFile| own.is_none_or(|own| !own.files.contains(file));
                wal.extend(theirs.files.iter().filter(is_missing));
                let labels = theirs.whole_backups().into_iter();
                backups.extend(labels.filter(|label| !own_backups.contains(label)));
            }
            reports.push(BehindReport {
                repository: repository.repository.clone(),
                system_identifier,
                wal_files: wal.len(),
                first_missing: wal.first().map(|(_, name)| *name),
                backups: backups.into_iter().collect(),
            });
        }
    }
    reports
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
