//! Multipart uploads. The origin keeps them; the worker holds nothing of an upload between two calls, so
//! that its parts may come through any worker.

use std::sync::Arc;

use corelane_s3::operation::{
    CompleteMultipartUpload, CreateMultipartUpload, ListMultipartUploads, ListParts, UploadPart,
    UploadPartCopy,
};
use corelane_s3::xml::complete::Completed;
use corelane_s3::{Error, ErrorCode, xml};

use super::body::document;
use super::buckets::OWNER;
use super::failure::error_of;
use super::objects::{condition_of, no_body, origin_headers};
use super::{Request, Response};
use crate::mount::Mount;
use crate::under_store::origin::{CompletedPart, CopySource};

/// Longest list of parts: ten thousand with a checksum of each kind.
pub(super) const COMPLETE_BYTES_MAX: usize = 4 << 20;

impl Request {
    pub(super) async fn create_upload(
        &mut self,
        mount: &Arc<Mount>,
        create: CreateMultipartUpload,
    ) -> Result<Response, Error> {
        // Which checksum the parts bring is between the client and the worker, which checks it: an origin
        // that was told would want one of every part before its bytes.
        let headers = origin_headers(create.headers);
        let created = self
            .inner
            .origins
            .create_upload(mount, &self.key, &headers)
            .await;
        let upload_id = created.map_err(|failure| error_of(&failure))?;
        let mut body = Vec::new();
        xml::multipart::write_created(&mut body, &self.bucket, &self.key, &upload_id);
        Ok(Response::xml(200, body, None))
    }

    pub(super) async fn upload_part(
        &mut self,
        mount: &Arc<Mount>,
        part: &UploadPart,
    ) -> Result<Response, Error> {
        let (origins, key) = (self.inner.origins.clone(), self.key.clone());
        let written = self
            .pass_body(None, async move |body| {
                origins
                    .put_part(
                        mount,
                        &key,
                        &part.upload_id,
                        part.part_number,
                        Vec::new(),
                        body,
                    )
                    .await
            })
            .await?;
        let (received, written) = written;
        let written = written.map_err(|failure| error_of(&failure))?;
        Ok(Response::of_written(&written, received))
    }

    pub(super) async fn copy_part(
        &mut self,
        mount: &Arc<Mount>,
        part: &UploadPartCopy,
    ) -> Result<Response, Error> {
        let (from, etag) = self.copy_source(&part.source).await?;
        let source = CopySource {
            if_match: Some(etag),
            range: part.source_range.clone(),
        };
        let copied = self
            .inner
            .origins
            .copy_part(
                (&from, &part.source.key),
                source,
                mount,
                &self.key,
                &part.upload_id,
                part.part_number,
            )
            .await;
        let written = copied.map_err(|failure| error_of(&failure))?;
        let mut body = Vec::new();
        xml::copy::write_part(&mut body, &written.etag, written.last_modified_ms);
        Ok(Response::xml(200, body, None))
    }

    pub(super) async fn complete_upload(
        &mut self,
        mount: &Arc<Mount>,
        complete: CompleteMultipartUpload,
    ) -> Result<Response, Error> {
        let spec = self.payload.take().ok_or_else(no_body)?;
        let document = document(spec, &mut self.body, COMPLETE_BYTES_MAX).await?;
        let parts: Vec<CompletedPart> = xml::complete::read(&document)?
            .into_iter()
            .map(|part| CompletedPart {
                number: part.number,
                etag: part.etag,
                checksum: None,
            })
            .collect();
        let condition = condition_of(complete.if_none_match_any, complete.if_match);
        let completed = self
            .inner
            .origins
            .complete_upload(mount, &self.key, &complete.upload_id, parts, condition)
            .await;
        let written = self.told(mount, &self.key, completed).await?;
        let location = format!("/{}/{}", self.bucket, self.key);
        let mut body = Vec::new();
        xml::complete::write_result(
            &mut body,
            &Completed {
                location: &location,
                bucket: &self.bucket,
                key: &self.key,
                etag: &written.etag,
                checksum: None,
            },
        );
        let mut response = Response::xml(200, body, None);
        if let Some(version) = written.version_id {
            response = response.with("x-amz-version-id", version);
        }
        Ok(response)
    }

    pub(super) async fn abort_upload(
        &mut self,
        mount: &Arc<Mount>,
        upload_id: &str,
    ) -> Result<Response, Error> {
        let aborted = self
            .inner
            .origins
            .abort_upload(mount, &self.key, upload_id)
            .await;
        aborted.map_err(|failure| error_of(&failure))?;
        Ok(Response::empty(204))
    }

    pub(super) async fn list_parts(
        &mut self,
        mount: &Arc<Mount>,
        list: &ListParts,
    ) -> Result<Response, Error> {
        let listed = self
            .inner
            .origins
            .list_parts(
                mount,
                &self.key,
                &list.upload_id,
                list.part_number_marker,
                list.max_parts as usize,
            )
            .await;
        let page = listed.map_err(|failure| error_of(&failure))?;
        let parts: Vec<xml::list_parts::ListedPart<'_>> = page
            .parts
            .iter()
            .map(|part| xml::list_parts::ListedPart {
                number: part.number,
                etag: &part.etag,
                size: part.size,
                last_modified_ms: part.last_modified_ms,
            })
            .collect();
        let mut body = Vec::new();
        xml::list_parts::write(
            &mut body,
            &xml::list_parts::Page {
                bucket: &self.bucket,
                key: &self.key,
                upload_id: &list.upload_id,
                owner: OWNER,
                storage_class: "STANDARD",
                part_number_marker: list.part_number_marker,
                next_part_number_marker: page.next_marker,
                max_parts: list.max_parts,
                is_truncated: page.next_marker.is_some(),
                parts: &parts,
                encodes_url: false,
            },
        );
        Ok(Response::xml(200, body, None))
    }

    pub(super) async fn list_uploads(
        &mut self,
        mount: &Arc<Mount>,
        list: &ListMultipartUploads,
    ) -> Result<Response, Error> {
        if list.delimiter.is_some() {
            return Err(Error::new(
                ErrorCode::NotImplemented,
                "uploads are not listed with a delimiter; list them by prefix",
            ));
        }
        let after = list.key_marker.clone().map(|key| {
            let upload_id = list.upload_id_marker.clone();
            (key, upload_id.unwrap_or_default())
        });
        let listed = self
            .inner
            .origins
            .list_uploads(mount, &list.prefix, after, list.max_uploads as usize)
            .await;
        let page = listed.map_err(|failure| error_of(&failure))?;
        let uploads: Vec<xml::list_uploads::ListedUpload<'_>> = page
            .uploads
            .iter()
            .map(|upload| xml::list_uploads::ListedUpload {
                key: &upload.key,
                upload_id: &upload.upload_id,
                initiated_ms: upload.initiated_ms,
                storage_class: "STANDARD",
            })
            .collect();
        let next = page
            .next_marker
            .as_ref()
            .map(|(key, id)| (key.as_str(), id.as_str()));
        let mut body = Vec::new();
        xml::list_uploads::write(
            &mut body,
            &xml::list_uploads::Page {
                bucket: &self.bucket,
                prefix: &list.prefix,
                delimiter: None,
                key_marker: list.key_marker.as_deref().unwrap_or_default(),
                upload_id_marker: list.upload_id_marker.as_deref().unwrap_or_default(),
                next,
                max_uploads: list.max_uploads,
                is_truncated: next.is_some(),
                owner: OWNER,
                uploads: &uploads,
                common_prefixes: &[],
                encodes_url: list.encoding_url,
            },
        );
        Ok(Response::xml(200, body, None))
    }
}
