//! The timeline that recovery follows.

use std::fmt;
use std::str::FromStr;

use crate::text::excerpt;
use crate::timeline::id::TimelineId;

/// The timeline that recovery follows: the value of `recovery_target_timeline`.
///
/// Source: `RecoveryTargetTimeLineGoal`, src/include/access/xlogrecovery.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RecoveryTargetTimeline {
    /// The newest whose history can be found: `latest`, the server's default.
    #[default]
    Latest,
    /// That of the backup: `current`.
    Current,
    /// This one.
    Id(TimelineId),
}

impl fmt::Display for RecoveryTargetTimeline {
    /// The value of the setting.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryTargetTimeline::Latest => f.pad("latest"),
            RecoveryTargetTimeline::Current => f.pad("current"),
            RecoveryTargetTimeline::Id(timeline) => timeline.fmt(f),
        }
    }
}

impl FromStr for RecoveryTargetTimeline {
    type Err = ParseRecoveryTargetTimelineError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "latest" => Ok(RecoveryTargetTimeline::Latest),
            "current" => Ok(RecoveryTargetTimeline::Current),
            _ => text.parse().map(RecoveryTargetTimeline::Id).map_err(|_| {
                ParseRecoveryTargetTimelineError {
                    text: excerpt(text),
                }
            }),
        }
    }
}

/// Text that names no timeline to follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a timeline to recover to: expected latest, current or a decimal number")]
pub struct ParseRecoveryTargetTimelineError {
    /// What stood there (shortened if long).
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["latest", "current", "7"] {
            assert_eq!(
                text.parse::<RecoveryTargetTimeline>().unwrap().to_string(),
                text
            );
        }
        for text in ["", "Latest", "0", "0x7", "newest"] {
            assert!(text.parse::<RecoveryTargetTimeline>().is_err(), "{text:?}");
        }
        assert_eq!(
            RecoveryTargetTimeline::default(),
            RecoveryTargetTimeline::Latest
        );
    }
}
