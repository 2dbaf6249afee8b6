//! One look-up at a time over a lane, timed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use corelane_client::lookup::execute::counts::Counts;
use corelane_client::lookup::request::LookupRequest;
use corelane_rpc_schema::frame::{Decoded, Frame, LookupAnswerHead, decode, encode_lookup};
use corelane_rpc_schema::messages::Message;

use super::worker::LookupWorker;
use crate::target::greeting;

/// A lane.
pub(super) struct Asker {
    stream: TcpStream,
    bytes: Vec<u8>,
}

/// An answer.
pub(super) struct Answered {
    pub head: LookupAnswerHead,
    /// What it took, where the request asked to explain.
    pub counts: Option<Counts>,
    /// The rows.
    pub stream: Vec<u8>,
    /// From the send to the last byte.
    pub took: Duration,
}

impl Asker {
    pub fn connect(worker: &LookupWorker) -> Result<Asker, String> {
        let (stream, _) =
            greeting::connect(worker.process.address(), "").map_err(|error| error.to_string())?;
        Ok(Asker {
            stream,
            bytes: Vec::new(),
        })
    }

    pub fn ask(&mut self, request: &LookupRequest) -> Result<Answered, String> {
        let fail = |error: std::io::Error| format!("a look-up: {error}");
        self.bytes.clear();
        encode_lookup(&mut self.bytes, 1, &request.encode()).map_err(|error| error.to_string())?;
        let begin = Instant::now();
        self.stream.write_all(&self.bytes).map_err(fail)?;
        let mut filled = 0;
        loop {
            let needed = match decode(&self.bytes[..filled]).map_err(|error| error.to_string())? {
                Decoded::Incomplete { needed } => needed,
                Decoded::Frame { frame, .. } => {
                    let took = begin.elapsed();
                    return answered(frame, took);
                }
            };
            self.bytes.resize(needed.max(16 << 10), 0);
            let received = self.stream.read(&mut self.bytes[filled..]).map_err(fail)?;
            if received == 0 {
                return Err("a look-up: the worker closed the lane".to_owned());
            }
            filled += received;
        }
    }
}

fn answered(frame: Frame<'_>, took: Duration) -> Result<Answered, String> {
    match frame {
        Frame::LookupAnswer(head, payload) => {
            let (statistics, stream) = payload.split_at(head.statistics_bytes as usize);
            let counts = match statistics {
                [] => None,
                text => {
                    Some(serde_json::from_slice(text).map_err(|error| format!("counts: {error}"))?)
                }
            };
            Ok(Answered {
                head,
                counts,
                stream: stream.to_vec(),
                took,
            })
        }
        Frame::Message(header) => match Message::from_header(header) {
            Ok((_, Message::Error(error))) => Err(error.message),
            other => Err(format!("an unexpected message: {other:?}")),
        },
        _ => Err("another frame where the answer to a look-up was expected".to_owned()),
    }
}
