//! Parsers against files that servers of PostgreSQL 13 to 18 wrote. Their provenance stands in `tests/fixtures/README.md`.

mod backup_label;
mod backup_manifest;
mod control_file;
mod findings;
mod page_header;
mod stops;
mod tablespace_map;
mod timeline_history;
mod wal;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Every major version there are files of.
const MAJORS: [u16; 6] = [13, 14, 15, 16, 17, 18];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn captured(major: u16, name: &str) -> Vec<u8> {
    let path = folder().join(format!("v{major}")).join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn captured_text(major: u16, name: &str) -> String {
    String::from_utf8(captured(major, name)).expect("the fixture is text")
}

#[test]
fn every_fixture_is_the_one_that_was_captured() {
    let sums = std::fs::read_to_string(folder().join("SHA256SUMS")).unwrap();
    let mut listed = 0;
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let bytes = std::fs::read(folder().join(name)).unwrap();
        assert_eq!(format!("{:x}", Sha256::digest(bytes)), sum, "{name}");
        listed += 1;
    }
    let present: usize = MAJORS
        .iter()
        .map(|major| {
            std::fs::read_dir(folder().join(format!("v{major}")))
                .unwrap()
                .count()
        })
        .sum();
    assert_eq!(listed, present);
}
