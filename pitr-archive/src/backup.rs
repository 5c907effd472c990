//! `pitr-archive backup`: takes a base backup over the replication protocol.
//!
//! The steps in order: ask the server, claim the repository, stream the
//! archives into parts, prove them against the manifest, wait for the WAL,
//! and then let the backup exist by one last write.

mod clock;
mod report;
mod server;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pitr_console::{Console, Failure, Progress, Settings, TransferRate};
use pitr_core::{BackupFrom, BackupLabel, BackupManifest, SegmentName, TimelineId, WalFileName};
use pitr_postgres::{
    BackupEnd, BackupMember, BackupStart, BaseBackup, BaseBackupOptions, CheckpointMode, Connection,
};
use pitr_store::backup::{
    Archive, BackupCatalog, BackupDetails, BackupOptions, BackupSource, BackupWriter, Tablespace,
};

use pitr_store::Codec;
use pitr_store::wal::{WalArchive, WalBytes};

use crate::arguments::{BackupArguments, CheckpointMode as CheckpointArgument};
use crate::manners::step_back;
use crate::targets::Targets;
use crate::{manifest_proof, needed_wal};
use clock::Skew;
use needed_wal::Stretch;
use server::{Archiving, Facts, Server};

pub(crate) use server::{query_failure, segment_size};

pub(crate) use report::report;

/// SQLSTATE of a history that the server does not have.
const UNDEFINED_FILE: &str = "58P01";

/// Largest manifest that is read back: that of ten million files fits.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 2 << 30;

pub(crate) fn backup(
    arguments: &BackupArguments,
    settings: &Settings,
    console: Console,
) -> Result<(), Failure> {
    let started = Instant::now();
    let max_rate = max_rate(arguments, settings)?;
    step_back(arguments.nice.unwrap_or(settings.nice));
    let targets = Targets::open(settings, console)?;
    let connection_string = arguments
        .dbname
        .as_deref()
        .or(settings.connection.as_deref());
    let Server {
        mut connection,
        facts,
    } = server::connect(connection_string, console)?;
    let copies = targets.claim(&facts.identity())?;
    let cluster = &copies.first;
    warn_of_what_will_fail(&facts, console);

    let catalog = cluster.backups();
    clean_abandoned(&catalog, console);
    let mut writer = catalog.begin(
        Utc::now(),
        backup_options(arguments.threads, arguments.parts_in_flight, settings),
    )?;
    let options = base_backup_options(arguments, max_rate);
    let copied = copy(&mut connection, &options, &mut writer, console)?;
    let manifest = manifest_proof::read(&copied.manifest, "the server")?;
    manifest_proof::prove(&manifest, writer.files()?)?;

    let needed = needed_wal::segments(
        &stretches(&manifest, &copied.start, &copied.end),
        facts.segment_size,
    )?;
    let patience = Duration::from_secs(arguments.wal_wait.unwrap_or(settings.wal_wait_seconds));
    keep_histories(&mut connection, &cluster.wal(), &needed, console)?;
    needed_wal::wait(&copies.archives(), &needed, patience, console)?;
    copies.complete_first(&needed)?;

    let Times { begun, arrived, .. } = copied.times;
    let skew = Skew::of(&manifest, begun, arrived);
    skew.warn(console);
    let details = details(&writer, facts, &manifest, skew, copied)?;
    let info = writer.commit(details)?;
    let threads = arguments.threads.unwrap_or(settings.threads);
    copies.spread(&info, &needed, threads, console)?;
    report(&info, started.elapsed(), arguments.json, console)
}

/// When it came, by this machine's clock.
struct Times {
    /// The server had made its checkpoint.
    begun: DateTime<Utc>,
    /// The data directory's archive began to arrive.
    arrived: DateTime<Utc>,
    /// The server had ended the backup.
    ended: DateTime<Utc>,
}

/// What came over the connection, apart from the files themselves.
struct Copied {
    start: BackupStart,
    end: BackupEnd,
    manifest: Vec<u8>,
    times: Times,
}

fn warn_of_what_will_fail(facts: &Facts, console: Console) {
    if let Archiving::Off { why } = &facts.archiving {
        console.warn(
            format!("the server does not archive its WAL: {why}"),
            Some("The backup needs the WAL that is written while it is taken, and waits for it."),
            Some("Set archive_mode = on and archive_command = 'pitr-archive %p %f'."),
        );
    }
    if facts.settings.data_checksums == Some(false) {
        console.log(
            "the cluster has no data checksums: pages that are damaged on the server's disk \
             are backed up unnoticed",
        );
    }
}

/// Removes what killed backups left, and says so. Where it cannot, a new backup
/// is worth more than the room that they take.
pub(crate) fn clean_abandoned(catalog: &BackupCatalog, console: Console) {
    let cleaned = match catalog.clean_abandoned() {
        Ok(cleaned) => cleaned,
        Err(error) => {
            let failure = Failure::from(error);
            return console.warn(
                "could not remove what is left of unfinished backups",
                Some(failure.message()),
                failure.hint(),
            );
        }
    };
    for label in cleaned.removed {
        console.log(format!(
            "removed what was left of unfinished backup {label}"
        ));
    }
    for label in cleaned.running {
        console.log(format!("backup {label} is being taken by another process"));
    }
}

/// How the parts are written: as asked for, or as the configuration says.
pub(crate) fn backup_options(
    threads: Option<usize>,
    parts_in_flight: Option<NonZeroUsize>,
    settings: &Settings,
) -> BackupOptions {
    BackupOptions {
        threads: NonZeroUsize::new(threads.unwrap_or(settings.threads)),
        parts_in_flight: parts_in_flight.unwrap_or(settings.parts_in_flight),
        ..BackupOptions::default()
    }
}

/// The limit of the rate; `max_rate` of the configuration is only read where
/// it counts.
fn max_rate(
    arguments: &BackupArguments,
    settings: &Settings,
) -> Result<Option<TransferRate>, Failure> {
    match (&arguments.max_rate, &settings.max_rate) {
        (Some(rate), _) => Ok(Some(*rate)),
        (None, None) => Ok(None),
        (None, Some(text)) => text.parse().map(Some).map_err(|error| {
            Failure::from_error(&error).with_hint("It stands as max_rate in the configuration.")
        }),
    }
}

fn base_backup_options(
    arguments: &BackupArguments,
    max_rate: Option<TransferRate>,
) -> BaseBackupOptions {
    BaseBackupOptions {
        label: arguments.label.clone(),
        checkpoint: match arguments.checkpoint {
            CheckpointArgument::Fast => CheckpointMode::Fast,
            CheckpointArgument::Spread => CheckpointMode::Spread,
        },
        max_rate_kb_per_s: max_rate.map(TransferRate::kb_per_s),
        ..BaseBackupOptions::default()
    }
}

/// Streams everything that the server sends into `writer`.
fn copy(
    connection: &mut Connection,
    options: &BaseBackupOptions,
    writer: &mut BackupWriter,
    console: Console,
) -> Result<Copied, Failure> {
    if console.is_terminal() {
        console.log("waiting for the server's checkpoint");
    }
    let mut stream = connection
        .base_backup(options)
        .map_err(|error| backup_failure(&error))?;
    let begun = Utc::now();
    let start = stream.start().clone();
    let expected = start.size_kb().unwrap_or(0).saturating_mul(1024);
    let progress = Arc::new(Progress::start(
        console,
        format!("backup {}", writer.label()),
        expected,
    ));
    let mut told = 0;
    let shown = Arc::clone(&progress);
    writer.on_progress(move |now| {
        shown.advance(now.raw_bytes - told);
        told = now.raw_bytes;
    });
    let (manifest, arrived) = receive(&mut stream, writer)?;
    let end = stream.finish().map_err(|error| backup_failure(&error))?;
    progress.finish();

    let ended = Utc::now();
    Ok(Copied {
        start,
        end,
        manifest,
        times: Times {
            begun,
            arrived,
            ended,
        },
    })
}

/// The manifest, and when the data directory's archive began to arrive.
fn receive(
    stream: &mut BaseBackup<'_>,
    writer: &mut BackupWriter,
) -> Result<(Vec<u8>, DateTime<Utc>), Failure> {
    let mut manifest = Vec::new();
    let mut arrived = Utc::now();
    while let Some(member) = stream
        .next_member()
        .map_err(|error| backup_failure(&error))?
    {
        match member {
            BackupMember::Archive { tablespace, data } => {
                let archive = match tablespace.oid() {
                    Some(oid) => Archive::Tablespace(oid),
                    None => {
                        arrived = Utc::now();
                        Archive::Base
                    }
                };
                writer.add_tar(archive, data)?;
            }
            BackupMember::Manifest(data) => {
                use std::io::Read as _;
                data.take(MAX_MANIFEST_BYTES)
                    .read_to_end(&mut manifest)
                    .map_err(|error| {
                        Failure::new("could not read the manifest from the server")
                            .with_detail(error.to_string())
                    })?;
                writer.put_manifest(manifest.as_slice())?;
            }
        }
    }
    Ok((manifest, arrived))
}

fn backup_failure(error: &pitr_postgres::BackupError) -> Failure {
    let failure = Failure::from_error(error).with_hint_of(error.hint());
    match error.detail() {
        Some(detail) => failure.with_detail(detail),
        None => failure,
    }
}

/// Stores the histories of the backup's timelines where the repository lacks
/// them: a server that had changed its timeline before it archived here does
/// not offer its history again.
fn keep_histories(
    connection: &mut Connection,
    archive: &WalArchive,
    needed: &[SegmentName],
    console: Console,
) -> Result<(), Failure> {
    let timelines: BTreeSet<TimelineId> = needed.iter().map(SegmentName::timeline).collect();
    for timeline in timelines {
        let name = WalFileName::History(timeline);
        if timeline == TimelineId::FIRST || archive.locate(&name)?.is_some() {
            continue;
        }
        let history = match connection.timeline_history(timeline) {
            Ok(history) => history,
            // the server itself can do without
            Err(error) if error.code() == Some(UNDEFINED_FILE) => continue,
            Err(error) => return Err(query_failure(error)),
        };
        let origin = format!("{} of the server", history.name);
        archive.push(
            &name,
            &mut WalBytes::new(history.content, origin),
            Codec::None,
        )?;
        console.log(format!(
            "stored \"{name}\", which the repository did not have"
        ));
    }
    Ok(())
}

/// The manifest knows of a timeline that changed while a standby was backed
/// up; the command's own result does not.
fn stretches(manifest: &BackupManifest, start: &BackupStart, end: &BackupEnd) -> Vec<Stretch> {
    let listed = needed_wal::of_manifest(manifest);
    if listed.is_empty() {
        return vec![Stretch {
            timeline: start.timeline,
            start: start.lsn,
            end: end.lsn,
        }];
    }
    listed
}

fn details(
    writer: &BackupWriter,
    facts: Facts,
    manifest: &BackupManifest,
    skew: Skew,
    copied: Copied,
) -> Result<BackupDetails, Failure> {
    let label = backup_label(writer)?;
    Ok(BackupDetails {
        postgres_version: facts.version,
        postgres_major: facts.major,
        system_identifier: facts.system_identifier,
        segment_size: facts.segment_size,
        timeline: copied.start.timeline,
        start_lsn: copied.start.lsn,
        stop_lsn: copied.end.lsn,
        checkpoint_lsn: label.checkpoint,
        start_time: skew.server_time(copied.times.begun),
        stop_time: skew.server_time(copied.times.ended),
        from: source_of(&label),
        tablespaces: copied
            .start
            .tablespaces
            .iter()
            .filter_map(|tablespace| {
                let (oid, location) = tablespace.location.as_ref()?;
                Some(Tablespace {
                    oid: *oid,
                    location: path_text(location),
                    size: tablespace.size_kb.map(|kb| kb.saturating_mul(1024)),
                })
            })
            .collect(),
        origin: facts.origin,
        settings: facts.settings,
        manifest_checksums: checksum_algorithm(manifest),
    })
}

/// The label that passed through `writer` on its way into the repository.
pub(crate) fn backup_label(writer: &BackupWriter) -> Result<BackupLabel, Failure> {
    let bytes = writer
        .collected("backup_label")
        .ok_or_else(|| Failure::new("the backup holds no backup_label"))?;
    BackupLabel::parse(bytes).map_err(|error| {
        Failure::new("the backup_label of the backup cannot be read").with_detail(error.to_string())
    })
}

pub(crate) fn source_of(label: &BackupLabel) -> BackupSource {
    match label.from {
        Some(BackupFrom::Standby) => BackupSource::Standby,
        _ => BackupSource::Primary,
    }
}

/// The algorithm of the manifest's checksums; the server uses one for all.
pub(crate) fn checksum_algorithm(manifest: &BackupManifest) -> Option<String> {
    let first = manifest.files.first()?;
    Some(match &first.checksum {
        Some(checksum) => checksum.algorithm.to_string(),
        None => "NONE".to_owned(),
    })
}

pub(crate) fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
