//! Digests of content, for who cannot read it and still has to compare.

use std::fmt;

/// SHA-256 of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentDigest(pub [u8; 32]);

/// Takes in a content piece by piece and gives its digest.
pub struct ContentHasher(Box<dyn HashContent>);

/// What a store hashes with.
pub(crate) trait HashContent: Send {
    /// Takes in the next bytes.
    fn update(&mut self, bytes: &[u8]);
    /// The digest of all of them.
    fn finish(self: Box<Self>) -> ContentDigest;
}

impl ContentHasher {
    #[cfg_attr(
        not(feature = "encryption"),
        expect(dead_code, reason = "no other store keeps digests")
    )]
    pub(crate) fn new(hasher: impl HashContent + 'static) -> Self {
        Self(Box::new(hasher))
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all of them.
    #[must_use]
    pub fn finish(self) -> ContentDigest {
        self.0.finish()
    }
}

impl fmt::Debug for ContentHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentHasher")
    }
}
