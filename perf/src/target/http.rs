//! Ranged GETs over HTTP/1.1, plain or signed for S3: nginx, any S3, any server that knows `Range`.
//!
//! Connections are kept open and pipelined up to the depth; answers come in order. Servers that
//! do not pipeline are loaded at depth 1.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use corelane_rpc_schema::ObjectId;

use super::pages::ByPage;
use super::responses::{HEAD_BYTES_MAX, read_head};
use super::sigv4::{Credentials, Signer, encode_path};
use super::{Answer, Catalogue, Checks, Named, Object, Target, Wire, connect, stream};
use crate::load::LoadResult;
use crate::load::crew::Member;
use crate::workload::Piece;

/// Most bytes of an error's body that are kept for its text.
const ERROR_TEXT_MAX: usize = 300;

/// An HTTP server.
pub struct Http {
    address: SocketAddr,
    host: String,
    prefix: String,
    credentials: Option<Credentials>,
}

impl Http {
    /// Without signatures.
    pub fn plain(address: SocketAddr, host: &str, prefix: &str) -> Http {
        Http {
            address,
            host: host.to_owned(),
            prefix: prefix.trim_end_matches('/').to_owned(),
            credentials: None,
        }
    }

    /// With.
    pub fn signed(address: SocketAddr, host: &str, prefix: &str, credentials: Credentials) -> Http {
        Http {
            credentials: Some(credentials),
            ..Http::plain(address, host, prefix)
        }
    }

    fn wire(&self) -> HttpWire {
        HttpWire {
            host: self.host.clone(),
            signer: self
                .credentials
                .clone()
                .map(|credentials| Signer::new(credentials, &self.host)),
            order: VecDeque::new(),
            held: Vec::new(),
            arriving: None,
            check: ByPage::default(),
        }
    }

    /// Asks for the length of the object at `path`; with it comes whether the server ends the
    /// connection.
    fn length_of(&self, stream: &mut TcpStream, path: &str) -> io::Result<(u64, bool)> {
        let mut request = Vec::new();
        self.wire().head(&mut request, "HEAD", path, "");
        stream.write_all(&request)?;
        let mut input = Vec::new();
        let mut byte = [0];
        // Byte by byte, so that nothing behind the head is swallowed: a HEAD's answer has no body.
        let head = loop {
            if let Some(head) = read_head(&input)? {
                break head;
            }
            if stream.read(&mut byte)? == 0 || input.len() > HEAD_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{} closed the connection at HEAD {path}", self.address),
                ));
            }
            input.push(byte[0]);
        };
        match head.status {
            200 => Ok((head.content_length, head.closes)),
            404 => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "{} has no {path}; make the workload's files with `corelane-perf prepare --dir ROOT`, \
                     where ROOT is what the server serves at the target's prefix",
                    self.address
                ),
            )),
            status => Err(io::Error::other(format!(
                "{} answers HEAD {path} with {status}",
                self.address
            ))),
        }
    }
}

impl Target for Http {
    fn kind(&self) -> &'static str {
        match self.credentials {
            Some(_) => "s3",
            None => "http",
        }
    }

    fn resolve(&self, names: &[Named]) -> io::Result<Catalogue> {
        let mut stream = connect(self.address)?;
        let objects = names
            .iter()
            .map(|named| {
                let path = match named.name.starts_with('/') {
                    true => named.name.clone(),
                    false => format!("{}/{}", self.prefix, named.name),
                };
                let path = encode_path(&path);
                let (length, closes) = self.length_of(&mut stream, &path)?;
                if closes {
                    stream = connect(self.address)?;
                }
                Ok(Object {
                    id: ObjectId::new(&path, "", 0, 0),
                    name: path,
                    length,
                })
            })
            .collect::<io::Result<Vec<Object>>>()?;
        Ok(Catalogue::of_one(objects, self.address))
    }

    fn drive(&self, member: Member<'_>) -> io::Result<LoadResult> {
        stream::drive(member, |_, _| Ok((connect(self.address)?, self.wire())))
    }
}

/// The answer whose body is arriving.
struct Arriving {
    answer: Answer,
    left: u64,
    /// The start of an error's body.
    error: Option<Vec<u8>>,
    status: u16,
}

struct HttpWire {
    host: String,
    signer: Option<Signer>,
    /// Slots in the order of their requests, and the bytes that each asked for.
    order: VecDeque<(u32, u32)>,
    /// A head that did not come whole.
    held: Vec<u8>,
    arriving: Option<Arriving>,
    check: ByPage,
}

impl HttpWire {
    fn head(&mut self, out: &mut Vec<u8>, method: &str, path: &str, range: &str) {
        for part in [method, " ", path, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        match &mut self.signer {
            Some(signer) => signer.sign(out, method, path, range),
            None => {
                let host = self.host.as_bytes();
                for part in [&b"Host: "[..], host, b"\r\n"] {
                    out.extend_from_slice(part);
                }
                if !range.is_empty() {
                    for part in ["Range: ", range, "\r\n"] {
                        out.extend_from_slice(part.as_bytes());
                    }
                }
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    fn begin(&mut self, input: &[u8], checks: &mut Checks) -> io::Result<Option<usize>> {
        let Some(head) = read_head(input)? else {
            return Ok(None);
        };
        let (slot, wanted) = self
            .order
            .pop_front()
            .ok_or_else(|| io::Error::other("an answer came although nothing was asked"))?;
        if head.closes {
            return Err(io::Error::other(
                "the server closes connections between requests; raise its limit (nginx: keepalive_requests)",
            ));
        }
        let is_error =
            !matches!(head.status, 200 | 206) || head.content_length != u64::from(wanted);
        if head.status == 200 && is_error {
            return Err(io::Error::other(
                "the server answers ranges with whole objects; it does not know Range",
            ));
        }
        let is_checked = !is_error && checks.checks_next();
        if is_checked {
            self.check.begin();
        }
        self.arriving = Some(Arriving {
            answer: Answer {
                slot,
                payload_bytes: if is_error { 0 } else { wanted },
                is_checked,
                is_error,
                ..Answer::default()
            },
            left: head.content_length,
            error: is_error.then(Vec::new),
            status: head.status,
        });
        Ok(Some(head.bytes))
    }

    fn body(&mut self, input: &[u8], checks: &mut Checks, answers: &mut Vec<Answer>) -> usize {
        let Some(arriving) = &mut self.arriving else {
            return 0;
        };
        let take = (input.len() as u64).min(arriving.left) as usize;
        if arriving.answer.is_checked {
            self.check.take(&input[..take]);
        }
        if let Some(error) = &mut arriving.error {
            let room = ERROR_TEXT_MAX.saturating_sub(error.len());
            error.extend_from_slice(&input[..take.min(room)]);
        }
        arriving.left -= take as u64;
        if arriving.left == 0 {
            let mut answer = arriving.answer;
            answer.is_wrong = answer.is_checked && self.check.is_wrong();
            if let Some(error) = &arriving.error {
                let status = arriving.status;
                checks.first_error.get_or_insert_with(|| {
                    format!("status {status}: {}", String::from_utf8_lossy(error))
                });
            }
            answers.push(answer);
            self.arriving = None;
        }
        take
    }
}

impl Wire for HttpWire {
    fn request(&mut self, out: &mut Vec<u8>, slot: u32, piece: &Piece, object: &Object) {
        let last = piece.offset + u64::from(piece.length) - 1;
        let range = format!("bytes={}-{last}", piece.offset);
        self.head(out, "GET", &object.name, &range);
        self.order.push_back((slot, piece.length));
    }

    fn receive(
        &mut self,
        mut input: &[u8],
        checks: &mut Checks,
        answers: &mut Vec<Answer>,
    ) -> io::Result<()> {
        while !input.is_empty() {
            if self.arriving.is_some() {
                input = &input[self.body(input, checks, answers)..];
                continue;
            }
            if self.held.is_empty() {
                match self.begin(input, checks)? {
                    Some(consumed) => input = &input[consumed..],
                    None => {
                        self.held.extend_from_slice(input);
                        return Ok(());
                    }
                }
            } else {
                let mut held = std::mem::take(&mut self.held);
                let before = held.len();
                held.extend_from_slice(input);
                match self.begin(&held, checks)? {
                    // The head ends in what just came: before it, it was not complete.
                    Some(consumed) => input = &input[consumed - before..],
                    None => {
                        self.held = held;
                        return Ok(());
                    }
                }
            }
            if self
                .arriving
                .as_ref()
                .is_some_and(|arriving| arriving.left == 0)
            {
                self.body(&[], checks, answers);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceiling::page;
    use crate::load::Verify;

    fn wire() -> HttpWire {
        Http::plain(SocketAddr::from(([127, 0, 0, 1], 1)), "host", "/").wire()
    }

    #[test]
    fn answers_are_found_in_any_division_of_the_bytes() {
        let mut text = Vec::new();
        for status in [
            "206 Partial Content",
            "503 Slow Down",
            "206 Partial Content",
        ] {
            let body = if status.starts_with('5') {
                &b"wait"[..]
            } else {
                &page()[..]
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            text.extend_from_slice(head.as_bytes());
            text.extend_from_slice(body);
        }
        for step in [1, 3, 50, 5_000, text.len()] {
            let mut wire = wire();
            let object = Object {
                name: "/o".to_owned(),
                length: 1 << 20,
                id: ObjectId::new("", "", 0, 0),
            };
            let piece = Piece {
                object: 0,
                length: 4096,
                offset: 8192,
            };
            let mut sent = Vec::new();
            for slot in [7, 8, 9] {
                wire.request(&mut sent, slot, &piece, &object);
            }
            assert!(sent.starts_with(
                b"GET /o HTTP/1.1\r\nHost: host\r\nRange: bytes=8192-12287\r\n\r\nGET"
            ));
            let mut checks = Checks::new(Verify::All);
            let mut answers = Vec::new();
            for part in text.chunks(step) {
                wire.receive(part, &mut checks, &mut answers)
                    .expect("valid");
            }
            let found: Vec<_> = answers
                .iter()
                .map(|answer| (answer.slot, answer.is_error))
                .collect();
            assert_eq!(found, [(7, false), (8, true), (9, false)], "{step}");
            assert!(answers.iter().all(|answer| !answer.is_wrong));
            assert_eq!(checks.first_error.as_deref(), Some("status 503: wait"));
        }
    }

    #[test]
    fn a_server_without_ranges_is_named() {
        let mut wire = wire();
        wire.order.push_back((0, 4096));
        let mut answers = Vec::new();
        let error = wire
            .receive(
                b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n",
                &mut Checks::new(Verify::None),
                &mut answers,
            )
            .expect_err("a whole object");
        assert!(error.to_string().contains("Range"), "{error}");
    }
}
