//! Messages to people and to the server's log, in `PostgreSQL`'s manner.

use std::io::{IsTerminal, Write};

/// How grave a message is; printed as its first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// What was done.
    Log,
    /// What needs attention, though the command goes on.
    Warning,
    /// Why the command stops.
    Error,
}

impl Severity {
    const fn word(self) -> &'static str {
        match self {
            Self::Log => "LOG",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }
}

/// The two streams of a command: messages to stderr, results to stdout.
///
/// Under `PostgreSQL` stderr is the server's log. A stream that is closed or
/// full never stops the command: archiving goes on without its messages.
#[derive(Debug, Clone, Copy, Default)]
pub struct Console {
    quiet: bool,
}

impl Console {
    /// A console that prints everything.
    #[must_use]
    pub const fn new() -> Self {
        Self { quiet: false }
    }

    /// A console that keeps `LOG` messages to itself.
    #[must_use]
    pub const fn quiet() -> Self {
        Self { quiet: true }
    }

    /// Says what was done.
    pub fn log(&self, message: impl AsRef<str>) {
        if !self.quiet {
            self.say(Severity::Log, message.as_ref(), None, None);
        }
    }

    /// Says what needs attention, with what to do about it.
    pub fn warn(&self, message: impl AsRef<str>, detail: Option<&str>, hint: Option<&str>) {
        self.say(Severity::Warning, message.as_ref(), detail, hint);
    }

    /// Says why the command stops.
    pub fn fail(&self, failure: &crate::Failure) {
        self.say(
            Severity::Error,
            failure.message(),
            failure.detail(),
            failure.hint(),
        );
    }

    /// Prints one message as one write, so that lines of several processes
    /// do not mix in the server's log.
    pub fn say(&self, severity: Severity, message: &str, detail: Option<&str>, hint: Option<&str>) {
        let mut text = line(severity.word(), message);
        if let Some(detail) = detail {
            text.push_str(&line("DETAIL", detail));
        }
        if let Some(hint) = hint {
            text.push_str(&line("HINT", hint));
        }
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Prints a result, with a newline, to stdout.
    ///
    /// # Errors
    /// Whatever writing to stdout fails with, a closed pipe among it: the
    /// reader of a result that did not get it must hear so by the exit code.
    pub fn result(&self, text: impl AsRef<str>) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_ref().as_bytes())?;
        if !text.as_ref().ends_with('\n') {
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// Whether a person is watching stderr.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        std::io::stderr().is_terminal()
    }
}

/// `WORD:  text`, with further lines of the text indented by a tab as
/// `PostgreSQL` does in its log, and control characters made visible so that
/// a file name cannot forge a line.
fn line(word: &str, text: &str) -> String {
    let mut out = format!("{word}:  ");
    for character in text.trim_end().chars() {
        match character {
            '\n' => out.push_str("\n\t"),
            '\t' => out.push('\t'),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_lines_are_indented_as_in_the_servers_log() {
        assert_eq!(line("ERROR", "one\ntwo"), "ERROR:  one\n\ttwo\n");
    }

    #[test]
    fn a_control_character_is_made_visible() {
        assert_eq!(line("LOG", "a\u{1b}[31mb\r"), "LOG:  a\\u{1b}[31mb\n");
        assert_eq!(line("LOG", "a\rb"), "LOG:  a\\rb\n");
    }
}
