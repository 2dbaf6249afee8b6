//! One connection of the generator: requests out, answers in.
//!
//! The invariant: a slot of `started` is in flight from the encoding of its request until the
//! last byte of its answer; payload bytes are looked at only where they are to be verified.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Instant;

use corelane_rpc_schema::PAGE_BYTES;
use corelane_rpc_schema::frame::{
    DecodedHead, Head, ReadFlags, ReadRequest, decode_head, encode_read_request, padding,
};
use corelane_rpc_schema::messages::Message;

use super::keys::KeySet;
use super::{LoadResult, SAMPLE_ONE_IN, Verify};
use crate::ceiling::OLDEST_REQUEST_ID;
use crate::random::Random;

/// The answer whose payload is arriving.
#[derive(Default)]
struct Arriving {
    slot: u32,
    /// Payload bytes and padding still to come.
    left: usize,
    /// Of them, padding.
    padding: usize,
    payload_bytes: u32,
    source: u8,
    is_checked: bool,
    is_wrong: bool,
    checksum: u32,
    page: usize,
    page_left: usize,
}

/// What lanes add to while the clock runs.
pub(super) struct Tally {
    pub result: LoadResult,
    pub is_measuring: bool,
    pub verify: Verify,
    pub random: Random,
    sampled: u32,
}

impl Tally {
    pub fn new(verify: Verify, seed: u64) -> Tally {
        Tally {
            result: LoadResult::new(),
            is_measuring: false,
            verify,
            random: Random::new(seed),
            sampled: 0,
        }
    }

    fn checks_next(&mut self) -> bool {
        self.sampled = self.sampled.wrapping_add(1);
        match self.verify {
            Verify::None => false,
            Verify::Sample => self.sampled.is_multiple_of(SAMPLE_ONE_IN),
            Verify::All => true,
        }
    }
}

pub(super) struct Lane {
    pub stream: TcpStream,
    keys: Rc<KeySet>,
    /// When the request of each slot was encoded; request ids are slots plus one.
    started: Vec<Instant>,
    /// Slots in the order of their requests, for servers that answer in order.
    order: VecDeque<u32>,
    is_in_order: bool,
    /// A head that did not come whole.
    held: Vec<u8>,
    arriving: Arriving,
    expected: Vec<u32>,
    /// Requests that wait for the send under way to end.
    filling: Vec<u8>,
    /// Requests that are being sent.
    pub sending: Vec<u8>,
    pub sent: usize,
    /// Whether requests replace those that were answered.
    pub is_open: bool,
    pub in_flight: u32,
}

impl Lane {
    pub fn new(stream: TcpStream, keys: Rc<KeySet>, depth: u32) -> Lane {
        Lane {
            stream,
            keys,
            started: vec![Instant::now(); depth as usize],
            order: VecDeque::with_capacity(depth as usize),
            is_in_order: true,
            held: Vec::new(),
            arriving: Arriving::default(),
            expected: Vec::new(),
            filling: Vec::new(),
            sending: Vec::new(),
            sent: 0,
            is_open: true,
            in_flight: 0,
        }
    }

    /// Encodes the first requests.
    pub fn fill(&mut self, tally: &mut Tally, now: Instant) {
        for slot in 0..self.started.len() as u32 {
            self.request(slot, tally, now);
        }
    }

    #[inline]
    fn request(&mut self, slot: u32, tally: &mut Tally, now: Instant) {
        let key = self.keys.draw(&mut tally.random);
        let request = ReadRequest {
            request_id: u64::from(slot) + 1,
            object: key.object,
            offset: key.offset,
            length: key.length,
            flags: ReadFlags::CHECKSUMS,
        };
        encode_read_request(&mut self.filling, &request);
        self.started[slot as usize] = now;
        self.in_flight += 1;
        if self.is_in_order {
            self.order.push_back(slot);
        }
    }

    /// Moves the requests that wait to the sending side; false when there are none or a send is
    /// under way.
    #[inline]
    pub fn take_requests(&mut self) -> bool {
        if !self.sending.is_empty() || self.filling.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.sending, &mut self.filling);
        self.sent = 0;
        true
    }

    /// Takes what arrived; answers that end in it are counted and replaced by new requests.
    #[inline]
    pub fn receive(&mut self, mut input: &[u8], tally: &mut Tally, now: Instant) -> io::Result<()> {
        while !input.is_empty() {
            if self.arriving.left > 0 {
                let take = self.arriving.left.min(input.len());
                if self.arriving.is_checked {
                    self.check(&input[..take]);
                }
                self.arriving.left -= take;
                input = &input[take..];
                if self.arriving.left == 0 {
                    self.finish(tally, now);
                }
            } else if self.held.is_empty() {
                match self.head(input, tally, now)? {
                    Ok(consumed) => input = &input[consumed..],
                    Err(_) => {
                        self.held.extend_from_slice(input);
                        return Ok(());
                    }
                }
            } else {
                input = self.complete_held(input, tally, now)?;
            }
        }
        Ok(())
    }

    fn complete_held<'a>(
        &mut self,
        input: &'a [u8],
        tally: &mut Tally,
        now: Instant,
    ) -> io::Result<&'a [u8]> {
        let mut held = std::mem::take(&mut self.held);
        let mut rest = input;
        while let Err(needed) = self.head(&held, tally, now)? {
            let take = (needed - held.len()).min(rest.len());
            held.extend_from_slice(&rest[..take]);
            rest = &rest[take..];
            if take == 0 {
                self.held = held;
                return Ok(rest);
            }
        }
        held.clear();
        self.held = held;
        Ok(rest)
    }

    /// Reads a head: the bytes that it has, or as `Err` the bytes that it would need.
    #[inline]
    fn head(
        &mut self,
        input: &[u8],
        tally: &mut Tally,
        now: Instant,
    ) -> io::Result<Result<usize, usize>> {
        let (head, consumed, payload_bytes) = match decode_head(input).map_err(io::Error::other)? {
            DecodedHead::Incomplete { needed } => return Ok(Err(needed)),
            DecodedHead::Head {
                head,
                consumed,
                payload_bytes,
            } => (head, consumed, payload_bytes),
        };
        match head {
            Head::ReadAnswer(answer) => {
                let slot = self.slot_of(answer.head.request_id)?;
                let is_checked = tally.checks_next() && !answer.checksums.is_empty();
                if is_checked {
                    self.expected.clear();
                    self.expected.extend(answer.checksums.iter());
                }
                let padding = padding(payload_bytes);
                self.arriving = Arriving {
                    slot,
                    left: payload_bytes as usize + padding,
                    padding,
                    payload_bytes,
                    source: answer.head.source as u8,
                    is_checked,
                    page_left: PAGE_BYTES as usize,
                    ..Arriving::default()
                };
            }
            Head::Message(header) => self.message(header, tally, now)?,
            Head::Read(_) => return Err(io::Error::other("a server does not send READs")),
        }
        Ok(Ok(consumed))
    }

    #[inline]
    fn slot_of(&mut self, request_id: u64) -> io::Result<u32> {
        let unknown = || {
            io::Error::other(format!(
                "an answer to request {request_id}, which was not asked"
            ))
        };
        if request_id == OLDEST_REQUEST_ID {
            return self.order.pop_front().ok_or_else(unknown);
        }
        if self.is_in_order {
            self.is_in_order = false;
            self.order = VecDeque::new();
        }
        let slot = request_id.wrapping_sub(1);
        if slot >= self.started.len() as u64 {
            return Err(unknown());
        }
        Ok(slot as u32)
    }

    #[cold]
    fn message(&mut self, header: &[u8], tally: &mut Tally, now: Instant) -> io::Result<()> {
        let (request_id, message) = Message::from_header(header).map_err(io::Error::other)?;
        let Message::Error(error) = message else {
            return match message {
                Message::GoAway => Err(io::Error::other("the worker is stopping")),
                other => Err(io::Error::other(format!(
                    "an unexpected message: {other:?}"
                ))),
            };
        };
        if request_id == 0 {
            return Err(io::Error::other(error.message));
        }
        let slot = self.slot_of(request_id)?;
        if tally.is_measuring {
            tally.result.errors += 1;
        }
        tally.result.first_error.get_or_insert(error.message);
        self.in_flight -= 1;
        if self.is_open {
            self.request(slot, tally, now);
        }
        Ok(())
    }

    /// Goes over payload bytes (and the padding behind them) page by page.
    fn check(&mut self, bytes: &[u8]) {
        let arriving = &mut self.arriving;
        let payload_left = arriving.left.saturating_sub(arriving.padding);
        let mut bytes = &bytes[..bytes.len().min(payload_left)];
        let mut payload_left = payload_left;
        while !bytes.is_empty() {
            let take = arriving.page_left.min(bytes.len());
            arriving.checksum = crc32c::crc32c_append(arriving.checksum, &bytes[..take]);
            arriving.page_left -= take;
            payload_left -= take;
            bytes = &bytes[take..];
            if arriving.page_left > 0 && payload_left == 0 {
                // A short last page counts as padded with zeros.
                let zeros = [0; PAGE_BYTES as usize];
                arriving.checksum =
                    crc32c::crc32c_append(arriving.checksum, &zeros[..arriving.page_left]);
                arriving.page_left = 0;
            }
            if arriving.page_left == 0 {
                arriving.is_wrong |= self.expected.get(arriving.page) != Some(&arriving.checksum);
                arriving.page += 1;
                arriving.page_left = PAGE_BYTES as usize;
                arriving.checksum = 0;
            }
        }
    }

    #[inline]
    fn finish(&mut self, tally: &mut Tally, now: Instant) {
        let arriving = &self.arriving;
        let slot = arriving.slot;
        let result = &mut tally.result;
        if tally.is_measuring {
            result.operations += 1;
            result.bytes += u64::from(arriving.payload_bytes);
            result.by_source[usize::from(arriving.source)] += 1;
            result.verified += u64::from(arriving.is_checked);
            let taken = now.saturating_duration_since(self.started[slot as usize]);
            result.latency_ns.saturating_record(taken.as_nanos() as u64);
        }
        // A wrong byte counts whenever it comes.
        result.wrong += u64::from(arriving.is_wrong);
        self.in_flight -= 1;
        if self.is_open {
            self.request(slot, tally, now);
        }
    }
}
