//! What stands in a server's certificate.

use std::net::IpAddr;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_HASH_SHA1, OID_NIST_HASH_SHA256, OID_NIST_HASH_SHA384, OID_NIST_HASH_SHA512,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::signature_algorithm::SignatureAlgorithm;

use super::error::TlsError;

/// The server's certificate is made out to other names than the host that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server's certificate is for {}, not for host \"{host}\"",
    if presented.is_empty() { "no host".to_owned() } else { format!("\"{}\"", presented.join("\", \"")) }
)]
pub struct NameMismatch {
    /// The host that was asked for.
    pub host: String,
    /// The names in the certificate.
    pub presented: Vec<String>,
}

/// Reads every certificate of a PEM file; there must be one.
pub(crate) fn read_file(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |problem: String| TlsError::File {
        what,
        path: path.to_owned(),
        problem,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    Ok(certificates)
}

/// Checks that a certificate is made out to `host`, by libpq's rules.
///
/// DNS names and addresses among the alternative names count; the common name
/// counts only where there is no alternative name of the host's kind. A
/// wildcard stands for exactly one label, at the left.
///
/// Source: `pgtls_verify_peer_name_matches_certificate_guts`,
/// src/interfaces/libpq/fe-secure-openssl.c; fe-secure-common.c.
pub(crate) fn check_name(
    certificate: &X509Certificate<'_>,
    host: &str,
) -> Result<(), NameMismatch> {
    let address: Option<IpAddr> = host.parse().ok();
    let mut presented = Vec::new();
    let mut has_same_kind = false;
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    for name in names {
        match name {
            GeneralName::DNSName(name) => {
                if matches_name(name, host) {
                    return Ok(());
                }
                has_same_kind |= address.is_none();
                presented.push((*name).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                let found = match **bytes {
                    [a, b, c, d] => Some(IpAddr::from([a, b, c, d])),
                    _ => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
                };
                if found.is_some() && found == address {
                    return Ok(());
                }
                has_same_kind |= address.is_some();
                presented.extend(found.map(|found| found.to_string()));
            }
            _ => {}
        }
    }
    if !has_same_kind {
        let common = certificate.subject().iter_common_name().next();
        if let Some(name) = common.and_then(|name| name.as_str().ok()) {
            if matches_name(name, host) {
                return Ok(());
            }
            presented.push(name.to_owned());
        }
    }
    Err(NameMismatch {
        host: host.to_owned(),
        presented,
    })
}

fn matches_name(pattern: &str, host: &str) -> bool {
    if pattern.contains('\0') {
        return false;
    }
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    // "*.a" at least; the star takes everything before the first dot of the host
    match (pattern.strip_prefix('*'), host.find('.')) {
        (Some(suffix), Some(dot)) if suffix.starts_with('.') && suffix.len() > 1 => {
            dot > 0 && host[dot..].eq_ignore_ascii_case(suffix)
        }
        _ => false,
    }
}

/// Hash of a certificate for the channel binding `tls-server-end-point`.
///
/// By the hash of the certificate's signature, SHA-256 instead of MD5 and
/// SHA-1; `None` where the signature has no hash of its own (Ed25519).
///
/// Source: RFC 5929, section 4.1; `pgtls_get_peer_certificate_hash`,
/// src/interfaces/libpq/fe-secure-openssl.c.
pub(crate) fn end_point_hash(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let algorithm = &parsed.signature_algorithm;
    let hash: fn(&[u8]) -> Vec<u8> = match algorithm.algorithm.to_id_string().as_str() {
        // MD5 and SHA-1, with RSA and ECDSA, then SHA-256
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.10045.4.1"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.3.2" => |bytes| Sha256::digest(bytes).to_vec(),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => |bytes| Sha224::digest(bytes).to_vec(),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => |bytes| Sha384::digest(bytes).to_vec(),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => |bytes| Sha512::digest(bytes).to_vec(),
        // RSASSA-PSS names its hash in its parameters
        "1.2.840.113549.1.1.10" => {
            let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) =
                SignatureAlgorithm::try_from(algorithm)
            else {
                return None;
            };
            let hash = parameters.hash_algorithm_oid();
            if *hash == OID_HASH_SHA1 || *hash == OID_NIST_HASH_SHA256 {
                |bytes| Sha256::digest(bytes).to_vec()
            } else if *hash == OID_NIST_HASH_SHA384 {
                |bytes| Sha384::digest(bytes).to_vec()
            } else if *hash == OID_NIST_HASH_SHA512 {
                |bytes| Sha512::digest(bytes).to_vec()
            } else {
                return None;
            }
        }
        _ => return None,
    };
    Some(hash(certificate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_libpq_matches_them() {
        for (pattern, host, is_match) in [
            ("db.example", "DB.Example", true),
            ("db.example", "db.example.org", false),
            ("*.example", "db.example", true),
            ("*.example", "a.db.example", false),
            ("*.example", ".example", false),
            ("*.", "db.", false),
            ("*", "db", false),
            ("d*.example", "db.example", false),
            ("*.EXAMPLE", "db.example", true),
            ("db\0.example", "db", false),
        ] {
            assert_eq!(matches_name(pattern, host), is_match, "{pattern} {host}");
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_hash() {
        for bytes in [&b""[..], b"\x30\x82\xff\xff", b"garbage"] {
            assert_eq!(end_point_hash(&CertificateDer::from(bytes)), None);
        }
    }
}
