//! Why a command stops, ready to be printed.

use std::error::Error;

use crate::Explain;

/// A failure in the three parts of a `PostgreSQL` message.
///
/// Made once, where a typed error leaves the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Failure {
    /// A failure with a message alone.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    /// A failure from a typed error: its text is the message, the texts of
    /// what caused it are the detail.
    #[must_use]
    pub fn from_error(error: &(dyn Error + 'static)) -> Self {
        let message = error.to_string();
        let mut causes: Vec<String> = Vec::new();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            // an error that quotes its cause needs no second telling
            if !message.contains(&text) && causes.last() != Some(&text) {
                causes.push(text);
            }
            cause = inner.source();
        }
        Self {
            message,
            detail: (!causes.is_empty()).then(|| causes.join(": ")),
            hint: None,
        }
    }

    /// The same with the detail replaced.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with a hint where there is one.
    #[must_use]
    pub fn with_hint_of(mut self, hint: Option<String>) -> Self {
        if hint.is_some() {
            self.hint = hint;
        }
        self
    }

    /// The first line: what went wrong, with what was found and expected.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What lies behind it.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl<E: Explain + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::from_error(&error).with_hint_of(error.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not open \"x\"")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_cause_becomes_the_detail() {
        let failure = Failure::from_error(&Outer(std::io::Error::other("disk on fire")));
        assert_eq!(failure.message(), "could not open \"x\"");
        assert_eq!(failure.detail(), Some("disk on fire"));
        assert_eq!(failure.hint(), None);
    }
}
