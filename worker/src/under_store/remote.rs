//! Stores behind HTTP: S3 and its compatibles, Google Cloud Storage, Azure, plain web servers.
//!
//! Each request is one try of the `object_store` crate, whose own retries are off: they would not
//! know our limits on tries, time and bytes, nor which bytes are posted already.
//!
//! A strong ETag is the version, and every read carries it as `If-Match` and is compared with the
//! ETag and the length of the answer. Where a store has only a weak ETag or none, its modification time
//! belongs to the identity of the object as well: what the store sends is compared by all of these, asked
//! once more after the last byte, and posted only then. An object that has neither a strong ETag nor a
//! modification time is refused, unless its mount is `immutable`: nothing would tell its versions apart.
//!
//! Redirects are not followed: see [`connector`](super::connector).

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::list::PaginatedListStore;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    Attribute, BackoffConfig, ClientOptions, GetOptions, GetRange, GetResult, ObjectStore,
    RetryConfig,
};

use super::UnderStoreErrorKind::{
    Denied, Invalid, Malformed, NotFound, Unavailable, VersionChanged,
};
use super::connector::{DocumentTooLong, Refusal, RefusalKeeper};
use super::fill::Fill;
use super::location::{Location, StoreKind};
use super::mount_options::MountOptions;
use super::origin::{Fault, Head, S3Access, S3Options, headers_of, is_described};
use super::retry::{Failure, Tries};
use super::runtime::{FetchOptions, Timeouts};
use super::stores::{Description, Limiter};
use crate::mount::{Freshness, Mount};
use crate::object::{ObjectMeta, is_strong_etag};

/// A store behind HTTP.
pub(crate) struct RemoteStore {
    client: Arc<dyn ObjectStore>,
    /// The client's listing in pages, if the store has that.
    pub pages: Option<Arc<dyn PaginatedListStore>>,
    /// The client's uploads in parts, if the store has that.
    pub multipart: Option<Arc<dyn MultipartStore>>,
    /// S3: our own way to the bucket, or why there is none.
    pub s3: Option<Result<Box<S3Access>, String>>,
    pub location: Location,
    timeouts: Timeouts,
    /// Whether an object without ETag and modification time may be believed never to change.
    is_immutable: bool,
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client's text could show keys.
        formatter
            .debug_struct("RemoteStore")
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

impl RemoteStore {
    /// A client for `location`, by the mount's options; what they do not say comes from the
    /// environment variables of the store's own tools.
    ///
    /// # Errors
    /// What is wrong with the options.
    pub fn new(
        location: &Location,
        mount: &Mount,
        own: &MountOptions,
        options: &FetchOptions,
    ) -> Result<Self, String> {
        let client = ClientOptions::new()
            .with_connect_timeout(options.timeouts.connect)
            // The time of a whole answer is bounded by the job's total and the stall timeout.
            .with_timeout_disabled();
        let once = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: 0,
            retry_timeout: Duration::ZERO,
        };
        let container = &location.container;
        let refused = |error: object_store::Error| {
            let names: Vec<&str> = own.client.keys().map(String::as_str).collect();
            // The client quotes what it could not read, which may be a secret in the wrong place.
            let values = own.client.values().filter(|value| !value.is_empty());
            let cause = values.fold(text_of(&error), |text, value| text.replace(value, "…"));
            format!(
                "the options ({}) do not make a client: {cause}",
                names.join(", ")
            )
        };
        // The builders have these methods in common, but no trait that names them.
        macro_rules! build {
            ($builder:expr) => {
                configured!($builder)
                    .with_retry(once)
                    .with_http_connector(RefusalKeeper)
                    .build()
                    .map_err(refused)?
            };
        }
        macro_rules! configured {
            ($builder:expr) => {
                configure($builder, own, |builder, key, value| {
                    builder.with_config(key, value)
                })?
            };
        }
        let mut s3 = None;
        let (client, pages, multipart) = match location.kind {
            StoreKind::S3 => {
                let builder = configured!(
                    AmazonS3Builder::from_env()
                        .with_client_options(client)
                        .with_bucket_name(container)
                );
                let own = S3Options::of(&builder, container);
                let client = builder
                    .with_retry(once)
                    .with_http_connector(RefusalKeeper)
                    .build()
                    .map_err(refused)?;
                s3 = Some(own.access(&client, options.timeouts).map(Box::new));
                in_all_roles(client)
            }
            StoreKind::Gcs => in_all_roles(build!(
                GoogleCloudStorageBuilder::from_env()
                    .with_client_options(client)
                    .with_bucket_name(container)
            )),
            StoreKind::Azure => in_all_roles(build!(
                MicrosoftAzureBuilder::from_env()
                    .with_client_options(client)
                    .with_container_name(container)
            )),
            StoreKind::Http => {
                let scheme = mount
                    .uri
                    .split_once("://")
                    .map_or("https", |(scheme, _)| scheme);
                let store = build!(
                    HttpBuilder::new()
                        .with_url(format!("{scheme}://{container}"))
                        .with_client_options(client.with_allow_http(scheme == "http"))
                );
                (Arc::new(store) as Arc<dyn ObjectStore>, None, None)
            }
            StoreKind::File => unreachable!("files have a store of their own"),
        };
        Ok(RemoteStore {
            client,
            pages,
            multipart,
            s3,
            location: location.clone(),
            timeouts: options.timeouts,
            is_immutable: mount.freshness == Freshness::Immutable,
        })
    }

    /// The client.
    pub fn client(&self) -> &dyn ObjectStore {
        &*self.client
    }

    /// What the object at `key` is now.
    pub async fn describe(&self, key: &str, time_left: Duration) -> Result<Description, Failure> {
        if let Some(Ok(s3)) = &self.s3 {
            // The crate drops `Expires` and what it has no name for.
            let head = s3.head(&self.location.full_key(key), time_left).await;
            return self.description_of(head.map_err(Fault::into_failure)?);
        }
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let answer = self.ask(key, options, time_left).await?;
        let version = self.version(&answer.meta)?;
        let content_type = answer.attributes.get(&Attribute::ContentType);
        Ok(Description {
            version,
            length: answer.meta.size,
            last_modified_ms: modified_ms_of(&answer.meta),
            content_type: content_type
                .map(|value| value.as_ref().to_owned())
                .unwrap_or_default(),
            headers: headers_of(&answer.attributes)
                .into_iter()
                .filter(|(name, _)| is_described(name))
                .collect(),
        })
    }

    fn description_of(&self, head: Head) -> Result<Description, Failure> {
        let modified_ns = i128::from(head.last_modified_ms) * 1_000_000;
        let version = self.version_of(&head.etag, head.length, modified_ns)?;
        let (content_type, headers): (Vec<_>, Vec<_>) = head
            .headers
            .into_iter()
            .partition(|(name, _)| name == "content-type");
        Ok(Description {
            version,
            length: head.length,
            last_modified_ms: head.last_modified_ms,
            content_type: content_type
                .into_iter()
                .next()
                .map(|(_, value)| value)
                .unwrap_or_default(),
            headers: headers
                .into_iter()
                .filter(|(name, _)| is_described(name))
                .collect(),
        })
    }

    /// How long the start of an answer may take.
    pub fn answer_patience(&self) -> Duration {
        self.timeouts.connect + self.timeouts.first_byte
    }

    /// Asks for the missing bytes of `fill`, which have to be of the version of `object`.
    pub async fn fetch(
        &self,
        key: &str,
        object: &ObjectMeta,
        mut fill: Fill,
        limiter: &Limiter<'_>,
        tries: &mut Tries,
    ) -> (Fill, Result<(), Failure>) {
        let result = self
            .fetch_into(key, object, &mut fill, limiter, tries)
            .await;
        (fill, result)
    }

    async fn fetch_into(
        &self,
        key: &str,
        object: &ObjectMeta,
        fill: &mut Fill,
        limiter: &Limiter<'_>,
        tries: &mut Tries,
    ) -> Result<(), Failure> {
        let is_vouched = is_strong_etag(&object.version);
        if !is_vouched {
            fill.hold();
        }
        let missing = fill.missing();
        let _pass = limiter.enter(tries).await;
        let options = GetOptions {
            if_match: is_vouched.then(|| object.version.clone()),
            range: Some(GetRange::Bounded(missing.clone())),
            ..GetOptions::default()
        };
        let answer = match self.ask(key, options, tries.time_left()).await {
            // The range lies within the length that the object was described with.
            Err(failure) if failure.is_range_refused => {
                return Err(Failure::changed("another length"));
            }
            answer => answer?,
        };
        self.check_answer(&answer, object)?;
        if answer.range != missing {
            let cause = format!(
                "asked for the bytes {missing:?}, the store sent {:?}",
                answer.range
            );
            return Err(Failure::passing(Malformed, cause));
        }
        let mut chunks = answer.into_stream();
        while let Some(chunk) = self.next_chunk(&mut chunks, fill, tries).await? {
            tries.excuse(limiter.take_bytes(chunk.len() as u64).await);
            limiter.count_bytes(chunk.len() as u64);
            let arrived = Instant::now();
            fill.push(&chunk).await?;
            // The shard's inbox may have been full; that is not the store's fault either.
            tries.excuse(arrived.elapsed());
        }
        let rest = fill.missing();
        if !rest.is_empty() {
            let cause = format!(
                "the answer ended {} bytes before its end",
                rest.end - rest.start
            );
            return Err(Failure::passing(Malformed, cause));
        }
        if !is_vouched {
            let options = GetOptions {
                head: true,
                ..GetOptions::default()
            };
            let answer = self.ask(key, options, tries.time_left()).await?;
            self.check_answer(&answer, object)?;
        }
        fill.confirm().await;
        Ok(())
    }

    /// The next bytes of an answer, or `None` at its end.
    async fn next_chunk<C>(
        &self,
        chunks: &mut (impl futures::Stream<Item = object_store::Result<C>> + Unpin),
        fill: &Fill,
        tries: &Tries,
    ) -> Result<Option<C>, Failure> {
        let patience = self.timeouts.stall.min(tries.time_left());
        match tokio::time::timeout(patience, chunks.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
            Ok(Some(Err(error))) => {
                let rest = fill.missing();
                let failure = failure_of_body(&error);
                let cause = format!(
                    "the answer broke off {} bytes before its end: {}",
                    rest.end - rest.start,
                    failure.cause
                );
                Err(Failure { cause, ..failure })
            }
            Err(_) => Err(Failure::passing(
                Unavailable,
                format!(
                    "no byte came for {:.1} s in the middle of an answer",
                    patience.as_secs_f64()
                ),
            )),
        }
    }

    async fn ask(
        &self,
        key: &str,
        options: GetOptions,
        time_left: Duration,
    ) -> Result<GetResult, Failure> {
        let path = Path::parse(self.location.full_key(key))
            .map_err(|error| Failure::lasting(Invalid, error.to_string()))?;
        self.answered(self.client.get_opts(&path, options), time_left)
            .await
    }

    /// Waits for the start of an answer, for as long as the first byte may take.
    pub async fn answered<T>(
        &self,
        answer: impl Future<Output = object_store::Result<T>>,
        time_left: Duration,
    ) -> Result<T, Failure> {
        let patience = (self.timeouts.connect + self.timeouts.first_byte).min(time_left);
        match tokio::time::timeout(patience, answer).await {
            Ok(result) => result.map_err(|error| failure_of(&error)),
            Err(_) => {
                let cause = format!("no answer within {:.1} s", patience.as_secs_f64());
                Err(Failure::passing(Unavailable, cause))
            }
        }
    }

    /// Whether an answer is of exactly the object that was described: its version, its length and, where the
    /// version is a weak ETag, its time.
    fn check_answer(&self, answer: &GetResult, object: &ObjectMeta) -> Result<(), Failure> {
        let found = self.version(&answer.meta)?;
        if found != object.version {
            return Err(Failure::changed(&found));
        }
        let (size, modified_ms) = (answer.meta.size, modified_ms_of(&answer.meta));
        let is_of_time = is_strong_etag(&found) || modified_ms == object.last_modified_ms;
        if size == object.length && is_of_time {
            return Ok(());
        }
        Err(Failure::changed(&format!(
            "{found}, with {size} bytes and changed at {modified_ms} ms, where it had {} bytes and {} ms",
            object.length, object.last_modified_ms
        )))
    }

    /// The version of what `meta` describes.
    pub fn version(&self, meta: &object_store::ObjectMeta) -> Result<String, Failure> {
        let tag = meta.e_tag.as_deref().unwrap_or_default();
        self.version_of(tag, meta.size, modified_ns_of(meta))
    }

    /// The version of what has this ETag (empty: none), size and modification time (0: none).
    fn version_of(&self, etag: &str, size: u64, modified_ns: i128) -> Result<String, Failure> {
        if is_strong_etag(etag) {
            return Ok(etag.to_owned());
        }
        if modified_ns == 0 && !self.is_immutable {
            let etag = if etag.is_empty() { "an" } else { "a strong" };
            let cause = format!(
                "the store gives it neither {etag} ETag nor a modification time, so a change would go unseen; \
                 if its objects never change, mount it with freshness immutable"
            );
            return Err(Failure::lasting(Invalid, cause));
        }
        if etag.is_empty() {
            // No inode outside of files; the zero keeps one form.
            return Ok(format!("{size}-{modified_ns}-0"));
        }
        Ok(etag.to_owned())
    }
}

/// Nanoseconds since the Unix epoch; 0 where unknown. Any date fits.
fn modified_ns_of(meta: &object_store::ObjectMeta) -> i128 {
    let modified = meta.last_modified;
    i128::from(modified.timestamp()) * 1_000_000_000 + i128::from(modified.timestamp_subsec_nanos())
}

/// Milliseconds since the Unix epoch; 0 where unknown, or before it.
pub(crate) fn modified_ms_of(meta: &object_store::ObjectMeta) -> u64 {
    u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0)
}

/// The interfaces of one client: of objects, of listings in pages, of uploads in parts.
type Roles = (
    Arc<dyn ObjectStore>,
    Option<Arc<dyn PaginatedListStore>>,
    Option<Arc<dyn MultipartStore>>,
);

/// A client in all its roles.
fn in_all_roles<S: ObjectStore + PaginatedListStore + MultipartStore>(store: S) -> Roles {
    let store = Arc::new(store);
    (
        Arc::clone(&store) as _,
        Some(Arc::clone(&store) as _),
        Some(store),
    )
}

/// Applies the client's options, which have the names that the store's own tools use.
fn configure<B, K: std::str::FromStr>(
    builder: B,
    own: &MountOptions,
    set: impl Fn(B, K, &str) -> B,
) -> Result<B, String> {
    let mut builder = builder;
    for (name, value) in &own.client {
        let key = name.to_ascii_lowercase().parse().map_err(|_| {
            format!("option `{name}` is not known for this store; options are named as in the `object_store` crate, such as endpoint, region, access_key_id")
        })?;
        builder = set(builder, key, value);
    }
    Ok(builder)
}

/// What an error of the crate means for the object.
pub(crate) fn failure_of(error: &object_store::Error) -> Failure {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => Failure::lasting(NotFound, "there is no such object"),
        E::Precondition { .. } => Failure::lasting(
            VersionChanged,
            "the object is not of the expected version any more",
        ),
        E::PermissionDenied { .. } => Failure::lasting(Denied, "the store refused access"),
        E::Unauthenticated { .. } => {
            Failure::lasting(Denied, "the store did not accept the credentials")
        }
        E::InvalidPath { .. }
        | E::NotSupported { .. }
        | E::NotImplemented { .. }
        | E::UnknownConfigurationKey { .. } => Failure::lasting(Invalid, text_of(error)),
        _ => failure_of_chain(error),
    }
}

fn failure_of_chain(error: &object_store::Error) -> Failure {
    if let Some(refusal) = find::<Refusal>(error) {
        // 408, 425 and 429 ask to come again; other 4xx say that the request is wrong.
        let is_passing = refusal.status >= 500 || matches!(refusal.status, 408 | 425 | 429);
        let kind = match refusal.status {
            416 => Malformed,
            _ if is_passing => Unavailable,
            _ => Invalid,
        };
        return Failure {
            retry_after: refusal.retry_after,
            is_range_refused: refusal.status == 416,
            is_worth_retrying: is_passing || kind == Malformed,
            ..Failure::lasting(kind, refusal.to_string())
        };
    }
    if let Some(too_long) = find::<DocumentTooLong>(error) {
        return Failure::lasting(Malformed, too_long.to_string());
    }
    match find::<HttpError>(error).map(HttpError::kind) {
        Some(HttpErrorKind::Decode) => Failure::passing(Malformed, text_of(error)),
        Some(_) => Failure::passing(Unavailable, text_of(error)),
        // Headers or a body that the crate could not make sense of.
        None => Failure::passing(Malformed, text_of(error)),
    }
}

/// As [`failure_of`], for an error in the middle of a body: an answer that ends early without an
/// error of the connection is a wrong answer, not an unreachable store.
fn failure_of_body(error: &object_store::Error) -> Failure {
    let failure = failure_of(error);
    let broken = find::<std::io::Error>(error).map(std::io::Error::kind);
    let is_reset = matches!(
        broken,
        Some(
            std::io::ErrorKind::ConnectionReset
                | std::io::ErrorKind::ConnectionAborted
                | std::io::ErrorKind::BrokenPipe
                | std::io::ErrorKind::TimedOut
        )
    );
    let kind = if is_reset { Unavailable } else { Malformed };
    Failure { kind, ..failure }
}

/// The error and its sources, outermost first.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        (*error).source()
    })
}

/// The first error of type `T` in the chain of sources.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// The innermost cause says most and holds no URL, which could carry a signature.
fn text_of(error: &object_store::Error) -> String {
    let innermost = chain(error).last();
    innermost.map_or_else(String::new, ToString::to_string)
}
