//! The loop of one generator over streams: one thread, one bare ring, all of its connections.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::{cqueue, opcode, types};

use super::{Answer, Checks, Object, Wire};
use crate::load::LoadResult;
use crate::load::crew::Member;
use crate::load::operations::{Operations, Transport};
use crate::ring::{BufferRing, Completion, Ring};
use crate::workload::Piece;

/// Receive buffers: a few, so that they stay in the core's own cache while they are reused.
const RECEIVE_BUFFERS: u16 = 16;
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// A server that does not answer for so long ends the run.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often a loop wakes that nothing wakes, so that silence does not stop the clock.
const WAKE_EVERY: Duration = Duration::from_millis(10);

const RECEIVE: u64 = 1 << 32;
const SEND: u64 = 2 << 32;
const TIMER: u64 = 3 << 32;

/// Connects the lanes of `member` by `connect`, which gets an address and the depth, and runs its
/// operations over them to their end.
///
/// # Errors
/// When a connection is refused or breaks, the protocol is broken or the server falls silent.
pub fn drive<W: Wire>(
    member: Member<'_>,
    mut connect: impl FnMut(SocketAddr, u32) -> io::Result<(TcpStream, W)>,
) -> io::Result<LoadResult> {
    let lane_endpoints = member.lane_endpoints()?;
    let lanes = lane_endpoints
        .iter()
        .map(|endpoint| {
            let address = member.catalogue.endpoints[*endpoint as usize];
            let (stream, wire) = connect(address, member.spec.depth)?;
            Ok(Lane::new(stream, wire))
        })
        .collect::<io::Result<Vec<Lane<W>>>>()?;
    let mut generator = Generator::new(&member, lanes)?;
    let Some(stretch) = member.wait_for_start() else {
        return Ok(LoadResult::new());
    };
    let mut operations = Operations::new(member, lane_endpoints, stretch);
    std::thread::sleep(stretch.start.saturating_duration_since(Instant::now()));
    generator.start(&mut operations)?;
    while generator.turn(&mut operations)? {}
    let mut result = operations.finish();
    result.first_error = generator.checks.first_error;
    Ok(result)
}

struct Lane<W> {
    stream: TcpStream,
    wire: W,
    /// Requests that wait for the send under way to end.
    filling: Vec<u8>,
    /// Requests that are being sent.
    sending: Vec<u8>,
    sent: usize,
    is_dirty: bool,
}

impl<W> Lane<W> {
    fn new(stream: TcpStream, wire: W) -> Self {
        Lane {
            stream,
            wire,
            filling: Vec::new(),
            sending: Vec::new(),
            sent: 0,
            is_dirty: false,
        }
    }

    /// Moves the requests that wait to the sending side; false when there are none or a send is
    /// under way.
    #[inline]
    fn take_requests(&mut self) -> bool {
        if !self.sending.is_empty() || self.filling.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.sending, &mut self.filling);
        self.sent = 0;
        true
    }
}

struct Lanes<'a, W> {
    lanes: Vec<Lane<W>>,
    objects: &'a [Object],
    /// Lanes with requests to send.
    dirty: Vec<u32>,
}

impl<W: Wire> Transport for Lanes<'_, W> {
    #[inline]
    fn issue(&mut self, lane: u32, slot: u32, piece: &Piece) {
        let object = &self.objects[piece.object as usize];
        let index = lane;
        let lane = &mut self.lanes[lane as usize];
        lane.wire.request(&mut lane.filling, slot, piece, object);
        if !lane.is_dirty {
            lane.is_dirty = true;
            self.dirty.push(index);
        }
    }
}

struct Generator<'a, W> {
    ring: Ring,
    receive: BufferRing,
    lanes: Lanes<'a, W>,
    checks: Checks,
    spin: Duration,
    completions: Vec<Completion>,
    answers: Vec<Answer>,
    wake_every: Box<types::Timespec>,
    last_answer: Instant,
}

impl<'a, W: Wire> Generator<'a, W> {
    fn new(member: &Member<'a>, lanes: Vec<Lane<W>>) -> io::Result<Self> {
        let ring = Ring::new(4096)?;
        ring.reserve_files(lanes.len() as u32)?;
        for (index, lane) in lanes.iter().enumerate() {
            ring.set_file(index as u32, lane.stream.as_raw_fd())?;
        }
        Ok(Generator {
            receive: BufferRing::register(&ring, RECEIVE_BUFFERS, RECEIVE_BUFFER_BYTES)?,
            ring,
            lanes: Lanes {
                lanes,
                objects: &member.catalogue.objects,
                dirty: Vec::new(),
            },
            checks: Checks::new(member.spec.verify),
            spin: member.spec.spin,
            completions: Vec::with_capacity(4096),
            answers: Vec::new(),
            wake_every: Box::new(types::Timespec::from(WAKE_EVERY)),
            last_answer: Instant::now(),
        })
    }

    fn start(&mut self, operations: &mut Operations<'_>) -> io::Result<()> {
        for index in 0..self.lanes.lanes.len() as u32 {
            self.arm_receive(index)?;
        }
        self.last_answer = Instant::now();
        self.arm_timer()?;
        operations.begin(&mut self.lanes);
        self.send_dirty()
    }

    fn arm_timer(&mut self) -> io::Result<()> {
        let entry = opcode::Timeout::new(&raw const *self.wake_every)
            .build()
            .user_data(TIMER);
        // SAFETY: the time is boxed in `self`, which outlives the ring's use of it.
        unsafe { self.ring.push(&entry) }
    }

    fn arm_receive(&mut self, index: u32) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(types::Fixed(index), 0)
            .build()
            .user_data(RECEIVE | u64::from(index));
        // SAFETY: buffers come from the buffer ring, which lives as long as the ring.
        unsafe { self.ring.push(&entry) }
    }

    fn arm_send(&mut self, index: u32) -> io::Result<()> {
        let lane = &self.lanes.lanes[index as usize];
        let bytes = &lane.sending[lane.sent..];
        let entry = opcode::Send::new(types::Fixed(index), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(SEND | u64::from(index));
        // SAFETY: `sending` is not changed until the send completed, and outlives the ring's use.
        unsafe { self.ring.push(&entry) }
    }

    fn send_dirty(&mut self) -> io::Result<()> {
        while let Some(index) = self.lanes.dirty.pop() {
            let lane = &mut self.lanes.lanes[index as usize];
            lane.is_dirty = false;
            if lane.take_requests() {
                self.arm_send(index)?;
            }
        }
        Ok(())
    }

    /// One turn; false when the load is over.
    fn turn(&mut self, operations: &mut Operations<'_>) -> io::Result<bool> {
        match operations.due() {
            Some(due) => self.ring.turn_until(due, self.spin)?,
            None => self.ring.turn(self.spin)?,
        }
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.take(&mut completions);
        for completion in &completions {
            self.handle(*completion, operations)?;
        }
        self.completions = completions;
        let now = Instant::now();
        let goes_on = operations.turn(&mut self.lanes, now);
        self.send_dirty()?;
        if !operations.is_waiting() {
            self.last_answer = now;
        }
        if now.saturating_duration_since(self.last_answer) > SILENCE_MAX {
            let text = format!("no answer for {SILENCE_MAX:?} although requests are under way");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(goes_on)
    }

    fn handle(
        &mut self,
        completion: Completion,
        operations: &mut Operations<'_>,
    ) -> io::Result<()> {
        let Completion {
            user_data,
            result,
            flags,
        } = completion;
        let index = user_data as u32;
        match user_data & !u64::from(u32::MAX) {
            RECEIVE => self.received(index, result, flags, operations),
            SEND => {
                if result < 0 {
                    return Err(io::Error::from_raw_os_error(-result));
                }
                let lane = &mut self.lanes.lanes[index as usize];
                lane.sent += result as usize;
                if lane.sent < lane.sending.len() {
                    return self.arm_send(index);
                }
                lane.sending.clear();
                if !lane.filling.is_empty() && !lane.is_dirty {
                    lane.is_dirty = true;
                    self.lanes.dirty.push(index);
                }
                Ok(())
            }
            TIMER => self.arm_timer(),
            _ => unreachable!("user data {user_data:#x}"),
        }
    }

    fn received(
        &mut self,
        index: u32,
        result: i32,
        flags: u32,
        operations: &mut Operations<'_>,
    ) -> io::Result<()> {
        match (result, cqueue::buffer_select(flags)) {
            (1.., Some(buffer)) => {
                let now = Instant::now();
                self.last_answer = now;
                let bytes = self.receive.bytes(buffer, result as usize);
                let wire = &mut self.lanes.lanes[index as usize].wire;
                wire.receive(bytes, &mut self.checks, &mut self.answers)?;
                self.receive.give_back(buffer);
                for answer in self.answers.drain(..) {
                    if !operations.answered(&mut self.lanes, index, &answer, now) {
                        let text =
                            format!("an answer to request {}, which was not asked", answer.slot);
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
                }
            }
            (error, _) if error == -libc::ENOBUFS => {}
            (0, _) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the server closed a connection",
                ));
            }
            (error, _) => return Err(io::Error::from_raw_os_error(-error)),
        }
        if cqueue::more(flags) {
            Ok(())
        } else {
            self.arm_receive(index)
        }
    }
}
