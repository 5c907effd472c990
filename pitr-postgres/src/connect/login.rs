//! Trying one server after the other, and logging in.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::ToSocketAddrs as _;
use std::time::Instant;

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use crate::connection::Mode;
use crate::options::tls::SslMode;
use crate::options::{ConnectOptions, Host, HostTarget, SessionTarget};
use crate::server_message::ServerMessage;
use crate::wire::Wire;

use super::authentication::{Credentials, Refusal, authenticate, next, unexpected};
use super::endpoint::Endpoint;
use super::error::{ConnectError, ConnectFailure, FailedAttempt, ServerRefusal};
use super::stream::Stream;

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
                let (endpoint, found) = match endpoint {
                    Ok(endpoint) => (endpoint.clone(), endpoint),
                    Err(attempt) => {
                        attempts.push(attempt);
                        continue;
                    }
                };
                let result =
                    connect(options, mode, host, found).and_then(|session| finish(session, target));
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
    endpoint: Endpoint,
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

fn attempt(
    options: &ConnectOptions,
    mode: Mode,
    host: &Host,
    endpoint: Endpoint,
    deadline: Option<Instant>,
) -> Result<Session, ConnectFailure> {
    // never in the clear where that was ruled out
    if options.tls.mode >= SslMode::Require && matches!(endpoint, Endpoint::Tcp { .. }) {
        return Err(ConnectFailure::Protocol("TLS is not spoken yet".to_owned()));
    }
    let stream = open(&endpoint, options, deadline)?;
    let wire = Wire::new(stream, deadline);
    start(options, mode, host, endpoint, wire)
}

fn open(
    endpoint: &Endpoint,
    options: &ConnectOptions,
    deadline: Option<Instant>,
) -> Result<Stream, ConnectFailure> {
    let result = match endpoint {
        Endpoint::Socket { path } => Stream::unix(path),
        Endpoint::Tcp { address, .. } => match address {
            Some(address) => Stream::tcp(*address, deadline, &options.keepalive),
            None => Err(ErrorKind::AddrNotAvailable.into()),
        },
    };
    result.map_err(|error| match error.kind() {
        ErrorKind::NotFound => ConnectFailure::NoSocket,
        ErrorKind::ConnectionRefused => ConnectFailure::Refused,
        ErrorKind::TimedOut if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
            ConnectFailure::TimedOut(Default::default())
        }
        _ => ConnectFailure::Unreachable(error),
    })
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
        is_tls: false,
        server_end_point: None,
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
