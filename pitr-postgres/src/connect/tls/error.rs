//! Why there is no encrypted connection.

use std::io;
use std::path::PathBuf;

use rustls::CertificateError;

use crate::options::tls::SslMode;

use super::certificate::NameMismatch;

/// Failure to encrypt a connection as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The server has no TLS.
    #[error("the server does not support TLS, which sslmode={} demands", mode.as_str())]
    NotOffered {
        /// What was asked for.
        mode: SslMode,
    },
    /// The server's answer to the question for TLS is neither yes nor no.
    #[error("unexpected answer {byte:#04x} to the request for TLS")]
    Answer {
        /// The byte that came.
        byte: u8,
    },
    /// The server hung up during the handshake.
    #[error("the server closed the connection during the TLS handshake")]
    Closed,
    /// The connection broke during the handshake.
    #[error("{0}")]
    Io(io::Error),
    /// The name cannot be used for TLS.
    #[error("\"{host}\" is not a host name")]
    Name {
        /// The name.
        host: String,
    },
    /// A certificate is demanded to be verified, and there is nothing to verify it with.
    #[error("{}, which sslmode={} demands", match path {
        Some(path) => format!("there is no root certificate file \"{}\"", path.display()),
        None => "there is no root certificate file".to_owned(),
    }, mode.as_str())]
    RootMissing {
        /// What was asked for.
        mode: SslMode,
        /// Where the file was looked for.
        path: Option<PathBuf>,
    },
    /// The operating system has no trusted authorities.
    #[error("the operating system has no trusted root certificates{}{reason}", if reason.is_empty() { "" } else { ": " })]
    NoSystemRoots {
        /// What went wrong in looking for them.
        reason: String,
    },
    /// A file of a certificate or a key cannot be used.
    #[error("cannot use {what} \"{}\": {problem}", path.display())]
    File {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Others may read the private key.
    #[error(
        "private key file \"{}\" has group or world access (mode {mode:04o}); permissions should be \
         u=rw (0600) or less if owned by the current user, or u=rw,g=r (0640) or less if owned by root",
        path.display()
    )]
    KeyNotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The server's certificate is made out to somebody else.
    #[error(transparent)]
    CertificateName(NameMismatch),
    /// No trusted authority signed the server's certificate.
    #[error("the server's certificate is not signed by a trusted authority")]
    CertificateUntrusted,
    /// Anything else that TLS objects to, on either side.
    #[error("TLS: {0}")]
    Protocol(rustls::Error),
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<NameMismatch>() {
                    Some(mismatch) => Self::CertificateName(mismatch.clone()),
                    None => Self::Protocol(rustls::Error::InvalidCertificate(
                        CertificateError::Other(other),
                    )),
                }
            }
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                Self::CertificateUntrusted
            }
            error => Self::Protocol(error),
        }
    }
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl TlsError {
    /// What can be done about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::NotOffered { .. } => {
                    "Switch TLS on in the server (ssl, ssl_cert_file, ssl_key_file), \
                     or ask for less with sslmode or PGSSLMODE."
                }
                Self::RootMissing { .. } | Self::CertificateUntrusted => {
                    "Put the certificate of the authority that signed the server's into \
                     ~/.postgresql/root.crt, or name its file with sslrootcert or PGSSLROOTCERT."
                }
                Self::NoSystemRoots { .. } => {
                    "Install the package ca-certificates, or name a file with sslrootcert."
                }
                Self::CertificateName(_) => {
                    "Connect by a name that the certificate has (hostaddr can give the address \
                     beside it), or ask for less with sslmode=verify-ca."
                }
                Self::Closed | Self::Answer { .. } => {
                    "Is it a PostgreSQL server that listens there? Its log tells more."
                }
                _ => return None,
            }
            .to_owned(),
        )
    }
}
