//! The head of an HTTP/1.1 request, borrowed from the bytes that came in.
//!
//! The invariant: a head that is accepted has one meaning. Whatever two HTTP implementations could
//! read differently (RFC 9112, sections 5, 6 and 11.2) is refused and ends the connection, because
//! behind it the end of the body, and so the begin of the next request, is in doubt.
//!
//! It allocates nothing on success: the table of headers lies within the head, as offsets.

use std::mem::MaybeUninit;

use crate::error::{Error, ErrorCode};

/// Longest head that is read, from the first byte of the request line to the empty line.
///
/// S3 allows 8 KiB of headers; a presigned target beside them holds a key of 1,024 bytes, each
/// escaped to three, and a session token of some KiB. A longer head is answered with an error.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most headers of one request; with more it is answered with an error.
///
/// Clients send up to 25 of their own; S3's 2 KiB of user metadata make some dozens more.
pub const HEADERS_MAX: usize = 100;

const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize, "offsets are 16 bits");

/// One request head.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// The method as it was sent; methods are case-sensitive.
    pub method: &'a str,
    /// The path as it was sent, escapes and all; it begins with `/`.
    pub path: &'a str,
    /// The query as it was sent, without `?`; empty if there is none.
    pub query: &'a str,
    /// The headers that a request is served by.
    pub known: Known<'a>,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether another request may follow on this connection.
    pub keeps_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body, which may be empty.
    pub expects_continue: bool,
    input: &'a [u8],
    table: [Place; HEADERS_MAX],
    count: usize,
}

/// Where a header lies in the input.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    name_start: u16,
    name_end: u16,
    value_start: u16,
    value_end: u16,
}

/// How the end of a body is known (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// A body of so many bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Makes [`Known`] of names in lower case, grouped by their length: most headers are told apart by it.
macro_rules! known_headers {
    ($($length:literal: { $($field:ident $name:literal $documentation:literal,)+ })+) => {
        /// Headers that decide how a request is served. Each is sent once or the head is refused,
        /// except `Content-Encoding`, which is a list.
        #[derive(Clone, Debug, Default)]
        pub struct Known<'a> {
            $($(#[doc = $documentation] pub $field: Option<&'a str>,)+)+
        }

        $($(const _: () = assert!($name.len() == $length, "in the group of its length");)+)+

        impl<'a> Known<'a> {
            /// The place for the value of a header, if it is one of these.
            fn slot(&mut self, name: &str) -> Option<&mut Option<&'a str>> {
                match name.len() {
                    $($length => {
                        $(
                            if name.eq_ignore_ascii_case($name) {
                                return Some(&mut self.$field);
                            }
                        )+
                        None
                    })+
                    _ => None,
                }
            }
        }
    };
}

known_headers! {
    4: {
        host "host" "`Host`; always there.",
        date "date" "`Date`.",
    }
    5: {
        range "range" "`Range`.",
    }
    6: {
        expect "expect" "`Expect`.",
    }
    8: {
        if_match "if-match" "`If-Match`.",
        if_range "if-range" "`If-Range`.",
    }
    10: {
        x_amz_date "x-amz-date" "`x-amz-date`: when the request was signed.",
    }
    11: {
        content_md5 "content-md5" "`Content-MD5`.",
    }
    12: {
        content_type "content-type" "`Content-Type`.",
    }
    13: {
        authorization "authorization" "`Authorization`.",
        if_none_match "if-none-match" "`If-None-Match`.",
        x_amz_trailer "x-amz-trailer" "`x-amz-trailer`: the checksums that follow the body.",
    }
    14: {
        content_length "content-length" "`Content-Length`; [`Head::framing`] holds what it means.",
    }
    16: {
        content_encoding "content-encoding" "`Content-Encoding`, its first line; [`Head::values`] has all.",
    }
    17: {
        if_modified_since "if-modified-since" "`If-Modified-Since`.",
        transfer_encoding "transfer-encoding" "`Transfer-Encoding`; [`Head::framing`] holds what it means.",
        x_amz_copy_source "x-amz-copy-source" "`x-amz-copy-source`.",
    }
    19: {
        if_unmodified_since "if-unmodified-since" "`If-Unmodified-Since`.",
        x_amz_checksum_mode "x-amz-checksum-mode" "`x-amz-checksum-mode`: whether an answer shows checksums.",
    }
    20: {
        x_amz_content_sha256 "x-amz-content-sha256" "`x-amz-content-sha256`: what the signature says of the body.",
        x_amz_security_token "x-amz-security-token" "`x-amz-security-token`.",
    }
    28: {
        x_amz_decoded_content_length "x-amz-decoded-content-length" "`x-amz-decoded-content-length`: the length within aws-chunked framing.",
    }
}

/// A head that cannot be read. What follows it on the connection has no meaning: answer, then close.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct HeadError {
    /// What to tell the client.
    pub error: Error,
    /// The status, where HTTP has a better one than the error's code.
    pub status_override: Option<u16>,
}

impl HeadError {
    /// The status of the answer.
    pub fn status(&self) -> u16 {
        self.status_override.unwrap_or(self.error.code.status())
    }

    fn bad(message: &str) -> Self {
        HeadError {
            error: Error::new(ErrorCode::InvalidRequest, message),
            status_override: None,
        }
    }

    fn with_status(status: u16, code: ErrorCode, message: &str) -> Self {
        HeadError {
            error: Error::new(code, message),
            status_override: Some(status),
        }
    }

    fn too_long() -> Self {
        HeadError {
            error: Error::new(
                ErrorCode::RequestHeaderSectionTooLarge,
                format_args!(
                    "the request line and its headers are longer than {HEAD_BYTES_MAX} bytes; send fewer or shorter headers"
                ),
            ),
            status_override: None,
        }
    }

    fn of_syntax(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => HeadError {
                error: Error::new(
                    ErrorCode::RequestHeaderSectionTooLarge,
                    format_args!("the request has more than {HEADERS_MAX} headers; send fewer"),
                ),
                status_override: None,
            },
            httparse::Error::Version => HeadError::with_status(
                505,
                ErrorCode::InvalidRequest,
                "this endpoint speaks HTTP/1.1 and HTTP/1.0; send the request as one of them",
            ),
            httparse::Error::HeaderName => HeadError::bad(
                "a header line has no valid name before its colon; names are tokens, without space before the colon, and values are not folded over lines",
            ),
            httparse::Error::HeaderValue => HeadError::bad(
                "a header value holds a control character; only visible characters, space and tab may stand there",
            ),
            _ => HeadError::bad(
                "the request line or a line end is not HTTP/1.1; send `METHOD target HTTP/1.1` and lines ended by CR LF",
            ),
        }
    }
}

impl<'a> Head<'a> {
    /// Reads the head at the front of `input`; with it, how many bytes it takes. `None` if it is
    /// not complete: ask again with more.
    ///
    /// # Errors
    /// If it is no head, too long, or could be read in two ways; the connection ends with it.
    pub fn parse(input: &'a [u8]) -> Result<Option<(Head<'a>, usize)>, HeadError> {
        let input = &input[..input.len().min(HEAD_BYTES_MAX)];
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let bytes = match request.parse_with_uninit_headers(input, &mut headers) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) if input.len() == HEAD_BYTES_MAX => {
                return Err(HeadError::too_long());
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(HeadError::of_syntax(error)),
        };
        refuse_bare_line_ends(&input[..bytes])?;
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            unreachable!("a complete request has a method, a target and a version");
        };
        let mut head = Head {
            method,
            path: "",
            query: "",
            known: Known::default(),
            framing: Framing::None,
            keeps_alive: minor == 1,
            expects_continue: false,
            input,
            table: [Place::default(); HEADERS_MAX],
            count: 0,
        };
        for header in request.headers.iter() {
            head.take(header.name, header.value)?;
        }
        head.set_target(target)?;
        head.set_framing(minor)?;
        head.set_expectation(minor)?;
        Ok(Some((head, bytes)))
    }

    /// The value of the first header of that name, which is in lower case; without the white space
    /// around it.
    pub fn header(&self, lower_case_name: &str) -> Option<&'a [u8]> {
        self.values(lower_case_name).next()
    }

    /// The values of all headers of that name, which is in lower case, in the order they came.
    pub fn values<'n>(
        &self,
        lower_case_name: &'n str,
    ) -> impl Iterator<Item = &'a [u8]> + use<'_, 'a, 'n> {
        self.lines()
            .filter(|(name, _)| name.eq_ignore_ascii_case(lower_case_name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Every header in the order they came, names as they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'_, 'a> {
        self.lines()
            .map(|(name, value)| (str::from_utf8(name).expect("names are tokens"), value))
    }

    /// The same as [`Head::headers`], in bytes.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'_, 'a> {
        let input = self.input;
        self.table[..self.count].iter().map(move |place| {
            (
                &input[usize::from(place.name_start)..usize::from(place.name_end)],
                &input[usize::from(place.value_start)..usize::from(place.value_end)],
            )
        })
    }

    fn take(&mut self, name: &'a str, value: &'a [u8]) -> Result<(), HeadError> {
        let value = value.trim_ascii();
        let origin = self.input.as_ptr() as usize;
        let offset = |part: *const u8| (part as usize - origin) as u16;
        let name_start = offset(name.as_ptr());
        let value_start = offset(value.as_ptr());
        self.table[self.count] = Place {
            name_start,
            name_end: name_start + name.len() as u16,
            value_start,
            value_end: value_start + value.len() as u16,
        };
        self.count += 1;

        if let Some(slot) = self.known.slot(name) {
            if slot.is_some() {
                // The one list among them; SDKs add `aws-chunked` on a line of its own.
                if name.eq_ignore_ascii_case("content-encoding") {
                    return Ok(());
                }
                return Err(HeadError::bad(&format!(
                    "the header `{}` is there twice; send it once",
                    name.to_ascii_lowercase()
                )));
            }
            *slot = Some(str::from_utf8(value).map_err(|_| {
                HeadError::bad(&format!(
                    "the value of `{}` is not UTF-8",
                    name.to_ascii_lowercase()
                ))
            })?);
        } else if name.eq_ignore_ascii_case("connection") {
            self.take_connection(value);
        }
        Ok(())
    }

    fn take_connection(&mut self, value: &[u8]) {
        let closes = value
            .split(|&byte| byte == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
        self.keeps_alive &= !closes;
    }

    /// Splits the target into path and query and checks `Host` (RFC 9112, section 3.2).
    fn set_target(&mut self, target: &'a str) -> Result<(), HeadError> {
        let Some(host) = self.known.host else {
            return Err(HeadError::bad("the request has no `Host` header; send one"));
        };
        if host.is_empty() || !host.bytes().all(is_host_byte) {
            return Err(HeadError::bad(
                "`Host` is not a host name or address with an optional port",
            ));
        }
        let target = match target
            .strip_prefix("http://")
            .or_else(|| target.strip_prefix("https://"))
        {
            None => target,
            Some(rest) => {
                let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                if !authority.eq_ignore_ascii_case(host) {
                    return Err(HeadError::bad(
                        "the request line names another host than `Host` does; send the same or only the path",
                    ));
                }
                path
            }
        };
        if target.contains('#') {
            return Err(HeadError::bad(
                "the target holds `#`; escape it as %23 if it belongs to a key",
            ));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if !path.starts_with('/') {
            return Err(HeadError::bad(
                "the request target is not a path that begins with `/`",
            ));
        }
        self.path = path;
        self.query = query;
        Ok(())
    }

    fn set_framing(&mut self, minor: u8) -> Result<(), HeadError> {
        self.framing = match (self.known.transfer_encoding, self.known.content_length) {
            (None, None) => Framing::None,
            (Some(_), Some(_)) => {
                return Err(HeadError::bad(
                    "`Content-Length` and `Transfer-Encoding` stand together; send one of them",
                ));
            }
            (None, Some(length)) => Framing::Length(content_length(length)?),
            (Some(_), None) if minor == 0 => {
                return Err(HeadError::bad(
                    "HTTP/1.0 has no `Transfer-Encoding`; send `Content-Length` or use HTTP/1.1",
                ));
            }
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Framing::Chunked,
            (Some(_), None) => {
                return Err(HeadError::with_status(
                    501,
                    ErrorCode::NotImplemented,
                    "the only `Transfer-Encoding` understood is `chunked`, alone; send it or `Content-Length`",
                ));
            }
        };
        Ok(())
    }

    fn set_expectation(&mut self, minor: u8) -> Result<(), HeadError> {
        match self.known.expect {
            None => {}
            Some(expectation) if expectation.eq_ignore_ascii_case("100-continue") => {
                // Of HTTP/1.0 the expectation is ignored (RFC 9110, section 10.1.1). It counts before an
                // empty body as well: botocore (1.43) leaves a connection in a state where the next
                // answer on it is lost, when the final answer comes instead.
                self.expects_continue = minor == 1 && self.framing != Framing::None;
            }
            Some(_) => {
                return Err(HeadError::with_status(
                    417,
                    ErrorCode::InvalidRequest,
                    "the only `Expect` understood is `100-continue`",
                ));
            }
        }
        Ok(())
    }
}

/// The parser takes LF alone as a line end; others take it as part of a line.
fn refuse_bare_line_ends(head: &[u8]) -> Result<(), HeadError> {
    // Without an early end, so that the compiler compares many bytes at a time.
    let sound = head
        .iter()
        .zip(&head[1..])
        .fold(head[0] != b'\n', |sound, (&before, &byte)| {
            sound & ((byte == b'\n') == (before == b'\r'))
        });
    if sound {
        Ok(())
    } else {
        Err(HeadError::bad(
            "a line ends in CR or LF alone; end lines by CR LF",
        ))
    }
}

fn content_length(value: &str) -> Result<u64, HeadError> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(length) if digits => Ok(length),
        _ => Err(HeadError::bad(
            "`Content-Length` is not one decimal number below 2^64",
        )),
    }
}

/// Bytes of a host name, an address in brackets and a port. No `@`, no `/`, no comma: what only one
/// of two readers would take for a part of the host.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']')
}

#[cfg(test)]
mod tests;
