//! Trying one server after the other, and logging in.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use crate::connection::Mode;
use crate::options::tls::{SslMode, SslNegotiation};
use crate::options::{ConnectOptions, Host, HostTarget, SessionTarget};
use crate::server_message::ServerMessage;
use crate::wire::Wire;

use super::authentication::{Credentials, Refusal, authenticate, next, unexpected};
use super::endpoint::Endpoint;
use super::error::{ConnectError, ConnectFailure, FailedAttempt, ServerRefusal};
use super::stream::Stream;
use super::tls::{self, error::TlsError};

/// A session that the server is ready to serve.
pub(crate) struct Session {
    pub(crate) wire: Wire,
    pub(crate) endpoint: Endpoint,
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) process_id: i32,
    pub(crate) notices: Vec<ServerMessage>,
}

/// Logs in to the first server of `options` that will have us, and that `is_wanted` accepts.
pub(crate) fn log_in<S>(
    options: &ConnectOptions,
    mode: Mode,
    finish: impl Fn(Session, SessionTarget) -> Result<S, ConnectFailure>,
) -> Result<S, ConnectError> {
    let passes: &[SessionTarget] = match options.target {
        SessionTarget::PreferStandby => &[SessionTarget::Standby, SessionTarget::Any],
        ref other => std::slice::from_ref(other),
    };
    let mut attempts = Vec::new();
    for &target in passes {
        // a second pass tells the same once more
        attempts.clear();
        for host in &options.hosts {
            for endpoint in endpoints(host) {
                let endpoint = match endpoint {
                    Ok(endpoint) => endpoint,
                    Err(attempt) => {
                        attempts.push(attempt);
                        continue;
                    }
                };
                let result = connect(options, mode, host, &endpoint)
                    .and_then(|session| finish(session, target));
                let failure = match result {
                    Ok(session) => return Ok(session),
                    Err(failure) => failure,
                };
                let leads_on = failure.leads_on();
                attempts.push(FailedAttempt {
                    endpoint,
                    failure: Box::new(failure),
                });
                if !leads_on {
                    return Err(ConnectError { attempts });
                }
            }
        }
    }
    Err(ConnectError { attempts })
}

/// Every address of a host.
fn endpoints(host: &Host) -> Vec<Result<Endpoint, FailedAttempt>> {
    let port = host.port;
    let (name, address) = match &host.target {
        HostTarget::Socket(folder) => return vec![Ok(Endpoint::socket(folder, port))],
        HostTarget::Tcp { name, address } => (name, address),
    };
    let tcp = |address| Endpoint::Tcp {
        name: name.clone(),
        address,
        port,
    };
    let looked_up = match address {
        Some(address) => Ok(vec![(*address, port).into()]),
        None => (name.as_str(), port)
            .to_socket_addrs()
            .map(|addresses| addresses.collect()),
    };
    match looked_up {
        Ok(addresses) => addresses
            .into_iter()
            .map(|address| Ok(tcp(Some(address))))
            .collect(),
        Err(error) => vec![Err(FailedAttempt {
            endpoint: tcp(None),
            failure: Box::new(ConnectFailure::Resolve(error)),
        })],
    }
}

fn connect(
    options: &ConnectOptions,
    mode: Mode,
    host: &Host,
    endpoint: &Endpoint,
) -> Result<Session, ConnectFailure> {
    let deadline = options
        .connect_timeout
        .and_then(|limit| Instant::now().checked_add(limit));
    let result = attempt(options, mode, host, endpoint, deadline);
    result.map_err(|failure| match (failure, options.connect_timeout) {
        (ConnectFailure::TimedOut(_), Some(limit)) => ConnectFailure::TimedOut(limit),
        (failure, _) => failure,
    })
}

/// Connects with as much TLS as the settings ask for and the server offers.
///
/// Over a Unix socket there is none, whatever the settings say. `allow` and
/// `prefer` take the other way if the first fails; then the first failure is
/// reported, as the second would only tell that the other way is closed. A
/// password that was refused is not sent a second time.
///
/// Source: `PQconnectPoll`, src/interfaces/libpq/fe-connect.c.
fn attempt(
    options: &ConnectOptions,
    mode: Mode,
    host: &Host,
    endpoint: &Endpoint,
    deadline: Option<Instant>,
) -> Result<Session, ConnectFailure> {
    let log_in_over = |stream| {
        start(
            options,
            mode,
            host,
            endpoint.clone(),
            Wire::new(stream, deadline),
        )
    };
    let (name, address) = match endpoint {
        Endpoint::Socket { path } => {
            let stream = Stream::unix(path).map_err(|error| cannot_open(error, deadline))?;
            return log_in_over(stream);
        }
        Endpoint::Tcp { name, address, .. } => (name, address),
    };
    let open = || -> Result<TcpStream, ConnectFailure> {
        match address {
            Some(address) => Stream::tcp(*address, deadline, &options.keepalive),
            None => Err(ErrorKind::AddrNotAvailable.into()),
        }
        .map_err(|error| cannot_open(error, deadline))
    };
    let encrypt = |socket| -> Result<Stream, ConnectFailure> {
        let stream = tls::shake_hands(socket, name, &options.tls, deadline)?;
        Ok(Stream::Tls(Box::new(stream)))
    };
    let plain = || log_in_over(Stream::Tcp(open()?));
    match options.tls.mode {
        SslMode::Disable => plain(),
        SslMode::Allow => plain().or_else(|failure| {
            if !is_worth_another_way(&failure) {
                return Err(failure);
            }
            let mut socket = open()?;
            match tls::is_offered(&mut socket, deadline) {
                Ok(true) => encrypt(socket).and_then(log_in_over).map_err(|_| failure),
                _ => Err(failure),
            }
        }),
        SslMode::Prefer => {
            let mut socket = open()?;
            let encrypted = match tls::is_offered(&mut socket, deadline) {
                Ok(false) => return log_in_over(Stream::Tcp(socket)),
                Ok(true) => encrypt(socket).and_then(log_in_over),
                Err(error) => Err(error.into()),
            };
            encrypted.or_else(|failure| {
                if is_worth_another_way(&failure) {
                    plain().map_err(|_| failure)
                } else {
                    Err(failure)
                }
            })
        }
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
            let mut socket = open()?;
            if options.tls.negotiation == SslNegotiation::Postgres
                && !tls::is_offered(&mut socket, deadline)?
            {
                return Err(TlsError::NotOffered {
                    mode: options.tls.mode,
                }
                .into());
            }
            log_in_over(encrypt(socket)?)
        }
    }
}

/// Whether a server may answer otherwise with, or without, TLS.
fn is_worth_another_way(failure: &ConnectFailure) -> bool {
    match failure {
        ConnectFailure::Server(refusal) => refusal.message.code != "28P01",
        ConnectFailure::Tls(_) | ConnectFailure::Closed => true,
        _ => false,
    }
}

fn cannot_open(error: std::io::Error, deadline: Option<Instant>) -> ConnectFailure {
    match error.kind() {
        ErrorKind::NotFound => ConnectFailure::NoSocket,
        ErrorKind::ConnectionRefused => ConnectFailure::Refused,
        ErrorKind::TimedOut if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
            ConnectFailure::TimedOut(Duration::ZERO)
        }
        _ => ConnectFailure::Unreachable(error),
    }
}

/// Sends the startup message, proves who we are, and waits until the server is ready.
///
/// Source: "Start-up", doc/src/sgml/protocol.sgml.
fn start(
    options: &ConnectOptions,
    mode: Mode,
    host: &Host,
    endpoint: Endpoint,
    mut wire: Wire,
) -> Result<Session, ConnectFailure> {
    let mut parameters = vec![("user", options.user.as_str())];
    match mode {
        Mode::Sql => parameters.push(("database", &options.database)),
        Mode::Replication => parameters.push(("replication", "true")),
    }
    parameters.push(("client_encoding", "UTF8"));
    if let Some(name) = options.program_name() {
        parameters.push(("application_name", name));
    }
    if let Some(text) = &options.server_options {
        parameters.push(("options", text));
    }
    wire.send(|buffer| frontend::startup_message(parameters, buffer))?;

    let (password, database) = match mode {
        Mode::Sql => (&host.password, options.database.as_str()),
        Mode::Replication => (&host.replication_password, "replication"),
    };
    let credentials = Credentials {
        user: &options.user,
        password: password.as_ref().map(|(password, _)| password),
        channel_binding: options.tls.channel_binding,
        is_tls: wire.stream().tls().is_some(),
        server_end_point: wire.stream().tls().and_then(tls::server_end_point),
        pgpass_line: pgpass_line(host, database, &options.user),
    };
    let mut notices = Vec::new();
    let client = wire.stream().client_address();
    let ready = authenticate(&mut wire, &credentials, &mut notices)
        .and_then(|()| wait_until_ready(&mut wire, &mut notices));
    match ready {
        Ok((parameters, process_id)) => {
            wire.login_done()?;
            Ok(Session {
                wire,
                endpoint,
                parameters,
                process_id,
                notices,
            })
        }
        Err(Refusal::Failure(failure)) => Err(failure),
        Err(Refusal::Server(message)) => Err(ConnectFailure::Server(Box::new(ServerRefusal {
            message: *message,
            mode,
            user: options.user.clone(),
            client,
            password: password.as_ref().map(|(_, origin)| origin.clone()),
        }))),
    }
}

type Ready = (BTreeMap<String, String>, i32);

fn wait_until_ready(wire: &mut Wire, notices: &mut Vec<ServerMessage>) -> Result<Ready, Refusal> {
    let mut parameters = BTreeMap::new();
    let mut process_id = 0;
    loop {
        match next(wire, notices)? {
            Message::ParameterStatus(body) => {
                let malformed = |error: std::io::Error| ConnectFailure::Protocol(error.to_string());
                parameters.insert(
                    body.name().map_err(malformed)?.to_owned(),
                    body.value().map_err(malformed)?.to_owned(),
                );
            }
            Message::BackendKeyData(body) => process_id = body.process_id(),
            Message::ReadyForQuery(_) => return Ok((parameters, process_id)),
            _ => return Err(unexpected("login")),
        }
    }
}

/// `host:port:database:user:PASSWORD`, with the colons and backslashes of names escaped.
fn pgpass_line(host: &Host, database: &str, user: &str) -> String {
    let escape = |text: &str| text.replace('\\', r"\\").replace(':', r"\:");
    format!(
        "{}:{}:{}:{}:PASSWORD",
        escape(&host.pgpass_name),
        host.port,
        escape(database),
        escape(user)
    )
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write as _};
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    /// Logs in to a server that says `words` whatever it is told.
    fn log_in_to(words: &[u8]) -> Result<Session, ConnectFailure> {
        let environment: BTreeMap<String, String> = BTreeMap::new();
        let options =
            ConnectOptions::resolve(Some("user=u password=p host=/test"), &environment).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let words = words.to_vec();
        let server = std::thread::spawn(move || {
            let _ = theirs.write_all(&words);
            let _ = theirs.shutdown(std::net::Shutdown::Write);
            let _ = io::copy(&mut theirs, &mut io::sink());
        });
        let result = start(
            &options,
            Mode::Sql,
            &options.hosts[0],
            Endpoint::socket("/test".as_ref(), 1),
            Wire::new(Stream::Unix(ours), None),
        );
        let result = result.map(|mut session| {
            session.wire.shut_down();
            session
        });
        server.join().unwrap();
        result
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn scram_that_the_server_skips_is_no_login() {
        let begin = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
        let ok = message(b'R', &[0, 0, 0, 0]);
        let ready = message(b'Z', b"I");
        let failure = log_in_to(&[begin, ok.clone(), ready.clone()].concat());
        assert!(matches!(failure, Err(ConnectFailure::Protocol(_))));
        // the plus variant over a connection without TLS comes from somebody in between
        let plus = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        assert!(matches!(log_in_to(&plus), Err(ConnectFailure::Protocol(_))));
        let session = log_in_to(&[ok, ready].concat());
        assert!(session.is_ok());
    }

    proptest! {
        #[test]
        fn no_server_makes_the_login_panic_or_hang(
            words in prop::collection::vec(
                (
                    prop::sample::select(b"RRRRSKEZNv".to_vec()),
                    prop::sample::select(vec![0_u8, 3, 5, 7, 10, 11, 12, 99]),
                    prop::collection::vec(any::<u8>(), 0..30),
                ),
                0..6,
            ),
        ) {
            let bytes: Vec<u8> = words
                .iter()
                .flat_map(|(tag, kind, rest)| {
                    message(*tag, &[&[0, 0, 0, *kind][..], rest].concat())
                })
                .collect();
            let _ = log_in_to(&bytes);
        }
    }
}
