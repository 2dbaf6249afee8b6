//! Checksums of S3: the algorithms that headers, trailers and documents name.
//!
//! Values travel as base64 of the big-endian bytes ("Checking object integrity", Amazon S3 user
//! guide). The invariant: a [`Checksum`] has as many bytes as its algorithm, so that comparing two
//! never compares a prefix. These catch damage, not forgery: signatures are elsewhere.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use ring::digest;

use crate::{Error, ErrorCode};

/// A checksum that S3 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// CRC-32 of ISO-HDLC, as in zip.
    Crc32,
    /// CRC-32 of Castagnoli.
    Crc32c,
    /// CRC-64 of NVMe, the default of the newer SDKs.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 5] = [
        Algorithm::Crc32,
        Algorithm::Crc32c,
        Algorithm::Crc64Nvme,
        Algorithm::Sha1,
        Algorithm::Sha256,
    ];

    /// The value of `x-amz-checksum-algorithm` and `x-amz-sdk-checksum-algorithm`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "CRC32",
            Algorithm::Crc32c => "CRC32C",
            Algorithm::Crc64Nvme => "CRC64NVME",
            Algorithm::Sha1 => "SHA1",
            Algorithm::Sha256 => "SHA256",
        }
    }

    /// The algorithm of a name, in any case.
    ///
    /// # Errors
    /// `InvalidRequest` for a name that S3 does not know.
    pub fn from_name(name: &str) -> Result<Algorithm, Error> {
        Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidRequest,
                    "unknown checksum algorithm: use CRC32, CRC32C, CRC64NVME, SHA1 or SHA256",
                )
            })
    }

    /// The header or trailer that carries a value, in lower case.
    pub fn header(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "x-amz-checksum-crc32",
            Algorithm::Crc32c => "x-amz-checksum-crc32c",
            Algorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Algorithm::Sha1 => "x-amz-checksum-sha1",
            Algorithm::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// The algorithm whose value a header or trailer of this name, in any case, carries.
    pub fn from_header(name: &str) -> Option<Algorithm> {
        Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.header().eq_ignore_ascii_case(name))
    }

    /// The element of XML documents that carries a value.
    pub fn element(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "ChecksumCRC32",
            Algorithm::Crc32c => "ChecksumCRC32C",
            Algorithm::Crc64Nvme => "ChecksumCRC64NVME",
            Algorithm::Sha1 => "ChecksumSHA1",
            Algorithm::Sha256 => "ChecksumSHA256",
        }
    }

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Algorithm::Crc32 | Algorithm::Crc32c => 4,
            Algorithm::Crc64Nvme => 8,
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 => 32,
        }
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Algorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Algorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Algorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Algorithm::Sha1 | Algorithm::Sha256 => None,
        }
    }
}

/// The value of a checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum {
    algorithm: Algorithm,
    /// Zero behind the bytes of the algorithm.
    value: [u8; 32],
}

impl Checksum {
    /// Reads base64.
    ///
    /// # Errors
    /// `InvalidDigest` if `text` is not base64 of as many bytes as the algorithm has.
    pub fn parse(algorithm: Algorithm, text: &str) -> Result<Checksum, Error> {
        decode::<32>(text, algorithm.bytes())
            .map(|value| Checksum { algorithm, value })
            .ok_or_else(|| {
                let bytes = algorithm.bytes();
                let header = algorithm.header();
                Error::new(
                    ErrorCode::InvalidDigest,
                    format_args!("the value of {header} is not base64 of {bytes} bytes"),
                )
            })
    }

    /// A SHA-256 that was computed elsewhere.
    pub fn from_sha256(value: [u8; 32]) -> Checksum {
        Checksum {
            algorithm: Algorithm::Sha256,
            value,
        }
    }

    /// The value of `algorithm` over `data`.
    pub fn of(algorithm: Algorithm, data: &[u8]) -> Checksum {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(data);
        hasher.finish()
    }

    /// What computed it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The bytes, big-endian.
    pub fn value(&self) -> &[u8] {
        &self.value[..self.algorithm.bytes()]
    }

    /// As headers and documents say it.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.value())
    }

    fn from_value(algorithm: Algorithm, bytes: &[u8]) -> Checksum {
        let mut value = [0; 32];
        value[..algorithm.bytes()].copy_from_slice(bytes);
        Checksum { algorithm, value }
    }

    fn from_crc(algorithm: Algorithm, crc: u64) -> Checksum {
        Checksum::from_value(algorithm, &crc.to_be_bytes()[8 - algorithm.bytes()..])
    }

    fn to_crc(self) -> u64 {
        self.value()
            .iter()
            .fold(0, |crc, &byte| crc << 8 | u64::from(byte))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.algorithm.name(), self.to_base64())
    }
}

/// Computes one checksum over bytes that come in pieces.
pub struct Hasher {
    algorithm: Algorithm,
    state: State,
}

#[allow(
    clippy::large_enum_variant,
    reason = "few exist, one for each checksum of a body under way"
)]
enum State {
    Crc(crc_fast::Digest),
    Sha(digest::Context),
}

impl Hasher {
    /// Over nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm.crc() {
            Some(crc) => State::Crc(crc_fast::Digest::new(crc)),
            None if algorithm == Algorithm::Sha1 => {
                State::Sha(digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY))
            }
            None => State::Sha(digest::Context::new(&digest::SHA256)),
        };
        Hasher { algorithm, state }
    }

    /// What it computes.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.state {
            State::Crc(digest) => digest.update(data),
            State::Sha(context) => context.update(data),
        }
    }

    /// The value over everything taken.
    pub fn finish(self) -> Checksum {
        match self.state {
            State::Crc(digest) => Checksum::from_crc(self.algorithm, digest.finalize()),
            State::Sha(context) => Checksum::from_value(self.algorithm, context.finish().as_ref()),
        }
    }
}

/// The checksum of an object from those of its parts and their lengths in bytes, in order: S3's
/// `FULL_OBJECT`. `None` for no parts, for parts of several algorithms and for SHA, which has none.
pub fn full_object(parts: &[(Checksum, u64)]) -> Option<Checksum> {
    let (first, rest) = parts.split_first()?;
    let algorithm = first.0.algorithm;
    let crc = algorithm.crc()?;
    let mut whole = first.0.to_crc();
    for (part, length) in rest {
        if part.algorithm != algorithm {
            return None;
        }
        whole = crc_fast::checksum_combine(crc, whole, part.to_crc(), *length);
    }
    Some(Checksum::from_crc(algorithm, whole))
}

/// The checksum of the checksums of parts with their number, as `…==-3`: S3's `COMPOSITE`. `None`
/// for no parts, for parts of several algorithms and for CRC64NVME, which has none.
pub fn composite(parts: &[Checksum]) -> Option<String> {
    let algorithm = parts.first()?.algorithm;
    if algorithm == Algorithm::Crc64Nvme || parts.iter().any(|part| part.algorithm != algorithm) {
        return None;
    }
    let mut hasher = Hasher::new(algorithm);
    for part in parts {
        hasher.update(part.value());
    }
    Some(format!("{}-{}", hasher.finish().to_base64(), parts.len()))
}

/// Reads `Content-MD5`.
///
/// # Errors
/// `InvalidDigest` if `text` is not base64 of 16 bytes.
pub fn parse_md5(text: &str) -> Result<[u8; 16], Error> {
    decode(text, 16).ok_or_else(|| {
        Error::new(
            ErrorCode::InvalidDigest,
            "the value of Content-MD5 is not base64 of 16 bytes",
        )
    })
}

/// `bytes` bytes of base64, zero behind them.
fn decode<const N: usize>(text: &str, bytes: usize) -> Option<[u8; N]> {
    // The decoder wants room for its estimate, which is up to two bytes more.
    let mut room = [0; 36];
    let length = STANDARD.decode_slice(text, &mut room).ok()?;
    let mut value = [0; N];
    value[..bytes].copy_from_slice(&room[..bytes]);
    (length == bytes).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the CRC catalogue, and of the standards of the others.
    #[test]
    fn every_algorithm_gives_its_known_answer() {
        for (algorithm, expected) in [
            (Algorithm::Crc32, "cbf43926"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (
                Algorithm::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
        ] {
            let checksum = Checksum::of(algorithm, b"123456789");
            let hex: String = checksum
                .value()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(hex, expected, "{algorithm:?}");
            assert_eq!(
                Checksum::parse(algorithm, &checksum.to_base64()),
                Ok(checksum)
            );
            assert_eq!(Algorithm::from_header(algorithm.header()), Some(algorithm));
            assert_eq!(Algorithm::from_name(algorithm.name()), Ok(algorithm));
        }
    }

    #[test]
    fn values_of_another_length_or_alphabet_are_refused() {
        let sha = Checksum::of(Algorithm::Sha256, b"").to_base64();
        let long = "A".repeat(1000);
        for text in [
            "",
            "AAAA",
            "AAAAAA",
            "AAAAAA=",
            "AAAA!A==",
            "AAAAAA==\n",
            &sha,
            &long,
        ] {
            let error = Checksum::parse(Algorithm::Crc32, text).expect_err(text);
            assert_eq!(error.code, ErrorCode::InvalidDigest);
        }
        assert_eq!(
            parse_md5(&sha).expect_err("32 bytes").code,
            ErrorCode::InvalidDigest
        );
    }

    #[test]
    fn checksums_of_parts_combine_to_that_of_the_object() {
        let data: Vec<u8> = (0..10_000u32).map(|at| ((at * 31) >> 3) as u8).collect();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let parts: Vec<_> = [&data[..4096], &data[4096..4097], &data[4097..]]
                .map(|part| (Checksum::of(algorithm, part), part.len() as u64))
                .into();
            assert_eq!(full_object(&parts), Some(Checksum::of(algorithm, &data)));
        }
        let sha = Checksum::of(Algorithm::Sha1, b"a");
        assert_eq!(full_object(&[(sha, 1)]), None);
        let whole = Checksum::of(Algorithm::Sha1, sha.value()).to_base64();
        assert_eq!(composite(&[sha]), Some(format!("{whole}-1")));
    }
}
