//! `pitr-archive import`: brings in a backup that `pg_basebackup` wrote.
//!
//! The steps in order: tell what lies there, learn whose it is, store file by
//! file while checking each against the manifest, see that its WAL can be had,
//! and then let the backup exist by one last write.

mod brought_wal;
mod checked;
mod compressed;
mod plain;
mod source;
mod tarred;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pitr_console::{Console, Failure, Progress, Settings};
use pitr_core::{BackupLabel, BackupManifest, ControlFile, SegmentName, TablespaceMap};
use pitr_postgres::DataDirectory;
use pitr_store::ClusterIdentity;
use pitr_store::backup::{
    Archive, ArchiveWriter, BackupDetails, BackupWriter, Member, MemberKind, Origin,
    Settings as ServerSettings, Tablespace,
};

use crate::arguments::ImportArguments;
use crate::backup::{
    MAX_MANIFEST_BYTES, backup_options, checksum_algorithm, clean_abandoned, report, source_of,
};
use crate::manners::step_back;
use crate::targets::Targets;
use crate::{manifest_proof, needed_wal};
use brought_wal::{BroughtWal, Head};
use checked::{Checklist, Hashing};
use source::{Source, SourceError};

/// Largest `backup_label` or `PG_VERSION` that is read.
const MAX_SMALL_BYTES: u64 = 1 << 20;

pub(crate) fn import(
    arguments: &ImportArguments,
    settings: &Settings,
    console: Console,
) -> Result<(), Failure> {
    let started = Instant::now();
    step_back(arguments.nice.unwrap_or(settings.nice));
    let targets = Targets::open(settings, console)?;
    let source = Source::find(&arguments.path).map_err(|error| source_failure(&error))?;
    let (manifest_bytes, manifest) = read_manifest(&arguments.path)?;
    let identity = Identity::read(&source)?;
    identity.check(&manifest)?;
    let needed = needed_wal::segments(
        &needed_wal::of_manifest(&manifest),
        identity.control.wal_segment_size,
    )?;

    let copies = targets.claim(&identity.cluster())?;
    let catalog = copies.first.backups();
    clean_abandoned(&catalog, console);
    let options = backup_options(arguments.threads, arguments.parts_in_flight, settings);
    let mut writer = catalog.begin(Utc::now(), options)?;
    let brought = store(&source, &manifest, identity.cluster(), &mut writer, console)?;
    writer.put_manifest(manifest_bytes.as_slice())?;
    // what was stored, once more, by what the index says of it
    manifest_proof::prove(&manifest, writer.files()?)?;

    let elsewhere: Vec<SegmentName> = needed
        .into_iter()
        .filter(|segment| !brought.holds(segment))
        .collect();
    needed_wal::wait(&copies.archives(), &elsewhere, Duration::ZERO, console)
        .map_err(|failure| failure.with_hint(
            "Archive the server's WAL into this repository first, or take the backup with its WAL: pg_basebackup -X stream.",
        ))?;
    copies.complete_first(&elsewhere)?;

    let finished = modified(&arguments.path.join("backup_manifest"))?;
    let details = identity.details(&manifest, finished);
    let info = writer.commit(details)?;
    let threads = arguments.threads.unwrap_or(settings.threads);
    copies.spread(&info, &elsewhere, threads, console)?;
    report(&info, started.elapsed(), arguments.json, console)
}

fn source_failure(error: &SourceError) -> Failure {
    Failure::from_error(error).with_hint_of(error.hint())
}

fn read_manifest(folder: &Path) -> Result<(Vec<u8>, BackupManifest), Failure> {
    let path = folder.join("backup_manifest");
    let bytes = match read_file(&path, MAX_MANIFEST_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(source_failure(&SourceError::NoManifest {
                path: folder.to_owned(),
            }));
        }
        Err(source) => {
            return Err(source_failure(&SourceError::Unreadable { path, source }));
        }
    };
    let manifest = manifest_proof::read(&bytes, &format!("\"{}\"", folder.display()))?;
    Ok((bytes, manifest))
}

/// Reads a regular file that may be anything: a backup comes from elsewhere.
fn read_file(path: &Path, max_bytes: u64) -> std::io::Result<Vec<u8>> {
    use std::io::{Error, ErrorKind};
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::new(
            ErrorKind::InvalidData,
            format!("it is larger than {max_bytes} bytes"),
        ));
    }
    Ok(bytes)
}

/// When the backup was finished: the manifest is the last file that
/// `pg_basebackup` writes. A later time does no harm but to hide that the
/// backup can reach targets before it.
fn modified(path: &Path) -> Result<DateTime<Utc>, Failure> {
    let time = std::fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .map_err(|error| {
            Failure::new(format!("could not read \"{}\"", path.display()))
                .with_detail(error.to_string())
        })?;
    Ok(DateTime::<Utc>::from(time).min(Utc::now()))
}

/// What the backup's own files say of it.
struct Identity {
    control: ControlFile,
    label: BackupLabel,
    tablespaces: Vec<Tablespace>,
    version: String,
}

impl Identity {
    fn read(source: &Source) -> Result<Self, Failure> {
        let (control, label, map, version) = match source {
            Source::Plain { root, .. } => {
                let control = DataDirectory::new(root)
                    .control_file()
                    .map_err(|error| Failure::from_error(&error).with_hint_of(error.hint()))?;
                let optional = |name: &str| read_file(&root.join(name), MAX_SMALL_BYTES).ok();
                (
                    control,
                    optional("backup_label"),
                    None,
                    optional("PG_VERSION"),
                )
            }
            Source::Tar { base, .. } => {
                let wanted = [
                    "backup_label",
                    "tablespace_map",
                    "PG_VERSION",
                    "global/pg_control",
                ];
                let mut found = tarred::collect(Archive::Base, base, &wanted)?;
                let mut take = |name: &str| {
                    let at = found.iter().position(|(known, _)| known == name)?;
                    Some(found.swap_remove(at).1)
                };
                let control = take("global/pg_control").ok_or_else(|| {
                    Failure::new(format!(
                        "\"{}\" holds no global/pg_control",
                        base.path.display()
                    ))
                    .with_hint("The server sends it last: the archive is cut off.")
                })?;
                (
                    ControlFile::parse(&control)?,
                    take("backup_label"),
                    take("tablespace_map"),
                    take("PG_VERSION"),
                )
            }
        };
        let label = label.ok_or_else(|| Failure::new("the backup holds no backup_label"))?;
        let label = BackupLabel::parse(&label).map_err(|error| {
            Failure::new("the backup_label of the backup cannot be read")
                .with_detail(error.to_string())
        })?;
        if label.incremental_from.is_some() {
            return Err(Failure::new("this is an incremental backup, which is not whole by itself")
                .with_hint("Put it together with the backups before it by pg_combinebackup, and import the result."));
        }
        let version = version.map_or_else(String::new, |v| {
            String::from_utf8_lossy(&v).trim().to_owned()
        });
        Ok(Self {
            tablespaces: tablespaces(source, map.as_deref())?,
            control,
            label,
            version,
        })
    }

    fn check(&self, manifest: &BackupManifest) -> Result<(), Failure> {
        const HINT: &str = "Put the manifest that belongs to this backup beside it.";
        if let Some(listed) = manifest.system_identifier
            && listed != self.control.system_identifier
        {
            return Err(Failure::new(format!(
                "the manifest is of cluster {listed}, the files are of cluster {}",
                self.control.system_identifier
            ))
            .with_hint(HINT));
        }
        // else nobody could say which WAL the backup needs
        let (timeline, start) = (self.label.timeline(), self.label.start_wal);
        let mut ranges = manifest.wal_ranges.iter();
        if !ranges.any(|range| range.timeline == timeline && range.start == start) {
            return Err(Failure::new(format!(
                "the manifest names no WAL from {start} on timeline {timeline} on, where the backup begins"
            ))
            .with_hint(HINT));
        }
        Ok(())
    }

    fn cluster(&self) -> ClusterIdentity {
        ClusterIdentity {
            system_identifier: self.control.system_identifier,
            major: self.control.major,
            segment_size: self.control.wal_segment_size,
        }
    }

    fn details(self, manifest: &BackupManifest, finished: DateTime<Utc>) -> BackupDetails {
        let required = self.control.required_settings;
        let stop_lsn = manifest
            .wal_ranges
            .iter()
            .map(|range| range.end)
            .max()
            .unwrap_or(self.label.start_wal);
        let start_time = self.start_time(manifest).unwrap_or(finished);
        // the clock of the one who took it may have been behind the server's
        let stop_time = finished.max(start_time);
        BackupDetails {
            postgres_version: self.version,
            postgres_major: self.control.major,
            system_identifier: self.control.system_identifier,
            segment_size: self.control.wal_segment_size,
            timeline: self.label.timeline(),
            start_lsn: self.label.start_wal,
            stop_lsn,
            checkpoint_lsn: self.label.checkpoint,
            start_time,
            stop_time,
            from: source_of(&self.label),
            tablespaces: self.tablespaces,
            origin: Origin::default(),
            settings: ServerSettings {
                max_connections: Some(required.max_connections),
                max_worker_processes: Some(required.max_worker_processes),
                max_wal_senders: Some(required.max_wal_senders),
                max_prepared_transactions: Some(required.max_prepared_transactions),
                max_locks_per_transaction: Some(required.max_locks_per_transaction),
                wal_level: Some(self.control.wal_level.as_str().to_owned()),
                data_checksums: Some(self.control.data_checksums()),
                ..ServerSettings::default()
            },
            manifest_checksums: checksum_algorithm(manifest),
        }
    }

    /// The server's time when it made `backup_label`, by the manifest.
    fn start_time(&self, manifest: &BackupManifest) -> Option<DateTime<Utc>> {
        manifest
            .files
            .iter()
            .find(|file| file.path == b"backup_label")?
            .last_modified?
            .to_datetime()
    }
}

/// Where the tablespaces lay: by the map of a tar backup, by the links of a
/// plain one.
fn tablespaces(source: &Source, map: Option<&[u8]>) -> Result<Vec<Tablespace>, Failure> {
    let described = |oid: u32, location: String| Tablespace {
        oid,
        location,
        size: None,
    };
    match source {
        Source::Plain { tablespaces, .. } => Ok(tablespaces
            .iter()
            .map(|(oid, target)| described(*oid, crate::backup::path_text(target)))
            .collect()),
        Source::Tar { tablespaces, .. } => {
            let map = TablespaceMap::parse(map.unwrap_or_default()).map_err(|error| {
                Failure::new("the tablespace_map of the backup cannot be read")
                    .with_detail(error.to_string())
            })?;
            tablespaces
                .keys()
                .map(|oid| {
                    let path = map.path(*oid).ok_or_else(|| {
                        Failure::new(format!(
                            "tablespace {oid} is not in the backup's tablespace_map"
                        ))
                        .with_hint(format!("Does {oid}.tar belong to this backup?"))
                    })?;
                    Ok(described(*oid, String::from_utf8_lossy(path).into_owned()))
                })
                .collect()
        }
    }
}

/// Stores all archives; gives the segments that the backup brings along.
fn store(
    source: &Source,
    manifest: &BackupManifest,
    cluster: ClusterIdentity,
    writer: &mut BackupWriter,
    console: Console,
) -> Result<BroughtWal, Failure> {
    let progress = Arc::new(Progress::start(
        console,
        format!("import {}", writer.label()),
        manifest.total_size(),
    ));
    let shown = Arc::clone(&progress);
    let mut told = 0;
    writer.on_progress(move |now| {
        shown.advance(now.raw_bytes - told);
        told = now.raw_bytes;
    });
    let mut checklist = Checklist::new(manifest);
    let mut brought = BroughtWal::new(cluster);
    match source {
        Source::Plain { root, tablespaces } => {
            for (oid, target) in tablespaces {
                let kind = Archive::Tablespace(*oid);
                let mut intake = Intake::begin(writer, kind, &mut checklist, &mut brought)?;
                plain::store_tablespace(&mut intake, *oid, target)?;
                intake.finish()?;
            }
            let mut intake = Intake::begin(writer, Archive::Base, &mut checklist, &mut brought)?;
            plain::store_data_directory(&mut intake, root)?;
            intake.finish()?;
        }
        Source::Tar {
            base,
            tablespaces,
            wal,
        } => {
            for (oid, tar) in tablespaces {
                let kind = Archive::Tablespace(*oid);
                let mut intake = Intake::begin(writer, kind, &mut checklist, &mut brought)?;
                tarred::store(&mut intake, kind, tar, b"")?;
                intake.finish()?;
            }
            let mut intake = Intake::begin(writer, Archive::Base, &mut checklist, &mut brought)?;
            tarred::store(&mut intake, Archive::Base, base, b"")?;
            if let Some(wal) = wal {
                tarred::store(&mut intake, Archive::Base, wal, b"pg_wal/")?;
            }
            intake.finish()?;
        }
    }
    checklist.finish()?;
    progress.finish();
    Ok(brought)
}

/// One archive on its way into the repository, checked as it goes.
struct Intake<'w, 'c> {
    archive: Archive,
    writer: ArchiveWriter<'w>,
    checklist: &'w mut Checklist<'c>,
    brought: &'w mut BroughtWal,
}

impl<'w, 'c> Intake<'w, 'c> {
    fn begin(
        writer: &'w mut BackupWriter,
        archive: Archive,
        checklist: &'w mut Checklist<'c>,
        brought: &'w mut BroughtWal,
    ) -> Result<Self, Failure> {
        Ok(Self {
            archive,
            writer: writer.archive(archive)?,
            checklist,
            brought,
        })
    }

    /// Stores one file, and refuses it unless it is what the manifest says.
    fn file(&mut self, member: &Member, data: impl Read) -> Result<(), Failure> {
        debug_assert_eq!(member.kind, MemberKind::File);
        let path = self.archive.manifest_path(&member.path);
        let listed = self.checklist.take(path.as_bytes(), member.size)?;
        let checksum = listed.and_then(|file| file.checksum.as_ref());
        let mut head = Head::new(data);
        let mut hashing = Hashing::new(&mut head, checksum);
        self.writer.append_member(member, &mut hashing)?;
        if !hashing.matches(checksum) {
            return Err(manifest_proof::differs(
                path.as_bytes(),
                "its checksum is not that of the manifest",
            ));
        }
        if let Some(segment) = BroughtWal::segment_of(&path) {
            self.brought.take(segment, head.kept(), member.size)?;
        }
        Ok(())
    }

    fn empty(&mut self, member: &Member) -> Result<(), Failure> {
        Ok(self.writer.append_empty(member)?)
    }

    fn finish(self) -> Result<(), Failure> {
        Ok(self.writer.finish()?)
    }
}
