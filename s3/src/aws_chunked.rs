//! The `aws-chunked` coding: chunks with signatures, or none, and a trailer, inside the body.
//!
//! ```text
//! 10000;chunk-signature=<64 digits>\r\n<65536 bytes>\r\n … 0;chunk-signature=<64 digits>\r\n
//! x-amz-checksum-crc32c:<base64>\r\nx-amz-trailer-signature:<64 digits>\r\n\r\n
//! ```
//!
//! Data is given out as slices of what came in, while its chunk is still under way: a chunk of 16 MiB
//! is never held. Its signature is known only at its end, so what was given out is to be believed
//! only when [`Decoder::finish`] succeeds. The invariant: no byte of the framing is ever data, and
//! the data is exactly as long as the head announced.

use bytes::Bytes;
use ring::digest;

use crate::sigv4::ChunkSigner;
use crate::{Error, ErrorCode};

/// Bytes of the line in front of a chunk: a size and a signature take 98; the rest is for extensions
/// that nobody is known to send.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;

/// Bytes of the trailer block, which holds a checksum or a few and a signature.
pub const TRAILER_BYTES_MAX: usize = 2048;

/// Least bytes of data in a chunk, the last one aside: S3's own limit. Smaller chunks cost the receiver a
/// slice and a signature for a few bytes each.
pub const CHUNK_BYTES_MIN: u64 = 8192;

/// Sixteen digits are all of a `u64`.
const SIZE_DIGITS_MAX: usize = 16;

const SIGNATURE_EXTENSION: &str = "chunk-signature=";
const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";

/// Decodes one payload.
pub struct Decoder {
    signer: Option<ChunkSigner>,
    has_trailer: bool,
    /// Of the decoded data that is still to come.
    left: u64,
    /// Whether the last chunk with data was one that only the last may be.
    had_small_chunk: bool,
    state: State,
    /// The line or the trailer block under way, without its end.
    line: Vec<u8>,
    trailer_bytes: usize,
    /// Over the data of the chunk under way, where chunks are signed.
    chunk: digest::Context,
    signature: Vec<u8>,
    trailers: Vec<(String, String)>,
    has_trailer_signature: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    ChunkLine,
    Data {
        left: u64,
    },
    /// The CRLF behind data.
    DataCr,
    DataLf,
    /// Lines behind the last chunk, up to an empty one.
    Trailer,
    Complete,
}

impl Decoder {
    /// Decodes `decoded_length` bytes of data, whose chunks, and trailer if there is one, carry
    /// signatures where a signer is given.
    pub fn new(signer: Option<ChunkSigner>, has_trailer: bool, decoded_length: u64) -> Self {
        Decoder {
            signer,
            has_trailer,
            left: decoded_length,
            had_small_chunk: false,
            state: State::ChunkLine,
            line: Vec::new(),
            trailer_bytes: 0,
            chunk: sha256(),
            signature: Vec::new(),
            trailers: Vec::new(),
            has_trailer_signature: false,
        }
    }

    /// Takes the next bytes of the coding and appends the data among them, slices of `input`.
    ///
    /// # Errors
    /// `SignatureDoesNotMatch` for a chunk or trailer with another signature, `IncompleteBody` for
    /// an end before the announced length, `InvalidChunkSizeError` for a chunk behind one of less than
    /// [`CHUNK_BYTES_MIN`] bytes, `InvalidRequest` for framing that is broken, too long or
    /// goes on behind its end. What was given out before is void then.
    pub fn push(&mut self, mut input: Bytes, out: &mut Vec<Bytes>) -> Result<(), Error> {
        while !input.is_empty() {
            match self.state {
                State::Data { left } => {
                    let length = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let data = input.split_to(length);
                    if self.signer.is_some() {
                        self.chunk.update(&data);
                    }
                    out.push(data);
                    let left = left - length as u64;
                    self.state = if left > 0 {
                        State::Data { left }
                    } else {
                        self.check_chunk()?;
                        State::DataCr
                    };
                }
                State::DataCr if input[0] == b'\r' => {
                    input = input.slice(1..);
                    self.state = State::DataLf;
                }
                State::DataLf if input[0] == b'\n' => {
                    input = input.slice(1..);
                    self.state = State::ChunkLine;
                }
                State::DataCr | State::DataLf => {
                    return Err(broken("a chunk does not end where its size says"));
                }
                State::ChunkLine | State::Trailer => self.take_line(&mut input)?,
                // One of the SDKs ends its trailers with two empty lines.
                State::Complete if self.has_trailer && self.line.len() + input.len() <= 2 => {
                    self.line.extend_from_slice(&input);
                    if !b"\r\n".starts_with(&self.line) {
                        return Err(broken("it goes on behind its end"));
                    }
                    return Ok(());
                }
                State::Complete => return Err(broken("it goes on behind its end")),
            }
        }
        Ok(())
    }

    /// Ends the coding and gives its trailers: names in lower case, without the signature.
    ///
    /// # Errors
    /// `IncompleteBody` if it did not come whole.
    pub fn finish(self) -> Result<Vec<(String, String)>, Error> {
        if self.state != State::Complete {
            return Err(Error::new(
                ErrorCode::IncompleteBody,
                "the aws-chunked body ends before its last chunk: send it again",
            ));
        }
        Ok(self.trailers)
    }

    fn take_line(&mut self, input: &mut Bytes) -> Result<(), Error> {
        let is_trailer = self.state == State::Trailer;
        let end = input.iter().position(|&byte| byte == b'\n');
        let taken = input.split_to(end.map_or(input.len(), |end| end + 1));
        if is_trailer {
            self.trailer_bytes += taken.len();
            if self.trailer_bytes > TRAILER_BYTES_MAX {
                return Err(broken("its trailer is too long"));
            }
        } else if self.line.len() + taken.len() > CHUNK_LINE_BYTES_MAX {
            return Err(broken("the line of a chunk is too long"));
        }
        self.line.extend_from_slice(&taken);
        if end.is_none() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.line);
        let line = &line[..line.len() - 1];
        if is_trailer {
            self.end_trailer_line(line.strip_suffix(b"\r").unwrap_or(line))
        } else {
            let line = line.strip_suffix(b"\r");
            self.end_chunk_line(line.ok_or_else(|| broken("the line of a chunk has no CR"))?)
        }
    }

    fn end_chunk_line(&mut self, line: &[u8]) -> Result<(), Error> {
        let line = std::str::from_utf8(line).map_err(|_| broken("a chunk has no size"))?;
        let (size, extensions) = line.split_once(';').unwrap_or((line, ""));
        let is_number = (1..=SIZE_DIGITS_MAX).contains(&size.len())
            && size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = u64::from_str_radix(size, 16)
            .ok()
            .filter(|_| is_number)
            .ok_or_else(|| broken("a chunk has no size"))?;
        if self.signer.is_some() {
            let mut signatures = extensions
                .split(';')
                .filter_map(|extension| extension.trim().strip_prefix(SIGNATURE_EXTENSION));
            let (Some(signature), None) = (signatures.next(), signatures.next()) else {
                return Err(broken("a chunk has not one signature"));
            };
            self.signature = signature.into();
        }
        self.left = self.left.checked_sub(size).ok_or_else(|| {
            broken("it has more data than x-amz-decoded-content-length announces")
        })?;
        if size > 0 {
            if self.had_small_chunk {
                return Err(Error::new(
                    ErrorCode::InvalidChunkSizeError,
                    format_args!(
                        "Only the last chunk is allowed to have a size less than {CHUNK_BYTES_MIN} bytes: \
                         buffer the body before it is sent"
                    ),
                ));
            }
            self.had_small_chunk = size < CHUNK_BYTES_MIN;
            self.state = State::Data { left: size };
            return Ok(());
        }
        if self.left > 0 {
            return Err(Error::new(
                ErrorCode::IncompleteBody,
                format_args!(
                    "the body ends {} bytes before x-amz-decoded-content-length: send it whole",
                    self.left
                ),
            ));
        }
        self.state = State::Trailer;
        self.check_chunk()
    }

    /// Compares the signature of the chunk that just ended.
    fn check_chunk(&mut self) -> Result<(), Error> {
        let Some(signer) = &mut self.signer else {
            return Ok(());
        };
        let chunk = std::mem::replace(&mut self.chunk, sha256());
        let expected = signer.chunk(finish(chunk));
        if ChunkSigner::is_same(&expected, &self.signature) {
            Ok(())
        } else {
            Err(forged("a chunk"))
        }
    }

    fn end_trailer_line(&mut self, line: &[u8]) -> Result<(), Error> {
        if line.is_empty() {
            // One of the SDKs puts an empty line between its trailers and their signature.
            let waits = self.has_trailer
                && self.signer.is_some()
                && !self.trailers.is_empty()
                && !self.has_trailer_signature;
            if !waits {
                self.end_trailer()?;
            }
            return Ok(());
        }
        let text = std::str::from_utf8(line).ok().filter(|_| self.has_trailer);
        let (name, value) = text
            .and_then(|line| line.split_once(':'))
            .ok_or_else(|| broken("a trailer is none"))?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.bytes().all(is_name) || self.has_trailer_signature {
            return Err(broken("a trailer is none"));
        }
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        if name == TRAILER_SIGNATURE {
            return self.check_trailer(value);
        }
        if self.trailers.iter().any(|(known, _)| *known == name) {
            return Err(broken("a trailer stands twice"));
        }
        self.trailers.push((name, value.to_owned()));
        Ok(())
    }

    fn check_trailer(&mut self, signature: &str) -> Result<(), Error> {
        let Some(signer) = &mut self.signer else {
            return Err(broken("its trailer is signed, its chunks are not"));
        };
        let mut block = sha256();
        for (name, value) in &self.trailers {
            for piece in [name, ":", value, "\n"] {
                block.update(piece.as_bytes());
            }
        }
        let expected = signer.trailer(finish(block));
        self.has_trailer_signature = true;
        if ChunkSigner::is_same(&expected, signature.as_bytes()) {
            Ok(())
        } else {
            Err(forged("the trailer"))
        }
    }

    fn end_trailer(&mut self) -> Result<(), Error> {
        if self.has_trailer && self.signer.is_some() && !self.has_trailer_signature {
            return Err(forged("the trailer"));
        }
        self.state = State::Complete;
        Ok(())
    }
}

fn sha256() -> digest::Context {
    digest::Context::new(&digest::SHA256)
}

fn finish(context: digest::Context) -> [u8; 32] {
    context
        .finish()
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

fn broken(what: &str) -> Error {
    Error::new(
        ErrorCode::InvalidRequest,
        format_args!("the aws-chunked body is broken: {what}"),
    )
}

fn forged(what: &str) -> Error {
    Error::new(
        ErrorCode::SignatureDoesNotMatch,
        format_args!("the signature of {what} is missing or another than its content gives"),
    )
}

#[cfg(test)]
#[path = "aws_chunked/tests.rs"]
mod tests;
