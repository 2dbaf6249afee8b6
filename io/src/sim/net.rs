//! The network of a world: listeners and streams between its cores.
//!
//! A stream delivers its bytes in order, in pieces that have nothing to do with how they were sent,
//! and never runs further ahead of its receiver than the bound in [`Faults`](super::Faults). What a
//! killed core had open is closed, as a kernel does for a process.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::faults::Fault;
use super::handle::SimIo;
use super::operations::Event;
use super::pipe::Pipe;
use super::state::State;
use super::trace::Step;
use crate::{IoError, Listener, SendBatch, Stream};

/// Connections that wait to be accepted; more are refused, as by a kernel's default.
const BACKLOG_MAX: usize = 128;

/// The first port that port 0 gives.
const LISTEN_PORT_FIRST: u16 = 20_000;

/// The first port of connecting ends.
const CONNECT_PORT_FIRST: u16 = 40_000;

struct Listening {
    id: u64,
    core: u64,
    backlog: VecDeque<End>,
    acceptor: Option<Waker>,
}

/// One end of a connection, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    connection: usize,
    id: u64,
    /// 0 connected, 1 accepted.
    side: usize,
}

struct Connection {
    id: u64,
    addresses: [SocketAddr; 2],
    cores: [u64; 2],
    /// Bytes written by each side.
    pipes: [Pipe; 2],
    /// Sides that were closed here.
    is_closed: [bool; 2],
    /// Sides that no handle acts for any more.
    is_dropped: [bool; 2],
    is_reset: bool,
}

pub(super) struct Network {
    listening: BTreeMap<SocketAddr, Listening>,
    connections: Slab<Connection>,
    next_id: u64,
    next_listen_port: u16,
    next_connect_port: u16,
}

impl Network {
    pub(super) fn new() -> Self {
        Network {
            listening: BTreeMap::new(),
            connections: Slab::new(),
            next_id: 1,
            next_listen_port: LISTEN_PORT_FIRST,
            next_connect_port: CONNECT_PORT_FIRST,
        }
    }

    pub(super) fn is_live(&self, connection: usize, id: u64) -> bool {
        self.connections
            .get(connection)
            .is_some_and(|connection| connection.id == id)
    }

    /// Lets arrive what the side `side` sent. Only for a connection that is live.
    pub(super) fn deliver(&mut self, connection: usize, side: usize, now: u64) {
        let connection = &mut self.connections[connection];
        if connection.pipes[side].deliver(now) {
            // The other side's sends fail from now on.
            connection.pipes[1 - side].wake_all();
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn get(&mut self, end: End) -> &mut Connection {
        let connection = &mut self.connections[end.connection];
        assert_eq!(
            connection.id, end.id,
            "a connection lives as long as a handle to it"
        );
        connection
    }

    fn bind(&mut self, core: u64, address: SocketAddr) -> Result<(SocketAddr, u64), IoError> {
        let mut bound = address;
        if address.port() == 0 {
            loop {
                bound.set_port(self.next_listen_port);
                self.next_listen_port = self
                    .next_listen_port
                    .checked_add(1)
                    .unwrap_or(LISTEN_PORT_FIRST);
                if !self.listening.contains_key(&bound) {
                    break;
                }
            }
        } else if self.listening.contains_key(&address) {
            return Err(IoError::from_errno(
                libc::EADDRINUSE,
                "the address is in use; pick another port",
            )
            .with("address", address));
        }
        let id = self.id();
        self.listening.insert(
            bound,
            Listening {
                id,
                core,
                backlog: VecDeque::new(),
                acceptor: None,
            },
        );
        Ok((bound, id))
    }

    fn unbind(&mut self, address: SocketAddr, id: u64) {
        if self
            .listening
            .get(&address)
            .is_none_or(|listening| listening.id != id)
        {
            return;
        }
        let listening = self.listening.remove(&address);
        for end in listening
            .into_iter()
            .flat_map(|listening| listening.backlog)
        {
            self.reset(end);
            self.drop_end(end);
        }
    }

    /// Makes a connection to whoever listens on `address`; the connecting end.
    fn connect(&mut self, core: u64, address: SocketAddr) -> Option<End> {
        let any_ip: IpAddr = if address.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        let any = SocketAddr::new(any_ip, address.port());
        let key = if self.listening.contains_key(&address) {
            address
        } else {
            any
        };
        let listening = self.listening.get(&key)?;
        if listening.backlog.len() >= BACKLOG_MAX {
            return None;
        }
        let cores = [core, listening.core];
        let id = self.id();
        let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.next_connect_port);
        self.next_connect_port = self
            .next_connect_port
            .checked_add(1)
            .unwrap_or(CONNECT_PORT_FIRST);
        let connection = self.connections.insert(Connection {
            id,
            addresses: [local, address],
            cores,
            pipes: Default::default(),
            is_closed: [false; 2],
            is_dropped: [false; 2],
            is_reset: false,
        });
        let listening = self.listening.get_mut(&key)?;
        listening.backlog.push_back(End {
            connection,
            id,
            side: 1,
        });
        if let Some(acceptor) = listening.acceptor.take() {
            acceptor.wake();
        }
        Some(End {
            connection,
            id,
            side: 0,
        })
    }

    fn reset(&mut self, end: End) {
        let connection = self.get(end);
        connection.is_reset = true;
        connection.pipes.iter_mut().for_each(Pipe::cut);
    }

    fn drop_end(&mut self, end: End) {
        let connection = self.get(end);
        connection.is_dropped[end.side] = true;
        if connection.is_dropped == [true; 2] {
            self.connections.remove(end.connection);
        }
    }

    /// Closes `end` from its own side. The other side learns of it at the time that is returned,
    /// `delay_ns` after `now` or later; `None` if there is nothing to learn.
    fn close(&mut self, end: End, now: u64, delay_ns: u64) -> Option<u64> {
        let connection = self.get(end);
        if std::mem::replace(&mut connection.is_closed[end.side], true) {
            return None;
        }
        connection.pipes.iter_mut().for_each(Pipe::wake_all);
        let ends_at = connection.pipes[end.side].end(now, delay_ns);
        (!connection.is_reset).then_some(ends_at)
    }

    /// Connections that anyone still holds an end of.
    #[cfg(test)]
    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }
}

/// A listening socket of a simulated core.
pub struct SimListener {
    io: SimIo,
    address: SocketAddr,
    id: u64,
}

impl SimListener {
    pub(super) fn bind(io: &SimIo, address: SocketAddr) -> Result<SimListener, IoError> {
        let (address, id) = io.state.network.borrow_mut().bind(io.core.id, address)?;
        Ok(SimListener {
            io: io.clone(),
            address,
            id,
        })
    }

    fn poll_accept(&self, context: &Context<'_>) -> Poll<End> {
        let mut network = self.io.state.network.borrow_mut();
        let listening = network
            .listening
            .get_mut(&self.address)
            .filter(|listening| listening.id == self.id);
        let Some(listening) = listening else {
            // The core was killed, and its listeners with it.
            return Poll::Pending;
        };
        match listening.backlog.pop_front() {
            Some(end) => Poll::Ready(end),
            None => {
                listening.acceptor = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Listener for SimListener {
    type Stream = SimStream;

    fn local_address(&self) -> SocketAddr {
        self.address
    }

    async fn accept(&self) -> Result<SimStream, IoError> {
        self.io.require_alive().await;
        let end = poll_fn(|context| self.poll_accept(context)).await;
        Ok(SimStream::new(&self.io, end))
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.io
            .state
            .network
            .borrow_mut()
            .unbind(self.address, self.id);
    }
}

/// A connection of a simulated core. When the last clone is dropped, it is closed.
#[derive(Clone)]
pub struct SimStream(Rc<OpenEnd>);

struct OpenEnd {
    io: SimIo,
    end: End,
    peer: SocketAddr,
    is_receiving: Cell<bool>,
    is_sending: Cell<bool>,
}

/// Bytes that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received(Vec<u8>);

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl SimStream {
    fn new(io: &SimIo, end: End) -> SimStream {
        let peer = io.state.network.borrow_mut().get(end).addresses[1 - end.side];
        SimStream(Rc::new(OpenEnd {
            io: io.clone(),
            end,
            peer,
            is_receiving: Cell::new(false),
            is_sending: Cell::new(false),
        }))
    }

    pub(super) async fn connect(io: &SimIo, address: SocketAddr) -> Result<SimStream, IoError> {
        let state = &io.state;
        io.clone().sleep_ns(stream_delay_ns(state)).await;
        let is_refused = state.fate.chance(state.faults.borrow().connect_error);
        if is_refused {
            state.inject(Fault::ConnectError, None, 0, 0);
        }
        let end = if is_refused {
            None
        } else {
            state.network.borrow_mut().connect(io.core.id, address)
        };
        let Some(end) = end else {
            return Err(IoError::from_errno(
                libc::ECONNREFUSED,
                "nobody accepts connections there; check that the peer runs",
            )
            .with("peer", address));
        };
        state.record(Step::Connect, end.id, u64::from(address.port()));
        let stream = SimStream::new(io, end);
        io.clone().sleep_ns(stream_delay_ns(state)).await;
        Ok(stream)
    }

    fn poll_receive(&self, context: &Context<'_>) -> Poll<Result<Received, IoError>> {
        let OpenEnd { io, end, peer, .. } = &*self.0;
        let mut network = io.state.network.borrow_mut();
        let connection = network.get(*end);
        if connection.is_closed[end.side] {
            return Poll::Ready(Ok(Received(Vec::new())));
        }
        if connection.is_reset {
            return Poll::Ready(Err(broken(libc::ECONNRESET, *peer)));
        }
        let pipe = &mut connection.pipes[1 - end.side];
        if let Some(bytes) = pipe.take(&io.state.timing) {
            io.state.record(Step::Receive, end.id, bytes.len() as u64);
            return Poll::Ready(Ok(Received(bytes)));
        }
        if pipe.is_at_end() {
            return Poll::Ready(Ok(Received(Vec::new())));
        }
        pipe.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Moves bytes of `batch` into the pipe from `sent` on, as far as there is room.
    fn poll_send(
        &self,
        batch: &SendBatch,
        sent: &mut Sent,
        context: &Context<'_>,
    ) -> Poll<Result<(), IoError>> {
        let OpenEnd { io, end, peer, .. } = &*self.0;
        let state = &io.state;
        let mut network = state.network.borrow_mut();
        let connection = network.get(*end);
        let faults = state.faults.borrow();
        while sent.part < batch.parts() {
            if connection.is_closed[end.side] || connection.pipes[1 - end.side].has_ended() {
                return Poll::Ready(Err(broken(libc::EPIPE, *peer)));
            }
            if connection.is_reset {
                return Poll::Ready(Err(broken(libc::ECONNRESET, *peer)));
            }
            let bytes = &batch.part(sent.part)[sent.bytes..];
            if bytes.is_empty() {
                *sent = Sent {
                    part: sent.part + 1,
                    bytes: 0,
                };
                continue;
            }
            let pipe = &mut connection.pipes[end.side];
            let length = pipe.piece(
                bytes.len(),
                faults.stream_bytes_in_flight_max,
                faults.stream_split,
                &state.timing,
            );
            if length == 0 {
                pipe.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
            let arrives_at = pipe.push(
                bytes[..length].to_vec(),
                state.now.get(),
                stream_delay_ns(state),
            );
            sent.bytes += length;
            state.record(Step::Send, end.id, length as u64);
            state.schedule(
                arrives_at,
                Event::Delivery {
                    connection: end.connection,
                    id: end.id,
                    end: end.side,
                },
            );
        }
        Poll::Ready(Ok(()))
    }

    fn draw_reset(&self) {
        let OpenEnd { io, end, .. } = &*self.0;
        if io.state.fate.chance(io.state.faults.borrow().stream_reset) {
            io.state.inject(Fault::StreamReset, None, 0, 0);
            io.state.network.borrow_mut().reset(*end);
        }
    }
}

/// How far a send has come.
#[derive(Clone, Copy, Default)]
struct Sent {
    part: usize,
    bytes: usize,
}

impl Stream for SimStream {
    type Received = Received;

    fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    async fn receive(&self) -> Result<Received, IoError> {
        self.0.io.require_alive().await;
        let _turn = Turn::take(&self.0.is_receiving, "receive");
        poll_fn(|context| self.poll_receive(context)).await
    }

    async fn send(&self, batch: Box<SendBatch>) -> (Result<(), IoError>, Box<SendBatch>) {
        let OpenEnd { io, is_sending, .. } = &*self.0;
        io.require_alive().await;
        let _turn = Turn::take(is_sending, "send");
        self.draw_reset();
        let mut sent = Sent::default();
        let result = poll_fn(|context| self.poll_send(&batch, &mut sent, context)).await;
        // Some sends complete later, as those do that the network card reads from memory.
        if io.state.timing.below(4) == 0 {
            io.clone().sleep_ns(stream_delay_ns(&io.state)).await;
        }
        (result, batch)
    }

    fn close(&self) {
        self.0.close();
    }
}

impl OpenEnd {
    fn close(&self) {
        close(&self.io.state, self.end);
    }
}

impl Drop for OpenEnd {
    fn drop(&mut self) {
        self.close();
        self.io.state.network.borrow_mut().drop_end(self.end);
    }
}

fn close(state: &State, end: End) {
    let ends_at = state
        .network
        .borrow_mut()
        .close(end, state.now.get(), stream_delay_ns(state));
    if let Some(ends_at) = ends_at {
        let End {
            connection,
            id,
            side,
        } = end;
        state.schedule(
            ends_at,
            Event::Delivery {
                connection,
                id,
                end: side,
            },
        );
    }
}

/// Closes every listener and connection of a core that was killed, also those whose handles are
/// still held outside of its tasks.
pub(super) fn close_all_of(state: &State, core: u64) {
    let mut network = state.network.borrow_mut();
    let listening: Vec<(SocketAddr, u64)> = network
        .listening
        .iter()
        .filter(|(_, listening)| listening.core == core)
        .map(|(address, listening)| (*address, listening.id))
        .collect();
    for (address, id) in listening {
        network.unbind(address, id);
    }
    let ends: Vec<End> = network
        .connections
        .iter()
        .flat_map(|(connection, open)| [0, 1].map(|side| (connection, open, side)))
        .filter(|(_, open, side)| open.cores[*side] == core)
        .map(|(connection, open, side)| End {
            connection,
            id: open.id,
            side,
        })
        .collect();
    drop(network);
    for end in ends {
        close(state, end);
    }
}

/// Asserts that an end is used by one receive and one send at a time.
struct Turn<'a>(&'a Cell<bool>);

impl<'a> Turn<'a> {
    fn take(is_taken: &'a Cell<bool>, operation: &'static str) -> Self {
        assert!(
            !is_taken.replace(true),
            "one {operation} at a time on a stream"
        );
        Turn(is_taken)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

fn stream_delay_ns(state: &State) -> u64 {
    let range = state.faults.borrow().stream_delay_ns;
    state.between(range)
}

fn broken(errno: i32, peer: SocketAddr) -> IoError {
    IoError::from_errno(errno, "the connection broke; connect again").with("peer", peer)
}
