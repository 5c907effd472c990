//! Page headers: no bytes panic, and no byte after the header has a say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_core::PageHeader;

fuzz_target!(|page: &[u8]| {
    if let Ok(header) = PageHeader::parse(page) {
        let own = page.get(..header.header_len()).unwrap();
        assert_eq!(PageHeader::parse(own).as_ref(), Ok(&header));
        assert_eq!(header.is_long(), header.long.is_some());
        let _ = (
            header.backup_removable(),
            header.first_is_contrecord(),
            header.first_is_overwrite_contrecord(),
        );
    }
});
