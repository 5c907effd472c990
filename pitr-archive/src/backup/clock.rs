//! The server's clock, where it is not ours.
//!
//! A target time is compared with commit times, which are the server's. A
//! replication connection cannot ask for the time, but the server writes it
//! into the manifest: `backup_label` is made for the backup, and its
//! modification time is the server's time when it was sent. We know that it
//! was sent after the backup had begun and before its archive arrived, which
//! may be long after where tablespaces came first or the repository is slow.
//!
//! Source: `sendFileWithContent`, src/backend/backup/basebackup.c.

use chrono::{DateTime, TimeDelta, Utc};
use pitr_console::Console;
use pitr_core::BackupManifest;

/// The manifest has whole seconds and the network takes its time: what is
/// less than this is no difference.
const NOTICEABLE: TimeDelta = TimeDelta::seconds(3);

/// The manifest's times are cut to the second.
const ROUNDING: TimeDelta = TimeDelta::seconds(1);

/// How far the server's clock is ahead of ours: between `least` and `most`,
/// and nothing more is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Skew {
    least: TimeDelta,
    most: TimeDelta,
}

impl Skew {
    /// By the manifest, and our times of the backup's begin and of the arrival
    /// of the data directory's archive.
    pub(super) fn of(
        manifest: &BackupManifest,
        begun: DateTime<Utc>,
        arrived: DateTime<Utc>,
    ) -> Self {
        let label = manifest
            .files
            .iter()
            .find(|file| file.path == b"backup_label");
        let written = label
            .and_then(|file| file.last_modified)
            .and_then(|time| time.to_datetime());
        match written {
            Some(written) => Self {
                least: written - arrived,
                most: written - begun + ROUNDING,
            },
            None => Self {
                least: TimeDelta::zero(),
                most: TimeDelta::zero(),
            },
        }
    }

    /// What makes a server's time of ours; zero where no difference is certain.
    ///
    /// Rather too much than too little: a backup whose end is told too early
    /// would be chosen for targets that it cannot reach.
    fn ahead(&self) -> TimeDelta {
        if self.most <= -NOTICEABLE {
            self.most
        } else if self.least > TimeDelta::zero() {
            self.most.min(self.least + ROUNDING * 2)
        } else {
            TimeDelta::zero()
        }
    }

    /// The server's time when ours was `time`.
    pub(super) fn server_time(&self, time: DateTime<Utc>) -> DateTime<Utc> {
        time.checked_add_signed(self.ahead()).unwrap_or(time)
    }

    pub(super) fn warn(&self, console: Console) {
        let ahead = self.ahead();
        if ahead.abs() < NOTICEABLE {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Skew of a server that is `ahead` of us by so many milliseconds, where the
    /// label was written, and its archive arrived, so long after the begin.
    fn skew(ahead: i64, written: i64, arrived: i64) -> Skew {
        let at = |milliseconds| DateTime::from_timestamp_millis(1_800_000_000_400 + milliseconds);
        let at = |milliseconds| at(milliseconds).unwrap();
        let text = at(written + ahead).format("%Y-%m-%d %H:%M:%S GMT");
        let body = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{{ \"Path\": \
             \"backup_label\", \"Size\": 1, \"Last-Modified\": \"{text}\" }}\n],\n\
             \"WAL-Ranges\": [\n],\n"
        );
        let digest = <sha2::Sha256 as sha2::Digest>::digest(&body);
        let manifest = format!("{body}\"Manifest-Checksum\": \"{digest:x}\"}}\n");
        let manifest = BackupManifest::parse(manifest.as_bytes()).unwrap();
        Skew::of(&manifest, at(0), at(arrived))
    }

    #[test]
    fn a_slow_repository_is_no_slow_clock() {
        // the archive was on its way for a minute: the end must not be told a
        // minute too early
        assert_eq!(skew(0, 20, 60_000).ahead(), TimeDelta::zero());
        assert_eq!(skew(0, 50_000, 60_000).ahead(), TimeDelta::zero());
    }

    #[test]
    fn the_end_is_never_told_too_early() {
        for ahead in [
            -86_400_000,
            -60_000,
            -5_000,
            -2_000,
            0,
            2_500,
            10_000,
            86_400_000,
        ] {
            for (written, arrived) in [(0, 1), (700, 720)] {
                let told = skew(ahead, written, arrived).ahead().num_milliseconds();
                assert!(told >= ahead, "{ahead}: {told}");
                assert!(told <= ahead + 3_000, "{ahead}: {told}");
            }
        }
    }

    #[test]
    fn a_time_that_no_calendar_has_changes_nothing() {
        let far = TimeDelta::days(365 * 262_000);
        let skew = Skew {
            least: far,
            most: far,
        };
        let now = Utc::now();
        assert_eq!(skew.server_time(now), now);
    }
}
