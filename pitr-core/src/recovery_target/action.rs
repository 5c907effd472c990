//! What a server does when recovery has reached its target.

use std::fmt;
use std::str::FromStr;

use crate::text::excerpt;

/// What a server does when recovery has reached its target: the value of `recovery_target_action`.
///
/// Source: `RecoveryTargetAction`, src/include/access/xlogrecovery.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TargetAction {
    /// Stays read-only, until told to go on: the server's default.
    ///
    /// Not kept where the server could not accept readers before the target
    /// (without `hot_standby` it shuts down; after a snapshot that
    /// overflowed, it promotes).
    #[default]
    Pause,
    /// Ends recovery and accepts writes, on a new timeline.
    Promote,
    /// Shuts down; started again, it goes on from there.
    Shutdown,
}

impl TargetAction {
    /// The value of the setting.
    pub const fn as_str(self) -> &'static str {
        match self {
            TargetAction::Pause => "pause",
            TargetAction::Promote => "promote",
            TargetAction::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for TargetAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TargetAction {
    type Err = ParseTargetActionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [
            TargetAction::Pause,
            TargetAction::Promote,
            TargetAction::Shutdown,
        ]
        .into_iter()
        .find(|action| action.as_str() == text)
        .ok_or_else(|| ParseTargetActionError {
            text: excerpt(text),
        })
    }
}

/// Text that is not an action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not an action at the target: expected pause, promote or shutdown")]
pub struct ParseTargetActionError {
    /// What stood there (shortened if long).
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["pause", "promote", "shutdown"] {
            assert_eq!(text.parse::<TargetAction>().unwrap().to_string(), text);
        }
        assert!("Pause".parse::<TargetAction>().is_err());
        assert_eq!(TargetAction::default(), TargetAction::Pause);
    }
}
