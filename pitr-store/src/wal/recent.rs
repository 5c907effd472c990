//! Making up near the newest segment for what a repository missed.
//!
//! What one lacks shows when its newest folders are listed beside those of the
//! others. Nothing is remembered between two pushes, so nothing can be lost or
//! be wrong.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pitr_core::{SegmentName, TimelineId, WalFileName};

use super::{Copied, CopyError, WalArchive};
use crate::store::StoreError;

/// Folders that are looked at in any case: that of the newest segment, and the
/// one before, so that its end is seen too. With segments of 16 MiB that is the
/// last 4 GiB of log at least.
const FOLDERS: u32 = 2;

/// Folders that are looked at while one of the archives lacks the beginning of each.
const MOST_FOLDERS: u32 = 4;

/// Files that are copied at most, and how long new copies are begun: the server
/// waits meanwhile.
const MOST_FILES: usize = 4;
const MOST_TIME: Duration = Duration::from_secs(1);

/// What [`catch_up`] has come to in one repository.
#[derive(Debug, Default)]
pub struct CaughtUp {
    /// Stored now.
    pub copied: Vec<WalFileName>,
    /// Still missing, as far as was looked.
    pub left: usize,
    /// Why copying stopped, if it did.
    pub error: Option<CopyError>,
}

/// What lies near the newest segment.
type Window = BTreeSet<WalFileName>;

/// Stores in each of `archives` a few of the files near `newest` that another
/// of them has and it lacks, the oldest first; gives the result for each.
///
/// What is older than all that an archive holds there is no hole: that archive
/// may keep its log for a shorter time, or be new.
///
/// # Errors
/// A folder could not be listed.
pub fn catch_up(
    newest: &SegmentName,
    archives: &[&WalArchive],
) -> Result<Vec<CaughtUp>, StoreError> {
    let windows = windows(newest, archives)?;
    let begun = Instant::now();
    let mut files = 0;
    let mut results = Vec::new();
    let all: Window = windows.iter().flatten().copied().collect();
    for (archive, window) in archives.iter().zip(&windows) {
        let mut caught_up = CaughtUp::default();
        let oldest = window.iter().filter_map(WalFileName::segment).min();
        let is_hole = |name: &&WalFileName| match name.segment() {
            Some(segment) => oldest.is_some_and(|oldest| oldest < segment),
            None => true,
        };
        for name in in_order(all.difference(window).filter(is_hole)) {
            if files >= MOST_FILES || begun.elapsed() >= MOST_TIME || caught_up.error.is_some() {
                caught_up.left += 1;
                continue;
            }
            let holder = archives
                .iter()
                .zip(&windows)
                .find(|(_, window)| window.contains(&name));
            let Some((holder, _)) = holder else {
                continue;
            };
            files += 1;
            match archive.copy_from(holder, &name) {
                Ok(Copied::Stored { .. }) => caught_up.copied.push(name),
                Ok(Copied::AlreadyPresent(_)) => {}
                Err(error) => {
                    caught_up.left += 1;
                    caught_up.error = Some(error);
                }
            }
        }
        results.push(caught_up);
    }
    Ok(results)
}

/// Histories first, then as the log runs.
fn in_order<'a>(names: impl Iterator<Item = &'a WalFileName>) -> Vec<WalFileName> {
    let mut names: Vec<WalFileName> = names.copied().collect();
    names.sort_unstable_by_key(|name| (name.segment(), *name));
    names
}

/// What each archive has near `newest`.
fn windows(newest: &SegmentName, archives: &[&WalArchive]) -> Result<Vec<Window>, StoreError> {
    let mut windows: Vec<Window> = vec![Window::new(); archives.len()];
    let timeline = newest.timeline();
    let mut log = newest.log();
    for folder in 0..MOST_FOLDERS {
        let listed = list_each(archives, timeline, log, folder == 0)?;
        let all: Window = listed.iter().flatten().copied().collect();
        let first = all.iter().find(|name| name.segment().is_some());
        let is_open = first.is_some_and(|first| listed.iter().any(|names| !names.contains(first)));
        for (window, names) in windows.iter_mut().zip(listed) {
            window.extend(names);
        }
        if folder + 1 >= FOLDERS && !is_open {
            break;
        }
        match log.checked_sub(1) {
            Some(before) => log = before,
            None => break,
        }
    }
    Ok(windows)
}

/// The same folder in all archives, at the same time.
fn list_each(
    archives: &[&WalArchive],
    timeline: TimelineId,
    log: u32,
    with_history: bool,
) -> Result<Vec<Window>, StoreError> {
    let list = |archive: &WalArchive| archive.window(timeline, log, with_history);
    std::thread::scope(|scope| {
        let threads: Vec<_> = archives
            .iter()
            .map(|archive| std::thread::Builder::new().spawn_scoped(scope, move || list(archive)))
            .collect();
        threads
            .into_iter()
            .zip(archives)
            .map(
                |(thread, archive)| match thread.map(|thread| thread.join()) {
                    Ok(Ok(listed)) => listed,
                    // no thread was to be had
                    Ok(Err(_)) | Err(_) => list(archive),
                },
            )
            .collect()
    })
}

impl WalArchive {
    /// The files in one log folder, and the history of its timeline.
    fn window(
        &self,
        timeline: TimelineId,
        log: u32,
        with_history: bool,
    ) -> Result<Window, StoreError> {
        let mut names = Window::new();
        for file in self.content_of(timeline, [log])?.files {
            names.insert(file.name);
        }
        let history = WalFileName::History(timeline);
        if with_history && timeline != TimelineId::FIRST && self.locate(&history)?.is_some() {
            names.insert(history);
        }
        Ok(names)
    }
}
