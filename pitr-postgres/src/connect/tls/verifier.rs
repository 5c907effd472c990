//! Whether a server is who it should be.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use super::certificate::check_name;
use super::error::TlsError;

/// Verifies as far as the settings ask for.
///
/// Chains are checked by webpki. It refuses two kinds of certificate that
/// PostgreSQL's own manual makes and OpenSSL takes, and which are therefore
/// checked here: of version 1 (`openssl x509 -req` without extensions), and
/// self-signed ones that may sign others, given as their own root.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    trust: Option<Trust>,
    /// The name to look for in the certificate.
    name: Option<String>,
}

#[derive(Debug)]
struct Trust {
    webpki: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
}

impl ServerVerifier {
    pub(crate) fn new(
        provider: &Arc<CryptoProvider>,
        roots: Option<Vec<CertificateDer<'static>>>,
        name: Option<String>,
    ) -> Result<Self, TlsError> {
        let trust = roots.map(|roots| {
            let mut store = RootCertStore::empty();
            // an odd one among the system's is no reason to trust none of them
            store.add_parsable_certificates(roots.iter().cloned());
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
                .build()
                .map(|webpki| Trust { webpki, roots })
                .map_err(|error| TlsError::Protocol(Error::General(error.to_string())))
        });
        Ok(Self {
            algorithms: provider.signature_verification_algorithms,
            trust: trust.transpose()?,
            name,
        })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = parse(end_entity)?;
        if let Some(trust) = &self.trust {
            let is_root = trust.roots.iter().any(|root| root == end_entity);
            if is_root {
                check_validity(&parsed, now)?;
            } else if parsed.version() == X509Version::V1 {
                trust.verify_version_1(&parsed, now)?;
            } else {
                let verified = trust.webpki.verify_server_cert(
                    end_entity,
                    intermediates,
                    server_name,
                    ocsp_response,
                    now,
                );
                match verified {
                    // the name is checked last, and by libpq's rules below
                    Ok(_)
                    | Err(Error::InvalidCertificate(
                        CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. },
                    )) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if let Some(name) = &self.name {
            check_name(&parsed, name)
                .map_err(|mismatch| CertificateError::Other(OtherError(Arc::new(mismatch))))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let parsed = parse(certificate)?;
        if parsed.version() != X509Version::V1 {
            return verify_tls12_signature(message, certificate, signed, &self.algorithms);
        }
        let key = &parsed.public_key().subject_public_key.data;
        let is_valid = self
            .algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signed.scheme)
            .flat_map(|(_, algorithms)| algorithms.iter())
            .any(|algorithm| {
                algorithm
                    .verify_signature(key, message, signed.signature())
                    .is_ok()
            });
        if is_valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let parsed = parse(certificate)?;
        if parsed.version() != X509Version::V1 {
            return verify_tls13_signature(message, certificate, signed, &self.algorithms);
        }
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Trust {
    /// A certificate of version 1 has no extensions, so it can only be the
    /// last of a chain; here a root must have signed it itself.
    fn verify_version_1(&self, leaf: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
        let roots = self.roots.iter().filter_map(|root| parse(root).ok());
        let is_signed = roots
            .filter(|root| root.subject().as_raw() == leaf.issuer().as_raw())
            .filter(|root| root.version() == X509Version::V1 || root.is_ca())
            .filter(|root| check_validity(root, now).is_ok())
            .any(|root| leaf.verify_signature(Some(root.public_key())).is_ok());
        if !is_signed {
            return Err(CertificateError::UnknownIssuer.into());
        }
        check_validity(leaf, now)
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(CertificateError::BadEncoding.into()),
    }
}

fn check_validity(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    match ASN1Time::from_timestamp(seconds) {
        Ok(now) if now > validity.not_after => Err(CertificateError::Expired.into()),
        Ok(now) if now < validity.not_before => Err(CertificateError::NotValidYet.into()),
        Ok(_) => Ok(()),
        Err(_) => Err(CertificateError::BadEncoding.into()),
    }
}
