//! Control files: as they are, and with the CRC made right, which chance would not do.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_core::ControlFile;
use pitr_core::crc32c;

fuzz_target!(|file: &[u8]| {
    let _ = ControlFile::parse(file);
    for crc_offset in [288, 292, 308] {
        let Some(covered) = file.get(..crc_offset) else {
            return;
        };
        let mut sealed = covered.to_vec();
        sealed.extend_from_slice(&crc32c::crc32c(covered).to_le_bytes());
        if let Ok(control) = ControlFile::parse(&sealed) {
            let _ = (
                control.redo(),
                control.timeline(),
                control.tablespace_version_directory(),
            );
            let _ = (
                control.updated.to_string(),
                control.checkpoint_copy.time.to_string(),
            );
        }
    }
});
