//! Running digests of the three algorithms.

use base_ident::{Algorithm, Digest};
use sha2::Digest as _;

/// A digest that is being computed. Cloning it keeps the state, so a digest of the bytes so far
/// can be taken at any time.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// An empty digest of `algorithm`.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Hasher(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha384 => State::Sha384(sha2::Sha384::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// The digest of `data`.
    #[must_use]
    pub fn hash(algorithm: Algorithm, data: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(data);
        hasher.digest()
    }

    /// Its algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha384(_) => Algorithm::Sha384,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds bytes. About 0.6 ms for a MiB on a processor with SHA instructions.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(data),
            State::Sha384(state) => state.update(data),
            State::Sha512(state) => state.update(data),
        }
    }

    /// The digest of the bytes so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let algorithm = self.algorithm();
        let digest = match &self.0 {
            State::Sha256(state) => Digest::from_bytes(algorithm, &state.clone().finalize()),
            State::Sha384(state) => Digest::from_bytes(algorithm, &state.clone().finalize()),
            State::Sha512(state) => Digest::from_bytes(algorithm, &state.clone().finalize()),
        };
        digest.expect("a hash has the length of its algorithm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests() {
        assert_eq!(
            Hasher::hash(Algorithm::Sha256, b"abc").as_str(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        for algorithm in [Algorithm::Sha384, Algorithm::Sha512] {
            let digest = Hasher::hash(algorithm, b"");
            assert_eq!(digest.algorithm(), algorithm);
        }
    }
}
