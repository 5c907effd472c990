//! Settings of encryption.

use std::path::PathBuf;

/// How much TLS a connection shall have: libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only if the server refuses otherwise.
    Allow,
    /// If the server can; in the clear otherwise.
    Prefer,
    /// Always, with whom it may be.
    Require,
    /// Always, with a server whose certificate a known authority signed.
    VerifyCa,
    /// The same, and the certificate is made out to the host that was asked for.
    VerifyFull,
}

impl SslMode {
    pub(crate) const EXPECTED: &'static str =
        "disable, allow, prefer, require, verify-ca or verify-full";

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return None,
        })
    }

    /// The value as libpq spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// Whether SCRAM shall be bound to the TLS connection: libpq's `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// If both sides can.
    Prefer,
    /// Always: a server that asks for anything else is refused.
    Require,
}

impl ChannelBinding {
    pub(crate) const EXPECTED: &'static str = "disable, prefer or require";

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "disable" => Self::Disable,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            _ => return None,
        })
    }
}

/// How TLS begins: libpq's `sslnegotiation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslNegotiation {
    /// The server is asked first; every server understands that.
    Postgres,
    /// With the first byte (servers of 17 and later).
    Direct,
}

impl SslNegotiation {
    pub(crate) const EXPECTED: &'static str = "postgres or direct";

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "postgres" => Self::Postgres,
            "direct" => Self::Direct,
            _ => return None,
        })
    }
}

/// The TLS versions that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl TlsVersion {
    pub(crate) const EXPECTED: &'static str = "TLSv1.2 or TLSv1.3";

    pub(crate) fn parse_minimum(text: &str) -> Option<Self> {
        // older ones are permitted by the setting, and never spoken
        Some(match text.to_ascii_lowercase().as_str() {
            "tlsv1" | "tlsv1.1" | "tlsv1.2" => Self::Tls12,
            "tlsv1.3" => Self::Tls13,
            _ => return None,
        })
    }

    pub(crate) fn parse_maximum(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "tlsv1.2" => Self::Tls12,
            "tlsv1.3" => Self::Tls13,
            _ => return None,
        })
    }
}

/// Where the certificates of trusted authorities are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificate {
    /// A PEM file; looked for when TLS begins.
    File(PathBuf),
    /// The authorities that the operating system trusts (`sslrootcert=system`).
    System,
    /// Nowhere: there is no home folder to look in.
    None,
}

/// Settings of encryption, as far as they are known before a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// `sslmode`.
    pub mode: SslMode,
    /// `sslnegotiation`.
    pub negotiation: SslNegotiation,
    /// `channel_binding`.
    pub channel_binding: ChannelBinding,
    /// `sslrootcert`, by default `~/.postgresql/root.crt`.
    pub root_certificate: RootCertificate,
    /// `sslcert`, by default `~/.postgresql/postgresql.crt`; need not exist.
    pub certificate: Option<PathBuf>,
    /// `sslkey`, by default `~/.postgresql/postgresql.key`; must exist where the certificate does.
    pub key: Option<PathBuf>,
    /// `sslsni`: tell the server which host was asked for.
    pub server_name_indication: bool,
    /// `ssl_min_protocol_version`.
    pub minimum_version: TlsVersion,
    /// `ssl_max_protocol_version`.
    pub maximum_version: TlsVersion,
}
