//! How often something is tried again: for a bounded time, at growing and
//! uneven distances, so that many clients of a server that comes back do not
//! arrive at once.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The budget of one operation.
#[derive(Debug)]
pub(crate) struct Retry {
    begun: Instant,
    budget: Duration,
    pause: Duration,
}

impl Retry {
    pub(crate) fn new(budget: Duration) -> Self {
        Self {
            begun: Instant::now(),
            budget,
            pause: FIRST_PAUSE,
        }
    }

    /// How long to wait before the next try; `None` when the budget is spent.
    pub(crate) fn next_pause(&mut self) -> Option<Duration> {
        let left = self.budget.checked_sub(self.begun.elapsed())?;
        let pause = self.pause.mul_f64(0.5 + fraction() / 2.0).min(left);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }

    /// Since the first try.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// After progress: the next fault has the whole budget again.
    pub(crate) fn renew(&mut self) {
        *self = Self::new(self.budget);
    }
}

/// Something from 0 to 1 that differs from process to process and call to call.
fn fraction() -> f64 {
    let number = u32::try_from(unique() >> 32).unwrap_or(0);
    f64::from(number) / f64::from(u32::MAX)
}

/// A number that no other call is likely to get, in this process or another.
///
/// The seeds of the standard library's hash maps come from the system's
/// random numbers, once per thread; each further one is derived by counting.
pub(crate) fn unique() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_differ_and_end_with_the_budget() {
        let mut retry = Retry::new(Duration::from_secs(3600));
        let pauses: Vec<_> = (0..8).map(|_| retry.next_pause().unwrap()).collect();
        assert!(pauses[0] <= FIRST_PAUSE && pauses[7] <= LONGEST_PAUSE);
        assert!(pauses[7] > pauses[0] * 4, "{pauses:?}");
        let mut other = Retry::new(Duration::from_secs(3600));
        assert_ne!(pauses[0], other.next_pause().unwrap());
        assert_eq!(Retry::new(Duration::ZERO).next_pause(), None);
    }
}
