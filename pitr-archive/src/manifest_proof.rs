//! Proves that what was stored is what the server's manifest lists.

use std::collections::BTreeMap;

use pitr_console::Failure;
use pitr_core::{BackupManifest, ChecksumAlgorithm, ManifestFile};
use pitr_store::backup::PartIndex;

/// What a manifest never lists, although a backup holds it.
///
/// Source: `AddFileToBackupManifest` is not called for WAL,
/// src/backend/backup/basebackup.c; the ignore list of pg_verifybackup.
pub(crate) fn is_unlisted(path: &[u8]) -> bool {
    path.starts_with(b"pg_wal/")
        || [
            &b"backup_manifest"[..],
            b"postgresql.auto.conf",
            b"recovery.signal",
            b"standby.signal",
        ]
        .contains(&path)
}

/// Reads the manifest, proving its own checksum.
pub(crate) fn read(bytes: &[u8], origin: &str) -> Result<BackupManifest, Failure> {
    BackupManifest::parse(bytes).map_err(|error| {
        Failure::new(format!("the manifest of {origin} is not valid"))
            .with_detail(error.to_string())
            .with_hint_of(error.hint())
    })
}

/// Compares every stored file with the manifest: none missing, none more, each
/// of the right length, and with the right CRC-32C where the manifest has one.
pub(crate) fn prove(manifest: &BackupManifest, stored: &[PartIndex]) -> Result<(), Failure> {
    let mut listed: BTreeMap<&[u8], &ManifestFile> = manifest
        .files
        .iter()
        .map(|file| (file.path.as_slice(), file))
        .collect();
    for entry in stored.iter().flat_map(|part| &part.files) {
        let path = entry.path.as_bytes();
        let Some(file) = listed.remove(path) else {
            if is_unlisted(path) {
                continue;
            }
            return Err(differs(path, "it is in the backup and not in the manifest"));
        };
        if file.size != entry.length {
            return Err(differs(
                path,
                &format!(
                    "the manifest says {} bytes, {} were stored",
                    file.size, entry.length
                ),
            ));
        }
        if let Some(checksum) = &file.checksum
            && checksum.algorithm == ChecksumAlgorithm::Crc32c
            && checksum.value != entry.crc32c.to_le_bytes()
        {
            return Err(differs(path, "its CRC-32C is not that of the manifest"));
        }
    }
    match listed.keys().find(|path| !is_unlisted(path)) {
        Some(path) => Err(differs(path, "it is in the manifest and not in the backup")),
        None => Ok(()),
    }
}

pub(crate) fn differs(path: &[u8], how: &str) -> Failure {
    Failure::new(format!(
        "file \"{}\" of the backup does not match the manifest: {how}",
        String::from_utf8_lossy(path)
    ))
    .with_hint(
        "The backup was not kept. Take another one; if this comes again, check disks and network.",
    )
}
