//! Sums up a segment, and digests it, beside its compression.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

use pitr_core::{SegmentSummary, SegmentSummaryBuilder, WalFileName, WalSegmentSize};

use super::fingerprint::{Fingerprint, Fingerprinter};
use crate::store::{ContentDigest, ContentHasher, Store};

/// Chunks that may wait for the thread. When there are more, it was not given a
/// processor, and the push reads them itself.
const CHUNKS_AHEAD: usize = 4;

/// Chunks for which the thread is woken: that costs more than one of them is worth.
const CHUNKS_TO_WAKE: usize = 2;

/// Bytes of the file, which the compression and the scan read in the same place.
#[derive(Debug)]
pub(super) struct SharedChunk {
    buffer: Vec<u8>,
    len: usize,
}

impl SharedChunk {
    /// The first `len` bytes of `buffer`, which is empty until [`Scan::reclaim`] fills it again.
    pub(super) fn of(buffer: &mut Vec<u8>, len: usize) -> Arc<Self> {
        Arc::new(Self {
            buffer: std::mem::take(buffer),
            len,
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or(&self.buffer)
    }
}

/// The scan of one file, fed with the chunks that are compressed.
#[derive(Debug)]
pub(super) enum Scan {
    /// On a thread of its own, as far as that gets to run.
    Beside(Beside),
    /// In between, where there is only one processor.
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
    /// `None` where nobody asked for it.
    pub(super) fingerprint: Option<Fingerprint>,
}

/// What is done with every chunk.
#[derive(Debug)]
pub(super) struct Pass {
    builder: Option<SegmentSummaryBuilder>,
    hasher: Option<ContentHasher>,
    fingerprinter: Option<Fingerprinter>,
}

impl Pass {
    fn feed(&mut self, chunk: &[u8]) {
        if let Some(builder) = &mut self.builder {
            builder.feed(chunk);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(chunk);
        }
        if let Some(fingerprinter) = &mut self.fingerprinter {
            fingerprinter.update(chunk);
        }
    }

    fn finish(self) -> Scanned {
        Scanned {
            summary: self.builder.map(SegmentSummaryBuilder::finish),
            digest: self.hasher.map(ContentHasher::finish),
            fingerprint: self.fingerprinter.map(|it| it.finish()),
        }
    }
}

/// The push's end of a scan that has a thread.
#[derive(Debug)]
pub(super) struct Beside(Arc<Shared>);

impl Drop for Beside {
    /// Also where a push has failed: the thread must not wait for ever.
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What the push and the thread have in common.
///
/// Neither ever waits for the other to be given a processor, but for the chunk
/// that the other is reading: on a busy machine the thread may not come to run
/// before the push is done, and then the push does without it.
#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    offered: Condvar,
    /// Taken from by whoever holds it, in order; `None` once it is finished.
    pass: Mutex<Option<Pass>>,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Arc<SharedChunk>>,
    /// Buffers that have been read.
    free: Vec<Vec<u8>>,
    /// Nothing comes any more.
    ended: bool,
}

impl Shared {
    /// Reads what has been offered, by whoever gets here first; `None` if the
    /// other one has died of it.
    fn read(&self) -> Option<()> {
        let mut pass = self.pass.lock().ok()?;
        loop {
            let Some(chunk) = self.queue.lock().ok()?.chunks.pop_front() else {
                return Some(());
            };
            pass.as_mut()?.feed(chunk.bytes());
            // whoever is done with it last keeps the buffer
            if let Some(chunk) = Arc::into_inner(chunk) {
                self.queue.lock().ok()?.free.push(chunk.buffer);
            }
        }
    }

    /// The thread: reads whenever there is something to be read.
    fn read_to_the_end(&self) -> Option<()> {
        loop {
            let waiting = |queue: &mut Queue| queue.chunks.is_empty() && !queue.ended;
            let queue = self.queue.lock().ok()?;
            let queue = self.offered.wait_while(queue, waiting).ok()?;
            if queue.chunks.is_empty() {
                return Some(());
            }
            drop(queue);
            self.read()?;
        }
    }

    fn offer(&self, chunk: &Arc<SharedChunk>) -> Option<()> {
        let mut queue = self.queue.lock().ok()?;
        queue.chunks.push_back(Arc::clone(chunk));
        let waiting = queue.chunks.len();
        drop(queue);
        if waiting >= CHUNKS_TO_WAKE {
            self.offered.notify_one();
        }
        if waiting > CHUNKS_AHEAD {
            self.read()?;
        }
        Some(())
    }

    /// A buffer that has been read.
    fn free(&self) -> Option<Vec<u8>> {
        self.queue.lock().ok()?.free.pop()
    }

    /// Reads what is left; `None` if the thread has died of it.
    fn finish(&self) -> Option<Scanned> {
        self.read()?;
        let pass = self.pass.lock().ok()?.take()?;
        Some(pass.finish())
    }

    fn end(&self) {
        if let Ok(mut queue) = self.queue.lock() {
            queue.ended = true;
        }
        self.offered.notify_one();
    }
}

impl Scan {
    /// Begins the scan of `name`, in a cluster with segments of `size`, with
    /// the digest that `store` keeps. `in_turn`: other files are pushed at the same
    /// time, on all processors, and are remembered by their fingerprints.
    pub(super) fn of(
        name: &WalFileName,
        size: WalSegmentSize,
        store: &dyn Store,
        in_turn: bool,
    ) -> Self {
        Self::of_content(name, size, store.content_hasher(), in_turn)
    }

    /// The same with the digest that `hasher` makes, or none.
    pub(super) fn of_content(
        name: &WalFileName,
        size: WalSegmentSize,
        hasher: Option<ContentHasher>,
        in_turn: bool,
    ) -> Self {
        let pass = Pass {
            builder: builder(name, size),
            hasher,
            fingerprinter: in_turn.then(Fingerprinter::new),
        };
        match pass {
            Pass {
                builder: None,
                hasher: None,
                fingerprinter: None,
            } => Self::Nothing,
            pass if in_turn => Self::Between(Box::new(pass)),
            // a text file is over before a thread has begun
            small @ Pass { builder: None, .. } => Self::Between(Box::new(small)),
            large => {
                let processors =
                    std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                if processors > 1 {
                    Self::beside(large)
                } else {
                    Self::Between(Box::new(large))
                }
            }
        }
    }

    fn beside(pass: Pass) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            offered: Condvar::new(),
            pass: Mutex::new(Some(pass)),
        });
        let of_thread = Arc::clone(&shared);
        // where none is to be had the push reads by itself; it ends by itself, and nobody waits for that
        let _ = std::thread::Builder::new()
            .name("scan".to_owned())
            .spawn(move || of_thread.read_to_the_end());
        Self::Beside(Beside(shared))
    }

    /// Takes the next bytes of the file.
    pub(super) fn feed(&mut self, chunk: &Arc<SharedChunk>) {
        match self {
            Self::Beside(Beside(shared)) => {
                if shared.offer(chunk).is_none() {
                    // a thread that has died gives no summary
                    *self = Self::Nothing;
                }
            }
            Self::Between(pass) => pass.feed(chunk.bytes()),
            Self::Nothing => {}
        }
    }

    /// A buffer as long as that of `chunk` for the next bytes: the same one, unless the scan still reads it.
    pub(super) fn reclaim(&self, chunk: Arc<SharedChunk>) -> Vec<u8> {
        let len = chunk.buffer.len();
        if let Some(chunk) = Arc::into_inner(chunk) {
            return chunk.buffer;
        }
        let read = match self {
            Self::Beside(Beside(shared)) => shared.free(),
            Self::Between(_) | Self::Nothing => None,
        };
        read.filter(|buffer| buffer.len() == len)
            .unwrap_or_else(|| vec![0; len])
    }

    /// What was found, once every byte was fed.
    pub(super) fn finish(self) -> Scanned {
        match self {
            Self::Beside(Beside(ref shared)) => shared.finish().unwrap_or_default(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_wal;

    const NAME: &str = "000000010000000000000001";

    fn alone(bytes: &[u8]) -> SegmentSummary {
        let mut builder = builder(&NAME.parse().unwrap(), size()).unwrap();
        builder.feed(bytes);
        builder.finish()
    }

    /// Shows `bytes` to the scan, in the buffers that it gives back.
    fn feed(scan: &mut Scan, bytes: &[u8], chunk: usize, mut each: impl FnMut()) {
        let mut buffer = vec![0; chunk];
        for bytes in bytes.chunks(chunk) {
            buffer[..bytes.len()].copy_from_slice(bytes);
            let shown = SharedChunk::of(&mut buffer, bytes.len());
            scan.feed(&shown);
            assert_eq!(shown.bytes(), bytes);
            buffer = scan.reclaim(shown);
            assert_eq!(buffer.len(), chunk);
            each();
        }
    }

    fn pass() -> Pass {
        Pass {
            builder: builder(&NAME.parse().unwrap(), size()),
            hasher: None,
            fingerprinter: None,
        }
    }

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(1 << 20).unwrap()
    }

    #[test]
    fn the_summary_is_the_same_whoever_reads_the_chunks() {
        let bytes = made_wal::made_segment(NAME, 3);
        for chunk in [1000, 65_536, 1 << 20] {
            let mut beside = Scan::beside(pass());
            feed(&mut beside, &bytes, chunk, || {});
            assert_eq!(beside.finish().summary, Some(alone(&bytes)));
        }
    }

    #[test]
    fn a_push_does_without_a_thread_that_never_runs() {
        let bytes = made_wal::made_segment(NAME, 3);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            offered: Condvar::new(),
            pass: Mutex::new(Some(pass())),
        });
        let mut scan = Scan::Beside(Beside(Arc::clone(&shared)));
        feed(&mut scan, &bytes, 10_000, || {
            let queue = shared.queue.lock().unwrap();
            assert!(queue.chunks.len() <= CHUNKS_AHEAD);
            assert!(queue.chunks.len() + queue.free.len() <= CHUNKS_AHEAD + 1);
        });
        assert_eq!(scan.finish().summary, Some(alone(&bytes)));
    }

    #[test]
    fn the_thread_ends_with_its_scan() {
        let scan = Scan::beside(pass());
        let Scan::Beside(Beside(shared)) = &scan else {
            panic!("not beside");
        };
        let shared = Arc::clone(shared);
        drop(scan);
        let waited = std::time::Instant::now();
        while Arc::strong_count(&shared) > 1 {
            assert!(waited.elapsed().as_secs() < 60, "the thread still waits");
            std::thread::yield_now();
        }
    }
}
