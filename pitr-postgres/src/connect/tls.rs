//! TLS: asking for it, shaking hands, and what it proves.

pub(crate) mod certificate;
mod client_certificate;
pub(crate) mod error;
mod verifier;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, StreamOwned, SupportedProtocolVersion};

use crate::options::tls::{RootCertificate, SslMode, SslNegotiation, TlsOptions, TlsVersion};

use super::stream::remaining;
use error::TlsError;
use verifier::ServerVerifier;

/// A TCP connection with TLS over it.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Shakes hands over a connection whose server agreed to TLS.
///
/// The configuration is built here and not before: certificates and
/// algorithms are loaded only where they are needed.
pub(crate) fn shake_hands(
    mut socket: TcpStream,
    host: &str,
    options: &TlsOptions,
    deadline: Option<Instant>,
) -> Result<TlsStream, TlsError> {
    let mut config = configuration(host, options)?;
    let name = match ServerName::try_from(host.to_owned()) {
        Ok(name) => name,
        Err(_) => {
            // no name that DNS knows; our own check of the certificate takes it as it is
            config.enable_sni = false;
            ServerName::try_from("invalid").map_err(|_| TlsError::Name {
                host: host.to_owned(),
            })?
        }
    };
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(TlsError::from)?;
    while connection.is_handshaking() || connection.wants_write() {
        if let Some(deadline) = deadline {
            let left = Some(remaining(deadline)?);
            socket.set_read_timeout(left)?;
            socket.set_write_timeout(left)?;
        }
        if connection.wants_write() {
            connection.write_tls(&mut socket)?;
            continue;
        }
        if connection.read_tls(&mut socket)? == 0 {
            return Err(TlsError::Closed);
        }
        if let Err(error) = connection.process_new_packets() {
            // tell the server why, as well as that goes
            let _ = connection.write_tls(&mut socket);
            return Err(error.into());
        }
    }
    socket.flush()?;
    Ok(StreamOwned::new(connection, socket))
}

/// Asks a server whether it speaks TLS. Exactly one byte is read: what came
/// behind it unencrypted would be somebody else's.
///
/// Source: "SSL Session Encryption", doc/src/sgml/protocol.sgml; CVE-2021-23222.
pub(crate) fn is_offered(
    socket: &mut TcpStream,
    deadline: Option<Instant>,
) -> Result<bool, TlsError> {
    if let Some(deadline) = deadline {
        let left = Some(remaining(deadline)?);
        socket.set_read_timeout(left)?;
        socket.set_write_timeout(left)?;
    }
    let mut request = bytes::BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut request);
    socket.write_all(&request)?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    match answer {
        [b'S'] => Ok(true),
        [b'N'] => Ok(false),
        [other] => Err(TlsError::Answer { byte: other }),
    }
}

/// Data that binds SCRAM to this connection, if the server's certificate has any.
pub(crate) fn server_end_point(stream: &TlsStream) -> Option<Vec<u8>> {
    certificate::end_point_hash(stream.conn.peer_certificates()?.first()?)
}

fn configuration(host: &str, options: &TlsOptions) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
    for (version, supported) in [(TlsVersion::Tls12, &TLS12), (TlsVersion::Tls13, &TLS13)] {
        if (options.minimum_version..=options.maximum_version).contains(&version) {
            versions.push(supported);
        }
    }
    let verifier = ServerVerifier::new(
        &provider,
        roots(options)?,
        (options.mode == SslMode::VerifyFull).then(|| host.to_owned()),
    )?;
    let identity = client_certificate::load(options, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity)),
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = options.server_name_indication;
    // PostgreSQL keeps no sessions
    config.resumption = Resumption::disabled();
    if options.negotiation == SslNegotiation::Direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

/// Certificates of the trusted authorities; `None`: any server will do.
///
/// As in libpq, a root file that is there is used whatever `sslmode` says,
/// and `verify-ca` and `verify-full` demand one.
///
/// Source: `initialize_SSL`, src/interfaces/libpq/fe-secure-openssl.c.
fn roots(options: &TlsOptions) -> Result<Option<Vec<CertificateDer<'static>>>, TlsError> {
    let demanded = options.mode >= SslMode::VerifyCa;
    match &options.root_certificate {
        RootCertificate::System => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
                return Err(TlsError::NoSystemRoots {
                    reason: reasons.join("; "),
                });
            }
            Ok(Some(found.certs))
        }
        RootCertificate::File(path) if path.exists() => {
            certificate::read_file("root certificate file", path).map(Some)
        }
        RootCertificate::File(path) if demanded => Err(TlsError::RootMissing {
            mode: options.mode,
            path: Some(path.clone()),
        }),
        RootCertificate::None if demanded => Err(TlsError::RootMissing {
            mode: options.mode,
            path: None,
        }),
        RootCertificate::File(_) | RootCertificate::None => Ok(None),
    }
}
