//! `pitr-archive %p %f`: archives one file.
//!
//! The steps in order: the name, the file, what it says of itself, the
//! repository's cluster, and then one publish. Nothing is written before all
//! the checks have passed.

mod look_ahead;
mod several;

use std::path::Path;

use pitr_console::{Console, Failure, Settings};
use pitr_core::{PostgresMajor, SegmentSummary, SystemIdentifier, WalFileName};
use pitr_postgres::DataDirectory;
use pitr_store::wal::{EncodedAhead, Pushed, WalFile, WalSource, identify, push_to_all};
use pitr_store::{Cluster, ClusterIdentity, Repository, RepositorySet};

use crate::arguments::PushArguments;
use crate::repository;
use look_ahead::{AskedFor, LookAhead};
use several::conclude;
pub(crate) use several::push_to_several;

/// What is read of a file to learn whose it is: more than the long page
/// header's 40 bytes, and one page of the smallest size.
const FIRST_BYTES: usize = 1024;

pub(crate) fn push(
    arguments: &PushArguments,
    settings: &Settings,
    console: Console,
) -> Result<(), Failure> {
    let (Some(path), Some(name)) = (&arguments.path, &arguments.name) else {
        return Err(Failure::new("both %p and %f are needed")
            .with_hint("archive_command = 'pitr-archive %p %f'"));
    };
    let name = wal_file_name(name)?;
    let codec = repository::codec(arguments.compression.as_deref(), settings)?;
    let mut source = open(path)?;
    let look_ahead = LookAhead::new(arguments, settings);
    if settings.repositories()?.len() > 1 {
        let set = repository::set(settings)?.with_recollection(look_ahead.recollection());
        let identity = identity(arguments, &name, path, &mut source, &set)?;
        let asked_for = AskedFor {
            arguments,
            name: &name,
            identity,
            codec,
        };
        let members = match look_ahead.batch(asked_for, set.stores(), console) {
            Some(batch) => batch.push_to_all(&set, &name, &mut source)?,
            None => push_to_all(&set, &identity, &name, &mut source, codec)?,
        };
        return conclude(&members, &name, &set, console);
    }
    let is_segment = matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_));
    // what is wrong with the repository is told before what is wrong with the file
    let identity = is_segment.then(|| identity_of_segment(&name, &mut source));
    let expected = match &identity {
        Some(Ok(identity)) => Some(identity.system_identifier),
        _ => None,
    };
    let mut ahead = None;
    let repository = repository::open_for_push(settings, expected, &name, |store, identifier| {
        if !look_ahead.mentions(store, identifier, &name) {
            ahead = EncodedAhead::of(&name, &mut source, codec);
        }
    })?;
    let cluster = match identity {
        Some(identity) => repository.claim(&identity?)?,
        None => cluster_of_text_file(arguments, &name, path, &repository)?,
    };
    let archive = cluster.wal().with_recollection(look_ahead.recollection());
    let asked_for = AskedFor {
        arguments,
        name: &name,
        identity: cluster.identity(),
        codec,
    };
    let stores = std::slice::from_ref(repository.store());
    let pushed = match look_ahead.batch(asked_for, stores, console) {
        Some(batch) => batch.push(&archive, &name, &mut source, ahead)?,
        None => archive.push_encoded(&name, &mut source, codec, ahead)?,
    };
    match pushed {
        Pushed::Stored { summary, .. } => {
            if let Some(major) = provisional_major(&name, &cluster) {
                warn_of_version(&name, major, console);
            }
            if let Some(summary) = summary.filter(|summary| summary.is_damaged()) {
                warn_of_damage(&name, &summary, console);
            }
        }
        // damaged ones are not stored ahead
        Pushed::StoredAhead(_) => {
            if let Some(major) = provisional_major(&name, &cluster) {
                warn_of_version(&name, major, console);
            }
        }
        Pushed::AlreadyPresent(_) => console.log(format!(
            "\"{name}\" is in the repository already, with the same content"
        )),
    }
    Ok(())
}

/// The version that wrote a segment, if its records may be other than this
/// program knows.
fn provisional_major(name: &WalFileName, cluster: &Cluster) -> Option<PostgresMajor> {
    let is_segment = matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_));
    let major = cluster.identity().major;
    (is_segment && major.is_provisional()).then_some(major)
}

/// Archived as any other, byte for byte; only what was read in it is less sure.
fn warn_of_version(name: &WalFileName, major: PostgresMajor, console: Console) {
    console.warn(
        format!("\"{name}\" is from PostgreSQL {major}, of which this version knows a beta"),
        Some(
            "It was archived as it is. Damage may be seen where there is none, and none where \
             there is.",
        ),
        Some("Use a version of pitr that supports this PostgreSQL before you rely on it."),
    );
}

/// The segment is stored all the same: the server has no better copy, and
/// waiting would only fill its disk.
fn warn_of_damage(name: &WalFileName, summary: &SegmentSummary, console: Console) {
    let Some(first) = summary.damage.first() else {
        return;
    };
    let more = match summary.damage.len() {
        1 => String::new(),
        count => format!(" There are {count} places in all."),
    };
    console.warn(
        format!("\"{name}\" is damaged at {}: {}", first.lsn, first.what),
        Some(&format!(
            "It was read twice, and was archived as it is. Recovery will end at {}.{more}",
            first.record.unwrap_or(first.lsn)
        )),
        Some(
            "Take a base backup now: \"pitr-archive backup\". No recovery from an older one can get \
             past this place. Then check the memory and the disk of the server.",
        ),
    );
}

fn wal_file_name(name: &str) -> Result<WalFileName, Failure> {
    Ok(name.parse::<WalFileName>()?)
}

fn open(path: &Path) -> Result<WalFile, Failure> {
    WalFile::open(path).map_err(|error| {
        let place = std::env::current_dir().map_or_else(
            |_| String::new(),
            |here| format!(" (working directory {})", here.display()),
        );
        let relative = if path.is_relative() { &place } else { "" };
        Failure::new(format!("could not open \"{}\"{relative}", path.display()))
            .with_detail(error.to_string())
            .with_hint(
                "In archive_command %p is the path of the file, relative to the data directory, \
                 and %f its name.",
            )
    })
}

/// Whose segment it is, by its own first page.
fn identity_of_segment(
    name: &WalFileName,
    source: &mut WalFile,
) -> Result<ClusterIdentity, Failure> {
    let unreadable = |error: std::io::Error, origin: String| {
        Failure::new(format!("could not read \"{origin}\"")).with_detail(error.to_string())
    };
    let mut first = [0; FIRST_BYTES];
    let mut filled = 0;
    while filled < FIRST_BYTES {
        match source.read(&mut first[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error, source.origin())),
        }
    }
    source
        .rewind()
        .map_err(|error| unreadable(error, source.origin()))?;
    Ok(identify(name, &first[..filled], source.content_bytes())?.cluster)
}

/// Whose file it is, where several repositories are to have it.
fn identity(
    arguments: &PushArguments,
    name: &WalFileName,
    path: &Path,
    source: &mut WalFile,
    set: &RepositorySet,
) -> Result<ClusterIdentity, Failure> {
    if matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_)) {
        return identity_of_segment(name, source);
    }
    if let Owner::Known(identity) = owner_of_text_file(arguments, path)? {
        return Ok(identity);
    }
    // whichever repository knows the cluster
    let mut first_failure = None;
    let mut known: Option<(ClusterIdentity, String)> = None;
    let reached = set.open();
    for repository in &reached.repositories {
        let identity = match cluster_of_text_file(arguments, name, path, repository) {
            Ok(cluster) => cluster.identity(),
            Err(failure) => {
                first_failure.get_or_insert(failure);
                continue;
            }
        };
        match &known {
            None => known = Some((identity, repository.location())),
            Some((other, location)) if *other != identity => {
                return Err(Failure::new(format!(
                    "repository \"{location}\" holds cluster {}, repository \"{}\" holds cluster {}",
                    other.system_identifier,
                    repository.location(),
                    identity.system_identifier
                ))
                .with_hint("Repositories that are named together must be of the same cluster."));
            }
            Some(_) => {}
        }
    }
    match (known, first_failure, reached.unreached.into_iter().next()) {
        (Some((identity, _)), _, _) => Ok(identity),
        (None, _, Some(unreached)) => Err(unreached.error.into()),
        (None, Some(failure), None) => Err(failure),
        (None, None, None) => Err(Failure::new("no repository was named")),
    }
}

/// What tells whose a history or backup history file is: these are plain text
/// and do not say so themselves.
enum Owner {
    /// The data directory that it lies in.
    Known(ClusterIdentity),
    /// The user.
    Named(SystemIdentifier),
    /// Nothing: there must be only one cluster that it can be.
    Unknown,
}

fn owner_of_text_file(arguments: &PushArguments, path: &Path) -> Result<Owner, Failure> {
    let named = arguments.system_identifier.as_deref();
    let named = named.map(repository::system_identifier).transpose()?;
    let near = DataDirectory::above_wal_file(path).map(|data| data.control_file());
    match (near, named) {
        (Some(Ok(control)), named) => {
            if let Some(named) = named.filter(|named| *named != control.system_identifier) {
                return Err(Failure::new(format!(
                    "\"{}\" lies in the data directory of cluster {}, not of cluster {named}",
                    path.display(),
                    control.system_identifier
                ))
                .with_hint("Give the right --system-identifier, or none."));
            }
            Ok(Owner::Known(ClusterIdentity {
                system_identifier: control.system_identifier,
                major: control.major,
                segment_size: control.wal_segment_size,
            }))
        }
        (_, Some(named)) => Ok(Owner::Named(named)),
        (Some(Err(error)), None) if !error.is_absence() => {
            Err(Failure::from_error(&error).with_hint_of(error.hint()))
        }
        _ => Ok(Owner::Unknown),
    }
}

/// The cluster of a history or backup history file, in one repository.
fn cluster_of_text_file(
    arguments: &PushArguments,
    name: &WalFileName,
    path: &Path,
    repository: &Repository,
) -> Result<Cluster, Failure> {
    match owner_of_text_file(arguments, path)? {
        // the first file of a cluster may be a history file
        Owner::Known(identity) => Ok(repository.claim(&identity)?),
        Owner::Named(named) => repository::cluster(repository, Some(named)),
        Owner::Unknown => repository::cluster(repository, None).map_err(|failure| {
            failure.with_hint(format!(
                "\"{name}\" does not say whose it is: name the cluster with --system-identifier."
            ))
        }),
    }
}
