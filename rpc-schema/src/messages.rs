//! The messages of a lane as plain owned values, so that nobody else touches Cap'n Proto.
//!
//! The invariant: what [`Message::from_header`] returns is within the limits of this file, whatever
//! the peer sent. This is the cold path (hello, open, errors): it may allocate and copies freely.

use std::fmt;

use crate::frame::{FrameError, HEADER_WORDS_MAX_MESSAGE, encode_capnp};
use crate::generated::data_capnp::{self, header};
use crate::ids::{ObjectId, PARTITIONS_MAX, PartitionId, ShardId};

/// Longest token. Long enough for any random secret, and for a signed one of some hundred bytes.
pub const TOKEN_BYTES_MAX: usize = 1024;

/// Longest name that a client gives itself; it goes into logs.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;

/// Longest worker id: a UUID or a host name.
pub const WORKER_ID_BYTES_MAX: usize = 256;

/// Longest path. S3 keys end at 1024 bytes; the mount's prefix comes before.
pub const PATH_BYTES_MAX: usize = 2048;

/// Longest version. ETags are tens of bytes; nothing forbids longer ones.
pub const VERSION_BYTES_MAX: usize = 1024;

/// Longest content type; longer ones are not passed on.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// Longest error message. Longer ones are cut, since an error must always reach the caller.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 1024;

/// Most shards of a worker: one a partition at the most, and their ports fit the hello answer.
pub const SHARDS_MAX: usize = 256;

/// A message and, beside it, the id of the request that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Client: the first frame on every lane.
    Hello(Hello),
    /// Worker: the answer to it.
    HelloAnswer(HelloAnswer),
    /// Client: asks for an object by its path.
    Open(Open),
    /// Worker: the answer to it.
    OpenAnswer(OpenAnswer),
    /// Worker: the answer to any request that failed; with request id 0 the connection ends.
    Error(ErrorMessage),
    /// Worker: send no new requests, those under way are answered.
    GoAway,
}

/// Says who is calling. Its token is left out where it is printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// Empty where the worker asks for none.
    pub token: String,
    /// For logs; cut to [`CLIENT_NAME_BYTES_MAX`] when sent.
    pub client_name: String,
}

impl fmt::Debug for Hello {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Hello")
            .field("client_name", &self.client_name)
            .finish_non_exhaustive()
    }
}

/// What a client needs to reach the right shard, and its credits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloAnswer {
    /// Stable over restarts.
    pub worker_id: String,
    /// Grows with every start of the worker.
    pub epoch: u64,
    /// The shard behind this lane.
    pub shard: ShardId,
    /// The data port of each shard, on the address that was dialled.
    pub shard_ports: Vec<u16>,
    /// The owner of each partition.
    pub partition_shards: Vec<ShardId>,
    /// Requests that may be unanswered on this lane.
    pub requests_in_flight_max: u32,
    /// Sum of the lengths of unanswered reads on this lane.
    pub bytes_in_flight_max: u64,
    /// Longest single read.
    pub read_bytes_max: u32,
    /// A read never crosses a multiple of this.
    pub stripe_bytes: u64,
}

impl HelloAnswer {
    /// The shard that owns `partition`, if there is such a partition.
    pub fn shard_of(&self, partition: PartitionId) -> Option<ShardId> {
        self.partition_shards.get(usize::from(partition.0)).copied()
    }
}

/// Asks for an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// As mounted, such as `/data/train/0001.tar`.
    pub path: String,
}

/// An object as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenAnswer {
    /// Its id, for reads.
    pub object: ObjectId,
    /// Bytes.
    pub length: u64,
    /// Block size of its mount.
    pub block_bytes: u32,
    /// The under-store's ETag, or size-mtime-inode for files.
    pub version: String,
    /// Milliseconds since the Unix epoch; 0 where unknown.
    pub last_modified_ms: u64,
    /// Empty where unknown.
    pub content_type: String,
}

/// A request or a connection failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorMessage {
    /// What callers branch on.
    pub code: ErrorCode,
    /// One sentence: what, where, what to do.
    pub message: String,
    /// With [`ErrorCode::Busy`]: when to try again; 0 leaves it to the client.
    pub retry_after_ms: u32,
}

/// The kinds of errors. A code that this version does not know reads as `Internal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A bug; the message helps to find it.
    Internal,
    /// Over a limit; retry.
    Busy,
    /// No such object.
    NotFound,
    /// The token may not read this mount.
    Denied,
    /// Hello is missing, or its token unknown.
    Unauthenticated,
    /// The object has a new version: open again.
    VersionChanged,
    /// This worker does not know the id: open again.
    ObjectUnknown,
    /// The under-store failed; the message names object and cause.
    UnderStore,
    /// The request breaks the protocol or the object's bounds.
    Invalid,
    /// The worker takes no new work.
    Draining,
    /// No mount covers the path.
    NoMount,
}

/// Pairs each code with the schema's, once for both directions.
macro_rules! error_codes {
    ($($name:ident),+) => {
        impl ErrorCode {
            fn to_schema(self) -> data_capnp::error::Code {
                match self { $(ErrorCode::$name => data_capnp::error::Code::$name),+ }
            }

            fn from_schema(code: data_capnp::error::Code) -> Self {
                match code { $(data_capnp::error::Code::$name => ErrorCode::$name),+ }
            }
        }
    };
}
error_codes!(
    Internal,
    Busy,
    NotFound,
    Denied,
    Unauthenticated,
    VersionChanged,
    ObjectUnknown,
    UnderStore,
    Invalid,
    Draining,
    NoMount
);

impl Message {
    /// Appends this message as a frame to `out`.
    ///
    /// # Errors
    /// [`FrameError::FieldTooLong`] where a text or list is over its limit; `out` is as it was.
    /// Error messages, client names and content types are cut or left out instead.
    pub fn to_frame(&self, request_id: u64, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let allocator = capnp::message::HeapAllocator::new()
            .first_segment_words(u32::from(HEADER_WORDS_MAX_MESSAGE));
        let mut builder = capnp::message::Builder::new(allocator);
        let mut header: header::Builder<'_> = builder.init_root();
        header.set_request_id(request_id);
        match self {
            Message::Hello(hello) => hello.write(header.init_hello())?,
            Message::HelloAnswer(answer) => answer.write(header.init_hello_answer())?,
            Message::Open(open) => {
                header
                    .init_open()
                    .set_path(limited("path", &open.path, PATH_BYTES_MAX)?);
            }
            Message::OpenAnswer(answer) => answer.write(header.init_open_answer())?,
            Message::Error(error) => error.write(header.init_error()),
            Message::GoAway => header.set_go_away(()),
        }
        encode_capnp(out, &builder)
    }

    /// Reads the header of a [`crate::frame::Frame::Message`]: the request id and the message.
    ///
    /// # Errors
    /// [`FrameError`] where it is malformed, unknown or over a limit. Its bytes came as they were
    /// sent (the frame's checksum held), so the peer is to be told.
    pub fn from_header(segment: &[u8]) -> Result<(u64, Message), FrameError> {
        // Receive buffers align nothing; Cap'n Proto reads words.
        let mut words = capnp::Word::allocate_zeroed_vec(segment.len().div_ceil(8));
        let bytes = capnp::Word::words_to_bytes_mut(&mut words);
        bytes[..segment.len()].copy_from_slice(segment);
        let segments = [&*bytes];
        let mut options = capnp::message::ReaderOptions::new();
        // Each field is read once, so a message that needs more points at itself.
        options.traversal_limit_in_words(Some(2 * usize::from(HEADER_WORDS_MAX_MESSAGE)));
        options.nesting_limit(8);
        let reader =
            capnp::message::Reader::new(capnp::message::SegmentArray::new(&segments), options);
        let header: header::Reader<'_> = reader.get_root().map_err(malformed("the root"))?;
        let message = match header.which() {
            Ok(header::Hello(hello)) => {
                Message::Hello(Hello::read(hello.map_err(malformed("hello"))?)?)
            }
            Ok(header::HelloAnswer(answer)) => Message::HelloAnswer(HelloAnswer::read(
                answer.map_err(malformed("helloAnswer"))?,
            )?),
            Ok(header::Open(open)) => {
                let path = open.and_then(|open| open.get_path());
                Message::Open(Open {
                    path: text("path", path, PATH_BYTES_MAX)?,
                })
            }
            Ok(header::OpenAnswer(answer)) => {
                Message::OpenAnswer(OpenAnswer::read(answer.map_err(malformed("openAnswer"))?)?)
            }
            Ok(header::Error(error)) => {
                Message::Error(ErrorMessage::read(error.map_err(malformed("error"))?)?)
            }
            Ok(header::GoAway(())) => Message::GoAway,
            Err(capnp::NotInSchema(discriminant)) => {
                return Err(FrameError::UnknownMessage { discriminant });
            }
        };
        Ok((header.get_request_id(), message))
    }
}

impl Hello {
    fn write(&self, mut builder: data_capnp::hello::Builder<'_>) -> Result<(), FrameError> {
        builder.set_token(limited("token", &self.token, TOKEN_BYTES_MAX)?);
        builder.set_client_name(cut(&self.client_name, CLIENT_NAME_BYTES_MAX));
        Ok(())
    }

    fn read(reader: data_capnp::hello::Reader<'_>) -> Result<Self, FrameError> {
        Ok(Hello {
            token: text("token", reader.get_token(), TOKEN_BYTES_MAX)?,
            client_name: text(
                "clientName",
                reader.get_client_name(),
                CLIENT_NAME_BYTES_MAX,
            )?,
        })
    }
}

impl HelloAnswer {
    fn write(&self, mut builder: data_capnp::hello_answer::Builder<'_>) -> Result<(), FrameError> {
        check_map(self.shard_ports.len(), self.partition_shards.len())?;
        builder.set_worker_id(limited("workerId", &self.worker_id, WORKER_ID_BYTES_MAX)?);
        builder.set_epoch(self.epoch);
        builder.set_shard(self.shard.0);
        let mut ports = builder
            .reborrow()
            .init_shard_ports(self.shard_ports.len() as u32);
        for (index, port) in self.shard_ports.iter().enumerate() {
            ports.set(index as u32, *port);
        }
        let mut owners = builder
            .reborrow()
            .init_partition_shards(self.partition_shards.len() as u32);
        for (index, shard) in self.partition_shards.iter().enumerate() {
            owners.set(index as u32, shard.0);
        }
        builder.set_requests_in_flight_max(self.requests_in_flight_max);
        builder.set_bytes_in_flight_max(self.bytes_in_flight_max);
        builder.set_read_bytes_max(self.read_bytes_max);
        builder.set_stripe_bytes(self.stripe_bytes);
        Ok(())
    }

    fn read(reader: data_capnp::hello_answer::Reader<'_>) -> Result<Self, FrameError> {
        let ports = reader.get_shard_ports().map_err(malformed("shardPorts"))?;
        let owners = reader
            .get_partition_shards()
            .map_err(malformed("partitionShards"))?;
        check_map(ports.len() as usize, owners.len() as usize)?;
        if owners.iter().any(|owner| u32::from(owner) >= ports.len()) {
            return Err(FrameError::Malformed {
                field: "partitionShards: no such shard",
            });
        }
        Ok(HelloAnswer {
            worker_id: text("workerId", reader.get_worker_id(), WORKER_ID_BYTES_MAX)?,
            epoch: reader.get_epoch(),
            shard: ShardId(reader.get_shard()),
            shard_ports: ports.iter().collect(),
            partition_shards: owners.iter().map(ShardId).collect(),
            requests_in_flight_max: reader.get_requests_in_flight_max(),
            bytes_in_flight_max: reader.get_bytes_in_flight_max(),
            read_bytes_max: reader.get_read_bytes_max(),
            stripe_bytes: reader.get_stripe_bytes(),
        })
    }
}

fn check_map(shards: usize, partitions: usize) -> Result<(), FrameError> {
    if shards > SHARDS_MAX {
        return Err(FrameError::FieldTooLong {
            field: "shardPorts",
            length: shards,
            maximum: SHARDS_MAX,
        });
    }
    let maximum = PARTITIONS_MAX as usize;
    if partitions > maximum {
        return Err(FrameError::FieldTooLong {
            field: "partitionShards",
            length: partitions,
            maximum,
        });
    }
    if shards == 0 || !partitions.is_power_of_two() {
        return Err(FrameError::Malformed {
            field: "partitionShards: not a power of two",
        });
    }
    Ok(())
}

impl OpenAnswer {
    fn write(&self, mut builder: data_capnp::open_answer::Builder<'_>) -> Result<(), FrameError> {
        builder.set_length(self.length);
        builder.set_block_bytes(self.block_bytes);
        builder.set_version(limited("version", &self.version, VERSION_BYTES_MAX)?);
        builder.set_last_modified_ms(self.last_modified_ms);
        if self.content_type.len() <= CONTENT_TYPE_BYTES_MAX {
            builder.set_content_type(self.content_type.as_str());
        }
        let mut object = builder.init_object();
        object.set_home(self.object.home);
        object.set_version(self.object.version);
        Ok(())
    }

    fn read(reader: data_capnp::open_answer::Reader<'_>) -> Result<Self, FrameError> {
        let object = reader.get_object().map_err(malformed("object"))?;
        Ok(OpenAnswer {
            object: ObjectId {
                home: object.get_home(),
                version: object.get_version(),
            },
            length: reader.get_length(),
            block_bytes: reader.get_block_bytes(),
            version: text("version", reader.get_version(), VERSION_BYTES_MAX)?,
            last_modified_ms: reader.get_last_modified_ms(),
            content_type: text(
                "contentType",
                reader.get_content_type(),
                CONTENT_TYPE_BYTES_MAX,
            )?,
        })
    }
}

impl ErrorMessage {
    fn write(&self, mut builder: data_capnp::error::Builder<'_>) {
        builder.set_code(self.code.to_schema());
        builder.set_message(cut(&self.message, ERROR_MESSAGE_BYTES_MAX));
        builder.set_retry_after_ms(self.retry_after_ms);
    }

    fn read(reader: data_capnp::error::Reader<'_>) -> Result<Self, FrameError> {
        Ok(ErrorMessage {
            code: reader
                .get_code()
                .map_or(ErrorCode::Internal, ErrorCode::from_schema),
            message: text("message", reader.get_message(), ERROR_MESSAGE_BYTES_MAX)?,
            retry_after_ms: reader.get_retry_after_ms(),
        })
    }
}

fn malformed(field: &'static str) -> impl Fn(capnp::Error) -> FrameError {
    move |_| FrameError::Malformed { field }
}

fn text(
    field: &'static str,
    reader: capnp::Result<capnp::text::Reader<'_>>,
    maximum: usize,
) -> Result<String, FrameError> {
    let text = reader.map_err(malformed(field))?;
    let text = text.to_str().map_err(|_| FrameError::Malformed { field })?;
    limited(field, text, maximum).map(str::to_owned)
}

fn limited<'a>(field: &'static str, text: &'a str, maximum: usize) -> Result<&'a str, FrameError> {
    if text.len() <= maximum {
        Ok(text)
    } else {
        Err(FrameError::FieldTooLong {
            field,
            length: text.len(),
            maximum,
        })
    }
}

fn cut(text: &str, maximum: usize) -> &str {
    &text[..text.floor_char_boundary(maximum)]
}
