//! One connection of a bare server: what is said on it, and replies out, in batches.

use std::io::{self, Write};
use std::net::TcpStream;

use super::Protocol;
use super::conversation::{Conversation, Greeting};
use super::http::HttpConversation;

/// Most iovecs of one call (`IOV_MAX`).
const IOVECS_MAX: usize = 1024;

/// Replies of one call: a head and a payload each.
pub(super) const REPLIES_PER_SEND_MAX: usize = IOVECS_MAX / 2;

/// What is said on a connection, by the protocol.
enum Spoken {
    Frames(Conversation),
    Http(HttpConversation),
}

/// A connection.
pub(super) struct Lane {
    pub stream: TcpStream,
    spoken: Spoken,
    /// Answers to hello and open, or to HEADs.
    answers: Vec<u8>,
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
    pub fn new(stream: TcpStream, protocol: Protocol, greeting: Greeting) -> Lane {
        // SAFETY: all zeros is a message header without anything.
        let message = Box::new(unsafe { std::mem::zeroed::<libc::msghdr>() });
        Lane {
            stream,
            spoken: match protocol {
                Protocol::Frames => Spoken::Frames(Conversation::new(greeting)),
                Protocol::Http => Spoken::Http(HttpConversation::new(greeting.object_bytes)),
            },
            answers: Vec::new(),
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
        let answers = &mut self.answers;
        let requests = match &mut self.spoken {
            Spoken::Frames(conversation) => conversation.receive(input, answers),
            Spoken::Http(conversation) => conversation.receive(input, answers),
        }?;
        if !self.answers.is_empty() {
            // A few hundred bytes into an empty socket buffer do not block.
            (&self.stream).write_all(&self.answers)?;
            self.answers.clear();
        }
        Ok(requests)
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
