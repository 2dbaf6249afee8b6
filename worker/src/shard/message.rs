//! What shards say to each other through the mesh.
//!
//! A request carries a ticket that its answer repeats. Answers to reads carry pinned frames of the
//! owner, which the asking core sends without copying.

use std::sync::Arc;
use std::time::Duration;

use corelane_io::{Payload, RemoteFrame};
use corelane_lookup::set::FileAnswer;
use corelane_rpc_schema::ObjectId;
use corelane_rpc_schema::frame::{ReadRequest, ReadSource};
use corelane_rpc_schema::messages::ErrorMessage;
use corelane_s3::range::RangeSpec;
use smallvec::SmallVec;

use super::gather::ReadParts;
use super::look_up::failure::LookupFailure;
use super::look_up::object::ObjectQuery;
use crate::mount::{AccessSet, MountId};
use crate::object::ObjectMeta;
use crate::store::Release;

/// One message.
#[derive(Debug)]
pub enum Message {
    /// Wants an answer.
    Ask {
        /// Chosen by the sender.
        ticket: u64,
        /// What is asked.
        question: Question,
    },
    /// Gives one.
    Tell {
        /// That of the question.
        ticket: u64,
        /// The answer.
        answer: Answer,
    },
}

/// What one shard asks another.
#[derive(Debug)]
pub enum Question {
    /// A read that arrived at the wrong shard.
    Read {
        /// As it was decoded.
        request: ReadRequest,
        /// What the client may read.
        access: Arc<AccessSet>,
    },
    /// An object by name and the first bytes of it, from its home shard.
    Get(GetQuestion),
    /// The object at a path, from its home shard.
    Describe {
        /// Path in the worker's namespace.
        path: String,
    },
    /// The object behind an id, from its home shard's memory.
    Known {
        /// The id.
        object: ObjectId,
    },
    /// Any version of the object with this home half that the shard has a record of.
    Recorded {
        /// The home half.
        home: u64,
        /// URI, since halves may collide.
        uri: String,
        /// Block size of the mount.
        block_bytes: u32,
    },
    /// The version of an object changed: forget its cached metadata.
    Forget {
        /// The version that is gone.
        object: ObjectId,
    },
    /// Bring an object's blocks in. Nobody waits for the answer.
    Load {
        /// The object.
        object: Arc<ObjectMeta>,
    },
    /// A look-up in an object, from its home shard.
    LookUp {
        /// What of it.
        asked: Box<ObjectQuery>,
        /// What the client may read.
        access: Arc<AccessSet>,
    },
    /// Let go of a region that is about to be reused.
    Release(Release),
}

/// What it answers.
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Read`].
    Read(Result<RemoteRead, ErrorMessage>),
    /// To [`Question::Get`].
    Got(Result<Got, ErrorMessage>),
    /// To [`Question::Describe`].
    Described(Result<Arc<ObjectMeta>, ErrorMessage>),
    /// To [`Question::Known`] and [`Question::Recorded`].
    Object(Option<Arc<ObjectMeta>>),
    /// To [`Question::LookUp`].
    LookedUp(Result<Box<FileAnswer>, LookupFailure>),
    /// To [`Question::Release`]: whether nothing there is needed any more.
    Released(bool),
    /// To [`Question::Forget`] and [`Question::Load`].
    Done,
}

/// Which object, and what of it.
#[derive(Debug)]
pub struct GetQuestion {
    /// The mount that is the bucket.
    pub bucket_mount: MountId,
    /// Path in the worker's namespace.
    pub path: Box<str>,
    /// Its path key.
    pub path_key: Box<str>,
    /// Home half of the path key's hash.
    pub home: u64,
    /// What of it; all without one.
    pub range: Option<RangeSpec>,
    /// Whether bytes are wanted at all.
    pub wants_bytes: bool,
}

/// An object, and a beginning of what was asked for of it.
#[derive(Debug)]
pub struct Got {
    /// The object.
    pub meta: Arc<ObjectMeta>,
    /// How far that may be believed by others; `None` where its home does not remember it either.
    pub said: Option<Said>,
    /// Bytes from the start of the range. None where that is another shard's, or there are none.
    pub read: Option<Result<RemoteRead, ErrorMessage>>,
}

/// What the home of an object says of what it says.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    /// How long ago the under-store was asked.
    pub age: Duration,
    /// The last write that the home was told of.
    pub last_write: u64,
}

/// Bytes of a read, pinned in the owner's memory.
#[derive(Debug)]
pub struct RemoteRead {
    /// Where they came from.
    pub source: ReadSource,
    /// The bytes, in order.
    pub pieces: SmallVec<[RemoteFrame; 1]>,
    /// CRC-32C of each page that the range touches.
    pub checksums: SmallVec<[u32; 4]>,
    /// Whether the range ends where the object does.
    pub ends_with_object: bool,
}

impl RemoteRead {
    /// Nothing yet, from the tier.
    pub fn from_tier() -> Self {
        RemoteRead {
            source: ReadSource::Dram,
            pieces: SmallVec::new(),
            checksums: SmallVec::new(),
            ends_with_object: false,
        }
    }

    /// What its owner gathered, pinned for another core.
    ///
    /// # Panics
    /// If a piece is not of this core's memory.
    pub fn of_parts(parts: ReadParts) -> Self {
        RemoteRead {
            source: parts.source,
            pieces: parts.pieces.iter().map(pin).collect(),
            checksums: parts.checksums,
            ends_with_object: parts.ends_with_object,
        }
    }
}

fn pin(piece: &Payload) -> RemoteFrame {
    match piece {
        Payload::Frame(slice) => slice.to_remote(),
        Payload::Remote(_) | Payload::Static(_) => unreachable!("an owner gathers its own frames"),
    }
}
