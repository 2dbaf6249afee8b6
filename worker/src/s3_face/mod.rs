//! The S3 face: HTTP/1.1 on the data cores, for every engine that speaks S3.
//!
//! A connection lives on the core that accepted it. Reads of objects are answered there, from this
//! core's memory and devices or from the core that owns the bytes, whose frames are pinned and sent
//! from here. Everything else (writes, listings, buckets) is a [call] to the
//! [gateway], which runs on the fetch threads; a data core only passes the bytes of bodies on.
//!
//! | module | holds |
//! |---|---|
//! | [`connection`] | one connection: requests in, answers out, in their order |
//! | `request` | one request: who, what, and whether it is answered at once |
//! | [`get`], `streaming` | reads of objects: what is answered, and what has to wait |
//! | `answer` | heads and bodies on their way out |
//! | [`call`] | everything else, handed to the gateway with its body |
//! | [`gateway`] | what the operations do to the under-stores and to the cache |
//! | [`buckets`] | which mounts are buckets, and who may do what there |
//! | [`connections`] | the open connections, and which of them are cut off |
//! | [`transport`] | plain streams and TLS |
//! | [`access_log`] | a line a request |
//!
//! The invariant: an answer's head leaves only when it is known which version of the object its bytes
//! are of, and no byte of another version follows it. A read that cannot go on is cut off.

pub mod access_log;
mod answer;
pub mod buckets;
pub mod call;
pub mod connection;
pub mod connections;
pub mod gateway;
pub mod get;
mod request;
mod streaming;
pub mod transport;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use corelane_s3::credentials::{AccessKey, Verb};
use corelane_s3::date::http_date;
use corelane_s3::response::Common;
use corelane_s3::sigv4::Verifier;
use corelane_s3::target::Hosts;

use crate::access::Access;
use crate::mount::{Mount, MountTable};
use access_log::AccessLog;
use buckets::{Buckets, bucket_name, may_now};
use connections::Connections;
use gateway::Gateway;
use transport::TlsAcceptor;

/// What the operator chose of the face.
pub struct FaceOptions {
    /// Base domains for the virtual-host style.
    pub domains: Vec<String>,
    /// Whether requests without a signature must name a host that no stranger can make mean this machine.
    pub checks_host: bool,
    /// The region that signatures must be for; empty: any.
    pub region: String,
    /// How connections are made secret, if they are.
    pub tls: Option<TlsAcceptor>,
    /// Where a line a request goes, if anywhere.
    pub log: Option<AccessLog>,
    /// Where request ids begin: different at each start, so that logs of several tell them apart.
    pub first_request_id: u64,
}

/// What the cores of a worker share of the face.
pub struct FaceShared {
    hosts: Hosts,
    domains: Vec<String>,
    checks_host: bool,
    region: String,
    access: Arc<Access>,
    /// Where everything but reads goes.
    pub gateway: Gateway,
    /// How connections are made secret, if they are.
    pub tls: Option<TlsAcceptor>,
    /// Where a line a request goes, if anywhere.
    pub log: Option<AccessLog>,
    /// Distinguishes the requests of this start from those of others.
    request_ids: AtomicU64,
}

impl FaceShared {
    /// A face for the keys of `access`. Request ids begin at `first_request_id`.
    pub fn new(options: FaceOptions, access: Arc<Access>, gateway: Gateway) -> Self {
        FaceShared {
            hosts: Hosts::new(&options.domains),
            domains: options.domains,
            checks_host: options.checks_host,
            region: options.region,
            access,
            gateway,
            tls: options.tls,
            log: options.log,
            request_ids: AtomicU64::new(options.first_request_id),
        }
    }

    fn verifier(&self) -> Verifier {
        Verifier::new(self.access.s3(), self.region.clone())
    }
}

/// What a request was allowed to do, for as long as it goes on.
struct Grant {
    key: Option<Arc<AccessKey>>,
    verb: Verb,
    mount: Arc<Mount>,
    /// Of keys and buckets when it was looked at last.
    generations: Cell<(u64, u64)>,
}

/// Request ids that a core takes at a time.
const REQUEST_IDS_TAKEN: u64 = 1 << 20;

/// The face on one core.
pub struct Face<S> {
    shared: Arc<FaceShared>,
    verifier: RefCell<(u64, Rc<Verifier>)>,
    buckets: RefCell<Rc<Buckets>>,
    /// Counts the changes of the buckets.
    buckets_generation: Cell<u64>,
    /// Open connections.
    pub connections: Connections<S>,
    date: Cell<(u64, [u8; 29])>,
    request_ids: Cell<std::ops::Range<u64>>,
}

impl<S: corelane_io::Stream> Face<S> {
    /// The face of a core with these mounts and at most so many connections.
    pub fn new(shared: Arc<FaceShared>, mounts: &MountTable, connections_max: usize) -> Self {
        let generation = shared.access.s3_generation();
        Face {
            verifier: RefCell::new((generation, Rc::new(shared.verifier()))),
            buckets: RefCell::new(Rc::new(Buckets::of_mounts(mounts))),
            buckets_generation: Cell::new(0),
            connections: Connections::new(connections_max),
            date: Cell::new((0, http_date(0))),
            request_ids: Cell::new(0..0),
            shared,
        }
    }

    /// Other mounts are other buckets.
    pub fn set_mounts(&self, mounts: &Arc<MountTable>) {
        self.shared.gateway.set_mounts(mounts);
        *self.buckets.borrow_mut() = Rc::new(Buckets::of_mounts(mounts));
        self.buckets_generation
            .set(self.buckets_generation.get() + 1);
    }

    /// Another pair after every change of keys or buckets.
    #[inline]
    fn generations(&self) -> (u64, u64) {
        (
            self.shared.access.s3_generation(),
            self.buckets_generation.get(),
        )
    }

    /// A grant of what was just allowed.
    fn grant(&self, key: Option<Arc<AccessKey>>, verb: Verb, mount: &Arc<Mount>) -> Grant {
        Grant {
            key,
            verb,
            mount: Arc::clone(mount),
            generations: Cell::new(self.generations()),
        }
    }

    /// Whether what was granted still is: the key is there with the same secret and rules, and the bucket is the
    /// same mount and open to its bearer.
    #[inline]
    fn still_grants(&self, grant: &Grant) -> bool {
        let generations = self.generations();
        grant.generations.get() == generations || self.grants_anew(grant, generations)
    }

    #[cold]
    fn grants_anew(&self, grant: &Grant, generations: (u64, u64)) -> bool {
        let buckets = self.buckets();
        let bucket = bucket_name(&grant.mount).and_then(|name| buckets.get(name));
        let is_granted = bucket.is_some_and(|bucket| {
            let credentials = self.shared.access.s3();
            bucket.mount.id == grant.mount.id
                && may_now(
                    &credentials,
                    grant.key.as_deref(),
                    grant.verb,
                    &bucket.mount,
                )
        });
        if is_granted {
            grant.generations.set(generations);
        }
        is_granted
    }

    /// Writes of all cores whose outcome is not known, and mounts that stand for many of them.
    pub fn writes_uncertain(&self) -> u64 {
        self.shared.gateway.writes_uncertain()
    }

    fn buckets(&self) -> Rc<Buckets> {
        Rc::clone(&self.buckets.borrow())
    }

    fn verifier(&self) -> Rc<Verifier> {
        let generation = self.shared.access.s3_generation();
        let mut verifier = self.verifier.borrow_mut();
        if verifier.0 != generation {
            *verifier = (generation, Rc::new(self.shared.verifier()));
        }
        Rc::clone(&verifier.1)
    }

    fn next_request_id(&self) -> u64 {
        let mut ids = self.request_ids.take();
        if ids.is_empty() {
            let first = self
                .shared
                .request_ids
                .fetch_add(REQUEST_IDS_TAKEN, Ordering::Relaxed);
            ids = first..first.wrapping_add(REQUEST_IDS_TAKEN);
        }
        let id = ids.start;
        ids.start += 1;
        self.request_ids.set(ids);
        id
    }

    /// Calls `use_it` with what every answer carries.
    fn with_common<T>(
        &self,
        request_id: u64,
        closes: bool,
        now_ms: u64,
        use_it: impl FnOnce(Common<'_>) -> T,
    ) -> T {
        let (second, mut date) = self.date.get();
        if second != now_ms / 1000 {
            date = http_date(now_ms);
            self.date.set((now_ms / 1000, date));
        }
        use_it(Common {
            date: &date,
            request_id,
            closes,
        })
    }
}
