//! A session with a server, and SQL in it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pitr_core::PostgresMajor;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use crate::connect::endpoint::Endpoint;
use crate::connect::error::{ConnectError, ConnectFailure};
use crate::connect::{Session, log_in};
use crate::options::{ConnectOptions, SessionTarget};
use crate::query_error::QueryError;
use crate::row::{Row, column_names, read_row};
use crate::server_message::ServerMessage;
use crate::wire::{Incoming, Wire, WireError};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// SQL in a database.
    Sql,
    /// Physical replication: base backups, WAL, `SHOW`; no SQL. The role needs REPLICATION.
    Replication,
}

type NoticeHandler = Box<dyn FnMut(&ServerMessage) + Send>;

/// A session with a server.
///
/// Dropped, it says goodbye to the server; in the middle of an answer it hangs
/// up instead, at which the server ends the session by itself.
pub struct Connection {
    wire: Wire,
    endpoint: Endpoint,
    mode: Mode,
    parameters: BTreeMap<String, String>,
    process_id: i32,
    early_notices: Vec<ServerMessage>,
    on_notice: Option<NoticeHandler>,
    is_idle: bool,
    is_closed: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("endpoint", &self.endpoint)
            .field("mode", &self.mode)
            .field("process_id", &self.process_id)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects and logs in to the first server of `options` that will have us.
    ///
    /// # Errors
    /// [`ConnectError`] with every server that was tried. After a server
    /// refused the login, no further one is tried.
    pub fn connect(options: &ConnectOptions, mode: Mode) -> Result<Self, ConnectError> {
        log_in(options, mode, |session, target| {
            let mut connection = Self::over(session, mode);
            connection.check_target(target)?;
            Ok(connection)
        })
    }

    fn over(session: Session, mode: Mode) -> Self {
        Self {
            wire: session.wire,
            endpoint: session.endpoint,
            mode,
            parameters: session.parameters,
            process_id: session.process_id,
            early_notices: session.notices,
            on_notice: None,
            is_idle: true,
            is_closed: false,
        }
    }

    /// A session with whatever is at the other end of `stream`.
    #[cfg(test)]
    pub(crate) fn over_socket(stream: std::os::unix::net::UnixStream, version: &str) -> Self {
        use crate::connect::stream::Stream;
        let session = Session {
            wire: Wire::new(Stream::Unix(stream), None),
            endpoint: Endpoint::socket("/test".as_ref(), 1),
            parameters: [("server_version".to_owned(), version.to_owned())].into(),
            process_id: 1,
            notices: Vec::new(),
        };
        Self::over(session, Mode::Replication)
    }

    /// Source: `CONNECTION_CHECK_TARGET`, src/interfaces/libpq/fe-connect.c.
    fn check_target(&mut self, target: SessionTarget) -> Result<(), ConnectFailure> {
        // servers from 14 on report both settings of their own accord
        let mut is_on = |parameter: &str, otherwise: &str| -> Result<bool, ConnectFailure> {
            if let Some(value) = self.parameter(parameter) {
                return Ok(value == "on");
            }
            let rows = self
                .query(otherwise)
                .map_err(|error| ConnectFailure::Protocol(error.to_string()))?;
            let value = rows.first().and_then(|row| row.get(0));
            Ok(matches!(value, Some("on" | "t")))
        };
        const RECOVERY: &str = "SELECT pg_catalog.pg_is_in_recovery()";
        let is_met = match target {
            SessionTarget::Any | SessionTarget::PreferStandby => true,
            SessionTarget::ReadWrite | SessionTarget::ReadOnly => {
                let read_only = is_on(
                    "default_transaction_read_only",
                    "SHOW transaction_read_only",
                )? || is_on("in_hot_standby", "SHOW transaction_read_only")?;
                read_only == (target == SessionTarget::ReadOnly)
            }
            SessionTarget::Primary => !is_on("in_hot_standby", RECOVERY)?,
            SessionTarget::Standby => is_on("in_hot_standby", RECOVERY)?,
        };
        if is_met {
            Ok(())
        } else {
            Err(ConnectFailure::WrongSession(target))
        }
    }

    /// The server that was reached.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What the connection is for.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Process of the server that serves this session.
    #[must_use]
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// A setting that the server reports by itself, as it is now, e.g. `server_version`, `TimeZone`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Version as the server spells it, e.g. `15.14 (Debian 15.14-0+deb12u1)`.
    #[must_use]
    pub fn server_version(&self) -> &str {
        self.parameter("server_version").unwrap_or_default()
    }

    /// Version as one number: 150014 for 15.14, 160000 for a beta of 16; 0 if the server did not tell.
    #[must_use]
    pub fn server_version_num(&self) -> u32 {
        version_number(self.server_version())
    }

    /// Major version, if this project knows it.
    #[must_use]
    pub fn major(&self) -> Option<PostgresMajor> {
        PostgresMajor::from_server_version_num(self.server_version_num())
    }

    /// Calls `handler` for every warning and notice of the server; first for those of the login.
    pub fn on_notice(&mut self, mut handler: impl FnMut(&ServerMessage) + Send + 'static) {
        for notice in self.early_notices.drain(..) {
            handler(&notice);
        }
        self.on_notice = Some(Box::new(handler));
    }

    /// Runs one or more statements; gives the rows of all of them in order.
    ///
    /// Values are in PostgreSQL's text form. All rows are held in memory.
    /// `COPY` is not for this.
    ///
    /// # Errors
    /// [`QueryError::Server`] for the first statement that fails; those before
    /// it are undone, unless they ended a transaction themselves.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Row>, QueryError> {
        self.begin(sql)?;
        let mut columns: Arc<[String]> = Arc::new([]);
        let mut rows = Vec::new();
        loop {
            match self.next(sql)? {
                Message::RowDescription(body) => {
                    columns = self.keep(sql, column_names(&body))?;
                }
                Message::DataRow(body) => {
                    let raw = self.keep(sql, read_row(&body))?;
                    let values = raw
                        .0
                        .into_iter()
                        .map(|value| Some(String::from_utf8_lossy(&value?).into_owned()))
                        .collect();
                    rows.push(Row {
                        columns: Arc::clone(&columns),
                        values,
                    });
                }
                Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
                Message::ReadyForQuery(_) => {
                    self.is_idle = true;
                    return Ok(rows);
                }
                _ => return Err(self.give_up(sql, "a message that is no part of a result")),
            }
        }
    }

    /// Value of a setting, by `SHOW`; works on both kinds of connection.
    ///
    /// # Errors
    /// [`QueryError::Server`] if there is no such setting, or it may not be read.
    pub fn show(&mut self, name: &str) -> Result<String, QueryError> {
        let sql = format!("SHOW {}", quote_setting(name));
        let rows = self.query(&sql)?;
        match rows.first().and_then(|row| row.get(0)) {
            Some(value) => Ok(value.to_owned()),
            None => Err(self.give_up(&sql, "no row")),
        }
    }

    /// Sends a command whose answer the caller reads with [`Connection::next`].
    pub(crate) fn begin(&mut self, command: &str) -> Result<(), QueryError> {
        if self.is_closed || !self.is_idle {
            return Err(QueryError::Closed);
        }
        if command.contains('\0') {
            return Err(QueryError::Protocol {
                command: first_word(command),
                problem: "the command itself holds a zero byte".to_owned(),
            });
        }
        self.is_idle = false;
        let sent = self.wire.send(|buffer| frontend::query(command, buffer));
        sent.map_err(|error| {
            // a server that ended the session has left word of the reason
            let told = self.next(command);
            self.close();
            match told {
                Err(told @ QueryError::Server { .. }) => told,
                _ => error.into(),
            }
        })
    }

    /// The next message that matters to an answer. An error of the server
    /// leaves the connection ready for the next command, where it goes on.
    pub(crate) fn next(&mut self, command: &str) -> Result<Message, QueryError> {
        match self.next_incoming(command)? {
            Incoming::Message(message) => Ok(message),
            Incoming::CopyBoth => Err(self.give_up(command, "a stream that was not asked for")),
        }
    }

    /// The same where the answer may be a stream.
    pub(crate) fn next_incoming(&mut self, command: &str) -> Result<Incoming, QueryError> {
        loop {
            let received = self.wire.receive();
            let incoming = self.kept_open(command, received)?;
            if let Some(matters) = self.pass_over_asides(command, incoming)? {
                return Ok(matters);
            }
        }
    }

    /// The same where it need not come: see [`Wire::receive_within`].
    pub(crate) fn next_within(
        &mut self,
        command: &str,
        patience: Option<Duration>,
    ) -> Result<Option<Incoming>, QueryError> {
        loop {
            let received = self.wire.receive_within(patience);
            let Some(incoming) = self.kept_open(command, received)? else {
                return Ok(None);
            };
            if let Some(matters) = self.pass_over_asides(command, incoming)? {
                return Ok(Some(matters));
            }
        }
    }

    /// What came of talking to the server; where that failed, the connection is closed.
    fn kept_open<T>(
        &mut self,
        command: &str,
        result: Result<T, WireError>,
    ) -> Result<T, QueryError> {
        result.map_err(|error| {
            self.close();
            match error {
                WireError::TooLong { .. } | WireError::Malformed(_) => QueryError::Protocol {
                    command: first_word(command),
                    problem: error.to_string(),
                },
                _ => error.into(),
            }
        })
    }

    /// Takes notices and settings off, and turns an error into one.
    fn pass_over_asides(
        &mut self,
        command: &str,
        incoming: Incoming,
    ) -> Result<Option<Incoming>, QueryError> {
        let Incoming::Message(message) = incoming else {
            return Ok(Some(incoming));
        };
        match message {
            Message::NoticeResponse(body) => {
                let notice = self.keep(command, ServerMessage::read(body.fields()))?;
                match &mut self.on_notice {
                    Some(handler) => handler(&notice),
                    None => self.early_notices.push(notice),
                }
            }
            Message::ParameterStatus(body) => {
                if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                    self.parameters.insert(name.to_owned(), value.to_owned());
                }
            }
            Message::NotificationResponse(_) => {}
            Message::ErrorResponse(body) => {
                let message = self.keep(command, ServerMessage::read(body.fields()))?;
                self.wait_until_ready();
                return Err(QueryError::Server {
                    message: Box::new(message),
                });
            }
            message => return Ok(Some(Incoming::Message(message))),
        }
        Ok(None)
    }

    /// Sends something in the middle of an answer.
    pub(crate) fn send(
        &mut self,
        command: &str,
        write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), QueryError> {
        if self.is_closed {
            return Err(QueryError::Closed);
        }
        let sent = self.wire.send(write);
        self.kept_open(command, sent)
    }

    /// Says that no more of a copy comes from us.
    pub(crate) fn send_copy_done(&mut self, command: &str) -> Result<(), QueryError> {
        self.send(command, |buffer| {
            frontend::copy_done(buffer);
            Ok(())
        })
    }

    /// From here on the server must answer, and take what it is sent, in this time.
    pub(crate) fn set_patience(
        &mut self,
        command: &str,
        limit: Duration,
    ) -> Result<(), QueryError> {
        let set = self.wire.set_patience(limit);
        self.kept_open(command, set)
    }

    /// After an error: reads on until the server is ready, or closes if it has gone (FATAL).
    fn wait_until_ready(&mut self) {
        loop {
            match self.wire.receive() {
                Ok(Incoming::Message(Message::ReadyForQuery(_))) => {
                    self.is_idle = true;
                    return;
                }
                Ok(_) => {}
                Err(_) => {
                    self.close();
                    return;
                }
            }
        }
    }

    /// Reads the end of an answer that has no more rows, up to the server's readiness.
    pub(crate) fn finish(&mut self, command: &str) -> Result<(), QueryError> {
        loop {
            match self.next(command)? {
                Message::CommandComplete(_) => {}
                Message::ReadyForQuery(_) => {
                    self.is_idle = true;
                    return Ok(());
                }
                _ => return Err(self.give_up(command, "more than was asked for")),
            }
        }
    }

    /// Closes the connection: what the server sends is not understood.
    pub(crate) fn give_up(&mut self, command: &str, problem: impl Into<String>) -> QueryError {
        self.close();
        QueryError::Protocol {
            command: first_word(command),
            problem: problem.into(),
        }
    }

    /// Passes a value on; where there is none, the connection is closed.
    pub(crate) fn keep<T>(
        &mut self,
        command: &str,
        result: std::io::Result<T>,
    ) -> Result<T, QueryError> {
        result.map_err(|error| self.give_up(command, error.to_string()))
    }

    /// Closes the connection in the middle of an answer; leaves it open after one.
    pub(crate) fn close_unless_idle(&mut self) {
        if !self.is_idle {
            self.close();
        }
    }

    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        self.wire.shut_down();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.is_closed {
            return;
        }
        if self.is_idle {
            let _ = self.wire.send(|buffer| {
                frontend::terminate(buffer);
                Ok(())
            });
        }
        self.wire.shut_down();
    }
}

/// The first two words: enough to know a command by.
fn first_word(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().take(2).collect();
    words.join(" ")
}

/// A setting's name for `SHOW`: quoted where it is no plain word, e.g. with a dot in it.
fn quote_setting(name: &str) -> String {
    if name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        name.to_owned()
    } else {
        name.split('.')
            .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
            .collect::<Vec<_>>()
            .join(".")
    }
}

/// 150014 from `15.14 (Debian ...)`; betas and development versions count as `.0`.
fn version_number(text: &str) -> u32 {
    let number = |text: &str| -> u32 {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        text.get(..digits)
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(0)
    };
    let (major, rest) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let minor = rest.strip_prefix('.').map_or(0, number);
    number(major).saturating_mul(10_000).saturating_add(minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_become_numbers() {
        for (text, number) in [
            ("15.14 (Debian 15.14-0+deb12u1)", 150_014),
            ("14.23", 140_023),
            ("19beta4", 190_000),
            ("17devel", 170_000),
            ("", 0),
            ("99999999999.1", 1),
        ] {
            assert_eq!(version_number(text), number, "{text}");
        }
    }

    #[test]
    fn names_of_settings_are_quoted_part_by_part() {
        assert_eq!(quote_setting("max_connections"), "max_connections");
        assert_eq!(quote_setting("a.b; DROP"), "\"a\".\"b; DROP\"");
    }
}
