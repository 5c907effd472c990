//! Histories: every position has one owner, and the segments of a path are placed on it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_core::{Lsn, SegmentPlacement, TimelineHistory, TimelineId, WalSegmentSize};

fuzz_target!(|file: &[u8]| {
    let Ok(history) = TimelineHistory::parse(TimelineId::new(u32::MAX).unwrap(), file) else {
        return;
    };
    assert_eq!(history.to_bytes(), file);
    let size = WalSegmentSize::SMALLEST;
    for entry in history.entries().iter().take(16) {
        let switch = entry.switch_lsn.get();
        for lsn in [switch.saturating_sub(1), switch, switch.saturating_add(1)].map(Lsn::new) {
            let owner = history.owner(lsn);
            assert!(history.includes(owner) && history.contains(owner, lsn));
            assert!(history.begin_of(owner).unwrap() <= lsn);
            assert!(history.switch_point(owner).is_none_or(|end| lsn < end));
            let path = history.path(owner, lsn).unwrap();
            let end = Lsn::new(lsn.get().saturating_add(3 * size.bytes()));
            for name in path.segments_until(end, size) {
                assert_eq!(history.placement(&name, size), Ok(SegmentPlacement::OnPath));
            }
        }
    }
});
