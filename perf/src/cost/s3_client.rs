//! The client of the S3 scripts: a GET of a page on each of many connections, sent together and
//! answered together, as clients that do not pipeline load a core.
//!
//! The invariant: every answer is looked at whole, head and page.

use std::net::SocketAddr;

use corelane_io::sim::SimIo;
use corelane_io::{Io, PAGE_SIZE, SendBatch, Stream};
use futures::future::join_all;

use crate::ceiling::page;
use crate::target::sigv4::{Credentials, Signer};

/// What ends the head of an answer.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// One connection.
struct Connection {
    stream: <SimIo as Io>::Stream,
    held: Vec<u8>,
    batch: Option<Box<SendBatch>>,
}

impl Connection {
    async fn get(&mut self, request: &[u8], expected: &[u8]) -> Result<(), String> {
        let mut batch = self.batch.take().expect("one send at a time");
        batch.clear();
        batch.push_head(request);
        let (sent, batch) = self.stream.send(batch).await;
        self.batch = Some(batch);
        sent.map_err(|error| error.to_string())?;
        loop {
            let received = self.stream.receive().await;
            let received = received.map_err(|error| error.to_string())?;
            if received.is_empty() {
                return Err("the shard closed a connection".to_owned());
            }
            self.held.extend_from_slice(&received);
            let end = self
                .held
                .windows(HEAD_END.len())
                .position(|bytes| bytes == HEAD_END);
            let Some(end) = end.map(|end| end + HEAD_END.len()) else {
                continue;
            };
            if !self.held.starts_with(b"HTTP/1.1 206 ") {
                return Err(format!(
                    "the shard refused a GET of the script: {}",
                    String::from_utf8_lossy(&self.held)
                ));
            }
            if self.held.len() < end + PAGE_SIZE {
                continue;
            }
            if &self.held[end..] != expected {
                return Err("wrong bytes in answer to a GET of the script".to_owned());
            }
            self.held.clear();
            return Ok(());
        }
    }
}

/// All connections.
pub(super) struct Connections {
    connections: Vec<Connection>,
    expected: Vec<u8>,
}

impl Connections {
    /// `count` of them.
    pub async fn open(io: &SimIo, address: SocketAddr, count: u64) -> Result<Self, String> {
        let mut connections = Vec::new();
        for _ in 0..count {
            let stream = io.connect(address).await;
            connections.push(Connection {
                stream: stream.map_err(|error| error.to_string())?,
                held: Vec::new(),
                batch: Some(Box::default()),
            });
        }
        Ok(Connections {
            connections,
            expected: page().to_vec(),
        })
    }

    /// Sends one of `requests` on each connection and takes all answers.
    pub async fn round(&mut self, requests: &[Vec<u8>]) -> Result<(), String> {
        let expected = &self.expected;
        let gets = self
            .connections
            .iter_mut()
            .zip(requests)
            .map(|(connection, request)| connection.get(request, expected));
        join_all(gets).await.into_iter().collect()
    }
}

/// Writes GETs of pages of the object at `path`.
pub(super) struct Requests {
    path: &'static str,
    host: String,
    /// With the time of the signatures, in seconds since the Unix epoch.
    signer: Option<(Signer, u64)>,
}

impl Requests {
    /// For the face at `address`; signed by `credentials` at `second`, if at all.
    pub fn new(
        path: &'static str,
        address: SocketAddr,
        credentials: Option<Credentials>,
        second: u64,
    ) -> Requests {
        let host = address.to_string();
        let signer = credentials.map(|credentials| (Signer::new(credentials, &host), second));
        Requests { path, host, signer }
    }

    /// The request for `page`.
    pub fn of(&mut self, page: u64) -> Vec<u8> {
        let (start, path) = (page * PAGE_SIZE as u64, self.path);
        let range = format!("bytes={start}-{}", start + PAGE_SIZE as u64 - 1);
        let mut out = format!("GET {path} HTTP/1.1\r\n").into_bytes();
        match &mut self.signer {
            Some((signer, second)) => signer.sign_at(&mut out, "GET", path, &range, *second),
            None => {
                let lines = format!("Host: {}\r\nRange: {range}\r\n", self.host);
                out.extend_from_slice(lines.as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}
