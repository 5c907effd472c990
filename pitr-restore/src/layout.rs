//! Where everything of a backup goes on this machine, checked before anything
//! is made.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use pitr_console::{ByteCount, Explain};
use pitr_core::{ControlFile, ControlFileError};
use pitr_store::backup::{Archive, BackupReadError, BackupReader, EndBlocks, PartName, TarReader};

use crate::os_user::OsUser;
use crate::request::RestoreRequest;
use crate::target_directory::{OccupiedError, TargetDirectory};

/// No control file is larger.
const MAX_CONTROL_BYTES: u64 = 1 << 20;

/// Segments that recovery keeps in `pg_wal` at least, on top of the backup.
const WAL_SEGMENTS_KEPT: u64 = 4;

/// The directories that a restore fills.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The data directory.
    pub(crate) directory: TargetDirectory,
    /// The tablespaces outside of it.
    pub(crate) tablespaces: Vec<TablespaceTarget>,
    /// Whom everything is given to; `None` where this user restores for
    /// himself.
    pub(crate) owner: Option<OsUser>,
    /// The cluster's own folder in each tablespace, where one is occupied.
    pub(crate) version_directory: Option<String>,
    /// Bytes that the files take.
    pub(crate) needed_bytes: u64,
    /// Bytes free where the data directory lies.
    pub(crate) available_bytes: u64,
}

/// Where one tablespace goes.
#[derive(Debug)]
pub(crate) struct TablespaceTarget {
    pub(crate) oid: u32,
    /// Where it lay on the original server.
    pub(crate) old: PathBuf,
    /// Where it goes.
    pub(crate) directory: TargetDirectory,
}

/// Why there is no place for the backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    /// The data directory cannot be filled.
    #[error(transparent)]
    Directory(OccupiedError),
    /// A tablespace's directory cannot be filled.
    #[error("tablespace {oid} cannot be put into \"{}\": {source}", path.display())]
    Tablespace {
        /// The tablespace.
        oid: u32,
        /// Where it was to go.
        path: PathBuf,
        /// Why it cannot.
        source: OccupiedError,
    },
    /// The original place of a tablespace exists on this machine, and nobody
    /// said that it is meant.
    #[error("tablespace {oid} lay in \"{}\", which exists on this machine", path.display())]
    TablespaceExists {
        /// The tablespace.
        oid: u32,
        /// Its place.
        path: PathBuf,
    },
    /// A tablespace's place is no absolute path.
    #[error("tablespace {oid} lay in \"{}\", which is no absolute path", path.display())]
    TablespaceRelative {
        /// The tablespace.
        oid: u32,
        /// Its place.
        path: PathBuf,
    },
    /// `--tablespace` names a place that no tablespace had.
    #[error("the backup has no tablespace in \"{}\"", path.display())]
    UnknownTablespace {
        /// What was named.
        path: PathBuf,
        /// The places that there are.
        known: Vec<PathBuf>,
    },
    /// Two directories would lie one in the other.
    #[error("\"{}\" and \"{}\" lie one in the other", one.display(), other.display())]
    Nested {
        /// One.
        one: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// The disk is too small.
    #[error(
        "\"{}\" has too little room: {} needed, {} available", path.display(),
        ByteCount(*needed_bytes), ByteCount(*available_bytes)
    )]
    NoRoom {
        /// A directory on that disk.
        path: PathBuf,
        /// Bytes that go there.
        needed_bytes: u64,
        /// Bytes free there.
        available_bytes: u64,
    },
    /// Root restores, and the files' owner is not known here.
    #[error("a server does not run as root, and the backup's files belong to user {uid}, who {}", if *uid == 0 { "is root" } else { "does not exist on this machine" })]
    NoOwner {
        /// The number in the backup.
        uid: u64,
    },
    /// The backup could not be read.
    #[error(transparent)]
    Backup(#[from] BackupReadError),
    /// The backup's control file cannot be read.
    #[error("the backup's global/pg_control cannot be read: {source}")]
    ControlFile {
        /// What is wrong with it.
        source: ControlFileError,
    },
    /// The backup has no files.
    #[error("the backup holds nothing")]
    Empty,
    /// A directory could not be examined.
    #[error("could not examine \"{}\": {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl Explain for LayoutError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Directory(source) => return source.hint(),
            Self::Tablespace { source, path, .. } => {
                let hint = source.hint().unwrap_or_default();
                format!(
                    "{hint} --tablespace {}=NEW puts it elsewhere.",
                    path.display()
                )
                .trim_start()
                .to_owned()
            }
            Self::TablespaceExists { path, .. } => format!(
                "--tablespace {0}=NEW puts it elsewhere; --tablespace {0}={0} puts it there again, if that is empty or, with --delta, this data directory's own.",
                path.display()
            ),
            Self::TablespaceRelative { .. } | Self::Empty | Self::ControlFile { .. } => {
                return None;
            }
            Self::UnknownTablespace { known, .. } if known.is_empty() => {
                "The backup has no tablespaces: leave --tablespace out.".to_owned()
            }
            Self::UnknownTablespace { known, .. } => format!(
                "There are: {}.",
                known
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            Self::Nested { .. } => "Name directories side by side.".to_owned(),
            Self::NoRoom { .. } => {
                "Free space there, restore elsewhere, or move tablespaces with --tablespace."
                    .to_owned()
            }
            Self::NoOwner { .. } => {
                "Run it as the user that is to run the server: sudo -u postgres pitr-restore …"
                    .to_owned()
            }
            Self::Backup(source) => return source.hint(),
            Self::Io { .. } => return None,
        })
    }
}

impl Layout {
    /// Finds a place for everything in the backup.
    ///
    /// # Errors
    /// The first reason against it; nothing was made.
    pub(crate) fn arrange(
        reader: &BackupReader,
        request: &RestoreRequest,
    ) -> Result<Self, LayoutError> {
        let directory = if request.delta {
            let cluster = reader.info().system_identifier;
            TargetDirectory::examine_data_directory(&request.directory, cluster)
        } else {
            TargetDirectory::examine(&request.directory)
        }
        .map_err(LayoutError::Directory)?;
        let tablespaces = tablespaces(reader, request, &directory)?;
        check_nesting(&directory, &tablespaces)?;
        let owner = owner(reader, &directory)?;
        let is_shared = |tablespace: &TablespaceTarget| tablespace.directory.is_occupied();
        let version_directory = if tablespaces.iter().any(is_shared) {
            Some(version_directory(reader)?)
        } else {
            None
        };
        let (needed_bytes, available_bytes) = check_room(
            reader,
            &directory,
            &tablespaces,
            version_directory.as_deref(),
        )?;
        Ok(Self {
            directory,
            tablespaces,
            owner,
            version_directory,
            needed_bytes,
            available_bytes,
        })
    }

    /// Every directory that is filled, the data directory first.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &TargetDirectory> {
        let tablespaces = self
            .tablespaces
            .iter()
            .map(|tablespace| &tablespace.directory);
        std::iter::once(&self.directory).chain(tablespaces)
    }

    /// Where the files of an archive go.
    pub(crate) fn folder_of(&self, archive: Archive) -> Option<&TargetDirectory> {
        match archive {
            Archive::Base => Some(&self.directory),
            Archive::Tablespace(oid) => self
                .tablespaces
                .iter()
                .find(|tablespace| tablespace.oid == oid)
                .map(|tablespace| &tablespace.directory),
        }
    }

    /// Whether any tablespace goes elsewhere than it came from.
    pub(crate) fn moves_tablespaces(&self) -> bool {
        self.tablespaces
            .iter()
            .any(|tablespace| tablespace.old != tablespace.directory.path())
    }
}

fn tablespaces(
    reader: &BackupReader,
    request: &RestoreRequest,
    data_directory: &TargetDirectory,
) -> Result<Vec<TablespaceTarget>, LayoutError> {
    let known = &reader.info().tablespaces;
    let mappings = &request.tablespaces;
    for mapping in mappings {
        if !known
            .iter()
            .any(|tablespace| Path::new(&tablespace.location) == mapping.old)
        {
            return Err(LayoutError::UnknownTablespace {
                path: mapping.old.clone(),
                known: known
                    .iter()
                    .map(|tablespace| PathBuf::from(&tablespace.location))
                    .collect(),
            });
        }
    }
    known
        .iter()
        .map(|tablespace| {
            let oid = tablespace.oid;
            let old = PathBuf::from(&tablespace.location);
            if !old.is_absolute() {
                return Err(LayoutError::TablespaceRelative { oid, path: old });
            }
            let mapping = mappings.iter().find(|mapping| mapping.old == old);
            let path = mapping.map_or(&old, |mapping| &mapping.new);
            if mapping.is_none() && std::fs::symlink_metadata(path).is_ok() {
                return Err(LayoutError::TablespaceExists { oid, path: old });
            }
            let directory = if request.delta {
                TargetDirectory::examine_tablespace(path, oid, data_directory)
            } else {
                TargetDirectory::examine(path)
            }
            .map_err(|source| LayoutError::Tablespace {
                oid,
                path: path.clone(),
                source,
            })?;
            Ok(TablespaceTarget {
                oid,
                old,
                directory,
            })
        })
        .collect()
}

fn check_nesting(
    directory: &TargetDirectory,
    tablespaces: &[TablespaceTarget],
) -> Result<(), LayoutError> {
    let mut seen: Vec<&Path> = vec![directory.path()];
    for path in tablespaces
        .iter()
        .map(|tablespace| tablespace.directory.path())
    {
        if let Some(other) = seen
            .iter()
            .find(|other| path.starts_with(other) || other.starts_with(path))
        {
            return Err(LayoutError::Nested {
                one: other.to_path_buf(),
                other: path.to_owned(),
            });
        }
        seen.push(path);
    }
    Ok(())
}

/// As root: the owner of the empty directory that was prepared, else the user
/// whose files the backup has. A server refuses to run as root.
fn owner(
    reader: &BackupReader,
    directory: &TargetDirectory,
) -> Result<Option<OsUser>, LayoutError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    if directory.exists() {
        let prepared = OsUser::owner_of(directory.path()).map_err(|source| LayoutError::Io {
            path: directory.path().to_owned(),
            source,
        })?;
        if let Some(user) = prepared
            && !user.owner.uid.is_root()
        {
            return Ok(Some(user));
        }
    }
    let uid = recorded_uid(reader)?;
    u32::try_from(uid)
        .ok()
        .filter(|uid| *uid != 0)
        .and_then(OsUser::by_uid)
        .map(Some)
        .ok_or(LayoutError::NoOwner { uid })
}

/// The owner of the first member of the data directory's archive.
fn recorded_uid(reader: &BackupReader) -> Result<u64, LayoutError> {
    let first: Option<PartName> = reader
        .info()
        .parts
        .iter()
        .map(|part| part.name)
        .find(|name| name.archive() == Archive::Base);
    let first = first.ok_or(LayoutError::Empty)?;
    let mut tar = TarReader::new(
        reader.open_part(&first)?,
        Archive::Base,
        EndBlocks::Required,
    );
    match tar.next_member() {
        Ok(Some(member)) => Ok(member.uid),
        // damaged: laying it down will say how
        Ok(None) | Err(_) => Err(LayoutError::Empty),
    }
}

/// The folder of the cluster in each of its tablespaces: everything else there
/// is another cluster's.
fn version_directory(reader: &BackupReader) -> Result<String, LayoutError> {
    let path = "global/pg_control"
        .parse()
        .map_err(|_| LayoutError::Empty)?;
    let bytes = reader.read_member(&path, MAX_CONTROL_BYTES)?;
    ControlFile::parse(&bytes)
        .map(|control| control.tablespace_version_directory())
        .map_err(|source| LayoutError::ControlFile { source })
}

/// Bytes that the files below `path` take on `device`; links are not followed.
fn bytes_on(path: &Path, device: u64) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    let mut bytes: u64 = 0;
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.dev() != device {
            continue;
        }
        bytes = bytes.saturating_add(if metadata.is_dir() {
            bytes_on(&entry.path(), device)
        } else if metadata.nlink() == 1 {
            metadata.blocks().saturating_mul(512)
        } else {
            0
        });
    }
    bytes
}

/// What goes to each disk must fit on it. Returns the bytes of everything,
/// and those available where the data directory lies.
fn check_room(
    reader: &BackupReader,
    directory: &TargetDirectory,
    tablespaces: &[TablespaceTarget],
    version_directory: Option<&str>,
) -> Result<(u64, u64), LayoutError> {
    let info = reader.info();
    let bytes_of = |archive: Archive| -> u64 {
        info.parts
            .iter()
            .filter(|part| part.name.archive() == archive)
            .map(|part| part.raw_bytes)
            .sum()
    };
    let room = |folder: &TargetDirectory, below: Option<&str>| {
        let failed = |source| LayoutError::Io {
            path: folder.path().to_owned(),
            source,
        };
        let (device, mut available) = folder.room().map_err(failed)?;
        if folder.is_occupied() {
            // written anew or deleted, file by file
            let path =
                below.map_or_else(|| folder.path().to_owned(), |name| folder.path().join(name));
            available = available.saturating_add(bytes_on(&path, device));
        }
        Ok::<_, LayoutError>((device, available))
    };
    let wal_bytes = info.segment_size.bytes().saturating_mul(WAL_SEGMENTS_KEPT);
    let (device, available_bytes) = room(directory, None)?;
    let needed_in_base = bytes_of(Archive::Base).saturating_add(wal_bytes);
    let mut disks = BTreeMap::from([(device, (directory.path(), needed_in_base, available_bytes))]);
    for tablespace in tablespaces {
        let (device, available) = room(&tablespace.directory, version_directory)?;
        let bytes = bytes_of(Archive::Tablespace(tablespace.oid));
        let disk = disks
            .entry(device)
            .or_insert((tablespace.directory.path(), 0, available));
        disk.1 = disk.1.saturating_add(bytes);
    }
    let mut total: u64 = 0;
    for (path, needed_bytes, available_bytes) in disks.into_values() {
        if needed_bytes > available_bytes {
            return Err(LayoutError::NoRoom {
                path: path.to_owned(),
                needed_bytes,
                available_bytes,
            });
        }
        total = total.saturating_add(needed_bytes);
    }
    Ok((total, available_bytes))
}
