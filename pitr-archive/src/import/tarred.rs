//! A backup in tar format: member by member.

use pitr_console::Failure;
use pitr_store::backup::{
    Archive as BackupArchive, EndBlocks, MemberKind, MemberPath, TarError, TarReader,
};

use super::Intake;
use super::compressed;
use super::source::Archive;

/// Stores every member of one tar file; `prefix` goes before its names.
pub(super) fn store(
    intake: &mut Intake<'_, '_>,
    kind: BackupArchive,
    archive: &Archive,
    prefix: &[u8],
) -> Result<(), Failure> {
    let mut tar = open(kind, archive)?;
    while let Some(mut member) = tar
        .next_member()
        .map_err(|error| damaged(archive, &error))?
    {
        if !prefix.is_empty() {
            if member.path.is_root() {
                continue;
            }
            let mut name = prefix.to_vec();
            name.extend_from_slice(member.path.as_bytes());
            member.path = MemberPath::parse(&name).map_err(|error| {
                Failure::new(format!(
                    "could not store a file of {}",
                    archive.path.display()
                ))
                .with_detail(error.to_string())
            })?;
        }
        if member.kind == MemberKind::File {
            intake.file(&member, tar.data())?;
        } else {
            intake.empty(&member)?;
        }
    }
    Ok(())
}

/// Reads single small files of a tar file, by their names; those that are not
/// there are left out.
pub(super) fn collect(
    kind: BackupArchive,
    archive: &Archive,
    wanted: &[&str],
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    use std::io::Read as _;
    let mut tar = open(kind, archive)?;
    let mut found = Vec::new();
    while let Some(member) = tar
        .next_member()
        .map_err(|error| damaged(archive, &error))?
    {
        let Some(name) = wanted
            .iter()
            .find(|name| name.as_bytes() == member.path.as_bytes())
        else {
            continue;
        };
        let mut bytes = Vec::new();
        tar.data()
            .take(1 << 20)
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable(archive, &error))?;
        found.push(((*name).to_owned(), bytes));
        if found.len() == wanted.len() {
            break;
        }
    }
    Ok(found)
}

fn open(
    kind: BackupArchive,
    archive: &Archive,
) -> Result<TarReader<Box<dyn std::io::Read + Send>>, Failure> {
    let bytes = compressed::open(&archive.path, archive.compression)
        .map_err(|error| unreadable(archive, &error))?;
    Ok(TarReader::new(bytes, kind, EndBlocks::Optional))
}

fn unreadable(archive: &Archive, error: &std::io::Error) -> Failure {
    Failure::new(format!("could not read \"{}\"", archive.path.display()))
        .with_detail(error.to_string())
}

fn damaged(archive: &Archive, error: &TarError) -> Failure {
    let failure = Failure::from_error(error);
    Failure::new(format!(
        "\"{}\" is not a whole tar archive: {}",
        archive.path.display(),
        failure.message()
    ))
    .with_detail(failure.detail().unwrap_or("Nothing of it was kept."))
    .with_hint("Fetch the backup again from where it was taken; if it is cut off there too, take another one.")
}
