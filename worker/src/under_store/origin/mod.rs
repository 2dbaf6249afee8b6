//! What is asked of the under-stores beside reads: writes, deletions, uploads, listings with keys
//! as S3 has them.
//!
//! The front end that takes S3 requests calls [`Origins`] from the data cores; the work runs on
//! the threads of the fetch runtime, under the same limits and counts as reads.
//!
//! The invariant: a write that fails leaves the origin as it was if its error has
//! [`OriginError::is_clear`]; without it the origin did not say what it did. A body whose end was not confirmed is never written.
//!
//! Nothing here touches the cache of blocks or of metadata: whoever calls forgets what was written.

mod body;
mod cloud;
mod copying;
mod error;
mod files;
mod headers;
mod listing;
mod s3;
mod types;
mod uploads;
mod work;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::runtime::Handle;

pub use super::just_written::{Keeping, Kept};
pub use body::{Aborted, BodySender, OriginBody, PieceError, held_bytes_max};
pub use error::{OriginError, OriginErrorKind};
pub use headers::OriginHeaders;
pub use types::{
    CompletedPart, CopyDirective, CopySource, Deleted, Head, ListPage, ListQuery, ListedKey,
    ListedPart, ListedUpload, PartPage, UploadPage, WriteCondition, Written,
};

pub(crate) use error::Fault;
pub(crate) use files::{Completions, DIRECTORY_ETAG, headers_of as file_headers_of, is_reserved};
pub(crate) use headers::{bounded as bounded_headers, headers_of, is_described};
pub(crate) use s3::{S3Access, S3Entry, S3Options};

use super::files::{FileTree, blocking};
use super::limits::lock;
use super::listing::Listings;
use super::location::check_key;
use super::remote::RemoteStore;
use super::runtime::{FetchRuntime, ended};
use super::stores::{Backend, Stores};
use crate::mount::Mount;
use body::Gathered;

use s3::{Payload, Uploading};
use work::{Repeat, Work};

/// How often abandoned uploads are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Most keys of one deletion, as in S3.
const DELETE_KEYS_MAX: usize = 1000;

/// Writes and listings of all mounts; clones share everything.
#[derive(Clone, Debug)]
pub struct Origins {
    runtime: Handle,
    stores: Arc<Stores>,
    listings: Listings,
    /// Roots whose abandoned uploads were looked for, and when.
    swept: Arc<Mutex<HashMap<PathBuf, Instant>>>,
}

impl Origins {
    /// Writes by the threads and limits of `runtime`; pages are cached in `listings`.
    pub fn new(runtime: &FetchRuntime, listings: Listings) -> Self {
        Origins {
            runtime: runtime.runtime_handle(),
            stores: runtime.stores(),
            listings,
            swept: Arc::default(),
        }
    }

    /// Drops what listings of `mount` are cached that could show `key`: to be called after every
    /// write and deletion of it.
    pub fn forget(&self, mount: &Mount, key: &str) {
        self.listings.forget_key(&mount.path, key);
    }

    /// Drops all listings of `mount` that are cached.
    pub fn forget_all(&self, mount: &Mount) {
        self.listings.forget(&mount.path);
    }

    /// Room to keep the `length` bytes of a body while it is written, if there is any.
    pub fn keep(&self, length: Option<u64>) -> Option<Keeping> {
        self.stores.just_written.keep(length?)
    }

    /// Writes the object at `key`, which may end in one slash. The body streams while it is sent;
    /// up to 1 MiB is held, and tried again when the origin is busy.
    ///
    /// # Errors
    /// When the condition does not hold, the body does not come to its confirmed end, or the
    /// origin fails.
    pub async fn put(
        &self,
        mount: &Arc<Mount>,
        key: &str,
        headers: &OriginHeaders,
        condition: WriteCondition,
        body: OriginBody,
    ) -> Result<Written, OriginError> {
        let (this, mount, key) = (self.clone(), Arc::clone(mount), key.to_owned());
        let headers = headers.clone();
        self.on_runtime(Arc::clone(&mount), &key.clone(), async move {
            let work = Work {
                writer: body.writer.clone(),
                ..this.work_on(&mount, &key)?
            };
            put(&work, &key, &headers, &condition, body).await
        })
        .await
    }

    /// What the object at `key` is now, with the origin's headers as they are.
    ///
    /// # Errors
    /// When there is none, or the origin fails.
    pub async fn head(&self, mount: &Arc<Mount>, key: &str) -> Result<Head, OriginError> {
        let (this, mount, key) = (self.clone(), Arc::clone(mount), key.to_owned());
        self.on_runtime(Arc::clone(&mount), &key.clone(), async move {
            let work = this.work_on(&mount, &key)?;
            head(&work, &key).await
        })
        .await
    }

    /// Removes the object at `key`. That it is gone already is no error, as in S3.
    ///
    /// # Errors
    /// When the origin refuses or fails.
    pub async fn delete(&self, mount: &Arc<Mount>, key: &str) -> Result<(), OriginError> {
        let (this, mount, key) = (self.clone(), Arc::clone(mount), key.to_owned());
        self.on_runtime(Arc::clone(&mount), &key.clone(), async move {
            let work = this.work_on(&mount, &key)?;
            delete(&work, &key).await
        })
        .await
    }

    /// Removes the objects at `keys`, at most 1,000; the results in their order.
    ///
    /// # Errors
    /// When the request as a whole fails; what became of a key is in its result.
    pub async fn delete_many(
        &self,
        mount: &Arc<Mount>,
        keys: Vec<String>,
    ) -> Result<Vec<Deleted>, OriginError> {
        let (this, mount) = (self.clone(), Arc::clone(mount));
        self.on_runtime(Arc::clone(&mount), "", async move {
            let work = this.work(&mount)?;
            delete_many(&work, &keys).await
        })
        .await
    }

    /// Makes the bucket of `mount`, or its directory.
    ///
    /// # Errors
    /// [`OriginErrorKind::AlreadyExists`] when it is there.
    pub async fn create_bucket(&self, mount: &Arc<Mount>) -> Result<(), OriginError> {
        let (this, mount) = (self.clone(), Arc::clone(mount));
        self.on_runtime(Arc::clone(&mount), "", async move {
            let work = this.work(&mount)?;
            create_bucket(&work).await
        })
        .await
    }

    /// Runs `task` on the fetch runtime, whichever executor asks. The wait for it ends when the file system of the
    /// mount has stalled; the task goes on, since its calls cannot be cancelled.
    async fn on_runtime<T: Send + 'static>(
        &self,
        mount: Arc<Mount>,
        key: &str,
        task: impl Future<Output = Result<T, OriginError>> + Send + 'static,
    ) -> Result<T, OriginError> {
        let uri = format!("{}/{key}", mount.uri);
        let (stores, of_object) = (Arc::clone(&self.stores), uri.clone());
        let watched = async move {
            let Some((root, calls)) = stores.file_root(&mount) else {
                return task.await;
            };
            let max = stores.options.file_timeout;
            calls
                .check(max, &of_object)
                .map_err(|error| OriginError::of_stall(error, true))?;
            let probe = move || drop(std::fs::metadata(&root));
            tokio::select! {
                result = ended(tokio::spawn(task)) => result,
                error = calls.until_stalled_by(max, &of_object, probe) => {
                    Err(OriginError::of_stall(error, false))
                }
            }
        };
        match self.runtime.spawn(watched).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {
                let cause = "the worker is shutting down";
                Err(Fault::passing(OriginErrorKind::Unavailable, cause).into_error(&uri, 0))
            }
        }
    }

    /// The store of `mount`.
    fn work(&self, mount: &Arc<Mount>) -> Result<Work, OriginError> {
        let store = self.stores.of_mount(mount).map_err(|error| OriginError {
            kind: OriginErrorKind::Invalid,
            code: None,
            uri: error.uri,
            message: error.message,
            is_clear: true,
        })?;
        if let Backend::Files(tree) = &store.backend {
            self.sweep(tree);
        }
        Ok(Work {
            stores: Arc::clone(&self.stores),
            store,
            writer: None,
            is_listing: false,
        })
    }

    /// The store of `mount`, for a key that it may have.
    fn work_on(&self, mount: &Arc<Mount>, key: &str) -> Result<Work, OriginError> {
        check_object_key(key).map_err(|cause| {
            let uri = format!("{}/{key}", mount.uri);
            Fault::lasting(OriginErrorKind::Invalid, cause).into_error(&uri, 0)
        })?;
        self.work(mount)
    }

    /// Removes abandoned uploads at the first use of a root in a day, beside it.
    fn sweep(&self, tree: &FileTree) {
        let now = Instant::now();
        let is_due = {
            let mut swept = lock(&self.swept);
            let last = swept.get(&tree.root);
            let is_due = last.is_none_or(|last| now.duration_since(*last) > SWEEP_INTERVAL);
            if is_due {
                swept.insert(tree.root.clone(), now);
            }
            is_due
        };
        if is_due {
            let tree = tree.clone();
            self.runtime.spawn_blocking(move || files::sweep(&tree));
        }
    }
}

/// Refuses keys that could leave the mount. One slash at the end is a directory or its marker.
fn check_object_key(key: &str) -> Result<(), String> {
    check_key(key.strip_suffix('/').unwrap_or(key))
}

/// What a store that is no S3 is.
enum Target<'a> {
    Files(&'a FileTree),
    S3(&'a S3Access, &'a RemoteStore),
    Cloud(&'a RemoteStore),
}

impl Work {
    /// What is behind the mount, if it takes writes.
    fn target(&self) -> Result<Target<'_>, Fault> {
        match &self.store.backend {
            Backend::Files(tree) => Ok(Target::Files(tree)),
            Backend::Remote(remote) => match (&remote.s3, &remote.multipart) {
                (Some(Ok(s3)), _) => Ok(Target::S3(s3, remote)),
                (Some(Err(reason)), _) => Err(Fault::lasting(
                    OriginErrorKind::Unsupported,
                    reason.as_str(),
                )),
                (None, Some(_)) => Ok(Target::Cloud(remote)),
                (None, None) => Err(Fault::lasting(
                    OriginErrorKind::Unsupported,
                    "a web server has no writes that all servers agree on",
                )),
            },
        }
    }

    fn failed<T>(&self, key: &str, fault: Fault) -> Result<T, OriginError> {
        self.store.counters.error(fault.clone().into_failure().kind);
        Err(fault.into_error(&self.uri(key), 1))
    }
}

/// How often a write with that condition may be repeated.
fn repeat_of(condition: &WriteCondition) -> Repeat {
    match condition {
        WriteCondition::None => Repeat::Always,
        // A second try would find what the first one wrote.
        WriteCondition::IfAbsent | WriteCondition::IfMatch(_) => Repeat::IfRefused,
    }
}

/// Takes a body in: into memory if it is short, else as a stream.
async fn payload_of(work: &Work, body: OriginBody) -> Result<(Payload, Repeat), Fault> {
    match body.gathered().await? {
        Gathered::Whole(bytes) => {
            work.take_bytes(bytes.len() as u64).await;
            Ok((Payload::Held(bytes), Repeat::Always))
        }
        Gathered::Long(body) => {
            let length = body
                .length
                .expect("a body without a length is gathered whole");
            let uploading = Uploading::new(body, length, work.clone());
            Ok((Payload::Streamed(uploading), Repeat::No))
        }
    }
}

/// The narrower of two permissions.
fn narrower(left: Repeat, right: Repeat) -> Repeat {
    match (left, right) {
        (Repeat::No, _) | (_, Repeat::No) => Repeat::No,
        (Repeat::IfRefused, _) | (_, Repeat::IfRefused) => Repeat::IfRefused,
        _ => Repeat::Always,
    }
}

async fn put(
    work: &Work,
    key: &str,
    headers: &OriginHeaders,
    condition: &WriteCondition,
    body: OriginBody,
) -> Result<Written, OriginError> {
    let uri = work.uri(key);
    match work.target() {
        Err(fault) => work.failed(key, fault),
        Ok(Target::Files(tree)) => {
            let mut body = Some(body);
            work.run(&uri, Repeat::No, |_| {
                let body = body.take().expect("tried once");
                tree.put(key, headers.kept(), condition.clone(), body, work)
                    .boxed()
            })
            .await
        }
        Ok(Target::S3(s3, remote)) => {
            let (payload, repeat) = match payload_of(work, body).await {
                Ok(payload) => payload,
                Err(fault) => return work.failed(key, fault),
            };
            let full_key = &remote.location.full_key(key);
            work.run(&uri, narrower(repeat, repeat_of(condition)), |time| {
                s3.put(full_key, headers, condition, payload.clone(), time)
                    .boxed()
            })
            .await
        }
        Ok(Target::Cloud(remote)) => match body.gathered().await {
            Err(fault) => work.failed(key, fault),
            Ok(Gathered::Whole(bytes)) => {
                work.take_bytes(bytes.len() as u64).await;
                work.run(&uri, repeat_of(condition), |time| {
                    remote
                        .cloud_put(key, headers, condition, bytes.clone(), time)
                        .boxed()
                })
                .await
            }
            Ok(Gathered::Long(body)) => {
                let mut body = Some(body);
                work.run(&uri, Repeat::No, |_| {
                    let body = body.take().expect("tried once");
                    remote
                        .cloud_stream(key, headers, condition, body, work)
                        .boxed()
                })
                .await
            }
        },
    }
}

async fn head(work: &Work, key: &str) -> Result<Head, OriginError> {
    let uri = work.uri(key);
    match &work.store.backend {
        Backend::Files(tree) => {
            work.run(&uri, Repeat::Always, |_| tree.head(key).boxed())
                .await
        }
        Backend::Remote(remote) => match &remote.s3 {
            Some(Ok(s3)) => {
                let full_key = &remote.location.full_key(key);
                work.run(&uri, Repeat::Always, |time| s3.head(full_key, time).boxed())
                    .await
            }
            _ => {
                work.run(&uri, Repeat::Always, |time| {
                    remote.cloud_head(key, time).boxed()
                })
                .await
            }
        },
    }
}

async fn delete(work: &Work, key: &str) -> Result<(), OriginError> {
    let uri = work.uri(key);
    match work.target() {
        Err(fault) => work.failed(key, fault),
        Ok(Target::Files(tree)) => {
            work.run(&uri, Repeat::Always, |_| tree.delete(key).boxed())
                .await
        }
        Ok(Target::S3(s3, remote)) => {
            let full_key = &remote.location.full_key(key);
            work.run(&uri, Repeat::Always, |time| {
                s3.delete(full_key, time).boxed()
            })
            .await
        }
        Ok(Target::Cloud(remote)) => {
            work.run(&uri, Repeat::Always, |time| {
                remote.cloud_delete(key, time).boxed()
            })
            .await
        }
    }
}

async fn delete_many(work: &Work, keys: &[String]) -> Result<Vec<Deleted>, OriginError> {
    if keys.len() > DELETE_KEYS_MAX {
        let cause = format!(
            "{} keys are more than the limit of {DELETE_KEYS_MAX}",
            keys.len()
        );
        return work.failed("", Fault::lasting(OriginErrorKind::Invalid, cause));
    }
    let refused = |key: &String| {
        let cause = check_object_key(key).err()?;
        Some(Fault::lasting(OriginErrorKind::Invalid, cause).into_error(&work.uri(key), 0))
    };
    let Ok(Target::S3(s3, remote)) = work.target() else {
        let mut results = Vec::with_capacity(keys.len());
        for key in keys {
            results.push(match refused(key) {
                Some(error) => Err(error),
                None => delete(work, key).await,
            });
        }
        return Ok(results);
    };
    let full_keys: Vec<String> = keys
        .iter()
        .filter(|key| refused(key).is_none())
        .map(|key| remote.location.full_key(key))
        .collect();
    let full_keys = full_keys.as_slice();
    let uri = work.uri("");
    let mut answers = if full_keys.is_empty() {
        Vec::new()
    } else {
        work.run(&uri, Repeat::Always, |time| {
            s3.delete_many(full_keys, time).boxed()
        })
        .await?
    }
    .into_iter();
    Ok(keys
        .iter()
        .map(|key| match refused(key) {
            Some(error) => Err(error),
            None => answers
                .next()
                .expect("an answer for each key")
                .map_err(|fault| fault.into_error(&work.uri(key), 1)),
        })
        .collect())
}

async fn create_bucket(work: &Work) -> Result<(), OriginError> {
    let uri = work.uri("");
    match work.target() {
        Err(fault) => work.failed("", fault),
        Ok(Target::Files(tree)) => {
            work.run(&uri, Repeat::No, |_| {
                let tree = tree.clone();
                blocking(move || make_root(&tree)).boxed()
            })
            .await
        }
        // A bucket that an unclear first try made is ours already at the second.
        Ok(Target::S3(s3, _)) => {
            work.run(&uri, Repeat::IfRefused, |time| {
                s3.create_bucket(time).boxed()
            })
            .await
        }
        Ok(Target::Cloud(_)) => {
            let cause = "buckets of this kind of store are made with its own tools";
            work.failed("", Fault::lasting(OriginErrorKind::Unsupported, cause))
        }
    }
}

fn make_root(tree: &FileTree) -> Result<(), Fault> {
    if tree.root.is_dir() {
        let cause = "the mount's directory is there already";
        return Err(Fault::lasting(OriginErrorKind::AlreadyExists, cause));
    }
    std::fs::create_dir_all(&tree.root)
        .map_err(|error| Fault::from(super::files::failure_of(&error, "make the directory of")))
}
