//! What the bytes of a body mean: decoded where they are aws-chunked, and checked.
//!
//! A [`PayloadSpec`] is what a head announces; a [`Payload`] takes the body, free of HTTP's framing,
//! and gives data: slices of what came in. Which coding it is `x-amz-content-sha256` decides, as the
//! signature covers it, and never `Content-Encoding`, which some clients leave out.
//!
//! The invariant: [`Payload::finish`] succeeds only for the data that the client meant to send, to the
//! byte. Until then what was given out is hearsay: **whoever passes it on withholds its last piece**
//! until `finish` has succeeded, so that an origin never sees a whole object that was not checked.

use bytes::Bytes;
use md5::{Digest, Md5};

use crate::aws_chunked::Decoder;
use crate::checksum::{Algorithm, Checksum, Hasher, parse_md5};
use crate::head::{Framing, Head};
use crate::sigv4::PayloadMode;
use crate::{Error, ErrorCode};

/// What the head of a request announces of its body.
#[derive(Debug)]
pub struct PayloadSpec {
    mode: PayloadMode,
    length: Option<u64>,
    md5: Option<[u8; 16]>,
    /// Of headers.
    checksums: Vec<Checksum>,
    /// Of the trailer.
    announced: Vec<Algorithm>,
    /// Named without a value: computed, not compared.
    named: Option<Algorithm>,
}

impl PayloadSpec {
    /// What `head` announces of a body in `mode`.
    ///
    /// # Errors
    /// `InvalidDigest` for checksums that are none, `MissingContentLength` for aws-chunked without
    /// the length of its data, `InvalidRequest` for headers that contradict each other.
    pub fn of(head: &Head<'_>, mode: PayloadMode) -> Result<Self, Error> {
        let mut spec = PayloadSpec::of_document(head, mode)?;
        for algorithm in Algorithm::ALL {
            let mut values = head.values(algorithm.header());
            if let Some(value) = values.next() {
                // What is not UTF-8 is no base64 either.
                let value = str::from_utf8(value).unwrap_or_default();
                spec.checksums
                    .push(Checksum::parse(algorithm, value.trim())?);
            }
            if values.next().is_some() {
                return Err(contradiction(algorithm.header()));
            }
        }
        if let Some(name) = head.header("x-amz-sdk-checksum-algorithm") {
            let name = str::from_utf8(name).unwrap_or_default();
            spec.named = Some(Algorithm::from_name(name.trim())?);
        }
        Ok(spec)
    }

    /// The same for a document whose request carries the checksums of an object rather than its own:
    /// `CompleteMultipartUpload`, of which `x-amz-checksum-*` says what the object shall have.
    ///
    /// # Errors
    /// As [`PayloadSpec::of`].
    pub fn of_document(head: &Head<'_>, mode: PayloadMode) -> Result<Self, Error> {
        let known = &head.known;
        let (is_chunked, has_trailer) = match mode {
            PayloadMode::Unsigned | PayloadMode::Sha256(_) => (false, false),
            PayloadMode::Signed(_) => (true, false),
            PayloadMode::SignedTrailer(_) | PayloadMode::UnsignedTrailer => (true, true),
        };
        let framed = match head.framing {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        let length = if is_chunked {
            let text = known.x_amz_decoded_content_length.ok_or_else(|| {
                Error::new(
                    ErrorCode::MissingContentLength,
                    "x-amz-decoded-content-length is missing: say how long the decoded body is",
                )
            })?;
            let length =
                decimal(text).ok_or_else(|| contradiction("x-amz-decoded-content-length"))?;
            // The coding only ever adds bytes.
            if framed.is_some_and(|framed| framed < length) {
                return Err(contradiction("x-amz-decoded-content-length"));
            }
            Some(length)
        } else {
            framed
        };
        let mut announced = Vec::new();
        let names = known.x_amz_trailer.unwrap_or_default().split(',');
        for name in names.map(str::trim).filter(|name| !name.is_empty()) {
            let algorithm = Algorithm::from_header(name);
            let algorithm =
                algorithm.filter(|algorithm| has_trailer && !announced.contains(algorithm));
            announced.push(algorithm.ok_or_else(|| contradiction("x-amz-trailer"))?);
        }
        Ok(PayloadSpec {
            mode,
            length,
            md5: known.content_md5.map(parse_md5).transpose()?,
            checksums: Vec::new(),
            announced,
            named: None,
        })
    }

    /// Bytes of the decoded data, where the head says.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Every checksum that the client wants of the data, by header, trailer or name.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let given = self.checksums.iter().map(Checksum::algorithm);
        let mut all: Vec<_> = given
            .chain(self.announced.iter().copied())
            .chain(self.named)
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// A payload that came whole and as announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the data.
    pub length: u64,
    /// Those that the client asked for, as base64.
    pub checksums: Vec<(Algorithm, String)>,
    /// Where `Content-MD5` asked for it.
    pub md5: Option<[u8; 16]>,
    /// Where a header, a trailer or the signature asked for it.
    pub sha256: Option<[u8; 32]>,
}

/// A payload under way.
pub struct Payload {
    decoder: Option<Decoder>,
    length: Option<u64>,
    received: u64,
    sha256: Option<Checksum>,
    md5: Option<([u8; 16], Md5)>,
    checksums: Vec<Checksum>,
    announced: Vec<Algorithm>,
    wanted: Vec<Algorithm>,
    /// One an algorithm.
    hashers: Vec<Hasher>,
}

impl Payload {
    /// Nothing of it received yet.
    pub fn new(spec: PayloadSpec) -> Self {
        let wanted = spec.algorithms();
        let mut hashers: Vec<_> = wanted.iter().copied().map(Hasher::new).collect();
        let length = spec.length.unwrap_or(0);
        let (decoder, sha256) = match spec.mode {
            PayloadMode::Unsigned => (None, None),
            PayloadMode::Sha256(value) => (None, Some(Checksum::from_sha256(value))),
            PayloadMode::Signed(signer) => (Some(Decoder::new(Some(signer), false, length)), None),
            PayloadMode::SignedTrailer(signer) => {
                (Some(Decoder::new(Some(signer), true, length)), None)
            }
            PayloadMode::UnsignedTrailer => (Some(Decoder::new(None, true, length)), None),
        };
        if sha256.is_some() && !wanted.contains(&Algorithm::Sha256) {
            hashers.push(Hasher::new(Algorithm::Sha256));
        }
        Payload {
            decoder,
            length: spec.length,
            received: 0,
            sha256,
            md5: spec.md5.map(|expected| (expected, Md5::new())),
            checksums: spec.checksums,
            announced: spec.announced,
            wanted,
            hashers,
        }
    }

    /// Takes the next bytes of the body and appends the data among them, slices of `input`.
    ///
    /// # Errors
    /// `InvalidRequest` for more data than announced, and those of [`Decoder::push`]. The payload is
    /// void then.
    pub fn push(&mut self, input: Bytes, out: &mut Vec<Bytes>) -> Result<(), Error> {
        let from = out.len();
        match &mut self.decoder {
            Some(decoder) => decoder.push(input, out)?,
            None if input.is_empty() => {}
            None => out.push(input),
        }
        for piece in &out[from..] {
            self.received += piece.len() as u64;
            for hasher in &mut self.hashers {
                hasher.update(piece);
            }
            if let Some((_, md5)) = &mut self.md5 {
                md5.update(piece);
            }
        }
        if self.length.is_some_and(|length| self.received > length) {
            return Err(Error::new(
                ErrorCode::InvalidRequest,
                "the body is longer than its head announced",
            ));
        }
        Ok(())
    }

    /// Ends the payload: only now is what was given out true.
    ///
    /// # Errors
    /// `IncompleteBody` for less than announced, `XAmzContentSHA256Mismatch` and `BadDigest` for other
    /// data than the client hashed, `InvalidDigest` for a trailer that is no checksum,
    /// `InvalidRequest` for trailers other than those announced.
    pub fn finish(self) -> Result<Received, Error> {
        let trailers = self.decoder.map_or(Ok(Vec::new()), Decoder::finish)?;
        if let Some(length) = self.length.filter(|length| *length != self.received) {
            let received = self.received;
            return Err(Error::new(
                ErrorCode::IncompleteBody,
                format_args!("the body has {received} of {length} bytes: send it whole"),
            ));
        }
        let computed: Vec<_> = self.hashers.into_iter().map(Hasher::finish).collect();
        if let Some(expected) = self.sha256
            && !computed.contains(&expected)
        {
            return Err(Error::new(
                ErrorCode::XAmzContentSha256Mismatch,
                "the SHA-256 of the body is not x-amz-content-sha256: it was changed on its way",
            ));
        }
        let mut expected = self.checksums;
        let mut missing = self.announced;
        for (name, value) in &trailers {
            let algorithm = Algorithm::from_header(name);
            let at = missing
                .iter()
                .position(|announced| Some(*announced) == algorithm);
            let at = at.ok_or_else(|| contradiction("x-amz-trailer"))?;
            expected.push(Checksum::parse(missing.swap_remove(at), value)?);
        }
        if let Some(missing) = missing.first() {
            return Err(Error::new(
                ErrorCode::InvalidRequest,
                format_args!(
                    "the trailer lacks {}, which was announced",
                    missing.header()
                ),
            ));
        }
        if let Some(other) = expected
            .iter()
            .find(|expected| !computed.contains(expected))
        {
            return Err(bad_digest(other.algorithm().header()));
        }
        let md5 = self.md5.map(|(expected, md5)| (expected, md5.finalize()));
        if md5.is_some_and(|(expected, computed)| *computed != expected) {
            return Err(bad_digest("Content-MD5"));
        }
        let sha256 = computed
            .iter()
            .find(|sum| sum.algorithm() == Algorithm::Sha256);
        Ok(Received {
            length: self.received,
            md5: md5.map(|(expected, _)| expected),
            sha256: sha256.map(|sum| sum.value().try_into().expect("SHA-256 has 32 bytes")),
            checksums: computed
                .iter()
                .filter(|sum| self.wanted.contains(&sum.algorithm()))
                .map(|sum| (sum.algorithm(), sum.to_base64()))
                .collect(),
        })
    }
}

fn decimal(text: &str) -> Option<u64> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_decimal)
}

fn contradiction(header: &str) -> Error {
    Error::new(
        ErrorCode::InvalidRequest,
        format_args!("the body and the header {header} contradict each other, or it is malformed"),
    )
}

fn bad_digest(header: &str) -> Error {
    Error::new(
        ErrorCode::BadDigest,
        format_args!("the body does not have the checksum of {header}: send it again"),
    )
}

#[cfg(test)]
#[path = "payload/tests.rs"]
mod tests;
