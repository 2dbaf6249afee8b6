//! A shard's end of the fetch runtime: lends memory, collects events, checks what they promise.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane_io::{FramePool, PAGE_SIZE, RemoteLease};
use corelane_worker::mount::{Admission, Freshness, Mount, MountId};
use corelane_worker::object::ObjectMeta;
use corelane_worker::under_store::retry::RetryPolicy;
use corelane_worker::under_store::runtime::{
    FetchOptions, FetchRuntime, ShardUnderStore, Timeouts,
};
use corelane_worker::under_store::{Event, Job, JobId, Request, UnderStore, UnderStoreError};

/// Pages in each lease of the tests.
pub const LEASE_PAGES: usize = 16;

/// No test waits longer than this for an event.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options with short pauses, so that failing stores do not make the tests slow.
pub fn quick_options() -> FetchOptions {
    FetchOptions {
        retry: RetryPolicy {
            tries_max: 3,
            total_max: Duration::from_secs(20),
            pause_first: Duration::from_millis(5),
            pause_max: Duration::from_millis(50),
        },
        timeouts: Timeouts {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_millis(300),
            stall: Duration::from_millis(300),
        },
        ..FetchOptions::default()
    }
}

/// A mount at `/m`.
pub fn mount(uri: &str, freshness: Freshness, options: &[(&str, &str)]) -> Arc<Mount> {
    Arc::new(Mount {
        id: MountId(0),
        path: "/m".to_owned(),
        uri: uri.to_owned(),
        block_bytes: 1 << 20,
        freshness,
        admission: Admission::Always,
        key_indexes: Vec::new(),
        readers: Vec::new(),
        options: options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        is_runtime: false,
    })
}

/// Bytes that differ from page to page and between seeds.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed) >> 29) as u8)
        .collect()
}

/// What a fetch brought.
pub struct Fetched {
    pub result: Result<(), UnderStoreError>,
    /// The bytes of the filled leases, in order, padding included.
    pub bytes: Vec<u8>,
}

/// One shard.
pub struct Shard {
    pub store: ShardUnderStore,
    pool: FramePool,
    next_id: u64,
    early: BTreeMap<JobId, Vec<Event>>,
}

impl Shard {
    pub fn new(runtime: &FetchRuntime) -> Self {
        Shard::with_inbox(runtime, 64)
    }

    pub fn with_inbox(runtime: &FetchRuntime, events: usize) -> Self {
        Shard {
            store: runtime.handle(events),
            pool: FramePool::map(2048, LEASE_PAGES).expect("memory"),
            next_id: 0,
            early: BTreeMap::new(),
        }
    }

    /// Frames that are not in use.
    pub fn frames_available(&self) -> usize {
        self.pool.available()
    }

    pub fn frames(&self) -> usize {
        self.pool.frames()
    }

    pub fn submit_describe(&mut self, mount: &Arc<Mount>, path: &str) -> JobId {
        self.submit(
            mount,
            Request::Describe {
                path: path.to_owned(),
            },
        )
    }

    pub fn submit_fetch(
        &mut self,
        mount: &Arc<Mount>,
        object: &Arc<ObjectMeta>,
        range: Range<u64>,
    ) -> JobId {
        let leases = self.leases(&range);
        self.submit(
            mount,
            Request::Fetch {
                object: Arc::clone(object),
                range,
                leases,
            },
        )
    }

    fn submit(&mut self, mount: &Arc<Mount>, request: Request) -> JobId {
        let id = JobId(self.next_id);
        self.next_id += 1;
        let job = Job {
            id,
            mount: Arc::clone(mount),
            request,
        };
        self.store.submit(job).expect("the queue has room");
        id
    }

    pub fn leases(&self, range: &Range<u64>) -> Vec<RemoteLease> {
        let mut pages = (range.end - range.start).div_ceil(PAGE_SIZE as u64) as usize;
        let mut leases = Vec::new();
        while pages > 0 {
            let taken = pages.min(LEASE_PAGES);
            let frame = self.pool.take().expect("a free frame");
            leases.push(frame.lease(0..taken).expect("vacant").into_remote());
            pages -= taken;
        }
        leases
    }

    pub fn take_back(&self, lease: RemoteLease) {
        drop(self.pool.take_back(lease));
    }

    /// The next event of job `id`.
    fn event_of(&mut self, id: JobId) -> Event {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(events) = self.early.get_mut(&id)
                && !events.is_empty()
            {
                return events.remove(0);
            }
            match self.store.next_event() {
                Some(event) => {
                    let of = match &event {
                        Event::Described { id, .. }
                        | Event::Filled { id, .. }
                        | Event::Stalled { id, .. }
                        | Event::Finished { id, .. } => *id,
                    };
                    self.early.entry(of).or_default().push(event);
                }
                None => {
                    assert!(Instant::now() < give_up, "no event of {id:?}");
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        }
    }

    /// Waits for an event of job `id` and leaves it to be collected.
    pub fn await_event(&mut self, id: JobId) {
        let event = self.event_of(id);
        self.early.entry(id).or_default().insert(0, event);
    }

    pub fn described(&mut self, id: JobId) -> Result<Arc<ObjectMeta>, UnderStoreError> {
        match self.event_of(id) {
            Event::Described { result, .. } => result,
            other => panic!("not the answer to a describe: {other:?}"),
        }
    }

    /// Collects a fetch to its end and checks the checksum of every page.
    pub fn fetched(&mut self, id: JobId) -> Fetched {
        let mut bytes = Vec::new();
        loop {
            match self.event_of(id) {
                Event::Filled {
                    lease, checksums, ..
                } => {
                    let lease = self.pool.take_back(lease);
                    for (page, checksum) in lease.bytes().chunks_exact(PAGE_SIZE).zip(checksums) {
                        assert_eq!(crc32c::crc32c(page), checksum, "checksum of a page");
                    }
                    bytes.extend_from_slice(lease.bytes());
                }
                Event::Finished { result, unused, .. } => {
                    for lease in unused {
                        self.take_back(lease);
                    }
                    return Fetched { result, bytes };
                }
                Event::Described { .. } => panic!("a describe's answer to a fetch"),
                Event::Stalled { error, .. } => panic!("{error}"),
            }
        }
    }

    pub fn describe(
        &mut self,
        mount: &Arc<Mount>,
        path: &str,
    ) -> Result<Arc<ObjectMeta>, UnderStoreError> {
        let id = self.submit_describe(mount, path);
        self.described(id)
    }

    pub fn fetch(
        &mut self,
        mount: &Arc<Mount>,
        object: &Arc<ObjectMeta>,
        range: Range<u64>,
    ) -> Fetched {
        let id = self.submit_fetch(mount, object, range);
        self.fetched(id)
    }
}

/// Asserts that `fetched` brought exactly `expected`, and zeroes up to the end of the last page.
pub fn assert_brought(fetched: &Fetched, expected: &[u8]) {
    fetched.result.as_ref().expect("the fetch succeeds");
    assert_eq!(
        fetched.bytes.len(),
        expected.len().next_multiple_of(PAGE_SIZE)
    );
    let (bytes, padding) = fetched.bytes.split_at(expected.len());
    assert!(bytes == expected, "the bytes are those of the source");
    assert!(padding.iter().all(|byte| *byte == 0), "the padding is zero");
}
