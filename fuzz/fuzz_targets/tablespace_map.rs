//! Tablespace maps: what is read can be written, and reads back the same, by the rules of 13 and of its successors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_core::{PostgresMajor, TablespaceMap};

fuzz_target!(|file: &[u8]| {
    for major in [13, 18].map(|major| PostgresMajor::new(major).unwrap()) {
        if let Ok(map) = TablespaceMap::parse_for(major, file) {
            let written = map.to_bytes_for(major);
            assert_eq!(TablespaceMap::parse_for(major, &written), Ok(map));
        }
    }
});
