//! Page headers of real segments.

use pitr_core::{Lsn, PageHeader, PageHeaderError, TimelineId, WalSegmentSize};

use crate::{MAJORS, captured};

const SECOND_PAGE: usize = 8192;

#[test]
fn the_first_page_of_a_segment_names_cluster_and_sizes() {
    for major in MAJORS {
        let header = PageHeader::parse(&captured(major, "000000010000000000000004.head")).unwrap();
        assert_eq!(header.major.get(), major);
        assert_eq!(header.timeline, TimelineId::FIRST);
        assert_eq!(header.page_address, Lsn::new(0x400_0000));
        assert!(
            header.backup_removable()
                && !header.first_is_contrecord()
                && !header.first_is_overwrite_contrecord()
        );
        let long = header.long.unwrap();
        assert_eq!(long.segment_size, WalSegmentSize::DEFAULT);
        assert_eq!(long.block_size, 8192);
        // the upper half is the time of initdb: November 2026
        assert!(
            (0x6AE5_0000..0x6B0E_0000).contains(&(long.system_identifier.get() >> 32)),
            "{major}"
        );
    }
}

#[test]
fn the_second_page_has_the_short_header_and_goes_on_with_a_record() {
    for major in MAJORS {
        let bytes = captured(major, "000000010000000000000004.head");
        let header = PageHeader::parse(&bytes[SECOND_PAGE..]).unwrap();
        assert_eq!(header.major.get(), major);
        assert_eq!(header.page_address, Lsn::new(0x400_2000));
        assert_eq!(header.header_len(), PageHeader::SHORT_LEN);
        assert!(header.first_is_contrecord() && header.remaining_len > 0);
    }
}

#[test]
fn a_partial_segment_begins_like_any_other() {
    let header = PageHeader::parse(&captured(15, "000000010000000000000009.partial.head")).unwrap();
    assert_eq!(header.page_address, Lsn::new(0x900_0000));
    assert!(header.is_long());
}

#[test]
fn other_real_files_are_not_taken_for_wal() {
    for major in MAJORS {
        for name in [
            "pg_control.production",
            "backup_label",
            "backup_manifest.gz",
        ] {
            let parsed = PageHeader::parse(&captured(major, name));
            assert!(
                matches!(parsed, Err(PageHeaderError::UnknownMagic { .. })),
                "{name} of {major}"
            );
        }
    }
}
