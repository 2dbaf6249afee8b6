//! Signatures in the query ("Authenticating Requests: Using Query Parameters").

use std::borrow::Cow;

use super::CLOCK_SKEW_MS_MAX;
use super::claim::{Claim, check_algorithm};
use crate::date;
use crate::error::{Error, ErrorCode};
use crate::head::Head;
use crate::target::Query;

/// Longest validity of a presigned request: seven days, as in S3.
pub const EXPIRES_S_MAX: u64 = 604_800;

pub(super) const SIGNATURE: &str = "X-Amz-Signature";

/// Whether the query carries a signature.
///
/// # Errors
/// If it is one of Version 2.
pub(super) fn is_signed(query: &Query<'_>) -> Result<bool, Error> {
    if query.is_empty() {
        return Ok(false);
    }
    if query.has("AWSAccessKeyId") || query.has("Signature") {
        return check_algorithm("AWS").map(|()| false);
    }
    Ok(["X-Amz-Algorithm", "X-Amz-Credential", SIGNATURE]
        .iter()
        .any(|name| query.has(name)))
}

/// The claim, and what it says of the body.
pub(super) fn claim<'a>(
    head: &Head<'a>,
    query: &Query<'a>,
    now_ms: u64,
) -> Result<(Claim<'a>, Cow<'a, str>), Error> {
    let required = |name: &str| {
        query.get(name).ok_or_else(|| {
            malformed(format_args!(
                "the parameter `{name}` is missing; a presigned request has X-Amz-Algorithm, X-Amz-Credential, X-Amz-Date, X-Amz-Expires, X-Amz-SignedHeaders and X-Amz-Signature"
            ))
        })
    };
    check_algorithm(&required("X-Amz-Algorithm")?)?;
    let time_ms = date::parse_amz_date(&required("X-Amz-Date")?).ok_or_else(|| {
        malformed(format_args!(
            "X-Amz-Date is not of the form YYYYMMDDTHHMMSSZ"
        ))
    })?;
    let expires = required("X-Amz-Expires")?;
    let digits = expires.bytes().all(|byte| byte.is_ascii_digit());
    let expires_s = match expires.parse() {
        Ok(seconds @ 1..=EXPIRES_S_MAX) if digits => seconds,
        _ => {
            return Err(malformed(format_args!(
                "X-Amz-Expires is not a number of seconds from 1 to {EXPIRES_S_MAX}"
            )));
        }
    };
    if time_ms > now_ms.saturating_add(CLOCK_SKEW_MS_MAX) {
        return Err(denied("the request is not yet valid; set the clock"));
    }
    if now_ms >= time_ms.saturating_add(expires_s * 1_000) {
        return Err(denied("the request has expired; sign it anew"));
    }
    let claim = Claim::new(
        required("X-Amz-Credential")?,
        required("X-Amz-SignedHeaders")?,
        required(SIGNATURE)?,
        time_ms,
    )
    .map_err(|why| {
        malformed(format_args!(
            "the parameters of the signature are malformed; {why}"
        ))
    })?;
    // Whichever is there is signed: headers of that kind must be, and the query is.
    let declared = match head.known.x_amz_content_sha256 {
        Some(value) => Cow::Borrowed(value),
        None => query
            .get("X-Amz-Content-Sha256")
            .or_else(|| query.get("X-Amz-Content-SHA256"))
            .unwrap_or(Cow::Borrowed("UNSIGNED-PAYLOAD")),
    };
    Ok((claim, declared))
}

fn malformed(message: std::fmt::Arguments<'_>) -> Error {
    Error::new(ErrorCode::AuthorizationQueryParametersError, message)
}

fn denied(message: &str) -> Error {
    Error::new(ErrorCode::AccessDenied, message)
}
