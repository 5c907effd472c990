//! Which algorithms are offered to the server, and in which order.

use std::borrow::Cow;

use russh::keys::{Algorithm, EcdsaCurve};
use russh::{Preferred, cipher};

/// What can be checked here. RSA is left out: the crate that does it is
/// open to a timing attack (RUSTSEC-2023-0071).
const HOST_KEYS: [Algorithm; 4] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP256,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP384,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP521,
    },
];

/// Faster first: AES-GCM has instructions of its own on the processors that
/// databases run on.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

/// The offer to a server that is known by keys of the types `known`: these
/// come first, so that a server with several keys shows one that can be
/// compared.
pub(super) fn preferred(known: &[Algorithm]) -> Preferred {
    let mut keys: Vec<Algorithm> = HOST_KEYS.to_vec();
    keys.sort_by_key(|algorithm| !known.contains(algorithm));
    Preferred {
        key: Cow::Owned(keys),
        cipher: Cow::Borrowed(CIPHERS),
        // What travels is compressed already.
        compression: Cow::Borrowed(&[russh::compression::NONE]),
        ..Preferred::default()
    }
}

/// The name that `ssh-keyscan -t` has for a type of key.
pub(super) fn scan_type(algorithm: &Algorithm) -> String {
    match algorithm {
        Algorithm::Ed25519 => "ed25519".to_owned(),
        Algorithm::Ecdsa { .. } => "ecdsa".to_owned(),
        Algorithm::Rsa { .. } => "rsa".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_type_of_key_is_asked_for_first_and_rsa_never() {
        let ecdsa = Algorithm::Ecdsa {
            curve: EcdsaCurve::NistP384,
        };
        let offer = preferred(&[Algorithm::Rsa { hash: None }, ecdsa.clone()]);
        assert_eq!(offer.key[0], ecdsa);
        assert_eq!(offer.key[1], Algorithm::Ed25519);
        assert!(!offer.key.iter().cloned().any(Algorithm::is_rsa));
        assert_eq!(preferred(&[]).key[0], Algorithm::Ed25519);
    }
}
