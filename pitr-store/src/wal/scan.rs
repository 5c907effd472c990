//! Sums up a segment beside its compression.

use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use pitr_core::{SegmentSummary, SegmentSummaryBuilder, WalFileName, WalSegmentSize};

/// Chunks on their way to the thread. The scan is faster than any codec, so
/// that few are enough for neither to wait.
const CHUNKS_AHEAD: usize = 4;

/// The scan of one segment, fed with the chunks that are compressed.
#[derive(Debug)]
pub(super) enum Scan {
    /// On a thread of its own.
    Beside {
        chunks: SyncSender<Vec<u8>>,
        /// Buffers that the thread is done with.
        free: Receiver<Vec<u8>>,
        thread: JoinHandle<SegmentSummary>,
    },
    /// In between, where there is only one processor.
    Between(Box<SegmentSummaryBuilder>),
    /// No summary: of a text file, or where no thread is to be had. It can be
    /// computed whenever it is needed.
    Nothing,
}

impl Scan {
    /// Begins the scan of `name`, in a cluster with segments of `size`.
    pub(super) fn of(name: &WalFileName, size: WalSegmentSize) -> Self {
        let Some(builder) = builder(name, size) else {
            return Self::Nothing;
        };
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if processors > 1 {
            Self::beside(builder)
        } else {
            Self::Between(Box::new(builder))
        }
    }

    fn beside(mut builder: SegmentSummaryBuilder) -> Self {
        let (chunks, offered) = sync_channel::<Vec<u8>>(CHUNKS_AHEAD);
        let (done, free) = channel();
        let spawned = std::thread::Builder::new()
            .name("scan".to_owned())
            .spawn(move || {
                for chunk in offered {
                    builder.feed(&chunk);
                    // at the end nobody wants it back any more
                    let _ = done.send(chunk);
                }
                builder.finish()
            });
        match spawned {
            Ok(thread) => Self::Beside {
                chunks,
                free,
                thread,
            },
            Err(_) => Self::Nothing,
        }
    }

    /// Takes the next bytes of the segment.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        match self {
            Self::Beside { chunks, free, .. } => {
                let mut chunk = free.try_recv().unwrap_or_default();
                chunk.clear();
                chunk.extend_from_slice(bytes);
                // a thread that has died gives no summary
                let _ = chunks.send(chunk);
            }
            Self::Between(builder) => builder.feed(bytes),
            Self::Nothing => {}
        }
    }

    /// The summary, once every byte was fed.
    pub(super) fn finish(self) -> Option<SegmentSummary> {
        match self {
            Self::Beside { chunks, thread, .. } => {
                drop(chunks);
                thread.join().ok()
            }
            Self::Between(builder) => Some(builder.finish()),
            Self::Nothing => None,
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
