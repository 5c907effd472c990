//! The first segments, before the server asks for them.

use std::path::Path;
use std::time::{Duration, Instant};

use pitr_core::{Lsn, TimelinePath, WalSegmentSize};

use crate::hook::ahead::folder::AheadFolder;
use crate::hook::ahead::limit::Limit;
use crate::os_user::OsUser;
use crate::restore_command::RestoreCommand;

/// How long the server waits for what is fetched ahead of it: what comes later
/// is fetched while it replays.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the next one is waited for: where they come slowly, the server may
/// as well begin.
const PAUSE: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A data directory whose server is about to be started.
#[derive(Debug)]
pub(crate) struct HeadStart<'a> {
    pub(crate) command: &'a RestoreCommand,
    pub(crate) directory: &'a Path,
    /// Whom the directory belongs to, where it is not this user.
    pub(crate) owner: Option<&'a OsUser>,
    /// The way that replay takes.
    pub(crate) path: &'a TimelinePath,
    /// Where replay ends at the latest.
    pub(crate) end: Lsn,
    pub(crate) segment_size: WalSegmentSize,
    /// How much may be fetched ahead, as in the settings.
    pub(crate) prefetch: Option<u32>,
}

impl HeadStart<'_> {
    /// Begins to fetch, and waits a little. Nothing depends on it: what does not
    /// lie there is fetched when the server asks for it, and what stands in the
    /// way is said then.
    pub(crate) fn give(&self) {
        let folder = AheadFolder::of(self.directory);
        let wal = folder.path().parent().unwrap_or(self.directory);
        let limit = Limit::new(self.prefetch, self.segment_size).segments(wal, 0);
        let mut names = self.path.segments_until(self.end, self.segment_size);
        let Some(first) = names.next() else {
            return;
        };
        let wanted = names.take(limit.saturating_sub(1)).count() + 1;
        if limit == 0 {
            return;
        }
        let begun = Instant::now();
        let Ok(mut process) = self.command.fetch_ahead(self.directory, self.owner, first) else {
            return;
        };
        let (mut there, mut grown) = (0, Instant::now());
        while there < wanted
            && begun.elapsed() < PATIENCE
            && grown.elapsed() < PAUSE
            && matches!(process.try_wait(), Ok(None))
        {
            std::thread::sleep(LOOK_EVERY);
            let now = folder.segments().map_or(0, |segments| segments.len());
            if now > there {
                (there, grown) = (now, Instant::now());
            }
        }
    }
}
