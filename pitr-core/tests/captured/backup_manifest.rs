//! Manifests of real backups.

use pitr_core::crc32c;
use std::io::Read;

use pitr_core::{
    BackupLabel, BackupManifest, BackupManifestError, ControlFile, FileChecksum, ManifestFile,
};

use crate::{MAJORS, captured};

fn manifest_bytes(major: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(captured(major, "backup_manifest.gz").as_slice())
        .read_to_end(&mut bytes)
        .expect("the fixture is gzip");
    bytes
}

fn file<'a>(manifest: &'a BackupManifest, path: &[u8]) -> &'a ManifestFile {
    manifest
        .files
        .iter()
        .find(|file| file.path == path)
        .expect("the manifest lists the file")
}

#[test]
fn every_entry_is_read() {
    for major in MAJORS {
        let bytes = manifest_bytes(major);
        let manifest = BackupManifest::parse(&bytes).unwrap();
        assert_eq!(manifest.version, if major < 17 { 1 } else { 2 });
        let entries = bytes
            .windows(8)
            .filter(|window| window == b"\"Size\": ")
            .count();
        assert!(entries > 300);
        assert_eq!(manifest.files.len(), entries);
        assert!(
            manifest
                .files
                .iter()
                .all(|file| file.last_modified.is_some() && file.checksum.is_some())
        );
        assert_eq!(file(&manifest, b"caf\xE9").size, 0);
    }
}

#[test]
fn version_2_names_the_cluster_of_the_control_file() {
    for major in MAJORS {
        let manifest = BackupManifest::parse(&manifest_bytes(major)).unwrap();
        let control = ControlFile::parse(&captured(major, "pg_control.production")).unwrap();
        let expected = (major >= 17).then_some(control.system_identifier);
        assert_eq!(manifest.system_identifier, expected);
    }
}

#[test]
fn size_and_checksum_are_those_of_the_files() {
    for major in MAJORS {
        let manifest = BackupManifest::parse(&manifest_bytes(major)).unwrap();
        for name in ["backup_label", "tablespace_map"] {
            let bytes = captured(major, name);
            let entry = file(&manifest, name.as_bytes());
            assert_eq!(entry.size, bytes.len() as u64);
            assert_eq!(
                entry.checksum,
                Some(FileChecksum::from_crc32c(crc32c::crc32c(&bytes))),
                "{name} of {major}"
            );
        }
    }
}

#[test]
fn the_range_of_wal_begins_where_the_label_says() {
    for major in MAJORS {
        let manifest = BackupManifest::parse(&manifest_bytes(major)).unwrap();
        let label = BackupLabel::parse(&captured(major, "backup_label")).unwrap();
        let [range] = manifest.wal_ranges[..] else {
            panic!("{major}: {:?}", manifest.wal_ranges)
        };
        assert_eq!(
            (range.timeline, range.start),
            (label.timeline(), label.start_wal)
        );
        assert!(range.end > label.checkpoint);
    }
}

#[test]
fn a_manifest_written_anew_no_longer_counts() {
    let text = String::from_utf8(manifest_bytes(15)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let anew = serde_json::to_string(&value).unwrap();
    assert_eq!(
        BackupManifest::parse(anew.as_bytes()),
        Err(BackupManifestError::ChecksumLine)
    );
    let spaced = text.replacen("\"Files\": [", "\"Files\":  [", 1);
    assert!(matches!(
        BackupManifest::parse(spaced.as_bytes()),
        Err(BackupManifestError::Checksum { .. })
    ));
}
