//! Errors, warnings and notices in the server's own words.

use std::fmt;

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::ErrorFields;

/// An error, warning or notice of the server, with the fields that it came with.
///
/// The texts are in the language of the server (`lc_messages`); the code and
/// the routine are the same in every language. `Display` gives the severity
/// and the message, as psql does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerMessage {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING`, `NOTICE`, `DEBUG`, `INFO` or `LOG`, never translated.
    pub severity: String,
    /// SQLSTATE: five characters.
    pub code: String,
    /// The message.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// The server's advice.
    pub hint: Option<String>,
    /// Where in the server's work it arose.
    pub context: Option<String>,
    /// C function that raised it.
    pub routine: Option<String>,
}

impl ServerMessage {
    /// Source: `PQresultErrorField` and "Error and Notice Message Fields",
    /// doc/src/sgml/protocol.sgml.
    pub(crate) fn read(mut fields: ErrorFields<'_>) -> std::io::Result<Self> {
        let mut message = Self::default();
        let mut translated_severity = String::new();
        while let Some(field) = fields.next()? {
            // not UTF-8 before the server has read our settings
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'V' => message.severity = text,
                b'S' => translated_severity = text,
                b'C' => message.code = text,
                b'M' => message.message = text,
                b'D' => message.detail = Some(text),
                b'H' => message.hint = Some(text),
                b'W' => message.context = Some(text),
                b'R' => message.routine = Some(text),
                _ => {}
            }
        }
        if message.severity.is_empty() {
            message.severity = translated_severity;
        }
        Ok(message)
    }

    pub(crate) fn is_from(&self, routine: &str) -> bool {
        self.routine.as_deref() == Some(routine)
    }
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:  {}", self.severity, self.message)?;
        if !self.code.is_empty() {
            write!(f, " (SQLSTATE {})", self.code)?;
        }
        Ok(())
    }
}
