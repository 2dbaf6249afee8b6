//! A lane of HTTP/1.1 from the server's side, without a socket: heads of requests in, counted; HEADs
//! answered.
//!
//! The invariant: from the first GET on only GETs without a body come, and those are counted by the
//! empty line that ends each and not looked at. It must not do I/O.

use std::io::{self, Write};

use corelane_s3::response::{Common, Extent, object_lines, write_object_head};

/// What ends the head of a request.
const HEAD_END: &[u8; 4] = b"\r\n\r\n";

/// A moment for the dates of prebuilt heads, in milliseconds since the Unix epoch.
const DATE_MS: u64 = 1_000_000_000_000;

/// What was said on one connection.
#[derive(Debug)]
pub(super) struct HttpConversation {
    /// Bytes of the one object that the server pretends to have.
    object_bytes: u64,
    /// Bytes of a first request that is not complete.
    held: Vec<u8>,
    /// Whether a GET came.
    has_begun: bool,
    /// How many bytes of [`HEAD_END`] were the last to come.
    matched: usize,
}

impl HttpConversation {
    /// One that begins.
    pub fn new(object_bytes: u64) -> HttpConversation {
        HttpConversation {
            object_bytes,
            held: Vec::new(),
            has_begun: false,
            matched: 0,
        }
    }

    /// Takes what arrived; gives the number of GETs that it completed. Answers to HEADs are
    /// appended to `answers`.
    ///
    /// # Errors
    /// Never; a bare server takes what it is sent for what it expects.
    #[inline]
    pub fn receive(&mut self, input: &[u8], answers: &mut Vec<u8>) -> io::Result<u64> {
        if self.has_begun {
            return Ok(self.count(input));
        }
        self.held.extend_from_slice(input);
        self.begin(answers)
    }

    /// Answers the HEADs with which a client asks how long the object is.
    #[cold]
    fn begin(&mut self, answers: &mut Vec<u8>) -> io::Result<u64> {
        while self.held.starts_with(b"HEAD ") {
            let end = self.held.windows(4).position(|bytes| bytes == HEAD_END);
            let Some(end) = end else {
                return Ok(0);
            };
            write!(
                answers,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                self.object_bytes
            )?;
            self.held.drain(..end + HEAD_END.len());
        }
        if self.held.is_empty() || b"HEAD ".starts_with(&self.held) {
            return Ok(0);
        }
        self.has_begun = true;
        let held = std::mem::take(&mut self.held);
        Ok(self.count(&held))
    }

    /// How many heads end in `input`.
    #[inline]
    fn count(&mut self, input: &[u8]) -> u64 {
        let mut heads = 0;
        let mut left = input;
        // What ends a head may have come in parts.
        while self.matched > 0 {
            let Some((byte, rest)) = left.split_first() else {
                return heads;
            };
            left = rest;
            self.matched = match *byte {
                byte if byte == HEAD_END[self.matched] => self.matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if self.matched == HEAD_END.len() {
                heads += 1;
                self.matched = 0;
            }
        }
        heads += left.windows(4).filter(|bytes| *bytes == HEAD_END).count() as u64;
        self.matched = (1..HEAD_END.len())
            .rev()
            .find(|length| left.ends_with(&HEAD_END[..*length]))
            .unwrap_or(0);
        heads
    }
}

/// The head of a worker's answer with `reply_bytes` from the middle of a file of `object_bytes`: as long
/// as most are.
pub(super) fn prebuilt_http_head(reply_bytes: u32, object_bytes: u64) -> Vec<u8> {
    let start = object_bytes / 2;
    let extent = Extent {
        start,
        end: start + u64::from(reply_bytes),
        total: object_bytes,
        is_range: true,
    };
    // A file's version is its size, its time in nanoseconds and its inode.
    let etag = format!("\"{object_bytes}-{DATE_MS}000000-12345678\"");
    let lines = object_lines(&etag, DATE_MS, "", []);
    let common = Common {
        date: &corelane_s3::date::http_date(DATE_MS),
        request_id: 1,
        closes: false,
    };
    let mut head = Vec::new();
    write_object_head(&mut head, extent, &lines, common);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET /o HTTP/1.1\r\nHost: host\r\nRange: bytes=0-4095\r\n\r\n";

    #[test]
    fn heads_are_counted_however_they_come() {
        let mut input = b"HEAD /o HTTP/1.1\r\nHost: host\r\n\r\n".to_vec();
        for _ in 0..3 {
            input.extend_from_slice(GET);
        }
        // Ends of lines that are not ends of heads.
        input.extend_from_slice(b"GET /\r\r\n\r\r\n\r\n");
        for piece in 1..=input.len() {
            let mut conversation = HttpConversation::new(77);
            let mut answers = Vec::new();
            let gets: u64 = input
                .chunks(piece)
                .map(|bytes| conversation.receive(bytes, &mut answers).expect("valid"))
                .sum();
            assert_eq!(gets, 4, "in pieces of {piece}");
            assert_eq!(answers, b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n");
        }
    }

    #[test]
    fn a_prebuilt_head_is_one_and_says_how_many_bytes_follow() {
        let head = prebuilt_http_head(4096, 1 << 30);
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&head).expect("a head");
        assert_eq!(parsed, httparse::Status::Complete(head.len()));
        assert_eq!(response.code, Some(206));
        let length = response
            .headers
            .iter()
            .find(|header| header.name == "Content-Length");
        assert_eq!(length.expect("a length").value, b"4096");
    }
}
