//! Ceilings (b) and (c): a bare loop that answers READs, or GETs of HTTP, from memory or from one device
//! read each.
//!
//! Multishot accept and receive, a provided buffer ring, registered files and buffers, and all
//! replies that are ready on a lane in one vectored send. Requests are counted by their bytes and
//! not looked at. The invariant: at most one send is under way on a lane, and memory that it
//! sends from is not reused before it completed.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;

use corelane_rpc_schema::frame::ReadSource;
use io_uring::{cqueue, opcode, types};

use super::conversation::Greeting;
use super::http::prebuilt_http_head;
use super::lane::{Lane, REPLIES_PER_SEND_MAX};
use super::{PAGE, Protocol, Source, open_direct, page, prebuilt_head};
use crate::memory::Memory;
use crate::random::Random;
use crate::ring::{BufferRing, Completion, Ring};

/// Most lanes; the gate's idle measure opens a thousand.
const LANES_MAX: u32 = 4096;

/// Buffers for reads of a device: as many requests as the gate has in flight, and as many again
/// that are being sent. 32 MiB at 4 KiB.
const DEVICE_BUFFERS: u32 = 8192;

/// Memory of the device buffers when replies are large.
const DEVICE_BUFFER_BYTES_MAX: usize = 512 << 20;

/// Receive buffers, in group 0. Requests of a pipelined turn fit one.
const RECEIVE_BUFFERS: u16 = 256;
const RECEIVE_BUFFER_BYTES: usize = 4096;

/// Registered slot of the device; lanes come after it.
const DEVICE_FILE: u32 = 0;

const ACCEPT: u64 = 1 << 56;
const RECEIVE: u64 = 2 << 56;
const SEND: u64 = 3 << 56;
const READ: u64 = 4 << 56;
const KIND: u64 = 0xff << 56;

/// A bare server, ready to run.
pub struct BareServer {
    ring: Ring,
    receive: BufferRing,
    listener: TcpListener,
    lanes: Vec<Option<Box<Lane>>>,
    supply: Supply,
    head: Vec<u8>,
    reply_bytes: usize,
    protocol: Protocol,
    greeting: Greeting,
    spin: Duration,
    random: Random,
    dirty: Vec<u32>,
}

enum Supply {
    Memory { memory: Memory, positions: u64 },
    Device(Reads),
}

struct Reads {
    _file: File,
    buffers: Memory,
    free: Vec<u32>,
    positions: u64,
    /// Lanes whose reads wait for a buffer.
    waiting: VecDeque<u32>,
}

impl BareServer {
    /// A server on a port of loopback that the system picks, for the calling thread.
    ///
    /// # Errors
    /// When memory, file, socket or ring fail.
    pub fn new(
        source: &Source,
        protocol: Protocol,
        reply_bytes: u32,
        spin: Duration,
    ) -> io::Result<BareServer> {
        let ring = Ring::new(4096)?;
        ring.reserve_files(LANES_MAX + 1)?;
        let receive = BufferRing::register(&ring, RECEIVE_BUFFERS, RECEIVE_BUFFER_BYTES)?;
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        let reply_pages = u64::from(reply_bytes).div_ceil(PAGE as u64);
        let positions = |bytes: u64| (bytes / PAGE as u64).saturating_sub(reply_pages) + 1;
        let (supply, object_bytes, read_source) = match source {
            Source::Memory { bytes } => {
                let memory = Memory::filled_with(&page(), *bytes as usize)?;
                (
                    Supply::Memory {
                        memory,
                        positions: positions(*bytes),
                    },
                    *bytes,
                    ReadSource::Dram,
                )
            }
            Source::Device {
                path,
                nonblocking,
                bytes,
            } => {
                let file = open_direct(path, *nonblocking)?;
                ring.set_file(DEVICE_FILE, file.as_raw_fd())?;
                let buffer_bytes = reply_pages as usize * PAGE;
                let count = (DEVICE_BUFFER_BYTES_MAX / buffer_bytes).min(DEVICE_BUFFERS as usize);
                let buffers = Memory::map(count * buffer_bytes)?;
                let registered = [libc::iovec {
                    iov_base: buffers.address().cast(),
                    iov_len: buffers.bytes().len(),
                }];
                // SAFETY: the buffers live as long as the ring: both belong to the server, whose
                // process ends with it.
                unsafe { ring.submitter().register_buffers(&registered)? };
                let reads = Reads {
                    _file: file,
                    buffers,
                    free: (0..count as u32).rev().collect(),
                    positions: positions(*bytes),
                    waiting: VecDeque::new(),
                };
                (Supply::Device(reads), *bytes, ReadSource::Device)
            }
        };
        let greeting = Greeting {
            port: listener.local_addr()?.port(),
            object_bytes,
        };
        Ok(BareServer {
            ring,
            receive,
            listener,
            lanes: Vec::new(),
            supply,
            head: match protocol {
                Protocol::Frames => prebuilt_head(reply_bytes, read_source),
                Protocol::Http => prebuilt_http_head(reply_bytes, object_bytes),
            },
            protocol,
            reply_bytes: reply_bytes as usize,
            greeting,
            spin,
            random: Random::new(2),
            dirty: Vec::new(),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket does not know.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the ring fails or `is_done` (asked once a turn) says so.
    ///
    /// # Errors
    /// When the ring fails. A lane that breaks is closed and the others go on.
    pub fn run(mut self, mut is_done: impl FnMut() -> bool) -> io::Result<()> {
        self.accept()?;
        let mut completions = Vec::with_capacity(4096);
        while !is_done() {
            self.ring.turn(self.spin)?;
            self.ring.take(&mut completions);
            for completion in &completions {
                self.handle(*completion)?;
            }
            for lane in std::mem::take(&mut self.dirty) {
                self.serve(lane)?;
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(types::Fd(self.listener.as_raw_fd()))
            .build()
            .user_data(ACCEPT);
        // SAFETY: the entry points at nothing.
        unsafe { self.ring.push(&entry) }
    }

    fn receive(&mut self, lane: u32) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(types::Fixed(lane + 1), 0)
            .build()
            .user_data(RECEIVE | u64::from(lane));
        // SAFETY: the entry points at nothing; the buffers are those of the registered ring.
        unsafe { self.ring.push(&entry) }
    }

    fn handle(&mut self, completion: Completion) -> io::Result<()> {
        let Completion {
            user_data,
            result,
            flags,
        } = completion;
        let lane = (user_data & 0xff_ffff) as u32;
        match user_data & KIND {
            ACCEPT => {
                if result >= 0 {
                    // SAFETY: the kernel just made this descriptor for us.
                    self.open_lane(unsafe { TcpStream::from_raw_fd(result) })?;
                }
                if !cqueue::more(flags) {
                    self.accept()?;
                }
                Ok(())
            }
            RECEIVE => self.received(lane, result, flags),
            SEND => self.sent(lane, result),
            READ => self.read(lane, ((user_data >> 24) & 0xffff_ffff) as u32, result),
            _ => unreachable!("user data {user_data:#x}"),
        }
    }

    fn open_lane(&mut self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let index = self
            .lanes
            .iter()
            .position(Option::is_none)
            .unwrap_or_else(|| {
                self.lanes.push(None);
                self.lanes.len() - 1
            });
        if index >= LANES_MAX as usize {
            self.lanes.pop();
            return Ok(());
        }
        self.ring.set_file(index as u32 + 1, stream.as_raw_fd())?;
        self.lanes[index] = Some(Box::new(Lane::new(stream, self.protocol, self.greeting)));
        self.receive(index as u32)
    }

    fn received(&mut self, index: u32, result: i32, flags: u32) -> io::Result<()> {
        let buffer = cqueue::buffer_select(flags);
        let Some(lane) = self.lanes[index as usize].as_mut() else {
            if let Some(buffer) = buffer {
                self.receive.give_back(buffer);
            }
            return Ok(());
        };
        let taken = match (result, buffer) {
            (1.., Some(buffer)) => {
                let taken = lane.receive(self.receive.bytes(buffer, result as usize));
                self.receive.give_back(buffer);
                taken
            }
            (error, _) if error == -libc::ENOBUFS => Ok(0),
            // The end of the stream, or a broken connection.
            _ => Err(io::ErrorKind::ConnectionReset.into()),
        };
        match taken {
            Ok(requests) => {
                lane.owed += requests;
                self.dirty.push(index);
                if !cqueue::more(flags) {
                    self.receive(index)?;
                }
                Ok(())
            }
            Err(_) => self.close_lane(index),
        }
    }

    fn close_lane(&mut self, index: u32) -> io::Result<()> {
        if let Some(lane) = self.lanes[index as usize].as_mut() {
            // Ends the multishot receive and whatever send is under way.
            let _ = lane.stream.shutdown(std::net::Shutdown::Both);
            lane.is_closing = true;
        }
        self.free_lane(index)
    }

    /// Frees the slot of a closing lane when nothing points at it any more.
    fn free_lane(&mut self, index: u32) -> io::Result<()> {
        let slot = &mut self.lanes[index as usize];
        if let Some(lane) =
            slot.take_if(|lane| lane.is_closing && lane.sending == 0 && lane.reading == 0)
        {
            self.ring.set_file(index + 1, -1)?;
            if let Supply::Device(reads) = &mut self.supply {
                reads.free.extend(lane.ready_buffers);
            }
        }
        Ok(())
    }

    fn sent(&mut self, index: u32, result: i32) -> io::Result<()> {
        let Some(lane) = self.lanes[index as usize].as_mut() else {
            return Ok(());
        };
        if let Supply::Device(reads) = &mut self.supply {
            reads.free.append(&mut lane.sending_buffers);
            self.dirty.extend(reads.waiting.drain(..));
        }
        self.dirty.push(index);
        if lane.sent(result).is_err() {
            return self.close_lane(index);
        }
        self.free_lane(index)
    }

    fn read(&mut self, index: u32, buffer: u32, result: i32) -> io::Result<()> {
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        let lane = self.lanes[index as usize]
            .as_mut()
            .expect("a lane is kept while it reads");
        lane.reading -= 1;
        lane.ready_buffers.push(buffer);
        self.dirty.push(index);
        self.free_lane(index)
    }

    /// Starts what lane `index` waits for: reads, and a send of all that is ready.
    fn serve(&mut self, index: u32) -> io::Result<()> {
        let Some(lane) = self.lanes[index as usize].as_mut() else {
            return Ok(());
        };
        if lane.is_closing {
            return Ok(());
        }
        match &mut self.supply {
            Supply::Memory { memory, positions } => {
                if lane.sending > 0 || lane.owed == 0 {
                    return Ok(());
                }
                let count = lane.owed.min(REPLIES_PER_SEND_MAX as u64);
                for _ in 0..count {
                    let position = self.random.below(*positions) as usize * PAGE;
                    let payload = memory.bytes()[position..position + self.reply_bytes].as_ptr();
                    lane.push_reply(&self.head, payload, self.reply_bytes);
                }
                lane.owed -= count;
            }
            Supply::Device(reads) => {
                let buffer_bytes = self.reply_bytes.next_multiple_of(PAGE);
                while lane.owed > 0 {
                    let Some(buffer) = reads.free.pop() else {
                        reads.waiting.push_back(index);
                        break;
                    };
                    lane.owed -= 1;
                    lane.reading += 1;
                    let offset = self.random.below(reads.positions) * PAGE as u64;
                    // SAFETY: the buffer's number is below their count.
                    let pointer =
                        unsafe { reads.buffers.address().add(buffer as usize * buffer_bytes) };
                    let entry = opcode::ReadFixed::new(
                        types::Fixed(DEVICE_FILE),
                        pointer,
                        buffer_bytes as u32,
                        0,
                    )
                    .offset(offset)
                    .build()
                    .user_data(READ | (u64::from(buffer) << 24) | u64::from(index));
                    // SAFETY: the buffer is nobody else's until the read and then the send ended.
                    unsafe { self.ring.push(&entry)? };
                }
                if lane.sending > 0 || lane.ready_buffers.is_empty() {
                    return Ok(());
                }
                let count = lane.ready_buffers.len().min(REPLIES_PER_SEND_MAX);
                lane.sending_buffers
                    .extend(lane.ready_buffers.drain(..count));
                for position in 0..count {
                    let start = lane.sending_buffers[position] as usize * buffer_bytes;
                    let payload = reads.buffers.bytes()[start..].as_ptr();
                    lane.push_reply(&self.head, payload, self.reply_bytes);
                }
            }
        }
        let entry = opcode::SendMsg::new(types::Fixed(index + 1), lane.message())
            .flags((libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32)
            .build()
            .user_data(SEND | u64::from(index));
        // SAFETY: header and iovecs belong to the lane, which is kept while it sends; heads and
        // payloads belong to the server.
        unsafe { self.ring.push(&entry) }
    }
}

impl std::fmt::Debug for BareServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("BareServer")
            .field("greeting", &self.greeting)
            .finish_non_exhaustive()
    }
}

const _: () = assert!(LANES_MAX < 1 << 24 && DEVICE_BUFFERS < u32::MAX);
