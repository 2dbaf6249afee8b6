//! Multipart uploads.

use std::sync::Arc;

use futures::FutureExt;

use super::error::{Fault, OriginError, OriginErrorKind};
use super::types::{CompletedPart, CopySource, PartPage, UploadPage, WriteCondition, Written};
use super::work::{Repeat, Work};
use super::{OriginBody, OriginHeaders, Origins, Target, cloud, narrower, payload_of, repeat_of};
use crate::mount::Mount;
use crate::under_store::files::blocking;

/// Highest number of a part, as in S3.
const PART_NUMBER_MAX: u32 = 10_000;

/// Most entries of a page, as in S3.
const PAGE_MAX: usize = 1000;

impl Origins {
    /// Begins an upload of the object at `key` and returns its id.
    ///
    /// # Errors
    /// When the origin refuses or fails.
    pub async fn create_upload(
        &self,
        mount: &Arc<Mount>,
        key: &str,
        headers: &OriginHeaders,
    ) -> Result<String, OriginError> {
        let (this, mount, key) = (self.clone(), Arc::clone(mount), key.to_owned());
        let headers = headers.clone();
        self.on_runtime(Arc::clone(&mount), &key.clone(), async move {
            let (work, uri) = this.upload_work(&mount, &key)?;
            let (key, headers) = (key.as_str(), &headers);
            match work.target() {
                Err(fault) => work.failed(key, fault),
                Ok(Target::Files(tree)) => {
                    work.run(&uri, Repeat::Always, |_| {
                        let (tree, key, headers) = (tree.clone(), key.to_owned(), headers.kept());
                        blocking(move || tree.create_upload(&key, &headers)).boxed()
                    })
                    .await
                }
                Ok(Target::S3(s3, remote)) => {
                    let full_key = &remote.location.full_key(key);
                    work.run(&uri, Repeat::Always, |time| {
                        s3.create_upload(full_key, headers, time).boxed()
                    })
                    .await
                }
                Ok(Target::Cloud(remote)) => {
                    work.run(&uri, Repeat::Always, |time| {
                        remote.cloud_create_upload(key, headers, time).boxed()
                    })
                    .await
                }
            }
        })
        .await
    }

    /// Writes part `number` of an upload; `passed` are headers for an S3 origin, such as checksums.
    ///
    /// # Errors
    /// When there is no such upload, the body does not come to its confirmed end, or the origin
    /// fails.
    pub async fn put_part(
        &self,
        mount: &Arc<Mount>,
        key: &str,
        upload_id: &str,
        number: u32,
        passed: Vec<(String, String)>,
        body: OriginBody,
    ) -> Result<Written, OriginError> {
        let (this, mount, key) = (self.clone(), Arc::clone(mount), key.to_owned());
        let upload_id = upload_id.to_owned();
        self.on_runtime(Arc::clone(&mount), &key.clone(), async move {
            let (work, uri) = this.upload_work(&mount, &key)?;
            let work = Work {
                writer: body.writer.clone(),
                ..work
            };
            check_number(&work, &key, number)?;
            let (key, id, passed) = (key.as_str(), upload_id.as_str(), passed.as_slice());
            match work.target() {
                Err(fault) => work.failed(key, fault),
                Ok(Target::Files(tree)) => {
                    let mut body = Some(body);
                    let work = &work;
                    work.run(&uri, Repeat::No, |_| {
                        let body = body.take().expect("tried once");
                        tree.put_part(key, id, number, body, work).boxed()
                    })
                    .await
                }
                Ok(Target::S3(s3, remote)) => {
                    let (payload, repeat) = match payload_of(&work, body).await {
                        Ok(payload) => payload,
                        Err(fault) => return work.failed(key, fault),
                    };
                    let full_key = &remote.location.full_key(key);
                    work.run(&uri, repeat, |time| {
                        s3.put_part(full_key, id, number, passed, payload.clone(), time)
                            .boxed()
                    })
                    .await
                }
                Ok(Target::Cloud(remote)) => {
                    let bytes = match cloud::held(body).await {
                        Ok(bytes) => bytes,
                        Err(fault) => return work.failed(key, fault),
                    };
                    work.take_bytes(bytes.len() as u64).await;
                    work.run(&uri, Repeat::Always, |time| {
                        remote
                            .cloud_put_part(key, id, number, bytes.clone(), time)
                            .boxed()
                    })
                    .await
                }
            }
        })
        .await
    }

    /// Makes part `number` of an upload to `mount` of an object at `from`, or of a range of it:
    /// on the origin's side within one store, else by reading and writing.
    ///
    /// # Errors
    /// When source or upload are not there, or an origin fails.
    pub async fn copy_part(
        &self,
        from: (&Arc<Mount>, &str),
        source: CopySource,
        mount: &Arc<Mount>,
        key: &str,
        upload_id: &str,
        number: u32,
    ) -> Result<Written, OriginError> {
        let (this, from_mount, from_key) = (self.clone(), Arc::clone(from.0), from.1.to_owned());
        let (mount, key, upload_id) = (Arc::clone(mount), key.to_owned(), upload_id.to_owned());
        self.on_runtime(Arc::clone(&mount), &key.clone(), async move {
            let (work, _) = this.upload_work(&mount, &key)?;
            check_number(&work, &key, number)?;
            let from_work = this.work_on(&from_mount, &from_key)?;
            this.copy_part_now(
                (&from_work, &from_key),
                source,
                &work,
                (&key, &upload_id, number),
            )
            .await
        })
        .await
    }

    /// Makes the object at `key` of the parts of its upload, in ascending order.
    ///
    /// # Errors
    /// When the parts do not match, the condition does not hold, or the origin fails.
    pub async fn complete_upload(
        &self,
        mount: &Arc<Mount>,
        key: &str,
        upload_id: &str,
        parts: Vec<CompletedPart>,
        condition: WriteCondition,
    ) -> Result<Written, OriginError> {
        let (this, mount, key) = (self.clone(), Arc::clone(mount), key.to_owned());
        let upload_id = upload_id.to_owned();
        self.on_runtime(Arc::clone(&mount), &key.clone(), async move {
            let (work, uri) = this.upload_work(&mount, &key)?;
            let (key, id) = (key.as_str(), upload_id.as_str());
            let (parts, condition) = (parts.as_slice(), &condition);
            match work.target() {
                Err(fault) => work.failed(key, fault),
                Ok(Target::Files(tree)) => {
                    work.run(&uri, Repeat::No, |_| {
                        let (tree, key, id) = (tree.clone(), key.to_owned(), id.to_owned());
                        let (parts, condition) = (parts.to_vec(), condition.clone());
                        blocking(move || tree.complete_upload(&key, &id, &parts, &condition))
                            .boxed()
                    })
                    .await
                }
                Ok(Target::S3(s3, remote)) => {
                    let full_key = &remote.location.full_key(key);
                    // A completion that was done finds no upload the second time.
                    let repeat = narrower(repeat_of(condition), Repeat::IfRefused);
                    work.run(&uri, repeat, |time| {
                        s3.complete_upload(full_key, id, parts, condition, time)
                            .boxed()
                    })
                    .await
                }
                Ok(Target::Cloud(remote)) => {
                    work.run(&uri, Repeat::IfRefused, |time| {
                        remote
                            .cloud_complete_upload(key, id, parts, condition, time)
                            .boxed()
                    })
                    .await
                }
            }
        })
        .await
    }

    /// Ends an upload without an object.
    ///
    /// # Errors
    /// When there is no such upload, or the origin fails.
    pub async fn abort_upload(
        &self,
        mount: &Arc<Mount>,
        key: &str,
        upload_id: &str,
    ) -> Result<(), OriginError> {
        let (this, mount, key) = (self.clone(), Arc::clone(mount), key.to_owned());
        let upload_id = upload_id.to_owned();
        self.on_runtime(Arc::clone(&mount), &key.clone(), async move {
            let (work, uri) = this.upload_work(&mount, &key)?;
            let (key, id) = (key.as_str(), upload_id.as_str());
            match work.target() {
                Err(fault) => work.failed(key, fault),
                Ok(Target::Files(tree)) => {
                    work.run(&uri, Repeat::No, |_| {
                        let (tree, key, id) = (tree.clone(), key.to_owned(), id.to_owned());
                        blocking(move || tree.abort_upload(&key, &id)).boxed()
                    })
                    .await
                }
                Ok(Target::S3(s3, remote)) => {
                    let full_key = &remote.location.full_key(key);
                    work.run(&uri, Repeat::IfRefused, |time| {
                        s3.abort_upload(full_key, id, time).boxed()
                    })
                    .await
                }
                Ok(Target::Cloud(remote)) => {
                    work.run(&uri, Repeat::IfRefused, |time| {
                        remote.cloud_abort_upload(key, id, time).boxed()
                    })
                    .await
                }
            }
        })
        .await
    }

    /// The parts of an upload with numbers above `marker`, at most `parts_max` (cut to 1,000).
    ///
    /// # Errors
    /// When there is no such upload, or the origin fails or cannot list them.
    pub async fn list_parts(
        &self,
        mount: &Arc<Mount>,
        key: &str,
        upload_id: &str,
        marker: u32,
        parts_max: usize,
    ) -> Result<PartPage, OriginError> {
        let (this, mount, key) = (self.clone(), Arc::clone(mount), key.to_owned());
        let upload_id = upload_id.to_owned();
        let parts_max = parts_max.clamp(1, PAGE_MAX);
        self.on_runtime(Arc::clone(&mount), &key.clone(), async move {
            let (work, uri) = this.upload_work(&mount, &key)?;
            let work = Work {
                is_listing: true,
                ..work
            };
            let _turn = this.listings.turn(&work.store, None).await;
            let (key, id) = (key.as_str(), upload_id.as_str());
            match work.target() {
                Err(fault) => work.failed(key, fault),
                Ok(Target::Files(tree)) => {
                    work.run(&uri, Repeat::Always, |_| {
                        let (tree, key, id) = (tree.clone(), key.to_owned(), id.to_owned());
                        blocking(move || tree.list_parts(&key, &id, marker, parts_max)).boxed()
                    })
                    .await
                }
                Ok(Target::S3(s3, remote)) => {
                    let full_key = &remote.location.full_key(key);
                    work.run(&uri, Repeat::Always, |time| {
                        s3.list_parts(full_key, id, marker, parts_max, time).boxed()
                    })
                    .await
                }
                Ok(Target::Cloud(_)) => work.failed(key, cannot_list()),
            }
        })
        .await
    }

    /// The uploads of keys that begin with `prefix`, behind a key and an id, at most
    /// `uploads_max` (cut to 1,000).
    ///
    /// # Errors
    /// When the origin fails or cannot list them.
    pub async fn list_uploads(
        &self,
        mount: &Arc<Mount>,
        prefix: &str,
        after: Option<(String, String)>,
        uploads_max: usize,
    ) -> Result<UploadPage, OriginError> {
        let (this, mount, prefix) = (self.clone(), Arc::clone(mount), prefix.to_owned());
        let uploads_max = uploads_max.clamp(1, PAGE_MAX);
        self.on_runtime(Arc::clone(&mount), "", async move {
            let work = Work {
                is_listing: true,
                ..this.work(&mount)?
            };
            let _turn = this.listings.turn(&work.store, None).await;
            let uri = work.uri(&prefix);
            match work.target() {
                Err(fault) => work.failed(&prefix, fault),
                Ok(Target::Files(tree)) => {
                    work.run(&uri, Repeat::Always, |_| {
                        let (tree, prefix, after) = (tree.clone(), prefix.clone(), after.clone());
                        blocking(move || tree.list_uploads(&prefix, after.as_ref(), uploads_max))
                            .boxed()
                    })
                    .await
                }
                Ok(Target::S3(s3, remote)) => {
                    let full_prefix = &remote.location.full_key(&prefix);
                    let after = after
                        .as_ref()
                        .map(|(key, id)| (remote.location.full_key(key), id.clone()));
                    let after = after.as_ref();
                    let mut page = work
                        .run(&uri, Repeat::Always, |time| {
                            s3.list_uploads(full_prefix, after, uploads_max, time)
                                .boxed()
                        })
                        .await?;
                    let below = |key: &str| {
                        let skipped = remote.location.full_key("").len();
                        key.get(skipped..).unwrap_or_default().to_owned()
                    };
                    for upload in &mut page.uploads {
                        upload.key = below(&upload.key);
                    }
                    page.next_marker = page.next_marker.map(|(key, id)| (below(&key), id));
                    Ok(page)
                }
                Ok(Target::Cloud(_)) => work.failed(&prefix, cannot_list()),
            }
        })
        .await
    }

    fn upload_work(&self, mount: &Arc<Mount>, key: &str) -> Result<(Work, String), OriginError> {
        let work = self.work_on(mount, key)?;
        let uri = work.uri(key);
        Ok((work, uri))
    }
}

fn cannot_list() -> Fault {
    let cause = "the uploads of this kind of store cannot be listed";
    Fault::lasting(OriginErrorKind::Unsupported, cause)
}

fn check_number(work: &Work, key: &str, number: u32) -> Result<(), OriginError> {
    if (1..=PART_NUMBER_MAX).contains(&number) {
        return Ok(());
    }
    let cause = format!("a part's number is from 1 to {PART_NUMBER_MAX}, not {number}");
    work.failed(key, Fault::lasting(OriginErrorKind::Invalid, cause))
}
