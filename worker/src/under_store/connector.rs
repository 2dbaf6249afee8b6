//! The HTTP client below the `object_store` crate, which drops what a refusal says: the status
//! code and `Retry-After`. This layer turns refusals into an error that keeps both.
//!
//! It must not touch what the crate understands by itself: success, redirects, and the statuses
//! that it maps to errors of their own.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};

/// Statuses that the crate maps: unauthorized, forbidden, not found, conflict, precondition failed.
const MAPPED_STATUSES: [u16; 5] = [401, 403, 404, 409, 412];

/// Longest `Retry-After` that is passed on; a longer one ends the job in any case.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// An answer that is a refusal.
#[derive(Debug, thiserror::Error)]
#[error("the store answered {status}{}", wish(*.retry_after))]
pub(crate) struct Refusal {
    pub status: u16,
    pub retry_after: Option<Duration>,
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
        crate::cryptography::install();
        Ok(HttpClient::new(Service(
            ReqwestConnector::default().connect(options)?,
        )))
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
            let response = self.0.execute(request).await?;
            let status = response.status().as_u16();
            if status < 400 || MAPPED_STATUSES.contains(&status) {
                return Ok(response);
            }
            let retry_after = response
                .headers()
                .get("retry-after")
                .and_then(|value| value.to_str().ok())
                .and_then(|text| parse_retry_after(text, SystemTime::now()));
            Err(HttpError::new(
                HttpErrorKind::Unknown,
                Refusal {
                    status,
                    retry_after,
                },
            ))
        })
    }
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
