//! Answers: heads and bodies into the batch, the batch to the client, and what is counted of them.
//!
//! The invariant: what a batch pins is counted in the shard's credit from the moment that it is appended
//! until the send has ended.

use corelane_io::{Io, Payload};
use corelane_s3::response::{CONTINUE, Extent, request_id_text, write_head, write_object_head};
use corelane_s3::xml::error::Subject;
use corelane_s3::{Error, ErrorCode, xml};

use super::access_log::End;
use super::call::Response;
use super::connection::{Connection, Gone};
use super::connections::Phase;
use crate::cache::frames::FRAME_BYTES;
use crate::shard::known::Known;
use crate::under_store::UnderStore;

impl<I: Io, U: UnderStore> Connection<I, U> {
    pub(super) fn push_object_head(&mut self, extent: Extent, lines: &[u8]) {
        let (face, id, closes) = (&self.face, self.current.id, self.closes);
        let now_ms = self.shard.io.wall_clock_ms();
        let batch = self.batch.as_mut().expect("no send is under way");
        face.with_common(id, closes, now_ms, |common| {
            batch.push_head_with(|out| write_object_head(out, extent, lines, common));
        });
    }

    pub(super) fn answer_not_modified(&mut self, known: &Known) {
        let etag = super::get::etag_of(&known.meta).into_owned();
        let modified = corelane_s3::date::http_date(known.meta.last_modified_ms);
        let modified = (known.meta.last_modified_ms > 0).then_some(&modified[..]);
        // What a client keeps the object by (RFC 9110, 15.4.5).
        let kept = known.meta.headers().filter_map(|(name, value)| match name {
            "cache-control" => Some(("Cache-Control", value.as_bytes())),
            "expires" => Some(("Expires", value.as_bytes())),
            _ => None,
        });
        let headers = std::iter::once(("ETag", etag.as_bytes()))
            .chain(modified.map(|date| ("Last-Modified", date)))
            .chain(kept);
        self.push_head(304, None, headers);
        self.finish(304, None, 0, known.meta.length);
    }

    pub(super) fn push_head<'a>(
        &mut self,
        status: u16,
        content_length: Option<u64>,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) {
        let (face, id, closes) = (&self.face, self.current.id, self.closes);
        let now_ms = self.shard.io.wall_clock_ms();
        let batch = self.batch.as_mut().expect("no send is under way");
        face.with_common(id, closes, now_ms, |common| {
            batch.push_head_with(|out| write_head(out, status, content_length, headers, common));
        });
    }

    /// Appends an error, as XML where the method allows a body.
    pub(super) fn answer_error(&mut self, error: &Error, bucket: &str, key: &str) {
        self.answer_error_as(error.code.status(), error, bucket, key);
    }

    pub(super) fn answer_error_as(&mut self, status: u16, error: &Error, bucket: &str, key: &str) {
        let id = request_id_text(self.current.id);
        let id = std::str::from_utf8(&id).expect("hexadecimal digits");
        let resource = format!("/{bucket}{}{key}", if key.is_empty() { "" } else { "/" });
        let subject = Subject {
            resource: &resource,
            bucket,
            key,
            request_id: id,
        };
        let mut body = Vec::new();
        xml::error::write(&mut body, error, &subject);
        self.answer_with(&Response {
            retry_after_s: error.retry_after_s,
            ..Response::xml(status, body, Some(error.code))
        });
    }

    /// Appends an answer that is complete.
    pub(super) fn answer_with(&mut self, response: &Response) {
        let retry = response.retry_after_s.map(|seconds| seconds.to_string());
        let has_body = response.status != 204 && response.status != 304;
        let length = (has_body && !self.current.is_head).then_some(response.body.len() as u64);
        let headers: Vec<(&str, &[u8])> = response
            .headers
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_bytes()))
            .chain(retry.iter().map(|text| ("Retry-After", text.as_bytes())))
            .collect();
        self.push_head(response.status, response.content_length.or(length), headers);
        if length.is_some() {
            let batch = self.batch.as_mut().expect("no send is under way");
            batch.push_head(&response.body);
            self.pin(response.body.len() as u64);
        }
        self.finish(response.status, response.error, length.unwrap_or(0), 0);
    }

    /// Counts and logs the request whose answer is batched.
    pub(super) fn finish(
        &mut self,
        status: u16,
        error: Option<ErrorCode>,
        bytes: u64,
        object_bytes: u64,
    ) {
        self.batched += 1;
        self.shard.counters.count_s3_status(status);
        if let Some(entry) = self.current.entry.take()
            && let Some(log) = &self.face.shared.log
        {
            let end = End {
                request_id: self.current.id,
                status,
                error,
                bytes,
                object_bytes,
                total: self.shard.io.now().since(self.current.began),
                at_ms: self.shard.io.wall_clock_ms(),
                is_secret: self.transport.is_secret(),
            };
            log.write(&entry, end);
        }
    }

    /// Sends what is batched.
    pub(super) async fn flush(&mut self) -> Result<(), Gone> {
        let batch = self.batch.take().expect("no send is under way");
        if batch.is_empty() {
            self.batch = Some(batch);
            return Ok(());
        }
        self.watched.enter(Phase::Sending, self.shard.io.now());
        (self.batched, self.batched_bytes) = (0, 0);
        let pinned = std::mem::take(&mut self.pinned);
        let (sent, mut batch) = self.transport.send(batch).await;
        batch.clear();
        self.batch = Some(batch);
        self.unpin(pinned);
        sent.map_err(Gone::from)
    }

    /// Appends a piece of a body, and counts the frame that it pins.
    #[inline]
    pub(super) fn push_piece(&mut self, piece: Payload) {
        let bytes = piece.len() as u64;
        let pinned = match &piece {
            Payload::Frame(_) | Payload::Remote(_) => bytes.max(FRAME_BYTES as u64),
            Payload::Static(_) => 0,
        };
        let batch = self.batch.as_mut().expect("no send is under way");
        batch.push_payload(piece);
        self.pin(pinned);
        self.batched_bytes += bytes;
    }

    /// Counts what the batch holds.
    #[inline]
    fn pin(&mut self, bytes: u64) {
        self.shard.shared_credit.take(bytes);
        self.credit.take(bytes);
        self.pinned += bytes;
    }

    fn unpin(&self, bytes: u64) {
        self.credit.give_back(bytes);
        self.shard.shared_credit.give_back(bytes);
    }

    /// Gives back what a batch that never left was counted with.
    pub(super) fn let_go(&mut self) {
        let pinned = std::mem::take(&mut self.pinned);
        self.unpin(pinned);
    }

    /// Sends the interim answer that a client with a body waits for.
    pub(super) async fn send_continue(&mut self) -> Result<(), Gone> {
        let batch = self.batch.as_mut().expect("no send is under way");
        batch.push_head(CONTINUE);
        self.flush().await
    }
}
