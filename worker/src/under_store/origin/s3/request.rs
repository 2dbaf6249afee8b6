//! One signed request and its answer.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpRequest, HttpRequestBody};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};

use super::access::S3Access;
use super::xml::DOCUMENT_BYTES_MAX;
use super::{fault, streaming};
use crate::under_store::origin::error::{Fault, OriginErrorKind as Kind};

/// What S3 leaves as it is in a query (RFC 3986, unreserved).
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The same for a path, whose slashes stay.
const IN_PATH: &AsciiSet = &IN_QUERY.remove(b'/');

/// How long an origin may take to put the parts of an upload together, or to copy an object on
/// its own: S3 speaks of minutes. It keeps the connection alive with blanks meanwhile, or is silent.
pub(super) const ASSEMBLY_PATIENCE: Duration = Duration::from_secs(300);

/// A body, as it is sent.
#[derive(Clone)]
pub(in crate::under_store::origin) enum Payload {
    /// Held in memory: hashed, and can be sent again.
    Held(Bytes),
    /// Sent once.
    Streamed(streaming::Uploading),
}

/// A request to be signed.
pub(super) struct Ask<'a> {
    pub method: Method,
    /// Key in the bucket; `None` for the bucket itself.
    pub key: Option<&'a str>,
    /// Names and values, not encoded; an empty value is sent as `name=`.
    pub query: Vec<(&'a str, String)>,
    pub headers: HeaderMap,
    /// How long the answer may take once the request is sent.
    pub patience: Duration,
}

/// An answer of success.
pub(super) struct Answer {
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header as text; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        text_of(&self.headers, name)
    }
}

/// A header as text; empty if it is not there or no text.
pub(super) fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
        .unwrap_or_default()
}

/// A key or its like, in the form that URLs and `x-amz-copy-source` have.
pub(super) fn in_path(text: &str) -> String {
    utf8_percent_encode(text, IN_PATH).to_string()
}

impl S3Access {
    /// A request for `key`, or for the bucket.
    pub(super) fn asking<'a>(&self, method: Method, key: Option<&'a str>) -> Ask<'a> {
        Ask {
            method,
            key,
            query: Vec::new(),
            headers: HeaderMap::new(),
            patience: self.timeouts.connect + self.timeouts.first_byte,
        }
    }

    /// Sends a request and reads its answer.
    pub(super) async fn send(
        &self,
        ask: Ask<'_>,
        payload: Payload,
        time_left: Duration,
    ) -> Result<Answer, Fault> {
        // What an origin assembles takes its time, and is not known to have ended before it says so.
        let patience = match ask.patience {
            ASSEMBLY_PATIENCE => ASSEMBLY_PATIENCE,
            usual => usual.min(time_left),
        };
        let is_head = ask.method == Method::HEAD;
        let (mut request, watch) = self.signed(ask, payload).await?;
        *request.timeout_mut() = None;
        let sent = Instant::now();
        let answer = self.http.execute(request);
        let answer = match &watch {
            None => match tokio::time::timeout(patience, answer).await {
                Ok(answer) => answer,
                Err(_) => return Err(no_answer(sent.elapsed())),
            },
            Some(watch) => {
                tokio::select! {
                    answer = answer => answer,
                    fault = watch.stalled(self.timeouts.stall, patience) => return Err(fault),
                }
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            // A body that broke off is the cause of what the connection says.
            Err(error) => {
                let broken = watch.as_ref().and_then(streaming::Watch::broken);
                return Err(broken.unwrap_or_else(|| fault::of_transport(&error)));
            }
        };
        let (status, headers) = (answer.status(), answer.headers().clone());
        if let Some(broken) = watch.as_ref().and_then(streaming::Watch::broken) {
            return Err(broken);
        }
        let body = if is_head {
            Bytes::new()
        } else {
            let stall = patience.max(self.timeouts.stall);
            // Bytes that trickle are no more of an answer than none.
            let body = self.body_of(answer, stall);
            match tokio::time::timeout(time_left.max(stall), body).await {
                Ok(body) => body?,
                Err(_) => return Err(no_answer(sent.elapsed())),
            }
        };
        if !status.is_success() {
            return Err(refused(status, &headers, &body));
        }
        if watch.is_some_and(|watch| !watch.is_whole()) {
            return Err(fault::malformed(
                "the store accepted an upload before its last byte was sent",
            ));
        }
        Ok(Answer { headers, body })
    }

    async fn body_of(&self, answer: reqwest::Response, stall: Duration) -> Result<Bytes, Fault> {
        let mut chunks = answer.bytes_stream();
        let mut body = BytesMut::new();
        loop {
            match tokio::time::timeout(stall, chunks.next()).await {
                Ok(None) => return Ok(body.freeze()),
                Ok(Some(Ok(chunk))) => {
                    if body.len() + chunk.len() > DOCUMENT_BYTES_MAX {
                        return Err(Fault::lasting(Kind::Malformed, "the answer is too long"));
                    }
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(Err(error))) => return Err(fault::of_transport(&error)),
                Err(_) => return Err(no_answer(stall)),
            }
        }
    }

    async fn signed(
        &self,
        ask: Ask<'_>,
        payload: Payload,
    ) -> Result<(reqwest::Request, Option<streaming::Watch>), Fault> {
        let url = self.url(&ask);
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = ask.method;
        *request.uri_mut() = url
            .parse()
            .map_err(|_| Fault::lasting(Kind::Invalid, "the key does not fit into a URL"))?;
        *request.headers_mut() = ask.headers;
        let digest = match &payload {
            Payload::Held(bytes) => Some(ring::digest::digest(&ring::digest::SHA256, bytes))
                .filter(|_| self.signs_payload),
            Payload::Streamed(_) => None,
        };
        if let Some(provider) = &self.credentials {
            // They may have to be fetched anew, from a service that does not answer either.
            let patience = self.timeouts.connect + self.timeouts.first_byte;
            let credential = tokio::time::timeout(patience, provider.get_credential())
                .await
                .map_err(|_| {
                    let cause =
                        format!("no credentials came within {:.1} s", patience.as_secs_f64());
                    Fault::passing(Kind::Unavailable, cause)
                })?
                .map_err(|error| Fault::from(crate::under_store::remote::failure_of(&error)))?;
            AwsAuthorizer::new(&credential, "s3", &self.region)
                .with_sign_payload(digest.is_some())
                .with_request_payer(self.pays)
                .try_authorize(&mut request, digest.as_ref().map(AsRef::as_ref))
                .map_err(|error| Fault::from(crate::under_store::remote::failure_of(&error)))?;
        }
        let (parts, _) = request.into_parts();
        let url = reqwest::Url::parse(&url)
            .map_err(|_| Fault::lasting(Kind::Invalid, "the key does not fit into a URL"))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        let watch = match payload {
            Payload::Held(bytes) => {
                if !bytes.is_empty() || matches!(*request.method(), Method::PUT | Method::POST) {
                    let length = HeaderValue::from(bytes.len());
                    request.headers_mut().insert(CONTENT_LENGTH, length);
                    *request.body_mut() = Some(bytes.into());
                }
                None
            }
            Payload::Streamed(uploading) => {
                let length = HeaderValue::from(uploading.length());
                request.headers_mut().insert(CONTENT_LENGTH, length);
                let (body, watch) = uploading.into_body()?;
                *request.body_mut() = Some(body);
                Some(watch)
            }
        };
        Ok((request, watch))
    }

    fn url(&self, ask: &Ask<'_>) -> String {
        let mut url = self.bucket_url.clone();
        // The bucket itself is asked for without a slash, but for a host of its own.
        match ask.key {
            Some(key) => {
                url.push('/');
                url.extend(utf8_percent_encode(key, IN_PATH));
            }
            None if url.matches('/').count() == 2 => url.push('/'),
            None => {}
        }
        for (index, (name, value)) in ask.query.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.extend(utf8_percent_encode(name, IN_QUERY));
            url.push('=');
            url.extend(utf8_percent_encode(value, IN_QUERY));
        }
        url
    }
}

/// Adds a header.
///
/// # Errors
/// When name or value cannot stand in a head.
pub(super) fn add_header(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), Fault> {
    let bad = || {
        let cause = format!("the header `{name}` cannot be sent as it is");
        Fault::lasting(Kind::Invalid, cause)
    };
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
    // The signature is over text.
    let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad())?;
    headers.insert(name, value);
    Ok(())
}

fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Fault {
    if status.is_redirection() {
        let region = text_of(headers, "x-amz-bucket-region");
        let cause = match region {
            "" => {
                let place = crate::under_store::connector::place_of_redirect(headers);
                format!(
                    "the store answered {status} and points to {place}: the endpoint or region is wrong"
                )
            }
            region => {
                format!("the bucket is in the region {region}: set the mount's option `region`")
            }
        };
        return Fault::lasting(Kind::Invalid, cause);
    }
    fault::of_answer(status, headers, body)
}

fn no_answer(waited: Duration) -> Fault {
    let cause = format!("no answer within {:.1} s", waited.as_secs_f64());
    Fault::passing(Kind::Unavailable, cause)
}
