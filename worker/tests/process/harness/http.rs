//! HTTP by hand: what a client library would never send, and answers as they are.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::process::HANG;

/// An answer that came whole.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// The value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.trim())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// The code and the sentence of an error.
    #[track_caller]
    pub fn error(&self) -> (String, String) {
        let error: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        let word = |name: &str| {
            let word = error["error"][name].as_str();
            word.unwrap_or_else(|| panic!("no {name} in {error}"))
                .to_owned()
        };
        (word("code"), word("message"))
    }
}

/// A connection.
pub struct Http(BufReader<TcpStream>);

impl Http {
    /// Connects and says nothing.
    pub fn connect(address: SocketAddr) -> std::io::Result<Http> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(HANG))?;
        stream.set_write_timeout(Some(HANG))?;
        Ok(Http(BufReader::new(stream)))
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Sends the head of a request; `headers` are lines.
    pub fn send_head(
        &mut self,
        method: &str,
        path: &str,
        headers: &[&str],
        body_bytes: usize,
    ) -> std::io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for header in headers {
            head.push_str(&format!("{header}\r\n"));
        }
        head.push_str(&format!("Content-Length: {body_bytes}\r\n\r\n"));
        self.send(head.as_bytes())
    }

    /// Sends a request and receives the answer.
    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &[u8],
    ) -> std::io::Result<HttpAnswer> {
        self.send_head(method, path, headers, body.len())?;
        self.send(body)?;
        self.receive(method != "HEAD")
    }

    /// Whether something of an answer is there.
    pub fn has_answer(&self) -> bool {
        let stream = self.0.get_ref();
        let peek = || {
            stream.set_nonblocking(true)?;
            let found = stream.peek(&mut [0]);
            stream.set_nonblocking(false)?;
            found
        };
        match peek() {
            Ok(_) => true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// The next answer. The error is [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) where nothing came
    /// of it.
    ///
    /// # Panics
    /// Where it breaks off in the middle.
    pub fn receive(&mut self, has_body: bool) -> std::io::Result<HttpAnswer> {
        let mut head = String::new();
        loop {
            let start = head.len();
            if self.0.read_line(&mut head)? == 0 {
                assert!(head.is_empty(), "cut off in the head: {head}");
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if head[start..].trim().is_empty() {
                break;
            }
        }
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let mut answer = HttpAnswer {
            status: status.expect("a status"),
            head,
            body: Vec::new(),
        };
        if has_body && answer.status >= 200 {
            let length = answer.header("content-length").parse().expect("a length");
            answer.body = vec![0; length];
            self.0
                .read_exact(&mut answer.body)
                .unwrap_or_else(|error| panic!("cut off in the body: {error}"));
        }
        Ok(answer)
    }
}
