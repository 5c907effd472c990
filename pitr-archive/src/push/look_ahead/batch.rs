//! Several files at the same time, in an order that failures cannot upset.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pitr_store::wal::Turn;

use super::ready::{ReadyFile, ReadyFiles};

/// How long, at least, files that were begun are waited for once no further one is, and
/// the own one is done; where that has taken longer, as long again, because they went the
/// same way at the same time. What is not done by then ends with the process, and leaves
/// nothing half there.
const FINISH_WITHIN: Duration = Duration::from_secs(3);

/// What has become of a file beside the own one.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    /// It is in the repository.
    Done(T),
    /// The same, but something is amiss that makes it useless to go on.
    DoneAndEnough(T),
    /// The server has taken it away.
    Gone,
    /// It is not in the repository: its own call will say why.
    Failed,
}

/// What a batch has come to.
#[derive(Debug)]
pub(crate) struct Results<T, O> {
    /// Of the file that the server has asked for.
    pub(crate) own: O,
    /// Of the others, as far as they are done, with their places.
    pub(crate) others: Vec<(usize, T)>,
    /// Place of the first that is not done, and on which later ones depend.
    pub(crate) first_missing: usize,
}

/// Pushes the own file by `own`, and on `workers` threads all others by `other`, which
/// are begun within `time`: the server waits for the own one meanwhile, and so does
/// whoever stops the server.
///
/// No thread is joined: one that hangs on a repository ends with the process.
pub(crate) fn run<T: Send + 'static, O>(
    files: ReadyFiles,
    workers: usize,
    time: Duration,
    own: impl FnOnce(&dyn Turn) -> O,
    is_done: impl FnOnce(&O) -> bool,
    other: impl Fn(&ReadyFile, &dyn Turn) -> Outcome<T> + Send + Sync + 'static,
) -> Results<T, O> {
    let begun = Instant::now();
    let own_place = files.own;
    let shared = Arc::new(Shared {
        progress: Mutex::new(Progress {
            next: 0,
            settled: files.files.iter().map(|_| None).collect(),
            workers: 0,
            is_enough: false,
            is_over: false,
        }),
        changed: Condvar::new(),
        files,
        deadline: begun + time,
    });
    let other = Arc::new(other);
    for _ in 0..workers {
        let (of_thread, other) = (Arc::clone(&shared), Arc::clone(&other));
        shared.lock().workers += 1;
        let thread = std::thread::Builder::new()
            .name("ahead".to_owned())
            .spawn(move || work(&of_thread, other.as_ref()));
        if thread.is_err() {
            // fewer do it too
            shared.lock().workers -= 1;
            break;
        }
    }
    let result = own(&Place {
        shared: &shared,
        place: own_place,
    });
    shared.settle(
        own_place,
        match is_done(&result) {
            true => Settled::Own,
            false => Settled::Failed,
        },
    );
    let patience = begun.elapsed().max(FINISH_WITHIN);
    shared.wait_for_workers(shared.deadline.max(Instant::now()) + patience);
    let mut progress = shared.lock();
    progress.is_over = true;
    let first_missing = progress.first_missing();
    let others = progress
        .settled
        .iter_mut()
        .enumerate()
        .filter_map(|(place, settled)| match settled.take() {
            Some(Settled::Done(value)) => Some((place, value)),
            _ => None,
        })
        .collect();
    Results {
        own: result,
        others,
        first_missing,
    }
}

/// What has become of a file, as those behind it see it.
enum Settled<T> {
    Own,
    Done(T),
    Gone,
    Failed,
}

struct Progress<T> {
    /// Place of the next file to begin with.
    next: usize,
    settled: Vec<Option<Settled<T>>>,
    /// Threads at work.
    workers: usize,
    /// Nothing further is begun.
    is_enough: bool,
    /// Nothing but the own file shows any more.
    is_over: bool,
}

impl<T> Progress<T> {
    /// The first place that is not done.
    fn first_missing(&self) -> usize {
        let is_missing =
            |settled: &Option<Settled<T>>| matches!(settled, None | Some(Settled::Failed));
        let place = self.settled.iter().position(is_missing);
        place.unwrap_or(self.settled.len())
    }

    fn has_failed_before(&self, place: usize) -> bool {
        let before = self.settled.get(..place).unwrap_or_default();
        before.iter().any(|s| matches!(s, Some(Settled::Failed)))
    }

    /// Whether one before `place` may still be settled.
    fn is_waited_for_before(&self, place: usize, own: usize) -> bool {
        let begins = self.workers > 0 && !self.is_enough;
        (0..place).any(|before| {
            let is_settled = self.settled.get(before).is_none_or(Option::is_some);
            !is_settled && (before == own || before < self.next || begins)
        })
    }
}

struct Shared<T> {
    progress: Mutex<Progress<T>>,
    changed: Condvar,
    files: ReadyFiles,
    deadline: Instant,
}

impl<T> Shared<T> {
    /// A thread that panicked has settled its file as failed.
    fn lock(&self) -> MutexGuard<'_, Progress<T>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, place: usize, outcome: Settled<T>) {
        let mut progress = self.lock();
        let has_failed = matches!(outcome, Settled::Failed);
        if let Some(settled @ None) = progress.settled.get_mut(place) {
            *settled = Some(outcome);
            progress.is_enough |= has_failed;
        }
        drop(progress);
        self.changed.notify_all();
    }

    /// The next file to begin with.
    fn take(&self) -> Option<usize> {
        let mut progress = self.lock();
        if progress.next == self.files.own {
            progress.next += 1;
        }
        let place = progress.next;
        progress.is_enough |= place >= self.files.files.len() || Instant::now() >= self.deadline;
        if progress.is_enough {
            return None;
        }
        progress.next += 1;
        Some(place)
    }

    fn wait_for_workers(&self, until: Instant) {
        let mut progress = self.lock();
        while progress.workers > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            progress = self
                .changed
                .wait_timeout(progress, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// A thread: one file after the other.
fn work<T: Send>(shared: &Shared<T>, push: &dyn Fn(&ReadyFile, &dyn Turn) -> Outcome<T>) {
    let _leaving = Leaving(shared);
    while let Some(place) = shared.take() {
        let unsettled = Unsettled { shared, place };
        let Some(file) = shared.files.files.get(place) else {
            return;
        };
        let outcome = push(file, &Place { shared, place });
        let is_enough = matches!(outcome, Outcome::DoneAndEnough(_));
        shared.settle(
            place,
            match outcome {
                Outcome::Done(value) | Outcome::DoneAndEnough(value) => Settled::Done(value),
                Outcome::Gone => Settled::Gone,
                Outcome::Failed => Settled::Failed,
            },
        );
        drop(unsettled);
        if is_enough {
            shared.lock().is_enough = true;
        }
    }
}

/// Says that a thread has ended, however it did.
struct Leaving<'s, T>(&'s Shared<T>);

impl<T> Drop for Leaving<'_, T> {
    fn drop(&mut self) {
        self.0.lock().workers -= 1;
        self.0.changed.notify_all();
    }
}

/// Settles a file as failed if nobody has settled it: its thread has panicked.
struct Unsettled<'s, T> {
    shared: &'s Shared<T>,
    place: usize,
}

impl<T> Drop for Unsettled<'_, T> {
    fn drop(&mut self) {
        self.shared.settle(self.place, Settled::Failed);
    }
}

/// A file's place in the batch.
struct Place<'s, T> {
    shared: &'s Shared<T>,
    place: usize,
}

impl<T: Send> Turn for Place<'_, T> {
    fn comes(&self, in_order: bool) -> bool {
        let own = self.shared.files.own;
        let mut progress = self.shared.lock();
        loop {
            if self.place != own && (progress.is_over || progress.has_failed_before(self.place)) {
                return false;
            }
            if !in_order || !progress.is_waited_for_before(self.place, own) {
                return true;
            }
            progress = self
                .shared
                .changed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn takes_damaged(&self) -> bool {
        self.place == self.shared.files.own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitr_core::WalFileName;
    use std::path::PathBuf;

    fn files(count: u32, own: usize) -> ReadyFiles {
        let files = (1..=count).map(|number| ReadyFile {
            name: segment(number),
            path: PathBuf::new(),
        });
        ReadyFiles {
            files: files.collect(),
            own,
        }
    }

    fn segment(number: u32) -> WalFileName {
        format!("0000000100000000{number:08X}").parse().unwrap()
    }

    fn number(file: &ReadyFile) -> usize {
        (1..100).find(|n| segment(*n) == file.name).unwrap() as usize - 1
    }

    /// Runs a batch whose files `fails` says of whether they fail, and gives back the
    /// order in which they showed.
    fn shown(
        count: u32,
        own: usize,
        workers: usize,
        fails: fn(usize) -> bool,
    ) -> (Vec<usize>, Results<usize, bool>) {
        let order = Arc::new(Mutex::new(Vec::new()));
        let (of_own, of_others) = (Arc::clone(&order), Arc::clone(&order));
        let results = run(
            files(count, own),
            workers,
            Duration::from_secs(600),
            |turn| {
                let comes = turn.comes(true) && !fails(own);
                if comes {
                    of_own.lock().unwrap().push(own);
                }
                comes
            },
            |done| *done,
            move |file, turn| {
                let place = number(file);
                if fails(place) {
                    return Outcome::Failed;
                }
                if !turn.comes(true) {
                    return Outcome::Failed;
                }
                of_others.lock().unwrap().push(place);
                Outcome::Done(place)
            },
        );
        let order = order.lock().unwrap().clone();
        (order, results)
    }

    #[test]
    fn files_show_in_their_order_whoever_is_faster() {
        for (own, workers) in [(0, 1), (0, 4), (2, 3), (19, 7)] {
            let (order, results) = shown(20, own, workers, |_| false);
            assert_eq!(order, (0..20).collect::<Vec<_>>(), "{own} {workers}");
            assert!(results.own);
            assert_eq!(results.first_missing, 20);
            assert_eq!(results.others.len(), 19);
        }
    }

    #[test]
    fn nothing_shows_behind_one_that_failed() {
        for workers in [1, 2, 5] {
            let (order, results) = shown(20, 0, workers, |place| place == 7);
            assert_eq!(order, (0..7).collect::<Vec<_>>(), "{workers}");
            assert!(results.own);
            assert_eq!(results.first_missing, 7);
        }
    }

    #[test]
    fn the_own_file_does_not_depend_on_those_before_it_nor_they_on_it() {
        let (order, results) = shown(9, 2, 2, |place| place == 1);
        assert_eq!(order, [0, 2]);
        assert!(results.own);
        assert_eq!(results.first_missing, 1);

        let (order, results) = shown(9, 2, 2, |place| place == 2);
        assert_eq!(order, [0, 1]);
        assert!(!results.own);
        assert_eq!(results.first_missing, 2);
    }

    #[test]
    fn a_thread_that_panics_counts_as_a_failure_and_keeps_nobody_waiting() {
        let results = run(
            files(5, 1),
            2,
            Duration::from_secs(600),
            |turn| turn.comes(true),
            |done| *done,
            |file, turn| match number(file) {
                0 => Outcome::Gone,
                2 => panic!("a test panics on purpose"),
                place if turn.comes(true) => Outcome::Done(place),
                _ => Outcome::Failed,
            },
        );
        assert!(results.own);
        assert_eq!(results.first_missing, 2);
    }

    #[test]
    fn no_file_is_begun_after_the_time_and_the_own_one_is_pushed_all_the_same() {
        let results = run(
            files(9, 3),
            2,
            Duration::ZERO,
            |turn| turn.comes(true),
            |done| *done,
            |file, _| Outcome::Done(number(file)),
        );
        assert!(results.own && results.others.is_empty());
    }

    #[test]
    fn without_threads_the_own_file_is_pushed_all_the_same() {
        let (order, results) = shown(5, 3, 0, |_| false);
        assert_eq!(order, [3]);
        assert!(results.own && results.others.is_empty());
        assert_eq!(results.first_missing, 0);
    }
}
