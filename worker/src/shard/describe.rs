//! From a path to the object there, and from an id to the object behind it.
//!
//! The home shard of an object (the owner of its first stripe) answers for its path: it asks the
//! under-store at most once at a time and remembers the answer for as long as the mount's
//! freshness says. Every shard remembers the objects behind the ids that it was asked for.
//!
//! With the under-store away, objects of an `immutable` mount still open from the records of their
//! cached blocks; others open while what is remembered is fresh, and fail then: serving a version
//! that may be gone is what `max-age` and `always-check` forbid.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use corelane_io::{Io, Nanos};
use corelane_rpc_schema::ids::home_of;
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};
use corelane_rpc_schema::{ObjectId, ShardId, Stripe};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared;

use super::Shard;
use super::derived::is_derived;
use super::fill::under_store_error;
use super::known::Known;
use super::message::{Answer, Question};
use super::read::error;
use crate::mount::{AccessSet, Freshness, Mount, MountId};
use crate::object::ObjectMeta;
use crate::under_store::{
    Job, JobId, Request, UnderStore, UnderStoreError, UnderStoreErrorKind, path_key,
};

type Described = Result<Arc<ObjectMeta>, UnderStoreError>;

/// A request to the under-store that has no reply yet.
#[derive(Clone)]
struct InFlight {
    /// When it was made: the reply is not older than that.
    asked_at: Nanos,
    /// The block size that the reply is made for.
    block_bytes: u32,
    job: JobId,
    /// The last write that this shard had been told of: of a later one the answer knows nothing.
    last_write: u64,
    answer: Shared<oneshot::Receiver<Described>>,
}

/// Requests to under-stores for the metadata of objects, in flight, by path key.
#[derive(Default)]
pub(super) struct DescribeRequests {
    in_flight: HashMap<Rc<str>, InFlight>,
    jobs: HashMap<JobId, (Rc<str>, oneshot::Sender<Described>)>,
}

impl DescribeRequests {
    fn begin(&mut self, key: &str, request: InFlight, replies_to: oneshot::Sender<Described>) {
        let key: Rc<str> = Rc::from(key);
        self.jobs.insert(request.job, (Rc::clone(&key), replies_to));
        self.in_flight.insert(key, request);
    }

    /// Ends a request; gives the sender for its reply, once.
    fn end(&mut self, id: JobId) -> Option<oneshot::Sender<Described>> {
        let (key, replies_to) = self.jobs.remove(&id)?;
        // Another request may be in flight since the object was written.
        if self
            .in_flight
            .get(&key)
            .is_some_and(|other| other.job == id)
        {
            self.in_flight.remove(&key);
        }
        Some(replies_to)
    }

    /// Keeps later opens from joining the request about `key` that is in flight.
    pub fn detach(&mut self, key: &str) {
        self.in_flight.remove(key);
    }

    /// Keeps later opens from joining the requests in flight about path keys that begin with `prefix`.
    pub fn detach_all(&mut self, prefix: &str) {
        self.in_flight.retain(|key, _| !key.starts_with(prefix));
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Opens the object at `path` for a client that may read `access`.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn open(
        self: &Rc<Self>,
        path: &str,
        access: &AccessSet,
    ) -> Result<Arc<ObjectMeta>, ErrorMessage> {
        self.counters.opens.increase();
        let opened = match self.mount_covering(path) {
            Ok(mount) if !access.allows(mount.id) => Err(error(
                ErrorCode::Denied,
                format!(
                    "the token may not read {}; the mount names who may",
                    mount.path
                ),
            )),
            Ok(mount) => self.describe_anywhere(path, &mount).await,
            Err(no_mount) => Err(no_mount),
        };
        if let Err(error) = &opened {
            self.counters.opens_failed.increase();
            if error.code == ErrorCode::Busy {
                self.counters.answers_busy.increase();
            }
        }
        opened
    }

    /// The mount that covers `path`.
    pub(crate) fn mount_covering(&self, path: &str) -> Result<Arc<Mount>, ErrorMessage> {
        self.mounts.borrow().covering(path).cloned().ok_or_else(|| {
            error(
                ErrorCode::NoMount,
                format!("no mount covers {path}; `corelane status` lists the mounts"),
            )
        })
    }

    /// The object at `path`, from its home shard.
    pub(crate) async fn describe_anywhere(
        self: &Rc<Self>,
        path: &str,
        mount: &Arc<Mount>,
    ) -> Result<Arc<ObjectMeta>, ErrorMessage> {
        let key = path_key(mount, path).map_err(|failure| under_store_error(&failure))?;
        let home = self.owner_of(home_of(&key), Stripe(0));
        if home == self.id {
            return self.describe(path, &key, mount).await;
        }
        match self
            .ask(
                home,
                Question::Describe {
                    path: path.to_owned(),
                },
            )
            .await?
        {
            Answer::Described(described) => {
                let meta = described?;
                self.metadata.borrow_mut().know(Arc::clone(&meta), mount.id);
                Ok(meta)
            }
            answer => unreachable!("{answer:?} does not answer a describe"),
        }
    }

    /// The object at `path`, of which this shard is the home.
    pub(crate) async fn describe(
        self: &Rc<Self>,
        path: &str,
        key: &str,
        mount: &Arc<Mount>,
    ) -> Result<Arc<ObjectMeta>, ErrorMessage> {
        let now = self.io.now();
        let home = home_of(key);
        let remembered = {
            let metadata = self.metadata.borrow();
            let known = metadata.fresh(home, key, mount.freshness, now);
            known.map(|(known, _)| Arc::clone(&known.meta))
        };
        if let Some(meta) = remembered.filter(|meta| meta.block_bytes == mount.block_bytes) {
            self.counters.opens_cached.increase();
            self.metadata.borrow_mut().know(Arc::clone(&meta), mount.id);
            return Ok(meta);
        }
        if mount.freshness == Freshness::Immutable
            && !self.metadata.borrow().is_forgotten(key)
            && let Some(meta) = self.recorded_here(home, &mount.uri_of(path), mount.block_bytes)
        {
            self.counters.opens_cached.increase();
            let last_write = self.metadata.borrow().last_write();
            self.remember(&meta, mount.id, (now, last_write));
            return Ok(meta);
        }
        let (asked, answer) = self.ask_under_store(path, key, mount).await?;
        match answer {
            Ok(meta) => {
                let asked = (asked.asked_at, asked.last_write);
                self.remember(&meta, mount.id, asked);
                Ok(meta)
            }
            Err(failure)
                if failure.kind == UnderStoreErrorKind::Unavailable
                    && mount.freshness == Freshness::Immutable
                    && !self.metadata.borrow().is_forgotten(key) =>
            {
                let recorded = self
                    .recorded_anywhere(home, mount.uri_of(path), mount.block_bytes)
                    .await;
                let Some(meta) = recorded else {
                    return Err(under_store_error(&failure));
                };
                self.counters.opens_without_under_store.increase();
                let asked = (asked.asked_at, asked.last_write);
                self.remember(&meta, mount.id, asked);
                Ok(meta)
            }
            Err(failure) => {
                if failure.kind == UnderStoreErrorKind::NotFound {
                    self.metadata.borrow_mut().forget_path(key);
                }
                Err(under_store_error(&failure))
            }
        }
    }

    /// Remembers what was known to hold at a time and after a write.
    fn remember(&self, meta: &Arc<ObjectMeta>, mount: MountId, (at, write): (Nanos, u64)) {
        let mut metadata = self.metadata.borrow_mut();
        let known = metadata.know(Arc::clone(meta), mount);
        metadata.see(known, at, write);
    }

    /// Requests the metadata from the under-store, once for all opens at a time; the reply holds from the time of
    /// the request on. An open joins a request in flight only where the mount's freshness allows a reply as old as
    /// that request: else the reply may be older than an overwrite that ended before the open began.
    async fn ask_under_store(
        &self,
        path: &str,
        key: &str,
        mount: &Arc<Mount>,
    ) -> Result<(InFlight, Described), ErrorMessage> {
        let began = self.io.now();
        let in_flight = loop {
            let found = self
                .metadata
                .borrow()
                .describe_requests
                .in_flight
                .get(key)
                .cloned();
            let Some(in_flight) = found else {
                break self.begin_describe(path, key, mount)?;
            };
            let is_fresh = match mount.freshness {
                Freshness::Immutable => true,
                Freshness::MaxAge(age) => began.since(in_flight.asked_at) <= age,
                Freshness::AlwaysCheck => in_flight.asked_at >= began,
            };
            if is_fresh && in_flight.block_bytes == mount.block_bytes {
                break in_flight;
            }
            // Only its end matters here; what it says is for others.
            let _ = in_flight.answer.await;
        };
        // The sender goes without an answer only when the job was refused after others had joined.
        let answer = in_flight.answer.clone().await;
        Ok((in_flight, answer.map_err(|_| too_many_waiting())?))
    }

    fn begin_describe(
        &self,
        path: &str,
        key: &str,
        mount: &Arc<Mount>,
    ) -> Result<InFlight, ErrorMessage> {
        let (sender, receiver) = oneshot::channel();
        let id = self.fills.next_job_id();
        let in_flight = InFlight {
            asked_at: self.io.now(),
            block_bytes: mount.block_bytes,
            job: id,
            last_write: self.metadata.borrow().last_write(),
            answer: receiver.shared(),
        };
        let mut metadata = self.metadata.borrow_mut();
        metadata
            .describe_requests
            .begin(key, in_flight.clone(), sender);
        drop(metadata);
        let request = Request::Describe {
            path: path.to_owned(),
        };
        let job = Job {
            id,
            mount: Arc::clone(mount),
            request,
        };
        if self.under_store.submit(job).is_err() {
            self.metadata.borrow_mut().describe_requests.end(id);
            return Err(too_many_waiting());
        }
        Ok(in_flight)
    }

    /// Handles the answer to a describe.
    pub(crate) fn on_described(&self, id: JobId, result: Described) {
        let asker = self.metadata.borrow_mut().describe_requests.end(id);
        let sender = asker.expect("a describe is answered once");
        // Whoever asked may be gone.
        let _ = sender.send(result);
    }

    /// A version of the object that this shard has blocks of.
    pub(crate) fn recorded_here(
        &self,
        home: u64,
        uri: &str,
        block_bytes: u32,
    ) -> Option<Arc<ObjectMeta>> {
        self.store
            .find_objects(home)
            .into_iter()
            .filter(|meta| meta.uri == uri && meta.block_bytes == block_bytes && !is_derived(meta))
            .max_by_key(|meta| meta.last_modified_ms)
    }

    async fn recorded_anywhere(
        self: &Rc<Self>,
        home: u64,
        uri: String,
        block_bytes: u32,
    ) -> Option<Arc<ObjectMeta>> {
        if let Some(meta) = self.recorded_here(home, &uri, block_bytes) {
            return Some(meta);
        }
        for shard in (0..self.shards)
            .map(ShardId)
            .filter(|shard| *shard != self.id)
        {
            let question = Question::Recorded {
                home,
                uri: uri.clone(),
                block_bytes,
            };
            if let Ok(Answer::Object(Some(meta))) = self.ask(shard, question).await {
                return Some(meta);
            }
        }
        None
    }

    /// The object behind `id`: from memory, from the records of its blocks here, or from its home.
    #[inline]
    pub(crate) async fn known(self: &Rc<Self>, id: ObjectId) -> Result<Rc<Known>, ErrorMessage> {
        if let Some(known) = self.metadata.borrow().known_by_id(id) {
            return Ok(known);
        }
        self.find_known(id).await
    }

    async fn find_known(self: &Rc<Self>, id: ObjectId) -> Result<Rc<Known>, ErrorMessage> {
        let home = self.owner_of(id.home, Stripe(0));
        let mut found = self.store.object(id);
        if found.is_none()
            && home != self.id
            && let Answer::Object(meta) = self.ask(home, Question::Known { object: id }).await?
        {
            found = meta;
        }
        let meta = found.ok_or_else(|| {
            error(
                ErrorCode::ObjectUnknown,
                format!("object {id} is not known here: open its path again"),
            )
        })?;
        let mount = self.mount_of(&meta);
        Ok(self.metadata.borrow_mut().know(meta, mount))
    }

    /// The mount below which an object appears now.
    pub(crate) fn mount_of(&self, meta: &ObjectMeta) -> MountId {
        let mounts = self.mounts.borrow();
        let found = mounts.iter().find(|mount| shows(mount, meta));
        found.map_or(MountId::NONE, |mount| mount.id)
    }

    /// Whether a client that may read `access` may read the object: by the mount that it was last
    /// seen below, or by any other one that shows it.
    pub(crate) fn may_read(&self, known: &Known, access: &AccessSet) -> bool {
        access.allows(known.mount.get())
            || self
                .mounts
                .borrow()
                .iter()
                .any(|mount| access.allows(mount.id) && shows(mount, &known.meta))
    }

    /// The under-store has another version now: the next open asks again.
    pub(crate) fn on_version_changed(&self, known: &Known) {
        self.metadata.borrow_mut().forget(&known.meta);
        let home = self.owner_of(known.meta.id.home, Stripe(0));
        if home != self.id {
            self.tell_to_forget(home, known.meta.id);
        }
    }
}

/// Whether the object appears below `mount`. Its URI alone does not say: at another endpoint the
/// same URI is another object.
fn shows(mount: &Mount, meta: &ObjectMeta) -> bool {
    mount.block_bytes == meta.block_bytes
        && mount
            .path_of(&meta.uri)
            .and_then(|path| path_key(mount, &path).ok())
            .is_some_and(|key| key == meta.path_key)
}

fn too_many_waiting() -> ErrorMessage {
    error(
        ErrorCode::Busy,
        "too many requests to the under-store are waiting; retry",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Admission;
    use crate::shard::metadata::tests::object;

    fn mount(endpoint: &str) -> Mount {
        Mount {
            id: MountId(0),
            path: "/lake".to_owned(),
            uri: "s3://lake".to_owned(),
            block_bytes: 1 << 20,
            freshness: Freshness::Immutable,
            admission: Admission::Always,
            key_indexes: Vec::new(),
            readers: Vec::new(),
            options: [("endpoint".to_owned(), endpoint.to_owned())].into(),
            is_runtime: false,
        }
    }

    #[test]
    fn an_object_does_not_appear_below_a_mount_of_another_endpoint() {
        let here = mount("https://one.example");
        let key = path_key(&here, "/lake/a").expect("a path of the mount");
        assert!(shows(&here, &object(&key, "1")));
        assert!(!shows(&mount("https://two.example"), &object(&key, "1")));
    }
}
