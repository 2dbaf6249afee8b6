//! One connection of a bare server: bytes in, counted as requests; replies out, in batches.

use std::io::{self, Write};
use std::net::TcpStream;

use corelane_rpc_schema::frame::{Decoded, Frame, READ_REQUEST_BYTES, decode};
use corelane_rpc_schema::messages::{HelloAnswer, Message, OpenAnswer};
use corelane_rpc_schema::{BLOCK_BYTES_DEFAULT, ObjectId, READ_BYTES_MAX, STRIPE_BYTES, ShardId};

/// Most iovecs of one call (`IOV_MAX`).
const IOVECS_MAX: usize = 1024;

/// Replies of one call: a head and a payload each.
pub(super) const REPLIES_PER_SEND_MAX: usize = IOVECS_MAX / 2;

/// What a lane says of its server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeting {
    /// Where the server listens.
    pub port: u16,
    /// Bytes of the one object that it pretends to have.
    pub object_bytes: u64,
}

/// A connection.
pub(super) struct Lane {
    pub stream: TcpStream,
    greeting: Greeting,
    /// Bytes of an unfinished greeting.
    held: Vec<u8>,
    has_greeted: bool,
    /// Bytes of a request that is not complete yet.
    request_bytes: usize,
    /// Requests without a reply on its way.
    pub owed: u64,
    /// Replies of the send under way.
    pub sending: usize,
    /// Reads of the device under way.
    pub reading: u32,
    /// Whether the connection ended.
    pub is_closing: bool,
    /// Buffers of the send under way, for a device's server.
    pub sending_buffers: Vec<u32>,
    /// Buffers that were read and wait to be sent.
    pub ready_buffers: Vec<u32>,
    iovecs: Vec<libc::iovec>,
    message: Box<libc::msghdr>,
    send_bytes: usize,
}

impl Lane {
    pub fn new(stream: TcpStream, greeting: Greeting) -> Lane {
        // SAFETY: all zeros is a message header without anything.
        let message = Box::new(unsafe { std::mem::zeroed::<libc::msghdr>() });
        Lane {
            stream,
            greeting,
            held: Vec::new(),
            has_greeted: false,
            request_bytes: 0,
            owed: 0,
            sending: 0,
            reading: 0,
            is_closing: false,
            sending_buffers: Vec::new(),
            ready_buffers: Vec::new(),
            iovecs: Vec::with_capacity(IOVECS_MAX),
            message,
            send_bytes: 0,
        }
    }

    /// Takes what arrived; gives the number of requests that it completed.
    #[inline]
    pub fn receive(&mut self, input: &[u8]) -> io::Result<u64> {
        let mut bytes = input.len();
        if !self.has_greeted {
            self.held.extend_from_slice(input);
            bytes = self.greet()?;
        }
        self.request_bytes += bytes;
        let requests = self.request_bytes / READ_REQUEST_BYTES;
        self.request_bytes %= READ_REQUEST_BYTES;
        Ok(requests as u64)
    }

    /// Answers hello and opens; gives the bytes of requests that follow the last of them.
    #[cold]
    fn greet(&mut self) -> io::Result<usize> {
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
            let answer = self.answer_of(&message)?;
            let mut out = Vec::new();
            answer
                .to_frame(request_id, &mut out)
                .map_err(io::Error::other)?;
            // A few hundred bytes into an empty socket buffer do not block.
            (&self.stream).write_all(&out)?;
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
                object: ObjectId::new(&open.path, "ceiling", BLOCK_BYTES_DEFAULT),
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

    /// Appends a reply to the send that is being put together.
    ///
    /// The pointers must stay valid until the send completed.
    #[inline]
    pub fn push_reply(&mut self, head: &[u8], payload: *const u8, payload_bytes: usize) {
        self.iovecs.push(libc::iovec {
            iov_base: head.as_ptr().cast_mut().cast(),
            iov_len: head.len(),
        });
        self.iovecs.push(libc::iovec {
            iov_base: payload.cast_mut().cast(),
            iov_len: payload_bytes,
        });
        self.send_bytes += head.len() + payload_bytes;
        self.sending += 1;
    }

    /// The message header of the replies that were appended.
    #[inline]
    pub fn message(&mut self) -> *const libc::msghdr {
        self.message.msg_iov = self.iovecs.as_mut_ptr();
        self.message.msg_iovlen = self.iovecs.len();
        &raw const *self.message
    }

    /// Ends the send under way; `result` is its completion's.
    pub fn sent(&mut self, result: i32) -> io::Result<()> {
        let expected = std::mem::take(&mut self.send_bytes);
        self.iovecs.clear();
        self.sending = 0;
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        if result as usize != expected {
            // MSG_WAITALL sends everything unless the connection breaks.
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}
