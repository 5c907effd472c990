//! The server's clock, where it is not ours.
//!
//! A target time is compared with commit times, which are the server's. A
//! replication connection cannot ask for the time, but the server writes it
//! into the manifest: `backup_label` is made for the backup, and its
//! modification time is the server's time when the archive began.
//!
//! Source: `sendFileWithContent`, src/backend/backup/basebackup.c.

use chrono::{DateTime, TimeDelta, Utc};
use pitr_console::Console;
use pitr_core::BackupManifest;

/// The manifest has whole seconds and the network takes its time: what is
/// less than this is no difference.
const NOTICEABLE: TimeDelta = TimeDelta::seconds(3);

/// How far the server's clock is ahead of ours; zero where that cannot be told.
pub(super) fn server_ahead(manifest: &[u8], base_began: DateTime<Utc>) -> TimeDelta {
    let Ok(manifest) = BackupManifest::parse(manifest) else {
        // told as an error by whoever proves the manifest
        return TimeDelta::zero();
    };
    let label = manifest
        .files
        .iter()
        .find(|file| file.path == b"backup_label");
    let Some(written) = label
        .and_then(|file| file.last_modified)
        .and_then(|time| time.to_datetime())
    else {
        return TimeDelta::zero();
    };
    let ahead = written - base_began;
    if ahead.abs() < NOTICEABLE {
        TimeDelta::zero()
    } else {
        ahead
    }
}

pub(super) fn warn_of_skew(ahead: TimeDelta, console: Console) {
    if ahead.is_zero() {
        return;
    }
    let word = if ahead > TimeDelta::zero() {
        "ahead of"
    } else {
        "behind"
    };
    console.warn(
        format!(
            "the server's clock is {} s {word} this machine's",
            ahead.num_seconds().abs()
        ),
        Some("Times of the backup are given by the server's clock, as commit times are."),
        Some("Let both follow the same time servers."),
    );
}
