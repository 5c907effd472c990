//! Summaries at the end of stored objects: as they are, and as the JSON in a frame that is made right; what is read can
//! be written, and reads back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_core::crc32c;
use pitr_core::{LogSeams, SegmentSummary};
use pitr_store::wal::{SummaryFrameError, summary_at_end, summary_to_frame};

fuzz_target!(|input: &[u8]| {
    let mut found = vec![summary_at_end(input)];
    if let Some(framed) = framed(input) {
        found.push(summary_at_end(&framed));
    }
    for result in found {
        match result {
            Ok(Some(summary)) => read_back(&summary),
            Ok(None) => {}
            Err(error) => assert!(error.to_string().len() < 2000),
        }
    }
    // in the object's own JSON, without a frame
    if let Ok(summary) = serde_json::from_slice::<SegmentSummary>(input) {
        read_back(&summary);
    }
});

/// The frame that a server's archiver would write around `json`.
fn framed(json: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(json.len()).ok()?;
    let content = (length + 16).to_le_bytes();
    Some(
        [
            &0x184D_2A59_u32.to_le_bytes()[..],
            &content,
            json,
            &length.to_le_bytes(),
            &crc32c::crc32c(json).to_le_bytes(),
            b"pitrsum1",
        ]
        .concat(),
    )
}

fn read_back(summary: &SegmentSummary) {
    let _ = (summary.is_damaged(), format!("{summary:?}"));
    if let Some(edges) = summary.edges() {
        // whatever it says of its ends, followed by itself
        let mut seams = LogSeams::default();
        let mut next = edges;
        (next.start, next.end) = (edges.end, edges.start);
        for edges in [edges, next, edges] {
            let _ = seams.add(&edges).map(|damage| damage.to_string());
        }
    }
    let Some(frame) = summary_to_frame(summary) else {
        return;
    };
    match summary_at_end(&frame) {
        Ok(Some(again)) => assert_eq!(&again, summary),
        Err(SummaryFrameError::Format { found, .. }) => assert_eq!(found, summary.format),
        other => panic!("{other:?}"),
    }
}
