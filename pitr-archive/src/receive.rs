//! `pitr-archive receive`: streams the log into the repository as it is written.
//!
//! The steps in order: connect, take the spool, find where to begin, receive
//! into the spool (synced and confirmed at once), and let a thread beside it
//! publish what is whole. When the connection is lost, from the beginning.

mod ending;
mod folder;
mod publisher;
mod segment;
mod server;
mod service;
mod session;
mod start;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pitr_console::{Console, Failure, Settings};
use pitr_core::{Lsn, TimelineId, WalFileName};
use pitr_postgres::{ConnectOptions, Connection, ProcessEnvironment, QueryError, WalStream};
use pitr_store::{ClusterIdentity, Codec};

use crate::arguments::ReceiveArguments;
use crate::repository;
use ending::Ending;
use folder::HeldSpool;
use publisher::{Destination, Publisher};
use server::{Server, Slot};
use service::Service;
use session::{Session, Streamed};
use start::{Place, Why};

/// What the server calls us, where nobody names us otherwise: to be named in
/// `synchronous_standby_names`.
const PROGRAM_NAME: &str = "pitr-receive";

/// Pause before the first new connection; doubled for each that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a server may take to let us in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that lasted so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(60);

pub(crate) fn receive(
    arguments: &ReceiveArguments,
    settings: &Settings,
    console: Console,
) -> Result<(), Failure> {
    let options = connect_options(arguments, settings, console)?;
    let slot = slot(arguments)?;
    if arguments.drop_slot {
        return match slot.name() {
            Some(name) => {
                server::drop_slot(&options, name)?;
                console.log(format!("dropped replication slot \"{name}\""));
                Ok(())
            }
            None => Err(Failure::new("no slot was named").with_hint("Name it with --slot.")),
        };
    }
    let spool = spool_directory(arguments, settings)?;
    // told now, and not when the first segment is whole
    repository::set(settings)?;
    let codec = repository::codec(arguments.compression.as_deref(), settings)?;
    let receiver = Receiver {
        options,
        slot,
        directory: spool,
        settings: settings.clone(),
        codec,
        service: Service::begin()?,
        console,
        held: None,
        received: None,
        histories: BTreeSet::new(),
    };
    receiver.run(!arguments.no_loop)
}

fn connect_options(
    arguments: &ReceiveArguments,
    settings: &Settings,
    console: Console,
) -> Result<ConnectOptions, Failure> {
    let connection_string = arguments
        .dbname
        .as_deref()
        .or(settings.connection.as_deref());
    let options = ConnectOptions::resolve(connection_string, &ProcessEnvironment)
        .map_err(|error| Failure::from_error(&error).with_hint_of(error.hint()))?
        .with_program_name(PROGRAM_NAME)
        .with_default_connect_timeout(CONNECT_TIMEOUT);
    for warning in options.warnings() {
        console.warn(warning.to_string(), None, None);
    }
    Ok(options)
}

fn slot(arguments: &ReceiveArguments) -> Result<Slot, Failure> {
    let named = arguments.slot.as_deref().map(str::parse).transpose();
    let named =
        named.map_err(|error: pitr_postgres::ParseSlotNameError| Failure::from_error(&error))?;
    if arguments.temporary_slot {
        let own = format!("pitr_receive_{}", std::process::id());
        let name = match named {
            Some(name) => name,
            None => own.parse().map_err(|error| {
                let error: pitr_postgres::ParseSlotNameError = error;
                Failure::from_error(&error)
            })?,
        };
        return Ok(Slot::Temporary(name));
    }
    Ok(match named {
        Some(name) => Slot::Permanent {
            name,
            create: arguments.create_slot,
        },
        None => Slot::None,
    })
}

fn spool_directory(arguments: &ReceiveArguments, settings: &Settings) -> Result<PathBuf, Failure> {
    let named = arguments.spool.as_deref().or(settings.spool.as_deref());
    let directory = named.ok_or_else(|| {
        Failure::new("no spool was named").with_hint(
            "--spool DIR, or spool = \"DIR\" in the configuration, names a private folder on a disk \
             that survives: what the server was told is safe lies there until it is in the repository.",
        )
    })?;
    absolute(directory)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        Failure::new(format!("could not find \"{}\"", path.display()))
            .with_detail(error.to_string())
    })
}

/// What outlives a connection.
struct Receiver {
    options: ConnectOptions,
    slot: Slot,
    directory: PathBuf,
    settings: Settings,
    codec: Codec,
    service: Service,
    console: Console,
    /// From the first server on that was reached.
    held: Option<Held>,
    /// Where the segment that is unfinished begins.
    received: Option<(TimelineId, Lsn)>,
    /// Those that were put into the spool by this process.
    histories: BTreeSet<TimelineId>,
}

/// What belongs to the cluster that is received from.
struct Held {
    identity: ClusterIdentity,
    spool: HeldSpool,
    publisher: Publisher,
}

impl Receiver {
    fn run(mut self, again: bool) -> Result<(), Failure> {
        let mut pause = FIRST_PAUSE;
        let result = loop {
            let begun = Instant::now();
            let failure = match self.receive() {
                Ok(()) => break Ok(()),
                Err(_) if self.service.is_stopped() => break Ok(()),
                Err(Ending::Never(failure)) => break Err(failure),
                Err(Ending::Again(failure)) if !again => break Err(failure),
                Err(Ending::Again(failure)) => failure,
            };
            if begun.elapsed() >= GOOD_AFTER {
                pause = FIRST_PAUSE;
            }
            self.console.warn(
                format!("not receiving: {}", failure.message()),
                failure.detail(),
                failure.hint(),
            );
            self.service
                .status(format!("not receiving: {}", failure.message()));
            self.service.pause(with_jitter(pause));
            if self.service.is_stopped() {
                break Ok(());
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        self.service.stopping();
        if let Some(held) = self.held.take() {
            held.publisher.stop();
        }
        if result.is_ok() {
            self.console.log("stopped receiving");
        }
        result
    }

    /// One connection, until it is lost or we are told to stop.
    fn receive(&mut self) -> Result<(), Ending> {
        let mut server = server::connect(&self.options, &self.slot, self.console)?;
        self.hold(&server)?;
        let Some(held) = &self.held else {
            return Ok(());
        };
        let spool = held.spool.spool();
        let set = repository::set(&self.settings).map_err(Ending::Again)?;
        let places = start::places(&server, spool, &set, self.received, self.console)?;
        let mut failure = None;
        for (index, place) in places.iter().enumerate() {
            if index > 0 {
                tell_of_gap(&places, index, self.console);
            }
            match self.stream_from(&mut server, *place) {
                Err(Attempt::Removed(error)) => failure = Some(error),
                Err(Attempt::Ended(ending)) => return Err(ending),
                Ok(()) => return Ok(()),
            }
            if let (Slot::Permanent { name, .. }, Some(slot)) = (&self.slot, server.slot)
                && slot.restart.is_none()
            {
                let says = failure.map_or_else(String::new, |error| error.to_string());
                return Err(server::lost(name, &says));
            }
            // an error inside the stream may have cost the connection; and the slot is
            // ours again only when the server has noticed that it is over
            drop(server);
            self.service.pause(FIRST_PAUSE);
            server = server::connect(&self.options, &self.slot, self.console)?;
        }
        Err(match failure {
            Some(error) => error.into(),
            None => Ending::Again(Failure::new("there is nowhere to begin")),
        })
    }

    /// Takes the spool and starts publishing, once it is known whose log it is.
    fn hold(&mut self, server: &Server) -> Result<(), Ending> {
        if let Some(held) = &self.held {
            if held.identity == server.identity {
                return Ok(());
            }
            return Err(Ending::Never(
                Failure::new(format!(
                    "the server is cluster {}, before it was cluster {}",
                    server.identity.system_identifier, held.identity.system_identifier
                ))
                .with_hint("Another server answers at the same address."),
            ));
        }
        let spool = HeldSpool::take(&self.directory, server.identity.system_identifier)
            .map_err(Ending::Never)?;
        let set = repository::set(&self.settings).map_err(Ending::Never)?;
        start::check_repositories(server, &set, self.console).map_err(Ending::Never)?;
        let destination = Destination {
            settings: self.settings.clone(),
            identity: server.identity,
            codec: self.codec,
        };
        let publisher = Publisher::start(destination, spool.spool().clone(), self.console)
            .map_err(Ending::Never)?;
        self.held = Some(Held {
            identity: server.identity,
            spool,
            publisher,
        });
        Ok(())
    }

    /// Streams from `place` on, timeline after timeline.
    fn stream_from(&mut self, server: &mut Server, place: Place) -> Result<(), Attempt> {
        let size = server.identity.segment_size;
        let (mut timeline, mut lsn) = (place.timeline, place.lsn);
        let mut is_first = true;
        loop {
            self.keep_history(&mut server.connection, timeline)?;
            let Some(held) = &self.held else {
                return Ok(());
            };
            let stream = start_stream(&mut server.connection, &self.slot, timeline, lsn)?;
            let spool = held.spool.spool();
            let mut session =
                Session::new(spool, &held.publisher, &self.service, size, timeline, lsn);
            if is_first {
                self.console.log(format!(
                    "receiving from {lsn} on timeline {timeline}: {}",
                    place.why
                ));
            } else {
                self.console
                    .log(format!("receiving from {lsn} on timeline {timeline}"));
            }
            self.service
                .status(format!("receiving from {lsn} on timeline {timeline}"));
            self.service.ready();
            let streamed = session.run(stream);
            let resume = session.resume_at();
            // what the server never sent is no place to go on from
            let came = resume > lsn || streamed.is_ok();
            if came || place.why == Why::Received {
                self.received = Some((timeline, resume));
            }
            match streamed {
                Ok(Streamed::Stopped) => return Ok(()),
                Ok(Streamed::TimelineEnded(next)) => {
                    self.console.log(format!(
                        "timeline {timeline} has ended at {}, timeline {} follows",
                        next.start, next.timeline
                    ));
                    timeline = next.timeline;
                    lsn = pitr_core::SegmentNumber::containing(next.start, size).start(size);
                    self.received = Some((timeline, lsn));
                    is_first = false;
                }
                Err(ending) => return Err(Attempt::Ended(ending)),
            }
        }
    }

    /// Puts the history of `timeline` into the spool, and so into the repository.
    fn keep_history(
        &mut self,
        connection: &mut Connection,
        timeline: TimelineId,
    ) -> Result<(), Attempt> {
        let Some(held) = &self.held else {
            return Ok(());
        };
        if timeline == TimelineId::FIRST || self.histories.contains(&timeline) {
            return Ok(());
        }
        match connection.timeline_history(timeline) {
            Ok(file) => held
                .spool
                .keep(&WalFileName::History(timeline), &file.content)
                .map_err(|error| Attempt::Ended(error.into()))?,
            // the server itself can do without
            Err(error) if server::is_removed(&error) => {}
            Err(error) => return Err(Attempt::Ended(error.into())),
        }
        held.publisher.look();
        self.histories.insert(timeline);
        Ok(())
    }
}

/// Why streaming from a place came to nothing.
enum Attempt {
    /// The server has not got the log from there on any more.
    Removed(QueryError),
    Ended(Ending),
}

/// Begins to stream, and looks whether the server has the log: it says so only
/// after it has begun.
fn start_stream<'a>(
    connection: &'a mut Connection,
    slot: &Slot,
    timeline: TimelineId,
    lsn: Lsn,
) -> Result<WalStream<'a>, Attempt> {
    let started = connection.start_streaming(slot.name(), timeline, lsn);
    let mut stream = started.map_err(|error| {
        if server::is_removed(&error) {
            Attempt::Removed(error)
        } else {
            Attempt::Ended(server::slot_failure(error, slot))
        }
    })?;
    match stream.check_begun() {
        Ok(()) => Ok(stream),
        Err(error) if server::is_removed(&error) => Err(Attempt::Removed(error)),
        Err(error) => Err(Attempt::Ended(error.into())),
    }
}

/// The place before `index` could not be gone on from.
fn tell_of_gap(places: &[Place], index: usize, console: Console) {
    let (Some(missing), Some(place)) = (
        index.checked_sub(1).and_then(|i| places.get(i)),
        places.get(index),
    ) else {
        return;
    };
    if place.lsn <= missing.lsn || place.why == Why::Repository {
        return console.log(format!(
            "the server has the log from {} on no more: going on from {}, {}",
            missing.lsn, place.lsn, place.why
        ));
    }
    console.warn(
        format!(
            "the log from {} to {} is missing: the server has removed it before it was received",
            missing.lsn, place.lsn
        ),
        Some(
            "Unless archive_command has archived it or still does, no recovery from an older base \
             backup gets past this place.",
        ),
        Some(
            "\"pitr-archive list\" shows whether there is a gap: then take a base backup now. A \
             replication slot (--slot, --create-slot) makes the server keep what was not received.",
        ),
    );
}

/// The pause, longer or shorter by up to a quarter: receivers of one server that
/// restarts do not all come at once.
fn with_jitter(pause: Duration) -> Duration {
    let nanoseconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    pause * 3 / 4 + pause / 2 * (nanoseconds % 1000) / 1000
}
