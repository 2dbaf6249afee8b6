//! A worker made of nothing but the frame codec: serves computed bytes, and misbehaves on demand.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use corelane_placement::partition_of;
use corelane_rpc_schema::frame::{
    ChecksumMode, Decoded, Frame, ReadAnswerHead, ReadFlags, ReadRequest, ReadSource, decode,
    encode_read_answer_head, padding, page_checksum,
};
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage, HelloAnswer, Message, OpenAnswer};
use corelane_rpc_schema::{ObjectId, READ_BYTES_MAX, STRIPE_BYTES, ShardId, Stripe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

pub const PARTITIONS: u32 = 64;
pub const TOKEN: &str = "open sesame";

/// What happens to one READ instead of its answer. Taken in order of arrival.
#[derive(Clone, Debug)]
pub enum Fault {
    None,
    Error(ErrorCode, u32),
    /// The right answer, a few bytes at a time.
    Dribble,
    /// Bytes that are no frame.
    Garbage,
    /// Half of the answer, then the connection ends.
    ResetMidAnswer,
    /// No answer ever.
    Silence,
    WrongByte,
    /// An answer that is a byte short, in a well-formed frame.
    WrongLength,
    /// The right answer under an id that nobody waits for.
    WrongId,
    NoChecksums,
    /// The right answer and the advice to ask this shard.
    Hint(ShardId),
    /// The right answer, and before it the wish that no more requests come.
    GoAway,
}

#[derive(Default)]
pub struct Script {
    pub objects: HashMap<String, (ObjectId, u64)>,
    pub faults: VecDeque<Fault>,
    pub reads: Vec<(ShardId, ReadRequest)>,
    pub opens: usize,
    pub hellos: usize,
    pub requests_in_flight_most: u32,
    pub bytes_in_flight_most: u64,
    pub answer_after: Duration,
    pub requests_in_flight_max: u32,
    pub bytes_in_flight_max: u64,
    pub epoch: u64,
}

pub struct Server {
    pub addresses: Vec<SocketAddr>,
    script: Arc<Mutex<Script>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// The byte at `offset` of `object`.
fn byte(object: ObjectId, offset: u64) -> u8 {
    let mixed = (object.version ^ offset).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

pub fn bytes(object: ObjectId, offset: u64, length: u64) -> Vec<u8> {
    (offset..offset + length)
        .map(|offset| byte(object, offset))
        .collect()
}

impl Server {
    pub async fn start(shards: u16) -> Server {
        Server::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), shards).await
    }

    /// Shard 0 listens at `first`, the others where there is room.
    pub async fn start_at(first: SocketAddr, shards: u16) -> Server {
        let script = Script {
            requests_in_flight_max: 32,
            bytes_in_flight_max: 16 << 20,
            epoch: 1,
            ..Script::default()
        };
        let script = Arc::new(Mutex::new(script));
        let mut listeners = Vec::new();
        for shard in 0..shards {
            let address = if shard == 0 {
                first
            } else {
                SocketAddr::from(([127, 0, 0, 1], 0))
            };
            listeners.push(TcpListener::bind(address).await.expect("a free port"));
        }
        let addresses: Vec<SocketAddr> = listeners
            .iter()
            .map(|listener| listener.local_addr().expect("bound"))
            .collect();
        let ports: Vec<u16> = addresses.iter().map(SocketAddr::port).collect();
        let mut tasks = Vec::new();
        for (shard, listener) in listeners.into_iter().enumerate() {
            let (script, ports) = (Arc::clone(&script), ports.clone());
            tasks.push(tokio::spawn(async move {
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.expect("accept");
                    let connection = Connection {
                        shard: ShardId(shard as u16),
                        ports: ports.clone(),
                        script: Arc::clone(&script),
                    };
                    connections.spawn(connection.serve(stream));
                }
            }));
        }
        Server {
            addresses,
            script,
            tasks,
        }
    }

    pub fn address(&self) -> String {
        self.addresses[0].to_string()
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no test panics with the lock")
    }

    /// Adds an object, or another version of it.
    pub fn put(&self, path: &str, version: &str, length: u64) -> ObjectId {
        let id = ObjectId::new(path, version, length, 1 << 20);
        self.script().objects.insert(path.to_owned(), (id, length));
        id
    }

    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script().faults = faults.into_iter().collect();
    }
}

pub fn owner(object: ObjectId, stripe: Stripe, shards: u16) -> ShardId {
    ShardId(partition_of(object.home, stripe.0, PARTITIONS) % shards)
}

struct Connection {
    shard: ShardId,
    ports: Vec<u16>,
    script: Arc<Mutex<Script>>,
}

/// What the writing half sends; `None` ends the connection.
type Outgoing = (Option<Vec<u8>>, Option<u32>);

impl Connection {
    async fn serve(self, stream: TcpStream) {
        // So that an answer in small pieces also arrives in small pieces.
        stream.set_nodelay(true).expect("a TCP socket");
        let (mut reader, mut writer) = stream.into_split();
        let (answers, mut outgoing) = mpsc::unbounded_channel::<Outgoing>();
        let in_flight = Arc::new(Mutex::new((0u32, 0u64)));
        let unanswered = Arc::clone(&in_flight);
        let writing = async move {
            while let Some((bytes, length)) = outgoing.recv().await {
                if let Some(length) = length {
                    let mut unanswered = unanswered.lock().expect("no panic inside");
                    *unanswered = (unanswered.0 - 1, unanswered.1 - u64::from(length));
                }
                let Some(bytes) = bytes else { return };
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        let reading = async move {
            let mut buffer = Vec::new();
            while reader
                .read_buf(&mut buffer)
                .await
                .is_ok_and(|received| received > 0)
            {
                while let Some(consumed) = self.take_frame(&buffer, &answers, &in_flight) {
                    buffer.drain(..consumed);
                }
            }
        };
        tokio::select! {
            () = writing => {}
            () = reading => {}
        }
    }

    fn take_frame(
        &self,
        buffer: &[u8],
        answers: &mpsc::UnboundedSender<Outgoing>,
        in_flight: &Arc<Mutex<(u32, u64)>>,
    ) -> Option<usize> {
        match decode(buffer).expect("the client sends well-formed frames") {
            Decoded::Incomplete { .. } => None,
            Decoded::Frame {
                frame: Frame::Read(request),
                consumed,
            } => {
                let (requests, bytes) = {
                    let mut in_flight = in_flight.lock().expect("no panic inside");
                    *in_flight = (in_flight.0 + 1, in_flight.1 + u64::from(request.length));
                    *in_flight
                };
                let delay = {
                    let mut script = self.script.lock().expect("no panic inside");
                    script.requests_in_flight_most = script.requests_in_flight_most.max(requests);
                    script.bytes_in_flight_most = script.bytes_in_flight_most.max(bytes);
                    script.reads.push((self.shard, request));
                    script.answer_after
                };
                let outgoing = self.answer_read(&request);
                let answers = answers.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let mut length = Some(request.length);
                    for bytes in outgoing {
                        let _ = answers.send((bytes, length.take()));
                    }
                });
                Some(consumed)
            }
            Decoded::Frame {
                frame: Frame::Message(header),
                consumed,
            } => {
                let (id, message) = Message::from_header(header).expect("a well-formed message");
                let mut frame = Vec::new();
                self.answer_message(message)
                    .to_frame(id, &mut frame)
                    .expect("within the limits");
                let _ = answers.send((Some(frame), None));
                Some(consumed)
            }
            Decoded::Frame { frame, .. } => panic!("clients do not send {frame:?}"),
        }
    }

    fn answer_message(&self, message: Message) -> Message {
        let mut script = self.script.lock().expect("no panic inside");
        match message {
            Message::Hello(hello) if hello.token != TOKEN => error(ErrorCode::Unauthenticated, 0),
            Message::Hello(_) => {
                script.hellos += 1;
                let shards = self.ports.len() as u16;
                Message::HelloAnswer(HelloAnswer {
                    worker_id: String::from("test"),
                    epoch: script.epoch,
                    shard: self.shard,
                    shard_ports: self.ports.clone(),
                    partition_shards: (0..PARTITIONS as u16)
                        .map(|partition| ShardId(partition % shards))
                        .collect(),
                    requests_in_flight_max: script.requests_in_flight_max,
                    bytes_in_flight_max: script.bytes_in_flight_max,
                    read_bytes_max: READ_BYTES_MAX,
                    stripe_bytes: STRIPE_BYTES,
                })
            }
            Message::Open(open) => {
                script.opens += 1;
                match script.objects.get(&open.path) {
                    None => error(ErrorCode::NotFound, 0),
                    Some((object, length)) => Message::OpenAnswer(OpenAnswer {
                        object: *object,
                        length: *length,
                        block_bytes: 1 << 20,
                        version: String::from("v"),
                        ..OpenAnswer::default()
                    }),
                }
            }
            other => panic!("clients do not send {other:?}"),
        }
    }

    /// What to send for a READ; `None` in it ends the connection.
    fn answer_read(&self, request: &ReadRequest) -> Vec<Option<Vec<u8>>> {
        let (fault, known) = {
            let mut script = self.script.lock().expect("no panic inside");
            let known = script
                .objects
                .values()
                .find(|(id, _)| *id == request.object)
                .copied();
            (script.faults.pop_front().unwrap_or(Fault::None), known)
        };
        let failure = |code, retry_after_ms| {
            let mut frame = Vec::new();
            error(code, retry_after_ms)
                .to_frame(request.request_id, &mut frame)
                .expect("short");
            vec![Some(frame)]
        };
        let Some((object, length)) = known else {
            return failure(ErrorCode::VersionChanged, 0);
        };
        if request.check().is_err() || request.offset + u64::from(request.length) > length {
            return failure(ErrorCode::Invalid, 0);
        }
        let mut payload = bytes(object, request.offset, u64::from(request.length));
        let mut mode = match request.flags.contains(ReadFlags::CHECKSUMS) {
            true if request.offset.is_multiple_of(4096) => ChecksumMode::Pages,
            true => ChecksumMode::Range,
            false => ChecksumMode::None,
        };
        let mut head = ReadAnswerHead {
            request_id: request.request_id,
            source: ReadSource::Dram,
            shard_hint: None,
        };
        let checksums = checksums(mode, &payload);
        match fault {
            Fault::None => vec![Some(frame(&head, mode, checksums, &payload))],
            Fault::Error(code, retry_after_ms) => failure(code, retry_after_ms),
            Fault::Dribble => {
                let whole = frame(&head, mode, checksums, &payload);
                whole.chunks(7).map(|bytes| Some(bytes.to_vec())).collect()
            }
            Fault::Garbage => vec![Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())],
            Fault::ResetMidAnswer => {
                let mut whole = frame(&head, mode, checksums, &payload);
                whole.truncate(whole.len() / 2);
                vec![Some(whole), None]
            }
            Fault::Silence => vec![],
            Fault::WrongByte => {
                let middle = payload.len() / 2;
                payload[middle] ^= 1;
                vec![Some(frame(&head, mode, checksums, &payload))]
            }
            Fault::WrongLength => {
                payload.pop();
                mode = ChecksumMode::None;
                vec![Some(frame(&head, mode, vec![], &payload))]
            }
            Fault::WrongId => {
                head.request_id ^= 1 << 40;
                vec![Some(frame(&head, mode, checksums, &payload))]
            }
            Fault::NoChecksums => vec![Some(frame(&head, ChecksumMode::None, vec![], &payload))],
            Fault::Hint(shard) => {
                head.shard_hint = Some(shard);
                vec![Some(frame(&head, mode, checksums, &payload))]
            }
            Fault::GoAway => {
                let mut bytes = Vec::new();
                Message::GoAway.to_frame(0, &mut bytes).expect("short");
                bytes.extend(frame(&head, mode, checksums, &payload));
                vec![Some(bytes)]
            }
        }
    }
}

fn checksums(mode: ChecksumMode, payload: &[u8]) -> Vec<u32> {
    match mode {
        ChecksumMode::None => vec![],
        ChecksumMode::Pages => payload.chunks(4096).map(page_checksum).collect(),
        ChecksumMode::Range => vec![crc32c::crc32c(payload)],
    }
}

fn frame(
    head: &ReadAnswerHead,
    mode: ChecksumMode,
    checksums: Vec<u32>,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    let payload_bytes = payload.len() as u32;
    encode_read_answer_head(&mut frame, head, payload_bytes, mode, checksums);
    frame.extend_from_slice(payload);
    frame.resize(frame.len() + padding(payload_bytes), 0);
    frame
}

fn error(code: ErrorCode, retry_after_ms: u32) -> Message {
    let message = format!("the script says {code:?}");
    Message::Error(ErrorMessage {
        code,
        message,
        retry_after_ms,
    })
}
