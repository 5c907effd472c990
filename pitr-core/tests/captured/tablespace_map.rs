//! Tablespace maps of real backups.

use pitr_core::{PostgresMajor, TablespaceMap};

use crate::{MAJORS, captured};

#[test]
fn a_path_with_backslash_and_space_is_read_and_written_byte_for_byte() {
    for major in MAJORS {
        let bytes = captured(major, "tablespace_map");
        let major = PostgresMajor::new(major).unwrap();
        let map = TablespaceMap::parse_for(major, &bytes).unwrap();
        assert_eq!(map.entries().len(), 1);
        assert!(map.entries()[0].path.ends_with(b"/odd \\ space"));
        assert_eq!(map.to_bytes_for(major), bytes);
    }
}
