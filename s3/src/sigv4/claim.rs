//! What a signature claims: by whom, when, for where, over which headers.
//!
//! The invariant: a claim is written in the one way that S3 writes it. Parts out of order within a
//! list, repeated ones, upper-case digits and unknown ones are refused, so that no second text means
//! the same.

use std::borrow::Cow;

use super::{ALGORITHM, AuthType, SERVICE, TERMINATOR};
use crate::date;
use crate::error::{Error, ErrorCode};
use crate::head::Head;

/// Longest access key id taken; S3's have up to 128 bytes.
const KEY_ID_BYTES_MAX: usize = 256;
/// Longest region taken; the names of AWS have below 20 bytes.
const REGION_BYTES_MAX: usize = 64;

/// A signature and what it says of itself.
pub(super) struct Claim<'a> {
    pub key_id: Cow<'a, str>,
    pub region: Cow<'a, str>,
    pub signed_headers: Cow<'a, str>,
    pub signature_hex: Cow<'a, str>,
    pub signature: [u8; 32],
    /// When it was signed, in milliseconds since 1970.
    pub time_ms: u64,
    scope_day: [u8; 8],
    amz_date: [u8; 16],
    service_is_ours: bool,
}

impl<'a> Claim<'a> {
    /// The claim of an `Authorization` header.
    pub fn of_header(authorization: &'a str, head: &Head<'a>) -> Result<Self, Error> {
        let (algorithm, rest) = authorization.split_once(' ').unwrap_or((authorization, ""));
        check_algorithm(algorithm)?;
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for part in rest.split(',') {
            let Some((name, value)) = part.trim_ascii().split_once('=') else {
                return Err(malformed("it is not a list of name=value"));
            };
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => {
                    return Err(malformed(
                        "it has a part beside Credential, SignedHeaders and Signature",
                    ));
                }
            };
            if slot.replace(value).is_some() {
                return Err(malformed("it has a part twice"));
            }
        }
        let (Some(credential), Some(signed_headers), Some(signature)) =
            (credential, signed_headers, signature)
        else {
            return Err(malformed(
                "Credential, SignedHeaders or Signature is missing",
            ));
        };
        let time_ms = match (head.known.x_amz_date, head.known.date) {
            (Some(amz_date), _) => date::parse_amz_date(amz_date),
            (None, Some(http_date)) => {
                date::parse_http_date(http_date).or_else(|| date::parse_amz_date(http_date))
            }
            (None, None) => None,
        };
        let time_ms = time_ms.ok_or_else(|| {
            Error::new(
                ErrorCode::AccessDenied,
                "a signed request has a valid `x-amz-date` (YYYYMMDDTHHMMSSZ) or `Date` header; send one",
            )
        })?;
        Claim::new(
            Cow::Borrowed(credential),
            Cow::Borrowed(signed_headers),
            Cow::Borrowed(signature),
            time_ms,
        )
        .map_err(malformed)
    }

    /// Checks the parts of a claim; the error is a reason for a sentence.
    pub fn new(
        credential: Cow<'a, str>,
        signed_headers: Cow<'a, str>,
        signature: Cow<'a, str>,
        time_ms: u64,
    ) -> Result<Self, &'static str> {
        let (key_id, day, region, service, terminator) = match &credential {
            Cow::Borrowed(credential) => {
                let (id, day, region, service, end) = scope(credential)?;
                (Cow::Borrowed(id), day, Cow::Borrowed(region), service, end)
            }
            Cow::Owned(credential) => {
                let (id, day, region, service, end) = scope(credential)?;
                (
                    Cow::Owned(id.to_owned()),
                    day,
                    Cow::Owned(region.to_owned()),
                    service,
                    end,
                )
            }
        };
        if key_id.is_empty() || key_id.len() > KEY_ID_BYTES_MAX {
            return Err("the access key id is empty or too long");
        }
        let sound_region = !region.is_empty()
            && region.len() <= REGION_BYTES_MAX
            && region
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !sound_region {
            return Err("the region is not a name");
        }
        if terminator != TERMINATOR {
            return Err("the scope does not end in aws4_request");
        }
        let service_is_ours = service == SERVICE;
        let amz_date = date::amz_date(time_ms);
        let scope_day: [u8; 8] = day
            .as_bytes()
            .try_into()
            .map_err(|_| "the day of the scope is not YYYYMMDD")?;
        check_signed_headers(&signed_headers)?;
        let signature_bytes = signature_bytes(&signature)
            .ok_or("the signature is not 64 lower-case hexadecimal digits")?;
        Ok(Claim {
            key_id,
            region,
            signed_headers,
            signature_hex: signature,
            signature: signature_bytes,
            time_ms,
            scope_day,
            amz_date,
            service_is_ours,
        })
    }

    /// The scope must be of the day of the request, of S3, and of the region that is served.
    pub fn check_scope(&self, served_region: &str, auth: AuthType) -> Result<(), Error> {
        let refused = |message: std::fmt::Arguments<'_>| {
            let code = match auth {
                AuthType::Query => ErrorCode::AuthorizationQueryParametersError,
                AuthType::Header | AuthType::None => ErrorCode::AuthorizationHeaderMalformed,
            };
            Err(Error::new(code, message))
        };
        if !served_region.is_empty() && self.region != served_region {
            return refused(format_args!(
                "the region '{}' is wrong; expecting '{served_region}'",
                self.region
            ));
        }
        if !self.service_is_ours {
            return refused(format_args!(
                "the service of the scope is not '{SERVICE}'; sign for it"
            ));
        }
        if self.scope_day[..] != self.amz_date[..8] {
            return refused(format_args!(
                "the day of the scope is not the day of the request; sign with the same clock for both"
            ));
        }
        Ok(())
    }

    /// `YYYYMMDD`
    pub fn day(&self) -> &[u8; 8] {
        self.amz_date.first_chunk().expect("longer than a day")
    }

    /// `YYYYMMDDTHHMMSSZ`
    pub fn amz_date(&self) -> &str {
        str::from_utf8(&self.amz_date).expect("ASCII")
    }
}

/// Only what this worker checks; everything else gets a sentence that says what to change.
pub(super) fn check_algorithm(algorithm: &str) -> Result<(), Error> {
    let message = match algorithm {
        ALGORITHM => return Ok(()),
        "AWS" => {
            "Signature Version 2 is not supported; sign with AWS4-HMAC-SHA256 (in many clients: `signature_version = s3v4`)"
        }
        "AWS4-ECDSA-P256-SHA256" => {
            "Signature Version 4A is not supported; sign with AWS4-HMAC-SHA256 for one region"
        }
        _ => "the authorization mechanism is not supported; sign with AWS4-HMAC-SHA256",
    };
    Err(Error::new(ErrorCode::InvalidRequest, message))
}

fn malformed(why: &'static str) -> Error {
    Error::new(
        ErrorCode::AuthorizationHeaderMalformed,
        format_args!("the authorization header is malformed; {why}"),
    )
}

/// `id/day/region/service/aws4_request`; the id may hold slashes.
fn scope(credential: &str) -> Result<(&str, &str, &str, &str, &str), &'static str> {
    let mut parts = credential.rsplitn(5, '/');
    let mut part = || {
        parts
            .next()
            .ok_or("the credential is not id/YYYYMMDD/region/s3/aws4_request")
    };
    let (end, service, region, day, id) = (part()?, part()?, part()?, part()?, part()?);
    Ok((id, day, region, service, end))
}

fn check_signed_headers(list: &str) -> Result<(), &'static str> {
    let mut before = "";
    let mut has_host = false;
    for name in list.split(';') {
        let token = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && byte != b',');
        if !token {
            return Err("SignedHeaders is not a list of header names in lower case");
        }
        if name <= before {
            return Err("SignedHeaders is not sorted, or names a header twice");
        }
        has_host |= name == "host";
        before = name;
    }
    if has_host {
        Ok(())
    } else {
        Err("SignedHeaders does not hold `host`; sign it")
    }
}

fn signature_bytes(hex: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = hex.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = lower_hex(pair[0])? << 4 | lower_hex(pair[1])?;
    }
    Some(bytes)
}

fn lower_hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
