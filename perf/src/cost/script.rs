//! Fixed scripts of DRAM hits and device hits: the worker's shard on a simulated core, for a
//! profiler to count.
//!
//! Everything is decided by a seed, so two runs execute the same instructions. Requests are
//! encoded beforehand and answers only counted, so that what the client costs is small; what it
//! and the simulator cost is told apart by source file (see `callgrind`).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use corelane_io::sim::{Faults, SimIo, World};
use corelane_io::{Doorbell, FramePool, Io, PAGE_SIZE, Priority, SendBatch, Stream, mesh};
use corelane_rpc_schema::frame::{
    DecodedHead, Head, PREFIX_BYTES, READ_REQUEST_BYTES, ReadFlags, ReadRequest, ReadSource,
    decode_head, encode_read_request,
};
use corelane_rpc_schema::messages::{Hello, Message, Open, OpenAnswer};
use corelane_rpc_schema::{BLOCK_BYTES_DEFAULT, ObjectId, ShardId};
use corelane_worker::access::Access;
use corelane_worker::cache::policy::PolicyKind;
use corelane_worker::inbox::inbox;
use corelane_worker::mount::{Admission, Freshness, Mount, MountId, MountTable};
use corelane_worker::object::ObjectMeta;
use corelane_worker::shard::request::{ShardLimits, ShardRequest};
use corelane_worker::shard::{self, ShardSetup, Tuning};
use corelane_worker::store::{FormatOptions, Wear, format_devices};
use corelane_worker::under_store::{Event, Job, Request, UnderStore};
use tokio::sync::oneshot;

use crate::ceiling::page;
use crate::random::Random;

/// Bytes of the device, and of a region: the object fits it several times.
const DEVICE_BYTES: u64 = 320 << 20;
const REGION_BYTES: u32 = 8 << 20;

/// Between two rounds of the fill, so that the store keeps up with it.
const FILL_PAUSE: Duration = Duration::from_millis(20);

/// Requests in flight: sent together, answered together.
const DEPTH: u64 = 32;

/// Bytes of the answer to a read of one page: prefix, header with one checksum, page.
const ANSWER_BYTES: usize = PREFIX_BYTES + 24 + PAGE_SIZE;

/// Where the prefix says what kind of header follows, and the kind of a READ answer.
const HEADER_KIND_AT: usize = 3;
const KIND_READ_ANSWER: u8 = 3;

/// Where the header of a READ answer says where the bytes came from.
const SOURCE_AT: usize = PREFIX_BYTES + 8;

/// Different batches of requests, sent in turn.
const BATCHES: usize = 64;

/// Where the script's reads are served from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// The DRAM tier, which holds the whole object.
    Dram,
    /// The device; the tier holds an eighth of the object and takes nothing of what is asked for.
    Device,
}

impl Place {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Place::Dram => "dram",
            Place::Device => "device",
        }
    }

    fn source(self) -> ReadSource {
        match self {
            Place::Dram => ReadSource::Dram,
            Place::Device => ReadSource::Device,
        }
    }

    /// Bytes of the one object.
    fn object_bytes(self) -> u64 {
        match self {
            Place::Dram => 16 << 20,
            Place::Device => 64 << 20,
        }
    }

    fn tier_bytes(self) -> u64 {
        match self {
            Place::Dram => 4 * self.object_bytes(),
            Place::Device => self.object_bytes() / 8,
        }
    }
}

/// Runs a script.
#[derive(Debug, Args)]
pub struct CostScript {
    /// Reads to serve
    #[arg(long, default_value_t = 4096)]
    hits: u64,
    /// Where they are served from
    #[arg(long, value_enum, default_value_t = Place::Dram)]
    from: Place,
}

impl CostScript {
    /// Serves the hits and says how many were served.
    ///
    /// # Errors
    /// When the shard does not start, or an answer comes from another place.
    pub fn run(self) -> Result<(), String> {
        let served = serve_hits(self.from, self.hits.next_multiple_of(DEPTH))?;
        println!("{served}");
        Ok(())
    }
}

/// Serves `hits` hits from `place`, after one pass that fills; a multiple of the depth.
///
/// # Errors
/// As [`CostScript::run`].
pub fn serve_hits(place: Place, hits: u64) -> Result<u64, String> {
    let world = World::new(1, Faults::none());
    world.set_turns_max(u64::MAX);
    let device = PathBuf::from("/dev/sim0");
    world.add_device(&device, DEVICE_BYTES);
    let finished = world.block_on(script(&world, device, place, hits));
    finished.map_err(|crash| format!("{crash:?} without a crash scheduled"))?
}

async fn script(world: &World, device: PathBuf, place: Place, hits: u64) -> Result<u64, String> {
    let address = start_shard(world, device, place).await?;
    let io = world.core();
    let stream = io
        .connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let mut client = Client {
        stream,
        held: Vec::new(),
        batch: Some(Box::default()),
    };
    client.ask(&Message::Hello(Hello::default())).await?;
    let opened = match client
        .ask(&Message::Open(Open {
            path: "/script/object".to_owned(),
        }))
        .await?
    {
        Message::OpenAnswer(opened) => opened,
        other => return Err(format!("{other:?} does not answer an open")),
    };
    let batches = batches(&opened, place);
    // Once over the whole object, so that all of it is held, and a round of every batch.
    for first in (0..place.object_bytes() / PAGE_SIZE as u64).step_by(DEPTH as usize) {
        let requests: Vec<u64> = (first..first + DEPTH).collect();
        client.round(&encode(&opened, &requests), None).await?;
        io.sleep(FILL_PAUSE).await;
    }
    for batch in &batches {
        client.round(batch, None).await?;
    }
    let source = Some(place.source());
    for round in 0..hits / DEPTH {
        client
            .round(&batches[round as usize % batches.len()], source)
            .await?;
    }
    Ok(hits)
}

fn batches(opened: &OpenAnswer, place: Place) -> Vec<Vec<u8>> {
    let mut random = Random::new(6);
    // The fill leaves the object's end in the tier.
    let pages = match place {
        Place::Dram => place.object_bytes(),
        Place::Device => place.object_bytes() - 2 * place.tier_bytes(),
    } / PAGE_SIZE as u64;
    let batch = |_| {
        let pages: Vec<u64> = (0..DEPTH).map(|_| random.below(pages)).collect();
        encode(opened, &pages)
    };
    (0..BATCHES).map(batch).collect()
}

fn encode(opened: &OpenAnswer, pages: &[u64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pages.len() * READ_REQUEST_BYTES);
    for (index, page) in pages.iter().enumerate() {
        let request = ReadRequest {
            request_id: index as u64 + 1,
            object: opened.object,
            offset: page * PAGE_SIZE as u64,
            length: PAGE_SIZE as u32,
            flags: ReadFlags::CHECKSUMS,
        };
        encode_read_request(&mut out, &request);
    }
    out
}

struct Client {
    stream: <SimIo as Io>::Stream,
    held: Vec<u8>,
    batch: Option<Box<SendBatch>>,
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut batch = self.batch.take().expect("one send at a time");
        batch.clear();
        batch.push_head(bytes);
        let (sent, batch) = self.stream.send(batch).await;
        self.batch = Some(batch);
        sent.map_err(|error| error.to_string())
    }

    async fn ask(&mut self, message: &Message) -> Result<Message, String> {
        let mut bytes = Vec::new();
        message
            .to_frame(1, &mut bytes)
            .map_err(|error| error.to_string())?;
        self.send(&bytes).await?;
        loop {
            if let DecodedHead::Head {
                head: Head::Message(header),
                consumed,
                ..
            } = decode_head(&self.held).map_err(|error| error.to_string())?
            {
                let (_, answer) =
                    Message::from_header(header).map_err(|error| error.to_string())?;
                self.held.drain(..consumed);
                return Ok(answer);
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<(), String> {
        let received = self
            .stream
            .receive()
            .await
            .map_err(|error| error.to_string())?;
        if received.is_empty() {
            return Err("the shard closed the lane".to_owned());
        }
        self.held.extend_from_slice(&received);
        Ok(())
    }

    /// Sends `requests` and takes all their answers.
    ///
    /// Looks at two bytes of each head and counts the rest: were the client to decode with the
    /// codec, its instructions would count as the worker's.
    async fn round(&mut self, requests: &[u8], expected: Option<ReadSource>) -> Result<(), String> {
        self.send(requests).await?;
        let mut left = requests.len() / READ_REQUEST_BYTES;
        while left > 0 {
            self.receive().await?;
            let whole = self.held.len() / ANSWER_BYTES;
            for answer in self.held.chunks_exact(ANSWER_BYTES) {
                if answer[HEADER_KIND_AT] != KIND_READ_ANSWER {
                    return Err("the shard refused a read of the script".to_owned());
                }
                if expected.is_some_and(|source| answer[SOURCE_AT] != source as u8) {
                    return Err(format!(
                        "an answer from source {} where the script has {expected:?}",
                        answer[SOURCE_AT]
                    ));
                }
            }
            self.held.drain(..whole * ANSWER_BYTES);
            left = left
                .checked_sub(whole)
                .ok_or("more answers than requests")?;
        }
        Ok(())
    }
}

async fn start_shard(world: &World, device: PathBuf, place: Place) -> Result<SocketAddr, String> {
    let io = world.core();
    let opened = io
        .open_device(&device)
        .await
        .map_err(|error| error.to_string())?;
    let scratch = FramePool::map(8, 16).map_err(|error| error.to_string())?;
    let options = FormatOptions {
        region_bytes: REGION_BYTES,
        ..FormatOptions::new([3; 16])
    };
    format_devices(&[opened], options, &scratch)
        .await
        .map_err(|error| error.to_string())?;

    let mount = Mount {
        id: MountId(0),
        path: "/script".to_owned(),
        uri: "https://origin.sim/script".to_owned(),
        block_bytes: BLOCK_BYTES_DEFAULT,
        freshness: Freshness::Immutable,
        admission: Admission::Always,
        readers: Vec::new(),
        options: BTreeMap::new(),
        is_runtime: false,
    };
    let policy = match place {
        Place::Dram => PolicyKind::S3Fifo,
        Place::Device => PolicyKind::Noop,
    };
    let tuning = Tuning {
        policy,
        index_blocks: 4096,
        page_frames: 256,
        read_frames: 64,
        ..Tuning::default()
    };
    let (letters, letter_box) = inbox(8);
    let (ready, is_ready) = oneshot::channel();
    let mesh = mesh::build(1, 8).pop().expect("one core");
    let setup = ShardSetup {
        shard: ShardId(0),
        shards: 1,
        worker_id: "script".to_owned(),
        device_paths: vec![device],
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        dram_bytes: place.tier_bytes(),
        mounts: Arc::new(MountTable::new([mount])?),
        access: Arc::new(Access::open()),
        limits: ShardLimits {
            device_write_bytes_per_second: 0,
            scrub_bytes_per_second: 0,
        },
        tuning,
        wear: Wear::default(),
        under_store: PageStore {
            object_bytes: place.object_bytes(),
            events: RefCell::default(),
            doorbell: io.doorbell(),
        },
        inbox: letter_box,
        mesh,
        s3: None,
        ready,
    };
    let running = io.clone();
    io.spawn(Priority::Foreground, async move {
        // The same sentence goes to `ready`.
        let _ = shard::run(running, setup).await;
    });
    let report = is_ready
        .await
        .map_err(|_| "the shard ended before it was ready".to_owned())??;
    let serve = ShardRequest::Serve {
        ports: Arc::from([report.address.port()]),
        epoch: report.epoch,
        doorbells: vec![Arc::clone(&report.doorbell)],
    };
    letters
        .post(serve)
        .map_err(|_| "the shard takes no letters".to_owned())?;
    // Dropping the sender is no end: the shard serves until it is told to stop.
    std::mem::forget(letters);
    Ok(report.address)
}

/// An under-store whose one object is full of the same page.
struct PageStore {
    object_bytes: u64,
    events: RefCell<VecDeque<Event>>,
    doorbell: Arc<dyn Doorbell>,
}

impl UnderStore for PageStore {
    fn submit(&self, job: Job) -> Result<(), Job> {
        let mut events = self.events.borrow_mut();
        match job.request {
            Request::Describe { path } => {
                let uri = job.mount.uri_of(&path);
                let object = ObjectMeta {
                    id: ObjectId::new(&uri, "1", job.mount.block_bytes),
                    path_key: uri.clone(),
                    uri,
                    version: "1".to_owned(),
                    length: self.object_bytes,
                    last_modified_ms: 0,
                    block_bytes: job.mount.block_bytes,
                    content_type: String::new(),
                    headers: String::new(),
                };
                events.push_back(Event::Described {
                    id: job.id,
                    result: Ok(Arc::new(object)),
                });
            }
            Request::Fetch { leases, .. } => {
                let page = page();
                let checksums =
                    [crc32c::crc32c(&page); corelane_worker::under_store::LEASE_PAGES_MAX];
                for mut lease in leases {
                    lease
                        .bytes_mut()
                        .chunks_exact_mut(PAGE_SIZE)
                        .for_each(|bytes| bytes.copy_from_slice(&page));
                    events.push_back(Event::Filled {
                        id: job.id,
                        lease,
                        checksums,
                    });
                }
                events.push_back(Event::Finished {
                    id: job.id,
                    result: Ok(()),
                    unused: Vec::new(),
                });
            }
        }
        drop(events);
        self.doorbell.ring();
        Ok(())
    }

    fn next_event(&self) -> Option<Event> {
        self.events.borrow_mut().pop_front()
    }

    fn fetch_bytes_max(&self) -> u64 {
        self.object_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_are_served_from_where_they_say() {
        assert_eq!(serve_hits(Place::Dram, 2 * DEPTH), Ok(2 * DEPTH));
        // Twice over the object.
        let hits = 2 * Place::Device.object_bytes() / PAGE_SIZE as u64;
        assert_eq!(serve_hits(Place::Device, hits), Ok(hits));
    }

    #[test]
    fn answers_are_as_long_as_the_script_counts_them() {
        let head = crate::ceiling::prebuilt_head(PAGE_SIZE as u32, ReadSource::Device);
        assert_eq!(head.len() + PAGE_SIZE, ANSWER_BYTES);
        assert_eq!(head[HEADER_KIND_AT], KIND_READ_ANSWER);
        assert_eq!(head[SOURCE_AT], ReadSource::Device as u8);
    }
}
