//! Writing an object: in one request where it is small or contested, in parts
//! where it is large.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::multipart::PartId;
use object_store::{MultipartId, PutPayload};

use super::bucket::Bucket;
use super::failure::Failure;
use super::lease::Leases;
use super::retry::Pauses;
use super::runtime::{self, Pending};
use crate::key::ObjectKey;
use crate::store::{ObjectWriter, Operation, RemoteProblem, StoreError};

/// What is sent at a time, and the most that is put in one request without
/// need.
const PART_BYTES: usize = 8 << 20;

/// After this many parts they get larger, since a bucket takes 10 000 of them.
const SMALL_PARTS: usize = 1000;

/// Size of the parts from then on.
const LARGE_PART_BYTES: usize = 64 << 20;

/// Parts on their way at once: with the one that is filled, what a writer
/// keeps in memory.
const PARTS_IN_FLIGHT: usize = 3;

/// An object up to this size whose name others may want at the same moment goes
/// in one request: every usual segment does.
const CONTESTED_BYTES: usize = 32 << 20;

/// The same where parts cannot be completed under a condition: no segment is
/// larger.
const UNCONDITIONAL_CONTESTED_BYTES: usize = 1 << 30;

/// How long a writer that is dropped waits for its parts to be removed.
const ABORT_LIMIT: Duration = Duration::from_secs(5);

/// An object on its way into a bucket.
pub(super) struct BucketWriter {
    bucket: Bucket,
    leases: Arc<Leases>,
    key: ObjectKey,
    name: String,
    rivals: Vec<ObjectKey>,
    /// The answer, where it has not come yet.
    rivals_before: Option<Pending<Result<Option<usize>, Failure>>>,
    /// Who writes: told apart from every other writer.
    writer: String,
    /// What was written and is in no part yet.
    filling: Vec<u8>,
    parts: Option<Parts>,
}

/// An upload in parts.
struct Parts {
    upload: MultipartId,
    begun: usize,
    done: Vec<PartId>,
    in_flight: VecDeque<Pending<Result<PartId, Failure>>>,
    total_bytes: u64,
}

impl BucketWriter {
    /// Begins; nothing is sent but the question for rivals, unless none was
    /// there when it was asked last, just now: `has_looked`.
    pub(super) fn begin(
        bucket: &Bucket,
        leases: &Arc<Leases>,
        key: &ObjectKey,
        rivals: &[ObjectKey],
        has_looked: bool,
    ) -> Result<Self, StoreError> {
        let mut writer = Self {
            name: bucket.name(key.as_str()),
            bucket: bucket.clone(),
            leases: Arc::clone(leases),
            key: key.clone(),
            rivals: rivals.to_vec(),
            rivals_before: None,
            writer: unique().map_err(|source| StoreError::Io {
                operation: Operation::Create,
                location: bucket.object_location(key),
                source,
            })?,
            filling: Vec::new(),
            parts: None,
        };
        if !rivals.is_empty() && !has_looked {
            let pending = writer.ask_for_rivals();
            writer.rivals_before = Some(pending.map_err(|source| StoreError::Io {
                operation: Operation::Create,
                location: writer.location(),
                source,
            })?);
        }
        Ok(writer)
    }

    fn location(&self) -> String {
        self.bucket.object_location(&self.key)
    }

    fn error(&self, failure: Failure, operation: Operation) -> StoreError {
        self.bucket.error(failure, operation, self.location())
    }

    fn thread_error(&self, operation: Operation) -> impl Fn(io::Error) -> StoreError + use<> {
        let location = self.location();
        move |source| StoreError::Io {
            operation,
            location: location.clone(),
            source,
        }
    }

    fn ask_for_rivals(&self) -> io::Result<Pending<Result<Option<usize>, Failure>>> {
        let (bucket, rivals) = (self.bucket.clone(), self.rivals.clone());
        runtime::begin(async move {
            let there = super::listing::which_of(&bucket, &rivals).await?;
            Ok(there.first().map(|(place, _)| *place))
        })
    }

    fn taken_by(&self, key: &ObjectKey) -> StoreError {
        StoreError::AlreadyExists {
            key: key.clone(),
            location: self.bucket.object_location(key),
        }
    }

    fn refuse_rival(
        &self,
        pending: Pending<Result<Option<usize>, Failure>>,
    ) -> Result<(), StoreError> {
        let found = pending
            .wait()
            .map_err(self.thread_error(Operation::Publish))?
            .map_err(|failure| self.error(failure, Operation::Publish))?;
        match found.and_then(|place| self.rivals.get(place)) {
            Some(rival) => Err(self.taken_by(rival)),
            None => Ok(()),
        }
    }

    /// From which size on the object goes in parts.
    fn one_request_bytes(&self) -> usize {
        if self.rivals.is_empty() {
            PART_BYTES
        } else if self.bucket.kind.conditional_parts {
            CONTESTED_BYTES
        } else {
            UNCONDITIONAL_CONTESTED_BYTES
        }
    }

    fn part_bytes(&self) -> usize {
        match &self.parts {
            Some(parts) if parts.begun >= SMALL_PARTS => LARGE_PART_BYTES,
            Some(_) => PART_BYTES,
            None => self.one_request_bytes(),
        }
    }

    /// Sends what is filled as the next part, once there is room for it.
    fn send_part(&mut self) -> Result<(), StoreError> {
        let bytes = Bytes::from(std::mem::take(&mut self.filling));
        let mut parts = match self.parts.take() {
            Some(parts) => parts,
            None => self.begin_parts()?,
        };
        let outcome = self.send(&mut parts, bytes);
        self.parts = Some(parts);
        outcome
    }

    fn begin_parts(&self) -> Result<Parts, StoreError> {
        let (name, writer) = (self.name.clone(), self.writer.clone());
        let upload = self.bucket.run(
            Operation::Create,
            || self.location(),
            |bucket| async move { bucket.begin_parts(&name, &writer).await },
        )?;
        Ok(Parts {
            upload,
            begun: 0,
            done: Vec::new(),
            in_flight: VecDeque::new(),
            total_bytes: 0,
        })
    }

    fn send(&self, parts: &mut Parts, bytes: Bytes) -> Result<(), StoreError> {
        while parts.in_flight.len() >= PARTS_IN_FLIGHT {
            self.settle_oldest(parts)?;
        }
        let number = parts.begun;
        parts.begun += 1;
        parts.total_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let (bucket, name) = (self.bucket.clone(), self.name.clone());
        let upload = parts.upload.clone();
        let pending =
            runtime::begin(async move { bucket.put_part(&name, &upload, number, bytes).await });
        parts
            .in_flight
            .push_back(pending.map_err(self.thread_error(Operation::Write))?);
        Ok(())
    }

    fn settle_oldest(&self, parts: &mut Parts) -> Result<(), StoreError> {
        let Some(oldest) = parts.in_flight.pop_front() else {
            return Ok(());
        };
        let part = oldest
            .wait()
            .map_err(self.thread_error(Operation::Write))?
            .map_err(|failure| self.error(failure, Operation::Write))?;
        parts.done.push(part);
        Ok(())
    }

    /// Publishes what fits into one request.
    fn publish_whole(&mut self) -> Result<(), StoreError> {
        let payload = PutPayload::from(Bytes::from(std::mem::take(&mut self.filling)));
        let (name, writer) = (self.name.clone(), self.writer.clone());
        let outcome = self.bucket.run(
            Operation::Publish,
            || self.location(),
            |bucket| async move { put_whole(&bucket, &name, &writer, payload).await },
        )?;
        self.outcome(outcome)
    }

    fn outcome(&self, outcome: Outcome) -> Result<(), StoreError> {
        match outcome {
            Outcome::Ours => Ok(()),
            Outcome::Others => Err(self.taken_by(&self.key)),
        }
    }

    /// Publishes what was sent in parts.
    fn publish_parts(&mut self) -> Result<(), StoreError> {
        if !self.filling.is_empty() {
            self.send_part()?;
        }
        let Some(mut parts) = self.parts.take() else {
            return Ok(());
        };
        let settled = loop {
            if parts.in_flight.is_empty() {
                break Ok(());
            }
            if let Err(error) = self.settle_oldest(&mut parts) {
                break Err(error);
            }
        };
        let outcome = settled.and_then(|()| {
            let (name, writer) = (self.name.clone(), self.writer.clone());
            let (upload, done) = (parts.upload.clone(), parts.done.clone());
            let total = parts.total_bytes;
            self.bucket.run(
                Operation::Publish,
                || self.location(),
                |bucket| async move {
                    complete(&bucket, &name, &writer, &upload, &done, total).await
                },
            )
        });
        match outcome {
            Ok(Outcome::Ours) => Ok(()),
            other => {
                self.parts = Some(parts);
                self.abort();
                self.outcome(other?)
            }
        }
    }

    /// Drops the parts that were sent, if the server lets it in time; a rule of
    /// the bucket removes the rest.
    fn abort(&mut self) {
        let Some(parts) = self.parts.take() else {
            return;
        };
        let (bucket, name) = (self.bucket.clone(), self.name.clone());
        let pending = runtime::begin(async move {
            for part in parts.in_flight {
                // a part that arrives after the end would stay
                drop(part);
            }
            let _ = bucket.abort_parts(&name, &parts.upload).await;
        });
        if let Ok(pending) = pending {
            let _ = pending.wait_at_most(ABORT_LIMIT);
        }
    }
}

impl Write for BucketWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let limit = self.part_bytes();
        if self.filling.len() >= limit {
            self.send_part().map_err(io::Error::from)?;
        }
        let room = self.part_bytes().saturating_sub(self.filling.len());
        let taken = bytes.get(..bytes.len().min(room)).unwrap_or(bytes);
        self.filling.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter for BucketWriter {
    fn publish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.leases.check(&self.key, || self.location())?;
        if let Some(pending) = self.rivals_before.take() {
            self.refuse_rival(pending)?;
        }
        if self.parts.is_some() {
            self.publish_parts()?;
        } else {
            self.publish_whole()?;
        }
        // everybody looks once more: of two, the later one's object was there before the
        // earlier one's look, or the other way round, so that they never miss each other
        if !self.rivals.is_empty() {
            let pending = self
                .ask_for_rivals()
                .map_err(self.thread_error(Operation::Publish))?;
            self.refuse_rival(pending)?;
        }
        Ok(())
    }
}

impl Drop for BucketWriter {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Whose object lies under the key now.
enum Outcome {
    Ours,
    Others,
}

/// Puts an object where none is, and finds out whether it was this writer who
/// did, when answers are lost.
async fn put_whole(
    bucket: &Bucket,
    name: &str,
    writer: &str,
    payload: PutPayload,
) -> Result<Outcome, Failure> {
    if !bucket.refuses_to_overwrite() {
        return put_looking(bucket, name, writer, payload).await;
    }
    let mut pauses = Pauses::new(bucket.budget);
    loop {
        let failure = match bucket.put_once(name, payload.clone(), writer, true).await {
            Ok(()) => return Ok(Outcome::Ours),
            Err(Failure::Taken) => match bucket.is_of(name, writer).await {
                Ok(Some(true)) => return Ok(Outcome::Ours),
                Ok(Some(false)) => return Ok(Outcome::Others),
                // refused in favour of one that failed after all
                Ok(None) => Failure::new(
                    RemoteProblem::Unavailable,
                    "it was refused as existing, and does not exist",
                ),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        if !failure.is_passing() || !pauses.pause(failure.retry_after()).await {
            return Err(failure);
        }
    }
}

/// The same on a server that overwrites: looks before, reads back after.
async fn put_looking(
    bucket: &Bucket,
    name: &str,
    writer: &str,
    payload: PutPayload,
) -> Result<Outcome, Failure> {
    let owner = || bucket.budget.run(|| bucket.is_of(name, writer));
    if owner().await?.is_some() {
        return Ok(Outcome::Others);
    }
    let mut pauses = Pauses::new(bucket.budget);
    loop {
        let failure = match bucket.put_once(name, payload.clone(), writer, false).await {
            Ok(()) => match owner().await? {
                Some(true) => return Ok(Outcome::Ours),
                Some(false) => return Ok(Outcome::Others),
                None => Failure::new(
                    RemoteProblem::Unavailable,
                    "it was accepted, and does not exist",
                ),
            },
            Err(failure) => failure,
        };
        if !failure.is_passing() || !pauses.pause(failure.retry_after()).await {
            return Err(failure);
        }
        // The answer may have been lost, and another may have come since.
        match owner().await? {
            Some(true) => return Ok(Outcome::Ours),
            Some(false) => return Ok(Outcome::Others),
            None => {}
        }
    }
}

/// Turns parts into the object, where none is.
async fn complete(
    bucket: &Bucket,
    name: &str,
    writer: &str,
    upload: &MultipartId,
    parts: &[PartId],
    total_bytes: u64,
) -> Result<Outcome, Failure> {
    // By its metadata, or, where parts carry none, by its size: what was not
    // there before is ours.
    let whose = || async {
        let found = bucket
            .budget
            .run(|| async {
                let Some(head) = bucket.head_once(name).await? else {
                    return Ok(None);
                };
                if bucket.kind.parts_carry_metadata {
                    bucket.is_of(name, writer).await
                } else {
                    Ok(Some(head.size == total_bytes))
                }
            })
            .await?;
        Ok::<_, Failure>(found.map(|ours| if ours { Outcome::Ours } else { Outcome::Others }))
    };
    let conditional = bucket.kind.conditional_parts && bucket.refuses_to_overwrite();
    // Some servers know the condition for whole objects alone.
    if bucket.head(name).await?.is_some() {
        return Ok(Outcome::Others);
    }
    let mut pauses = Pauses::new(bucket.budget);
    loop {
        let failure = match bucket.complete_once(name, upload, parts.to_vec()).await {
            Ok(()) if conditional => return Ok(Outcome::Ours),
            Ok(()) => Failure::new(
                RemoteProblem::Unavailable,
                "it was accepted, and does not exist",
            ),
            Err(Failure::Taken) => Failure::new(
                RemoteProblem::Unavailable,
                "it was refused as existing, and does not exist",
            ),
            // The upload is gone once an answer was lost.
            Err(Failure::MaybeAbsent | Failure::Absent) => {
                Failure::new(RemoteProblem::Unavailable, "the upload is gone")
            }
            Err(failure) => failure,
        };
        if !failure.is_passing() {
            return Err(failure);
        }
        if let Some(outcome) = whose().await? {
            return Ok(outcome);
        }
        if !pauses.pause(failure.retry_after()).await {
            return Err(failure);
        }
    }
}

/// 128 random bits in hexadecimal.
pub(super) fn unique() -> io::Result<String> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    use std::fmt::Write as _;
    let mut bytes = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gave no random numbers"))?;
    let mut text = String::with_capacity(32);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
