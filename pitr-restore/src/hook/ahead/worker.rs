//! One segment after the other into the folder: written, checked, synced, and
//! only then given its name.

use std::fs::File;
use std::io::{self, Seek as _, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pitr_core::{SegmentName, WalFileName};
use pitr_store::wal::FetchError;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::folder::{AheadFolder, create};
use super::notes::Note;
use crate::hook::archives::Archives;
use crate::hook::failure::HookFailure;

/// Threads that fetch, each through connections of its own.
pub(crate) struct Workers {
    jobs: Sender<SegmentName>,
    done: Receiver<(SegmentName, Outcome)>,
    gate: Gate,
    count: usize,
}

/// What came of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It lies in the folder under its name.
    Ready,
    /// It is not there, or not as it should be. The hook finds out why when the
    /// server asks for it, and says so.
    Left,
}

/// Closed before the folder goes away: no file is made in it afterwards.
#[derive(Debug, Clone, Default)]
struct Gate(Arc<Mutex<bool>>);

impl Gate {
    /// Does `step`, unless the gate is closed; it stays as it is meanwhile.
    fn pass<T>(&self, step: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let is_closed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_closed {
            return Err(io::ErrorKind::Interrupted.into());
        }
        step()
    }

    fn is_closed(&self) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

impl Workers {
    /// Starts `count` of them; `open` opens the repositories, once for each.
    pub(crate) fn start<F>(
        count: usize,
        folder: &AheadFolder,
        segment_bytes: u64,
        open: F,
    ) -> io::Result<Self>
    where
        F: Fn() -> Result<Archives, HookFailure> + Clone + Send + 'static,
    {
        let (jobs, waiting) = channel();
        let (tell, done) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let gate = Gate::default();
        for _ in 0..count {
            let worker = Worker {
                folder: folder.clone(),
                segment_bytes,
                gate: gate.clone(),
            };
            let (waiting, tell, open) = (Arc::clone(&waiting), tell.clone(), open.clone());
            std::thread::Builder::new()
                .name("ahead".to_owned())
                .spawn(move || worker.run(&waiting, &tell, open))?;
        }
        Ok(Self {
            jobs,
            done,
            gate,
            count,
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Has a segment fetched.
    pub(crate) fn fetch(&self, name: SegmentName) {
        // they end with this process and not before
        let _ = self.jobs.send(name);
    }

    /// What has come of segments, waited for no longer than `limit`.
    pub(crate) fn outcome(&self, limit: Duration) -> Option<(SegmentName, Outcome)> {
        match self.done.recv_timeout(limit) {
            Ok(outcome) => Some(outcome),
            Err(RecvTimeoutError::Timeout) => None,
            // all of them have ended, which nobody would wait for
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(limit);
                None
            }
        }
    }

    /// From here on no file is made in the folder, nor given another name.
    pub(crate) fn stop(&self) {
        self.gate.close();
    }
}

struct Worker {
    folder: AheadFolder,
    segment_bytes: u64,
    gate: Gate,
}

impl Worker {
    fn run<F>(
        &self,
        waiting: &Mutex<Receiver<SegmentName>>,
        tell: &Sender<(SegmentName, Outcome)>,
        open: F,
    ) where
        F: Fn() -> Result<Archives, HookFailure>,
    {
        let mut archives = None;
        loop {
            let next = waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .recv();
            let Ok(name) = next else {
                return;
            };
            if archives.is_none() {
                archives = open().ok();
            }
            let outcome = match &archives {
                Some(archives) => self.fetch(archives, name),
                None => Outcome::Left,
            };
            if tell.send((name, outcome)).is_err() {
                return;
            }
        }
    }

    fn fetch(&self, archives: &Archives, name: SegmentName) -> Outcome {
        let part = self.folder.part(name);
        let fetched = self.fetch_into(&part, archives, name);
        if fetched.is_none() {
            // the folder itself may be gone by now
            let _ = std::fs::remove_file(&part);
        }
        match fetched {
            Some(()) => Outcome::Ready,
            None => Outcome::Left,
        }
    }

    fn fetch_into(&self, part: &Path, archives: &Archives, name: SegmentName) -> Option<()> {
        let file_name = WalFileName::Segment(name);
        let mut sink = None;
        let (found, passed_over) = archives
            .ask(|wal| {
                if wal.locate(&file_name)?.is_none() {
                    return Ok(None);
                }
                let sink = match &mut sink {
                    Some(sink) => sink,
                    None => sink.insert(Sink {
                        file: self.make(part).map_err(into_sink)?,
                        gate: &self.gate,
                    }),
                };
                // another repository may have begun it
                sink.file.rewind().map_err(into_sink)?;
                wal.fetch_to(&file_name, sink)
                    .map(Some)
                    .map_err(HookFailure::Fetch)
            })
            .ok()?;
        // one whose disk is not to be trusted: the hook fetches it itself, and warns
        if found?.summary_damage.is_some() {
            return None;
        }
        let file = sink?.file;
        if file.metadata().ok()?.len() != self.segment_bytes {
            return None;
        }
        // the server syncs it once more when it takes it, and then has nothing to wait for
        file.sync_data().ok()?;
        let notes: Vec<Note> = passed_over
            .iter()
            .map(|one| one.note(&file_name.to_string()))
            .collect();
        self.gate
            .pass(|| {
                if !notes.is_empty() {
                    let path = self.folder.notes(name);
                    let _ = std::fs::remove_file(&path);
                    create(&path)?.write_all(&Note::to_bytes(&notes))?;
                }
                std::fs::rename(part, self.folder.segment(name))
            })
            .ok()
    }

    /// Makes the file in its whole length. Extents that were given to a file
    /// beforehand need no place in the journal's next commit, which the server
    /// waits for with every segment that it takes.
    fn make(&self, part: &Path) -> io::Result<File> {
        self.gate.pass(|| {
            let _ = std::fs::remove_file(part);
            let file = create(part)?;
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.segment_bytes) {
                // others write as they can
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(file),
                Err(error) => Err(error.into()),
            }
        })
    }
}

/// A file that takes no more once its folder is to go away.
struct Sink<'a> {
    file: File,
    gate: &'a Gate,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gate.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn into_sink(error: io::Error) -> HookFailure {
    HookFailure::Fetch(FetchError::Sink(error))
}
