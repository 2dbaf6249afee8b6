//! The receiving half of a lane: takes frames off the socket and hands them to whoever waits.
//!
//! The invariant: nothing is received into memory that its length did not justify before. Heads are
//! bounded by the protocol, payloads by what was asked for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use corelane_rpc_schema::frame::{
    DecodedHead, Head, LookupAnswerHead, decode_head, lookup_checksum, padding,
};
use corelane_rpc_schema::messages::{HelloAnswer, Message};
use corelane_rpc_schema::{STRIPE_BYTES, ShardId};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;

use super::{Answer, HELLO_REQUEST_ID, ReadPayload, Shared, disconnected, protocol, refused};
use crate::error::Error;

/// What is read from the socket at a time, at least. Holds a dozen answers of a page.
const RECEIVE_BYTES: usize = 64 << 10;

pub(super) struct Receiver {
    reader: OwnedReadHalf,
    buffer: BytesMut,
    address: SocketAddr,
    receipts: Arc<AtomicU64>,
}

enum Received {
    Message(u64, Message),
    Read {
        request_id: u64,
        shard_hint: Option<ShardId>,
        payload_bytes: u32,
    },
    Lookup(LookupAnswerHead, u32),
}

impl Receiver {
    pub(super) fn new(
        reader: OwnedReadHalf,
        address: SocketAddr,
        receipts: Arc<AtomicU64>,
    ) -> Self {
        Receiver {
            reader,
            buffer: BytesMut::with_capacity(RECEIVE_BYTES),
            address,
            receipts,
        }
    }

    /// Receives the answer to the hello, which comes first.
    pub(super) async fn hello_answer(&mut self) -> Result<HelloAnswer, Error> {
        let (_, received) = self.head().await?;
        match received {
            Received::Message(HELLO_REQUEST_ID, Message::HelloAnswer(answer)) => {
                if answer.stripe_bytes == STRIPE_BYTES && answer.read_bytes_max > 0 {
                    return Ok(answer);
                }
                let reason = format!(
                    "stripes of {} bytes and reads of {}; this client knows stripes of {STRIPE_BYTES} only",
                    answer.stripe_bytes, answer.read_bytes_max
                );
                Err(protocol(self.address, reason))
            }
            Received::Message(_, Message::Error(error)) => {
                Err(refused(error, String::from("hello")))
            }
            Received::Message(_, message) => Err(protocol(
                self.address,
                format!("{message:?} in answer to hello"),
            )),
            Received::Read { .. } | Received::Lookup(..) => {
                Err(protocol(self.address, "rows or bytes in answer to hello"))
            }
        }
    }

    /// Receives one frame and hands it to whoever waits for it.
    pub(super) async fn take_frame(&mut self, shared: &Shared) -> Result<(), Error> {
        let (head, received) = self.head().await?;
        match received {
            Received::Read {
                request_id,
                shard_hint,
                payload_bytes,
            } => {
                // Taken out only when all has come: until then the lane's end is the caller's too.
                self.check_expected(shared, request_id, payload_bytes)?;
                let payload = self.payload(payload_bytes).await?;
                if let Some(waiting) = shared.take(request_id) {
                    let answer = Answer::Read(ReadPayload {
                        head,
                        payload,
                        shard_hint,
                    });
                    let _ = waiting.caller.send(Ok(answer));
                }
            }
            Received::Lookup(head, payload_bytes) => {
                self.check_look_up_expected(shared, head.request_id)?;
                let payload = self.payload(payload_bytes).await?;
                if lookup_checksum([&payload[..]]) != head.checksum {
                    return Err(protocol(
                        self.address,
                        "the checksum of a look-up's answer does not match",
                    ));
                }
                if let Some(waiting) = shared.take(head.request_id) {
                    let _ = waiting.caller.send(Ok(Answer::Lookup(head, payload)));
                }
            }
            Received::Message(_, Message::GoAway) => {
                tracing::debug!(address = %self.address, "the worker asked for no new requests");
                shared.going_away.store(true, Ordering::Release);
            }
            Received::Message(0, Message::Error(error)) => {
                return Err(refused(
                    error,
                    format!("the connection to {}", self.address),
                ));
            }
            Received::Message(request_id, message) => {
                let Some(waiting) = shared.take(request_id) else {
                    return Err(protocol(
                        self.address,
                        format!("answer to no request: {message:?}"),
                    ));
                };
                let _ = waiting.caller.send(Ok(Answer::Message(message)));
            }
        }
        Ok(())
    }

    fn check_expected(
        &self,
        shared: &Shared,
        request_id: u64,
        payload_bytes: u32,
    ) -> Result<(), Error> {
        let state = shared.state();
        let slot = request_id as u32 as usize;
        let expected = state
            .waiting
            .get(slot)
            .filter(|waiting| request_id >> 32 == u64::from(waiting.generation));
        let reason = match expected.map(|waiting| waiting.read_bytes) {
            Some(Some(bytes)) if bytes == payload_bytes => return Ok(()),
            Some(Some(bytes)) => format!("{payload_bytes} bytes in answer to a read of {bytes}"),
            Some(None) => String::from("a READ answer to another request"),
            None => format!("a READ answer to no request, id {request_id:#x}"),
        };
        Err(protocol(self.address, reason))
    }

    fn check_look_up_expected(&self, shared: &Shared, request_id: u64) -> Result<(), Error> {
        let state = shared.state();
        let expected = state.waiting.get(request_id as u32 as usize);
        let is_expected = expected.is_some_and(|waiting| {
            request_id >> 32 == u64::from(waiting.generation) && waiting.read_bytes.is_none()
        });
        if is_expected {
            return Ok(());
        }
        let reason = format!("a LOOKUP answer to no look-up, id {request_id:#x}");
        Err(protocol(self.address, reason))
    }

    async fn head(&mut self) -> Result<(Bytes, Received), Error> {
        let (received, consumed) = loop {
            match decode_head(&self.buffer).map_err(|error| protocol(self.address, error))? {
                DecodedHead::Incomplete { .. } => self.fill().await?,
                DecodedHead::Head {
                    head: Head::Message(segment),
                    consumed,
                    ..
                } => {
                    let (request_id, message) = Message::from_header(segment)
                        .map_err(|error| protocol(self.address, error))?;
                    break (Received::Message(request_id, message), consumed);
                }
                DecodedHead::Head {
                    head: Head::ReadAnswer(answer),
                    consumed,
                    payload_bytes,
                } => {
                    let request_id = answer.head.request_id;
                    let shard_hint = answer.head.shard_hint;
                    break (
                        Received::Read {
                            request_id,
                            shard_hint,
                            payload_bytes,
                        },
                        consumed,
                    );
                }
                DecodedHead::Head {
                    head: Head::LookupAnswer(head),
                    consumed,
                    payload_bytes,
                } => break (Received::Lookup(head, payload_bytes), consumed),
                DecodedHead::Head {
                    head: Head::Read(_) | Head::Lookup(_),
                    ..
                } => {
                    return Err(protocol(self.address, "a request, which only clients send"));
                }
            }
        };
        Ok((self.buffer.split_to(consumed).freeze(), received))
    }

    /// Receives a payload into memory of its own, and skips its padding.
    async fn payload(&mut self, payload_bytes: u32) -> Result<Bytes, Error> {
        let length = payload_bytes as usize;
        let mut payload = BytesMut::with_capacity(length);
        let here = self.buffer.len().min(length);
        payload.extend_from_slice(&self.buffer.split_to(here));
        while payload.len() < length {
            let mut rest = (&mut self.reader).take((length - payload.len()) as u64);
            let received = rest.read_buf(&mut payload).await;
            self.check_received(received)?;
        }
        let padding = padding(payload_bytes);
        while self.buffer.len() < padding {
            self.fill().await?;
        }
        drop(self.buffer.split_to(padding));
        Ok(payload.freeze())
    }

    async fn fill(&mut self) -> Result<(), Error> {
        self.buffer.reserve(RECEIVE_BYTES);
        let received = self.reader.read_buf(&mut self.buffer).await;
        self.check_received(received)
    }

    fn check_received(&self, received: std::io::Result<usize>) -> Result<(), Error> {
        match received {
            Ok(0) => Err(disconnected(self.address, "the worker closed it")),
            Ok(_) => {
                self.receipts.fetch_add(1, Ordering::AcqRel);
                Ok(())
            }
            Err(error) => Err(disconnected(self.address, error)),
        }
    }
}
