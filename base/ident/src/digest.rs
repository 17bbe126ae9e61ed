//! Content digests: `algorithm:hex`, as in the OCI image specification.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::identifier::IdentError;

/// The digest algorithms that containerd accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, the usual one.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha384 => "sha384",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// The number of hex digits after the colon.
    #[must_use]
    pub const fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha384 => 96,
            Algorithm::Sha512 => 128,
        }
    }
}

/// A valid digest; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    text: Arc<str>,
    algorithm: Algorithm,
}

impl Digest {
    /// Parses and validates `algorithm:hex` (lower-case hex).
    ///
    /// # Errors
    /// [`IdentError::DigestFormat`], [`IdentError::DigestAlgorithm`] or [`IdentError::DigestLength`].
    pub fn parse(text: &str) -> Result<Self, IdentError> {
        let format = || IdentError::DigestFormat(text.to_owned());
        let (name, hex) = text.split_once(':').ok_or_else(format)?;
        if name.is_empty() || hex.is_empty() {
            return Err(format());
        }
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha384" => Algorithm::Sha384,
            "sha512" => Algorithm::Sha512,
            _ => return Err(IdentError::DigestAlgorithm(text.to_owned())),
        };
        if hex.len() != algorithm.hex_len() {
            return Err(IdentError::DigestLength(text.to_owned()));
        }
        if !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(format());
        }
        Ok(Digest { text: text.into(), algorithm })
    }

    /// The digest of `algorithm` with these raw bytes.
    ///
    /// # Errors
    /// [`IdentError::DigestLength`] if the number of bytes does not fit.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, IdentError> {
        let mut text = String::with_capacity(8 + bytes.len() * 2);
        text.push_str(algorithm.name());
        text.push(':');
        for byte in bytes {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        Self::parse(&text)
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hex digits after the colon.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.name().len() + 1..]
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Digest {
    type Err = IdentError;

    fn from_str(text: &str) -> Result<Self, IdentError> {
        Self::parse(text)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
