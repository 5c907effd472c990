//! Archiving ahead of what the server asks for.
//!
//! The server runs one command at a time, for one file. Where more files are ready, the
//! command takes a batch of them: all processors compress, and one sync of a folder
//! serves many. The calls that follow find their file stored, prove by its content that
//! it is what they are offered, and are done.
//!
//! The server hears 0 for a file only from the call for that file, and the outcome of
//! a call is that of its own file. What the batch has stored without a word, or
//! could not store, is told by the call that comes for it.

mod batch;
mod ready;
mod record;
mod state;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pitr_console::{Console, Failure, Settings};
use pitr_core::{SystemIdentifier, WalFileName};
use pitr_store::wal::{
    ArchiveAddress, EncodedAhead, Fingerprint, MemberError, MemberPush, PushError, Pushed,
    PushedInTurn, Recollected, Recollection, StoredObject, WalArchive, WalFile, push_to_all,
    push_to_all_in_turn,
};
use pitr_store::{ClusterIdentity, Codec, ObjectKey, RepositorySet, Shown, Store, StoreError};

use super::{Owner, owner_of_text_file};
use crate::arguments::PushArguments;
use batch::Outcome;
use ready::{ReadyFile, ReadyFiles};
use record::Record;

/// Files in a batch, the own one among them, where nobody says otherwise: as many names
/// as a server of PostgreSQL 15 or later reads at a time.
const DEFAULT_FILES: usize = 64;

/// No more, whoever says so: what is written down has an end.
const MOST_FILES: usize = 256;

/// How long further files are begun, where nobody says otherwise.
const DEFAULT_TIME: Duration = Duration::from_secs(3);

/// No longer, whoever says so.
const LONGEST_TIME: Duration = Duration::from_secs(3600);

/// Threads at most: a store does not get faster by more.
const MOST_WORKERS: usize = 16;

/// Files that travel to a store far away at the same time: there the way takes
/// the time, not the processor.
const TRAVELLING: usize = 4;

/// What all files in flight may take together; the own one is always allowed.
const MOST_BYTES_IN_FLIGHT: u64 = 128 << 20;

/// What a thread takes beside the codec.
const BYTES_OF_A_WORKER: u64 = 2 << 20;

/// The wish to look ahead, and what is kept between two calls for it.
#[derive(Debug)]
pub(crate) struct LookAhead {
    record: Option<Arc<Record>>,
    /// Whether somebody has said where it lies.
    is_named: bool,
    most_files: usize,
    time: Duration,
    threads: usize,
}

impl LookAhead {
    /// By flags and settings. Touches nothing.
    pub(crate) fn new(arguments: &PushArguments, settings: &Settings) -> Self {
        let most_files = arguments.look_ahead.or(settings.look_ahead);
        let most_files = most_files.unwrap_or(DEFAULT_FILES).min(MOST_FILES);
        let seconds = arguments.look_ahead_seconds.or(settings.look_ahead_seconds);
        let directory = state::directory(arguments.state.as_deref(), settings.state.as_deref());
        Self {
            record: directory
                .filter(|_| most_files > 1)
                .map(|directory| Arc::new(Record::in_directory(&directory))),
            is_named: arguments.state.is_some() || settings.state.is_some(),
            most_files,
            time: seconds.map_or(DEFAULT_TIME, |seconds| {
                Duration::from_secs(seconds).min(LONGEST_TIME)
            }),
            threads: settings.threads,
        }
    }

    /// What pushes ask before they read a stored object.
    pub(crate) fn recollection(&self) -> Option<Arc<dyn Recollection>> {
        let record = self.record.clone()?;
        Some(record)
    }

    /// Whether `name` was stored ahead in the repository at `location`, as far as is
    /// written down.
    pub(crate) fn mentions(
        &self,
        location: &str,
        system_identifier: SystemIdentifier,
        name: &WalFileName,
    ) -> bool {
        let record = self.record.as_ref();
        record.is_some_and(|record| record.mentions(location, system_identifier, name))
    }

    /// The batch to be pushed with `asked_for` into `stores`; `None` where it is to be
    /// pushed by itself: nothing else is ready, it was stored ahead already, or nothing
    /// can be written down.
    pub(crate) fn batch(
        &self,
        asked_for: AskedFor<'_>,
        stores: &[Arc<dyn Store>],
        console: Console,
    ) -> Option<Batch> {
        let record = self.record.as_ref()?;
        let AskedFor {
            arguments,
            name,
            identity,
            codec,
        } = asked_for;
        let of_cluster = identity.system_identifier;
        let is_mentioned =
            |store: &Arc<dyn Store>| self.mentions(&store.location(), of_cluster, name);
        if stores.iter().any(is_mentioned) {
            return None;
        }
        let workers = self.workers(stores, codec, identity.segment_size.bytes());
        if workers == 0 {
            return None;
        }
        let path = arguments.path.as_ref()?;
        let files = ReadyFiles::beside(path, name, self.most_files)?;
        let usable = state::check_outside_of_data_directory(path, record.folder())
            .and_then(|()| record.prepare());
        if let Err(why) = usable {
            // a call cannot know what earlier ones have said
            if self.is_named || state::is_first_of_many(name) {
                state::tell(&why, console);
            }
            return None;
        }
        Some(Batch {
            workers: workers.min(files.files.len() - 1),
            time: self.time,
            files,
            record: Arc::clone(record),
            codec,
            arguments: arguments.clone(),
            identity,
        })
    }

    fn workers(&self, stores: &[Arc<dyn Store>], codec: Codec, segment_bytes: u64) -> usize {
        let shows_at_once = stores.iter().all(|store| store.shows_at_once());
        let wanted = if shows_at_once {
            // two more, for the time in which the others wait for the disk
            self.threads + 2
        } else {
            self.threads.max(TRAVELLING)
        };
        let waiting = if shows_at_once && stores.len() == 1 {
            0
        } else {
            segment_bytes
        };
        let each = BYTES_OF_A_WORKER + codec.encoder_bytes(segment_bytes) + waiting;
        // the own file is in flight as well; where two are too much it stays alone
        let by_memory = (MOST_BYTES_IN_FLIGHT / each).saturating_sub(1);
        let by_memory = usize::try_from(by_memory).unwrap_or(MOST_WORKERS);
        wanted.min(by_memory).min(MOST_WORKERS)
    }
}

/// The file that the server asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskedFor<'a> {
    pub(crate) arguments: &'a PushArguments,
    pub(crate) name: &'a WalFileName,
    pub(crate) identity: ClusterIdentity,
    pub(crate) codec: Codec,
}

/// Files to be pushed together.
#[derive(Debug)]
pub(crate) struct Batch {
    files: ReadyFiles,
    workers: usize,
    time: Duration,
    record: Arc<Record>,
    codec: Codec,
    arguments: PushArguments,
    identity: ClusterIdentity,
}

/// What is to be written down of the objects in one log.
type Written = HashMap<ArchiveAddress, Vec<(ObjectKey, Recollected)>>;

impl Batch {
    /// Pushes all into one repository; gives back what became of the own file, which
    /// is durable then.
    pub(crate) fn push(
        self,
        archive: &WalArchive,
        name: &WalFileName,
        source: &mut WalFile,
        ahead: Option<EncodedAhead>,
    ) -> Result<Pushed, Failure> {
        let codec = self.codec;
        let (of_others, open) = (archive.clone(), self.opener());
        let results = batch::run(
            self.files,
            self.workers,
            self.time,
            |turn| archive.push_in_turn(name, source, codec, ahead, turn),
            Result::is_ok,
            move |file, turn| {
                let mut source = match open(file) {
                    Ok(source) => source,
                    Err(outcome) => return outcome,
                };
                match of_others.push_in_turn(&file.name, &mut source, codec, None, turn) {
                    Ok(pushed) => Outcome::Done(pushed),
                    Err(_) => Outcome::Failed,
                }
            },
        );
        let mut shown = Vec::new();
        let mut stored = Vec::new();
        let mut take = |pushed: PushedInTurn, is_in_order: bool| {
            shown.push(pushed.shown);
            if let Some(fingerprint) = pushed.fingerprint.filter(|_| is_in_order) {
                stored.push((pushed.pushed.object().clone(), fingerprint));
            }
            pushed.pushed
        };
        for (place, pushed) in results.others {
            take(pushed, place < results.first_missing);
        }
        let own = results.own.map(|pushed| take(pushed, true));
        // before anybody is told of any of them, now or by what is written down
        let settled = Shown::settle_all(shown);
        if settled.is_ok() {
            let mut written = Written::new();
            for (object, fingerprint) in stored {
                note(&mut written, archive, &object, fingerprint);
            }
            write_down(&self.record, written);
        }
        match own {
            Ok(own) => {
                settled?;
                Ok(own)
            }
            // the others are gone by now, and what they took is free again
            Err(error) if is_for_want_of_room(&error) => Ok(archive.push(name, source, codec)?),
            Err(error) => Err(error.into()),
        }
    }

    /// The same into all repositories of a set, of which each makes durable what it
    /// stores.
    pub(crate) fn push_to_all(
        self,
        set: &RepositorySet,
        name: &WalFileName,
        source: &mut WalFile,
    ) -> Result<Vec<MemberPush>, Failure> {
        let (codec, identity) = (self.codec, self.identity);
        let (of_others, open) = (set.clone(), self.opener());
        let required = set.required();
        let is_enough = move |members: &[MemberPush]| {
            let done = members.iter().filter(|member| member.outcome.is_ok());
            let refused = members
                .iter()
                .filter_map(|member| member.outcome.as_ref().err());
            done.count() >= required && !refused.into_iter().any(MemberError::is_refusal)
        };
        let results = batch::run(
            self.files,
            self.workers,
            self.time,
            |turn| push_to_all_in_turn(set, &identity, name, source, codec, turn),
            |members| members.as_ref().is_ok_and(|members| is_enough(members)),
            move |file, turn| {
                let mut source = match open(file) {
                    Ok(source) => source,
                    Err(outcome) => return outcome,
                };
                let name = &file.name;
                match push_to_all_in_turn(&of_others, &identity, name, &mut source, codec, turn) {
                    Ok(members) if members.iter().all(|member| member.outcome.is_ok()) => {
                        Outcome::Done(members)
                    }
                    // the others would wait for the one that does not answer, too
                    Ok(members) if is_enough(&members) => Outcome::DoneAndEnough(members),
                    Ok(_) | Err(_) => Outcome::Failed,
                }
            },
        );
        let mut written = Written::new();
        let others = results.others.iter();
        let in_order = others.filter(|(place, _)| *place < results.first_missing);
        let own = results.own.as_ref().ok();
        for members in own.into_iter().chain(in_order.map(|(_, members)| members)) {
            for member in members {
                if let (Some(archive), Ok(pushed), Some(fingerprint)) =
                    (&member.archive, &member.outcome, member.fingerprint)
                {
                    note(&mut written, archive, pushed.object(), fingerprint);
                }
            }
        }
        write_down(&self.record, written);
        let has_no_room = |member: &MemberPush| matches!(&member.outcome, Err(MemberError::Push(error)) if is_for_want_of_room(error));
        match results.own {
            Ok(members) if members.iter().any(has_no_room) => {
                Ok(push_to_all(set, &identity, name, source, codec)?)
            }
            Err(error) if is_for_want_of_room(&error) => {
                Ok(push_to_all(set, &identity, name, source, codec)?)
            }
            own => Ok(own?),
        }
    }

    /// Opens the files beside the own one.
    fn opener<T>(&self) -> impl Fn(&ReadyFile) -> Result<WalFile, Outcome<T>> + use<T> {
        let (arguments, identity) = (self.arguments.clone(), self.identity);
        move |file| {
            let source = WalFile::open(&file.path).map_err(|error| match error.kind() {
                // the server takes away what it does not need, with its mark
                io::ErrorKind::NotFound => Outcome::Gone,
                _ => Outcome::Failed,
            })?;
            // a segment says whose it is, and is asked; a text file has only its place
            let is_of_cluster = match file.name {
                WalFileName::Segment(_) | WalFileName::Partial(_) => true,
                WalFileName::History(_) | WalFileName::Backup { .. } => matches!(
                    owner_of_text_file(&arguments, &file.path),
                    Ok(Owner::Known(owner)) if owner == identity
                ),
            };
            is_of_cluster.then_some(source).ok_or(Outcome::Failed)
        }
    }
}

/// Whether a file may have failed because others were pushed beside it: by itself it
/// may have room on the disk, in memory, or among the open files.
fn is_for_want_of_room(error: &PushError) -> bool {
    match error {
        PushError::Encode { .. } => true,
        PushError::Store(StoreError::NoSpace { .. }) => true,
        PushError::Store(StoreError::Io { source, .. }) | PushError::Source { source, .. } => {
            let errno = rustix::io::Errno::from_io_error(source);
            errno.is_some_and(|errno| WANT_OF_ROOM.contains(&errno))
        }
        _ => false,
    }
}

/// What the system says where memory or open files are short.
const WANT_OF_ROOM: [rustix::io::Errno; 4] = [
    rustix::io::Errno::NOMEM,
    rustix::io::Errno::MFILE,
    rustix::io::Errno::NFILE,
    rustix::io::Errno::AGAIN,
];

fn note(
    written: &mut Written,
    archive: &WalArchive,
    object: &StoredObject,
    fingerprint: Fingerprint,
) {
    // what cannot be looked at now is compared later
    if let Ok(Some(known)) = archive.recollect(object, fingerprint) {
        let objects = written.entry(archive.address()).or_default();
        objects.push((object.key.clone(), known));
    }
}

fn write_down(record: &Record, written: Written) {
    for (address, objects) in written {
        // without it the next calls compare contents
        let _ = record.add(&address, objects);
    }
}
