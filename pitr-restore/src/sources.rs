//! The repositories that a restore can draw from.

use std::path::PathBuf;

use pitr_console::{Console, Failure, Settings, choose_clusters, open_repository, repository_set};
use pitr_core::SystemIdentifier;
use pitr_store::backup::{BackupInfo, BackupReader, Elsewhere, Label};
use pitr_store::wal::WalArchive;
use pitr_store::{Cluster, ClusterIdentity};

use crate::archived_log::SpooledLog;
use crate::plan::inventory::{Inventory, InventoryError};
use crate::restore_command::{RestoreCommand, RestoreCommandError};

/// One cluster in every repository that answers, in the order of the setting.
pub(crate) struct Sources {
    clusters: Vec<Cluster>,
    /// Addresses of all that are named, and whether each has answered.
    addresses: Vec<(String, bool)>,
    /// Of a receiver on this machine.
    spool: Option<PathBuf>,
    /// Whether what is passed over was told.
    told: bool,
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
                spool: settings.spool.clone(),
                told: false,
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
            spool: settings.spool.clone(),
            told: false,
        };
        for (location, failure) in failures {
            warn_of_doubt(&location, &failure, console);
        }
        Ok(sources)
    }

    /// What all of them hold together, and a receiver on this machine besides.
    pub(crate) fn inventory(&mut self, console: Console) -> Result<Inventory, Failure> {
        // before the repositories: from there files only move into these
        let spooled = match (&self.spool, self.clusters.first()) {
            (Some(directory), Some(cluster)) => {
                let looked = SpooledLog::look_into(directory, &cluster.identity());
                Some(looked.map_err(InventoryError::from)?)
            }
            _ => None,
        };
        let mut joined: Option<Inventory> = None;
        let mut failed = Vec::new();
        for cluster in &self.clusters {
            match (Inventory::take(cluster), &mut joined) {
                (Ok(inventory), None) => joined = Some(inventory),
                (Ok(inventory), Some(joined)) => joined.join(inventory)?,
                (Err(error), _) => failed.push((cluster.store().location(), error)),
            }
        }
        let Some(mut joined) = joined else {
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
        if let Some(spooled) = spooled {
            joined.add_spooled(spooled)?;
        }
        if !std::mem::replace(&mut self.told, true) {
            tell_of_damage(&joined, console);
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

    /// Whose they are.
    pub(crate) fn identity(&self) -> Result<ClusterIdentity, Failure> {
        let first = self.clusters.first();
        first
            .map(Cluster::identity)
            .ok_or_else(|| Failure::new("no repository was named"))
    }

    /// Where they lie, for people.
    pub(crate) fn locations(&self) -> String {
        let clusters = self.clusters.iter();
        let locations: Vec<String> = clusters.map(|c| c.store().location()).collect();
        locations.join(", ")
    }

    /// The description of a backup, from the first of them that has it.
    pub(crate) fn backup_info(&self, label: Label) -> Option<BackupInfo> {
        let mut clusters = self.clusters.iter();
        clusters.find_map(|cluster| cluster.backups().get(label).ok().flatten())
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

/// Says what of a repository is passed over.
fn tell_of_damage(inventory: &Inventory, console: Console) {
    for damaged in &inventory.damaged_backups {
        let message = format!(
            "base backup {} is passed over: {}",
            damaged.label, damaged.error
        );
        console.warn(message, None, None);
    }
    for (timeline, error) in &inventory.damaged_histories {
        let message = format!("timeline {timeline} is passed over: {error}");
        console.warn(message, None, None);
    }
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
