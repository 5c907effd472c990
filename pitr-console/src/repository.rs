//! Reaching the repository that the settings name, and a cluster in it.

use pitr_core::SystemIdentifier;
use pitr_store::{Cluster, Repository, RepositorySet, open_store};

use crate::{Failure, Settings};

/// The repositories that the settings name. Touches none of them.
///
/// # Errors
/// No repository is named, or an address leads nowhere.
pub fn repository_set(settings: &Settings) -> Result<RepositorySet, Failure> {
    let stores = settings
        .repositories()?
        .into_iter()
        .map(|address| open_store(address, &settings.stores))
        .collect::<Result<Vec<_>, _>>()?;
    let set = RepositorySet::new(stores, settings.required);
    Ok(set.with_keys(settings.keys.clone()))
}

/// Opens the repository, where there is only one; never makes one.
///
/// # Errors
/// No repository is named, its address leads nowhere, none lies there, or one
/// that is encrypted with another key than the settings expect.
pub fn open_repository(settings: &Settings) -> Result<Repository, Failure> {
    let store = open_store(settings.repository()?, &settings.stores)?;
    Ok(Repository::open_with(store, &settings.keys)?)
}

/// Reads a system identifier that the user typed.
///
/// # Errors
/// It is no number that an identifier can have.
pub fn parse_system_identifier(text: &str) -> Result<SystemIdentifier, Failure> {
    text.parse().map_err(|error| {
        Failure::from_error(&error).with_hint(
            "pg_controldata shows it as \"Database system identifier\", \
             \"pitr-archive list\" for the clusters of a repository.",
        )
    })
}

/// The cluster that the user named, or the only one.
///
/// # Errors
/// The repository does not hold it, holds none, or holds several of which
/// none was named.
pub fn choose_cluster(
    repository: &Repository,
    system_identifier: Option<SystemIdentifier>,
) -> Result<Cluster, Failure> {
    if let Some(wanted) = system_identifier {
        return repository.cluster(wanted)?.ok_or_else(|| {
            Failure::new(format!(
                "repository \"{}\" holds nothing of cluster {wanted}",
                repository.location()
            ))
            .with_hint("\"pitr-archive list\" shows the clusters that it holds.")
        });
    }
    let mut clusters = repository.clusters()?;
    match clusters.len() {
        1 => Ok(clusters.remove(0)),
        0 => Err(Failure::new(format!(
            "repository \"{}\" holds no cluster yet",
            repository.location()
        ))
        .with_hint("The first segment or backup that is stored claims it for its cluster.")),
        count => {
            let known: Vec<String> = clusters
                .iter()
                .map(|c| c.identity().system_identifier.to_string())
                .collect();
            Err(Failure::new(format!(
                "repository \"{}\" holds {count} clusters, and none was named",
                repository.location()
            ))
            .with_detail(format!("They are: {}.", known.join(", ")))
            .with_hint("Name one with --system-identifier."))
        }
    }
}
