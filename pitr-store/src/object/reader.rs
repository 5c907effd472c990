//! Reading an object as it comes, across connections that break.

use std::io::{self, Read};
use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::bucket::{Bucket, Head};
use super::failure::Failure;
use super::retry::Pauses;
use super::runtime;
use crate::store::{Operation, RemoteProblem, StoreError};

/// Pieces that are fetched ahead of the reader. A piece has some hundred KiB at
/// the most: what one read of a socket gives.
const PIECES_AHEAD: usize = 16;

/// An open object.
pub(super) struct ObjectReader {
    pieces: mpsc::Receiver<Result<Bytes, Failure>>,
    piece: Bytes,
    /// Bytes that are still to come.
    left: u64,
    bucket: Bucket,
    location: String,
}

impl ObjectReader {
    /// Opens `name` for reading from its first byte to its last.
    pub(super) fn open(
        bucket: &Bucket,
        name: String,
        location: String,
    ) -> Result<Self, StoreError> {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let head = bucket.run(
            Operation::Open,
            || location.clone(),
            |bucket| async move {
                let (head, range, stream) = bucket
                    .budget
                    .run(|| bucket.get_once(&name, None, None))
                    .await?;
                let size = head.size;
                let feed = Feed {
                    bucket,
                    name,
                    head,
                    sender,
                };
                runtime::handle()
                    .map_err(|error| Failure::new(RemoteProblem::Unexpected, error.to_string()))?
                    .spawn(feed.run(range, stream));
                Ok(size)
            },
        )?;
        Ok(Self {
            pieces,
            piece: Bytes::new(),
            left: head,
            bucket: bucket.clone(),
            location,
        })
    }

    fn failed(&self, failure: Failure) -> io::Error {
        self.bucket
            .error(failure, Operation::Read, self.location.clone())
            .into()
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(failure)) => return Err(self.failed(failure)),
                None if self.left == 0 => return Ok(0),
                None => {
                    return Err(self.failed(Failure::new(
                        RemoteProblem::Unreachable,
                        format!("{} bytes are missing at the end", self.left),
                    )));
                }
            }
        }
        let length = self.piece.len().min(buffer.len());
        let given = self.piece.split_to(length);
        if let Some(into) = buffer.get_mut(..length) {
            into.copy_from_slice(&given);
        }
        self.left = self
            .left
            .saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
        Ok(length)
    }
}

type Pieces = futures_util::stream::BoxStream<'static, Result<Bytes, Failure>>;

/// What fetches the pieces, on the thread for remote stores.
struct Feed {
    bucket: Bucket,
    name: String,
    head: Head,
    sender: mpsc::Sender<Result<Bytes, Failure>>,
}

impl Feed {
    /// Sends pieces until the object's end or until nobody wants them; where
    /// the connection breaks, goes on from there, as long as it is still the
    /// same object.
    async fn run(self, mut wanted: Range<u64>, mut stream: Pieces) {
        let mut pauses = Pauses::new(self.bucket.budget);
        loop {
            let failure = match stream.next().await {
                Some(Ok(piece)) => {
                    let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                    wanted.start = wanted.start.saturating_add(length);
                    if wanted.start > wanted.end {
                        let said = "more bytes came than the object has";
                        let failure = Failure::new(RemoteProblem::Unexpected, said);
                        let _ = self.sender.send(Err(failure)).await;
                        return;
                    }
                    if !piece.is_empty() {
                        pauses.renew();
                        if self.sender.send(Ok(piece)).await.is_err() {
                            return;
                        }
                    }
                    continue;
                }
                None if wanted.is_empty() => return,
                None => Failure::new(RemoteProblem::Unreachable, "the answer ended too early"),
                Some(Err(failure)) => failure,
            };
            if wanted.is_empty() {
                return;
            }
            match self.resume(&mut pauses, failure, &wanted).await {
                Ok(again) => stream = again,
                Err(failure) => {
                    let _ = self.sender.send(Err(failure)).await;
                    return;
                }
            }
        }
    }

    /// The rest of the object, over a new connection.
    async fn resume(
        &self,
        pauses: &mut Pauses,
        mut failure: Failure,
        wanted: &Range<u64>,
    ) -> Result<Pieces, Failure> {
        loop {
            if !failure.is_passing() || !pauses.pause(failure.retry_after()).await {
                return Err(failure);
            }
            let again =
                self.bucket
                    .get_once(&self.name, Some(wanted.clone()), self.head.e_tag.clone());
            match again.await {
                Ok((head, range, stream))
                    if head.size == self.head.size
                        && head.e_tag == self.head.e_tag
                        && range == *wanted =>
                {
                    return Ok(stream);
                }
                Ok(_) | Err(Failure::Taken | Failure::BeyondEnd) => {
                    return Err(Failure::new(RemoteProblem::Changed, ""));
                }
                Err(other) => failure = other,
            }
        }
    }
}

/// Bytes of a ranged read, or what keeps them from being had.
pub(super) enum Ranged {
    Bytes(Vec<u8>),
    /// The object ends before the range does.
    Short {
        size_bytes: u64,
    },
}

/// Longest range that is asked for without knowing that the object has it.
const TRUSTED_RANGE_BYTES: u64 = 64 << 20;

/// Reads exactly `range`.
pub(super) async fn read_range(
    bucket: &Bucket,
    name: &str,
    range: Range<u64>,
) -> Result<Ranged, Failure> {
    let wanted = range.end.saturating_sub(range.start);
    if wanted == 0 || wanted > TRUSTED_RANGE_BYTES {
        let size_bytes = bucket.head(name).await?.ok_or(Failure::Absent)?.size;
        if range.end.max(range.start) > size_bytes {
            return Ok(Ranged::Short { size_bytes });
        }
        if wanted == 0 {
            return Ok(Ranged::Bytes(Vec::new()));
        }
    }
    let outcome = bucket
        .budget
        .run(|| async {
            let (head, sent, stream) = bucket.get_once(name, Some(range.clone()), None).await?;
            if sent != range {
                return Ok(Ranged::Short {
                    size_bytes: head.size,
                });
            }
            collect(stream, wanted).await.map(Ranged::Bytes)
        })
        .await;
    match outcome {
        Err(Failure::BeyondEnd) => {
            let size_bytes = bucket.head(name).await?.ok_or(Failure::Absent)?.size;
            Ok(Ranged::Short { size_bytes })
        }
        other => other,
    }
}

/// A small object whole; `Err` with its size if it is larger than `max_bytes`.
pub(super) async fn read_whole(
    bucket: &Bucket,
    name: &str,
    max_bytes: u64,
) -> Result<Result<Vec<u8>, u64>, Failure> {
    bucket
        .budget
        .run(|| async {
            let (head, _, stream) = bucket.get_once(name, None, None).await?;
            if head.size > max_bytes {
                return Ok(Err(head.size));
            }
            collect(stream, head.size).await.map(Ok)
        })
        .await
}

/// The stream's bytes, which must be exactly `expected` many.
async fn collect(mut stream: Pieces, expected: u64) -> Result<Vec<u8>, Failure> {
    let capacity = usize::try_from(expected).unwrap_or(0).min(1 << 20);
    let mut bytes = Vec::with_capacity(capacity);
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > expected {
            break;
        }
    }
    if u64::try_from(bytes.len()).ok() != Some(expected) {
        return Err(Failure::new(
            RemoteProblem::Unreachable,
            format!("{} bytes came where {expected} were expected", bytes.len()),
        ));
    }
    Ok(bytes)
}
