//! Signing keys, derived once per access key, day and region.
//!
//! A key of the day takes four HMACs to derive, more than the rest of a verification. A kept one is
//! found only for the same access key (the same allocation), day and region, so it can never be
//! stale: whoever replaces the credentials replaces the verifier.

use std::sync::Arc;

use ring::hmac;

use super::{SERVICE, TERMINATOR};
use crate::credentials::AccessKey;

/// Most signing keys kept per core. When there are more, the oldest goes and is derived anew when it
/// is needed. Around midnight UTC each access key has two.
const KEPT_MAX: usize = 64;

#[derive(Default)]
pub(super) struct SigningKeys {
    kept: Vec<Arc<SigningKey>>,
    /// Where the next one goes once all places are taken.
    oldest: usize,
}

/// The key that signs requests, its HMAC states computed ahead.
pub(super) struct SigningKey {
    pub key: hmac::Key,
    access_key: Arc<AccessKey>,
    day: [u8; 8],
    region: Box<str>,
}

impl SigningKey {
    fn is_for(&self, access_key: &Arc<AccessKey>, day: &[u8; 8], region: &str) -> bool {
        Arc::ptr_eq(&self.access_key, access_key) && self.day == *day && *self.region == *region
    }
}

impl SigningKeys {
    /// The kept key, or one derived now.
    pub fn get(&self, access_key: &Arc<AccessKey>, day: &[u8; 8], region: &str) -> Arc<SigningKey> {
        match self
            .kept
            .iter()
            .find(|kept| kept.is_for(access_key, day, region))
        {
            Some(kept) => kept.clone(),
            None => Arc::new(SigningKey {
                key: derive(access_key.secret(), day, region),
                access_key: access_key.clone(),
                day: *day,
                region: region.into(),
            }),
        }
    }

    /// Keeps a key that proved right.
    pub fn keep(&mut self, key: Arc<SigningKey>) {
        if self.kept.iter().any(|kept| Arc::ptr_eq(kept, &key)) {
            return;
        }
        if self.kept.len() < KEPT_MAX {
            self.kept.push(key);
        } else {
            self.kept[self.oldest] = key;
            self.oldest = (self.oldest + 1) % KEPT_MAX;
        }
    }
}

#[cfg(test)]
impl SigningKeys {
    pub fn kept(&self) -> usize {
        self.kept.len()
    }
}

/// The chain of the API reference, "Task 3: Calculate the signature".
fn derive(secret: &str, day: &[u8; 8], region: &str) -> hmac::Key {
    let first = format!("AWS4{secret}");
    let parts = [
        &day[..],
        region.as_bytes(),
        SERVICE.as_bytes(),
        TERMINATOR.as_bytes(),
    ];
    parts.into_iter().fold(
        hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes()),
        |key, part| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part).as_ref()),
    )
}
