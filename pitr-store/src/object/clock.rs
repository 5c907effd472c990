//! A clock that neither jumps nor stops while the machine sleeps: how long ago
//! something was asked of a bucket decides what may be believed of it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment of this machine since it was started, time asleep included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(Duration);

impl Moment {
    /// Now.
    pub(super) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        Self(Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        ))
    }

    /// How long ago it was.
    pub(super) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}
