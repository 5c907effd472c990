//! Record bodies of every version and resource manager: no bytes panic, and what is parsed can be read to its end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_core::{
    Heap2Record, Lsn, PostgresMajor, RecordBody, RecordContents, RecordHeader, ResourceManager,
    RowChange,
};

fuzz_target!(|input: &[u8]| {
    let [major, manager, info, body @ ..] = input else {
        return;
    };
    let major = PostgresMajor::new(13 + u16::from(*major % 7)).unwrap();
    let Some(resource_manager) = ResourceManager::new(*manager) else {
        return;
    };
    let Ok(body) = RecordBody::parse(body, major) else {
        return;
    };
    assert_eq!(body.blocks().count(), body.block_count());
    let images = body.blocks().filter_map(|block| block.image);
    assert_eq!(
        images.map(|image| image.bytes.len()).sum::<usize>(),
        body.image_bytes()
    );
    let header = RecordHeader {
        total_len: 0,
        xid: 700,
        prev: Lsn::INVALID,
        info: *info,
        resource_manager,
        crc: 0,
    };
    let _ = RowChange::of(&header, &body);
    if let Ok(contents) = RecordContents::parse(&header, &body, major) {
        let _ = (contents.to_string(), format!("{contents:?}"));
        if let RecordContents::Heap2(Heap2Record::MultiInsert(insert)) = contents {
            assert!(insert.tuples().count() <= usize::from(insert.rows));
        }
    }
});
