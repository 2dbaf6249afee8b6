//! The canonical request and the string to sign ("Task 1" and "Task 2" of the API reference).
//!
//! The path and the query are decoded once and encoded as S3 does, so that clients which escape
//! differently on the wire and in the signature are understood, as by S3. The room for it is kept
//! between requests, so that none is allocated.

use ring::digest;

use super::claim::Claim;
use super::presigned::SIGNATURE;
use super::{ALGORITHM, SERVICE, TERMINATOR};
use crate::error::{Error, ErrorCode};
use crate::head::{HEADERS_MAX, Head};
use crate::percent::{Plus, normalise};
use crate::target::{QUERY_PARAMETERS_MAX, Query, Target};

/// Headers of S3 that are taken without a signature on them, where S3 itself would not: nothing is
/// done here because of them, except that checksums are shown. Proxies and some clients add them
/// after signing.
const HARMLESS_UNSIGNED: [&[u8]; 5] = [
    b"x-amz-cf-id",
    b"x-amz-checksum-mode",
    b"x-amz-optional-object-attributes",
    b"x-amz-request-payer",
    b"x-amz-user-agent",
];

/// Room kept from one request to the next. One that took more gives it back.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// Room to write canonical texts in.
#[derive(Default)]
pub(super) struct Canonical {
    text: Vec<u8>,
    parameters: Vec<u8>,
    to_sign: Vec<u8>,
    scope: String,
}

impl Canonical {
    /// What a signature is computed over.
    ///
    /// # Errors
    /// If a header that must be signed is not, or a signed one is not there.
    pub fn string_to_sign(
        &mut self,
        head: &Head<'_>,
        target: &Target<'_>,
        claim: &Claim<'_>,
        declared: &str,
    ) -> Result<&[u8], Error> {
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES_MAX);
        self.parameters.clear();
        self.parameters.shrink_to(KEPT_BYTES_MAX);
        self.write_request(head, target, claim, declared)?;
        let hash = digest::digest(&digest::SHA256, &self.text);

        self.write_scope(claim);
        let out = &mut self.to_sign;
        out.clear();
        for part in [ALGORITHM, "\n", claim.amz_date(), "\n", &self.scope, "\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(&hex(hash.as_ref()));
        Ok(out)
    }

    /// `YYYYMMDD/region/s3/aws4_request` of the request last written.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    fn write_scope(&mut self, claim: &Claim<'_>) {
        self.scope.clear();
        for part in [
            &claim.amz_date()[..8],
            "/",
            &claim.region,
            "/",
            SERVICE,
            "/",
            TERMINATOR,
        ] {
            self.scope.push_str(part);
        }
    }

    fn write_request(
        &mut self,
        head: &Head<'_>,
        target: &Target<'_>,
        claim: &Claim<'_>,
        declared: &str,
    ) -> Result<(), Error> {
        self.text.extend_from_slice(head.method.as_bytes());
        self.text.push(b'\n');
        normalise(head.path, Plus::Literal, true, &mut self.text).map_err(undecodable)?;
        self.text.push(b'\n');
        if !target.query.is_empty() {
            self.write_query(&target.query)?;
        }
        self.text.push(b'\n');
        write_headers(head, &claim.signed_headers, &mut self.text)?;
        self.text.push(b'\n');
        self.text.extend_from_slice(claim.signed_headers.as_bytes());
        self.text.push(b'\n');
        self.text.extend_from_slice(declared.as_bytes());
        Ok(())
    }

    /// Names and values encoded, sorted by name, then value; without the signature itself.
    fn write_query(&mut self, query: &Query<'_>) -> Result<(), Error> {
        let mut pairs = [Pair::default(); QUERY_PARAMETERS_MAX];
        let mut count = 0;
        for (name, value) in query.raw_pairs() {
            let start = self.parameters.len();
            normalise(name, Plus::Space, false, &mut self.parameters).map_err(undecodable)?;
            let middle = self.parameters.len();
            normalise(value, Plus::Space, false, &mut self.parameters).map_err(undecodable)?;
            let pair = Pair {
                start,
                middle,
                end: self.parameters.len(),
            };
            if pair.name(&self.parameters) == SIGNATURE.as_bytes() {
                continue;
            }
            pairs[count] = pair;
            count += 1;
        }
        let pairs = &mut pairs[..count];
        let parameters = &self.parameters;
        pairs.sort_unstable_by_key(|pair| (pair.name(parameters), pair.value(parameters)));
        for (index, pair) in pairs.iter().enumerate() {
            if index > 0 {
                self.text.push(b'&');
            }
            self.text.extend_from_slice(pair.name(parameters));
            self.text.push(b'=');
            self.text.extend_from_slice(pair.value(parameters));
        }
        Ok(())
    }
}

/// Where an encoded parameter lies.
#[derive(Clone, Copy, Default)]
struct Pair {
    start: usize,
    middle: usize,
    end: usize,
}

impl Pair {
    fn name<'a>(&self, parameters: &'a [u8]) -> &'a [u8] {
        &parameters[self.start..self.middle]
    }

    fn value<'a>(&self, parameters: &'a [u8]) -> &'a [u8] {
        &parameters[self.middle..self.end]
    }
}

fn write_headers(head: &Head<'_>, signed: &str, out: &mut Vec<u8>) -> Result<(), Error> {
    const _: () = assert!(HEADERS_MAX <= u128::BITS as usize, "a bit for each header");
    let mut covered = 0_u128;
    for name in signed.split(';') {
        out.extend_from_slice(name.as_bytes());
        let mut separator = b':';
        for (index, (other, value)) in head.lines().enumerate() {
            if other.eq_ignore_ascii_case(name.as_bytes()) {
                covered |= 1 << index;
                out.push(separator);
                write_value(value, out);
                separator = b',';
            }
        }
        if separator == b':' {
            return Err(Error::new(
                ErrorCode::SignatureDoesNotMatch,
                format_args!(
                    "the signed header `{}` is not in the request; does a proxy take it off?",
                    name.escape_debug()
                ),
            ));
        }
        out.push(b'\n');
    }
    for (index, (name, _)) in head.lines().enumerate() {
        if covered & (1 << index) == 0 && must_be_signed(name) {
            return Err(Error::new(
                ErrorCode::AccessDenied,
                format_args!(
                    "the header `{}` is in the request but not signed; sign every x-amz- header",
                    String::from_utf8_lossy(name).to_ascii_lowercase()
                ),
            ));
        }
    }
    Ok(())
}

fn must_be_signed(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-amz-";
    name.get(..PREFIX.len())
        .is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX))
        && !HARMLESS_UNSIGNED
            .iter()
            .any(|harmless| name.eq_ignore_ascii_case(harmless))
}

/// Without white space around it (the head took that off), runs of it within as one space.
fn write_value(value: &[u8], out: &mut Vec<u8>) {
    let blank = |byte: &u8| (*byte == b' ') | (*byte == b'\t');
    // Without an early end, so that the compiler compares many bytes at a time.
    let runs = value
        .iter()
        .zip(value.iter().skip(1))
        .fold(false, |any, (before, byte)| {
            any | (*before == b'\t') | (blank(before) & blank(byte))
        });
    if !runs {
        out.extend_from_slice(value);
        return;
    }
    for (index, word) in value
        .split(blank)
        .filter(|word| !word.is_empty())
        .enumerate()
    {
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
}

fn hex(bytes: &[u8]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ];
    }
    text
}

fn undecodable(broken: crate::percent::Broken) -> Error {
    Error::new(
        ErrorCode::InvalidUri,
        format_args!("the target of the request cannot be decoded: {broken}"),
    )
}
