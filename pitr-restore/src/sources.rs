//! The repositories that a restore can draw from.

use pitr_console::{Console, Failure, Settings, choose_clusters, open_repository, repository_set};
use pitr_core::SystemIdentifier;
use pitr_store::Cluster;
use pitr_store::backup::{BackupReader, Elsewhere, Label};
use pitr_store::wal::WalArchive;

use crate::plan::inventory::Inventory;
use crate::restore_command::{RestoreCommand, RestoreCommandError};

/// One cluster in every repository that answers, in the order of the setting.
pub(crate) struct Sources {
    clusters: Vec<Cluster>,
    /// Addresses of all that are named, and whether each has answered.
    addresses: Vec<(String, bool)>,
}

impl Sources {
    /// Opens the repositories. Where several are named, those that do not
    /// answer are passed over with a warning: what the others hold may be
    /// enough for the target.
    pub(crate) fn open(
        settings: &Settings,
        system_identifier: Option<SystemIdentifier>,
        console: Console,
    ) -> Result<Self, Failure> {
        let named = settings.repositories()?;
        if let [one] = named.as_slice() {
            let repository = open_repository(settings)?;
            repository.unlock()?;
            return Ok(Self {
                clusters: choose_clusters(&[repository], system_identifier)?,
                addresses: vec![((*one).to_owned(), true)],
            });
        }
        let set = repository_set(settings)?;
        let reached = set.open();
        let addresses = named
            .iter()
            .zip(set.stores())
            .map(|(address, store)| {
                let location = store.location();
                let failed = reached.unreached.iter().any(|u| u.location == location);
                ((*address).to_owned(), !failed)
            })
            .collect();
        let mut failures = Vec::new();
        for unreached in reached.unreached {
            failures.push((unreached.location, Failure::from(unreached.error)));
        }
        if reached.repositories.is_empty() && !failures.is_empty() {
            return Err(failures.remove(0).1);
        }
        for repository in &reached.repositories {
            repository.unlock()?;
        }
        let sources = Self {
            clusters: choose_clusters(&reached.repositories, system_identifier)?,
            addresses,
        };
        for (location, failure) in failures {
            warn_of_doubt(&location, &failure, console);
        }
        Ok(sources)
    }

    /// What all of them hold together.
    pub(crate) fn inventory(&mut self, console: Console) -> Result<Inventory, Failure> {
        let mut joined: Option<Inventory> = None;
        let mut failed = Vec::new();
        for cluster in &self.clusters {
            match (Inventory::take(cluster), &mut joined) {
                (Ok(inventory), None) => joined = Some(inventory),
                (Ok(inventory), Some(joined)) => joined.join(inventory)?,
                (Err(error), _) => failed.push((cluster.store().location(), error)),
            }
        }
        let Some(joined) = joined else {
            return Err(match failed.into_iter().next() {
                Some((_, error)) => error.into(),
                None => Failure::new("no repository was named"),
            });
        };
        for (location, error) in failed {
            warn_of_doubt(&location, &error.into(), console);
            self.clusters
                .retain(|cluster| cluster.store().location() != location);
        }
        Ok(joined)
    }

    /// The backup, from the first repository that has it whole enough to be
    /// opened.
    pub(crate) fn open_backup(
        &self,
        label: Label,
        console: Console,
    ) -> Result<BackupReader, Failure> {
        let mut first_failure = None;
        for (place, cluster) in self.clusters.iter().enumerate() {
            match cluster.backups().open(label) {
                Ok(Some(reader)) => {
                    if let Some(failure) = first_failure {
                        let failure: Failure = failure;
                        console.warn(
                            format!(
                                "base backup {label} is taken from \"{}\": {}",
                                cluster.store().location(),
                                failure.message()
                            ),
                            failure.detail(),
                            failure.hint(),
                        );
                    }
                    let others = self.clusters.get(place + 1..).unwrap_or_default();
                    return Ok(reader.with_copies(copies(label, others, console)));
                }
                Ok(None) => {}
                Err(error) => {
                    first_failure.get_or_insert(error.into());
                }
            }
        }
        Err(first_failure
            .unwrap_or_else(|| Failure::new(format!("base backup {label} was removed meanwhile"))))
    }

    /// The cluster in the first of them: a search reads the log of one
    /// repository.
    pub(crate) fn first(&self) -> Result<&Cluster, Failure> {
        self.clusters
            .first()
            .ok_or_else(|| Failure::new("no repository was named"))
    }

    /// The log in each of them.
    pub(crate) fn archives(&self) -> Vec<WalArchive> {
        self.clusters.iter().map(Cluster::wal).collect()
    }

    /// Other repositories that hold the same backup.
    pub(crate) fn others_with(&self, reader: &BackupReader) -> Vec<String> {
        self.clusters
            .iter()
            .filter(|cluster| cluster.store().location() != reader.repository_location())
            .filter(|cluster| matches!(cluster.backups().get(reader.label()), Ok(Some(_))))
            .map(|cluster| cluster.store().location())
            .collect()
    }

    /// Whether every repository that is named has answered so far.
    pub(crate) fn all_answer(&self) -> bool {
        self.addresses.iter().all(|(_, answers)| *answers)
    }

    /// The command that shows whether the hook works: `command` itself, or,
    /// while a repository is known not to answer, the one `of` those that do.
    pub(crate) fn command_to_try(
        &self,
        command: &RestoreCommand,
        of: impl FnOnce(&[&str]) -> Result<RestoreCommand, RestoreCommandError>,
    ) -> Result<RestoreCommand, RestoreCommandError> {
        if self.all_answer() {
            return Ok(command.clone());
        }
        let answering = self.addresses.iter().filter(|(_, answers)| *answers);
        let answering: Vec<&str> = answering.map(|(address, _)| address.as_str()).collect();
        of(&answering)
    }
}

/// The same backup in `others`, for what turns out damaged in the first copy.
fn copies(label: Label, others: &[Cluster], console: Console) -> Elsewhere {
    let catalogs: Vec<_> = others.iter().map(Cluster::backups).collect();
    Elsewhere::new(
        move || {
            let opened = catalogs.iter().map(|catalog| catalog.open(label));
            // one that cannot be opened stands in for nothing
            opened.filter_map(|opened| opened.ok().flatten()).collect()
        },
        move |damage, copy| {
            console.warn(
                format!("base backup {label} is read from \"{}\" in one place: {damage}", copy.repository_location()),
                None,
                Some("Keep a copy of what is damaged for a look at its disk, and take a new base backup."),
            );
        },
    )
}

fn warn_of_doubt(location: &str, failure: &Failure, console: Console) {
    console.warn(
        format!(
            "repository \"{location}\" is passed over: {}",
            failure.message()
        ),
        Some(
            "The plan is made of what the others hold. The restored server will ask this one too, \
             and stop where it needs to know that a file is not in it.",
        ),
        Some(
            "If it is lost for good, name only the others with --repo, once for each: what they \
             hold is all there is then.",
        ),
    );
}
