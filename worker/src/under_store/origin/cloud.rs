//! Google Cloud Storage and Azure, through the `object_store` crate.
//!
//! The crate wants whole bodies, so what is longer than one piece goes up in parts of our own,
//! and a part of a client's multipart upload is held in memory. Keys that end in `/` have no form
//! there. The uploads of these stores cannot be listed through the crate.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, CopyMode, CopyOptions, GetOptions, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, UpdateVersion,
};

use super::body::{Gathered, OriginBody};
use super::error::{Fault, OriginErrorKind as Kind};
use super::headers::OriginHeaders;
use super::types::{CompletedPart, Head, WriteCondition, Written};
use super::work::Work;
use crate::under_store::remote::{RemoteStore, failure_of};

/// Bytes of a part that we make: both stores take as many as 50,000 (Azure) or 10,000 (Google).
const PART_BYTES: usize = 16 << 20;

/// Longest part of a client's upload, or body with a condition, that is held in memory.
pub(super) const HELD_BYTES_MAX: u64 = 64 << 20;

/// How long the store may take to put the parts of an upload together.
const ASSEMBLY_PATIENCE: Duration = Duration::from_secs(300);

fn fault_of(error: &object_store::Error) -> Fault {
    match error {
        object_store::Error::AlreadyExists { .. } => {
            Fault::lasting(Kind::PreconditionFailed, "there is an object of that key")
                .with_code("PreconditionFailed")
        }
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            Fault::lasting(Kind::Unsupported, error.to_string())
        }
        _ => Fault::from(failure_of(error)),
    }
}

fn unsupported(what: &str) -> Fault {
    Fault::lasting(
        Kind::Unsupported,
        format!("this kind of store has no {what}"),
    )
}

/// Waits for an answer, for as long as it may take.
async fn within<T>(
    patience: Duration,
    answer: impl Future<Output = object_store::Result<T>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(patience, answer).await {
        Ok(result) => result.map_err(|error| fault_of(&error)),
        Err(_) => {
            let cause = format!("no answer within {:.1} s", patience.as_secs_f64());
            Err(Fault::passing(Kind::Unavailable, cause))
        }
    }
}

fn attributes_of(headers: &OriginHeaders) -> Attributes {
    let named = [
        (Attribute::ContentType, &headers.content_type),
        (Attribute::ContentEncoding, &headers.content_encoding),
        (Attribute::ContentLanguage, &headers.content_language),
        (Attribute::ContentDisposition, &headers.content_disposition),
        (Attribute::CacheControl, &headers.cache_control),
    ];
    let mut attributes = Attributes::new();
    for (attribute, value) in named {
        if let Some(value) = value {
            attributes.insert(attribute, value.clone().into());
        }
    }
    for (name, value) in &headers.metadata {
        attributes.insert(
            Attribute::Metadata(name.clone().into()),
            value.clone().into(),
        );
    }
    attributes
}

fn written(result: PutResult) -> Written {
    Written {
        etag: result.e_tag.unwrap_or_default(),
        version_id: result.version,
        ..Written::default()
    }
}

impl RemoteStore {
    pub(super) fn cloud_path(&self, key: &str) -> Result<Path, Fault> {
        if key.ends_with('/') {
            return Err(unsupported("keys that end in a slash"));
        }
        Path::parse(self.location.full_key(key))
            .map_err(|error| Fault::lasting(Kind::Invalid, error.to_string()))
    }

    fn multipart_store(&self) -> Result<&dyn MultipartStore, Fault> {
        self.multipart
            .as_deref()
            .ok_or_else(|| unsupported("multipart uploads"))
    }

    /// Writes an object that is in memory.
    pub(super) async fn cloud_put(
        &self,
        key: &str,
        headers: &OriginHeaders,
        condition: &WriteCondition,
        bytes: Bytes,
        time_left: Duration,
    ) -> Result<Written, Fault> {
        let options = PutOptions {
            mode: match condition {
                WriteCondition::None => PutMode::Overwrite,
                WriteCondition::IfAbsent => PutMode::Create,
                WriteCondition::IfMatch(etag) => PutMode::Update(UpdateVersion {
                    e_tag: Some(etag.clone()),
                    version: None,
                }),
            },
            attributes: attributes_of(headers),
            ..PutOptions::default()
        };
        let path = self.cloud_path(key)?;
        let patience = ASSEMBLY_PATIENCE.max(time_left);
        let put = self
            .client()
            .put_opts(&path, PutPayload::from(bytes), options);
        within(patience, put).await.map(written)
    }

    /// Writes an object that streams.
    pub(super) async fn cloud_stream(
        &self,
        key: &str,
        headers: &OriginHeaders,
        condition: &WriteCondition,
        mut body: OriginBody,
        work: &Work,
    ) -> Result<Written, Fault> {
        if *condition != WriteCondition::None {
            let bytes = body.collected(HELD_BYTES_MAX).await?;
            work.take_bytes(bytes.len() as u64).await;
            return self
                .cloud_put(key, headers, condition, bytes, ASSEMBLY_PATIENCE)
                .await;
        }
        let path = self.cloud_path(key)?;
        let options = PutMultipartOptions {
            attributes: attributes_of(headers),
            ..PutMultipartOptions::default()
        };
        let patience = self.answer_patience();
        let mut upload = within(patience, self.client().put_multipart_opts(&path, options)).await?;
        let result = async {
            let mut part = BytesMut::new();
            while let Some(piece) = body.next().await? {
                work.take_bytes(piece.len() as u64).await;
                part.extend_from_slice(&piece);
                if part.len() >= PART_BYTES {
                    let bytes = std::mem::take(&mut part).freeze();
                    within(ASSEMBLY_PATIENCE, upload.put_part(bytes.into())).await?;
                }
            }
            if !part.is_empty() {
                within(ASSEMBLY_PATIENCE, upload.put_part(part.freeze().into())).await?;
            }
            within(ASSEMBLY_PATIENCE, upload.complete()).await
        }
        .await;
        if result.is_err() {
            // What stays of it is never an object; the store's own rules remove it.
            let _ = within(patience, upload.abort()).await;
        }
        result.map(written)
    }

    /// What the object at `key` is now.
    pub(super) async fn cloud_head(&self, key: &str, time_left: Duration) -> Result<Head, Fault> {
        if key.ends_with('/') {
            return Err(Fault::lasting(Kind::NotFound, "there is no such object"));
        }
        let path = self.cloud_path(key)?;
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let patience = self.answer_patience().min(time_left);
        let answer = within(patience, self.client().get_opts(&path, options)).await?;
        Ok(Head {
            etag: answer.meta.e_tag.clone().unwrap_or_default(),
            length: answer.meta.size,
            last_modified_ms: u64::try_from(answer.meta.last_modified.timestamp_millis())
                .unwrap_or(0),
            headers: super::headers::headers_of(&answer.attributes),
        })
    }

    /// Removes the object at `key`, which may be gone already.
    pub(super) async fn cloud_delete(&self, key: &str, time_left: Duration) -> Result<(), Fault> {
        let path = self.cloud_path(key)?;
        let mut deleted = self
            .client()
            .delete_stream(futures::stream::iter([Ok(path)]).boxed());
        let patience = self.answer_patience().min(time_left);
        let result = within(patience, async {
            deleted.next().await.transpose().map(drop)
        });
        match result.await {
            Err(fault) if fault.kind == Kind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Copies within the store, headers and all.
    pub(super) async fn cloud_copy(
        &self,
        from: &str,
        to: &str,
        condition: &WriteCondition,
        time_left: Duration,
    ) -> Result<Written, Fault> {
        let mode = match condition {
            WriteCondition::None => CopyMode::Overwrite,
            WriteCondition::IfAbsent => CopyMode::Create,
            WriteCondition::IfMatch(_) => return Err(unsupported("copy onto a given ETag")),
        };
        let (from, path) = (self.cloud_path(from)?, self.cloud_path(to)?);
        let options = CopyOptions::new().with_mode(mode);
        let patience = ASSEMBLY_PATIENCE.max(time_left);
        within(patience, self.client().copy_opts(&from, &path, options)).await?;
        let head = self.cloud_head(to, time_left).await?;
        Ok(Written {
            etag: head.etag,
            last_modified_ms: head.last_modified_ms,
            ..Written::default()
        })
    }

    /// Begins an upload and returns its id.
    pub(super) async fn cloud_create_upload(
        &self,
        key: &str,
        headers: &OriginHeaders,
        time_left: Duration,
    ) -> Result<String, Fault> {
        let path = self.cloud_path(key)?;
        let options = PutMultipartOptions {
            attributes: attributes_of(headers),
            ..PutMultipartOptions::default()
        };
        let patience = self.answer_patience().min(time_left);
        within(
            patience,
            self.multipart_store()?
                .create_multipart_opts(&path, options),
        )
        .await
    }

    /// Writes a part.
    pub(super) async fn cloud_put_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        bytes: Bytes,
        time_left: Duration,
    ) -> Result<Written, Fault> {
        let path = self.cloud_path(key)?;
        let index = number as usize - 1;
        let id = upload_id.to_owned();
        let put = self
            .multipart_store()?
            .put_part(&path, &id, index, bytes.into());
        let part = within(ASSEMBLY_PATIENCE.max(time_left), put).await?;
        Ok(Written {
            etag: format!("\"{}\"", part.content_id.trim_matches('"')),
            ..Written::default()
        })
    }

    /// Makes the object of its parts.
    pub(super) async fn cloud_complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[CompletedPart],
        condition: &WriteCondition,
        time_left: Duration,
    ) -> Result<Written, Fault> {
        if *condition != WriteCondition::None {
            return Err(unsupported("condition on the completion of an upload"));
        }
        let path = self.cloud_path(key)?;
        let ids = parts
            .iter()
            .map(|part| PartId {
                content_id: part.etag.trim_matches('"').to_owned(),
            })
            .collect();
        let id = upload_id.to_owned();
        let complete = self.multipart_store()?.complete_multipart(&path, &id, ids);
        within(ASSEMBLY_PATIENCE.max(time_left), complete)
            .await
            .map(written)
    }

    /// Ends an upload without an object.
    pub(super) async fn cloud_abort_upload(
        &self,
        key: &str,
        upload_id: &str,
        time_left: Duration,
    ) -> Result<(), Fault> {
        let path = self.cloud_path(key)?;
        let id = upload_id.to_owned();
        let abort = self.multipart_store()?.abort_multipart(&path, &id);
        within(self.answer_patience().min(time_left), abort).await
    }
}

/// A body in memory, as these stores want a part.
pub(super) async fn held(body: OriginBody) -> Result<Bytes, Fault> {
    match body.gathered().await? {
        Gathered::Whole(bytes) => Ok(bytes),
        Gathered::Long(mut body) => body.collected(HELD_BYTES_MAX).boxed().await,
    }
}
