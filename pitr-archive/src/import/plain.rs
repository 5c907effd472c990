//! A backup in plain format: a data directory, file by file.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pitr_console::Failure;
use pitr_store::backup::{Archive, Member, MemberKind, MemberPath};

use super::Intake;

/// What belongs to the folder and not to the backup.
const NOT_STORED: [&str; 2] = ["backup_manifest", "postmaster.opts"];

/// Stores the data directory at `root`, `global/pg_control` last.
pub(super) fn store_data_directory(
    intake: &mut Intake<'_, '_>,
    root: &Path,
) -> Result<(), Failure> {
    let mut last = None;
    walk(intake, Archive::Base, root, &mut Vec::new(), &mut last)?;
    match last {
        Some((name, path, metadata)) => store_file(intake, &name, &path, &metadata),
        None => Ok(()),
    }
}

/// Stores one tablespace.
pub(super) fn store_tablespace(
    intake: &mut Intake<'_, '_>,
    oid: u32,
    root: &Path,
) -> Result<(), Failure> {
    walk(
        intake,
        Archive::Tablespace(oid),
        root,
        &mut Vec::new(),
        &mut None,
    )
}

type Held = Option<(MemberPath, PathBuf, Metadata)>;

/// Folders before what is in them, in the order of their names.
fn walk(
    intake: &mut Intake<'_, '_>,
    archive: Archive,
    folder: &Path,
    name: &mut Vec<u8>,
    held: &mut Held,
) -> Result<(), Failure> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        entries.push(entry.map_err(|error| unreadable(folder, &error))?.path());
    }
    entries.sort();
    for path in entries {
        let last = path.file_name().unwrap_or_default();
        if archive == Archive::Base && name.is_empty() && is_not_stored(last) {
            continue;
        }
        let before = name.len();
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(last.as_bytes());
        let member = MemberPath::parse(name).map_err(|error| {
            Failure::new(format!("could not store \"{}\"", path.display()))
                .with_detail(error.to_string())
        })?;
        store(intake, archive, &path, member, name, held)?;
        name.truncate(before);
    }
    Ok(())
}

fn is_not_stored(name: &OsStr) -> bool {
    NOT_STORED.iter().any(|skipped| name == *skipped)
}

fn store(
    intake: &mut Intake<'_, '_>,
    archive: Archive,
    path: &Path,
    member: MemberPath,
    name: &mut Vec<u8>,
    held: &mut Held,
) -> Result<(), Failure> {
    let is_tablespace = archive == Archive::Base && member.tablespace_link().is_some();
    let metadata = std::fs::symlink_metadata(path).map_err(|error| unreadable(path, &error))?;
    if metadata.is_symlink() && is_tablespace {
        let target = std::fs::read_link(path).map_err(|error| unreadable(path, &error))?;
        let kind = MemberKind::Symlink {
            target: target.as_os_str().as_bytes().to_vec(),
        };
        return intake.empty(&describe(member, kind, &metadata));
    }
    // pg_wal may be a link to another disk (pg_basebackup --waldir)
    let metadata = if metadata.is_symlink() && name == b"pg_wal" {
        std::fs::metadata(path).map_err(|error| unreadable(path, &error))?
    } else {
        metadata
    };
    if metadata.is_dir() {
        intake.empty(&describe(member, MemberKind::Directory, &metadata))?;
        return walk(intake, archive, path, name, held);
    }
    if !metadata.is_file() {
        return Err(Failure::new(format!(
            "\"{}\" is neither a file nor a directory",
            path.display()
        ))
        .with_hint("pg_basebackup writes nothing of the kind: take it out of the backup."));
    }
    if archive == Archive::Base && name == b"global/pg_control" {
        *held = Some((member, path.to_owned(), metadata));
        return Ok(());
    }
    store_file(intake, &member, path, &metadata)
}

fn store_file(
    intake: &mut Intake<'_, '_>,
    member: &MemberPath,
    path: &Path,
    metadata: &Metadata,
) -> Result<(), Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    intake.file(&describe(member.clone(), MemberKind::File, metadata), file)
}

fn describe(path: MemberPath, kind: MemberKind, metadata: &Metadata) -> Member {
    let size = if kind == MemberKind::File {
        metadata.len()
    } else {
        0
    };
    Member {
        path,
        kind,
        mode: metadata.mode() & 0o7777,
        uid: u64::from(metadata.uid()),
        gid: u64::from(metadata.gid()),
        mtime: u64::try_from(metadata.mtime()).unwrap_or(0),
        size,
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("could not read \"{}\"", path.display())).with_detail(error.to_string())
}
