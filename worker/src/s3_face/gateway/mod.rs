//! What the operations do: to the under-stores, and to what is cached of them.
//!
//! A call runs as a task on the fetch threads, where blocking the data cores is not to be feared. The
//! invariant: when a write is answered, no reader of this worker is answered with what was there before,
//! whatever became of the write; and what could not be written has changed nothing.
//!
//! | file | does |
//! |---|---|
//! | `body` | from bytes of a request to verified bytes of an object |
//! | `buckets` | buckets themselves |
//! | `calls` | which calls are admitted |
//! | `listing` | listings of objects |
//! | `objects` | single objects: put, copy, delete, markers |
//! | `uploads` | multipart uploads |
//! | `failure` | from an origin's failure to S3's error |
//! | `uncertain` | writes of unknown outcome |

mod body;
mod buckets;
mod calls;
mod failure;
mod listing;
mod objects;
mod uncertain;
mod uploads;

use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Instant;

use corelane_s3::credentials::Verb;
use corelane_s3::head::Framing;
use corelane_s3::operation::Operation;
use corelane_s3::payload::PayloadSpec;
use corelane_s3::sigv4::Caller;
use corelane_s3::{Error, ErrorCode};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::buckets::may;
use super::call::{BodyPiece, Call, Response, Task};
use crate::control_plane::shards::{ANSWER_DEADLINE, AskError, Shards};
use crate::mount::{Mount, MountTable};
use crate::shard::request::ShardRequest;
use crate::under_store::listing::Listings;
use crate::under_store::origin::{Origins, held_bytes_max};
use crate::under_store::path_key;
use crate::under_store::runtime::FetchRuntime;
use crate::under_store::writer::{Client, Writer};
use body::Body;
use calls::{Calls, Load};

pub(super) use calls::Ticket;

use uncertain::{Check, LOOK_INTERVAL, UncertainWrites};

/// Calls under way with a body, and without one, of all cores: writers who take their time keep nobody from
/// listing. A body may hold a few pieces, 2 MiB at most. How much of it a key may have says [`calls`].
const CALLS_MAX: usize = 1024;

/// Memory of all bodies that are under way together.
pub const BODIES_BYTES_MAX: u64 = 512 << 20;

/// The same in KiB, as the semaphore counts it.
const BODIES_KIB_MAX: usize = (BODIES_BYTES_MAX >> 10) as usize;

/// Memory of all answers to listings that are under way together or wait for their clients.
pub const ANSWERS_BYTES_MAX: u64 = 512 << 20;

/// [`ANSWERS_BYTES_MAX`] in KiB, as the semaphore counts it.
const ANSWERS_KIB_MAX: usize = (ANSWERS_BYTES_MAX >> 10) as usize;

/// Memory of an entry in such an answer: a key of 1,024 bytes and a version of 256, each byte escaped to the six
/// of `&quot;`, and the elements around them.
const ENTRY_BYTES_MAX: u64 = 8 << 10;

/// Most memory of the pieces of a body between the stages.
const STREAM_BYTES: u64 = 2 << 20;

/// The answer to a call, when it is there.
pub type Answered = oneshot::Receiver<Result<Response, Error>>;

/// The gateway of a worker.
pub struct Gateway {
    handle: Handle,
    inner: Arc<Inner>,
    calls: Arc<Calls>,
    calls_with_body: Arc<Calls>,
}

/// What every call needs.
struct Inner {
    origins: Origins,
    shards: Shards,
    /// Writes that the shards were told of.
    writes: Mutex<u64>,
    mounts: RwLock<Arc<MountTable>>,
    /// What clients are told of it.
    region: String,
    uncertain: Arc<UncertainWrites>,
}

/// A call and what its operation works on.
struct Request {
    inner: Arc<Inner>,
    bucket: String,
    key: String,
    caller: Caller,
    payload: Option<PayloadSpec>,
    body: Body,
}

impl Gateway {
    /// A gateway that works on the threads of `runtime` and tells `shards` what was written.
    pub fn new(
        runtime: &FetchRuntime,
        listings: Listings,
        shards: Shards,
        mounts: Arc<MountTable>,
        region: &str,
    ) -> Self {
        let region = if region.is_empty() {
            "us-east-1"
        } else {
            region
        };
        let handle = runtime.runtime_handle();
        let inner = Arc::new(Inner {
            origins: Origins::new(runtime, listings),
            shards,
            writes: Mutex::new(0),
            mounts: RwLock::new(mounts),
            region: region.to_owned(),
            uncertain: Arc::default(),
        });
        let uncertain = Arc::clone(&inner.uncertain);
        handle.spawn(check_uncertain(uncertain, Arc::downgrade(&inner)));
        Gateway {
            handle,
            inner,
            calls: Calls::new(Load {
                calls: CALLS_MAX,
                kib: ANSWERS_KIB_MAX,
            }),
            calls_with_body: Calls::new(Load {
                calls: CALLS_MAX,
                kib: BODIES_KIB_MAX,
            }),
        }
    }

    /// Other mounts are other buckets.
    pub fn set_mounts(&self, mounts: &Arc<MountTable>) {
        let mut current = self
            .inner
            .mounts
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::clone(mounts);
    }

    /// Writes whose outcome is not known, and mounts that stand for many of them.
    pub fn writes_uncertain(&self) -> u64 {
        let (keys, mounts) = self.inner.uncertain.len();
        (keys + mounts) as u64
    }

    /// Starts a call, whose body comes through `body`.
    ///
    /// # Errors
    /// When too many are under way.
    pub fn start(&self, call: Call, body: mpsc::Receiver<BodyPiece>) -> Result<Answered, Error> {
        let has_body = !matches!(call.framing, Framing::None | Framing::Length(0));
        let calls = if has_body {
            &self.calls_with_body
        } else {
            &self.calls
        };
        let key = call.caller.key.as_ref().map_or("", |key| key.name.as_str());
        let client = Client::new(key, call.peer);
        let writer = Arc::new(Writer::new(client.clone()));
        let kib = memory_of(&call).div_ceil(1024) as usize;
        let sender = has_body.then_some(&writer);
        let Some(ticket) = calls.admit(&client, kib, sender) else {
            return Err(Error {
                retry_after_s: Some(1),
                ..Error::new(
                    ErrorCode::SlowDown,
                    format!(
                        "this worker has {CALLS_MAX} places for such calls and {} MiB for their bodies or \
                         answers, and yours have their share of both; reduce your request rate",
                        BODIES_KIB_MAX >> 10
                    ),
                )
            });
        };
        let (answer, answered) = oneshot::channel();
        let Call {
            task,
            bucket,
            key,
            mount,
            caller,
            payload,
            ..
        } = call;
        let request = Request {
            inner: Arc::clone(&self.inner),
            bucket,
            key,
            caller,
            payload,
            body: Body {
                pieces: body,
                writer: Some(writer),
            },
        };
        self.handle.spawn(async move {
            let mut answered = request.answer(task, mount).await;
            // What is long to answer is held until the client has taken it.
            if let Ok(response) = &mut answered
                && !has_body
            {
                response.held = Some(ticket);
            }
            // The client may be gone.
            let _ = answer.send(answered);
        });
        Ok(answered)
    }
}

/// Memory that the body of `call` may come to need, or its answer where it is a listing, in bytes.
fn memory_of(call: &Call) -> u64 {
    let Task::Operation(operation) = &call.task else {
        return 0;
    };
    let entries = match &**operation {
        Operation::ListObjects(list) => list.max_keys,
        Operation::ListParts(list) => list.max_parts,
        Operation::ListMultipartUploads(list) => list.max_uploads,
        _ => 0,
    };
    if matches!(call.framing, Framing::None | Framing::Length(0)) {
        return u64::from(entries.min(1000)) * ENTRY_BYTES_MAX;
    }
    let length = call.payload.as_ref().and_then(PayloadSpec::length);
    let held_max = match **operation {
        Operation::DeleteObjects => objects::DELETE_BYTES_MAX as u64,
        Operation::CompleteMultipartUpload(_) => uploads::COMPLETE_BYTES_MAX as u64,
        _ => match &call.mount {
            Some(mount) => STREAM_BYTES.max(held_bytes_max(mount, length)),
            None => STREAM_BYTES,
        },
    };
    length.unwrap_or(held_max).min(held_max)
}

impl Request {
    async fn answer(mut self, task: Task, mount: Option<Arc<Mount>>) -> Result<Response, Error> {
        match (task, mount) {
            (Task::Marker { .. }, Some(mount)) => self.marker(&mount).await,
            (Task::Marker { .. }, None) => Err(no_bucket()),
            (Task::Operation(operation), mount) => self.operate(*operation, mount).await,
        }
    }

    async fn operate(
        &mut self,
        operation: Operation,
        mount: Option<Arc<Mount>>,
    ) -> Result<Response, Error> {
        let mount = match (&operation, mount) {
            (Operation::ListBuckets, _) => return Ok(self.list_buckets()),
            (Operation::CreateBucket, mount) => return self.create_bucket(mount).await,
            (_, Some(mount)) => mount,
            (_, None) => return Err(no_bucket()),
        };
        match operation {
            Operation::ListBuckets | Operation::CreateBucket => unreachable!("served above"),
            Operation::HeadBucket => Ok(self.head_bucket()),
            Operation::GetBucketLocation => Ok(self.location()),
            Operation::GetBucketVersioning => Ok(self.versioning()),
            Operation::GetBucketAcl => Ok(self.acl()),
            Operation::ListObjects(list) => self.list_objects(&mount, &list).await,
            Operation::ListMultipartUploads(list) => self.list_uploads(&mount, &list).await,
            Operation::PutObject(put) => self.put_object(&mount, put).await,
            Operation::CopyObject(copy) => self.copy_object(&mount, copy).await,
            Operation::CreateMultipartUpload(create) => self.create_upload(&mount, create).await,
            Operation::UploadPart(part) => self.upload_part(&mount, &part).await,
            Operation::UploadPartCopy(part) => self.copy_part(&mount, &part).await,
            Operation::CompleteMultipartUpload(complete) => {
                self.complete_upload(&mount, complete).await
            }
            Operation::AbortMultipartUpload { upload_id } => {
                self.abort_upload(&mount, &upload_id).await
            }
            Operation::ListParts(list) => self.list_parts(&mount, &list).await,
            Operation::DeleteObject => self.delete_object(&mount).await,
            Operation::DeleteObjects => self.delete_objects(&mount).await,
        }
    }

    /// Makes every reader of this worker ask the origin anew for the object.
    ///
    /// # Errors
    /// When a core could not be told: it may answer with what was there before, so that the write is not
    /// to be called done.
    async fn written(&self, mount: &Arc<Mount>, key: &str) -> Result<(), Error> {
        self.inner.written(mount, key).await
    }

    /// Invalidates the objects at once, and again later: the origin did not confirm their writes, and may yet
    /// carry them out.
    async fn perhaps_written<'a>(
        &self,
        mount: &Arc<Mount>,
        keys: impl IntoIterator<Item = &'a str>,
    ) {
        let since = *self.inner.writes.lock().await;
        for key in keys {
            let told = self.inner.written(mount, key).await;
            let now = Instant::now();
            self.inner.uncertain.add(mount, key, since, now);
            // The client is told of the failure already.
            if told.is_err() {
                // All of the mount follows; each further key might wait as long for its shards.
                self.inner.uncertain.add_untold(mount, since, now);
                return;
            }
        }
    }

    /// The bucket `name`, if the caller may do `verb` there.
    fn other_bucket(&self, name: &str, verb: Verb) -> Result<Arc<Mount>, Error> {
        let mounts = Arc::clone(
            &self
                .inner
                .mounts
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let found = mounts
            .iter()
            .find(|mount| super::buckets::bucket_name(mount) == Some(name));
        let mount = found.ok_or_else(no_bucket)?;
        if may(&self.caller, verb, mount) {
            Ok(Arc::clone(mount))
        } else {
            Err(Error::new(ErrorCode::AccessDenied, "Access Denied"))
        }
    }
}

/// Serves the writes of unknown outcome for as long as the gateway lives.
async fn check_uncertain(uncertain: Arc<UncertainWrites>, gateway: Weak<Inner>) {
    loop {
        if uncertain.len() == (0, 0) {
            uncertain.until_changed().await;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(gateway) = gateway.upgrade() else {
            return;
        };
        loop {
            let due = uncertain.take_due(Instant::now());
            if due.is_empty() {
                break;
            }
            for check in due {
                gateway.check(check).await;
            }
        }
    }
}

impl Inner {
    async fn check(&self, check: Check) {
        let since = *self.writes.lock().await;
        let (told, mount, since) = match check {
            Check::Key(mount, key) => (self.written(&mount, &key).await, mount, since),
            Check::Mount(mount, since) => (self.mount_written(&mount, since).await, mount, since),
        };
        if told.is_err() {
            self.uncertain.add_untold(&mount, since, Instant::now());
        }
    }

    /// Makes every reader of this worker ask the origin anew for what was learned of objects of `mount` after
    /// the write `since`.
    async fn mount_written(&self, mount: &Arc<Mount>, since: u64) -> Result<(), Error> {
        let mounts = Arc::clone(&self.mounts.read().unwrap_or_else(PoisonError::into_inner));
        for other in mounts.iter() {
            // Below one another, they show the same objects.
            if mount.uri.starts_with(&other.uri) || other.uri.starts_with(&mount.uri) {
                self.origins.forget_all(other);
            }
        }
        self.origins.forget_all(mount);
        let Some(prefix) = path_key(mount, &format!("{}/x", mount.path))
            .ok()
            .and_then(|sample| Some(sample.strip_suffix('x')?.to_owned()))
        else {
            // Nothing can be cached of it.
            return Ok(());
        };
        let told = self
            .shards
            .ask_all_in_order(&self.writes, ANSWER_DEADLINE, |number, answer| {
                ShardRequest::MountWritten {
                    number,
                    since,
                    mount: Arc::clone(mount),
                    path_key_prefix: prefix.as_str().into(),
                    answer,
                }
            })
            .await;
        told.map_err(|error| untold(mount, "", error))
    }

    async fn written(&self, mount: &Arc<Mount>, key: &str) -> Result<(), Error> {
        let mounts = Arc::clone(&self.mounts.read().unwrap_or_else(PoisonError::into_inner));
        let uri = format!("{}/{key}", mount.uri);
        // Other mounts may show it too.
        for other in mounts.iter() {
            let rest = uri.strip_prefix(&other.uri);
            if let Some(key) = rest.and_then(|rest| rest.strip_prefix('/')) {
                self.origins.forget(other, key);
            }
        }
        self.origins.forget(mount, key);
        let Ok(path_key) = path_key(mount, &format!("{}/{key}", mount.path)) else {
            // Nothing can be cached of it.
            return Ok(());
        };
        let told = self
            .shards
            .ask_all_in_order(&self.writes, ANSWER_DEADLINE, |number, answer| {
                ShardRequest::Written {
                    number,
                    mount: Arc::clone(mount),
                    path_key: path_key.as_str().into(),
                    answer,
                }
            })
            .await;
        told.map_err(|error| untold(mount, key, error))
    }
}

fn untold(mount: &Mount, key: &str, error: AskError) -> Error {
    tracing::error!(bucket = mount.path, key, %error, "a shard may serve what was overwritten until its mount's freshness ends");
    Error {
        retry_after_s: Some(1),
        ..Error::new(
            ErrorCode::ServiceUnavailable,
            format!(
                "written, but readers of this worker may still see what was there before: {error}; write it again"
            ),
        )
    }
}

fn no_bucket() -> Error {
    Error::new(
        ErrorCode::NoSuchBucket,
        "The specified bucket does not exist; buckets are the mounts right below /",
    )
}
