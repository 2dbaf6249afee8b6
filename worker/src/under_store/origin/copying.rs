//! Copies of objects: on the origin's side where both ends are one store, else by reading from
//! one and writing to the other.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use object_store::{GetOptions, GetRange};
use tokio::time::Instant;

use super::body::BodySender;
use super::cloud::held;
use super::error::{Fault, OriginError, OriginErrorKind};
use super::headers::METADATA_PREFIX;
use super::types::{CopyDirective, CopySource, Head, WriteCondition, Written};
use super::work::{Repeat, Work};
use super::{
    Aborted, OriginBody, OriginHeaders, Origins, Target, head, payload_of, put, repeat_of,
};
use crate::mount::Mount;
use crate::object::is_strong_etag;
use crate::under_store::files::{FileTree, blocking};
use crate::under_store::remote::{RemoteStore, modified_ms_of};
use crate::under_store::stores::Backend;

/// Pieces that wait between the reading and the writing end of a copy.
const PIECES: usize = 4;

/// Bytes that are read from a file at once.
const READ_BYTES: u64 = 1 << 20;

/// Fewest bytes that a store has to send in the time that its answer may take: a few kilobytes a second.
const BYTES_IN_PATIENCE: usize = 64 << 10;

impl Origins {
    /// Copies the object at `from_key` to `to_key` of `mount`.
    ///
    /// # Errors
    /// When the source is not there or changed, the condition does not hold, or an origin fails.
    pub async fn copy(
        &self,
        from: (&Arc<Mount>, &str),
        source: CopySource,
        mount: &Arc<Mount>,
        key: &str,
        directive: CopyDirective,
        condition: WriteCondition,
    ) -> Result<Written, OriginError> {
        let (this, from_mount, from_key) = (self.clone(), Arc::clone(from.0), from.1.to_owned());
        let (mount, key) = (Arc::clone(mount), key.to_owned());
        self.on_runtime(Arc::clone(&mount), &key.clone(), async move {
            let from = this.work_on(&from_mount, &from_key)?;
            let to = this.work_on(&mount, &key)?;
            let if_match = source.if_match.as_deref();
            copy(
                (&from, &from_key),
                if_match,
                (&to, &key),
                &directive,
                &condition,
            )
            .await
        })
        .await
    }

    pub(super) async fn copy_part_now(
        &self,
        (from, from_key): (&Work, &str),
        source: CopySource,
        to: &Work,
        (key, id, number): (&str, &str, u32),
    ) -> Result<Written, OriginError> {
        let uri = to.uri(key);
        match (from.target(), to.target()) {
            (_, Err(fault)) => return to.failed(key, fault),
            (Ok(Target::Files(from_tree)), Ok(Target::Files(tree))) => {
                return to
                    .run(&uri, Repeat::Always, |_| {
                        let (from_tree, tree) = (from_tree.clone(), tree.clone());
                        let (from_key, source) = (from_key.to_owned(), source.clone());
                        let (key, id) = (key.to_owned(), id.to_owned());
                        blocking(move || {
                            tree.copy_part(
                                (&from_tree, &from_key),
                                source.if_match.as_deref(),
                                source.range,
                                (&key, &id, number),
                            )
                        })
                        .boxed()
                    })
                    .await;
            }
            (Ok(Target::S3(_, from_remote)), Ok(Target::S3(s3, remote)))
                if is_one_store(from, to) =>
            {
                let path = &place_of(from_remote, from_key);
                let full_key = &remote.location.full_key(key);
                let if_match = source.if_match.as_deref();
                return to
                    .run(&uri, Repeat::Always, |time| {
                        let (range, into) = (source.range.clone(), (full_key.as_str(), id, number));
                        s3.copy_part(path, if_match, range, into, time).boxed()
                    })
                    .await;
            }
            _ => {}
        }
        let found = head_of_source(from, from_key, source.if_match.as_deref()).await?;
        let range = source.range.unwrap_or(0..found.length);
        if range.end > found.length || range.start > range.end {
            let cause = format!("the source has {} bytes, not {range:?}", found.length);
            let fault = Fault::lasting(OriginErrorKind::Invalid, cause).with_code("InvalidRange");
            return to.failed(key, fault);
        }
        let body = read(from, from_key, &found, range);
        match to.target() {
            Err(fault) => to.failed(key, fault),
            Ok(Target::Files(tree)) => {
                let mut body = Some(body);
                to.run(&uri, Repeat::No, |_| {
                    let body = body.take().expect("tried once");
                    tree.put_part(key, id, number, body, to).boxed()
                })
                .await
            }
            Ok(Target::S3(s3, remote)) => {
                let (payload, repeat) = match payload_of(to, body).await {
                    Ok(payload) => payload,
                    Err(fault) => return to.failed(key, fault),
                };
                let full_key = &remote.location.full_key(key);
                to.run(&uri, repeat, |time| {
                    s3.put_part(full_key, id, number, &[], payload.clone(), time)
                        .boxed()
                })
                .await
            }
            Ok(Target::Cloud(remote)) => {
                let bytes = match held(body).await {
                    Ok(bytes) => bytes,
                    Err(fault) => return to.failed(key, fault),
                };
                to.run(&uri, Repeat::Always, |time| {
                    remote
                        .cloud_put_part(key, id, number, bytes.clone(), time)
                        .boxed()
                })
                .await
            }
        }
    }
}

async fn copy(
    (from, from_key): (&Work, &str),
    if_match: Option<&str>,
    (to, key): (&Work, &str),
    directive: &CopyDirective,
    condition: &WriteCondition,
) -> Result<Written, OriginError> {
    let uri = to.uri(key);
    let is_plain = !from_key.ends_with('/') && !key.ends_with('/');
    match (from.target(), to.target()) {
        (_, Err(fault)) => return to.failed(key, fault),
        (Ok(Target::Files(from_tree)), Ok(Target::Files(tree))) if is_plain => {
            return to
                .run(&uri, repeat_of(condition), |_| {
                    let source = (from_tree.clone(), from_key.to_owned());
                    let if_match = if_match.map(str::to_owned);
                    tree.copy(source, if_match, key, directive.clone(), condition.clone())
                        .boxed()
                })
                .await;
        }
        (Ok(Target::S3(_, from_remote)), Ok(Target::S3(s3, remote))) if is_one_store(from, to) => {
            let path = &place_of(from_remote, from_key);
            let full_key = &remote.location.full_key(key);
            return to
                .run(&uri, repeat_of(condition), |time| {
                    s3.copy(path, if_match, full_key, directive, condition, time)
                        .boxed()
                })
                .await;
        }
        (Ok(Target::Cloud(from_remote)), Ok(Target::Cloud(remote)))
            if is_plain
                && if_match.is_none()
                && *directive == CopyDirective::Copy
                && is_one_store(from, to)
                && from_remote.location.container == remote.location.container
                && from_remote.location.prefix == remote.location.prefix =>
        {
            return to
                .run(&uri, repeat_of(condition), |time| {
                    remote.cloud_copy(from_key, key, condition, time).boxed()
                })
                .await;
        }
        _ => {}
    }
    let found = head_of_source(from, from_key, if_match).await?;
    let headers = match directive {
        CopyDirective::Copy => headers_of(&found),
        CopyDirective::Replace(headers) => headers.clone(),
    };
    let body = read(from, from_key, &found, 0..found.length);
    put(to, key, &headers, condition, body).await
}

/// The source as it is now, which has to be of that ETag.
async fn head_of_source(
    from: &Work,
    key: &str,
    if_match: Option<&str>,
) -> Result<Head, OriginError> {
    let found = head(from, key).await?;
    match if_match {
        Some(etag) if etag.trim_matches('"') != found.etag.trim_matches('"') => {
            let cause = "the source is not of the expected ETag";
            let fault = Fault::lasting(OriginErrorKind::PreconditionFailed, cause);
            from.failed(key, fault.with_code("PreconditionFailed"))
        }
        _ => Ok(found),
    }
}

/// Whether one request can reach both.
fn is_one_store(from: &Work, to: &Work) -> bool {
    from.store.location.kind == to.store.location.kind
        && from.store.location.endpoint == to.store.location.endpoint
        && from.store.mount.options == to.store.mount.options
}

/// Bucket and key, as `x-amz-copy-source` has them.
fn place_of(remote: &RemoteStore, key: &str) -> String {
    format!(
        "{}/{}",
        remote.location.container,
        remote.location.full_key(key)
    )
}

/// The headers of an object, as a write has them.
fn headers_of(found: &Head) -> OriginHeaders {
    let mut headers = OriginHeaders::default();
    for (name, value) in &found.headers {
        let field = match name.as_str() {
            "content-type" => &mut headers.content_type,
            "content-encoding" => &mut headers.content_encoding,
            "content-language" => &mut headers.content_language,
            "content-disposition" => &mut headers.content_disposition,
            "cache-control" => &mut headers.cache_control,
            "expires" => &mut headers.expires,
            _ => {
                if let Some(name) = name.strip_prefix(METADATA_PREFIX) {
                    headers.metadata.push((name.to_owned(), value.clone()));
                }
                continue;
            }
        };
        *field = Some(value.clone());
    }
    headers
}

/// The bytes of a range of the object at `key`, which is as `found` says; they fail if it changes.
fn read(from: &Work, key: &str, found: &Head, range: Range<u64>) -> OriginBody {
    let length = range.end - range.start;
    if length == 0 {
        return OriginBody::whole(Bytes::new());
    }
    let (sender, body) = OriginBody::channel(Some(length), PIECES);
    let (work, key, found) = (from.clone(), key.to_owned(), found.clone());
    tokio::spawn(async move {
        let result = match &work.store.backend {
            Backend::Files(tree) => read_file(tree, &key, &found.etag, range, &sender).await,
            Backend::Remote(remote) => read_remote(remote, &key, &found, range, &sender).await,
        };
        match result {
            Ok(()) => sender.end(),
            Err(fault) => sender.abort(Aborted {
                code: fault.code,
                message: format!("the source of the copy: {}", fault.cause),
            }),
        }
    });
    body
}

async fn read_file(
    tree: &FileTree,
    key: &str,
    etag: &str,
    range: Range<u64>,
    sender: &BodySender,
) -> Result<(), Fault> {
    let (opened_tree, opened_key) = (tree.clone(), key.to_owned());
    let (file, _) = blocking(move || opened_tree.open(&opened_key)).await?;
    let file = Arc::new(file);
    let mut offset = range.start;
    while offset < range.end {
        let length = (range.end - offset).min(READ_BYTES) as usize;
        let (file, etag) = (Arc::clone(&file), etag.to_owned());
        let piece = blocking(move || {
            let mut piece = BytesMut::zeroed(length);
            file.read_exact_at(&mut piece, offset)
                .map_err(|error| crate::under_store::files::failure_of(&error, "read"))?;
            let metadata = file
                .metadata()
                .map_err(|error| crate::under_store::files::failure_of(&error, "stat"))?;
            let found = crate::under_store::files::description_of(&metadata);
            if found.version != etag.trim_matches('"') {
                return Err(Fault::lasting(
                    OriginErrorKind::PreconditionFailed,
                    "it changed",
                ));
            }
            Ok(piece.freeze())
        })
        .await?;
        offset += piece.len() as u64;
        if !sender.send(piece).await {
            return Err(Fault::lasting(OriginErrorKind::Aborted, "the copy failed"));
        }
    }
    Ok(())
}

async fn read_remote(
    remote: &RemoteStore,
    key: &str,
    found: &Head,
    range: Range<u64>,
    sender: &BodySender,
) -> Result<(), Fault> {
    let path = remote.cloud_path(key)?;
    let is_vouched = is_strong_etag(&found.etag);
    let options = GetOptions {
        if_match: is_vouched.then(|| found.etag.clone()),
        range: Some(GetRange::Bounded(range)),
        ..GetOptions::default()
    };
    let patience = remote.answer_patience();
    let answer = remote
        .answered(remote.client().get_opts(&path, options), patience)
        .await?;
    let is_of_time = is_vouched || modified_ms_of(&answer.meta) == found.last_modified_ms;
    let etag = answer.meta.e_tag.as_deref().unwrap_or_default();
    if etag != found.etag || answer.meta.size != found.length || !is_of_time {
        return Err(Fault::lasting(
            OriginErrorKind::PreconditionFailed,
            "it changed",
        ));
    }
    let mut chunks = answer.into_stream();
    // What the store has to send by then, so that bytes that trickle do not keep a copy for ever.
    let (mut end, mut bytes_owed) = (Instant::now() + patience, BYTES_IN_PATIENCE);
    loop {
        match tokio::time::timeout_at(end, chunks.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(piece))) => {
                let (came, length) = (Instant::now(), piece.len());
                if !sender.send(piece).await {
                    return Err(Fault::lasting(OriginErrorKind::Aborted, "the copy failed"));
                }
                match bytes_owed.checked_sub(length) {
                    Some(owed) if owed > 0 => {
                        bytes_owed = owed;
                        // The other store's time is not this one's.
                        end += came.elapsed();
                    }
                    _ => (end, bytes_owed) = (Instant::now() + patience, BYTES_IN_PATIENCE),
                }
            }
            Ok(Some(Err(error))) => {
                return Err(crate::under_store::remote::failure_of(&error).into());
            }
            Err(_) => {
                let cause = format!("too few bytes came in {:.1} s", patience.as_secs_f64());
                return Err(Fault::passing(OriginErrorKind::Unavailable, cause));
            }
        }
    }
}
