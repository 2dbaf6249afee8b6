//! Signatures of the chunks of a payload ("Signature calculations for the authorization header:
//! transferring a payload in multiple chunks", Amazon S3 API reference).
//!
//! Each signature is made over the one before it, the first over that of the head, so chunks can be
//! neither left out nor swapped. The invariant: the chain advances only by signatures computed here.

use std::hint::black_box;

use ring::{digest, hmac};

/// The algorithm's name in front of what a chunk signs.
const CHUNK: &str = "AWS4-HMAC-SHA256-PAYLOAD";
/// The same for a trailer.
const TRAILER: &str = "AWS4-HMAC-SHA256-TRAILER";

/// A signature as requests carry it: lower-case hexadecimal.
pub type Signature = [u8; 64];

/// Signs the chunks of one payload, in order.
#[derive(Clone)]
pub struct ChunkSigner {
    key: hmac::Key,
    /// Time and scope, as lines, which are the same in front of every signature.
    time_and_scope: String,
    /// The hash of nothing, which every chunk signs as well.
    empty: Signature,
    previous: Signature,
}

impl ChunkSigner {
    /// The signer behind a head that was signed with `signing_key` (that of day, region and
    /// service) at `amz_date` in `scope` and has the signature `seed_signature`.
    ///
    /// # Panics
    /// If the seed signature has not 64 bytes: it was verified before.
    pub fn new(signing_key: hmac::Key, amz_date: &str, scope: &str, seed_signature: &str) -> Self {
        ChunkSigner {
            key: signing_key,
            time_and_scope: format!("{amz_date}\n{scope}\n"),
            empty: hex(digest::digest(&digest::SHA256, b"").as_ref()),
            previous: seed_signature
                .as_bytes()
                .try_into()
                .expect("a verified signature has 64 digits"),
        }
    }

    /// The signature of the next chunk, by the SHA-256 of its data.
    pub fn chunk(&mut self, sha256_of_data: [u8; 32]) -> Signature {
        let empty = self.empty;
        self.sign(CHUNK, &[&empty, b"\n", &hex(&sha256_of_data)])
    }

    /// The signature of the trailer, by the SHA-256 of its lines: `name:value` and LF each.
    pub fn trailer(&mut self, sha256_of_trailer_block: [u8; 32]) -> Signature {
        self.sign(TRAILER, &[&hex(&sha256_of_trailer_block)])
    }

    /// Whether a signature is the expected one, in a time that does not depend on where they differ.
    pub fn is_same(expected: &Signature, given: &[u8]) -> bool {
        if given.len() != expected.len() {
            return false;
        }
        let pairs = expected.iter().zip(given);
        // The compiler must not learn that the rest does not matter once a bit is set.
        black_box(pairs.fold(0, |differs, (a, b)| black_box(differs | (a ^ b)))) == 0
    }

    fn sign(&mut self, algorithm: &str, rest: &[&[u8]]) -> Signature {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(algorithm.as_bytes());
        context.update(b"\n");
        context.update(self.time_and_scope.as_bytes());
        context.update(&self.previous);
        context.update(b"\n");
        for piece in rest {
            context.update(piece);
        }
        self.previous = hex(context.sign().as_ref());
        self.previous
    }
}

impl std::fmt::Debug for ChunkSigner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the key nor a signature that the next chunk must have.
        formatter
            .debug_struct("ChunkSigner")
            .finish_non_exhaustive()
    }
}

/// # Panics
/// If `bytes` has not 32 bytes.
fn hex(bytes: &[u8]) -> Signature {
    assert_eq!(bytes.len(), 32);
    let digits = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = digits[usize::from(byte >> 4)];
        pair[1] = digits[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
impl ChunkSigner {
    /// The signer of the example of Amazon's documentation.
    pub(crate) fn of_the_example() -> Self {
        let sign = |key: &[u8], data: &str| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data.as_bytes())
        };
        let secret = b"AWS4wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let day = sign(secret, "20130524");
        let region = sign(day.as_ref(), "us-east-1");
        let service = sign(region.as_ref(), "s3");
        let key = sign(service.as_ref(), "aws4_request");
        ChunkSigner::new(
            hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()),
            "20130524T000000Z",
            "20130524/us-east-1/s3/aws4_request",
            "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chunks_of_the_documented_example_have_its_signatures() {
        let mut signer = ChunkSigner::of_the_example();
        for (length, expected) in [
            (
                65536,
                "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
            ),
            (
                1024,
                "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
            ),
            (
                0,
                "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
            ),
        ] {
            let sha256 = digest::digest(&digest::SHA256, &vec![b'a'; length]);
            let signature = signer.chunk(sha256.as_ref().try_into().expect("32 bytes"));
            assert!(
                ChunkSigner::is_same(&signature, expected.as_bytes()),
                "{length}"
            );
        }
    }

    #[test]
    fn a_signature_that_differs_in_one_bit_or_in_length_is_another() {
        let signature = hex(&[7; 32]);
        assert!(ChunkSigner::is_same(&signature, &signature));
        assert!(!ChunkSigner::is_same(&signature, &signature[..63]));
        for at in 0..64 {
            let mut other = signature;
            other[at] ^= 1;
            assert!(!ChunkSigner::is_same(&signature, &other));
        }
    }
}
