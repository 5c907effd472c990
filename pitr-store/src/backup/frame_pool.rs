//! Worker threads that compress frames for [`SeekableWriter`](super::SeekableWriter).

use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// A fixed number of threads that turn raw bytes into zstd frames.
///
/// One pool serves any number of writers, one after another or at once: a
/// backup makes it once and every part uses it. The pool holds no frame of its
/// own accord; how many are under way is bounded by the writers.
///
/// Each frame is a whole standard zstd frame with content size and content
/// checksum. Dropping the pool waits for its threads.
#[derive(Debug)]
pub struct FramePool {
    jobs: Option<Sender<Job>>,
    workers: Vec<JoinHandle<()>>,
    threads: NonZeroUsize,
    level: i32,
}

/// Most threads of a pool that nobody gave a number.
const MOST_THREADS: NonZeroUsize = match NonZeroUsize::new(16) {
    Some(threads) => threads,
    None => NonZeroUsize::MIN,
};

#[derive(Debug)]
struct Job {
    raw: Vec<u8>,
    reply: SyncSender<CompressedFrame>,
}

/// What a worker hands back: the frame, and the input buffer for reuse.
#[derive(Debug)]
pub(super) struct CompressedFrame {
    pub(super) raw: Vec<u8>,
    pub(super) frame: io::Result<Vec<u8>>,
}

impl FramePool {
    /// Starts `threads` workers that compress at zstd `level` (1 to 22; 0 and
    /// negative levels as zstd defines them).
    ///
    /// # Errors
    /// If the operating system refuses a thread. Those already started are
    /// stopped again.
    pub fn new(threads: NonZeroUsize, level: i32) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let mut pool = Self {
            jobs: Some(jobs),
            workers: Vec::with_capacity(threads.get()),
            threads,
            level,
        };
        for number in 0..threads.get() {
            let queue = Arc::clone(&queue);
            // an early return drops `pool`, which stops the ones before
            let worker = std::thread::Builder::new()
                .name(format!("zstd-{number}"))
                .spawn(move || work(&queue, level))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// As [`FramePool::new`], with a thread for each processor that this
    /// process may use, but no more than 16: sixteen threads outrun any disk
    /// and network at the default level, and every thread costs memory.
    ///
    /// # Errors
    /// As [`FramePool::new`].
    pub fn with_all_processors(level: i32) -> io::Result<Self> {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self::new(threads.min(MOST_THREADS), level)
    }

    /// Number of worker threads.
    #[must_use]
    pub fn threads(&self) -> NonZeroUsize {
        self.threads
    }

    /// zstd level of every frame.
    #[must_use]
    pub fn level(&self) -> i32 {
        self.level
    }

    /// Queues `raw`; the answer arrives at the returned receiver.
    pub(super) fn submit(&self, raw: Vec<u8>) -> io::Result<Receiver<CompressedFrame>> {
        let (reply, answer) = sync_channel(1);
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(Job { raw, reply }).ok())
            .ok_or_else(workers_gone)?;
        Ok(answer)
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // a worker's panic has already shown itself as a missing answer
            let _ = worker.join();
        }
    }
}

/// The error of a writer whose frame never came back.
pub(super) fn workers_gone() -> io::Error {
    io::Error::other("a compression thread stopped unexpectedly")
}

fn work(queue: &Mutex<Receiver<Job>>, level: i32) {
    let mut compressor = new_compressor(level);
    loop {
        // the lock is held while waiting: whoever has it takes the next job
        let job = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok(Job { raw, reply }) = job else {
            return;
        };
        let frame = match &mut compressor {
            Ok(compressor) => compressor.compress(&raw),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // the writer may have been dropped meanwhile: nobody wants the frame
        let _ = reply.send(CompressedFrame { raw, frame });
    }
}

fn new_compressor(level: i32) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(level)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
    Ok(compressor)
}
