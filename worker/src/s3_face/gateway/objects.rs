//! Single objects: put, copy, delete, and the markers of folders.

use std::sync::Arc;
use std::time::Duration;

use corelane_s3::conditions::{Conditions, Verdict};
use corelane_s3::credentials::Verb;
use corelane_s3::operation::{CopyObject, CopySource, ObjectHeaders, PutObject};
use corelane_s3::payload::{PayloadSpec, Received};
use corelane_s3::xml::delete::{Outcome, write_result};
use corelane_s3::{Error, ErrorCode, xml};

use super::body::{Pumped, document, pump};
use super::failure::error_of;
use super::{Request, Response};
use crate::mount::Mount;
use crate::shard::request::ShardRequest;
use crate::under_store::origin::{
    CopyDirective, CopySource as OriginSource, Head, Keeping, Kept, OriginBody, OriginError,
    OriginErrorKind, OriginHeaders, WriteCondition, Written,
};
use crate::under_store::path_key;

/// What was found out of a body that went to an origin, and what the origin said.
pub(super) type Passed<T> = (Option<Received>, Result<T, OriginError>);

/// Pieces of a body that wait for the origin.
pub(super) const PIECES_MAX: usize = 4;

/// How long the bytes of a write are kept for shards that do not take them.
const BRING_IN_DEADLINE: Duration = Duration::from_secs(10);

/// Longest document that names objects to delete, as in S3: a thousand of the longest keys.
pub(super) const DELETE_BYTES_MAX: usize = 2 << 20;

/// When a write may replace what is there.
pub(super) fn condition_of(if_none_match_any: bool, if_match: Option<String>) -> WriteCondition {
    match if_match {
        _ if if_none_match_any => WriteCondition::IfAbsent,
        Some(etag) => WriteCondition::IfMatch(etag),
        None => WriteCondition::None,
    }
}

/// The same headers, as the under-stores name them.
pub(super) fn origin_headers(headers: ObjectHeaders) -> OriginHeaders {
    OriginHeaders {
        content_type: headers.content_type,
        content_encoding: headers.content_encoding,
        content_language: headers.content_language,
        content_disposition: headers.content_disposition,
        cache_control: headers.cache_control,
        expires: headers.expires,
        metadata: headers.metadata,
        passed: headers.passed,
    }
}

/// Whether the origin may have done a write that it did not confirm.
pub(super) fn may_be_done(failure: &OriginError) -> bool {
    !failure.is_clear
}

impl Response {
    /// The answer to a write: with the checksums of the origin, or those that were checked here.
    pub(super) fn of_written(written: &Written, received: Option<Received>) -> Self {
        let mut response = Response::empty(200).with("ETag", written.etag.clone());
        for (name, value) in &written.checksums {
            response.headers.push((name.clone().into(), value.clone()));
        }
        let checked = received.map_or_else(Vec::new, |received| received.checksums);
        for (algorithm, value) in checked {
            if written.checksums.is_empty() {
                response = response.with(algorithm.header(), value);
            }
        }
        if let Some(version) = &written.version_id {
            response = response.with("x-amz-version-id", version.clone());
        }
        response
    }
}

impl Request {
    pub(super) async fn put_object(
        &mut self,
        mount: &Arc<Mount>,
        put: PutObject,
    ) -> Result<Response, Error> {
        let condition = condition_of(put.if_none_match_any, put.if_match);
        let headers = origin_headers(put.headers);
        let (origins, key) = (self.inner.origins.clone(), self.key.clone());
        let length = self.payload.as_ref().and_then(PayloadSpec::length);
        let mut keeping = origins.keep(length);
        let written = self
            .pass_body(keeping.as_mut(), async move |body| {
                origins.put(mount, &key, &headers, condition, body).await
            })
            .await;
        let kept = match (keeping, &written) {
            (Some(keeping), Ok((Some(_), Ok(written)))) if !written.is_ambiguous => {
                let path_key = path_key(mount, &format!("{}/{}", mount.path, self.key));
                path_key.map_or(None, |path_key| keeping.confirmed(&path_key, &written.etag))
            }
            _ => None,
        };
        let answer = self.settle(mount, written).await;
        if let Some(kept) = kept {
            self.bring_in(mount, kept);
        }
        answer
    }

    /// Lets the shards take what was just written into the cache. The answer does not wait for it.
    fn bring_in(&self, mount: &Arc<Mount>, kept: Kept) {
        let path = format!("{}/{}", mount.path, self.key);
        let (inner, mount) = (Arc::clone(&self.inner), Arc::clone(mount));
        tokio::spawn(async move {
            let asked = inner
                .shards
                .ask_all(BRING_IN_DEADLINE, |answer| ShardRequest::BringIn {
                    mount: Arc::clone(&mount),
                    path: path.clone(),
                    answer,
                })
                .await;
            if let Err(error) = asked {
                tracing::debug!(path, %error, "what was written is fetched when it is read");
            }
            drop(kept);
        });
    }

    /// Lets readers see what became of a write, then answers it.
    async fn settle(
        &self,
        mount: &Arc<Mount>,
        written: Result<Passed<Written>, Error>,
    ) -> Result<Response, Error> {
        let (received, written) = written?;
        let written = self.told(mount, &self.key, written).await?;
        Ok(Response::of_written(&written, received))
    }

    /// Lets readers see what became of a write of `key`; gives what the origin said of it.
    pub(super) async fn told<T>(
        &self,
        mount: &Arc<Mount>,
        key: &str,
        written: Result<T, OriginError>,
    ) -> Result<T, Error> {
        match written {
            Ok(written) => self.written(mount, key).await.map(|()| written),
            Err(failure) => {
                if may_be_done(&failure) {
                    self.perhaps_written(mount, [key]).await;
                }
                Err(error_of(&failure))
            }
        }
    }

    pub(super) async fn copy_object(
        &mut self,
        mount: &Arc<Mount>,
        copy: CopyObject,
    ) -> Result<Response, Error> {
        let (from, etag) = self.copy_source(&copy.source).await?;
        let directive = if copy.replaces_metadata {
            CopyDirective::Replace(origin_headers(copy.headers))
        } else {
            CopyDirective::Copy
        };
        let condition = condition_of(copy.if_none_match_any, copy.if_match);
        let source = OriginSource {
            if_match: Some(etag),
            range: None,
        };
        let copied = self
            .inner
            .origins
            .copy(
                (&from, &copy.source.key),
                source,
                mount,
                &self.key,
                directive,
                condition,
            )
            .await;
        let written = self.told(mount, &self.key, copied).await?;
        let mut body = Vec::new();
        xml::copy::write_object(&mut body, &written.etag, written.last_modified_ms);
        Ok(Response::xml(200, body, None))
    }

    /// The bucket and the ETag of an object that is to be copied, if the caller may read it and its
    /// conditions hold.
    pub(super) async fn copy_source(
        &self,
        source: &CopySource,
    ) -> Result<(Arc<Mount>, String), Error> {
        let from = self.other_bucket(&source.bucket, Verb::Read)?;
        if source.version_id.as_deref().is_some_and(|id| id != "null") {
            return Err(Error::new(
                ErrorCode::NotImplemented,
                "copies of single versions are not served; ask the origin",
            ));
        }
        let head = self.inner.origins.head(&from, &source.key).await;
        let head = head.map_err(|failure| error_of(&failure))?;
        let conditions = Conditions {
            if_match: source.if_match.as_deref(),
            if_none_match: source.if_none_match.as_deref(),
            if_modified_since: source.if_modified_since.as_deref(),
            if_unmodified_since: source.if_unmodified_since.as_deref(),
            if_range: None,
        };
        match conditions.evaluate(&head.etag, head.last_modified_ms) {
            Verdict::Proceed => Ok((from, head.etag)),
            // S3 answers both so, since there is nothing to be shown unmodified.
            Verdict::NotModified | Verdict::Failed => Err(Error::new(
                ErrorCode::PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold",
            )),
        }
    }

    pub(super) async fn delete_object(&mut self, mount: &Arc<Mount>) -> Result<Response, Error> {
        let deleted = self.inner.origins.delete(mount, &self.key).await;
        self.after_delete(mount, &self.key, deleted)
            .await
            .map(|()| Response::empty(204))
    }

    /// Lets readers see that an object is gone. One that was not there is deleted as well.
    async fn after_delete(
        &self,
        mount: &Arc<Mount>,
        key: &str,
        deleted: Result<(), OriginError>,
    ) -> Result<(), Error> {
        match deleted {
            Err(failure) if failure.kind == OriginErrorKind::NotFound => {
                self.written(mount, key).await
            }
            deleted => self.told(mount, key, deleted).await,
        }
    }

    pub(super) async fn delete_objects(&mut self, mount: &Arc<Mount>) -> Result<Response, Error> {
        let spec = self.payload.take().ok_or_else(no_body)?;
        let document = document(spec, &mut self.body, DELETE_BYTES_MAX).await?;
        let delete = xml::delete::read(&document)?;
        let mut keys = Vec::new();
        let mut refused = Vec::new();
        for object in delete.objects {
            let is_version = object.version_id.as_deref().is_some_and(|id| id != "null");
            let checked = if is_version {
                Err(Error::new(
                    ErrorCode::NotImplemented,
                    "deletions of single versions are not served; ask the origin",
                ))
            } else if object.etag.is_some() {
                Err(Error::new(
                    ErrorCode::NotImplemented,
                    "conditional deletions are not served; delete without an ETag",
                ))
            } else {
                corelane_s3::target::check_key(&object.key)
            };
            match checked {
                Ok(()) => keys.push(object.key),
                Err(error) => refused.push((object.key, Some(error))),
            }
        }
        let deleted = self.inner.origins.delete_many(mount, keys.clone()).await;
        let mut outcomes = refused;
        match deleted {
            Ok(deleted) => {
                for (key, deleted) in keys.into_iter().zip(deleted) {
                    let error = self.after_delete(mount, &key, deleted).await.err();
                    outcomes.push((key, error));
                }
            }
            Err(failure) => {
                if may_be_done(&failure) {
                    let keys = keys.iter().map(String::as_str);
                    self.perhaps_written(mount, keys).await;
                }
                return Err(error_of(&failure));
            }
        }
        let shown: Vec<Outcome<'_>> = outcomes
            .iter()
            .map(|(key, error)| Outcome {
                key,
                error: error.as_ref(),
            })
            .collect();
        let mut body = Vec::new();
        write_result(&mut body, &shown, delete.is_quiet);
        Ok(Response::xml(200, body, None))
    }

    /// A key that ends in a slash: the empty object that stands for a folder.
    pub(super) async fn marker(&mut self, mount: &Arc<Mount>) -> Result<Response, Error> {
        let head = self.inner.origins.head(mount, &self.key).await;
        let head: Head = head.map_err(|failure| error_of(&failure))?;
        if head.length > 0 {
            return Err(Error::new(
                ErrorCode::NotImplemented,
                "objects with bytes and a key that ends in a slash are not served; ask the origin",
            ));
        }
        let content_type = head
            .headers
            .iter()
            .find(|(name, _)| name == "content-type")
            .map_or("", |(_, value)| value.as_str());
        let mut response = Response::empty(200)
            .with("ETag", head.etag.clone())
            .with("Content-Type", content_type);
        response.content_length = Some(0);
        if head.last_modified_ms > 0 {
            let date = corelane_s3::date::http_date(head.last_modified_ms);
            response = response.with("Last-Modified", String::from_utf8_lossy(&date));
        }
        for (name, value) in head.headers {
            if name != "content-type" {
                response.headers.push((name.into(), value));
            }
        }
        Ok(response)
    }

    /// Makes a body of the request's and lets `write` write it, side by side; its bytes are kept in
    /// `keeping`, too.
    pub(super) async fn pass_body<T>(
        &mut self,
        keeping: Option<&mut Keeping>,
        write: impl AsyncFnOnce(OriginBody) -> Result<T, OriginError>,
    ) -> Result<Passed<T>, Error> {
        let spec = self.payload.take().ok_or_else(no_body)?;
        let (sender, mut body) = OriginBody::channel(spec.length(), PIECES_MAX);
        body.writer = self.body.writer.clone();
        let (pumped, written) =
            futures::join!(pump(spec, &mut self.body, sender, keeping), write(body));
        match pumped {
            Ok(Pumped::Whole(received)) => Ok((Some(received), written)),
            Ok(Pumped::Unwanted) => Ok((None, written)),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn no_body() -> Error {
    Error::new(
        ErrorCode::InternalError,
        "the body of the request was taken already",
    )
}
