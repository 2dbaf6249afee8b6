//! The threads that talk to the under-stores, and a shard's handle to them.
//!
//! Every job is a task of its own on a tokio runtime off the data cores, so none waits behind
//! another one but at the limits: requests in flight and bytes a second, of the mount and of all.
//!
//! The invariant: every job that was accepted ends with its last event, and memory that was lent
//! comes back in events, as long as the runtime is not stopped. Local reads cannot be called off:
//! a file server that hangs keeps its jobs' memory until it answers, and who waits for them is told
//! ([`Event::Stalled`]).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use corelane_io::{Doorbell, IoError};
use corelane_rpc_schema::STRIPE_BYTES;
use tokio::runtime::{Builder, Handle, Runtime};

use super::counters::MountCounts;
use super::fill::Fill;
use super::retry::RetryPolicy;
use super::sink::{EventSink, Room};
use super::stores::{FILE_LISTINGS_MAX, Stores};
use super::threads::Placement;
use super::{Event, Job, Request, UnderStore};
use crate::inbox::{Inbox, inbox};
use crate::mount::{MountId, MountTable};

/// How long a thread for blocking file reads stays without work.
const BLOCKING_THREAD_IDLE: Duration = Duration::from_secs(10);

/// Limits on what leaves for the under-stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchLimits {
    /// Most requests in flight; at least one.
    pub requests_in_flight_max: usize,
    /// Most bytes a second; 0 is no limit.
    pub bytes_per_second: u64,
}

/// How long the parts of a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands.
    pub connect: Duration,
    /// From then until the answer's head.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub stall: Duration,
}

/// How to run the fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOptions {
    /// Threads for requests; at least one.
    pub threads: usize,
    /// Threads for reads of local files, started as needed; at least one. Listings have four more. A mount of files uses
    /// half of them at most unless its options set another limit on requests in flight.
    pub file_threads_max: usize,
    /// CPUs for all of these threads, away from the data cores; empty leaves them to the kernel.
    pub cpus: Vec<usize>,
    /// Niceness of the threads, from -20 to 19; 0 leaves it as it is.
    pub nice: i32,
    /// Limits for all mounts together.
    pub limits: FetchLimits,
    /// Limits for each mount whose options do not set its own.
    pub mount_limits: FetchLimits,
    /// When failed requests are tried again.
    pub retry: RetryPolicy,
    /// How long requests may take.
    pub timeouts: Timeouts,
    /// How long a call into a local file system may last before its mount counts as one that does not
    /// answer.
    pub file_timeout: Duration,
    /// Longest time for a page of a listing, all its requests together; file systems have none.
    pub listing_timeout: Duration,
    /// Most jobs of one shard that have not ended; [`UnderStore::submit`] refuses more. One mount
    /// may have half of them, so that a store that hangs leaves room for the others.
    pub jobs_per_shard_max: usize,
}

impl Default for FetchOptions {
    fn default() -> Self {
        FetchOptions {
            threads: 2,
            file_threads_max: 8,
            cpus: Vec::new(),
            nice: 0,
            limits: FetchLimits {
                requests_in_flight_max: 256,
                bytes_per_second: 0,
            },
            mount_limits: FetchLimits {
                requests_in_flight_max: 128,
                bytes_per_second: 0,
            },
            retry: RetryPolicy::default(),
            timeouts: Timeouts {
                connect: Duration::from_secs(5),
                first_byte: Duration::from_secs(15),
                stall: Duration::from_secs(10),
            },
            file_timeout: Duration::from_secs(30),
            // Longer than the tries of one request, whose error says more.
            listing_timeout: Duration::from_secs(90),
            jobs_per_shard_max: 1024,
        }
    }
}

/// The threads that talk to the under-stores.
#[derive(Debug)]
pub struct FetchRuntime {
    /// Taken out when dropped.
    runtime: Option<Runtime>,
    stores: Arc<Stores>,
}

impl FetchRuntime {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the CPUs or the niceness are refused, or threads cannot be started.
    pub fn start(options: FetchOptions) -> Result<Self, IoError> {
        let placement = Placement {
            cpus: options.cpus.clone(),
            nice: options.nice,
        };
        placement.check()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .max_blocking_threads(options.file_threads_max.max(1) + FILE_LISTINGS_MAX)
            .thread_keep_alive(BLOCKING_THREAD_IDLE)
            .thread_name("fetch")
            .enable_all()
            .on_thread_start(move || {
                // The same call worked a moment ago; a thread in the wrong place still works.
                if let Err(error) = placement.apply() {
                    tracing::warn!(%error, "a fetch thread runs without its placement");
                }
            })
            .build()
            .map_err(|error| {
                IoError::from_std(
                    &error,
                    "cannot start the fetch threads; raise the limit on processes",
                )
            })?;
        Ok(FetchRuntime {
            runtime: Some(runtime),
            stores: Arc::new(Stores::new(options)),
        })
    }

    /// A shard's way in, with an inbox for `events` events; at least one.
    pub fn handle(&self, events: usize) -> ShardUnderStore {
        let (sender, inbox) = inbox(events.max(1));
        let room = Arc::new(Room::default());
        ShardUnderStore {
            runtime: self.runtime_handle(),
            stores: Arc::clone(&self.stores),
            sink: EventSink {
                sender: Arc::new(sender),
                room,
            },
            inbox,
            jobs: Arc::default(),
            jobs_by_mount: RefCell::default(),
        }
    }

    /// Changes the limits for all mounts together; waiting requests see the new ones.
    pub fn set_limits(&self, limits: FetchLimits) {
        let runtime = self.runtime_handle();
        let _inside = runtime.enter();
        self.stores.set_limits(limits);
    }

    /// Drops the clients and counts of mounts that are not in `table`. To be called after mounts
    /// were removed.
    pub fn retain_mounts(&self, table: &MountTable) {
        self.stores.retain(table);
    }

    /// The counts of every mount that was used, by path.
    pub fn counts(&self) -> Vec<MountCounts> {
        self.stores.counts()
    }

    /// Stops the threads, waiting at most `grace` for file reads. Jobs that have not ended do not
    /// end any more, and their memory does not come back: for the end of the process.
    pub fn stop(mut self, grace: Duration) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(grace);
        }
    }

    pub(crate) fn runtime_handle(&self) -> Handle {
        self.runtime
            .as_ref()
            .expect("the runtime is there until it is stopped")
            .handle()
            .clone()
    }

    pub(crate) fn stores(&self) -> Arc<Stores> {
        Arc::clone(&self.stores)
    }
}

impl Drop for FetchRuntime {
    fn drop(&mut self) {
        // Waiting is not possible here: the drop may happen within another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A shard's way to the under-stores.
pub struct ShardUnderStore {
    runtime: Handle,
    stores: Arc<Stores>,
    sink: EventSink,
    inbox: Inbox<Event>,
    /// Jobs that have not ended.
    jobs: Arc<AtomicUsize>,
    /// Of them, those of each mount; one entry for each slot that was ever used.
    jobs_by_mount: RefCell<HashMap<MountId, Arc<AtomicUsize>>>,
}

impl ShardUnderStore {
    /// Makes events ring the doorbell of the core that collects them.
    pub fn connect(&self, doorbell: Arc<dyn Doorbell>) {
        self.inbox.connect(doorbell);
    }
}

/// The end of a task that nobody aborts.
pub(super) async fn ended<T>(task: tokio::task::JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down, and drops this task at its next wait.
        Err(_) => std::future::pending().await,
    }
}

/// Counts a job from its acceptance until it ended.
struct JobCount([Arc<AtomicUsize>; 2]);

impl JobCount {
    fn new(counters: [Arc<AtomicUsize>; 2]) -> Self {
        for counter in &counters {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        JobCount(counters)
    }
}

impl Drop for JobCount {
    fn drop(&mut self) {
        for counter in &self.0 {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl UnderStore for ShardUnderStore {
    fn submit(&self, job: Job) -> Result<(), Job> {
        let of_mount = {
            let mut by_mount = self.jobs_by_mount.borrow_mut();
            Arc::clone(by_mount.entry(job.mount.id).or_default())
        };
        let limit = self.stores.options.jobs_per_shard_max;
        let limit_of_mount = limit.div_ceil(2);
        // Only this core adds, so the limits hold without a loop.
        if self.jobs.load(Ordering::Relaxed) >= limit
            || of_mount.load(Ordering::Relaxed) >= limit_of_mount
        {
            return Err(job);
        }
        let count = JobCount::new([Arc::clone(&self.jobs), of_mount]);
        let (stores, sink) = (Arc::clone(&self.stores), self.sink.clone());
        let Job { id, mount, request } = job;
        // Work that may hang runs in a task of its own, which keeps what it holds when the wait for it ends. Stores
        // are made on the threads of the runtime: it takes a lock, and the first time a client of the store.
        let max = self.stores.options.file_timeout;
        match request {
            Request::Describe { path } => self.runtime.spawn(async move {
                let uri = mount.uri_of(&path);
                let calls = stores.file_calls(&mount);
                let describe = async move {
                    let _count = count;
                    stores.describe(&mount, &path).await
                };
                let result = match calls {
                    None => describe.await,
                    Some(calls) => match calls.check(max, &uri) {
                        Err(error) => Err(error),
                        Ok(()) => tokio::select! {
                            result = ended(tokio::spawn(describe)) => result,
                            error = calls.until_stalled(max, &uri) => Err(error),
                        },
                    },
                };
                sink.send(Event::Described { id, result }).await;
            }),
            Request::Fetch {
                object,
                range,
                leases,
            } => {
                let fill = Fill::new(id, sink.clone(), range, leases);
                self.runtime.spawn(async move {
                    let uri = object.uri.clone();
                    let calls = stores.file_calls(&mount);
                    let fetch = |fill: Fill| async move {
                        let _count = count;
                        stores.fetch(&mount, &object, fill).await;
                    };
                    let Some(calls) = calls else {
                        return fetch(fill).await;
                    };
                    if let Err(error) = calls.check(max, &uri) {
                        return fill.finish(Err(error)).await;
                    }
                    tokio::select! {
                        () = ended(tokio::spawn(fetch(fill))) => {}
                        error = calls.until_stalled(max, &uri) => {
                            sink.send(Event::Stalled { id, error }).await;
                        }
                    }
                })
            }
        };
        Ok(())
    }

    fn next_event(&self) -> Option<Event> {
        let event = self.inbox.take()?;
        self.sink.room.made();
        Some(event)
    }

    fn fetch_bytes_max(&self) -> u64 {
        STRIPE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use corelane_io::{FramePool, PAGE_SIZE, RemoteLease};

    use super::*;
    use crate::mount::{Admission, Freshness, Mount};
    use crate::under_store::listing::{ListingBounds, Listings};
    use crate::under_store::origin::{OriginErrorKind, Origins};
    use crate::under_store::{JobId, UnderStoreErrorKind};

    const TIMEOUT: Duration = Duration::from_millis(200);

    fn next(store: &ShardUnderStore) -> Event {
        let began = Instant::now();
        loop {
            if let Some(event) = store.next_event() {
                return event;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "no event came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_file_system_that_hangs_is_not_waited_for_and_memory_comes_back_when_it_answers() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("object"), [7; PAGE_SIZE]).expect("written");
        let mount = Arc::new(Mount {
            id: MountId(0),
            path: "/m".to_owned(),
            uri: format!("file://{}", folder.path().display()),
            block_bytes: 1 << 20,
            freshness: Freshness::AlwaysCheck,
            admission: Admission::Always,
            key_indexes: Vec::new(),
            readers: Vec::new(),
            options: Default::default(),
            is_runtime: false,
        });
        let runtime = FetchRuntime::start(FetchOptions {
            file_timeout: TIMEOUT,
            ..FetchOptions::default()
        })
        .expect("threads");
        let store = runtime.handle(16);
        let pool = FramePool::map(4, 1).expect("memory");
        let submit = |id, request| {
            let job = Job {
                id: JobId(id),
                mount: Arc::clone(&mount),
                request,
            };
            assert!(store.submit(job).is_ok(), "there is room");
        };
        let describe = |id| {
            let path = "/m/object".to_owned();
            submit(id, Request::Describe { path });
            match next(&store) {
                Event::Described { result, .. } => result,
                other => panic!("{other:?}"),
            }
        };
        let lease = || -> RemoteLease {
            let frame = pool.take().expect("a frame");
            frame.lease(0..1).expect("vacant").into_remote()
        };
        let object = describe(1).expect("it is there");
        let fetch = |id| {
            submit(
                id,
                Request::Fetch {
                    object: Arc::clone(&object),
                    range: 0..PAGE_SIZE as u64,
                    leases: vec![lease()],
                },
            );
        };
        let of_mount = runtime.stores().of_mount(&mount).expect("a store");
        // As if one call hung. A file that was just written is left alone for two seconds before it is read, so
        // that the fetch is under way meanwhile.
        let call = of_mount.calls().expect("of files").begin();
        fetch(2);
        match next(&store) {
            Event::Stalled {
                id: JobId(2),
                error,
            } => {
                assert_eq!(error.kind, UnderStoreErrorKind::Unavailable, "{error}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.available(), 3, "its memory stays with the file system");
        // Who comes now is told at once, and lends no memory.
        let began = Instant::now();
        let error = describe(3).expect_err("it hangs");
        assert_eq!(error.kind, UnderStoreErrorKind::Unavailable, "{error}");
        fetch(4);
        match next(&store) {
            Event::Finished {
                id: JobId(4),
                result: Err(_),
                unused,
            } => drop(
                unused
                    .into_iter()
                    .map(|lease| pool.take_back(lease))
                    .collect::<Vec<_>>(),
            ),
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() < TIMEOUT, "{:?}", began.elapsed());
        // The same for what writes.
        let listings = Listings::new(&runtime, ListingBounds::default());
        let origins = Origins::new(&runtime, listings);
        let head = || {
            runtime
                .runtime_handle()
                .block_on(origins.head(&mount, "object"))
        };
        let error = head().expect_err("it hangs");
        assert_eq!(error.kind, OriginErrorKind::Unavailable, "{error}");
        assert!(error.is_clear, "it was not begun");
        drop(call);
        assert_eq!(head().expect("it answers").length, PAGE_SIZE as u64);
        match next(&store) {
            Event::Filled {
                id: JobId(2),
                lease,
                ..
            } => assert_eq!(pool.take_back(lease).bytes()[..], [7; PAGE_SIZE]),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            next(&store),
            Event::Finished {
                id: JobId(2),
                result: Ok(()),
                ..
            }
        ));
        assert_eq!(pool.available(), 4);
        describe(5).expect("it answers again");
    }
}
