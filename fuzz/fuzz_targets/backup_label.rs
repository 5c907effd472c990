//! Labels: what is read can be written, and reads back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_core::BackupLabel;

fuzz_target!(|file: &[u8]| {
    if let Ok(label) = BackupLabel::parse(file) {
        assert_eq!(BackupLabel::parse(&label.to_bytes()), Ok(label));
    }
});
