//! Storing one file of the log in several repositories at once.
//!
//! The file is read, scanned and encoded once. Each repository has a thread of
//! its own that writes the same bytes; a bounded queue lies in between, so that
//! one that is slow keeps neither the reading nor the others waiting.

mod member_error;
mod tee;
mod worker;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use pitr_core::{SegmentSummary, WalFileName};

use super::fingerprint::Fingerprint;
use super::push::{self, Chunk, Counting, READINGS, encode, source_error};
use super::scan::{Scan, Scanned};
use super::source::{WalSource, read_full};
use super::turn::Turn;
use super::{PushError, Pushed, StoredObject, WalArchive, summary};
use crate::codec::{Codec, Encoding};
use crate::repository::{ClusterIdentity, RepositorySet};
use crate::store::{ContentDigest, Shown, StoreError};
use tee::Tee;
use worker::Worker;

pub use member_error::MemberError;

/// How far a repository may lag behind the encoder: 16 MiB. A segment of the
/// usual size fits whole.
const BLOCKS_AHEAD: usize = 128;

/// How long the others are waited for, once as many as required are done.
const PATIENCE: Duration = Duration::from_secs(3);

/// What became of the file in one repository.
#[derive(Debug)]
pub struct MemberPush {
    /// Where the repository is.
    pub location: String,
    /// Its log, where it was reached.
    pub archive: Option<WalArchive>,
    /// `Ok` means that it is there, and survives power loss.
    pub outcome: Result<Pushed, MemberError>,
    /// The file's content, where it was pushed in a turn and is known to be that of
    /// the object.
    pub fingerprint: Option<Fingerprint>,
}

/// Stores `source` under `name` in every repository of `set`, each claimed for
/// the cluster first, and tells what became of it in each, in the set's order.
///
/// Where one repository refuses the file ([`MemberError::is_refusal`]), it is
/// stored in none. Returns when all are done, or three seconds after as many as
/// [`RepositorySet::required`] are.
///
/// # Errors
/// Those of the source, which concern all repositories; see [`WalArchive::push`].
pub fn push_to_all(
    set: &RepositorySet,
    identity: &ClusterIdentity,
    name: &WalFileName,
    source: &mut dyn WalSource,
    codec: Codec,
) -> Result<Vec<MemberPush>, PushError> {
    push_when(set, identity, name, source, codec, None)
}

/// The same beside other files: it shows when its turn comes. Each repository makes
/// it durable by itself.
///
/// # Errors
/// As [`push_to_all`]; `Withdrawn` if the turn never comes, or for a damaged segment
/// that the turn does not take. Then nothing was stored.
pub fn push_to_all_in_turn(
    set: &RepositorySet,
    identity: &ClusterIdentity,
    name: &WalFileName,
    source: &mut dyn WalSource,
    codec: Codec,
    turn: &dyn Turn,
) -> Result<Vec<MemberPush>, PushError> {
    push_when(set, identity, name, source, codec, Some(turn))
}

fn push_when(
    set: &RepositorySet,
    identity: &ClusterIdentity,
    name: &WalFileName,
    source: &mut dyn WalSource,
    codec: Codec,
    turn: Option<&dyn Turn>,
) -> Result<Vec<MemberPush>, PushError> {
    let offered = &mut Offered {
        name,
        source,
        codec: push::codec_of(name, codec),
        turn,
        in_order: set.stores().iter().all(|store| store.shows_at_once()),
    };
    let mut members = Members::ask(set, identity, name, offered.codec.encoding());
    members.wait(State::is_asking, State::is_reached);
    members.give_up(State::is_asking);
    members.compare(offered)?;
    if members.any_refuses() {
        members.leave_untouched();
        return Ok(members.into_results());
    }
    members.store(offered)?;
    Ok(members.into_results())
}

/// What is to be stored, and when.
struct Offered<'o> {
    name: &'o WalFileName,
    source: &'o mut dyn WalSource,
    codec: Codec,
    turn: Option<&'o dyn Turn>,
    /// Whether the turn is one after the other.
    in_order: bool,
}

/// What a member's thread is told.
enum Order {
    /// Begin the object, or begin it anew.
    Begin,
    /// The next bytes of it.
    Block(Arc<[u8]>),
    /// That was all, and the digest of the content, where somebody keeps it.
    Publish(Option<ContentDigest>),
}

/// What a member's thread tells.
enum Event {
    Reached {
        archive: WalArchive,
        standing: Option<StoredObject>,
    },
    Published,
    Failed(MemberError),
}

struct Member {
    location: String,
    archive: Option<WalArchive>,
    state: State,
    fingerprint: Option<Fingerprint>,
    /// Closed by dropping it: then the thread ends, and leaves nothing.
    orders: Option<SyncSender<Order>>,
}

enum State {
    /// Opening the repository, and looking whether it has the file.
    Asking,
    /// It has an object of that name.
    Standing,
    /// It has none.
    Absent,
    /// The object is being written.
    Writing,
    Published,
    Settled(Result<Pushed, MemberError>),
}

impl State {
    fn is_asking(&self) -> bool {
        matches!(self, Self::Asking)
    }

    fn is_writing(&self) -> bool {
        matches!(self, Self::Writing)
    }

    fn is_reached(&self) -> bool {
        matches!(self, Self::Standing | Self::Absent)
    }

    fn is_done(&self) -> bool {
        matches!(self, Self::Published | Self::Settled(Ok(_)))
    }
}

/// What was handed to the members.
struct Encoded {
    bytes: u64,
    summary: Option<SegmentSummary>,
    fingerprint: Option<Fingerprint>,
}

struct Members {
    members: Vec<Member>,
    required: usize,
    events: Receiver<(usize, Event)>,
}

impl Members {
    /// Starts a thread for every repository.
    fn ask(
        set: &RepositorySet,
        identity: &ClusterIdentity,
        name: &WalFileName,
        encoding: Encoding,
    ) -> Self {
        let (tell, events) = channel();
        let members = set
            .stores()
            .iter()
            .enumerate()
            .map(|(index, store)| {
                let (orders, told) = sync_channel(BLOCKS_AHEAD);
                let worker = Worker {
                    index,
                    store: Arc::clone(store),
                    keys: set.keys().clone(),
                    recollection: set.recollection().cloned(),
                    identity: *identity,
                    name: *name,
                    encoding,
                    tell: tell.clone(),
                    orders: told,
                };
                let thread = std::thread::Builder::new().name(format!("repository-{index}"));
                let location = store.location();
                let state = match thread.spawn(move || worker.run()) {
                    Ok(_) => State::Asking,
                    Err(error) => State::Settled(Err(MemberError::Thread {
                        location: location.clone(),
                        reason: error.to_string(),
                    })),
                };
                Member {
                    location,
                    archive: None,
                    state,
                    fingerprint: None,
                    orders: Some(orders),
                }
            })
            .collect();
        Self {
            members,
            required: set.required(),
            events,
        }
    }

    /// Takes events until no member is `busy` any more, or for [`PATIENCE`]
    /// after as many as required are `good`.
    fn wait(&mut self, busy: fn(&State) -> bool, good: fn(&State) -> bool) {
        let mut deadline = None;
        while self.members.iter().any(|member| busy(&member.state)) {
            let enough = self.members.iter().filter(|m| good(&m.state)).count() >= self.required;
            if enough && deadline.is_none() {
                deadline = Some(Instant::now() + PATIENCE);
            }
            let event = match deadline {
                None => self
                    .events
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.events.recv_timeout(left)
                }
            };
            match event {
                Ok((index, event)) => self.take(index, event),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    // threads that died without a word
                    for member in self.members.iter_mut().filter(|m| busy(&m.state)) {
                        let location = member.location.clone();
                        member.state = State::Settled(Err(MemberError::Thread {
                            location,
                            reason: "its thread has died".to_owned(),
                        }));
                    }
                    return;
                }
            }
        }
    }

    fn take(&mut self, index: usize, event: Event) {
        let Some(member) = self.members.get_mut(index) else {
            return;
        };
        member.state = match event {
            // one that was given up meanwhile stays so
            _ if matches!(member.state, State::Settled(_)) => return,
            Event::Reached { archive, standing } => {
                member.archive = Some(archive);
                if standing.is_some() {
                    State::Standing
                } else {
                    State::Absent
                }
            }
            Event::Published => State::Published,
            Event::Failed(error) => {
                member.orders = None;
                State::Settled(Err(error))
            }
        };
    }

    /// Waits no longer for members that are still `busy`.
    fn give_up(&mut self, busy: fn(&State) -> bool) {
        for member in self.members.iter_mut().filter(|m| busy(&m.state)) {
            member.orders = None;
            member.state = State::Settled(Err(MemberError::Late {
                location: member.location.clone(),
                waited: PATIENCE,
            }));
        }
    }

    /// Compares the source with the objects that stand under the name.
    fn compare(&mut self, offered: &mut Offered<'_>) -> Result<(), PushError> {
        for member in &mut self.members {
            if !matches!(member.state, State::Standing) {
                continue;
            }
            member.orders = None;
            member.settle_alone(offered)?;
        }
        Ok(())
    }

    fn any_refuses(&self) -> bool {
        self.members
            .iter()
            .any(|member| matches!(&member.state, State::Settled(Err(error)) if error.is_refusal()))
    }

    fn leave_untouched(&mut self) {
        for member in &mut self.members {
            if matches!(member.state, State::Absent) {
                member.orders = None;
                member.state = State::Settled(Err(MemberError::NotTried {
                    location: member.location.clone(),
                }));
            }
        }
    }

    /// Encodes the source once, into all members that do not have it.
    fn store(&mut self, offered: &mut Offered<'_>) -> Result<(), PushError> {
        let (name, codec) = (offered.name, offered.codec);
        let Some(archive) = self
            .members
            .iter()
            .find(|member| matches!(member.state, State::Absent))
            .and_then(|member| member.archive.clone())
        else {
            return Ok(());
        };
        for member in &mut self.members {
            if matches!(member.state, State::Absent) {
                member.state = State::Writing;
            }
        }
        let mut buffer = Vec::new();
        let head_bytes = archive.read_and_check_head(name, offered.source, &mut buffer)?;
        let encoded = self.encode(&archive, offered, &mut buffer, head_bytes)?;
        self.wait(State::is_writing, State::is_done);
        self.give_up(State::is_writing);
        let (stored_bytes, summary, fingerprint) = match encoded {
            Some(Encoded {
                bytes,
                summary,
                fingerprint,
            }) => (Some(bytes), summary.map(Box::new), fingerprint),
            None => (None, None, None),
        };
        let mut needed_bytes = stored_bytes;
        for member in &mut self.members {
            match &mut member.state {
                State::Published => {
                    member.fingerprint = fingerprint;
                    member.settle_stored(name, codec, stored_bytes, summary.clone());
                }
                State::Settled(Err(MemberError::Push(PushError::Store(error)))) => match error {
                    // somebody else has stored the name in between
                    StoreError::AlreadyExists { .. } => {
                        member.settle_alone(offered)?;
                    }
                    StoreError::NoSpace {
                        needed_bytes: needed,
                        ..
                    } => {
                        if needed_bytes.is_none() {
                            needed_bytes = push::measure(offered.source, &mut buffer, codec);
                        }
                        *needed = needed_bytes.or(*needed);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        Ok(())
    }

    /// `None` where no member is left that would take it.
    fn encode(
        &mut self,
        archive: &WalArchive,
        offered: &mut Offered<'_>,
        buffer: &mut Vec<u8>,
        mut head_bytes: usize,
    ) -> Result<Option<Encoded>, PushError> {
        let (name, codec, turn) = (offered.name, offered.codec, offered.turn);
        // the digest that one repository keeps is that of all: of the content
        let digesting = self
            .members
            .iter()
            .filter_map(|member| member.archive.as_ref())
            .find(|archive| archive.store.content_hasher().is_some())
            .map_or_else(
                || Arc::clone(&archive.store),
                |archive| Arc::clone(&archive.store),
            );
        let mut reading = 1;
        loop {
            let mut tee = Tee::new(self);
            tee.send_all(|| Order::Begin);
            let mut sink = Counting {
                inner: &mut tee,
                bytes: 0,
            };
            let size = archive.cluster().segment_size;
            let mut scan = Scan::of(name, size, digesting.as_ref(), turn.is_some());
            let chunk = &mut Chunk {
                buffer: &mut *buffer,
                head_bytes,
            };
            let encoded = encode(offered.source, chunk, codec, &mut sink, "", &mut scan);
            let Scanned {
                summary,
                digest,
                fingerprint,
            } = scan.finish();
            match encoded {
                Ok(()) => {}
                // the members have told why
                Err(PushError::Store(_)) if !sink.inner.members.anybody_writes() => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            let is_damaged = summary.as_ref().is_some_and(SegmentSummary::is_damaged);
            if is_damaged && reading < READINGS {
                // what a disk or a memory got wrong once it may get right the next time
                reading += 1;
                let source = &mut *offered.source;
                head_bytes = source
                    .rewind()
                    .and_then(|()| read_full(source, buffer))
                    .map_err(|e| source_error(source, e))?;
                continue;
            }
            if is_damaged && turn.is_some_and(|turn| !turn.takes_damaged()) {
                return Err(PushError::Withdrawn { name: *name });
            }
            if codec.encoding() == Encoding::Zstd
                && let Some(frame) = summary.as_ref().and_then(summary::summary_to_frame)
                && sink.write_all(&frame).is_err()
            {
                return Ok(None);
            }
            let bytes = sink.bytes;
            tee.send_block();
            if turn.is_some_and(|turn| !turn.comes(offered.in_order)) {
                return Err(PushError::Withdrawn { name: *name });
            }
            tee.send_all(|| Order::Publish(digest));
            for member in tee.members.members.iter_mut() {
                member.orders = None;
            }
            return Ok(Some(Encoded {
                bytes,
                summary,
                fingerprint,
            }));
        }
    }

    fn anybody_writes(&self) -> bool {
        self.members.iter().any(|member| member.state.is_writing())
    }

    fn into_results(self) -> Vec<MemberPush> {
        self.members
            .into_iter()
            .map(|member| MemberPush {
                outcome: match member.state {
                    State::Settled(outcome) => outcome,
                    _ => Err(MemberError::Thread {
                        location: member.location.clone(),
                        reason: "it was left unfinished".to_owned(),
                    }),
                },
                location: member.location,
                archive: member.archive,
                fingerprint: member.fingerprint,
            })
            .collect()
    }
}

impl Member {
    /// Compares, or stores, in this repository alone.
    fn settle_alone(&mut self, offered: &mut Offered<'_>) -> Result<(), PushError> {
        let Some(archive) = &self.archive else {
            return Ok(());
        };
        let pushed = archive
            .push_when(
                offered.name,
                offered.source,
                offered.codec,
                None,
                offered.turn,
            )
            .and_then(|pushed| {
                Shown::settle_all([pushed.shown])?;
                Ok((pushed.pushed, pushed.fingerprint))
            });
        self.state = State::Settled(match pushed {
            Err(
                error @ (PushError::Source { .. }
                | PushError::SourceChanged { .. }
                | PushError::Withdrawn { .. }),
            ) => return Err(error),
            Err(error) => Err(MemberError::Push(error)),
            Ok((pushed, fingerprint)) => {
                self.fingerprint = fingerprint;
                Ok(pushed)
            }
        });
        Ok(())
    }

    fn settle_stored(
        &mut self,
        name: &WalFileName,
        codec: Codec,
        stored_bytes: Option<u64>,
        summary: Option<Box<SegmentSummary>>,
    ) {
        let encoding = codec.encoding();
        let Some(archive) = &self.archive else {
            return;
        };
        self.state = State::Settled(
            archive
                .target(name, encoding)
                .map(|(key, _)| Pushed::Stored {
                    object: StoredObject {
                        name: *name,
                        location: archive.store.object_location(&key),
                        key,
                        encoding,
                        stored_bytes: stored_bytes.unwrap_or(0),
                    },
                    summary,
                })
                .map_err(MemberError::from),
        );
    }
}
