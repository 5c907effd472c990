//! How fast earlier restores went: what an estimate is made of.
//!
//! A small file of the user's, in `$XDG_STATE_HOME/pitr` or
//! `~/.local/state/pitr`. It may be lost or wrong: then there is no estimate,
//! or a poor one, and nothing else depends on it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The format that is written, and the only one that is read.
const FORMAT: u32 = 1;
/// Restores that are remembered.
const KEPT: usize = 16;
/// Longest file that is read.
const MAX_BYTES: u64 = 64 << 10;

/// Figures of earlier restores, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EarlierRestores {
    format: u32,
    restores: Vec<RestoreFigures>,
}

/// What one restore took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestoreFigures {
    /// Bytes of the backup, uncompressed.
    pub(crate) copied_bytes: u64,
    /// From the first directory to the last sync.
    pub(crate) copied_ms: u64,
    /// Bytes of log that were replayed, where the server was watched.
    pub(crate) replayed_bytes: Option<u64>,
    /// From the server's start to its target.
    pub(crate) replayed_ms: Option<u64>,
}

/// How long a restore will take, as far as earlier ones tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Estimate {
    pub(crate) copy: Option<Duration>,
    pub(crate) replay: Option<Duration>,
}

impl EarlierRestores {
    /// What is remembered; nothing where nothing can be read.
    pub(crate) fn load() -> Self {
        let nothing = Self {
            format: FORMAT,
            restores: Vec::new(),
        };
        let read = || -> Option<Self> {
            let file = fs::File::open(path()?).ok()?;
            let mut text = String::new();
            file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
            let read: Self = serde_json::from_str(&text).ok()?;
            (read.format == FORMAT).then_some(read)
        };
        read().unwrap_or(nothing)
    }

    /// How long it takes to copy and to replay so much: by the middle one of
    /// the rates of earlier restores.
    pub(crate) fn estimate(&self, copied_bytes: u64, replayed_bytes: u64) -> Estimate {
        let copies = self.restores.iter();
        let copies = copies.map(|one| (one.copied_bytes, one.copied_ms));
        let replays = self.restores.iter();
        let replays = replays.filter_map(|one| Some((one.replayed_bytes?, one.replayed_ms?)));
        Estimate {
            copy: duration(copied_bytes, copies.collect()),
            replay: duration(replayed_bytes, replays.collect()),
        }
    }

    /// Remembers one more; where that fails, it is forgotten.
    pub(crate) fn remember(mut self, figures: RestoreFigures) {
        self.restores.push(figures);
        let surplus = self.restores.len().saturating_sub(KEPT);
        self.restores.drain(..surplus);
        let write = || -> Option<()> {
            let path = path()?;
            let folder = path.parent()?;
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .ok()?;
            let text = serde_json::to_string(&self).ok()?;
            let beside = folder.join(format!(".restores.json.{}", std::process::id()));
            let written = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&beside)
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .and_then(|()| fs::rename(&beside, &path));
            if written.is_err() {
                // left behind it would stay for ever
                let _ = fs::remove_file(&beside);
            }
            written.ok()
        };
        let _ = write();
    }
}

fn path() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local").join("state")))?;
    Some(state.join("pitr").join("restores.json"))
}

/// Milliseconds for `bytes`, at the middle rate of `earlier` (bytes, milliseconds).
fn duration(bytes: u64, earlier: Vec<(u64, u64)>) -> Option<Duration> {
    let mut per_mebibyte: Vec<u128> = earlier
        .into_iter()
        .filter(|(bytes, _)| *bytes > 0)
        .map(|(bytes, ms)| (u128::from(ms) << 40) / u128::from(bytes))
        .collect();
    per_mebibyte.sort_unstable();
    let middle = per_mebibyte.get(per_mebibyte.len() / 2)?;
    let ms = (middle.saturating_mul(u128::from(bytes))) >> 40;
    Some(Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(copied_bytes: u64, copied_ms: u64, replay: Option<(u64, u64)>) -> RestoreFigures {
        RestoreFigures {
            copied_bytes,
            copied_ms,
            replayed_bytes: replay.map(|(bytes, _)| bytes),
            replayed_ms: replay.map(|(_, ms)| ms),
        }
    }

    #[test]
    fn an_estimate_is_the_middle_of_what_earlier_restores_took() {
        let earlier = EarlierRestores {
            format: FORMAT,
            restores: vec![
                figures(1 << 30, 1_000_000, None),
                figures(1 << 30, 10_000, Some((1 << 20, 100))),
                figures(1 << 20, 1, None),
            ],
        };
        let estimate = earlier.estimate(2 << 30, 3 << 20);
        assert_eq!(estimate.copy, Some(Duration::from_secs(20)));
        assert_eq!(estimate.replay, Some(Duration::from_millis(300)));
    }

    #[test]
    fn without_earlier_restores_there_is_no_estimate() {
        let none = EarlierRestores {
            format: FORMAT,
            restores: vec![figures(0, 5, Some((0, 0)))],
        };
        assert_eq!(none.estimate(1 << 30, 1 << 30), Estimate::default());
        // nor does any figure overflow
        let wild = EarlierRestores {
            format: FORMAT,
            restores: vec![figures(1, u64::MAX, Some((u64::MAX, 1)))],
        };
        assert!(wild.estimate(u64::MAX, u64::MAX).copy.is_some());
    }
}
