//! The generator's loop: one thread, one bare ring, all lanes.

use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::{cqueue, opcode, types};

use super::keys::KeySet;
use super::lane::{Lane, Tally};
use super::{LoadResult, LoadSpec, greeting};
use crate::process;
use crate::ring::{BufferRing, Completion, Ring};

/// Receive buffers: a few, so that they stay in the core's own cache while they are reused.
const RECEIVE_BUFFERS: u16 = 16;
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// A lane that does not answer for so long ends the run.
const SILENCE_MAX: Duration = Duration::from_secs(30);

const RECEIVE: u64 = 1 << 32;
const SEND: u64 = 2 << 32;
const TIMER: u64 = 3 << 32;

/// The two ends of the measured part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The warm-up is over.
    Begin,
    /// The measured part is over.
    End,
}

/// Loads the server as `spec` says, on a thread of its own; `on_mark` runs there at both ends of
/// the measured part, to look at the server.
///
/// # Errors
/// When the server cannot be reached, refuses, breaks the protocol or falls silent.
pub fn run(spec: &LoadSpec, on_mark: impl FnMut(Mark) + Send) -> io::Result<LoadResult> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("load".to_owned());
        let handle = thread.spawn_scoped(scope, || run_here(spec, on_mark))?;
        handle
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn run_here(spec: &LoadSpec, mut on_mark: impl FnMut(Mark)) -> io::Result<LoadResult> {
    if let Some(core) = spec.core {
        process::pin(core).map_err(io::Error::other)?;
    }
    let lanes = connect(spec)?;
    let mut generator = Generator::new(spec, lanes)?;
    generator.start()?;
    generator.turn_until(Instant::now() + spec.warm_up)?;
    on_mark(Mark::Begin);
    generator.tally.is_measuring = true;
    let (begin, cpu_before) = (Instant::now(), process::thread_time());
    generator.turn_until(begin + spec.measured)?;
    generator.tally.result.elapsed = begin.elapsed();
    generator.tally.result.generator_cpu = process::thread_time().saturating_sub(cpu_before);
    generator.tally.is_measuring = false;
    on_mark(Mark::End);
    generator.finish()
}

/// Connects all lanes, each to the shard whose keys it reads.
fn connect(spec: &LoadSpec) -> io::Result<Vec<Lane>> {
    let (first, hello) = greeting::connect(spec.address, &spec.token)?;
    let targets = greeting::open_all(&first, &spec.paths)?;
    drop(first);
    let shards = hello.shard_ports.len() as u16;
    let partitions = hello.partition_shards.len() as u32;
    let key_sets: Vec<(u16, Rc<KeySet>)> = (0..shards)
        .map(|shard| {
            let keys = KeySet::of_shard(
                &targets,
                spec.read_bytes,
                spec.distribution,
                shard,
                shards,
                partitions,
            );
            (hello.shard_ports[usize::from(shard)], Rc::new(keys))
        })
        .filter(|(_, keys)| !keys.is_empty())
        .collect();
    if key_sets.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the given paths have no bytes to read",
        ));
    }
    let wanted = u64::from(spec.depth) * u64::from(spec.read_bytes);
    if spec.depth > hello.requests_in_flight_max || wanted > hello.bytes_in_flight_max {
        // The server would leave requests in the socket: the depth asked for is not the depth had.
        let text = format!(
            "depth {} of {} bytes is over the credits of a lane ({} requests, {} bytes); lower the depth",
            spec.depth, spec.read_bytes, hello.requests_in_flight_max, hello.bytes_in_flight_max
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    (0..spec.connections as usize)
        .map(|index| {
            let (port, keys) = &key_sets[index % key_sets.len()];
            let mut address = spec.address;
            address.set_port(*port);
            let (stream, _) = greeting::connect(address, &spec.token)?;
            Ok(Lane::new(stream, Rc::clone(keys), spec.depth))
        })
        .collect()
}

struct Generator<'a> {
    spec: &'a LoadSpec,
    ring: Ring,
    receive: BufferRing,
    lanes: Vec<Lane>,
    tally: Tally,
    dirty: Vec<u32>,
    completions: Vec<Completion>,
    wake_every: Box<types::Timespec>,
    last_answer: Instant,
}

impl<'a> Generator<'a> {
    fn new(spec: &'a LoadSpec, lanes: Vec<Lane>) -> io::Result<Self> {
        let ring = Ring::new(4096)?;
        ring.reserve_files(lanes.len() as u32)?;
        for (index, lane) in lanes.iter().enumerate() {
            ring.set_file(index as u32, lane.stream.as_raw_fd())?;
        }
        Ok(Generator {
            spec,
            receive: BufferRing::register(&ring, RECEIVE_BUFFERS, RECEIVE_BUFFER_BYTES)?,
            ring,
            lanes,
            tally: Tally::new(spec.verify, spec.seed),
            dirty: Vec::new(),
            completions: Vec::with_capacity(4096),
            wake_every: Box::new(types::Timespec::from(Duration::from_millis(10))),
            last_answer: Instant::now(),
        })
    }

    fn start(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for index in 0..self.lanes.len() as u32 {
            self.lanes[index as usize].fill(&mut self.tally, now);
            self.arm_receive(index)?;
            self.dirty.push(index);
        }
        self.last_answer = now;
        self.arm_timer()?;
        self.send_dirty()
    }

    /// So that a server that says nothing does not stop the clock.
    fn arm_timer(&mut self) -> io::Result<()> {
        let entry = opcode::Timeout::new(&raw const *self.wake_every)
            .build()
            .user_data(TIMER);
        // SAFETY: the time is boxed and lives as long as the ring.
        unsafe { self.ring.push(&entry) }
    }

    fn arm_receive(&mut self, index: u32) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(types::Fixed(index), 0)
            .build()
            .user_data(RECEIVE | u64::from(index));
        // SAFETY: the entry points at nothing; the buffers are those of the registered ring.
        unsafe { self.ring.push(&entry) }
    }

    fn arm_send(&mut self, index: u32) -> io::Result<()> {
        let lane = &self.lanes[index as usize];
        let rest = &lane.sending[lane.sent..];
        let entry = opcode::Send::new(types::Fixed(index), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(SEND | u64::from(index));
        // SAFETY: `sending` is not changed until the send completed, and outlives the ring's use.
        unsafe { self.ring.push(&entry) }
    }

    fn send_dirty(&mut self) -> io::Result<()> {
        while let Some(index) = self.dirty.pop() {
            if self.lanes[index as usize].take_requests() {
                self.arm_send(index)?;
            }
        }
        Ok(())
    }

    fn turn_until(&mut self, deadline: Instant) -> io::Result<()> {
        while self.turn()? < deadline {}
        Ok(())
    }

    /// One turn; gives the time at its end.
    fn turn(&mut self) -> io::Result<Instant> {
        self.ring.turn(self.spec.spin)?;
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.take(&mut completions);
        for completion in &completions {
            self.handle(*completion)?;
        }
        self.completions = completions;
        self.send_dirty()?;
        let now = Instant::now();
        if now.saturating_duration_since(self.last_answer) > SILENCE_MAX {
            let text = format!("no answer from {} for {SILENCE_MAX:?}", self.spec.address);
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(now)
    }

    fn handle(&mut self, completion: Completion) -> io::Result<()> {
        let Completion {
            user_data,
            result,
            flags,
        } = completion;
        let index = user_data as u32;
        match user_data & !u64::from(u32::MAX) {
            RECEIVE => self.received(index, result, flags),
            SEND => {
                if result < 0 {
                    return Err(io::Error::from_raw_os_error(-result));
                }
                let lane = &mut self.lanes[index as usize];
                lane.sent += result as usize;
                if lane.sent < lane.sending.len() {
                    return self.arm_send(index);
                }
                lane.sending.clear();
                self.dirty.push(index);
                Ok(())
            }
            TIMER => self.arm_timer(),
            _ => unreachable!("user data {user_data:#x}"),
        }
    }

    fn received(&mut self, index: u32, result: i32, flags: u32) -> io::Result<()> {
        match (result, cqueue::buffer_select(flags)) {
            (1.., Some(buffer)) => {
                let now = Instant::now();
                self.last_answer = now;
                let bytes = self.receive.bytes(buffer, result as usize);
                self.lanes[index as usize].receive(bytes, &mut self.tally, now)?;
                self.receive.give_back(buffer);
                self.dirty.push(index);
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

    /// Waits for what is in flight, so that the server is left idle and every byte was looked at.
    fn finish(mut self) -> io::Result<LoadResult> {
        for lane in &mut self.lanes {
            lane.is_open = false;
        }
        while self.lanes.iter().any(|lane| lane.in_flight > 0) {
            self.turn()?;
        }
        Ok(self.tally.result)
    }
}
