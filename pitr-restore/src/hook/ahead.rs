//! Segments that wait in a folder of their own before the server asks for them,
//! so that the hook's answer is a rename.
//!
//! PostgreSQL asks for a segment when it has replayed the one before, and waits.
//! So a process beside it fetches the next ones, as many at once as there are
//! processors, checks them as the hook does, and syncs them: the server syncs
//! what it takes, and a file that is on disk costs it nothing.
//!
//! The process that fills the folder holds a lock on it, and only while it lives
//! is anything served from there.

pub(crate) mod consumer;
pub(crate) mod filler;
pub(crate) mod folder;
pub(crate) mod limit;
pub(crate) mod notes;
mod origin;
mod process;
mod route;
mod worker;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pitr_console::{Console, Settings};
use pitr_core::{
    PageHeader, SegmentName, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize,
};
use pitr_postgres::DataDirectory;

use super::followed::{Followed, Standing};
use crate::asking_server::AskingServer;
use consumer::Consumer;
use folder::AheadFolder;
use notes::Note;
use origin::{Origin, Source};

/// How long a segment that is being written is waited for after it last grew.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What was fetched ahead for the asking server, and who does so.
#[derive(Debug)]
pub(super) struct Ahead<'a> {
    folder: AheadFolder,
    source: Source,
    system_identifier: SystemIdentifier,
    server: &'a AskingServer,
    directory: DataDirectory,
    is_off: bool,
}

impl<'a> Ahead<'a> {
    /// For a server in recovery that wants a segment at `destination`; `None`
    /// for anybody else.
    pub(super) fn of(
        destination: &Path,
        server: Option<&'a AskingServer>,
        system_identifier: Option<SystemIdentifier>,
        settings: &Settings,
    ) -> Option<Self> {
        Some(Self {
            folder: AheadFolder::beside(destination)?,
            source: Source::of(settings),
            system_identifier: system_identifier?,
            server: server?,
            directory: DataDirectory::above_wal_file(destination)?,
            is_off: settings.prefetch == Some(0),
        })
    }

    /// Moves the segment to `destination`, if it waits for that and the hook
    /// would serve it now. A segment that is being written is waited for.
    pub(super) fn take(
        &self,
        segment: SegmentName,
        timeline: Option<TimelineId>,
        destination: &Path,
        console: Console,
    ) -> bool {
        if self.is_off || !self.folder.is_held() {
            return false;
        }
        let Some(origin) = self.origin() else {
            return false;
        };
        if !self.is_on_path(segment, timeline, origin.segment_size) || !self.wait_for(segment) {
            return false;
        }
        // whatever went wrong shows when the segment is fetched now
        self.is_whole(segment, origin.segment_size) && self.hand_over(segment, destination, console)
    }

    /// The server has `segment` and will want the next one: whoever fills the
    /// folder goes on behind it, or somebody begins to.
    pub(super) fn go_on_behind(&self, segment: SegmentName) {
        if self.is_off {
            return self.give_up();
        }
        if self.folder.is_held() {
            if self.origin().is_some() {
                // it would go on where it was
                let _ = self.folder.tell_asked(segment);
                return;
            }
            self.folder.dismiss();
        }
        if Consumer::allows_company(&self.directory) {
            process::spawn(std::env::args_os().skip(1));
        } else {
            self.folder.sweep();
        }
    }

    /// The segment is not there: if nobody fills the folder, nobody will soon.
    pub(super) fn tidy(&self) {
        if self.is_off {
            self.give_up();
        } else {
            self.folder.sweep();
        }
    }

    fn give_up(&self) {
        if self.folder.is_held() {
            self.folder.dismiss();
        }
        self.folder.sweep();
    }

    /// Where the segments come from, if the hook would fetch them from there.
    fn origin(&self) -> Option<Origin> {
        let origin = Origin::parse(&self.folder.origin()?)?;
        (origin.is(&self.source, self.system_identifier) && origin.is_alive()).then_some(origin)
    }

    /// Whether recovery needs the segment, as far as that can be told without
    /// a repository.
    fn is_on_path(
        &self,
        segment: SegmentName,
        timeline: Option<TimelineId>,
        size: WalSegmentSize,
    ) -> bool {
        let Ok(kept) = self.server.histories() else {
            return false;
        };
        let followed = match timeline {
            None => Followed::Kept(kept),
            Some(named) => {
                let history = match kept.iter().find(|line| line.timeline() == named) {
                    Some(line) => line.clone(),
                    None if named == TimelineId::FIRST => TimelineHistory::root(named),
                    None => return false,
                };
                Followed::Named { history, kept }
            }
        };
        matches!(
            followed.standing(&segment, size),
            Ok(Standing::OnPath { .. })
        )
    }

    /// Whether it lies there, now or as soon as it is written.
    fn wait_for(&self, segment: SegmentName) -> bool {
        let (whole, part) = (self.folder.segment(segment), self.folder.part(segment));
        loop {
            // before the other: it goes from the one to the other
            let grown = std::fs::metadata(&part).and_then(|part| part.modified());
            if whole.exists() {
                return true;
            }
            let Ok(grown) = grown else {
                return whole.exists();
            };
            let waited = SystemTime::now().duration_since(grown).unwrap_or_default();
            if waited > PATIENCE || !self.folder.is_held() {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Whether it is the segment that its name says, in full length.
    fn is_whole(&self, segment: SegmentName, size: WalSegmentSize) -> bool {
        let mut page = [0; PageHeader::LONG_LEN];
        let read = File::open(self.folder.segment(segment)).and_then(|mut file| {
            let bytes = file.metadata()?.len();
            file.read_exact(&mut page)?;
            Ok(bytes)
        });
        let (Ok(bytes), Ok(page), Ok(start)) =
            (read, PageHeader::parse(&page), segment.start(size))
        else {
            return false;
        };
        bytes == size.bytes()
            && page.page_address == start
            && page
                .long
                .is_some_and(|long| long.system_identifier == self.system_identifier)
    }

    fn hand_over(&self, segment: SegmentName, destination: &Path, console: Console) -> bool {
        let notes = self.folder.notes(segment);
        let said = std::fs::read(&notes).ok();
        if std::fs::rename(self.folder.segment(segment), destination).is_err() {
            return false;
        }
        if let Some(said) = said {
            for note in Note::parse(&said) {
                note.say(console);
            }
            // whoever fills the folder would take it away at its end
            let _ = std::fs::remove_file(notes);
        }
        true
    }
}
