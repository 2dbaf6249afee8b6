//! A lane from the server's side, without a socket: bytes in, counted as requests; hello and open
//! answered.
//!
//! The invariant: from the first READ on only READs come, and those are counted by their bytes and
//! not looked at. It must not do I/O: every bare server brings its own.

use std::io;

use corelane_rpc_schema::frame::{Decoded, Frame, READ_REQUEST_BYTES, decode};
use corelane_rpc_schema::messages::{HelloAnswer, Message, OpenAnswer};
use corelane_rpc_schema::{BLOCK_BYTES_DEFAULT, ObjectId, READ_BYTES_MAX, STRIPE_BYTES, ShardId};

/// What a lane says of its server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Greeting {
    /// Where the server listens.
    pub port: u16,
    /// Bytes of the one object that it pretends to have.
    pub object_bytes: u64,
}

/// What was said on one connection.
#[derive(Debug)]
pub(crate) struct Conversation {
    greeting: Greeting,
    /// Bytes of an unfinished greeting.
    held: Vec<u8>,
    has_greeted: bool,
    /// Bytes of a request that is not complete yet.
    request_bytes: usize,
}

impl Conversation {
    /// One that begins.
    pub fn new(greeting: Greeting) -> Conversation {
        Conversation {
            greeting,
            held: Vec::new(),
            has_greeted: false,
            request_bytes: 0,
        }
    }

    /// Takes what arrived; gives the number of READs that it completed. What is to be sent before
    /// their replies is appended to `answers`.
    ///
    /// # Errors
    /// When the client says what a bare server does not answer.
    #[inline]
    pub fn receive(&mut self, input: &[u8], answers: &mut Vec<u8>) -> io::Result<u64> {
        let mut bytes = input.len();
        if !self.has_greeted {
            self.held.extend_from_slice(input);
            bytes = self.greet(answers)?;
        }
        self.request_bytes += bytes;
        let requests = self.request_bytes / READ_REQUEST_BYTES;
        self.request_bytes %= READ_REQUEST_BYTES;
        Ok(requests as u64)
    }

    /// Answers hello and opens; gives the bytes of requests that follow the last of them.
    #[cold]
    fn greet(&mut self, answers: &mut Vec<u8>) -> io::Result<usize> {
        let mut consumed_all = 0;
        loop {
            let decoded = decode(&self.held[consumed_all..]).map_err(io::Error::other)?;
            let Decoded::Frame { frame, consumed } = decoded else {
                break;
            };
            let Frame::Message(header) = frame else {
                // From the first read on, only reads come.
                self.has_greeted = true;
                let rest = self.held.len() - consumed_all;
                self.held = Vec::new();
                return Ok(rest);
            };
            let (request_id, message) = Message::from_header(header).map_err(io::Error::other)?;
            let mut answer = Vec::new();
            self.answer_of(&message)?
                .to_frame(request_id, &mut answer)
                .map_err(io::Error::other)?;
            answers.extend_from_slice(&answer);
            consumed_all += consumed;
        }
        self.held.drain(..consumed_all);
        Ok(0)
    }

    fn answer_of(&self, message: &Message) -> io::Result<Message> {
        match message {
            Message::Hello(_) => Ok(Message::HelloAnswer(HelloAnswer {
                worker_id: "ceiling".to_owned(),
                epoch: 1,
                shard: ShardId(0),
                shard_ports: vec![self.greeting.port],
                partition_shards: vec![ShardId(0)],
                requests_in_flight_max: u32::MAX,
                bytes_in_flight_max: u64::MAX,
                read_bytes_max: READ_BYTES_MAX,
                stripe_bytes: STRIPE_BYTES,
            })),
            Message::Open(open) => Ok(Message::OpenAnswer(OpenAnswer {
                object: ObjectId::new(
                    &open.path,
                    "ceiling",
                    self.greeting.object_bytes,
                    BLOCK_BYTES_DEFAULT,
                ),
                length: self.greeting.object_bytes,
                block_bytes: BLOCK_BYTES_DEFAULT,
                version: "ceiling".to_owned(),
                ..OpenAnswer::default()
            })),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a ceiling answers hello, open and READ only",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane_rpc_schema::messages::Hello;

    #[test]
    fn a_greeting_is_answered_however_it_comes_and_reads_are_counted() {
        let mut input = Vec::new();
        let hello = Message::Hello(Hello {
            token: String::new(),
            client_name: "test".to_owned(),
        });
        hello.to_frame(1, &mut input).expect("a frame");
        let read = corelane_rpc_schema::frame::ReadRequest {
            request_id: 1,
            object: ObjectId::new("/object", "1", 4096, BLOCK_BYTES_DEFAULT),
            offset: 0,
            length: 4096,
            flags: corelane_rpc_schema::frame::ReadFlags::CHECKSUMS,
        };
        for _ in 0..3 {
            corelane_rpc_schema::frame::encode_read_request(&mut input, &read);
        }
        for piece in [1, 7, 64, input.len()] {
            let mut conversation = Conversation::new(Greeting {
                port: 1,
                object_bytes: 4096,
            });
            let mut answers = Vec::new();
            let reads: u64 = input
                .chunks(piece)
                .map(|bytes| conversation.receive(bytes, &mut answers).expect("valid"))
                .sum();
            assert_eq!(reads, 3, "in pieces of {piece}");
            assert!(!answers.is_empty());
        }
    }
}
