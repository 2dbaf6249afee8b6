//! Reads of objects: from this core's memory at once, else in windows.
//!
//! A range leaves in windows: what can be had first is sent while the next is gathered, so that the
//! first byte never waits for the last, and no more than two windows of a connection hold memory. The
//! windows of one answer are all of the version that its head names; where that version is gone in the
//! middle, the connection is closed, which the client sees as the cut answer that it is.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use corelane_io::Io;
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};
use corelane_rpc_schema::{READ_BYTES_MAX, STRIPE_BYTES, Stripe};
use corelane_s3::conditions::{Conditions, Verdict};
use corelane_s3::operation::ResponseOverrides;
use corelane_s3::range::RangeSpec;
use corelane_s3::response::{Extent, object_lines};
use corelane_s3::{Error, ErrorCode as S3Code};

use super::Grant;
use super::buckets::{Bucket, bucket_name};
use crate::cache::frames::FRAME_BYTES;
use crate::object::ObjectMeta;
use crate::shard::Shard;
use crate::shard::gather::ReadParts;
use crate::shard::known::Known;
use crate::shard::message::{Answer, GetQuestion, Got, Question};
use crate::shard::object_read::read_of;
use crate::under_store::UnderStore;

/// Most bytes that leave in one send, and that a connection gathers at a time.
pub const WINDOW_BYTES_MAX: u64 = 1 << 20;

const _: () = assert!(WINDOW_BYTES_MAX <= READ_BYTES_MAX as u64);

/// The first part of an object, which is its only one here: all of it, and of an empty object nothing,
/// where a range would lie behind the end. A range that is written so means the same.
pub const FIRST_PART: RangeSpec = RangeSpec::FromTo(0, u64::MAX);

/// A read of an object, independent of the request's bytes.
pub struct Get {
    /// Where.
    pub bucket: Rc<Bucket>,
    /// By which right.
    pub(super) grant: Grant,
    /// What.
    pub path_key: Box<str>,
    /// Home half of the path key's hash.
    pub home: u64,
    /// HEAD.
    pub is_head: bool,
    /// Of the object, if not all of it.
    pub range: Option<RangeSpec>,
    /// When to answer with bytes.
    pub conditions: OwnedConditions,
    /// Headers that the client wants instead of the object's.
    pub overrides: Option<Box<ResponseOverrides>>,
    /// The object, where it was found already.
    pub known: Option<Rc<Known>>,
}

/// [`Conditions`] that outlive the request's bytes.
#[derive(Default)]
pub struct OwnedConditions(Option<Box<[Option<String>; 5]>>);

impl OwnedConditions {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// A copy.
    pub fn of(conditions: &Conditions<'_>) -> Self {
        let parts = [
            conditions.if_match,
            conditions.if_none_match,
            conditions.if_modified_since,
            conditions.if_unmodified_since,
            conditions.if_range,
        ];
        let is_any = parts.iter().any(Option::is_some);
        OwnedConditions(is_any.then(|| Box::new(parts.map(|part| part.map(str::to_owned)))))
    }

    fn borrowed(&self) -> Conditions<'_> {
        let Some(parts) = &self.0 else {
            return Conditions::default();
        };
        let [
            if_match,
            if_none_match,
            if_modified_since,
            if_unmodified_since,
            if_range,
        ] = parts.each_ref().map(Option::as_deref);
        Conditions {
            if_match,
            if_none_match,
            if_modified_since,
            if_unmodified_since,
            if_range,
        }
    }
}

/// The ETag of an object: the under-store's, or its version in quotes where that has none.
pub fn etag_of(meta: &ObjectMeta) -> Cow<'_, str> {
    etag_of_version(&meta.version)
}

/// The ETag of a version: the under-store's, or the version in quotes.
pub fn etag_of_version(version: &str) -> Cow<'_, str> {
    if version.starts_with('"') || version.starts_with("W/\"") {
        Cow::Borrowed(version)
    } else {
        Cow::Owned(format!("\"{version}\""))
    }
}

/// The lines that every answer about the object has.
pub fn lines_of(known: &Known) -> &[u8] {
    known.answer_lines.get_or_init(|| {
        let meta = &known.meta;
        object_lines(
            &etag_of(meta),
            meta.last_modified_ms,
            &meta.content_type,
            meta.headers(),
        )
        .into_boxed_slice()
    })
}

/// The same with what the client wants instead.
pub fn lines_with(meta: &ObjectMeta, overrides: &ResponseOverrides) -> Vec<u8> {
    let wanted = [
        ("content-type", &overrides.content_type),
        ("content-language", &overrides.content_language),
        ("expires", &overrides.expires),
        ("cache-control", &overrides.cache_control),
        ("content-disposition", &overrides.content_disposition),
        ("content-encoding", &overrides.content_encoding),
    ];
    let wanted: Vec<(&str, &str)> = wanted
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
        .collect();
    let content_type = wanted
        .iter()
        .find(|(name, _)| *name == "content-type")
        .map_or(meta.content_type.as_str(), |(_, value)| value);
    let kept = meta
        .headers()
        .filter(|(name, _)| wanted.iter().all(|(other, _)| other != name));
    let added = wanted
        .iter()
        .filter(|(name, _)| *name != "content-type")
        .map(|(name, value)| (*name, *value));
    object_lines(
        &etag_of(meta),
        meta.last_modified_ms,
        content_type,
        kept.chain(added),
    )
}

/// What a read is answered with once the object is known.
pub enum Outcome {
    /// These bytes of it.
    Bytes(Extent),
    /// 304.
    NotModified,
    /// 412 or 416.
    Refused(Error),
}

/// What a read of `range` of `meta` under `conditions` is answered with.
pub fn outcome_of(
    meta: &ObjectMeta,
    range: Option<RangeSpec>,
    conditions: &Conditions<'_>,
) -> Outcome {
    if conditions.is_empty() {
        return outcome(meta, range, Verdict::Proceed);
    }
    let (etag, modified) = (etag_of(meta), meta.last_modified_ms);
    let range = range.filter(|_| conditions.range_holds(&etag, modified));
    outcome(meta, range, conditions.evaluate(&etag, modified))
}

fn outcome(meta: &ObjectMeta, range: Option<RangeSpec>, verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Proceed => {}
        Verdict::NotModified => return Outcome::NotModified,
        Verdict::Failed => {
            let sentence = "At least one of the pre-conditions you specified did not hold";
            return Outcome::Refused(Error::new(S3Code::PreconditionFailed, sentence));
        }
    }
    let total = meta.length;
    let Some(range) = range.filter(|range| total > 0 || *range != FIRST_PART) else {
        return Outcome::Bytes(Extent {
            start: 0,
            end: total,
            total,
            is_range: false,
        });
    };
    match range.resolve(total) {
        Ok(range) => Outcome::Bytes(Extent {
            start: range.start,
            end: range.end,
            total,
            is_range: true,
        }),
        Err(_) => Outcome::Refused(Error::new(
            S3Code::InvalidRange,
            format!("The requested range is not satisfiable; the object has {total} bytes"),
        )),
    }
}

/// The error of a client's request that a shard's stands for.
pub fn error_of(failure: &ErrorMessage) -> Error {
    let code = match failure.code {
        ErrorCode::NotFound => S3Code::NoSuchKey,
        ErrorCode::NoMount => S3Code::NoSuchBucket,
        ErrorCode::Denied | ErrorCode::Unauthenticated => S3Code::AccessDenied,
        ErrorCode::Busy => S3Code::SlowDown,
        ErrorCode::Invalid => S3Code::InvalidArgument,
        ErrorCode::VersionChanged
        | ErrorCode::UnderStore
        | ErrorCode::Draining
        | ErrorCode::ObjectUnknown => S3Code::ServiceUnavailable,
        ErrorCode::Internal => S3Code::InternalError,
    };
    let message = if code == S3Code::NoSuchKey {
        "The specified key does not exist."
    } else {
        failure.message.as_str()
    };
    let retry_after_s = matches!(code, S3Code::SlowDown | S3Code::ServiceUnavailable).then_some(1);
    Error {
        retry_after_s,
        ..Error::new(code, message)
    }
}

impl Get {
    /// What the object is answered with.
    pub fn outcome(&self, meta: &ObjectMeta) -> Outcome {
        outcome_of(meta, self.range, &self.conditions.borrowed())
    }

    /// The bucket's name, for an error's text.
    pub fn bucket_name(&self) -> &str {
        bucket_name(&self.bucket.mount).unwrap_or_default()
    }

    /// The key, for an error's text.
    pub fn key(&self) -> &str {
        self.bucket.key_of(&self.path_key)
    }
}

/// The status of an answer with these bytes.
pub fn status_of(extent: Extent) -> u16 {
    if extent.is_range { 206 } else { 200 }
}

/// An object that was found, and the first bytes that came with it.
pub struct Found {
    /// The object.
    pub known: Rc<Known>,
    /// Bytes from where the range starts.
    pub first: Option<Result<ReadParts, ErrorMessage>>,
}

/// The length of the window that starts at `offset`, of at most `window` bytes before `end`: it does not
/// cross a stripe.
fn window_length(offset: u64, end: u64, window: u64) -> u32 {
    let stripe_end = (offset / STRIPE_BYTES + 1) * STRIPE_BYTES;
    (end.min(stripe_end) - offset).min(window) as u32
}

/// How long windows are: short at first, so that the first byte of what has to be fetched comes soon.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    next: u64,
}

impl Windows {
    /// From the beginning.
    pub fn new() -> Self {
        Windows {
            next: FRAME_BYTES as u64,
        }
    }

    /// Begins anew with a short one.
    pub fn shorten(&mut self) {
        *self = Windows::new();
    }

    /// The length of the next window, which starts at `offset`. The first ends with its frame.
    pub fn next(&mut self, offset: u64, end: u64) -> u32 {
        let whole = window_length(offset, end, self.next);
        let length = if self.next == FRAME_BYTES as u64 {
            let in_frame = FRAME_BYTES as u64 - offset % FRAME_BYTES as u64;
            whole.min(in_frame as u32)
        } else {
            whole
        };
        self.next = (self.next * 4).min(WINDOW_BYTES_MAX);
        length
    }
}

impl Default for Windows {
    fn default() -> Self {
        Windows::new()
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// The object that `get` names, found by its home shard, perhaps with the first bytes of the range.
    pub(crate) async fn find_for_get(self: &Rc<Self>, get: &Get) -> Result<Found, ErrorMessage> {
        if let Some(known) = &get.known {
            let known = Rc::clone(known);
            return Ok(Found { known, first: None });
        }
        let mount = &get.bucket.mount;
        let home = self.owner_of(get.home, Stripe(0));
        if home == self.id {
            let path = get.bucket.path_of(&get.path_key);
            let meta = self.describe(&path, &get.path_key, mount).await?;
            let known = self.know(meta, mount.id);
            return Ok(Found { known, first: None });
        }
        let question = Question::Get(GetQuestion {
            bucket_mount: mount.id,
            path: get.bucket.path_of(&get.path_key).into(),
            path_key: get.path_key.clone(),
            home: get.home,
            range: get.range,
            wants_bytes: !get.is_head,
        });
        let asked_at = self.io.now();
        match self.ask(home, question).await? {
            Answer::Got(got) => {
                let Got { meta, said, read } = got?;
                let first = read.map(|read| read.map(|read| ReadParts::of_owner(home, read)));
                let known = self.know(meta, mount.id);
                if let Some(said) = said {
                    self.learn(&known, asked_at, said);
                }
                Ok(Found { known, first })
            }
            answer => unreachable!("{answer:?} does not answer a get"),
        }
    }

    /// Bytes of one stripe, from whoever owns it.
    pub(crate) async fn window(
        self: &Rc<Self>,
        bucket: &Bucket,
        known: &Known,
        offset: u64,
        length: u32,
    ) -> Result<ReadParts, ErrorMessage> {
        let request = read_of(known, offset, length);
        let owner = self.owner_of(known.meta.id.home, Stripe::of_offset(offset));
        if owner == self.id {
            self.gather(&request, &bucket.access).await
        } else {
            self.ask_read(owner, &request, Arc::clone(&bucket.access))
                .await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(start: u64, end: u64) -> Vec<u64> {
        let (mut windows, mut offset, mut lengths) = (Windows::new(), start, Vec::new());
        while offset < end {
            let length = u64::from(windows.next(offset, end));
            assert!(length > 0 && offset + length <= end);
            assert_eq!(
                offset / STRIPE_BYTES,
                (offset + length - 1) / STRIPE_BYTES,
                "a window lies in one stripe"
            );
            lengths.push(length);
            offset += length;
        }
        lengths
    }

    #[test]
    fn windows_begin_short_and_never_cross_a_stripe() {
        let kib = |count: u64| count << 10;
        assert_eq!(windows(0, 100), [100]);
        assert_eq!(
            windows(kib(60), kib(4 * 1024)),
            [kib(4), kib(256), kib(1024), kib(1024), kib(1024), kib(704)]
        );
        let stripe = STRIPE_BYTES;
        assert_eq!(windows(stripe - 10, stripe + 10), [10, 10]);
        assert_eq!(windows(0, 3 * stripe).iter().sum::<u64>(), 3 * stripe);
    }

    #[test]
    fn etags_are_what_the_under_store_says_or_the_version_in_quotes() {
        assert_eq!(etag_of_version("\"abc-2\""), "\"abc-2\"");
        assert_eq!(etag_of_version("W/\"abc\""), "W/\"abc\"");
        assert_eq!(etag_of_version("17-1-2"), "\"17-1-2\"");
    }
}
