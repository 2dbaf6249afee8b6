//! Shards and an under-store that a test plays: a small world in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corelane_io::Doorbell;
use corelane_rpc_schema::ObjectId;
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};
use corelane_worker::config::Config;
use corelane_worker::control_plane::catalogue::{Catalogue, ListRequest, Listed, Page};
use corelane_worker::mount::MountTable;
use corelane_worker::object::ObjectMeta;
use corelane_worker::shard::request::{
    Cached, DescribeError, Loaded, ShardRequest, ShardStats, Verified,
};
use corelane_worker::start::WorkerError;
use corelane_worker::start::seats::{DeviceSet, LaunchPlan, Launched, Launcher, Seat, SeatReady};
use corelane_worker::under_store::{UnderStoreError, UnderStoreErrorKind};
use futures::future::{BoxFuture, FutureExt};

const BLOCK: u32 = 1 << 20;

/// What the shards and the under-store of a test have.
#[derive(Default)]
pub struct World {
    /// Objects of the under-store, by path.
    objects: Mutex<BTreeMap<String, Arc<ObjectMeta>>>,
    /// What shard 0 holds.
    held: Mutex<BTreeMap<ObjectId, (Arc<ObjectMeta>, Cached)>>,
    state: Mutex<Option<Vec<u8>>>,
    pub is_store_away: AtomicBool,
    /// While set, loads are left unanswered.
    pub holds_loads: AtomicBool,
    /// While set, requests for statistics are left unanswered.
    pub holds_stats: AtomicBool,
    /// While set, no device takes the state.
    pub refuses_state: AtomicBool,
    /// While set, shard 0 ends at the next letter.
    pub fails: AtomicBool,
}

impl World {
    pub fn with_files(files: &[(&str, u64)]) -> Arc<World> {
        let world = World::default();
        for (path, length) in files {
            let uri = format!(
                "s3://bucket{}",
                path.strip_prefix("/data").expect("below the mount")
            );
            let meta = ObjectMeta {
                id: ObjectId::new(&uri, "v1", *length, BLOCK),
                path_key: uri.clone(),
                uri,
                version: "v1".to_owned(),
                length: *length,
                last_modified_ms: 7,
                block_bytes: BLOCK,
                content_type: String::new(),
                headers: String::new(),
            };
            world
                .objects
                .lock()
                .expect("no panic")
                .insert((*path).to_owned(), Arc::new(meta));
        }
        Arc::new(world)
    }

    /// Holds all objects, as after a load of everything.
    pub fn hold_all(&self) {
        let mut held = self.held.lock().expect("no panic");
        for object in self.objects.lock().expect("no panic").values() {
            let cached = Cached {
                blocks: u64::from(object.blocks()),
                bytes: object.length,
                pinned: false,
            };
            held.insert(object.id, (Arc::clone(object), cached));
        }
    }

    fn away(&self) -> Option<UnderStoreError> {
        self.is_store_away
            .load(Ordering::Relaxed)
            .then(|| UnderStoreError {
                kind: UnderStoreErrorKind::Unavailable,
                uri: "s3://bucket".to_owned(),
                message: "away for the test".to_owned(),
            })
    }

    fn answer(&self, letter: ShardRequest) {
        let held = |object| {
            self.held
                .lock()
                .expect("no panic")
                .get(&object)
                .map_or(Cached::default(), |(_, cached)| *cached)
        };
        match letter {
            ShardRequest::LookUp { answer, .. } => give(
                answer,
                Err(ErrorMessage {
                    code: ErrorCode::NotFound,
                    message: "these objects have no bytes".to_owned(),
                    retry_after_ms: 0,
                }
                .into()),
            ),
            ShardRequest::Stats { answer } => {
                let values = vec![("reads_dram", 3), ("lanes_open", 1)];
                give(
                    answer,
                    ShardStats {
                        values,
                        latencies: vec![("dram", [1, 2, 3, 4])],
                    },
                );
            }
            ShardRequest::Written { answer, .. }
            | ShardRequest::MountWritten { answer, .. }
            | ShardRequest::BringIn { answer, .. } => {
                give(answer, ());
            }
            ShardRequest::Describe { path, answer } => {
                let found = self.objects.lock().expect("no panic").get(&path).cloned();
                let missing = || UnderStoreError {
                    kind: UnderStoreErrorKind::NotFound,
                    uri: path.clone(),
                    message: "no such object".to_owned(),
                };
                let result = match self.away() {
                    Some(error) => Err(error),
                    None => found.ok_or_else(missing),
                };
                give(answer, result.map_err(DescribeError::from));
            }
            ShardRequest::Cached { object, answer, .. } => give(answer, held(object)),
            ShardRequest::CachedObjects {
                uri_prefix,
                after,
                limit,
                answer,
            } => {
                let all = self.held.lock().expect("no panic");
                let mut found: Vec<_> = all
                    .values()
                    .filter(|(meta, _)| meta.uri.starts_with(&uri_prefix) && meta.uri > after)
                    .cloned()
                    .collect();
                found.sort_by(|left, right| left.0.uri.cmp(&right.0.uri));
                found.truncate(limit);
                give(answer, found);
            }
            ShardRequest::Load { object, answer } => {
                let before = held(object.id).bytes;
                let loaded = Loaded {
                    bytes_fetched: object.length - before,
                    bytes_skipped: before,
                    bytes_not_kept: 0,
                };
                let cached = Cached {
                    blocks: u64::from(object.blocks()),
                    bytes: object.length,
                    pinned: false,
                };
                self.held
                    .lock()
                    .expect("no panic")
                    .insert(object.id, (object, cached));
                give(answer, Ok(loaded));
            }
            ShardRequest::Free { object, answer } => {
                let freed = self.held.lock().expect("no panic").remove(&object.id);
                give(
                    answer,
                    Ok(freed.map_or(Cached::default(), |(_, cached)| cached)),
                );
            }
            ShardRequest::Pin {
                object,
                pinned,
                answer,
            } => {
                let mut all = self.held.lock().expect("no panic");
                all.entry(object.id)
                    .or_insert((object, Cached::default()))
                    .1
                    .pinned = pinned;
                give(answer, Ok(()));
            }
            ShardRequest::DistrustAbsentDevices { answer } => give(answer, Ok(())),
            ShardRequest::Verify { object, answer } => {
                let blocks_right = held(object.id).blocks;
                give(
                    answer,
                    Verified {
                        blocks_right,
                        blocks_wrong: 1,
                        bytes: object.length,
                    },
                );
            }
            ShardRequest::Read {
                offset,
                length,
                answer,
                ..
            } => {
                give(
                    answer,
                    Ok((0..length)
                        .map(|index| (offset + u64::from(index)) as u8)
                        .collect()),
                );
            }
            ShardRequest::Devices { answer } => give(answer, Vec::new()),
            ShardRequest::Slow { answer } => give(answer, Vec::new()),
            ShardRequest::SaveState { answer, .. }
                if self.refuses_state.load(Ordering::Relaxed) =>
            {
                give(answer, Err("refused for the test".to_owned()));
            }
            ShardRequest::SaveState { state, answer } => {
                *self.state.lock().expect("no panic") = Some(state);
                give(answer, Ok(()));
            }
            ShardRequest::Drain { answer } | ShardRequest::Stop { answer } => give(answer, ()),
            ShardRequest::Serve { .. }
            | ShardRequest::SetMounts { .. }
            | ShardRequest::SetLimits { .. } => {}
        }
    }

    fn run(&self, seat: Seat) {
        let Seat {
            shard,
            inbox,
            ready,
            end,
            ..
        } = seat;
        let state = if shard.0 == 0 {
            self.state.lock().expect("no panic").clone()
        } else {
            None
        };
        let report = SeatReady {
            doorbell: Arc::new(Silent),
            address: SocketAddr::from(([127, 0, 0, 1], 1000 + shard.0)),
            epoch: 5,
            recovered_blocks: 2,
            recovery: Duration::from_millis(3),
            state,
        };
        let _ = ready.send(Ok(report));
        let mut waiting = Vec::new();
        loop {
            if self.fails.load(Ordering::Relaxed) && shard.0 == 0 {
                return end.report(Err("its device is gone".to_owned()));
            }
            let Some(letter) = inbox.take() else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            match letter {
                ShardRequest::Load { .. } if self.holds_loads.load(Ordering::Relaxed) => {
                    waiting.push(letter)
                }
                ShardRequest::Stats { .. } if self.holds_stats.load(Ordering::Relaxed) => {
                    waiting.push(letter)
                }
                ShardRequest::Stop { .. } => {
                    self.answer(letter);
                    return end.report(Ok(()));
                }
                _ if shard.0 == 0 => self.answer(letter),
                // The other shard owns nothing.
                ShardRequest::CachedObjects { answer, .. } => give(answer, Vec::new()),
                ShardRequest::Cached { answer, .. } => give(answer, Cached::default()),
                ShardRequest::Free { answer, .. } => give(answer, Ok(Cached::default())),
                ShardRequest::Verify { answer, .. } => give(answer, Verified::default()),
                other => self.answer(other),
            }
        }
    }
}

#[derive(Debug)]
struct Silent;

/// Answers; whoever asked may be gone.
fn give<T>(answer: tokio::sync::oneshot::Sender<T>, value: T) {
    let _ = answer.send(value);
}

impl Doorbell for Silent {
    fn ring(&self) {}
}

struct Store(Arc<World>);

impl Catalogue for Store {
    fn list(&self, request: ListRequest) -> BoxFuture<'static, Result<Page, UnderStoreError>> {
        if let Some(error) = self.0.away() {
            return futures::future::ready(Err(error)).boxed();
        }
        let prefix = format!("{}/", request.path.trim_end_matches('/'));
        let mut entries: BTreeMap<String, Listed> = BTreeMap::new();
        for (path, meta) in self.0.objects.lock().expect("no panic").iter() {
            let Some(rest) = path.strip_prefix(&prefix) else {
                continue;
            };
            let folder = rest
                .find('/')
                .filter(|_| !request.recursive)
                .map(|end| path[..=prefix.len() + end].to_owned());
            let listed = Listed {
                path: folder.clone().unwrap_or_else(|| path.clone()),
                is_directory: folder.is_some(),
                length: meta.length,
                last_modified_ms: meta.last_modified_ms,
                version: meta.version.clone(),
            };
            entries.insert(listed.path.clone(), listed);
        }
        let after = entries
            .into_values()
            .filter(|listed| listed.path > request.after);
        let mut entries: Vec<Listed> = after.collect();
        let more = entries.len() > request.limit;
        entries.truncate(request.limit);
        futures::future::ready(Ok(Page { entries, more })).boxed()
    }

    fn set_limits(&self, _: u64, _: usize) {}

    fn retain_mounts(&self, _: &MountTable) {}

    fn counters(&self) -> Vec<(&'static str, String, u64)> {
        vec![("under_store_requests", "/data".to_owned(), 9)]
    }
}

pub struct Played(pub Arc<World>);

impl Launcher for Played {
    fn prepare(&self, config: &Config) -> Result<DeviceSet, WorkerError> {
        Ok(DeviceSet {
            paths: config.devices.clone(),
            uuid: "the-set".to_owned(),
            partitions: 16,
            region_bytes: 16 << 20,
        })
    }

    fn launch(&self, plan: LaunchPlan<'_>) -> Result<Launched, WorkerError> {
        let mut threads = Vec::new();
        for seat in plan.seats {
            let world = Arc::clone(&self.0);
            threads.push(std::thread::spawn(move || world.run(seat)));
        }
        Ok(Launched {
            threads,
            catalogue: Arc::new(Store(Arc::clone(&self.0))),
            companions: Vec::new(),
        })
    }
}
