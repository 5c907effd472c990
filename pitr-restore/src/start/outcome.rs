//! What a started server shall come to, and what it has come to.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pitr_console::{Elapsed, PointInTime};
use pitr_core::{Lsn, TargetAction, TimelineId};
use serde_json::{Value, json};

/// What the server shall come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Paused at the target, read-only.
    Paused,
    /// In production on a new timeline.
    Production,
    /// Shut down at the target.
    ShutDown,
}

/// What the server has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) expected: Expected,
    pub(crate) timeline: Option<TimelineId>,
    pub(crate) lsn: Option<Lsn>,
    pub(crate) last_commit: Option<DateTime<Utc>>,
    pub(crate) elapsed: Duration,
    /// How to connect, where it runs.
    pub(crate) socket: Option<(PathBuf, u16)>,
}

impl Expected {
    /// What the settings make the server do.
    pub(crate) fn of(has_target: bool, action: TargetAction) -> Self {
        match action {
            TargetAction::Pause if has_target => Self::Paused,
            TargetAction::Shutdown if has_target => Self::ShutDown,
            _ => Self::Production,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Production => "in production",
            Self::ShutDown => "shut down",
        }
    }
}

impl Reached {
    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "state": self.expected.as_str(),
            "timeline": self.timeline,
            "replayed_to": self.lsn,
            "last_commit_time": self.last_commit.map(|time| time.to_rfc3339()),
            "elapsed_seconds": self.elapsed.as_secs_f64(),
            "socket_directory": self.socket.as_ref().map(|(folder, _)| folder),
            "port": self.socket.as_ref().map(|(_, port)| port),
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("target reached: the server is {}", self.expected.as_str());
        if let Some(timeline) = self.timeline {
            text.push_str(&format!(" on timeline {timeline}"));
        }
        if let Some(lsn) = self.lsn {
            text.push_str(&format!(", replayed to {lsn}"));
        }
        match self.last_commit {
            Some(time) => text.push_str(&format!(", last commit at {}", PointInTime::local(time))),
            None => text.push_str(", no commit replayed"),
        }
        text.push_str(&format!(", in {}", Elapsed(self.elapsed)));
        if let Some((folder, port)) = &self.socket {
            text.push_str(&format!(
                "\nconnect to it with: psql -h {} -p {port}",
                folder.display()
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_follows_from_target_and_action() {
        let of = Expected::of;
        assert_eq!(of(false, TargetAction::Pause), Expected::Production);
        assert_eq!(of(true, TargetAction::Pause), Expected::Paused);
        assert_eq!(of(true, TargetAction::Promote), Expected::Production);
        assert_eq!(of(true, TargetAction::Shutdown), Expected::ShutDown);
    }
}
