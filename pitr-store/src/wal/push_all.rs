//! Storing one file of the log in several repositories at once.
//!
//! The file is read, scanned and encoded once. Each repository has a thread of
//! its own that writes the same bytes; a bounded queue lies in between, so that
//! one that is slow keeps neither the reading nor the others waiting.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel,
};
use std::time::{Duration, Instant};

use pitr_core::{SegmentSummary, WalFileName};

use super::push::{self, Chunk, Counting, READINGS, encode, source_error};
use super::scan::{Scan, Scanned};
use super::source::{WalSource, read_full};
use super::{PushError, Pushed, StoredObject, WalArchive, summary};
use crate::codec::{Codec, Encoding};
use crate::encryption::KeySource;
use crate::repository::{ClaimError, ClusterIdentity, Repository, RepositorySet};
use crate::store::{ContentDigest, ObjectWriter, Operation, Store, StoreError};

/// What is handed over at once.
const BLOCK_BYTES: usize = 128 * 1024;

/// How far a repository may lag behind the encoder: 16 MiB. A segment of the
/// usual size fits whole.
const BLOCKS_AHEAD: usize = 128;

/// How long the others are waited for, once as many as required are done.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often a full queue is looked at again.
const STALL_PAUSE: Duration = Duration::from_millis(2);

/// What became of the file in one repository.
#[derive(Debug)]
pub struct MemberPush {
    /// Where the repository is.
    pub location: String,
    /// Its log, where it was reached.
    pub archive: Option<WalArchive>,
    /// `Ok` means that it is there, and survives power loss.
    pub outcome: Result<Pushed, MemberError>,
}

/// Why one repository does not have the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// The repository cannot be opened, or is not this cluster's.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The file was not stored there.
    #[error(transparent)]
    Push(#[from] PushError),
    /// As many as required had it, and this one was still at work.
    #[error("repository \"{location}\" was not done {} s after the others", waited.as_secs())]
    Late {
        /// The repository.
        location: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Nothing was stored here, because another repository refuses the file.
    #[error(
        "nothing was stored in repository \"{location}\", because another one refuses the file"
    )]
    NotTried {
        /// The repository.
        location: String,
    },
    /// No thread was to be had, or it has died.
    #[error("could not work on repository \"{location}\": {reason}")]
    Thread {
        /// The repository.
        location: String,
        /// What the system said.
        reason: String,
    },
}

impl MemberError {
    /// Whether the file certainly does not belong there, whatever is tried
    /// again: the repository is another cluster's, or has other content under
    /// the name.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Claim(ClaimError::OwnedByOther { .. } | ClaimError::Changed { .. })
                | Self::Push(
                    PushError::Conflict { .. } | PushError::Identify(_) | PushError::TextFile(_)
                )
        )
    }

    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Claim(error) => error.hint(),
            Self::Push(error) => error.hint(),
            Self::Late { .. } | Self::NotTried { .. } | Self::Thread { .. } => None,
        }
    }
}

impl From<StoreError> for MemberError {
    fn from(error: StoreError) -> Self {
        Self::Push(error.into())
    }
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
    let codec = push::codec_of(name, codec);
    let mut members = Members::ask(set, identity, name, codec.encoding());
    members.wait(State::is_asking, State::is_reached);
    members.give_up(State::is_asking);
    members.compare(name, source, codec)?;
    if members.any_refuses() {
        members.leave_untouched();
        return Ok(members.into_results());
    }
    members.store(name, source, codec)?;
    Ok(members.into_results())
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
    fn compare(
        &mut self,
        name: &WalFileName,
        source: &mut dyn WalSource,
        codec: Codec,
    ) -> Result<(), PushError> {
        for member in &mut self.members {
            if !matches!(member.state, State::Standing) {
                continue;
            }
            member.orders = None;
            member.settle_alone(name, source, codec)?;
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
    fn store(
        &mut self,
        name: &WalFileName,
        source: &mut dyn WalSource,
        codec: Codec,
    ) -> Result<(), PushError> {
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
        let head_bytes = archive.read_and_check_head(name, source, &mut buffer)?;
        let encoded = self.encode(&archive, name, source, &mut buffer, head_bytes, codec)?;
        self.wait(State::is_writing, State::is_done);
        self.give_up(State::is_writing);
        let (stored_bytes, summary) = match encoded {
            Some((bytes, summary)) => (Some(bytes), summary.map(Box::new)),
            None => (None, None),
        };
        let mut needed_bytes = stored_bytes;
        for member in &mut self.members {
            match &mut member.state {
                State::Published => {
                    member.settle_stored(name, codec, stored_bytes, summary.clone());
                }
                State::Settled(Err(MemberError::Push(PushError::Store(error)))) => match error {
                    // somebody else has stored the name in between
                    StoreError::AlreadyExists { .. } => {
                        member.settle_alone(name, source, codec)?;
                    }
                    StoreError::NoSpace {
                        needed_bytes: needed,
                        ..
                    } => {
                        if needed_bytes.is_none() {
                            needed_bytes = push::measure(source, &mut buffer, codec);
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

    /// Length of the object and what is in it; `None` where no member is left
    /// that would take it.
    fn encode(
        &mut self,
        archive: &WalArchive,
        name: &WalFileName,
        source: &mut dyn WalSource,
        buffer: &mut Vec<u8>,
        mut head_bytes: usize,
        codec: Codec,
    ) -> Result<Option<(u64, Option<SegmentSummary>)>, PushError> {
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
            let mut tee = Tee {
                members: self,
                block: Vec::with_capacity(BLOCK_BYTES),
            };
            tee.send_all(|| Order::Begin);
            let mut sink = Counting {
                inner: &mut tee,
                bytes: 0,
            };
            let mut scan = Scan::of(name, archive.cluster().segment_size, digesting.as_ref());
            let chunk = &mut Chunk {
                buffer: &mut *buffer,
                head_bytes,
            };
            let encoded = encode(source, chunk, codec, &mut sink, "", &mut scan);
            let Scanned { summary, digest } = scan.finish();
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
                head_bytes = source
                    .rewind()
                    .and_then(|()| read_full(source, buffer))
                    .map_err(|e| source_error(source, e))?;
                continue;
            }
            if codec.encoding() == Encoding::Zstd
                && let Some(frame) = summary.as_ref().and_then(summary::summary_to_frame)
                && sink.write_all(&frame).is_err()
            {
                return Ok(None);
            }
            let bytes = sink.bytes;
            tee.send_block();
            tee.send_all(|| Order::Publish(digest));
            for member in tee.members.members.iter_mut() {
                member.orders = None;
            }
            return Ok(Some((bytes, summary)));
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
            })
            .collect()
    }
}

impl Member {
    /// Compares, or stores, in this repository alone.
    fn settle_alone(
        &mut self,
        name: &WalFileName,
        source: &mut dyn WalSource,
        codec: Codec,
    ) -> Result<(), PushError> {
        let Some(archive) = &self.archive else {
            return Ok(());
        };
        self.state = State::Settled(match archive.push(name, source, codec) {
            Err(error @ (PushError::Source { .. } | PushError::SourceChanged { .. })) => {
                return Err(error);
            }
            pushed => pushed.map_err(MemberError::Push),
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

/// Hands what is written to it to all members that are still writing.
struct Tee<'m> {
    members: &'m mut Members,
    block: Vec<u8>,
}

impl Tee<'_> {
    fn send_block(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let block: Arc<[u8]> = Arc::from(self.block.as_slice());
        self.block.clear();
        self.send_all(|| Order::Block(Arc::clone(&block)));
    }

    /// To those whose queue has room first, so that a slow one holds up nobody
    /// who is not.
    fn send_all(&mut self, order: impl Fn() -> Order) {
        let mut waiting: BTreeMap<usize, Order> = self
            .members
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.state.is_writing())
            .map(|(index, _)| (index, order()))
            .collect();
        let begun = Instant::now();
        loop {
            waiting = waiting
                .into_iter()
                .filter_map(|(index, order)| {
                    let orders = self.members.members.get(index)?.orders.as_ref()?;
                    match orders.try_send(order) {
                        Ok(()) => None,
                        Err(TrySendError::Full(order)) => Some((index, order)),
                        // it has failed; why comes as an event
                        Err(TrySendError::Disconnected(_)) => None,
                    }
                })
                .collect();
            while let Ok((index, event)) = self.members.events.try_recv() {
                self.members.take(index, event);
            }
            if waiting.is_empty() {
                return;
            }
            let others = self
                .members
                .members
                .iter()
                .enumerate()
                .filter(|(index, member)| {
                    !waiting.contains_key(index)
                        && (member.state.is_writing() || member.state.is_done())
                })
                .count();
            if others >= self.members.required && begun.elapsed() > PATIENCE {
                for index in waiting.keys() {
                    if let Some(member) = self.members.members.get_mut(*index) {
                        member.orders = None;
                        member.state = State::Settled(Err(MemberError::Late {
                            location: member.location.clone(),
                            waited: PATIENCE,
                        }));
                    }
                }
                return;
            }
            std::thread::sleep(STALL_PAUSE);
        }
    }
}

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK_BYTES.saturating_sub(self.block.len());
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or(bytes);
        self.block.extend_from_slice(taken);
        if self.block.len() >= BLOCK_BYTES {
            self.send_block();
            if !self.members.anybody_writes() {
                return Err(io::Error::other("no repository takes it any more"));
            }
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One repository's thread.
struct Worker {
    index: usize,
    store: Arc<dyn Store>,
    keys: KeySource,
    identity: ClusterIdentity,
    name: WalFileName,
    encoding: Encoding,
    tell: Sender<(usize, Event)>,
    orders: Receiver<Order>,
}

impl Worker {
    fn run(self) {
        let event = match self.work() {
            Ok(true) => Event::Published,
            // nobody waits any more
            Ok(false) => return,
            Err(error) => Event::Failed(error),
        };
        let _ = self.tell.send((self.index, event));
    }

    /// Whether the object was published.
    fn work(&self) -> Result<bool, MemberError> {
        let repository =
            Repository::open_with(Arc::clone(&self.store), &self.keys).map_err(ClaimError::from)?;
        let archive = repository.claim(&self.identity)?.wal();
        let store = Arc::clone(&archive.store);
        let standing = archive.locate(&self.name)?;
        let (key, rivals) = archive.target(&self.name, self.encoding)?;
        let _ = self
            .tell
            .send((self.index, Event::Reached { archive, standing }));
        let location = store.object_location(&key);
        let mut writer: Option<Box<dyn ObjectWriter>> = None;
        for order in &self.orders {
            match order {
                Order::Begin => {
                    // an unfinished one gives up its name and room first
                    drop(writer.take());
                    writer = Some(store.create(&key, &rivals)?);
                }
                Order::Block(bytes) => {
                    if let Some(writer) = &mut writer {
                        writer.write_all(&bytes).map_err(|error| {
                            StoreError::from_io(error, Operation::Write, &location)
                        })?;
                    }
                }
                Order::Publish(digest) => {
                    if let Some(mut writer) = writer.take() {
                        if let Some(digest) = &digest {
                            writer.set_content_digest(digest);
                        }
                        writer.publish()?;
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }
}
