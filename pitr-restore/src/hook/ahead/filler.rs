//! The process that fills the folder, beside the server and out of its way.
//!
//! It ends when the server is gone or has recovered, when nothing was taken for
//! a while, when there is nothing more to fetch and everything was taken, and
//! when a hook with other settings tells it to; and takes the folder with it.
//! It says nothing: what stands in its way stands in the hook's way too, when
//! the server asks, and the hook says it in the server's log.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use pitr_console::{Console, Settings};
use pitr_core::{SegmentName, WalFileName};
use pitr_postgres::DataDirectory;

use super::consumer::Consumer;
use super::folder::{AheadFolder, Asked, HeldFolder};
use super::limit::Limit;
use super::origin::{Origin, Source};
use super::process;
use super::route::{Place, Route};
use super::worker::{Outcome, Workers};
use crate::arguments::AheadArgument;
use crate::asking_server::AskingServer;
use crate::hook::failure::HookFailure;
use crate::hook::{Request, followed, open_archives};

/// How often it looks what was taken while the server is busy, and while it rests.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const REST: Duration = Duration::from_millis(50);
/// For so long after something was taken the server counts as busy.
const BUSY: Duration = Duration::from_secs(2);
/// How often it looks whether the server is still there.
const LOOK_AFTER_SERVER: Duration = Duration::from_millis(100);
/// How long segments wait to be taken.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Connections to a store that answers slowly.
const REMOTE_WORKERS: usize = 4;
const MAX_WORKERS: usize = 8;

/// Fills the folder beside the request's destination until there is a reason to
/// end. Whoever fills it already goes on.
///
/// # Errors
/// Whatever keeps it from beginning.
pub(in crate::hook) fn run(request: &Request<'_>, begin: AheadArgument) -> Result<(), HookFailure> {
    process::stand_apart();
    let (Some(folder), WalFileName::Segment(segment)) =
        (AheadFolder::beside(&request.destination), request.name)
    else {
        return Ok(());
    };
    let Some(directory) = DataDirectory::above_wal_file(&request.destination) else {
        return Ok(());
    };
    let settings = request.settings()?;
    // nobody reads what it would say
    let console = Console::quiet();
    let server = AskingServer::of(&request.destination)?;
    let asked = request.cluster(server.as_ref())?;
    let archives = open_archives(&settings, asked, console)?;
    let Ok(Some(held)) = folder.hold() else {
        return Ok(());
    };
    // what a dead one left
    if held.empty().is_err() {
        held.remove();
        return Ok(());
    }
    let Ok(Some(cluster)) = archives.identity() else {
        held.remove();
        return Ok(());
    };
    let size = cluster.segment_size;
    let route = || -> Result<Route, HookFailure> {
        let followed = followed(request.timeline, server.as_ref(), &archives)?;
        Ok(Route::new(followed, size))
    };
    let origin = Origin::new(Source::of(&settings), cluster.system_identifier, size);
    let (place, consumer) = match begin {
        AheadArgument::After => (Place::After(segment), Consumer::running(directory)),
        AheadArgument::From => (Place::From(segment), Some(Consumer::awaited(directory))),
    };
    let workers = {
        let settings = settings.clone();
        Workers::start(worker_count(&settings), &folder, size.bytes(), move || {
            open_archives(&settings, Some(cluster.system_identifier), console)
        })
    };
    let (Some(consumer), Ok(workers), Ok(first_route), Ok(())) = (
        consumer,
        workers,
        route(),
        held.tell_origin(&origin.to_bytes()),
    ) else {
        held.remove();
        return Ok(());
    };
    let mut filler = Filler {
        held,
        workers,
        origin: origin.to_bytes(),
        limit: Limit::new(settings.prefetch, size),
        consumer,
        route: first_route,
        place,
        asked: None,
        ready: HashSet::new(),
        in_flight: HashSet::new(),
        left: None,
        last_use: Instant::now(),
        idle_limit: IDLE_LIMIT,
    };
    filler.fill(|| route().ok());
    filler.workers.stop();
    filler.held.remove();
    Ok(())
}

fn worker_count(settings: &Settings) -> usize {
    let is_remote = settings
        .repositories
        .iter()
        .any(|address| address.contains("://") && !address.starts_with("file:"));
    let least = if is_remote { REMOTE_WORKERS } else { 2 };
    settings.threads.clamp(least, MAX_WORKERS)
}

struct Filler {
    held: HeldFolder,
    workers: Workers,
    /// What must still stand in the folder.
    origin: Vec<u8>,
    limit: Limit,
    consumer: Consumer,
    route: Route,
    place: Place,
    /// What was last read of where the server is.
    asked: Option<Asked>,
    ready: HashSet<SegmentName>,
    in_flight: HashSet<SegmentName>,
    /// A segment that could not be had: nothing behind it is of use yet.
    left: Option<SegmentName>,
    last_use: Instant,
    idle_limit: Duration,
}

impl Filler {
    /// Until there is a reason to end.
    fn fill(&mut self, route: impl Fn() -> Option<Route>) {
        let mut looked: Option<Instant> = None;
        let mut changed = None;
        loop {
            let is_due = looked.is_none_or(|looked| looked.elapsed() >= LOOK_AFTER_SERVER);
            if is_due {
                looked = Some(Instant::now());
                if !self.consumer.is_there() || self.is_dismissed() {
                    return;
                }
            }
            // whatever is taken or told changes the folder; two changes may bear one time
            let now = self.folder().changed();
            if is_due || now.is_none() || now != changed {
                changed = now;
                if self.look(&route).is_err() {
                    return;
                }
                let planned = self.plan();
                if planned == 0 && self.ready.is_empty() && self.in_flight.is_empty() {
                    return;
                }
            }
            if self.last_use.elapsed() >= self.idle_limit {
                return;
            }
            let is_busy = !self.in_flight.is_empty() || self.last_use.elapsed() < BUSY;
            let pause = if is_busy { LOOK_EVERY } else { REST };
            if let Some((name, outcome)) = self.workers.outcome(pause) {
                self.note_outcome(name, outcome);
                changed = None;
            }
        }
    }

    /// Finds out where the server is.
    fn look(&mut self, route: impl Fn() -> Option<Route>) -> std::io::Result<()> {
        self.note_what_was_taken()?;
        let asked = self.folder().asked();
        if asked.is_some() && asked != self.asked {
            self.asked = asked;
            if let Some(asked) = asked {
                self.go_on_behind(asked.segment, route);
            }
        }
        Ok(())
    }

    fn folder(&self) -> &AheadFolder {
        self.held.folder()
    }

    fn is_dismissed(&self) -> bool {
        self.folder().origin().as_ref() != Some(&self.origin)
    }

    /// What lay ready and does not any more was taken.
    fn note_what_was_taken(&mut self) -> std::io::Result<()> {
        if self.ready.is_empty() {
            return Ok(());
        }
        let there: HashSet<SegmentName> = self.folder().segments()?.into_iter().collect();
        let taken: Vec<SegmentName> = self.ready.difference(&there).copied().collect();
        let Some(last) = taken.iter().copied().max_by_key(in_order) else {
            return Ok(());
        };
        for name in &taken {
            self.ready.remove(name);
        }
        self.place = Place::After(last);
        self.last_use = Instant::now();
        Ok(())
    }

    /// The server got a segment in another way.
    fn go_on_behind(&mut self, name: SegmentName, route: impl Fn() -> Option<Route>) {
        self.place = Place::After(name);
        self.left = None;
        self.last_use = Instant::now();
        // it may have learned of another timeline
        if let Some(route) = route() {
            self.route = route;
        }
    }

    fn note_outcome(&mut self, name: SegmentName, outcome: Outcome) {
        self.in_flight.remove(&name);
        match outcome {
            Outcome::Ready => {
                self.ready.insert(name);
                if !self.consumer.has_begun() {
                    self.last_use = Instant::now();
                }
            }
            Outcome::Left => {
                let is_earlier = self
                    .left
                    .is_none_or(|left| in_order(&name) < in_order(&left));
                if is_earlier {
                    self.left = Some(name);
                }
            }
        }
    }

    /// Has the next segments fetched and drops what is not on the way any more.
    /// Returns how many are wanted.
    fn plan(&mut self) -> usize {
        let held = self.ready.len() + self.in_flight.len();
        let count = self.limit.segments(self.folder().path(), held);
        let mut plan = self.route.ahead(self.place, count);
        if let Some(at) = plan.iter().position(|name| Some(*name) == self.left) {
            plan.truncate(at);
        }
        let wanted: HashSet<SegmentName> = plan.iter().copied().collect();
        let held = &self.held;
        self.ready.retain(|name| {
            let stays = wanted.contains(name);
            if !stays {
                held.discard(*name);
            }
            stays
        });
        for name in &plan {
            if self.in_flight.len() >= self.workers.count() {
                break;
            }
            if !self.ready.contains(name) && self.in_flight.insert(*name) {
                self.workers.fetch(*name);
            }
        }
        plan.len()
    }
}

/// Later segments are greater, on whichever timeline.
fn in_order(name: &SegmentName) -> (String, String) {
    let text = name.to_string();
    let (timeline, number) = text.split_at(8);
    (number.to_owned(), timeline.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitr_core::WalSegmentSize;

    use crate::hook::followed::Followed;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    fn name(text: &str) -> SegmentName {
        match text.parse().unwrap() {
            WalFileName::Segment(name) => name,
            other => panic!("{other}"),
        }
    }

    /// With one segment that waits, and no more to be had.
    fn filler(data: &std::path::Path, idle_limit: Duration) -> Filler {
        std::fs::create_dir(data.join("pg_wal")).unwrap();
        std::fs::write(data.join("recovery.signal"), "").unwrap();
        let folder = AheadFolder::of(data);
        let held = folder.hold().unwrap().unwrap();
        held.tell_origin(b"{}").unwrap();
        let (waits, next) = (
            name("000000010000000000000002"),
            name("000000010000000000000003"),
        );
        std::fs::write(folder.segment(waits), "x").unwrap();
        Filler {
            held,
            workers: Workers::start(1, &folder, SIZE.bytes(), || {
                Err(HookFailure::EmptyRepository {
                    location: String::new(),
                })
            })
            .unwrap(),
            origin: b"{}".to_vec(),
            limit: Limit::new(None, SIZE),
            consumer: Consumer::awaited(DataDirectory::new(data)),
            route: Route::new(Followed::Unknown, SIZE),
            place: Place::After(name("000000010000000000000001")),
            asked: None,
            ready: HashSet::from([waits]),
            in_flight: HashSet::new(),
            left: Some(next),
            last_use: Instant::now(),
            idle_limit,
        }
    }

    #[test]
    fn what_nobody_takes_does_not_wait_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mut filler = filler(dir.path(), Duration::from_millis(200));
        let begun = Instant::now();
        filler.fill(|| None);
        assert!(begun.elapsed() >= Duration::from_millis(200));
        assert_eq!(filler.ready.len(), 1, "it was not for another reason");
        filler.workers.stop();
        filler.held.remove();
        assert!(!AheadFolder::of(dir.path()).path().exists());
    }

    #[test]
    fn it_ends_when_it_is_dismissed() {
        let dir = tempfile::tempdir().unwrap();
        let mut filler = filler(dir.path(), Duration::from_secs(600));
        let folder = AheadFolder::of(dir.path());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                folder.dismiss();
            });
            filler.fill(|| None);
        });
        assert_eq!(filler.ready.len(), 1);
    }

    #[test]
    fn it_ends_when_everything_was_taken() {
        let dir = tempfile::tempdir().unwrap();
        let mut filler = filler(dir.path(), Duration::from_secs(600));
        let taken = AheadFolder::of(dir.path()).segment(name("000000010000000000000002"));
        std::fs::remove_file(taken).unwrap();
        filler.fill(|| None);
        assert!(filler.ready.is_empty());
    }

    #[test]
    fn a_later_segment_is_greater_on_whichever_timeline() {
        let order = |text: &str| in_order(&name(text));
        assert!(order("000000020000000000000002") < order("000000010000000000000003"));
        assert!(order("0000000100000000000000FF") < order("000000010000000100000000"));
        assert!(order("000000010000000000000002") < order("000000020000000000000002"));
    }
}
