//! Where to begin: after what is safe here already.

use std::fmt;

use pitr_console::{Console, Failure};
use pitr_core::{Lsn, SegmentName, SegmentNumber, TimelineHistory, TimelineId, WalFileName};
use pitr_store::spool::Spool;
use pitr_store::wal::WalArchive;
use pitr_store::{ErrorClass, RepositorySet};

use super::ending::Ending;
use super::server::Server;

/// A place to stream from: the beginning of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) timeline: TimelineId,
    pub(super) lsn: Lsn,
    pub(super) why: Why,
}

/// What makes it the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// This process has received everything before.
    Received,
    /// The spool holds everything before.
    Spool,
    /// The repository holds everything before.
    Repository,
    /// The slot keeps the log from there on.
    Slot,
    /// The server writes there now.
    Server,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Received => "what was received before ends there",
            Self::Spool => "what lies in the spool ends there",
            Self::Repository => "what is archived ends there",
            Self::Slot => "the replication slot keeps the log from there on",
            Self::Server => "the server writes there",
        })
    }
}

/// Places to begin at, in the order in which they are tried: the next one where
/// the server has the log of the one before no more.
pub(super) fn places(
    server: &Server,
    spool: &Spool,
    set: &RepositorySet,
    received: Option<(TimelineId, Lsn)>,
    console: Console,
) -> Result<Vec<Place>, Ending> {
    let history = &server.history;
    let size = server.identity.segment_size;
    let mut places: Vec<Place> = Vec::new();
    let mut add = |timeline, lsn, why| {
        let place = on_history(history, timeline, lsn, why, size, console);
        if let Some(place) = place
            && !places
                .iter()
                .any(|known| (known.timeline, known.lsn) == (place.timeline, place.lsn))
        {
            places.push(place);
        }
    };
    if let Some((timeline, lsn)) = received {
        add(timeline, lsn, Why::Received);
    } else if let Some((timeline, lsn)) = end_of_spool(spool, server)? {
        add(timeline, lsn, Why::Spool);
    }
    if let Some((timeline, lsn)) = end_of_repositories(server, set, console)? {
        add(timeline, lsn, Why::Repository);
    }
    if let Some(restart) = server.slot.and_then(|slot| slot.restart) {
        let (timeline, lsn) = segment_of(history, restart, size);
        add(timeline, lsn, Why::Slot);
    }
    let (timeline, lsn) = segment_of(history, server.system.flushed, size);
    add(timeline, lsn, Why::Server);
    Ok(places)
}

/// The segment in which `lsn` lies, on the newest timeline that has begun by its
/// end: its file holds the older ones' log as well.
fn segment_of(
    history: &TimelineHistory,
    lsn: Lsn,
    size: pitr_core::WalSegmentSize,
) -> (TimelineId, Lsn) {
    let number = SegmentNumber::containing(lsn, size);
    let last = Lsn::new(number.end(size).get().saturating_sub(1));
    (history.owner(last), number.start(size))
}

/// The place on the server's history. What was received past the point where
/// that branched off is another history: there the branch is followed.
fn on_history(
    history: &TimelineHistory,
    timeline: TimelineId,
    lsn: Lsn,
    why: Why,
    size: pitr_core::WalSegmentSize,
    console: Console,
) -> Option<Place> {
    if !history.includes(timeline) {
        console.warn(
            format!(
                "timeline {timeline} is not in the history of the server, which is on timeline {}",
                history.timeline()
            ),
            Some(&format!("It is passed over, although {why}.")),
            Some("Is it the right server? One that was replaced must not be received from."),
        );
        return None;
    }
    match history.switch_point(timeline) {
        Some(switch) if lsn > switch => {
            console.warn(
                format!(
                    "timeline {timeline} was received up to {lsn}, and the server left it at {switch}"
                ),
                Some("What lies between was written by a server that is not this one."),
                Some("What was received of it is kept."),
            );
            let (timeline, lsn) = segment_of(history, switch, size);
            Some(Place { timeline, lsn, why })
        }
        _ => Some(Place { timeline, lsn, why }),
    }
}

/// Where the newest segment in the spool, on the server's history, goes on: an
/// unfinished one is received again from its beginning.
fn end_of_spool(spool: &Spool, server: &Server) -> Result<Option<(TimelineId, Lsn)>, Ending> {
    let size = server.identity.segment_size;
    let ends = spool.files()?.into_iter().filter_map(|name| match name {
        WalFileName::Segment(segment) => {
            let number = segment.number(size).ok()?;
            Some((number.end(size), segment.timeline()))
        }
        WalFileName::Partial(segment) => Some((segment.start(size).ok()?, segment.timeline())),
        WalFileName::History(_) | WalFileName::Backup { .. } => None,
    });
    Ok(ends
        .filter(|(_, timeline)| server.history.includes(*timeline))
        .max_by_key(|(end, timeline)| (*timeline, *end))
        .map(|(end, timeline)| (timeline, end)))
}

/// The same of the repositories: the farthest of those that answer.
fn end_of_repositories(
    server: &Server,
    set: &RepositorySet,
    console: Console,
) -> Result<Option<(TimelineId, Lsn)>, Ending> {
    let size = server.identity.segment_size;
    let reached = set.open();
    let mut farthest: Option<(TimelineId, Lsn)> = None;
    for repository in &reached.repositories {
        let archive = match repository.cluster(server.identity.system_identifier) {
            Ok(Some(cluster)) => cluster.wal(),
            Ok(None) => continue,
            Err(error) => {
                console.warn(
                    format!("could not see what is archived: {error}"),
                    None,
                    error.hint().as_deref(),
                );
                continue;
            }
        };
        let last = last_on_history(&archive, &server.history)
            .map_err(|error| Ending::Again(error.into()))?;
        let end = last.and_then(|segment| {
            let number = segment.number(size).ok()?;
            Some((segment.timeline(), number.end(size)))
        });
        farthest = farthest.max(end);
    }
    Ok(farthest)
}

/// The newest whole segment on the newest timeline of the history that has one.
fn last_on_history(
    archive: &WalArchive,
    history: &TimelineHistory,
) -> Result<Option<SegmentName>, pitr_store::StoreError> {
    let ancestors = history.entries().iter().rev().map(|entry| entry.parent);
    for timeline in std::iter::once(history.timeline()).chain(ancestors) {
        for log in archive.log_folders(timeline)?.into_iter().rev() {
            let ranges = archive.content_of(timeline, [log])?.ranges();
            if let Some(range) = ranges.last() {
                return Ok(Some(range.last));
            }
        }
    }
    Ok(None)
}

/// Makes sure at the beginning that the repositories are there and this
/// cluster's: what does not answer for now may come back, anything else will
/// not change by waiting.
pub(super) fn check_repositories(
    server: &Server,
    set: &RepositorySet,
    console: Console,
) -> Result<(), Failure> {
    let reached = set.open();
    for repository in &reached.repositories {
        repository.claim(&server.identity)?;
    }
    let answering = reached.repositories.len();
    for unreached in reached.unreached {
        let passes = unreached
            .error
            .store_error()
            .is_some_and(|error| error.class() == ErrorClass::Passing);
        if !passes && answering < set.required() {
            return Err(unreached.error.into());
        }
        console.warn(
            format!(
                "repository \"{}\" does not answer: {}",
                unreached.location, unreached.error
            ),
            Some("What is received waits in the spool meanwhile."),
            unreached.error.hint().as_deref(),
        );
    }
    Ok(())
}
