//! The control plane's view of the fetch threads: listings, limits, counters.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};

use crate::control_plane::catalogue::{Catalogue, ListRequest, Listed, Page};
use crate::mount::MountTable;
use crate::under_store::UnderStoreError;
use crate::under_store::listing::{Depth, Listings};
use crate::under_store::runtime::{FetchLimits, FetchRuntime};

/// The fetch threads and their listings.
pub(super) struct UnderStores {
    runtime: Arc<FetchRuntime>,
    listings: Listings,
}

impl UnderStores {
    pub(super) fn new(runtime: Arc<FetchRuntime>, listings: Listings) -> Self {
        UnderStores { runtime, listings }
    }
}

async fn list(listings: Listings, request: ListRequest) -> Result<Page, UnderStoreError> {
    let depth = if request.recursive {
        Depth::All
    } else {
        Depth::Children
    };
    let prefix = format!("{}/", request.path.trim_end_matches('/'));
    let page = listings
        .list(
            &request.mount,
            &prefix,
            depth,
            &request.after,
            request.limit,
        )
        .await?;
    let folders = page.common_prefixes.into_iter().map(|path| Listed {
        path,
        is_directory: true,
        length: 0,
        last_modified_ms: 0,
        version: String::new(),
    });
    let objects = page.entries.into_iter().map(|object| Listed {
        path: object.path,
        is_directory: false,
        length: object.length,
        last_modified_ms: object.last_modified_ms,
        version: object.version,
    });
    let mut entries: Vec<Listed> = objects.chain(folders).collect();
    entries.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(Page {
        entries,
        more: page.more.is_some(),
    })
}

impl Catalogue for UnderStores {
    fn list(&self, request: ListRequest) -> BoxFuture<'static, Result<Page, UnderStoreError>> {
        list(self.listings.clone(), request).boxed()
    }

    fn set_limits(&self, bytes_per_second: u64, requests: usize) {
        self.runtime.set_limits(FetchLimits {
            requests_in_flight_max: requests,
            bytes_per_second,
        });
    }

    fn retain_mounts(&self, mounts: &MountTable) {
        self.runtime.retain_mounts(mounts);
    }

    fn counters(&self) -> Vec<(&'static str, String, u64)> {
        let mut values = Vec::new();
        for counts in self.runtime.counts() {
            let errors = counts.errors.iter().map(|(_, count)| count).sum();
            let latency = |quantile| counts.latency_us.value_at_quantile(quantile);
            values.extend([
                (
                    "under_store_requests",
                    counts.mount.clone(),
                    counts.requests,
                ),
                ("under_store_bytes", counts.mount.clone(), counts.bytes),
                (
                    "under_store_bytes_sent",
                    counts.mount.clone(),
                    counts.bytes_sent,
                ),
                (
                    "under_store_bytes_from_writes",
                    counts.mount.clone(),
                    counts.bytes_from_writes,
                ),
                (
                    "under_store_headers_dropped",
                    counts.mount.clone(),
                    counts.headers_dropped,
                ),
                (
                    "under_store_names_read",
                    counts.mount.clone(),
                    counts.names_read,
                ),
                (
                    "under_store_names_skipped",
                    counts.mount.clone(),
                    counts.names_skipped,
                ),
                ("under_store_retries", counts.mount.clone(), counts.retries),
                ("under_store_errors", counts.mount.clone(), errors),
                (
                    "under_store_in_flight",
                    counts.mount.clone(),
                    counts.in_flight as u64,
                ),
                (
                    "under_store_latency_p50_microseconds",
                    counts.mount.clone(),
                    latency(0.5),
                ),
                (
                    "under_store_latency_p99_microseconds",
                    counts.mount.clone(),
                    latency(0.99),
                ),
            ]);
        }
        values
    }
}
