//! Brings what the spool holds into the repositories, beside the receiving: a
//! slow repository never keeps the server waiting for its answer.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pitr_console::{Console, Failure, Settings};
use pitr_core::{SegmentName, WalFileName, WalSegmentSize};
use pitr_store::spool::{Spool, SpoolError};
use pitr_store::wal::WalFile;
use pitr_store::{ClusterIdentity, Codec, RepositorySet};

use super::segment::failed;
use crate::push::push_to_several;
use crate::repository;

/// Pause after the first failure; doubled after every further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long a receiver that is told to stop waits for what is under way.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// What every push needs.
pub(super) struct Destination {
    pub(super) settings: Settings,
    pub(super) identity: ClusterIdentity,
    pub(super) codec: Codec,
}

/// A thread that publishes, and one that prepares the next segment's file.
#[derive(Debug)]
pub(super) struct Publisher {
    wake: Sender<()>,
    prepare: Sender<()>,
    thread: JoinHandle<()>,
}

impl Publisher {
    pub(super) fn start(
        destination: Destination,
        spool: Spool,
        console: Console,
    ) -> Result<Self, Failure> {
        let (wake, woken) = channel();
        let (prepare, asked) = channel();
        let size = destination.identity.segment_size;
        let no_thread = |error: std::io::Error| {
            Failure::new("could not start a thread").with_detail(error.to_string())
        };
        let folder = spool.folder().to_owned();
        std::thread::Builder::new()
            .name("prepare".to_owned())
            .spawn(move || {
                while asked.recv().is_ok() {
                    // made when it is needed, then: and what is wrong is told there
                    let _ = super::segment::prepare(&folder, size);
                }
            })
            .map_err(no_thread)?;
        let work = Work {
            destination,
            spool,
            console,
            failed: BTreeSet::new(),
        };
        let thread = std::thread::Builder::new()
            .name("publish".to_owned())
            .spawn(move || work.run(&woken))
            .map_err(no_thread)?;
        let publisher = Self {
            wake,
            prepare,
            thread,
        };
        publisher.look();
        Ok(publisher)
    }

    /// Something new lies in the spool.
    pub(super) fn look(&self) {
        let _ = self.wake.send(());
    }

    /// The next segment will be needed soon.
    pub(super) fn prepare_next(&self) {
        let _ = self.prepare.send(());
    }

    /// Ends the thread after one more round; what is not done by then stays in
    /// the spool, for the next time.
    pub(super) fn stop(self) {
        drop(self.wake);
        let deadline = Instant::now() + LAST_WORDS;
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Work {
    destination: Destination,
    spool: Spool,
    console: Console,
    /// What could not be published in an earlier round: its turn comes last, so
    /// that one file that is refused does not hold up the others.
    failed: BTreeSet<WalFileName>,
}

impl Work {
    fn run(mut self, woken: &Receiver<()>) {
        let mut pause = None;
        loop {
            let told = match pause {
                None => woken.recv().map_err(|_| RecvTimeoutError::Disconnected),
                // nothing that arrives meanwhile makes the repository come back sooner
                Some(pause) => wait(woken, pause),
            };
            // many words are one
            while woken.try_recv().is_ok() {}
            let is_last = matches!(told, Err(RecvTimeoutError::Disconnected));
            pause = match self.round() {
                Ok(()) => None,
                Err(failure) => {
                    let pause = pause.map_or(FIRST_PAUSE, |pause: Duration| {
                        (pause * 2).min(LONGEST_PAUSE)
                    });
                    self.tell(&failure, (!is_last).then_some(pause));
                    Some(pause)
                }
            };
            if is_last {
                return;
            }
        }
    }

    /// Publishes what lies there, up to the first failure.
    fn round(&mut self) -> Result<(), Failure> {
        let files = self.spool.files()?;
        self.failed.retain(|name| files.contains(name));
        let (late, first): (Vec<_>, Vec<_>) = files
            .into_iter()
            .filter(|name| matches!(name, WalFileName::History(_) | WalFileName::Segment(_)))
            .partition(|name| self.failed.contains(name));
        if first.is_empty() && late.is_empty() {
            return Ok(());
        }
        // opened anew: a disk that was changed or mounted since is another place,
        // and what an old handle leads to may be gone with the last one that held it
        let set = repository::set(&self.destination.settings)?;
        for name in first.into_iter().chain(late) {
            match self.publish(&set, &name) {
                Ok(()) => {
                    self.failed.remove(&name);
                }
                Err(failure) => {
                    self.failed.insert(name);
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    fn publish(&self, set: &RepositorySet, name: &WalFileName) -> Result<(), Failure> {
        let path = self.spool.path(name);
        let mut source = WalFile::open(&path).map_err(failed("open", &path))?;
        push_to_several(
            set,
            &self.destination.identity,
            name,
            &mut source,
            self.destination.codec,
            Console::quiet(),
        )?;
        if let Some(segment) = name.segment() {
            self.remove_superseded(&segment)?;
        }
        // lost in a crash, it comes back and is found to be there already
        std::fs::remove_file(&path).map_err(failed("remove", &path))?;
        Ok(())
    }

    /// Removes unfinished segments all of whose content is in the one that was
    /// just published: of the same place, on the same timeline or one that
    /// branched off.
    fn remove_superseded(&self, published: &SegmentName) -> Result<(), SpoolError> {
        let identity = &self.destination.identity;
        let size: WalSegmentSize = identity.segment_size;
        let files = self.spool.files()?;
        for name in files {
            let WalFileName::Partial(partial) = name else {
                continue;
            };
            if partial.on_timeline(published.timeline()) != *published
                || partial.timeline() > published.timeline()
            {
                continue;
            }
            let path = self.spool.path(&name);
            if !begins_alike(&self.spool, &path, published, size)? {
                self.console.warn(
                    format!(
                        "\"{}\" holds log that {published} does not hold, and is kept",
                        path.display()
                    ),
                    Some(&format!(
                        "Timeline {} went on there after timeline {} had branched off.",
                        partial.timeline(),
                        published.timeline()
                    )),
                    Some(
                        "Remove it once nobody needs the commits in it. A restore along its own \
                         timeline uses it.",
                    ),
                );
                continue;
            }
            std::fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(())
    }

    fn tell(&self, failure: &Failure, again: Option<Duration>) {
        let waits = match again {
            Some(pause) => format!(
                "It waits in \"{}\", and is tried again in {} s.",
                self.spool.folder().display(),
                pause.as_secs()
            ),
            None => format!(
                "It waits in \"{}\" until a receiver is started again.",
                self.spool.folder().display()
            ),
        };
        let detail = match failure.detail() {
            Some(detail) => format!("{detail}\n{waits}"),
            None => waits,
        };
        self.console.warn(
            format!("could not publish what was received: {}", failure.message()),
            Some(&detail),
            failure.hint(),
        );
    }
}

/// Waits out `pause`, unless nobody is left to wake us.
fn wait(woken: &Receiver<()>, pause: Duration) -> Result<(), RecvTimeoutError> {
    let deadline = Instant::now() + pause;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match woken.recv_timeout(left) {
            Ok(()) if left.is_zero() => return Ok(()),
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Whether everything in the unfinished segment at `partial`, up to its last
/// byte that is not zero, stands in the published one as well.
fn begins_alike(
    spool: &Spool,
    partial: &std::path::Path,
    published: &SegmentName,
    size: WalSegmentSize,
) -> Result<bool, SpoolError> {
    use std::io::Read as _;
    let whole = spool.path(&WalFileName::Segment(*published));
    let open = |path: &std::path::Path| std::fs::File::open(path).map_err(failed("open", path));
    let (mut ours, mut theirs) = (open(partial)?, open(&whole)?);
    let mut left = size.bytes();
    let (mut one, mut other) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut differs = false;
    while left > 0 {
        ours.read_exact(&mut one).map_err(failed("read", partial))?;
        theirs
            .read_exact(&mut other)
            .map_err(failed("read", &whole))?;
        left = left.saturating_sub(one.len() as u64);
        if differs {
            // behind the first difference there must be nothing at all
            if one.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        } else if one != other {
            let at = one.iter().zip(&other).position(|(a, b)| a != b);
            if one.iter().skip(at.unwrap_or(0)).any(|byte| *byte != 0) {
                return Ok(false);
            }
            differs = true;
        }
    }
    Ok(true)
}
