//! Heads of answers.
//!
//! The head of an answer to a read is a few appends: what depends on the object alone (ETag, dates,
//! metadata) is written once for it by [`object_lines`] and copied. Its invariant: no byte of an
//! object's headers or of an error can end a line: whatever could is left out.

use crate::date::http_date;

/// What every answer carries.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a> {
    /// The date, as [`http_date`] writes it.
    pub date: &'a [u8; 29],
    /// Number of the request, unique in the worker's life.
    pub request_id: u64,
    /// Whether the connection ends behind this answer.
    pub closes: bool,
}

/// Bytes of an object that an answer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// Byte behind the last.
    pub end: u64,
    /// Bytes of the object.
    pub total: u64,
    /// Whether a range was asked for.
    pub is_range: bool,
}

/// The request id as clients see it: 16 upper-case hexadecimal digits.
pub fn request_id_text(id: u64) -> [u8; 16] {
    let mut text = [0; 16];
    for (place, digit) in text.iter_mut().enumerate() {
        *digit = b"0123456789ABCDEF"[(id >> (60 - 4 * place)) as usize & 15];
    }
    text
}

/// The lines of an answer's head that follow from the object, each with its line end.
///
/// `headers` are names in lower case and values; of those with a byte that no header may have,
/// nothing is written.
pub fn object_lines<'a>(
    etag: &str,
    last_modified_ms: u64,
    content_type: &str,
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Vec<u8> {
    let mut lines = Vec::with_capacity(160);
    lines.extend_from_slice(b"Accept-Ranges: bytes\r\n");
    push_line(&mut lines, "ETag", etag.as_bytes());
    if last_modified_ms > 0 {
        push_line(&mut lines, "Last-Modified", &http_date(last_modified_ms));
    }
    let content_type = if content_type.is_empty() {
        "binary/octet-stream"
    } else {
        content_type
    };
    push_line(&mut lines, "Content-Type", content_type.as_bytes());
    for (name, value) in headers {
        push_line(&mut lines, name, value.as_bytes());
    }
    lines
}

/// Appends the head of an answer to a read of an object.
#[inline]
pub fn write_object_head(
    out: &mut Vec<u8>,
    extent: Extent,
    object_lines: &[u8],
    common: Common<'_>,
) {
    let mut number = itoa::Buffer::new();
    if extent.is_range {
        out.extend_from_slice(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes ");
        out.extend_from_slice(number.format(extent.start).as_bytes());
        out.push(b'-');
        out.extend_from_slice(number.format(extent.end - 1).as_bytes());
        out.push(b'/');
        out.extend_from_slice(number.format(extent.total).as_bytes());
        out.extend_from_slice(b"\r\nContent-Length: ");
    } else {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: ");
    }
    out.extend_from_slice(number.format(extent.end - extent.start).as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(object_lines);
    write_common(out, common);
    out.extend_from_slice(b"\r\n");
}

/// Appends a head with `status` and `headers`; `content_length` is left out for statuses that have
/// no body by themselves.
pub fn write_head<'a>(
    out: &mut Vec<u8>,
    status: u16,
    content_length: Option<u64>,
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    common: Common<'_>,
) {
    let mut number = itoa::Buffer::new();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(number.format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if let Some(length) = content_length {
        out.extend_from_slice(b"Content-Length: ");
        out.extend_from_slice(number.format(length).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    for (name, value) in headers {
        push_line(out, name, value);
    }
    write_common(out, common);
    out.extend_from_slice(b"\r\n");
}

/// The interim answer to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[inline]
fn write_common(out: &mut Vec<u8>, common: Common<'_>) {
    out.extend_from_slice(b"x-amz-request-id: ");
    out.extend_from_slice(&request_id_text(common.request_id));
    out.extend_from_slice(b"\r\nDate: ");
    out.extend_from_slice(common.date);
    out.extend_from_slice(b"\r\nServer: Corelane\r\n");
    if common.closes {
        out.extend_from_slice(b"Connection: close\r\n");
    }
}

/// Appends a line, or nothing where the name or the value could not stand in one.
fn push_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let may_stand = |byte: &u8| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f;
    if name.is_empty() || !name.as_bytes().iter().all(is_token) || !value.iter().all(may_stand) {
        return;
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The words behind a status (RFC 9110, 15).
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: Common<'static> = Common {
        date: b"Sun, 06 Nov 1994 08:49:37 GMT",
        request_id: 0x1a,
        closes: false,
    };

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("heads are text here")
    }

    #[test]
    fn a_range_is_answered_with_its_place_in_the_object() {
        let lines = object_lines(
            "\"e\"",
            784_111_777_000,
            "text/plain",
            [("x-amz-meta-a", "b")],
        );
        let extent = Extent {
            start: 0,
            end: 5,
            total: 10,
            is_range: true,
        };
        assert_eq!(
            text(|out| write_object_head(out, extent, &lines, COMMON)),
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/10\r\nContent-Length: 5\r\n\
             Accept-Ranges: bytes\r\nETag: \"e\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Content-Type: text/plain\r\nx-amz-meta-a: b\r\nx-amz-request-id: 000000000000001A\r\n\
             Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: Corelane\r\n\r\n"
        );
        let whole = Extent {
            end: 10,
            is_range: false,
            ..extent
        };
        let head = text(|out| write_object_head(out, whole, &lines, COMMON));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n"));
        assert!(!head.contains("Content-Range"));
    }

    #[test]
    fn nothing_of_a_value_ends_a_line() {
        let headers = [
            ("x-amz-meta-a", "b\r\nSet-Cookie: c"),
            ("x y", "z"),
            ("", "z"),
            ("x-amz-meta-d", "e"),
        ];
        let lines = object_lines("\"e\"", 0, "a\nb", headers);
        let lines = String::from_utf8(lines).expect("text");
        assert_eq!(
            lines,
            "Accept-Ranges: bytes\r\nETag: \"e\"\r\nx-amz-meta-d: e\r\n"
        );
    }

    #[test]
    fn a_last_answer_says_so() {
        let closing = Common {
            closes: true,
            ..COMMON
        };
        let head = text(|out| {
            write_head(
                out,
                404,
                Some(3),
                [("Content-Type", &b"text/plain"[..])],
                closing,
            )
        });
        assert!(head.starts_with(
            "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n"
        ));
        assert!(head.ends_with("Connection: close\r\n\r\n"));
        let none = text(|out| write_head(out, 204, None, [], COMMON));
        assert!(none.starts_with("HTTP/1.1 204 No Content\r\nx-amz-request-id"));
    }
}
