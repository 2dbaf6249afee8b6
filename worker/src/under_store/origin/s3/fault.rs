//! What a refusal of an S3 origin means.

use std::time::SystemTime;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use super::xml::Element;
use crate::under_store::connector::parse_retry_after;
use crate::under_store::origin::error::{Fault, OriginErrorKind as Kind};

/// The fault of an answer with `status`; `body` is the error document, empty for a HEAD.
pub(super) fn of_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Fault {
    let document = Element::parse(body)
        .ok()
        .filter(|root| root.name == "Error");
    let text = |name: &str| document.as_ref().map_or("", |root| root.text_of(name));
    let retry_after = headers
        .get("retry-after")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| parse_retry_after(text, SystemTime::now()));
    of_error(status.as_u16(), text("Code"), text("Message"), retry_after)
}

/// The fault of an error document inside an answer of success.
pub(super) fn of_document(root: &Element) -> Fault {
    // The codes that mean a failure of the origin; all others are about the request.
    let status = match root.text_of("Code") {
        "InternalError" => 500,
        "SlowDown" | "ServiceUnavailable" => 503,
        _ => 400,
    };
    of_error(status, root.text_of("Code"), root.text_of("Message"), None)
}

/// The fault of a code and message of S3.
pub(super) fn of_error(
    status: u16,
    code: &str,
    message: &str,
    retry_after: Option<std::time::Duration>,
) -> Fault {
    let kind = match (code, status) {
        ("NoSuchBucket", _) => Kind::NoSuchBucket,
        ("NoSuchUpload", _) => Kind::NoSuchUpload,
        ("NoSuchKey", _) | ("", 404) => Kind::NotFound,
        ("PreconditionFailed", _) | (_, 412) => Kind::PreconditionFailed,
        ("BucketAlreadyExists" | "BucketAlreadyOwnedByYou", _) => Kind::AlreadyExists,
        (
            "SlowDown"
            | "ServiceUnavailable"
            | "Busy"
            | "OperationAborted"
            | "ConditionalRequestConflict"
            | "RequestTimeout",
            _,
        )
        | (_, 408 | 425 | 429 | 503) => Kind::Busy { retry_after },
        ("NotImplemented", _) | (_, 501) => Kind::Unsupported,
        (_, 401 | 403) => Kind::Denied,
        (_, 404) => Kind::NotFound,
        (_, 500..) => Kind::Unavailable,
        (_, 416) => Kind::Invalid,
        _ => Kind::Invalid,
    };
    let what = match kind {
        Kind::NotFound => "there is no such object".to_owned(),
        Kind::Denied if code.is_empty() => "the store refused access".to_owned(),
        _ => format!("the store answered {status}"),
    };
    let told = match (code, message) {
        ("", _) => String::new(),
        (code, "") => format!(" {code}"),
        (code, message) => format!(" {code}: {}", message.trim_end_matches('.')),
    };
    let wish = retry_after.map_or_else(String::new, |pause| {
        format!(" and wants a pause of {} s", pause.as_secs())
    });
    let is_passing = matches!(kind, Kind::Busy { .. } | Kind::Unavailable);
    Fault {
        kind,
        code: (!code.is_empty()).then(|| code.to_owned()),
        cause: format!("{what}{told}{wish}"),
        is_worth_retrying: is_passing,
        // A 5xx may come from a proxy that gave up while the origin went on. Who says 503 in the words of
        // S3, or when to come again, has refused.
        is_clear: !is_passing
            || matches!(kind, Kind::Busy { .. }) && (!code.is_empty() || retry_after.is_some()),
    }
}

/// An answer that makes no sense.
pub(super) fn malformed(cause: impl Into<String>) -> Fault {
    Fault::passing(Kind::Malformed, cause)
}

/// The fault of a request that got no answer.
pub(super) fn of_transport(error: &reqwest::Error) -> Fault {
    let is_unsent = error.is_connect();
    // The innermost cause says most and holds no URL.
    let error: &dyn std::error::Error = error;
    let innermost = std::iter::successors(Some(error), |error| error.source()).last();
    let fault = Fault::passing(
        Kind::Unavailable,
        innermost.map_or_else(String::new, ToString::to_string),
    );
    Fault {
        // Without a connection, nothing of the request was sent.
        is_clear: is_unsent,
        ..fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_a_refusal_of_the_origin_itself_says_that_nothing_was_done() {
        let second = Some(Duration::from_secs(1));
        for (status, code, retry_after, is_clear) in [
            (503, "SlowDown", None, true),
            (503, "", second, true),
            (429, "", second, true),
            // As a proxy answers that lost the origin after it had sent everything.
            (503, "", None, false),
            (502, "", None, false),
            (500, "InternalError", None, false),
            (504, "", second, false),
            (403, "AccessDenied", None, true),
            (412, "PreconditionFailed", None, true),
        ] {
            let fault = of_error(status, code, "", retry_after);
            assert_eq!(fault.is_clear, is_clear, "{status} {code} {retry_after:?}");
        }
    }
}
