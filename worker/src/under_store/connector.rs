//! What stands between the HTTP client and the `object_store` crate, which drops what a refusal says: the
//! status code and `Retry-After`. This layer turns refusals into an error that keeps both.
//!
//! Redirects are refusals too: the [client](super::http_client) follows those within the store's origin, and
//! others go nowhere. So are answers to a range with numbers that cannot be right: the crate calculates with
//! them unchecked.
//!
//! The crate reads every answer whole but those to a range. The invariant: no such answer costs more memory
//! than its bound. Of the text of an error the beginning is passed; a longer document is an error.
//!
//! Otherwise it must not touch what the crate understands by itself: success, and the statuses that it maps to
//! errors of their own.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use futures::TryStreamExt;
use http_body_util::{BodyExt, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use reqwest::header::HeaderMap;

use super::http_client::client_of;

/// Statuses that the crate maps: unauthorized, forbidden, not found, conflict, precondition failed.
const MAPPED_STATUSES: [u16; 5] = [401, 403, 404, 409, 412];

/// Bytes of the text of an error that are passed on: errors of the known stores have some KiB.
const ERROR_TEXT_BYTES_MAX: usize = 64 << 10;

/// Largest answer that is read whole, as of S3. The largest are listings: a page of 1,000 or 5,000 keys is some MiB
/// of XML, and of a web server's folder, which comes as one, 20,000 entries of 800 bytes fit.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// Longest `Retry-After` that is passed on; a longer one ends the job in any case.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// An answer that is a refusal.
#[derive(Debug, thiserror::Error)]
#[error("the store answered {status}{}{}", wish(*.retry_after), elsewhere(.points_to.as_deref()))]
pub(crate) struct Refusal {
    pub status: u16,
    pub retry_after: Option<Duration>,
    /// The origin that a redirect points to.
    pub points_to: Option<String>,
}

impl Refusal {
    fn of(status: u16) -> Self {
        Refusal {
            status,
            retry_after: None,
            points_to: None,
        }
    }
}

/// The header of an answer to a range cannot be right.
#[derive(Debug, thiserror::Error)]
#[error("the answer has a `Content-Range` that cannot be right")]
pub(crate) struct WrongRange;

/// An answer that is read whole is longer than [`DOCUMENT_BYTES_MAX`].
#[derive(Debug, thiserror::Error)]
#[error(
    "the answer has more than {} MiB; list a longer prefix, if it is a listing",
    DOCUMENT_BYTES_MAX >> 20
)]
pub(crate) struct DocumentTooLong;

fn elsewhere(points_to: Option<&str>) -> String {
    points_to.map_or_else(String::new, |place| {
        format!(
            " and points to {place}, which is not followed: correct the mount's URI or endpoint if that is where \
             the objects are"
        )
    })
}

fn wish(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |pause| {
        format!(" and wants a pause of {} s", pause.as_secs())
    })
}

/// Makes clients that keep refusals.
#[derive(Debug, Default)]
pub(crate) struct RefusalKeeper;

impl HttpConnector for RefusalKeeper {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = client_of(options).map_err(|error| object_store::Error::Generic {
            store: "HTTP client",
            source: Box::new(error),
        })?;
        Ok(HttpClient::new(Service(HttpClient::new(client))))
    }
}

#[derive(Debug)]
struct Service(HttpClient);

impl HttpService for Service {
    // The form that `async_trait` gives to an `async fn`.
    fn call<'service, 'future>(
        &'service self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'future>>
    where
        'service: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            let asked = request.headers().get("range").and_then(range_of_request);
            let response = self.0.execute(request).await?;
            let status = response.status().as_u16();
            if status == PARTIAL_CONTENT {
                check_range(response.headers(), asked)?;
                return Ok(response);
            }
            if status < 300 || status == NOT_MODIFIED {
                return Ok(response.map(bounded_document));
            }
            if MAPPED_STATUSES.contains(&status) {
                let (parts, body) = response.into_parts();
                let text = beginning_of_text(body).await?;
                return Ok(HttpResponse::from_parts(parts, text.into()));
            }
            if status < 400 {
                return Err(refused(Refusal {
                    points_to: Some(place_of_redirect(response.headers())),
                    ..Refusal::of(status)
                }));
            }
            let retry_after = response
                .headers()
                .get("retry-after")
                .and_then(|value| value.to_str().ok())
                .and_then(|text| parse_retry_after(text, SystemTime::now()));
            Err(refused(Refusal {
                retry_after,
                ..Refusal::of(status)
            }))
        })
    }
}

/// `body`, which fails where it exceeds [`DOCUMENT_BYTES_MAX`].
fn bounded_document(body: HttpResponseBody) -> HttpResponseBody {
    let bounded = Limited::new(body, DOCUMENT_BYTES_MAX);
    HttpResponseBody::new(
        bounded.map_err(|error| match error.downcast::<HttpError>() {
            Ok(error) => *error,
            Err(_) => HttpError::new(HttpErrorKind::Decode, DocumentTooLong),
        }),
    )
}

/// The first [`ERROR_TEXT_BYTES_MAX`] of `body`. Bytes that are no text are replaced, so that the crate, which
/// reads a text, gets as far as the status.
async fn beginning_of_text(body: HttpResponseBody) -> Result<String, HttpError> {
    let mut chunks = body.bytes_stream();
    let mut text = BytesMut::new();
    while text.len() < ERROR_TEXT_BYTES_MAX
        && let Some(chunk) = chunks.try_next().await?
    {
        let rest = ERROR_TEXT_BYTES_MAX - text.len();
        text.extend_from_slice(&chunk[..chunk.len().min(rest)]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

const PARTIAL_CONTENT: u16 = 206;
const NOT_MODIFIED: u16 = 304;
const RANGE_NOT_SATISFIABLE: u16 = 416;

fn refused(refusal: Refusal) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, refusal)
}

/// Where a redirect points to: scheme, host and port alone, since the rest may carry a signature.
pub(crate) fn place_of_redirect(headers: &HeaderMap) -> String {
    let location = headers
        .get("location")
        .and_then(|value| value.to_str().ok());
    let url = location.and_then(|text| text.parse::<reqwest::Url>().ok());
    match (url, location) {
        (Some(url), _) => url.origin().ascii_serialization(),
        (None, Some(_)) => "another path".to_owned(),
        (None, None) => "nowhere".to_owned(),
    }
}

/// First and last byte of `bytes=first-last`.
fn range_of_request(value: &reqwest::header::HeaderValue) -> Option<(u64, u64)> {
    let (first, last) = value
        .to_str()
        .ok()?
        .strip_prefix("bytes=")?
        .split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Checks the `Content-Range` of an answer to a request for the bytes `asked`. One that the crate cannot read
/// is left to it.
fn check_range(headers: &HeaderMap, asked: Option<(u64, u64)>) -> Result<(), HttpError> {
    let Some((first, last, total)) = headers.get("content-range").and_then(content_range) else {
        return Ok(());
    };
    // Nobody asks for bytes behind the end that an object was described with: it is shorter now.
    if asked.is_some_and(|(_, asked_last)| total <= asked_last) {
        return Err(refused(Refusal::of(RANGE_NOT_SATISFIABLE)));
    }
    if first > last || last >= total {
        return Err(HttpError::new(HttpErrorKind::Decode, WrongRange));
    }
    Ok(())
}

/// First and last byte and total length of `bytes first-last/total`.
fn content_range(value: &reqwest::header::HeaderValue) -> Option<(u64, u64, u64)> {
    let text = value.to_str().ok()?.trim().strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, total.parse().ok()?))
}

/// The pause that a `Retry-After` header asks for: seconds, or a date (RFC 9110, 10.2.3 and 5.6.7).
pub(crate) fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let pause = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = SystemTime::UNIX_EPOCH + Duration::from_secs(parse_date(text)?);
            date.duration_since(now).unwrap_or_default()
        }
    };
    Some(pause.min(RETRY_AFTER_MAX))
}

/// Seconds since the Unix epoch of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn parse_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: u64 = words
        .next()?
        .parse()
        .ok()
        .filter(|day| (1..=31).contains(day))?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64;
    let year: u64 = words
        .next()?
        .parse()
        .ok()
        .filter(|year| (1970..=9999).contains(year))?;
    let mut clock = words.next()?.split(':').map(str::parse::<u64>);
    let mut seconds_of_day = 0;
    for limit in [24, 60, 61] {
        let value = clock.next()?.ok().filter(|value| *value < limit)?;
        seconds_of_day = seconds_of_day * 60 + value;
    }
    // Years counted from March, so that the leap day is a year's last day.
    let (year, month) = if month < 2 {
        (year - 1, month + 10)
    } else {
        (year, month - 2)
    };
    let days_before_year = year * 365 + year / 4 - year / 100 + year / 400;
    let days_before_month = (153 * month + 2) / 5;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    let days = (days_before_year + days_before_month + day - 1).checked_sub(719_468)?;
    Some(days * 86_400 + seconds_of_day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_answers_are_checked_before_anybody_calculates_with_them() {
        let check = |value: &str, asked| {
            let mut headers = HeaderMap::new();
            headers.insert("content-range", value.parse().expect("a header"));
            check_range(&headers, asked)
        };
        let asked = Some((10, 19));
        assert!(check("bytes 10-19/20", asked).is_ok());
        assert!(check("bytes 10-19/18446744073709551615", asked).is_ok());
        for wrong in [
            "bytes 0-18446744073709551615/18446744073709551615",
            "bytes 18446744073709551615-18446744073709551615/18446744073709551615",
            "bytes 10-19/19",
            "bytes 19-10/40",
            "bytes 10-40/40",
        ] {
            assert!(check(wrong, asked).is_err(), "{wrong}");
            assert!(
                check(wrong, None).is_err() || wrong == "bytes 10-19/19",
                "{wrong}"
            );
        }
        // The object is shorter than it was: as if the range had been refused.
        let error = check("bytes 10-14/15", asked).expect_err("too short");
        let refusal = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
        assert_eq!(refusal.map(|refusal: &Refusal| refusal.status), Some(416));
        // Those that the crate cannot read either.
        assert!(check("bytes */20", asked).is_ok());
        assert!(check("bytes 10-99999999999999999999999/20", asked).is_ok());
    }

    #[test]
    fn a_redirect_is_named_by_its_origin_alone() {
        let place = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("location", location.parse().expect("a header"));
            place_of_redirect(&headers)
        };
        assert_eq!(
            place("http://127.0.0.1:81/a?signature=secret"),
            "http://127.0.0.1:81"
        );
        assert_eq!(place("https://user:word@host/x"), "https://host");
        assert_eq!(place("/elsewhere"), "another path");
        assert_eq!(place_of_redirect(&HeaderMap::new()), "nowhere");
    }

    #[test]
    fn dates_are_seconds_since_the_epoch() {
        assert_eq!(
            parse_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777)
        );
        assert_eq!(parse_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(
            parse_date("Thu, 29 Feb 2024 12:00:00 GMT"),
            Some(1_709_208_000)
        );
        for bad in [
            "",
            "soon",
            "Sun, 06 Now 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:00:00 GMT",
        ] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_pause_is_seconds_or_until_a_date_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 30);
        let pause = |text| parse_retry_after(text, now);
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(
            pause("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::from_secs(30))
        );
        assert_eq!(pause("Sat, 05 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(pause("99999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(pause("-1"), None);
    }
}
