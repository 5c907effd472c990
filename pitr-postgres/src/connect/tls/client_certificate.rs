//! Our own certificate, for servers that ask for one.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::options::tls::TlsOptions;

use super::certificate::read_file;
use super::error::TlsError;

/// Loads certificate and key; `None` where there is no certificate, which is no error.
///
/// That the two belong together is checked here: rustls would do it, but
/// refuses certificates of version 1, with which the manual of PostgreSQL
/// makes do.
///
/// Source: `initialize_SSL`, src/interfaces/libpq/fe-secure-openssl.c.
pub(crate) fn load(
    options: &TlsOptions,
    provider: &CryptoProvider,
) -> Result<Option<SingleCertAndKey>, TlsError> {
    let Some(certificate) = options.certificate.as_deref().filter(|path| path.exists()) else {
        return Ok(None);
    };
    let chain = read_file("certificate file", certificate)?;
    let wrong = |what: &'static str, path: &Path, problem: &str| TlsError::File {
        what,
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    let Some(path) = options.key.as_deref() else {
        return Err(wrong(
            "certificate file",
            certificate,
            "there is no private key file",
        ));
    };
    let key = provider.key_provider.load_private_key(read_key(path)?)?;
    let parsed = chain
        .first()
        .and_then(|first| X509Certificate::from_der(first).ok());
    let Some((_, parsed)) = parsed else {
        return Err(wrong("certificate file", certificate, "it is malformed"));
    };
    if key
        .public_key()
        .is_some_and(|own| own.as_ref() != parsed.public_key().raw)
    {
        let problem = format!("it does not belong to \"{}\"", certificate.display());
        return Err(wrong("private key file", path, &problem));
    }
    Ok(Some(CertifiedKey::new(chain, key).into()))
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let wrong = |problem: String| TlsError::File {
        what: "private key file",
        path: path.to_owned(),
        problem,
    };
    let metadata = fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    if !metadata.is_file() {
        return Err(wrong("it is not a regular file".to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    let forbidden = if metadata.uid() == 0 && !is_ours {
        0o027
    } else {
        0o077
    };
    if mode & forbidden != 0 {
        return Err(TlsError::KeyNotPrivate {
            path: path.to_owned(),
            mode,
        });
    }
    let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    if text.windows(9).any(|window| window == b"ENCRYPTED") {
        return Err(wrong("encrypted keys are not supported".to_owned()));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| wrong(error.to_string()))
}
