//! The framing of a request body in HTTP/1.1 (RFC 9112, sections 6 and 7).
//!
//! Data is given as ranges of the input; nothing is copied or kept. The invariant: exactly the bytes
//! of the body are taken from the connection, never one of the request behind it. Where a lenient
//! reader and a strict one would disagree about the end of a body, the body is refused: that
//! disagreement is how requests are smuggled. After an error the connection is of no more use.

use crate::head::Framing;
use crate::{Error, ErrorCode};

/// Bytes of chunk extensions and of lines around chunks in a whole body. Nobody's client sends
/// extensions in HTTP; without a limit over the body, each chunk of a byte could bring its own.
pub const EXTENSION_BYTES_MAX: u32 = 4096;

/// Bytes of a trailer section. It is thrown away: nothing in S3 is said there, since the trailers of
/// aws-chunked are in the data.
pub const TRAILER_BYTES_MAX: u32 = 8192;

/// Takes one body from the bytes of a connection.
#[derive(Clone, Debug)]
pub struct BodyReader {
    state: State,
    extension_bytes_left: u32,
    trailer_bytes_left: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Of a body with a length.
    Whole {
        left: u64,
    },
    /// In the digits of a chunk's size.
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
    },
    /// The LF behind the line of a size.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the first byte of a trailer line.
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
    Complete,
}

/// Sixteen digits are all of a `u64`.
const SIZE_DIGITS_MAX: u8 = 16;

impl BodyReader {
    /// At the first byte behind the head.
    pub fn new(framing: Framing) -> Self {
        BodyReader {
            state: match framing {
                Framing::None | Framing::Length(0) => State::Complete,
                Framing::Length(left) => State::Whole { left },
                Framing::Chunked => State::Size { size: 0, digits: 0 },
            },
            extension_bytes_left: EXTENSION_BYTES_MAX,
            trailer_bytes_left: TRAILER_BYTES_MAX,
        }
    }

    /// Whether the body was taken to its end.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Takes what belongs to the body from the front of `input` up to the end of the next data,
    /// which is never empty. `None` when the body is complete or `input` is used up.
    ///
    /// # Errors
    /// `InvalidRequest` for framing that is broken or beyond the limits.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Error> {
        loop {
            match self.state {
                State::Complete => return Ok(None),
                State::Whole { left } | State::Data { left } => {
                    let length = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    if length == 0 {
                        return Ok(None);
                    }
                    let (data, rest) = input.split_at(length);
                    *input = rest;
                    let left = left - length as u64;
                    self.state = match self.state {
                        State::Whole { .. } if left == 0 => State::Complete,
                        State::Whole { .. } => State::Whole { left },
                        _ if left == 0 => State::DataCr,
                        _ => State::Data { left },
                    };
                    return Ok(Some(data));
                }
                _ => {
                    let Some((&byte, rest)) = input.split_first() else {
                        return Ok(None);
                    };
                    *input = rest;
                    self.state = self.step(byte)?;
                }
            }
        }
    }

    /// The state behind a byte that is no data.
    fn step(&mut self, byte: u8) -> Result<State, Error> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(broken("a chunk size has more than 16 digits"));
                }
                let digit = (byte as char).to_digit(16).expect("a hexadecimal digit");
                State::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (State::Size { size, digits: 1.. }, b'\r') => State::SizeEnd { size },
            (State::Size { size, digits: 1.. }, b';') => State::Extension { size },
            (State::Size { .. }, _) => return Err(broken("a chunk size is no number")),
            (State::Extension { size }, b'\r') => State::SizeEnd { size },
            (State::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => {
                take(&mut self.extension_bytes_left, "chunk extensions are")?;
                State::Extension { size }
            }
            (State::SizeEnd { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeEnd { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerStart, b'!'..=b'~') | (State::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                take(&mut self.trailer_bytes_left, "trailers are")?;
                State::Trailer
            }
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::LastLf, b'\n') => State::Complete,
            _ => return Err(broken("a line or a chunk does not end where it must")),
        })
    }
}

fn take(left: &mut u32, what: &str) -> Result<(), Error> {
    *left = left
        .checked_sub(1)
        .ok_or_else(|| broken(format_args!("{what} too long")))?;
    Ok(())
}

fn broken(what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorCode::InvalidRequest,
        format_args!("the chunked body of the request is broken: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of a body that comes in pieces of `piece` bytes, and what is left behind it.
    fn read(framing: Framing, input: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), Error> {
        let mut reader = BodyReader::new(framing);
        let (mut data, mut left) = (Vec::new(), 0);
        for mut piece in input.chunks(piece) {
            while let Some(range) = reader.next(&mut piece)? {
                assert!(!range.is_empty());
                data.extend_from_slice(range);
            }
            assert!(piece.is_empty() || reader.is_complete());
            left += piece.len();
        }
        Ok((data, left, reader.is_complete()))
    }

    #[test]
    fn chunks_extensions_and_trailers_are_taken_and_the_next_request_is_not() {
        let body = b"5\r\nhello\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\nEtag: x\r\n\r\nGET /";
        for piece in 1..body.len() {
            let taken = read(Framing::Chunked, body, piece);
            assert_eq!(taken, Ok((b"hello0123456789".to_vec(), 5, true)));
        }
    }

    #[test]
    fn a_body_with_a_length_ends_there() {
        assert_eq!(
            read(Framing::Length(3), b"abcd", 2),
            Ok((b"abc".to_vec(), 1, true))
        );
        assert_eq!(
            read(Framing::Length(5), b"abcd", 4),
            Ok((b"abcd".to_vec(), 0, false))
        );
        assert_eq!(read(Framing::None, b"abcd", 4), Ok((Vec::new(), 4, true)));
    }

    #[test]
    fn shapes_that_readers_disagree_about_are_refused() {
        let long_extension = format!("1;{}\r\n", "x".repeat(5000));
        let many_extensions = format!("1;{}\r\na\r\n", "x".repeat(100)).repeat(50);
        let long_trailer = format!("0\r\na: {}\r\n\r\n", "x".repeat(9000));
        for body in [
            "\r\n",
            ";x\r\na\r\n",
            "+1\r\na\r\n",
            "-1\r\na\r\n",
            "0x1\r\na\r\n",
            "1_0\r\n",
            " 1\r\na\r\n",
            "1 \r\na\r\n",
            "1\na\r\n",
            "1\r\r\n",
            "1\r\nab",
            "1\r\na\n",
            "1;x\n\r\na",
            "1;x\0\r\na",
            "10000000000000000\r\n",
            "00000000000000001\r\na\r\n",
            "0\r\n a: b\r\n\r\n",
            "0\r\na: b\n\r\n",
            "0\r\n\n",
            &long_extension,
            &many_extensions,
            &long_trailer,
        ] {
            let error = read(Framing::Chunked, body.as_bytes(), 7).expect_err(body);
            assert_eq!(error.code, ErrorCode::InvalidRequest);
        }
    }

    proptest! {
        #[test]
        fn any_chunking_and_any_splitting_give_the_data(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            piece in 1usize..64,
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\nnext");
            let expected = (chunks.concat(), 4, true);
            prop_assert_eq!(read(Framing::Chunked, &body, piece), Ok(expected));
        }

        #[test]
        fn no_bytes_make_it_panic(body in "[0-9a-f;\r\n\0-\u{ff}]{0,200}", piece in 1usize..9) {
            let _ = read(Framing::Chunked, body.as_bytes(), piece);
        }
    }
}
