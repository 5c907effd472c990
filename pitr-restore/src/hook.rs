//! `restore_command`: one file out of the repository, or the proof that it is
//! not there.
//!
//! What `PostgreSQL` makes of the exit code decides over data. 1 to 125 is the
//! end of the log: without a target the server then promotes. So everything
//! but a proven absence exits above 125, which stops recovery.
//!
//! Source: `RestoreArchivedFile`, src/backend/access/transam/xlogarchive.c.

pub(crate) mod ahead;
mod archives;
mod delivery;
mod failure;
mod followed;
mod spooled;

use std::path::{Path, PathBuf};
use std::time::Duration;

use pitr_console::{Console, Exit, Explain as _, Failure, Settings};
use pitr_core::{
    ParseSystemIdentifierError, ParseTimelineIdError, SegmentName, SystemIdentifier,
    TimelineHistory, TimelineId, WalFileName, WalFileNameError, WalSegmentSize,
};
use pitr_store::spool::SpooledSegment;
use pitr_store::wal::{FetchError, WalArchive};
use pitr_store::{RepositorySet, open_store};

use crate::arguments::Arguments;
use crate::asking_server::AskingServer;
use ahead::Ahead;
use archives::Archives;
use delivery::Delivery;
use failure::HookFailure;
use followed::{Branch, Followed, Standing};
use spooled::Spooled;

/// Pauses between the tries of a standby. Few and short: it asks again by
/// itself, and meanwhile follows its primary over the network.
const STANDBY_PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

/// The same before a segment is called missing that has successors in a store to which
/// objects travel side by side.
const TRAVELLING: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// What the server wants.
#[derive(Debug)]
struct Request<'a> {
    arguments: &'a Arguments,
    name: WalFileName,
    destination: PathBuf,
    system_identifier: Option<SystemIdentifier>,
    timeline: Option<TimelineId>,
}

/// Why the hook was called in a way that makes no sense.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("a file name and a path are needed")]
    Missing,
    #[error(transparent)]
    Name(WalFileNameError),
    #[error("\"{}\" is not the name of a WAL file", name.display())]
    NotUtf8 { name: PathBuf },
    #[error("--system-identifier: {0}")]
    SystemIdentifier(ParseSystemIdentifierError),
    #[error("--timeline: {0}")]
    Timeline(ParseTimelineIdError),
}

/// What the repository says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The destination holds the whole file.
    Fetched,
    /// There is no such file, and that is certain.
    Absent,
}

/// Serves one file.
pub(crate) fn run(arguments: &Arguments, console: Console) -> Exit {
    let request = match Request::read(arguments) {
        Ok(request) => request,
        Err(error) => {
            console.fail(
                &Failure::from_error(&error)
                    .with_hint("The setting is restore_command = 'pitr-restore %f %p'."),
            );
            return Exit::HookWrongUsage;
        }
    };
    if let Some(begin) = arguments.fetch.fetch_ahead {
        return match ahead::filler::run(&request, begin) {
            Ok(()) => Exit::Done,
            // not above 125: as an orphan it may be taken for one of the server's own
            Err(failure) => {
                console.fail(&failure.into());
                Exit::Failed
            }
        };
    }
    let server = match AskingServer::of(&request.destination) {
        Ok(server) => server,
        Err(error) => {
            console.fail(&HookFailure::from(error).into());
            return Exit::Doubt;
        }
    };
    let is_standby = server.as_ref().is_some_and(AskingServer::is_standby);
    let mut pauses = STANDBY_PAUSES.iter();
    loop {
        let failure = match answer(&request, server.as_ref(), is_standby, console) {
            Ok(Answer::Fetched) => return Exit::Done,
            Ok(Answer::Absent) => return Exit::ProvenAbsent,
            Err(failure) => failure,
        };
        if !is_standby || !failure.may_pass() {
            console.fail(&failure.into());
            return Exit::Doubt;
        }
        match pauses.next() {
            Some(pause) => std::thread::sleep(*pause),
            None => {
                let hint = failure.hint();
                let detail = "The standby is told that the file is not there, and will ask again.";
                console.warn(failure.to_string(), Some(detail), hint.as_deref());
                return Exit::ProvenAbsent;
            }
        }
    }
}

impl<'a> Request<'a> {
    fn read(arguments: &'a Arguments) -> Result<Self, UsageError> {
        let fetch = &arguments.fetch;
        let (Some(name), Some(path)) = (&fetch.name, &fetch.path) else {
            return Err(UsageError::Missing);
        };
        let text = name
            .to_str()
            .ok_or_else(|| UsageError::NotUtf8 { name: name.into() })?;
        Ok(Self {
            arguments,
            name: text.parse().map_err(UsageError::Name)?,
            destination: path.clone(),
            system_identifier: arguments
                .system_identifier()
                .map_err(UsageError::SystemIdentifier)?,
            timeline: fetch
                .timeline
                .as_deref()
                .map(str::parse)
                .transpose()
                .map_err(UsageError::Timeline)?,
        })
    }

    /// The settings in force for it.
    fn settings(&self) -> Result<Settings, HookFailure> {
        let mut settings = Settings::load(&self.arguments.repository)?;
        settings.prefetch = self.arguments.prefetch.or(settings.prefetch);
        Ok(settings)
    }

    /// Whose file it is, if that is known without a repository.
    fn cluster(
        &self,
        server: Option<&AskingServer>,
    ) -> Result<Option<SystemIdentifier>, HookFailure> {
        Ok(match (self.system_identifier, server) {
            (Some(named), _) => Some(named),
            (None, Some(server)) => Some(server.system_identifier()?),
            (None, None) => None,
        })
    }
}

/// The log of the cluster `asked` in the repositories of the settings, none of
/// which is opened yet.
fn open_archives(
    settings: &Settings,
    asked: Option<SystemIdentifier>,
    console: Console,
) -> Result<Archives, HookFailure> {
    let stores = settings
        .repositories()?
        .into_iter()
        .map(|address| open_store(address, &settings.stores))
        .collect::<Result<Vec<_>, _>>()?;
    let set = RepositorySet::new(stores, None).with_keys(settings.keys.clone());
    // the order of the setting: the first that has a file serves it
    Ok(Archives::new(set, asked, console))
}

/// One try, from the configuration to the file.
fn answer(
    request: &Request<'_>,
    server: Option<&AskingServer>,
    is_standby: bool,
    console: Console,
) -> Result<Answer, HookFailure> {
    let settings = request.settings()?;
    let asked = request.cluster(server)?;
    let wanted = match request.name {
        WalFileName::Segment(segment) => {
            Ahead::of(&request.destination, server, asked, &settings).map(|ahead| (ahead, segment))
        }
        _ => None,
    };
    if let Some((ahead, segment)) = &wanted
        && ahead.take(*segment, request.timeline, &request.destination, console)
    {
        return Ok(Answer::Fetched);
    }
    let answer = ask_repositories(request, server, is_standby, &settings, asked, console);
    if let Some((ahead, segment)) = &wanted {
        match answer {
            Ok(Answer::Fetched) => ahead.go_on_behind(*segment),
            _ => ahead.tidy(),
        }
    }
    answer
}

/// The same without what was fetched ahead.
fn ask_repositories(
    request: &Request<'_>,
    server: Option<&AskingServer>,
    is_standby: bool,
    settings: &Settings,
    asked: Option<SystemIdentifier>,
    console: Console,
) -> Result<Answer, HookFailure> {
    let archives = open_archives(settings, asked, console)?;
    let Some(cluster) = archives.identity()? else {
        let location = archives.location();
        if !is_standby {
            return Err(HookFailure::EmptyRepository { location });
        }
        // a standby may be older than its primary's first archived segment
        let message = format!("repository \"{location}\" holds no cluster yet");
        console.warn(message, None, None);
        return Ok(Answer::Absent);
    };
    let spool = request.arguments.spool.as_ref().or(settings.spool.as_ref());
    let spooled = spool.map(|directory| Spooled::new(directory, cluster));
    match request.name {
        WalFileName::Segment(segment) => {
            // pg_rewind reads the log of a server at rest, along no timeline but that server's own
            let server = match server {
                Some(server) if server.is_rewound(&request.destination, &segment)? => None,
                server => server,
            };
            let segment_request = SegmentRequest {
                archives: &archives,
                spooled: spooled.as_ref(),
                segment,
                size: cluster.segment_size,
                server,
                is_standby,
                destination: &request.destination,
                console,
            };
            segment_request.answer(&followed(request.timeline, server, &archives)?)
        }
        name @ WalFileName::History(timeline) => {
            let destination = &request.destination;
            if deliver(&archives, &name, destination, console)? == Answer::Fetched {
                return Ok(Answer::Fetched);
            }
            let Some(spooled) = &spooled else {
                return Ok(Answer::Absent);
            };
            if spooled.deliver_history(timeline, destination)? {
                return Ok(Answer::Fetched);
            }
            // it may have gone over into the repository in between
            deliver(&archives, &name, destination, console)
        }
        name @ (WalFileName::Backup { .. } | WalFileName::Partial(_)) => {
            deliver(&archives, &name, &request.destination, console)
        }
    }
}

/// What is known of the timeline that the server follows.
fn followed(
    named: Option<TimelineId>,
    server: Option<&AskingServer>,
    archives: &Archives,
) -> Result<Followed, HookFailure> {
    let kept = match server {
        Some(server) => server.histories()?,
        None => Vec::new(),
    };
    let Some(timeline) = named else {
        return Ok(match server {
            Some(_) => Followed::Kept(kept),
            None => Followed::Unknown,
        });
    };
    let history = match kept.iter().find(|line| line.timeline() == timeline) {
        Some(line) => line.clone(),
        // has a history without a file
        None if timeline == TimelineId::FIRST => TimelineHistory::root(timeline),
        None => archives
            .first(&format!("the history of timeline {timeline}"), |wal| {
                wal.history(timeline).map_err(HookFailure::Fetch)
            })?
            // never archived: then recovery begins on it, and has no branch behind it
            .unwrap_or_else(|| TimelineHistory::root(timeline)),
    };
    Ok(Followed::Named { history, kept })
}

/// A request for a segment, whose place on the timeline's path decides.
struct SegmentRequest<'a> {
    archives: &'a Archives,
    spooled: Option<&'a Spooled>,
    segment: SegmentName,
    size: WalSegmentSize,
    server: Option<&'a AskingServer>,
    is_standby: bool,
    destination: &'a Path,
    console: Console,
}

impl SegmentRequest<'_> {
    fn answer(&self, followed: &Followed) -> Result<Answer, HookFailure> {
        let segment = self.segment;
        let size = self.size;
        match followed.standing(&segment, size)? {
            Standing::OnPath { last, branch } => {
                let name = WalFileName::Segment(segment);
                match deliver(self.archives, &name, self.destination, self.console)? {
                    Answer::Fetched => Ok(Answer::Fetched),
                    Answer::Absent => self.without_it(last, branch),
                }
            }
            Standing::Beyond {
                switch_lsn,
                followed,
            } => {
                // told that there is none, the server would take its own
                if !self.is_standby
                    && let Some(server) = self.server
                    && server.holds(&segment, size)?
                {
                    return Err(HookFailure::ForeignSegment {
                        segment,
                        followed,
                        switch_lsn,
                    });
                }
                let message = format!(
                    "segment {segment} is not served: timeline {followed}, which recovery follows, \
                     left timeline {} at {switch_lsn}",
                    segment.timeline()
                );
                self.console.warn(message, None, None);
                Ok(Answer::Absent)
            }
            Standing::Switch {
                switch_lsn,
                child,
                followed,
            } => match self.archives.first(&format!("segment {child}"), |wal| {
                Ok(wal.locate(&WalFileName::Segment(child))?)
            })? {
                Some(_) => Err(HookFailure::ChildPresent {
                    segment,
                    child,
                    followed,
                }),
                None => Err(HookFailure::ChildMissing {
                    segment,
                    child,
                    followed,
                    switch_lsn,
                }),
            },
            Standing::Undecided { lines } => Err(HookFailure::Undecided { segment, lines }),
        }
    }

    /// Looks for the segment once more, and delivers it. Where objects travel to a
    /// store side by side, one may arrive after its successor: then it is
    /// waited for a little.
    fn has_come(&self) -> Result<bool, HookFailure> {
        let name = WalFileName::Segment(self.segment);
        let pauses = match self.archives.show_at_once() {
            true => &[][..],
            false => &TRAVELLING[..],
        };
        let mut pauses = pauses.iter();
        loop {
            if deliver(self.archives, &name, self.destination, self.console)? == Answer::Fetched {
                return Ok(true);
            }
            match pauses.next() {
                Some(pause) => std::thread::sleep(*pause),
                None => return Ok(false),
            }
        }
    }

    /// The segment is not there. Whether that is the end of the log depends on
    /// what else is: a receiver may have it still; a standby will ask again, so nothing may stand in; else a
    /// `.partial` may, where nothing can follow it any more; and where later
    /// segments are there, or the way goes on to a branch behind it, this one
    /// is not the end but a hole.
    fn without_it(&self, last: bool, branch: Option<Branch>) -> Result<Answer, HookFailure> {
        let segment = self.segment;
        let size = self.size;
        let unfinished = match self.spooled {
            None => None,
            Some(spooled) => match spooled.segment(segment)? {
                Some(found) if !found.is_partial => {
                    spooled.deliver(&found, segment, self.destination, self.console)?;
                    return Ok(Answer::Fetched);
                }
                found => {
                    // from the spool it goes into the repository, and it may have done so
                    // since that was asked
                    let name = WalFileName::Segment(segment);
                    if found.is_none()
                        && deliver(self.archives, &name, self.destination, self.console)?
                            == Answer::Fetched
                    {
                        return Ok(Answer::Fetched);
                    }
                    found
                }
            },
        };
        if self.is_standby {
            return Ok(Answer::Absent);
        }
        let mut last_segment = self.archives.last_of_timeline(segment.timeline())?;
        if let Some(spooled) = self.spooled {
            last_segment = last_segment.max(spooled.last_of_timeline(segment.timeline())?);
        }
        let later = last_segment.filter(|last| *last > segment);
        if later.is_none() && branch.is_none() {
            if last && self.deliver_partial(unfinished.as_ref())? {
                return Ok(Answer::Fetched);
            }
            return Ok(Answer::Absent);
        }
        let Some(server) = self.server else {
            return Ok(Answer::Absent);
        };
        // the server falls back to its own copy when it is told that there is none
        if server.holds(&segment, size)? {
            return Ok(Answer::Absent);
        }
        // it may have come between the two looks, while an archiver works off a backlog
        if later.is_some() && self.has_come()? {
            return Ok(Answer::Fetched);
        }
        let begin = segment.start(size)?;
        match (later, branch) {
            (Some(last), _) => Err(HookFailure::Hole {
                segment,
                last,
                begin,
            }),
            (
                None,
                Some(Branch {
                    switch_lsn,
                    followed,
                }),
            ) => Err(HookFailure::HoleBeforeBranch {
                segment,
                followed,
                switch_lsn,
                begin,
            }),
            (None, None) => Ok(Answer::Absent),
        }
    }

    /// The unfinished segment: the one that a receiver was at, or the one that a
    /// promoted server archived. Where there are both, the longer one: they agree
    /// as far as the shorter one goes.
    fn deliver_partial(&self, unfinished: Option<&SpooledSegment>) -> Result<bool, HookFailure> {
        let name = WalFileName::Partial(self.segment);
        if let (Some(spooled), Some(unfinished)) = (self.spooled, unfinished) {
            let archived = self.archived_bytes(&name)?;
            if archived.is_none_or(|bytes| bytes <= unfinished.received_bytes) {
                spooled.deliver(unfinished, self.segment, self.destination, self.console)?;
                return Ok(true);
            }
        }
        if deliver(self.archives, &name, self.destination, self.console)? == Answer::Absent {
            return Ok(false);
        }
        self.console.log(format!(
            "{name} is served as {}: it is the unfinished last segment of timeline {}, and nothing follows it",
            self.segment,
            self.segment.timeline()
        ));
        Ok(true)
    }

    /// Length of a stored file up to its last byte that is not zero.
    fn archived_bytes(&self, name: &WalFileName) -> Result<Option<u64>, HookFailure> {
        self.archives.first(&name.to_string(), |wal| {
            if wal.locate(name)?.is_none() {
                return Ok(None);
            }
            let mut length = ContentLength::default();
            wal.fetch_to(name, &mut length)
                .map_err(HookFailure::Fetch)?;
            Ok(Some(length.content))
        })
    }
}

/// Counts what is written into it, up to the last byte that is not zero.
#[derive(Debug, Default)]
struct ContentLength {
    written: u64,
    content: u64,
}

impl std::io::Write for ContentLength {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            self.content = self.written + last as u64 + 1;
        }
        self.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Puts a stored file to its destination, whole and checked, from the first
/// repository that has it so.
fn deliver(
    archives: &Archives,
    name: &WalFileName,
    destination: &Path,
    console: Console,
) -> Result<Answer, HookFailure> {
    let fetched = archives.first(&name.to_string(), |wal| {
        match deliver_from(wal, name, destination, console)? {
            Answer::Fetched => Ok(Some(Answer::Fetched)),
            Answer::Absent => Ok(None),
        }
    })?;
    Ok(fetched.unwrap_or(Answer::Absent))
}

fn deliver_from(
    wal: &WalArchive,
    name: &WalFileName,
    destination: &Path,
    console: Console,
) -> Result<Answer, HookFailure> {
    // most requests that find nothing never touch the destination
    if wal.locate(name)?.is_none() {
        return Ok(Answer::Absent);
    }
    let mut delivery = Delivery::begin(destination)?;
    match wal.fetch_to(name, &mut delivery) {
        Ok(fetched) => {
            delivery.finish()?;
            if let Some(damage) = fetched.summary_damage {
                console.warn(
                    format!("{name} is whole, but something beside it is damaged: {damage}"),
                    None,
                    Some("Check the disk that the repository lies on."),
                );
            }
            Ok(Answer::Fetched)
        }
        Err(FetchError::Sink(source)) => {
            let needed_bytes = match name.segment() {
                Some(_) => wal.cluster().segment_size.bytes(),
                None => 0,
            };
            Err(delivery.write_error(source, needed_bytes).into())
        }
        // it was there a moment ago: no proof of absence
        Err(error) => Err(HookFailure::Fetch(error)),
    }
}
