//! Signature Version 4 of S3: who sent a request, and what its body must be.
//!
//! Source: Amazon S3 API reference, "Authenticating Requests (AWS Signature Version 4)".
//!
//! The invariant: a caller comes out only if the holder of a secret signed this method, path, query,
//! host and every `x-amz-` header that has an effect, within the last fifteen minutes (or as long as a
//! presigned request says). One request has one signature, written in one way: what S3 would write
//! differently is refused, not repaired.
//!
//! What it does not do: a request can be sent again while its time is valid, as with S3. Session tokens
//! are not needed, because keys come from the configuration: one that is sent is signed like any
//! header or parameter, and otherwise ignored, so that an `AWS_SESSION_TOKEN` left in an environment
//! does no harm.

mod canonical;
pub mod chunks;
mod claim;
mod keys;
mod payload_mode;
mod presigned;

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use ring::hmac;

use crate::credentials::{AccessKey, Credentials, Rule, Verb};
use crate::date;
use crate::error::{Error, ErrorCode};
use crate::head::Head;
use crate::target::Target;

pub use chunks::ChunkSigner;
pub use payload_mode::PayloadMode;

use canonical::Canonical;
use claim::Claim;
use keys::SigningKeys;
use payload_mode::Declared;

/// How far the clock of a client may be off, as in S3.
pub const CLOCK_SKEW_MS_MAX: u64 = 15 * 60 * 1_000;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "s3";
const TERMINATOR: &str = "aws4_request";

/// Checks signatures. One per core: it keeps signing keys and room to work in.
pub struct Verifier {
    credentials: Arc<Credentials>,
    region: String,
    /// Stands in for a key that does not exist, so that its absence takes as long to find out.
    decoy: Arc<AccessKey>,
    keys: RefCell<SigningKeys>,
    canonical: RefCell<Canonical>,
}

/// Who sent a request.
#[derive(Debug)]
pub struct Caller {
    /// The key that signed it; `None`: anonymous.
    pub key: Option<Arc<AccessKey>>,
    /// What the body must be.
    pub payload: PayloadMode,
    /// Where the signature was.
    pub auth: AuthType,
    anonymous: Option<Arc<[Rule]>>,
}

/// Where a signature was, for the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthType {
    /// In `Authorization`.
    Header,
    /// In the query: a presigned request.
    Query,
    /// Nowhere.
    None,
}

impl Caller {
    /// Whether the rules of the key, or those for anonymous requests, allow a verb on a bucket.
    pub fn may(&self, verb: Verb, bucket: &str) -> bool {
        match (&self.key, &self.anonymous) {
            (Some(key), _) => key.may(verb, bucket),
            (None, Some(rules)) => crate::credentials::may(rules, verb, bucket),
            (None, None) => false,
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Verifier")
            .field("credentials", &self.credentials)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// Checks against these credentials and accepts this region; an empty one: any.
    pub fn new(credentials: Arc<Credentials>, region: String) -> Self {
        let decoy = AccessKey::new(String::new(), String::new(), "decoy".repeat(8), Vec::new());
        Verifier {
            credentials,
            region,
            decoy: Arc::new(decoy),
            keys: RefCell::default(),
            canonical: RefCell::default(),
        }
    }

    /// Finds out who sent a request; `now_ms` is the time in milliseconds since 1970.
    ///
    /// Allocates nothing for a signature in the header once the signing key of its day is kept.
    ///
    /// # Errors
    /// With S3's codes, if it is not signed, or not as it must be. Never tells anything of a secret.
    pub fn verify(
        &self,
        head: &Head<'_>,
        target: &Target<'_>,
        now_ms: u64,
    ) -> Result<Caller, Error> {
        let in_query = presigned::is_signed(&target.query)?;
        match (head.known.authorization, in_query) {
            (None, false) => self.anonymous(head),
            (Some(_), true) => Err(Error::new(
                ErrorCode::InvalidArgument,
                "the request is signed in the `Authorization` header and in the query; sign it in one place",
            )),
            (Some(authorization), false) => {
                let claim = Claim::of_header(authorization, head)?;
                claim.check_skew(now_ms)?;
                let Some(declared) = head.known.x_amz_content_sha256 else {
                    return Err(Error::new(
                        ErrorCode::InvalidRequest,
                        "the header `x-amz-content-sha256` is missing; send the SHA-256 of the body or UNSIGNED-PAYLOAD",
                    ));
                };
                self.check(head, target, &claim, declared, AuthType::Header)
            }
            (None, true) => {
                let (claim, declared) = presigned::claim(head, &target.query, now_ms)?;
                self.check(head, target, &claim, &declared, AuthType::Query)
            }
        }
    }

    fn anonymous(&self, head: &Head<'_>) -> Result<Caller, Error> {
        let Some(rules) = self.credentials.anonymous() else {
            return Err(Error::new(
                ErrorCode::AccessDenied,
                "the request is not signed; sign it with a key of the worker's configuration",
            ));
        };
        let declared = match head.known.x_amz_content_sha256 {
            None => Declared::Unsigned,
            Some(value) => Declared::parse(value)?,
        };
        Ok(Caller {
            key: None,
            payload: declared.unsigned()?,
            auth: AuthType::None,
            anonymous: Some(rules.clone()),
        })
    }

    fn check(
        &self,
        head: &Head<'_>,
        target: &Target<'_>,
        claim: &Claim<'_>,
        declared: &str,
        auth: AuthType,
    ) -> Result<Caller, Error> {
        claim.check_scope(&self.region, auth)?;
        let payload = Declared::parse(declared)?;
        let known = self.credentials.key(&claim.key_id);
        let key = known.unwrap_or(&self.decoy);

        let mut keys = self.keys.borrow_mut();
        let signing_key = keys.get(key, claim.day(), &claim.region);
        let mut canonical = self.canonical.borrow_mut();
        let to_sign = canonical.string_to_sign(head, target, claim, declared)?;
        // Compares in constant time.
        let matches = hmac::verify(&signing_key.key, to_sign, &claim.signature).is_ok();
        let Some(known) = known else {
            return Err(Error::new(
                ErrorCode::InvalidAccessKeyId,
                "the access key id is not one of the worker's configuration; check the id and the endpoint",
            ));
        };
        if !matches {
            return Err(Error::new(
                ErrorCode::SignatureDoesNotMatch,
                "the signature is not that of the request; check the secret key, the region and that nothing between changes the request",
            ));
        }
        let payload = payload.signed(|| {
            ChunkSigner::new(
                signing_key.key.clone(),
                claim.amz_date(),
                canonical.scope(),
                &claim.signature_hex,
            )
        });
        // Kept only now, so that nobody without a secret drives the keys of others out.
        keys.keep(signing_key);
        Ok(Caller {
            key: Some(known.clone()),
            payload,
            auth,
            anonymous: None,
        })
    }
}

impl Claim<'_> {
    /// Of requests that say no other end: valid fifteen minutes around their time.
    fn check_skew(&self, now_ms: u64) -> Result<(), Error> {
        if self.time_ms.abs_diff(now_ms) <= CLOCK_SKEW_MS_MAX {
            return Ok(());
        }
        let now = date::iso_8601(now_ms);
        Err(Error::new(
            ErrorCode::RequestTimeTooSkewed,
            format_args!(
                "the time of the request and that of the worker, {}, are more than 15 minutes apart; set the clock",
                str::from_utf8(&now).expect("ASCII")
            ),
        ))
    }
}

#[cfg(test)]
mod tests;
