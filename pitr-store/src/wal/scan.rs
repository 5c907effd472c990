//! Sums up a segment, and digests it, beside its compression.

use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use pitr_core::{SegmentSummary, SegmentSummaryBuilder, WalFileName, WalSegmentSize};

use crate::store::{ContentDigest, ContentHasher, Store};

/// Chunks on their way to the thread. The scan is faster than any codec, so
/// that few are enough for neither to wait.
const CHUNKS_AHEAD: usize = 4;

/// The scan of one file, fed with the chunks that are compressed.
#[derive(Debug)]
pub(super) enum Scan {
    /// On a thread of its own.
    Beside {
        chunks: SyncSender<Vec<u8>>,
        /// Buffers that the thread is done with.
        free: Receiver<Vec<u8>>,
        thread: JoinHandle<Scanned>,
    },
    /// In between, where there is only one processor, or no thread to be had.
    Between(Box<Pass>),
    /// Nothing is asked for.
    Nothing,
}

/// What a scan has found.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// `None` of a text file, and where it could not be found out: it can be
    /// computed whenever it is needed.
    pub(super) summary: Option<SegmentSummary>,
    /// `None` where the store keeps none.
    pub(super) digest: Option<ContentDigest>,
}

/// What is done with every chunk.
#[derive(Debug)]
pub(super) struct Pass {
    builder: Option<SegmentSummaryBuilder>,
    hasher: Option<ContentHasher>,
}

impl Pass {
    fn feed(&mut self, chunk: &[u8]) {
        if let Some(builder) = &mut self.builder {
            builder.feed(chunk);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(chunk);
        }
    }

    fn finish(self) -> Scanned {
        Scanned {
            summary: self.builder.map(SegmentSummaryBuilder::finish),
            digest: self.hasher.map(ContentHasher::finish),
        }
    }
}

impl Scan {
    /// Begins the scan of `name`, in a cluster with segments of `size`, with
    /// the digest that `store` keeps.
    pub(super) fn of(name: &WalFileName, size: WalSegmentSize, store: &dyn Store) -> Self {
        let pass = || Pass {
            builder: builder(name, size),
            hasher: store.content_hasher(),
        };
        match pass() {
            Pass {
                builder: None,
                hasher: None,
            } => Self::Nothing,
            // a text file is over before a thread has begun
            small @ Pass { builder: None, .. } => Self::Between(Box::new(small)),
            large => {
                let processors =
                    std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                let beside = (processors > 1).then(|| Self::beside(large)).flatten();
                beside.unwrap_or_else(|| Self::Between(Box::new(pass())))
            }
        }
    }

    /// `None` where no thread is to be had.
    fn beside(mut pass: Pass) -> Option<Self> {
        let (chunks, offered) = sync_channel::<Vec<u8>>(CHUNKS_AHEAD);
        let (done, free) = channel();
        let spawned = std::thread::Builder::new()
            .name("scan".to_owned())
            .spawn(move || {
                for chunk in offered {
                    pass.feed(&chunk);
                    // at the end nobody wants it back any more
                    let _ = done.send(chunk);
                }
                pass.finish()
            });
        Some(Self::Beside {
            chunks,
            free,
            thread: spawned.ok()?,
        })
    }

    /// Takes the next bytes of the file.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        match self {
            Self::Beside { chunks, free, .. } => {
                let mut chunk = free.try_recv().unwrap_or_default();
                chunk.clear();
                chunk.extend_from_slice(bytes);
                // a thread that has died gives no summary
                let _ = chunks.send(chunk);
            }
            Self::Between(pass) => pass.feed(bytes),
            Self::Nothing => {}
        }
    }

    /// What was found, once every byte was fed.
    pub(super) fn finish(self) -> Scanned {
        match self {
            Self::Beside { chunks, thread, .. } => {
                drop(chunks);
                thread.join().unwrap_or_default()
            }
            Self::Between(pass) => pass.finish(),
            Self::Nothing => Scanned::default(),
        }
    }
}

/// What sums up `name`; `None` for text files, and for a name that no cluster
/// with segments of `size` has.
pub(super) fn builder(name: &WalFileName, size: WalSegmentSize) -> Option<SegmentSummaryBuilder> {
    match name {
        WalFileName::Segment(segment) => SegmentSummaryBuilder::new(*segment, size).ok(),
        WalFileName::Partial(segment) => SegmentSummaryBuilder::of_partial(*segment, size).ok(),
        WalFileName::History(_) | WalFileName::Backup { .. } => None,
    }
}
