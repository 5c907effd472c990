//! Trying again, for a bounded time.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::failure::Failure;

/// First pause.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long a request is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryBudget {
    /// No try begins later than this after the first.
    pub(super) total: Duration,
}

impl RetryBudget {
    /// Repeats `attempt` while it fails in a way that time can cure.
    ///
    /// Each try is whole: the caller's answers to a create that may have
    /// succeeded are inside it.
    pub(super) async fn run<T, Fut>(self, mut attempt: impl FnMut() -> Fut) -> Result<T, Failure>
    where
        Fut: Future<Output = Result<T, Failure>>,
    {
        let mut pauses = Pauses::new(self);
        loop {
            let failure = match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) if failure.is_passing() => failure,
                Err(failure) => return Err(failure),
            };
            if !pauses.pause(failure.retry_after()).await {
                return Err(failure);
            }
        }
    }
}

/// The pauses between the tries of one request: each about twice as long as
/// the one before, none twice the same.
#[derive(Debug)]
pub(super) struct Pauses {
    budget: RetryBudget,
    begun: Instant,
    next: Duration,
}

impl Pauses {
    pub(super) fn new(budget: RetryBudget) -> Self {
        Self {
            budget,
            begun: Instant::now(),
            next: FIRST_PAUSE,
        }
    }

    /// Waits before the next try; `false` where the budget leaves none.
    pub(super) async fn pause(&mut self, asked: Option<Duration>) -> bool {
        let pause = jittered(self.next).max(asked.unwrap_or_default());
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        if self.begun.elapsed() + pause > self.budget.total {
            return false;
        }
        sleep(pause).await;
        true
    }

    /// Begins the budget anew: something was got meanwhile.
    pub(super) fn renew(&mut self) {
        *self = Self::new(self.budget);
    }
}

/// Between the half and the whole of `pause`, so that many archivers that
/// failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(random() % span)
}

/// A number that differs from process to process and from call to call.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RemoteProblem;

    fn busy() -> Failure {
        Failure::new(RemoteProblem::Unavailable, "503")
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn a_server_that_stays_away_is_given_up_within_the_budget() {
        let begun = std::time::Instant::now();
        let budget = RetryBudget {
            total: Duration::from_millis(600),
        };
        let mut tries = 0;
        let outcome: Result<(), _> = run(budget.run(|| {
            tries += 1;
            async { Err(busy()) }
        }));
        assert!(matches!(outcome, Err(Failure::Problem { .. })));
        assert!(tries >= 3, "{tries} tries");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn what_no_time_cures_is_tried_once() {
        let budget = RetryBudget {
            total: Duration::from_secs(60),
        };
        let mut tries = 0;
        let outcome: Result<(), _> = run(budget.run(|| {
            tries += 1;
            async { Err(Failure::new(RemoteProblem::Denied, "403")) }
        }));
        assert!(outcome.is_err());
        assert_eq!(tries, 1);
    }

    #[test]
    fn a_pause_that_the_budget_does_not_hold_is_not_made() {
        let begun = std::time::Instant::now();
        let mut pauses = Pauses::new(RetryBudget {
            total: Duration::from_secs(5),
        });
        assert!(!run(pauses.pause(Some(Duration::from_secs(3600)))));
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
}
