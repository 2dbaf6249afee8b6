//! A client inside the world: the real protocol on simulated streams.
//!
//! A [`Lane`] says hello, opens and reads, any number at once under its credits, and checks the
//! checksums of all that comes. What it is told is handed to the caller as it came: whether it is
//! right is for the oracle to say.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use corelane_io::sim::{SimIo, SimStream};
use corelane_io::{Io, Priority, SendBatch, Stream};
use corelane_rpc_schema::frame::{
    self, ChecksumMode, Decoded, Frame, ReadFlags, ReadRequest, ReadSource, encode_read_request,
};
use corelane_rpc_schema::messages::{ErrorMessage, Hello, HelloAnswer, Message, Open, OpenAnswer};
use corelane_rpc_schema::{ObjectId, PAGE_BYTES, ShardId};
use corelane_worker::shard::signal::WaitList;
use futures::channel::oneshot;
use futures::lock::Mutex;

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The worker's error.
    Error(ErrorMessage),
    /// The connection ended, and what the worker said last, if anything.
    Ended(Option<ErrorMessage>),
}

/// The answer to a read.
#[derive(Clone, Debug)]
pub struct ReadBytes {
    /// Where they came from.
    pub source: ReadSource,
    /// The shard that should have been asked.
    pub hint: Option<ShardId>,
    /// The bytes.
    pub bytes: Vec<u8>,
}

enum Answer {
    Message(Message),
    Read(ReadBytes),
}

struct Shared {
    stream: SimStream,
    sending: Mutex<()>,
    next_request: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<Answer>>>,
    ended: RefCell<Option<Option<ErrorMessage>>>,
    is_told_to_go: Cell<bool>,
    requests: Cell<u32>,
    bytes: Cell<u64>,
    room: WaitList,
}

/// A connection to one shard. A handle.
#[derive(Clone)]
pub struct Lane {
    shared: Rc<Shared>,
    hello: Rc<HelloAnswer>,
}

impl Lane {
    /// Connects and says hello.
    pub async fn connect(io: &SimIo, address: SocketAddr, token: &str) -> Result<Self, Refused> {
        let stream = io
            .connect(address)
            .await
            .map_err(|_| Refused::Ended(None))?;
        let shared = Rc::new(Shared {
            stream,
            sending: Mutex::new(()),
            next_request: Cell::new(1),
            waiting: RefCell::default(),
            ended: RefCell::default(),
            is_told_to_go: Cell::new(false),
            requests: Cell::new(0),
            bytes: Cell::new(0),
            room: WaitList::default(),
        });
        io.spawn(Priority::Foreground, receive(Rc::clone(&shared)));
        let hello = Message::Hello(Hello {
            token: token.to_owned(),
            client_name: "simulation".to_owned(),
        });
        match shared.ask_message(&hello).await? {
            Message::HelloAnswer(answer) => Ok(Lane {
                shared,
                hello: Rc::new(answer),
            }),
            other => panic!("{other:?} does not answer a hello"),
        }
    }

    /// What the worker said at hello.
    pub fn hello(&self) -> &HelloAnswer {
        &self.hello
    }

    /// Whether requests can still be sent: not ended, and not told to go away.
    pub fn is_usable(&self) -> bool {
        self.shared.ended.borrow().is_none() && !self.shared.is_told_to_go.get()
    }

    /// What the worker said last, once the connection has ended.
    pub fn ended(&self) -> Option<Option<ErrorMessage>> {
        self.shared.ended.borrow().clone()
    }

    /// Ends the connection, whatever is under way.
    pub fn close(&self) {
        self.shared.stream.close();
    }

    /// Opens an object.
    pub async fn open(&self, path: &str) -> Result<OpenAnswer, Refused> {
        let open = Message::Open(Open {
            path: path.to_owned(),
        });
        match self.shared.ask_message(&open).await? {
            Message::OpenAnswer(answer) => Ok(answer),
            Message::Error(error) => Err(Refused::Error(error)),
            other => panic!("{other:?} does not answer an open"),
        }
    }

    /// Reads, after waiting for credits.
    pub async fn read(
        &self,
        object: ObjectId,
        offset: u64,
        length: u32,
    ) -> Result<ReadBytes, Refused> {
        self.until_room(length).await;
        self.read_at_once(object, offset, length, ReadFlags::CHECKSUMS)
            .await
    }

    /// Reads without regard for credits.
    pub async fn read_at_once(
        &self,
        object: ObjectId,
        offset: u64,
        length: u32,
        flags: ReadFlags,
    ) -> Result<ReadBytes, Refused> {
        let shared = &self.shared;
        shared.requests.set(shared.requests.get() + 1);
        shared.bytes.set(shared.bytes.get() + u64::from(length));
        let id = shared.next_id();
        let mut out = Vec::new();
        encode_read_request(
            &mut out,
            &ReadRequest {
                request_id: id,
                object,
                offset,
                length,
                flags,
            },
        );
        let answer = shared.ask(id, out).await;
        shared.requests.set(shared.requests.get() - 1);
        shared.bytes.set(shared.bytes.get() - u64::from(length));
        shared.room.wake_all();
        match answer? {
            Answer::Read(read) => {
                assert_eq!(
                    read.bytes.len(),
                    length as usize,
                    "bytes {offset}+{length} of {object}"
                );
                Ok(read)
            }
            Answer::Message(Message::Error(error)) => Err(Refused::Error(error)),
            Answer::Message(other) => panic!("{other:?} does not answer a read"),
        }
    }

    async fn until_room(&self, length: u32) {
        let shared = &self.shared;
        let has_room = || {
            let is_open = shared.ended.borrow().is_none();
            !is_open
                || shared.requests.get() < self.hello.requests_in_flight_max
                    && (shared.bytes.get() == 0
                        || shared.bytes.get() + u64::from(length) <= self.hello.bytes_in_flight_max)
        };
        shared.room.until(|| has_room().then_some(())).await;
    }
}

impl Shared {
    fn next_id(&self) -> u64 {
        let id = self.next_request.get();
        self.next_request.set(id + 1);
        id
    }

    async fn ask_message(&self, message: &Message) -> Result<Message, Refused> {
        let id = self.next_id();
        let mut out = Vec::new();
        message
            .to_frame(id, &mut out)
            .expect("the simulation's messages fit");
        match self.ask(id, out).await? {
            Answer::Message(answer) => Ok(answer),
            Answer::Read(_) => panic!("a read answer does not answer {message:?}"),
        }
    }

    async fn ask(&self, id: u64, frame: Vec<u8>) -> Result<Answer, Refused> {
        if let Some(last) = self.ended.borrow().clone() {
            return Err(Refused::Ended(last));
        }
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, sender);
        let sending = self.sending.lock().await;
        let mut batch = Box::<SendBatch>::default();
        batch.push_head(&frame);
        // A broken connection ends the receiver too, which ends all that waits.
        let _ = self.stream.send(batch).await;
        drop(sending);
        receiver
            .await
            .map_err(|_| Refused::Ended(self.ended.borrow().clone().flatten()))
    }

    fn end(&self, last: Option<ErrorMessage>) {
        self.stream.close();
        *self.ended.borrow_mut() = Some(last);
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        drop(waiting);
        self.room.wake_all();
    }

    /// Takes one frame in; the error that ends the connection, if it is that.
    fn take(&self, frame: Frame<'_>) -> Option<ErrorMessage> {
        let (id, answer) = match frame {
            Frame::Message(header) => {
                let (id, message) =
                    Message::from_header(header).expect("the worker speaks the protocol");
                match message {
                    Message::GoAway => {
                        self.is_told_to_go.set(true);
                        return None;
                    }
                    Message::Error(error) if id == 0 => return Some(error),
                    message => (id, Answer::Message(message)),
                }
            }
            Frame::ReadAnswer(answer, payload) => {
                let mode = answer.checksums.mode();
                answer
                    .checksums
                    .verify(payload)
                    .unwrap_or_else(|mismatch| panic!("{mode:?}: {mismatch}"));
                if mode == ChecksumMode::Pages {
                    let pages = payload.len().div_ceil(PAGE_BYTES as usize);
                    assert_eq!(answer.checksums.len(), pages);
                }
                let read = ReadBytes {
                    source: answer.head.source,
                    hint: answer.head.shard_hint,
                    bytes: payload.to_vec(),
                };
                (answer.head.request_id, Answer::Read(read))
            }
            Frame::Read(_) | Frame::Lookup(..) | Frame::LookupAnswer(..) => {
                panic!("the worker sent {frame:?}")
            }
        };
        let waiting = self.waiting.borrow_mut().remove(&id);
        let waiting = waiting.unwrap_or_else(|| panic!("nobody asked request {id}"));
        // Whoever asked may have ended with its task.
        let _ = waiting.send(answer);
        None
    }
}

async fn receive(shared: Rc<Shared>) {
    let mut held: Vec<u8> = Vec::new();
    let mut last = None;
    'connection: loop {
        let received = match shared.stream.receive().await {
            Ok(received) if !received.is_empty() => received,
            Ok(_) | Err(_) => break,
        };
        held.extend_from_slice(&received);
        let mut start = 0;
        loop {
            let decoded = frame::decode(&held[start..]).expect("the worker speaks the protocol");
            let Decoded::Frame { frame, consumed } = decoded else {
                break;
            };
            last = shared.take(frame);
            if last.is_some() {
                break 'connection;
            }
            start += consumed;
        }
        held.drain(..start);
        // Told to go and nothing left to wait for: a good client goes.
        if shared.is_told_to_go.get() && shared.waiting.borrow().is_empty() {
            break;
        }
    }
    shared.end(last);
}
