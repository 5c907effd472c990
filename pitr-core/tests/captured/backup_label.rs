//! Labels of real backups.

use pitr_core::{BackupFrom, BackupLabel, BackupMethod, TimelineId};

use crate::{MAJORS, captured, captured_text};

#[test]
fn a_primarys_label_is_read_and_written_byte_for_byte() {
    for major in MAJORS {
        let text = captured_text(major, "backup_label");
        let label = BackupLabel::parse(text.as_bytes()).unwrap();
        assert_eq!(label.method, Some(BackupMethod::Streamed));
        assert_eq!(label.from, Some(BackupFrom::Primary));
        assert_eq!(label.label_text(), "nightly, all of it");
        assert_eq!(label.start_timeline, Some(TimelineId::FIRST));
        assert!(label.checkpoint > label.start_wal);
        // 13 says master, which no server of any version tells from primary
        assert_eq!(
            String::from_utf8(label.to_bytes()).unwrap(),
            text.replace("master", "primary")
        );
    }
}

#[test]
fn a_standbys_label_says_so() {
    for major in MAJORS.into_iter().filter(|&major| major >= 14) {
        let bytes = captured(major, "backup_label.standby");
        let label = BackupLabel::parse(&bytes).unwrap();
        assert_eq!(label.from, Some(BackupFrom::Standby));
        assert_eq!(label.to_bytes(), bytes);
    }
}

#[test]
fn an_incremental_backups_label_names_the_full_one() {
    for major in [17, 18] {
        let bytes = captured(major, "backup_label.incremental");
        let label = BackupLabel::parse(&bytes).unwrap();
        let full = BackupLabel::parse(&captured(major, "backup_label")).unwrap();
        let from = label.incremental_from.unwrap();
        assert_eq!((from.lsn, from.timeline), (full.start_wal, full.timeline()));
        assert_eq!(label.to_bytes(), bytes);
    }
}
