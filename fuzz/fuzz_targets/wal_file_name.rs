//! File names: whatever is taken prints the same, is no path, and has a place in the log.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_core::{TimelineHistory, WalFileName, WalSegmentSize};

fuzz_target!(|name: &str| {
    let Ok(parsed) = name.parse::<WalFileName>() else {
        return;
    };
    assert_eq!(parsed.to_string(), name);
    assert!(!name.contains('/') && name.len() <= 40);
    let Some(segment) = parsed.segment() else {
        return;
    };
    for shift in 20..=30 {
        let size = WalSegmentSize::new(1 << shift).unwrap();
        if let Ok(number) = segment.number(size) {
            assert_eq!(
                pitr_core::SegmentName::new(segment.timeline(), number, size),
                segment
            );
            assert!(number.start(size) < number.end(size));
            TimelineHistory::root(segment.timeline())
                .placement(&segment, size)
                .unwrap();
        }
    }
});
