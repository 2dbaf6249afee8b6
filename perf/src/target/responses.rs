//! HTTP/1.1 responses, as far as ranged GETs need them: a head, then as many bytes as it says.

use std::io;

/// Longest head that is taken: servers' limits lie at 8 to 64 KiB.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;

/// Most header lines that are looked at.
const HEADERS_MAX: usize = 64;

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    /// Its own bytes.
    pub bytes: usize,
    pub status: u16,
    /// Bytes of the body.
    pub content_length: u64,
    /// Whether the server ends the connection behind it.
    pub closes: bool,
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Reads a head from the start of `input`; none when it is not complete.
pub(crate) fn read_head(input: &[u8]) -> io::Result<Option<ResponseHead>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let bytes = match response.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) if input.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(invalid("a response head over 64 KiB")),
        Err(error) => return Err(invalid(format!("not an HTTP/1.1 response: {error}"))),
    };
    let status = response.code.unwrap_or_default();
    let mut content_length = None;
    let mut closes = false;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).unwrap_or_default();
            let length = text
                .trim()
                .parse()
                .map_err(|_| invalid(format!("a response whose Content-Length is `{text}`")))?;
            content_length = Some(length);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(invalid(
                "a response in Transfer-Encoding; switch compression and chunking off at the server",
            ));
        } else if header.name.eq_ignore_ascii_case("connection") {
            closes = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let content_length = match content_length {
        Some(length) => length,
        None if matches!(status, 204 | 304) => 0,
        None => return Err(invalid("a response without Content-Length")),
    };
    Ok(Some(ResponseHead {
        bytes,
        status,
        content_length,
        closes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_complete() {
        let text = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 4096\r\nConnection: close\r\n\r\nbody";
        for end in 0..text.len() - 4 {
            assert_eq!(read_head(&text[..end]).expect("a prefix"), None);
        }
        let head = read_head(text).expect("valid").expect("complete");
        assert_eq!(
            (head.status, head.content_length, head.closes),
            (206, 4096, true)
        );
        assert_eq!(&text[head.bytes..], b"body");
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_the_reason() {
        for (text, reason) in [
            (&b"SSH-2.0\r\n\r\n"[..], "not an HTTP"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "without Content-Length"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "chunking off",
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "`x`"),
        ] {
            let error = read_head(text).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
        let endless = vec![b'a'; HEAD_BYTES_MAX];
        let mut text = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        text.extend(endless);
        assert!(read_head(&text).is_err());
    }
}
