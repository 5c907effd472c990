//! Manifests: as they are, and with the checksum made right, which chance would not do.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_core::BackupManifest;
use sha2::{Digest, Sha256};

fuzz_target!(|body: &[u8]| {
    let _ = BackupManifest::parse(body);
    let mut sealed = body.to_vec();
    if sealed.last() != Some(&b'\n') {
        sealed.push(b'\n');
    }
    let line = format!(
        "\"Manifest-Checksum\": \"{:x}\"}}\n",
        Sha256::digest(&sealed)
    );
    sealed.extend_from_slice(line.as_bytes());
    if let Ok(manifest) = BackupManifest::parse(&sealed) {
        for file in &manifest.files {
            assert!(
                !file.path.starts_with(b"/") && !file.path.is_empty() && !file.path.contains(&0)
            );
            assert!(
                file.path
                    .split(|&byte| byte == b'/')
                    .all(|part| part != b".." && !part.is_empty())
            );
            if let Some(checksum) = &file.checksum {
                assert_eq!(checksum.value.len(), checksum.algorithm.value_len());
            }
        }
        assert!(
            manifest
                .wal_ranges
                .iter()
                .all(|range| range.start <= range.end)
        );
        let _ = manifest.total_size();
    }
});
