//! The store of a mount, with the limits and counts that every request passes.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::error::{Fault, OriginError};
use crate::under_store::UnderStoreErrorKind;
use crate::under_store::retry::{Failure, Tries};
use crate::under_store::stores::{Limiter, MountStore, Stores};
use crate::under_store::writer::Writer;

/// Longest time that a body may stream: a limit on what a lost client can hold, far above what
/// the 5 GiB of S3's largest part need.
const STREAM_TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Whether a failed request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Whatever happened: doing it twice is doing it once.
    Always,
    /// Only when the origin said that it did nothing: doing it twice could fail on itself.
    IfRefused,
    /// Never: a body comes as its client sends it.
    No,
}

/// One mount's store in use.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub stores: Arc<Stores>,
    pub store: Arc<MountStore>,
    /// Who sends the body of the request, where a client does.
    pub writer: Option<Arc<Writer>>,
    /// Whether it is a listing, which has limits of its own.
    pub is_listing: bool,
}

impl Work {
    /// The URI of the object at `key`.
    pub fn uri(&self, key: &str) -> String {
        format!("{}/{key}", self.store.mount.uri)
    }

    /// Waits until `bytes` more may pass, and counts them.
    pub async fn take_bytes(&self, bytes: u64) {
        self.limiter().take_bytes(bytes).await;
        self.store.counters.sent(bytes);
    }

    /// Runs `request` under the limits, as often as its failures and `repeat` allow.
    pub async fn run<'r, T>(
        &self,
        uri: &str,
        repeat: Repeat,
        mut request: impl FnMut(Duration) -> BoxFuture<'r, Result<T, Fault>> + Send,
    ) -> Result<T, OriginError> {
        let limiter = self.limiter();
        let mut tries = Tries::new(self.stores.options.retry);
        let mut count = 0;
        let mut is_clear = true;
        loop {
            count += 1;
            let pass = match repeat {
                _ if self.is_listing => limiter.enter_listing(&mut tries).await,
                Repeat::No => limiter.enter_with_body(self.writer.as_ref()).await,
                _ => limiter.enter(&mut tries).await,
            };
            let time = match repeat {
                Repeat::No => STREAM_TIME_MAX,
                _ => tries.time_left(),
            };
            let fault = match request(time).await {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            is_clear &= fault.is_clear;
            drop(pass);
            let may_repeat = match repeat {
                Repeat::Always => true,
                Repeat::IfRefused => fault.is_clear,
                Repeat::No => false,
            };
            let failure = Failure {
                retry_after: fault.retry_after(),
                ..Failure::lasting(UnderStoreErrorKind::Unavailable, "")
            };
            let failure = Failure {
                is_worth_retrying: fault.is_worth_retrying && may_repeat,
                ..failure
            };
            if tries.pause_after(failure, uri).await.is_err() {
                self.store.counters.error(fault.clone().into_failure().kind);
                // An earlier try may have been carried out, whatever the last one was answered.
                let fault = Fault { is_clear, ..fault };
                return Err(fault.into_error(uri, count));
            }
            self.store.counters.retry();
        }
    }

    fn limiter(&self) -> Limiter<'_> {
        Limiter::new(&self.stores, &self.store)
    }
}
