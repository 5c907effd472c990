//! Proving who we are, in the ways that a server may ask for.

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use crate::options::password::Password;
use crate::options::tls::ChannelBinding;
use crate::server_message::ServerMessage;
use crate::wire::{Incoming, Wire};

use super::error::ConnectFailure;

/// What a server may be told.
pub(crate) struct Credentials<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: Option<&'a Password>,
    pub(crate) channel_binding: ChannelBinding,
    /// Whether the connection is encrypted.
    pub(crate) is_tls: bool,
    /// `tls-server-end-point` data of the connection, where it has any.
    pub(crate) server_end_point: Option<Vec<u8>>,
    /// For [`ConnectFailure::PasswordMissing`].
    pub(crate) pgpass_line: String,
}

/// A refusal in the server's words, or any other failure.
pub(crate) enum Refusal {
    Server(Box<ServerMessage>),
    Failure(ConnectFailure),
}

impl<E: Into<ConnectFailure>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Failure(error.into())
    }
}

/// Answers the server's questions until it is content. The startup message has been sent.
///
/// Source: `PerformAuthentication` and "Start-up", doc/src/sgml/protocol.sgml;
/// `pg_fe_sendauth`, src/interfaces/libpq/fe-auth.c.
pub(crate) fn authenticate(
    wire: &mut Wire,
    credentials: &Credentials<'_>,
    notices: &mut Vec<ServerMessage>,
) -> Result<(), Refusal> {
    let requires_binding = credentials.channel_binding == ChannelBinding::Require;
    let mut is_bound = false;
    loop {
        match next(wire, notices)? {
            Message::AuthenticationOk => {
                if requires_binding && !is_bound {
                    return Err(ConnectFailure::ChannelBinding(
                        "the server asked for no authentication that has it",
                    )
                    .into());
                }
                return Ok(());
            }
            Message::AuthenticationCleartextPassword => {
                refuse_without_binding(requires_binding)?;
                let password = password(credentials)?;
                wire.send(|buffer| frontend::password_message(password.as_bytes(), buffer))?;
            }
            Message::AuthenticationMd5Password(body) => {
                refuse_without_binding(requires_binding)?;
                let password = password(credentials)?;
                let hash = md5_hash(
                    credentials.user.as_bytes(),
                    password.as_bytes(),
                    body.salt(),
                );
                wire.send(|buffer| frontend::password_message(hash.as_bytes(), buffer))?;
            }
            Message::AuthenticationSasl(body) => {
                is_bound = scram(wire, credentials, &body, notices)?;
            }
            Message::AuthenticationKerberosV5 => return Err(unsupported("Kerberos 5")),
            Message::AuthenticationGss | Message::AuthenticationGssContinue(_) => {
                return Err(unsupported("GSSAPI"));
            }
            Message::AuthenticationSspi => return Err(unsupported("SSPI")),
            Message::AuthenticationScmCredential => return Err(unsupported("SCM credentials")),
            _ => return Err(unexpected("authentication")),
        }
    }
}

/// The next message that is no notice; an error of the server is an error.
pub(crate) fn next(wire: &mut Wire, notices: &mut Vec<ServerMessage>) -> Result<Message, Refusal> {
    loop {
        let malformed = |error: std::io::Error| ConnectFailure::Protocol(error.to_string());
        let Incoming::Message(message) = wire.receive()? else {
            return Err(unexpected("login"));
        };
        match message {
            Message::ErrorResponse(body) => {
                let message = ServerMessage::read(body.fields()).map_err(malformed)?;
                return Err(Refusal::Server(Box::new(message)));
            }
            Message::NoticeResponse(body) => {
                notices.push(ServerMessage::read(body.fields()).map_err(malformed)?);
            }
            message => return Ok(message),
        }
    }
}

fn password<'a>(credentials: &Credentials<'a>) -> Result<&'a Password, ConnectFailure> {
    credentials
        .password
        .ok_or_else(|| ConnectFailure::PasswordMissing {
            user: credentials.user.to_owned(),
            pgpass_line: credentials.pgpass_line.clone(),
        })
}

fn refuse_without_binding(requires_binding: bool) -> Result<(), ConnectFailure> {
    if requires_binding {
        return Err(ConnectFailure::ChannelBinding(
            "the server asks for a password in a way that does not have it",
        ));
    }
    Ok(())
}

fn unsupported(method: &str) -> Refusal {
    Refusal::Failure(ConnectFailure::AuthenticationUnsupported(method.to_owned()))
}

pub(crate) fn unexpected(stage: &str) -> Refusal {
    Refusal::Failure(ConnectFailure::Protocol(format!(
        "a message that does not belong to the {stage}"
    )))
}

/// Goes through SCRAM-SHA-256, bound to the TLS connection where both sides can.
///
/// Gives whether it was bound. The server has then proven that it knows the
/// password too.
///
/// Source: `pg_SASL_init`, src/interfaces/libpq/fe-auth.c.
fn scram(
    wire: &mut Wire,
    credentials: &Credentials<'_>,
    body: &AuthenticationSaslBody,
    notices: &mut Vec<ServerMessage>,
) -> Result<bool, Refusal> {
    let malformed = |error: std::io::Error| ConnectFailure::Protocol(error.to_string());
    let mut offered = Vec::new();
    let mut mechanisms = body.mechanisms();
    while let Some(name) = mechanisms.next().map_err(malformed)? {
        offered.push(name.to_owned());
    }
    let offers = |name: &str| offered.iter().any(|mechanism| mechanism == name);
    if offers(SCRAM_SHA_256_PLUS) && !credentials.is_tls {
        // only somebody in between would do that
        return Err(ConnectFailure::Protocol(
            "SCRAM-SHA-256-PLUS was offered over a connection without TLS".to_owned(),
        )
        .into());
    }
    let wants = credentials.channel_binding != ChannelBinding::Disable;
    let end_point = credentials.server_end_point.clone().filter(|_| wants);
    let (mechanism, binding, is_bound) = match end_point {
        Some(data) if offers(SCRAM_SHA_256_PLUS) => (
            SCRAM_SHA_256_PLUS,
            sasl::ChannelBinding::tls_server_end_point(data),
            true,
        ),
        _ if !offers(SCRAM_SHA_256) => {
            return Err(unsupported(&format!("SASL ({})", offered.join(", "))));
        }
        // told to the server, who would notice if somebody in between took its offer away
        Some(_) => (SCRAM_SHA_256, sasl::ChannelBinding::unrequested(), false),
        None => (SCRAM_SHA_256, sasl::ChannelBinding::unsupported(), false),
    };
    if credentials.channel_binding == ChannelBinding::Require && !is_bound {
        return Err(ConnectFailure::ChannelBinding(if credentials.is_tls {
            "the server or its certificate does not support it"
        } else {
            "the connection is not encrypted"
        })
        .into());
    }

    let failed = |error: std::io::Error| ConnectFailure::Scram(error.to_string());
    let mut exchange = ScramSha256::new(password(credentials)?.as_bytes(), binding);
    wire.send(|buffer| frontend::sasl_initial_response(mechanism, exchange.message(), buffer))?;
    match next(wire, notices)? {
        Message::AuthenticationSaslContinue(body) => {
            exchange.update(body.data()).map_err(failed)?;
        }
        _ => return Err(unexpected("SCRAM exchange")),
    }
    wire.send(|buffer| frontend::sasl_response(exchange.message(), buffer))?;
    match next(wire, notices)? {
        Message::AuthenticationSaslFinal(body) => exchange.finish(body.data()).map_err(failed)?,
        _ => return Err(unexpected("SCRAM exchange")),
    }
    Ok(is_bound)
}
