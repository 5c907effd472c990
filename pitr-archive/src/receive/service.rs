//! The receiver as a service: signals that end it, and what systemd is told.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pitr_console::Failure;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};

/// How often it is looked whether to stop.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// Whether to go on, and how it goes.
pub(super) struct Service {
    stop: Arc<AtomicBool>,
    is_ready: Cell<bool>,
    status: RefCell<String>,
    /// How often systemd wants to hear of us.
    watchdog: Option<Duration>,
    last_sign: Cell<Instant>,
}

impl Service {
    /// Takes SIGTERM and SIGINT over; the second of either ends the process at once.
    pub(super) fn begin() -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            let armed = signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop));
            armed
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
                .map_err(|error| {
                    Failure::new("could not prepare for signals").with_detail(error.to_string())
                })?;
        }
        Ok(Self {
            stop,
            is_ready: Cell::new(false),
            status: RefCell::new(String::new()),
            watchdog: sd_notify::watchdog_enabled().map(|limit| limit / 3),
            last_sign: Cell::new(Instant::now()),
        })
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits, but not for longer than until it is told to stop.
    pub(super) fn pause(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.is_stopped() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.alive();
            std::thread::sleep(left.min(TICK));
        }
    }

    /// The log streams: whoever waits for the service may go on.
    pub(super) fn ready(&self) {
        if !self.is_ready.replace(true) {
            notify(&[NotifyState::Ready]);
        }
    }

    /// Shown by `systemctl status`.
    pub(super) fn status(&self, text: String) {
        if *self.status.borrow() != text {
            notify(&[NotifyState::Status(&text)]);
            self.status.replace(text);
        }
    }

    /// A sign of life, where systemd waits for one.
    pub(super) fn alive(&self) {
        if let Some(interval) = self.watchdog
            && self.last_sign.get().elapsed() >= interval
        {
            self.last_sign.set(Instant::now());
            notify(&[NotifyState::Watchdog]);
        }
    }

    pub(super) fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }
}

/// Where systemd does not listen, nobody misses it.
fn notify(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}
