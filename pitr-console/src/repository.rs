//! Reaching the repository that the settings name, and a cluster in it.

use std::collections::HashSet;

use pitr_core::{SystemIdentifier, WalFileName};
use pitr_store::{Cluster, Repository, RepositorySet, open_store};

use crate::{Failure, Settings, SettingsError};

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
    // one place under two spellings would count as two copies
    let mut places = HashSet::new();
    for store in &stores {
        let location = store.location();
        if !places.insert(location.trim_end_matches('/').to_owned()) {
            return Err(SettingsError::NamedTwice { found: location }.into());
        }
    }
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

/// The same for a push of `name`, whose cluster is known if it is a segment: a
/// store far away answers everything that a push asks at once, and while it does
/// `meanwhile` is run, with its location. Where the store is near, it is not.
///
/// # Errors
/// As [`open_repository`].
pub fn open_repository_for_push(
    settings: &Settings,
    system_identifier: Option<SystemIdentifier>,
    name: &WalFileName,
    meanwhile: impl FnOnce(&str, SystemIdentifier),
) -> Result<Repository, Failure> {
    let store = open_store(settings.repository()?, &settings.stores)?;
    if let Some(system_identifier) = system_identifier
        && Repository::expect_push(store.as_ref(), system_identifier, name)
    {
        meanwhile(&store.location(), system_identifier);
    }
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

/// The cluster that the user named, or the only one, in each of
/// `repositories` that knows it.
///
/// # Errors
/// As [`choose_cluster`]; and where two repositories that are named together
/// are not of the same cluster.
pub fn choose_clusters(
    repositories: &[Repository],
    system_identifier: Option<SystemIdentifier>,
) -> Result<Vec<Cluster>, Failure> {
    if let [one] = repositories {
        return Ok(vec![choose_cluster(one, system_identifier)?]);
    }
    let mut chosen: Vec<Cluster> = Vec::new();
    let mut failure = None;
    for repository in repositories {
        let wanted =
            system_identifier.or_else(|| chosen.first().map(|c| c.identity().system_identifier));
        // one in which nothing was archived yet has nothing to say
        if repository.clusters()?.is_empty() {
            continue;
        }
        let cluster = match choose_cluster(repository, wanted) {
            Ok(cluster) => cluster,
            Err(first) if chosen.is_empty() => {
                failure.get_or_insert(first);
                continue;
            }
            Err(other) => {
                return Err(other.with_hint(
                    "Repositories that are named together must be of the same cluster.",
                ));
            }
        };
        if let Some(first) = chosen
            .first()
            .filter(|c| c.identity() != cluster.identity())
        {
            return Err(Failure::new(format!(
                "\"{}\" knows cluster {} otherwise than \"{}\"",
                repository.location(),
                cluster.identity().system_identifier,
                first.store().location()
            ))
            .with_hint("They differ in the version of PostgreSQL or the size of segments."));
        }
        chosen.push(cluster);
    }
    match (chosen.is_empty(), failure) {
        (_, Some(failure)) => Err(failure),
        (false, None) => Ok(chosen),
        (true, None) => Err(Failure::new("the repositories hold no cluster yet")
            .with_hint("The first segment or backup that is stored claims them for its cluster.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RepositoryArguments;

    #[test]
    fn one_place_under_two_spellings_is_no_second_copy() {
        let set = |second: &str| {
            let arguments = RepositoryArguments {
                repo: vec!["/srv/pitr".to_owned(), second.to_owned()],
                ..RepositoryArguments::default()
            };
            repository_set(&Settings::resolve(&arguments, |_| None).unwrap())
        };
        for second in ["/srv/pitr/", "file:///srv/pitr", "/srv/pitr"] {
            let refused = set(second).unwrap_err();
            assert!(refused.message().contains("named twice"), "{second}");
        }
        assert_eq!(set("/srv/other").unwrap().stores().len(), 2);
    }
}
