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
//! | `listing` | listings of objects |
//! | `objects` | single objects: put, copy, delete, markers |
//! | `uploads` | multipart uploads |
//! | `failure` | from an origin's failure to S3's error |

mod body;
mod buckets;
mod failure;
mod listing;
mod objects;
mod uploads;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use corelane_s3::credentials::Verb;
use corelane_s3::head::Framing;
use corelane_s3::operation::Operation;
use corelane_s3::payload::PayloadSpec;
use corelane_s3::sigv4::Caller;
use corelane_s3::{Error, ErrorCode};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use super::buckets::may;
use super::call::{BodyPiece, Call, Response, Task};
use crate::control_plane::shards::{ANSWER_DEADLINE, Shards};
use crate::mount::{Mount, MountTable};
use crate::shard::request::ShardRequest;
use crate::under_store::listing::Listings;
use crate::under_store::origin::{Origins, held_bytes_max};
use crate::under_store::path_key;
use crate::under_store::runtime::FetchRuntime;

/// Calls under way with a body, and without one, of all cores: writers who take their time keep nobody from
/// listing. A body may hold a few pieces, 2 MiB at most.
const CALLS_MAX: usize = 512;

/// When readers are made to ask anew after a write whose outcome nobody knows.
const OUTCOME_PAUSES: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(300)];

/// Memory of all bodies that are under way together.
pub const BODIES_BYTES_MAX: u64 = 512 << 20;

/// The same in KiB, as the semaphore counts it.
const BODIES_KIB_MAX: usize = (BODIES_BYTES_MAX >> 10) as usize;

/// Most memory of the pieces of a body between the stages.
const STREAM_BYTES: u64 = 2 << 20;

/// The answer to a call, when it is there.
pub type Answered = oneshot::Receiver<Result<Response, Error>>;

/// The gateway of a worker.
pub struct Gateway {
    handle: Handle,
    inner: Arc<Inner>,
    calls: Arc<Semaphore>,
    calls_with_body: Arc<Semaphore>,
    /// KiB for bodies.
    memory: Arc<Semaphore>,
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
}

/// A call and what its operation works on.
struct Request {
    inner: Arc<Inner>,
    bucket: String,
    key: String,
    caller: Caller,
    payload: Option<PayloadSpec>,
    body: mpsc::Receiver<BodyPiece>,
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
        Gateway {
            handle: runtime.runtime_handle(),
            inner: Arc::new(Inner {
                origins: Origins::new(runtime, listings),
                shards,
                writes: Mutex::new(0),
                mounts: RwLock::new(mounts),
                region: region.to_owned(),
            }),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            calls_with_body: Arc::new(Semaphore::new(CALLS_MAX)),
            memory: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
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
        let kib = if has_body {
            memory_of(&call).div_ceil(1024) as u32
        } else {
            0
        };
        let permits = Arc::clone(calls)
            .try_acquire_owned()
            .and_then(|call| Ok((call, Arc::clone(&self.memory).try_acquire_many_owned(kib)?)));
        let Ok(permit) = permits else {
            return Err(Error {
                retry_after_s: Some(1),
                ..Error::new(
                    ErrorCode::SlowDown,
                    format!(
                        "{CALLS_MAX} such calls or {} MiB of bodies are under way on this worker; reduce your \
                         request rate",
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
            body,
        };
        self.handle.spawn(async move {
            let _permit = permit;
            let answered = request.answer(task, mount).await;
            // The client may be gone.
            let _ = answer.send(answered);
        });
        Ok(answered)
    }
}

/// Memory that the body of `call` may come to need, in bytes.
fn memory_of(call: &Call) -> u64 {
    let Task::Operation(operation) = &call.task else {
        return 0;
    };
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

    /// The same for a write whose outcome nobody knows: it may yet be done, so readers ask anew once more
    /// when the origin's patience has ended.
    async fn perhaps_written(&self, mount: &Arc<Mount>, key: &str) {
        // The client is told of the failure already.
        let _ = self.inner.written(mount, key).await;
        let (inner, mount, key) = (Arc::clone(&self.inner), Arc::clone(mount), key.to_owned());
        tokio::spawn(async move {
            for pause in OUTCOME_PAUSES {
                tokio::time::sleep(pause).await;
                let _ = inner.written(&mount, &key).await;
            }
        });
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

impl Inner {
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
        told.map_err(|error| {
            tracing::error!(bucket = mount.path, key, %error, "a shard may serve what was overwritten until its mount's freshness ends");
            Error {
                retry_after_s: Some(1),
                ..Error::new(
                    ErrorCode::ServiceUnavailable,
                    format!("written, but readers of this worker may still see what was there before: {error}; write it again"),
                )
            }
        })
    }
}

fn no_bucket() -> Error {
    Error::new(
        ErrorCode::NoSuchBucket,
        "The specified bucket does not exist; buckets are the mounts right below /",
    )
}
