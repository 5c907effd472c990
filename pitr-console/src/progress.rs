//! Progress of long work: a bar on a terminal, plain lines elsewhere.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{ByteCount, Console, Elapsed};

/// How often a plain line is printed where no terminal is watching.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Counts bytes towards an expected total and shows rate and time left.
///
/// May be advanced by several threads at once.
#[derive(Debug)]
pub struct Progress {
    console: Console,
    title: String,
    started: Instant,
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { last: Mutex<Instant> },
    Nothing,
}

impl Progress {
    /// Starts showing `title`; the total may be an estimate, 0 where unknown.
    #[must_use]
    pub fn start(console: Console, title: impl Into<String>, total_bytes: u64) -> Self {
        let title = title.into();
        let shown = if console.is_terminal() {
            let bar = ProgressBar::with_draw_target(
                (total_bytes > 0).then_some(total_bytes),
                ProgressDrawTarget::stderr(),
            );
            let template = if total_bytes > 0 {
                "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left"
            } else {
                "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(title.clone());
            Shown::Bar(bar)
        } else {
            Shown::Lines {
                last: Mutex::new(Instant::now()),
            }
        };
        Self::with(console, title, total_bytes, shown)
    }

    /// Counts without showing anything (`--json`, `--quiet`).
    #[must_use]
    pub fn silent(console: Console) -> Self {
        Self::with(console, String::new(), 0, Shown::Nothing)
    }

    fn with(console: Console, title: String, total_bytes: u64, shown: Shown) -> Self {
        Self {
            console,
            title,
            started: Instant::now(),
            done_bytes: AtomicU64::new(0),
            total_bytes: AtomicU64::new(total_bytes),
            shown,
        }
    }

    /// Counts `bytes` more.
    pub fn advance(&self, bytes: u64) {
        let done = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match &self.shown {
            Shown::Bar(bar) => {
                // an estimate that turns out too low grows along
                if bar.length().is_some_and(|total| done > total) {
                    bar.set_length(done);
                }
                bar.set_position(done);
            }
            Shown::Lines { last } => {
                if let Ok(mut last) = last.try_lock()
                    && last.elapsed() >= LINE_EVERY
                {
                    *last = Instant::now();
                    self.console.log(self.line(done));
                }
            }
            Shown::Nothing => {}
        }
    }

    /// Says something above the bar without tearing it.
    pub fn say(&self, say: impl FnOnce(Console)) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| say(self.console)),
            _ => say(self.console),
        }
    }

    /// Bytes counted so far.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes the bar away; the caller then says what was done.
    pub fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }

    fn line(&self, done: u64) -> String {
        let total = self.total_bytes.load(Ordering::Relaxed);
        let elapsed = self.started.elapsed();
        let rate = done / elapsed.as_secs().max(1);
        let mut line = format!("{}: {}", self.title, ByteCount(done));
        if total > 0 {
            let percent = (u128::from(done) * 100 / u128::from(total)).min(100);
            line.push_str(&format!(" of about {} ({percent} %)", ByteCount(total)));
        }
        line.push_str(&format!(", {}/s", ByteCount(rate)));
        if rate > 0 && total > done {
            let left = Duration::from_secs((total - done) / rate);
            line.push_str(&format!(", {} left", Elapsed(left)));
        }
        line
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
