//! A lane by hand: what the client crate would never send, and answers as they are on the wire.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use corelane_rpc_schema::frame::{
    self, Decoded, Frame, LookupAnswerHead, ReadAnswerHead, ReadFlags, ReadRequest,
    encode_read_request, lookup_checksum,
};
use corelane_rpc_schema::messages::{ErrorMessage, Hello, HelloAnswer, Message, Open, OpenAnswer};
use corelane_rpc_schema::{ObjectId, ShardId, Stripe};

use super::process::HANG;

/// One frame from the worker.
#[derive(Debug)]
pub enum Answer {
    /// A message, with its request's id.
    Message(u64, Message),
    /// A read's head and bytes, whose checksums were compared.
    Read(ReadAnswerHead, Vec<u8>),
    /// A look-up's head and payload.
    LookedUp(LookupAnswerHead, Vec<u8>),
    /// The worker closed the connection.
    Closed,
}

/// A connection to one data port.
pub struct Lane {
    stream: TcpStream,
    held: Vec<u8>,
}

impl Lane {
    /// Connects and says nothing.
    pub fn silent(address: SocketAddr) -> Lane {
        let stream = TcpStream::connect(address).expect("the worker listens");
        stream
            .set_read_timeout(Some(HANG))
            .expect("a socket has a timeout");
        stream
            .set_write_timeout(Some(HANG))
            .expect("a socket has a timeout");
        Lane {
            stream,
            held: Vec::new(),
        }
    }

    /// Connects and says hello without a token.
    pub fn connect(address: SocketAddr) -> (Lane, HelloAnswer) {
        let mut lane = Lane::silent(address);
        match lane.hello("") {
            Answer::Message(1, Message::HelloAnswer(answer)) => (lane, answer),
            other => panic!("{other:?} in answer to hello"),
        }
    }

    /// Says hello with `token`; gives the answer.
    pub fn hello(&mut self, token: &str) -> Answer {
        let hello = Hello {
            token: token.to_owned(),
            client_name: "by hand".to_owned(),
        };
        self.send_message(1, &Message::Hello(hello));
        self.receive()
    }

    /// Sends bytes as they are. A connection that the worker has closed swallows them.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a message.
    pub fn send_message(&mut self, request_id: u64, message: &Message) {
        let mut bytes = Vec::new();
        message.to_frame(request_id, &mut bytes).expect("it fits");
        self.send(&bytes).expect("the worker reads");
    }

    /// The next frame.
    ///
    /// # Panics
    /// If the worker breaks the protocol, sends wrong bytes, or says nothing for too long.
    pub fn receive(&mut self) -> Answer {
        loop {
            let decoded = frame::decode(&self.held).expect("the worker keeps to the protocol");
            if let Decoded::Frame { frame, consumed } = decoded {
                let answer = match frame {
                    Frame::Message(header) => {
                        let (id, message) = Message::from_header(header).expect("a message");
                        Answer::Message(id, message)
                    }
                    Frame::ReadAnswer(answer, payload) => {
                        answer
                            .checksums
                            .verify(payload)
                            .expect("checksums are right");
                        Answer::Read(answer.head, payload.to_vec())
                    }
                    Frame::LookupAnswer(head, payload) => {
                        assert_eq!(lookup_checksum([payload]), head.checksum, "a checksum");
                        Answer::LookedUp(head, payload.to_vec())
                    }
                    Frame::Read(_) | Frame::Lookup(..) => {
                        panic!("neither asked for nor an answer: {frame:?}")
                    }
                };
                self.held.drain(..consumed);
                return answer;
            }
            let mut buffer = [0; 64 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Answer::Closed,
                Ok(count) => self.held.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Answer::Closed;
                }
                Err(error) => panic!("no answer and no end: {error}"),
            }
        }
    }

    /// Receives until the worker closes; gives the error that it said before.
    pub fn closing_error(&mut self) -> Option<ErrorMessage> {
        let mut reason = None;
        loop {
            match self.receive() {
                Answer::Closed => return reason,
                Answer::Message(0, Message::Error(error)) => reason = Some(error),
                _ => {}
            }
        }
    }

    /// Opens an object.
    pub fn open(&mut self, path: &str) -> OpenAnswer {
        let open = Open {
            path: path.to_owned(),
        };
        self.send_message(2, &Message::Open(open));
        match self.receive() {
            Answer::Message(2, Message::OpenAnswer(answer)) => answer,
            other => panic!("{other:?} in answer to open {path}"),
        }
    }

    /// Sends a read and does not wait.
    pub fn ask(&mut self, request_id: u64, object: ObjectId, offset: u64, length: u32) {
        let mut bytes = Vec::new();
        encode_read_request(
            &mut bytes,
            &ReadRequest {
                request_id,
                object,
                offset,
                length,
                flags: ReadFlags::CHECKSUMS,
            },
        );
        self.send(&bytes).expect("the worker reads");
    }

    /// Reads a range.
    pub fn read(
        &mut self,
        object: ObjectId,
        offset: u64,
        length: u32,
    ) -> (ReadAnswerHead, Vec<u8>) {
        self.ask(3, object, offset, length);
        match self.receive() {
            Answer::Read(head, bytes) => (head, bytes),
            other => panic!("{other:?} in answer to a read at {offset}"),
        }
    }
}

/// Who owns a byte, as any client would work it out.
pub fn owner(hello: &HelloAnswer, object: ObjectId, offset: u64) -> ShardId {
    let partitions = hello.partition_shards.len() as u32;
    let stripe = Stripe::of_offset(offset);
    let partition = corelane_placement::partition_of(object.home, stripe.0, partitions);
    hello.partition_shards[usize::from(partition)]
}
