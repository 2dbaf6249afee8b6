//! Hit rate, write amplification and index memory of the storage engine alone: the real store on a
//! ring, its device a file on tmpfs.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_io::uring::{self, UringIo};
use corelane_io::{FramePool, Io, PAGE_SIZE};
use corelane_rpc_schema::{BlockId, ObjectId, ShardId};
use corelane_worker::cache::index::{Entry, Index};
use corelane_worker::mount::MountId;
use corelane_worker::object::ObjectMeta;
use corelane_worker::store::{
    FormatOptions, LocalBoxFuture, NewBlock, NotKept, Recovery, Release, Siblings, Store,
    StoreConfig, format_paths,
};

use super::bench::Bench;
use super::ideal::IdealCache;
use super::measure::{Bar, Measure};
use crate::ceiling::page;
use crate::process;
use crate::random::Random;
use crate::workload::keys::scatter;
use crate::workload::zipf::Zipf;

/// Cached blocks of the hit-rate run times this are the keys.
const KEYS_PER_CACHED: u64 = 8;

/// Requests of the hit-rate run for each cached block: the first quarter fills, the rest counts.
const REQUESTS_PER_CACHED: u64 = 40;

/// The exponent of the hit-rate run.
const THETA: f64 = 0.99;

/// One hit in so many is read back and compared.
const READ_ONE_IN: u64 = 64;

/// How often a block is offered before the store counts as stuck: two minutes.
const OFFERS_MAX: u32 = 120_000;

/// Results that serve two measures.
#[derive(Debug, Default)]
pub struct Cached {
    policy: Option<Result<PolicyRun, String>>,
}

/// A run of the policy through the store.
#[derive(Clone, Debug)]
struct PolicyRun {
    requests: u64,
    cached_blocks: u64,
    hits: u64,
    ideal_hits: u64,
    bytes_admitted: u64,
    bytes_written: u64,
    reads_checked: u64,
    not_kept: u64,
}

struct Alone;

impl Siblings for Alone {
    fn release(&self, _: ShardId, _: Release) -> LocalBoxFuture<bool> {
        Box::pin(std::future::ready(true))
    }
}

/// Runs `task` on a ring of its own, on a thread pinned to the server's core.
pub(super) fn on_core<T, F>(
    core: usize,
    task: impl FnOnce(UringIo) -> F + Send,
) -> Result<T, String>
where
    T: Send + 'static,
    F: Future<Output = Result<T, String>> + 'static,
{
    let options = uring::Options {
        core: Some(core),
        ..uring::Options::default()
    };
    std::thread::scope(|scope| {
        let run = || uring::run(&options, task).map_err(|error| error.to_string());
        scope
            .spawn(run)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?
}

/// Makes and formats a device file for `regions` regions of `region_bytes`.
fn format(path: &Path, regions: u64, region_bytes: u32) -> Result<(), String> {
    if path.exists() {
        std::fs::remove_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let size = (4 << 20) + regions * u64::from(region_bytes);
    let options = FormatOptions {
        region_bytes,
        ..FormatOptions::new([0x67; 16])
    };
    format_paths(&[path], Some(size), options, true).map_err(|error| error.to_string())
}

pub(super) async fn open(
    io: &UringIo,
    path: &Path,
    index_capacity: usize,
) -> Result<(Store<UringIo>, Recovery), String> {
    let device = io
        .open_device(path)
        .await
        .map_err(|error| error.to_string())?;
    let scratch = io
        .allocate_pool(128, 16)
        .map_err(|error| error.to_string())?;
    let config = StoreConfig::new(ShardId(0), 1, index_capacity);
    Store::open(io.clone(), config, vec![device], scratch, Rc::new(Alone))
        .await
        .map_err(|error| error.to_string())
}

/// Blocks that one object has, and how long they are.
#[derive(Clone, Copy)]
struct Shape {
    block_bytes: u32,
    blocks_per_object: u64,
}

/// Makes blocks by number, all pages alike.
struct Blocks {
    shape: Shape,
    pool: FramePool,
    last: Option<(u64, Arc<ObjectMeta>)>,
    page: [u8; PAGE_SIZE],
    checksum: u32,
}

impl Blocks {
    fn new(io: &UringIo, shape: Shape, in_flight: u64) -> Result<Blocks, String> {
        let pages = (shape.block_bytes as usize / PAGE_SIZE).min(16);
        let frames = in_flight as usize * (shape.block_bytes as usize).div_ceil(pages * PAGE_SIZE);
        let pool = io
            .allocate_pool(frames, pages)
            .map_err(|error| error.to_string())?;
        let page = page();
        Ok(Blocks {
            shape,
            pool,
            last: None,
            checksum: crc32c::crc32c(&page),
            page,
        })
    }

    fn object(&mut self, number: u64) -> Arc<ObjectMeta> {
        if let Some((last, object)) = &self.last
            && *last == number
        {
            return Arc::clone(object);
        }
        let uri = format!("s3://bucket/training/shard-{number:09}.tar");
        let length = self.shape.blocks_per_object * u64::from(self.shape.block_bytes);
        let object = Arc::new(ObjectMeta {
            id: ObjectId::new(&uri, "\"etag\"", length, self.shape.block_bytes),
            path_key: uri.clone(),
            uri,
            version: "\"etag\"".to_owned(),
            length,
            last_modified_ms: 1_700_000_000_000,
            block_bytes: self.shape.block_bytes,
            content_type: String::new(),
            headers: String::new(),
        });
        self.last = Some((number, Arc::clone(&object)));
        object
    }

    fn id(&mut self, key: u64) -> BlockId {
        let (object, block) = (
            key / self.shape.blocks_per_object,
            key % self.shape.blocks_per_object,
        );
        self.object(object).block(block as u32)
    }

    /// Block `key`, or `None` while all frames wait to be written.
    fn block(&mut self, key: u64) -> Option<NewBlock> {
        let frame_pages = self.pool.frame_pages();
        let pages = self.shape.block_bytes as usize / PAGE_SIZE;
        let mut frames = Vec::with_capacity(pages / frame_pages);
        for _ in 0..pages / frame_pages {
            let frame = self.pool.take()?;
            let mut lease = frame
                .lease(0..frame_pages)
                .expect("a fresh frame is vacant");
            for page in lease.bytes_mut().chunks_exact_mut(PAGE_SIZE) {
                page.copy_from_slice(&self.page);
            }
            lease.seal();
            frames.push(frame);
        }
        Some(NewBlock {
            id: self.id(key),
            object: self.object(key / self.shape.blocks_per_object),
            mount: MountId(0),
            frames,
            checksums: vec![self.checksum; pages].into_boxed_slice(),
            pinned: false,
        })
    }
}

/// Appends block `key`, waiting where the store is behind; false when it is not kept at all.
async fn append(
    io: &UringIo,
    store: &Store<UringIo>,
    blocks: &mut Blocks,
    key: u64,
) -> Result<bool, String> {
    for _ in 0..OFFERS_MAX {
        let offered = match blocks.block(key) {
            Some(block) => store.append(block),
            None => Err(NotKept::Busy),
        };
        match offered {
            Ok(()) => return Ok(true),
            Err(NotKept::Present) => return Ok(false),
            // Requests come faster here than any client sends them: flush and reclaim may lag.
            Err(NotKept::Busy | NotKept::NoRoom) => io.sleep(Duration::from_millis(1)).await,
        }
    }
    Err("the store took nothing for two minutes".to_owned())
}

pub(super) fn index_bytes_per_block(_: &mut Bench) -> Result<Measure, String> {
    const BLOCKS: usize = 1_000_000;
    let before = process::resident_bytes(std::process::id()).map_err(|error| error.to_string())?;
    let mut index = Index::new(BLOCKS);
    let entry = Entry {
        region: 1,
        first_page: 1,
        mount: MountId(1),
        length: 4096,
        frequency: 0,
        pinned: false,
    };
    for number in 0..BLOCKS as u64 {
        let object = ObjectId {
            home: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            version: number,
        };
        index
            .insert(BlockId { object, index: 0 }, entry)
            .map_err(|_| "the index is full too early".to_owned())?;
    }
    let after = process::resident_bytes(std::process::id()).map_err(|error| error.to_string())?;
    let resident = after.saturating_sub(before) as f64 / BLOCKS as f64;
    let bytes = index.bytes_per_block();
    Ok(
        Measure::of_value("index_bytes_per_block", "B", bytes, Bar::AtMost(48.0)).with_note(
            format!("resident memory grew by {resident:.1} bytes a block while it was filled"),
        ),
    )
}

fn policy_run(bench: &mut Bench) -> Result<PolicyRun, String> {
    if let Some(cached) = &bench.cached.policy {
        return cached.clone();
    }
    let (regions, region_bytes) = if bench.options.quick {
        (64, 1 << 20)
    } else {
        (256, 4 << 20)
    };
    let path = bench.fast_directory().join("policy");
    let core = bench.options.server_core;
    let run = format(&path, regions, region_bytes).and_then(|()| {
        let path = path.clone();
        on_core(core, move |io| {
            policy_task(io, path, regions * u64::from(region_bytes))
        })
    });
    // Gone already where formatting failed.
    let _ = std::fs::remove_file(&path);
    bench.cached.policy = Some(run.clone());
    run
}

async fn policy_task(io: UringIo, path: PathBuf, device_bytes: u64) -> Result<PolicyRun, String> {
    let shape = Shape {
        block_bytes: 64 << 10,
        blocks_per_object: 16,
    };
    // The ideal gets every byte of the device's regions, the reserve included.
    let cached_blocks = device_bytes / u64::from(shape.block_bytes);
    let keys = cached_blocks * KEYS_PER_CACHED;
    let requests = cached_blocks * REQUESTS_PER_CACHED;
    let (store, _) = open(&io, &path, cached_blocks as usize * 2).await?;
    let read_pool = io.allocate_pool(1, 1).map_err(|error| error.to_string())?;
    let mut maker = Blocks::new(&io, shape, 2048)?;
    let mut ideals = [1, 2].map(|promoted_at| IdealCache::new(cached_blocks as usize, promoted_at));
    let mut ideal_hits = [0; 2];
    let zipf = Zipf::new(keys, THETA);
    let mut random = Random::new(9);
    let mut run = PolicyRun {
        requests: 0,
        cached_blocks,
        hits: 0,
        ideal_hits: 0,
        bytes_admitted: 0,
        bytes_written: 0,
        reads_checked: 0,
        not_kept: 0,
    };
    let (mut admitted_before, mut written_before) = (0, 0);
    for request in 0..requests {
        let counts = request >= requests / 4;
        if request == requests / 4 {
            store.flush().await.map_err(|error| error.to_string())?;
            admitted_before = store.counters().bytes_admitted.get();
            written_before = store.counters().bytes_written_device.get();
        }
        let key = scatter(zipf.sample(&mut random) - 1, keys, 0);
        let id = maker.id(key);
        let are_ideal_hits = ideals.each_mut().map(|ideal| ideal.request(key));
        let is_hit = store.lookup(id).is_some() || store.pending(id).is_some();
        if is_hit {
            store.touch(id);
            if request % READ_ONE_IN == 0 {
                run.reads_checked += u64::from(read_back(&store, &read_pool, id).await?);
            }
        } else if !append(&io, &store, &mut maker, key).await? {
            run.not_kept += 1;
        }
        if counts {
            run.requests += 1;
            run.hits += u64::from(is_hit);
            for (hits, is_hit) in ideal_hits.iter_mut().zip(are_ideal_hits) {
                *hits += u64::from(is_hit);
            }
        }
        if request % 32 == 0 {
            io.yield_now().await;
        }
    }
    // The better of the two is the ideal.
    run.ideal_hits = ideal_hits.into_iter().max().unwrap_or(0);
    store.flush().await.map_err(|error| error.to_string())?;
    run.bytes_admitted = store.counters().bytes_admitted.get() - admitted_before;
    run.bytes_written = store.counters().bytes_written_device.get() - written_before;
    store.close().await.map_err(|error| error.to_string())?;
    Ok(run)
}

/// Reads the first page of a block that is on the device and compares it; false if it just left.
async fn read_back(store: &Store<UringIo>, pool: &FramePool, id: BlockId) -> Result<bool, String> {
    let Some(entry) = store.lookup(id) else {
        return Ok(false);
    };
    let frame = pool
        .take()
        .ok_or_else(|| "the frame of the last read is not back".to_owned())?;
    let lease = frame.lease(0..1).expect("a fresh frame is vacant");
    drop(frame);
    match store.read(id, entry, 0, lease).await {
        Ok(frame) if frame.slice(0..PAGE_SIZE).bytes() == page() => Ok(true),
        Ok(_) => Err(format!("{id} has wrong bytes")),
        Err(error) => Err(format!("{id} cannot be read: {error}")),
    }
}

fn run_note(run: &PolicyRun) -> String {
    format!(
        "{} requests counted after {} to fill, cache of {} blocks of 64 KiB, zipf {THETA} over {KEYS_PER_CACHED} x \
         the cache, admission always; {} reads compared, {} blocks not kept",
        run.requests,
        run.requests / 3,
        run.cached_blocks,
        run.reads_checked,
        run.not_kept
    )
}

pub(super) fn hit_rate_vs_ideal(bench: &mut Bench) -> Result<Measure, String> {
    let run = policy_run(bench)?;
    let rate = |hits: u64| hits as f64 / run.requests as f64;
    let pairs = [(rate(run.hits), rate(run.ideal_hits))];
    let mut measure = Measure::of_pairs(
        "hit_rate_vs_ideal",
        "hits a request",
        &pairs,
        Bar::RatioAtLeast(0.97),
    );
    measure.spread = None;
    Ok(measure.with_note(run_note(&run)))
}

pub(super) fn write_amplification(bench: &mut Bench) -> Result<Measure, String> {
    let run = policy_run(bench)?;
    let ratio = run.bytes_written as f64 / run.bytes_admitted.max(1) as f64;
    Ok(
        Measure::of_value("write_amplification", "B/B", ratio, Bar::AtMost(1.5)).with_note(
            format!(
                "{} MiB written to the device, {} MiB admitted",
                run.bytes_written >> 20,
                run.bytes_admitted >> 20
            ),
        ),
    )
}
