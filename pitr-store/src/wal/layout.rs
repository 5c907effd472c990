//! Where the files of the log lie in a repository of format 1.

use pitr_core::{SegmentName, TimelineId, WalFileName};

use crate::codec::Encoding;
use crate::key::ObjectKey;

/// `<system identifier>/wal`.
pub(super) fn wal_folder(cluster_folder: &ObjectKey) -> ObjectKey {
    ObjectKey::of_layout(format!("{cluster_folder}/wal"))
}

/// `wal/<8 hex TLI>`: the timeline's segments.
pub(super) fn timeline_folder(wal: &ObjectKey, timeline: TimelineId) -> ObjectKey {
    ObjectKey::of_layout(format!("{wal}/{}", timeline.hex()))
}

/// `wal/<8 hex TLI>/<8 hex LOG>`: the segments of 4 GiB of log.
pub(super) fn log_folder_of(wal: &ObjectKey, timeline: TimelineId, log: u32) -> ObjectKey {
    ObjectKey::of_layout(format!("{wal}/{}/{log:08X}", timeline.hex()))
}

fn log_folder(wal: &ObjectKey, segment: &SegmentName) -> ObjectKey {
    log_folder_of(wal, segment.timeline(), segment.log())
}

/// The number of a log folder; `None` where a name in a timeline's folder is
/// not that of one.
pub(super) fn parse_log_name(name: &str) -> Option<u32> {
    let is_upper_hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    (name.len() == 8 && name.bytes().all(is_upper_hex))
        .then(|| u32::from_str_radix(name, 16).ok())
        .flatten()
}

/// Whether `locate` looks for `segment` in the folder `log` of `timeline`.
pub(super) fn lies_in(segment: &SegmentName, timeline: TimelineId, log: u32) -> bool {
    segment.timeline() == timeline && segment.log() == log
}

/// The keys under which `name` can lie, one per encoding that it may have.
pub(super) fn keys(wal: &ObjectKey, name: &WalFileName) -> Vec<(ObjectKey, Encoding)> {
    let plain = match name {
        WalFileName::Segment(segment)
        | WalFileName::Partial(segment)
        | WalFileName::Backup { segment, .. } => format!("{}/{name}", log_folder(wal, segment)),
        WalFileName::History(_) => format!("{wal}/{name}"),
    };
    encodings(name)
        .iter()
        .map(|&encoding| {
            let key = ObjectKey::of_layout(format!("{plain}{}", encoding.suffix()));
            (key, encoding)
        })
        .collect()
}

/// How `name` may be stored: history and backup history files are plain text
/// that a person can read and search.
pub(super) fn encodings(name: &WalFileName) -> &'static [Encoding] {
    match name {
        WalFileName::Segment(_) | WalFileName::Partial(_) => &Encoding::ALL,
        WalFileName::History(_) | WalFileName::Backup { .. } => &[Encoding::Plain],
    }
}

/// What a name in a log folder stands for; `None` for a foreign one.
pub(super) fn parse_stored_name(stored: &str) -> Option<(WalFileName, Encoding)> {
    let (stem, encoding) = Encoding::split(stored);
    let name: WalFileName = stem.parse().ok()?;
    encodings(&name)
        .contains(&encoding)
        .then_some((name, encoding))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_format_1() {
        let wal = wal_folder(&ObjectKey::parse("7312").unwrap());
        let keys_of = |name: &str| {
            keys(&wal, &name.parse().unwrap())
                .into_iter()
                .map(|(key, _)| key.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            keys_of("0000000200000001000000AB"),
            [
                "7312/wal/00000002/00000001/0000000200000001000000AB.zst",
                "7312/wal/00000002/00000001/0000000200000001000000AB.xz",
                "7312/wal/00000002/00000001/0000000200000001000000AB",
            ]
        );
        assert_eq!(
            keys_of("0000000200000001000000AB.partial")[0],
            "7312/wal/00000002/00000001/0000000200000001000000AB.partial.zst"
        );
        assert_eq!(
            keys_of("0000000200000001000000AB.00000028.backup"),
            ["7312/wal/00000002/00000001/0000000200000001000000AB.00000028.backup"]
        );
        assert_eq!(keys_of("0000000A.history"), ["7312/wal/0000000A.history"]);
    }

    #[test]
    fn a_stored_name_reads_back_and_a_foreign_one_does_not() {
        for stored in [
            "0000000200000001000000AB.zst",
            "0000000200000001000000AB",
            "0000000200000001000000AB.partial.xz",
            "0000000200000001000000AB.00000028.backup",
        ] {
            let (name, encoding) = parse_stored_name(stored).unwrap();
            assert_eq!(format!("{name}{}", encoding.suffix()), stored);
        }
        for foreign in [
            "0000000200000001000000AB.gz",
            "0000000200000001000000AB.zst.partial",
            "0000000200000001000000AB.00000028.backup.zst",
            "notes.txt",
        ] {
            assert_eq!(parse_stored_name(foreign), None);
        }
    }
}
