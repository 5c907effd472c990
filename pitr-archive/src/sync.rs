//! `pitr-archive sync`: copies between repositories what one of them lacks.
//!
//! The steps in order: open both, claim the target for the source's cluster,
//! list what is missing, then copy and compare. Nothing is overwritten, and
//! nothing is remembered: an interrupted run is made up for by the next one.

mod report;

use std::collections::HashSet;

use pitr_console::{ByteCount, Console, Failure, Progress, Settings, SettingsError};
use pitr_core::SystemIdentifier;
use pitr_store::encryption::KeySource;
use pitr_store::sync::{Difference, Syncing};
use pitr_store::{Cluster, Repository, open_store};

use crate::arguments::SyncArguments;
use crate::repository;
use report::{ClusterReport, PairReport, Report, UnreachableReport};

pub(crate) fn sync(
    arguments: &SyncArguments,
    settings: &Settings,
    console: Console,
) -> Result<(), Failure> {
    let only = arguments.system_identifier.as_deref();
    let only = only.map(repository::system_identifier).transpose()?;
    let run = Run {
        arguments,
        only,
        threads: arguments.threads.unwrap_or(settings.threads).max(1),
        console,
    };
    let mut report = Report {
        dry_run: arguments.dry_run,
        ..Report::default()
    };
    match (&arguments.from, &arguments.to) {
        (Some(from), Some(to)) => {
            // which repository it must be is a matter of what is written
            let reading = KeySource {
                repository_keys: Vec::new(),
                ..settings.keys.clone()
            };
            let from = open(from, settings, &reading)?;
            let to = open(to, settings, &settings.keys)?;
            if from.location() == to.location() {
                return Err(Failure::new(format!(
                    "\"{}\" is named as source and as target",
                    from.location()
                )));
            }
            run.pair(&from, &to, true, &mut report)?;
        }
        _ => run.level(settings, &mut report)?,
    }
    report.print(arguments.json, console)?;
    report.verdict()
}

fn open(address: &str, settings: &Settings, keys: &KeySource) -> Result<Repository, Failure> {
    if !(address.starts_with('/') || address.contains("://")) {
        return Err(SettingsError::RelativeRepository {
            found: address.to_owned(),
        }
        .into());
    }
    let store = open_store(address, &settings.stores)?;
    Ok(Repository::open_with(store, keys)?)
}

/// One run of the command.
struct Run<'a> {
    arguments: &'a SyncArguments,
    only: Option<SystemIdentifier>,
    threads: usize,
    console: Console,
}

impl Run<'_> {
    /// Copies from each of the configured repositories into each other.
    fn level(&self, settings: &Settings, report: &mut Report) -> Result<(), Failure> {
        if settings.repositories()?.len() < 2 {
            return Err(Failure::new("only one repository is configured").with_hint(
                "Name the two with --from and --to, or several as repo = [\"…\", \"…\"].",
            ));
        }
        let reached = repository::set(settings)?.open();
        for unreached in reached.unreached {
            let failure = Failure::from(unreached.error);
            self.console.warn(
                format!(
                    "repository \"{}\" is left out: {}",
                    unreached.location,
                    failure.message()
                ),
                failure.detail(),
                failure.hint(),
            );
            report.unreachable.push(UnreachableReport {
                repository: unreached.location,
                error: failure.message().to_owned(),
            });
        }
        let repositories = &reached.repositories;
        let mut compared = HashSet::new();
        for (a, from) in repositories.iter().enumerate() {
            for (b, to) in repositories.iter().enumerate() {
                if a != b {
                    // what both have needs to be compared once
                    let compare = compared.insert((a.min(b), a.max(b)));
                    self.pair(from, to, compare, report)?;
                }
            }
        }
        Ok(())
    }

    /// Copies from one repository into another.
    fn pair(
        &self,
        from: &Repository,
        to: &Repository,
        compare: bool,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let clusters = match self.only {
            None => from.clusters()?,
            // in one direction it must be there
            Some(only) if self.arguments.from.is_some() => {
                vec![repository::cluster(from, Some(only))?]
            }
            Some(only) => from.cluster(only)?.into_iter().collect(),
        };
        let targets = self.targets(&clusters, to)?;
        let mut pair = PairReport {
            from: from.location(),
            to: to.location(),
            clusters: Vec::new(),
        };
        for (cluster, target) in clusters.iter().zip(targets) {
            pair.clusters.push(self.cluster(cluster, target, compare)?);
        }
        report.syncs.push(pair);
        Ok(())
    }

    /// Each cluster in the target, claimed for it; `None` where it is not known
    /// there yet, and nothing is to be changed.
    fn targets(
        &self,
        clusters: &[Cluster],
        to: &Repository,
    ) -> Result<Vec<Option<Cluster>>, Failure> {
        let mut targets = Vec::new();
        for cluster in clusters {
            targets.push(to.cluster(cluster.identity().system_identifier)?);
        }
        let unknown = targets.iter().filter(|target| target.is_none()).count();
        if unknown > 0 && clusters.len() > 1 {
            return Err(Failure::new(format!(
                "the source holds {} clusters, and \"{}\" does not know {unknown} of them",
                clusters.len(),
                to.location()
            ))
            .with_hint(
                "A repository becomes the property of one cluster by itself: name it with \
                 --system-identifier, and allow others with \"pitr-archive init --add\".",
            ));
        }
        for (cluster, target) in clusters.iter().zip(&mut targets) {
            if target.is_none() && self.arguments.dry_run {
                // whether it would be let in
                if let Some(other) = to.clusters()?.first() {
                    return Err(pitr_store::ClaimError::OwnedByOther {
                        location: to.location(),
                        owner: other.identity().system_identifier,
                        offered: cluster.identity().system_identifier,
                    }
                    .into());
                }
            } else {
                // also compares version and segment size
                *target = Some(to.claim(&cluster.identity())?);
            }
        }
        Ok(targets)
    }

    fn cluster(
        &self,
        from: &Cluster,
        to: Option<Cluster>,
        compare: bool,
    ) -> Result<ClusterReport, Failure> {
        let system_identifier = from.identity().system_identifier;
        let mut difference = Difference::between(from, to.as_ref())?;
        let (false, Some(to)) = (self.arguments.dry_run, to) else {
            return Ok(ClusterReport::planned(system_identifier, &difference));
        };
        if !compare {
            difference.common_wal.clear();
            difference.common_backups.clear();
        }
        let bytes = difference.stored_bytes();
        let progress = Progress::start(
            self.console,
            format!("cluster {system_identifier}: {}", ByteCount(bytes)),
            bytes,
        );
        let outcome = Syncing::new(from, &to, self.threads)
            .run(&difference, &|copied| progress.advance(copied));
        progress.finish();
        Ok(ClusterReport::done(
            system_identifier,
            outcome,
            std::mem::take(&mut difference.sealed_backups),
        ))
    }
}
