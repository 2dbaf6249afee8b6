//! What a shard counts. Plain cells: one core writes and reads them.

use corelane_rpc_schema::frame::ReadSource;

use crate::store::Counter;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters of the read path, the fills and the lanes.
        #[derive(Debug, Default)]
        pub struct ShardCounters {
            $($(#[doc = $doc])+ pub $name: Counter,)+
        }

        impl ShardCounters {
            /// Every counter by name, in the order of declaration.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)+]
            }

            /// What each counter means, by name.
            pub fn help() -> &'static [(&'static str, &'static str)] {
                &[$((stringify!($name), concat!($($doc),+)),)+]
            }
        }
    };
}

counters! {
    /// Reads answered from the DRAM tier.
    reads_dram,
    /// Reads answered from the device.
    reads_device,
    /// Reads that waited for the under-store.
    reads_under_store,
    /// Reads answered with an error.
    reads_failed,
    /// Bytes of answers to reads.
    bytes_served,
    /// Look-ups.
    lookups,
    /// Look-ups answered with an error.
    lookups_failed,
    /// Rows of answers to look-ups.
    lookup_rows,
    /// Key indexes built.
    key_indexes_built,
    /// Of them, put beside the object's blocks.
    key_indexes_kept,
    /// Key indexes that were found beside an object's blocks.
    key_indexes_recalled,
    /// Reads that arrived at a shard that does not own the stripe.
    reads_forwarded,
    /// Reads and opens answered "busy".
    answers_busy,
    /// Reads from the device that met a wrong checksum; the block was fetched again.
    pages_corrupt_healed,
    /// Reads from the device that the device failed; the block was fetched again.
    device_reads_failed,
    /// Ranged requests sent to the under-store.
    fetches,
    /// Bytes that arrived from the under-store.
    fetched_bytes,
    /// Fetches that failed.
    fetches_failed,
    /// Blocks that were fetched whole.
    blocks_filled,
    /// Blocks that waited for a fetch that another read had started.
    fills_joined,
    /// Blocks fetched ahead of a sequential reader.
    blocks_read_ahead,
    /// Of them, those whose first 64 KiB were read before they left the DRAM tier, or any part while
    /// they came; each counts once.
    blocks_read_ahead_used,
    /// Filled blocks that the admission policy kept off the device.
    blocks_not_admitted,
    /// Filled blocks that the device had no room or time for.
    blocks_not_kept,
    /// Objects opened.
    opens,
    /// Of them, answered from cached metadata.
    opens_cached,
    /// Opens that failed.
    opens_failed,
    /// Opens answered from records because the under-store was away.
    opens_without_under_store,
    /// Connections of the S3 face.
    s3_connections,
    /// Connections of the S3 face refused because too many were open.
    s3_connections_refused,
    /// Connections of the S3 face closed because the client was idle or slow for too long.
    s3_connections_timed_out,
    /// Requests to the S3 face.
    s3_requests,
    /// Of them, those answered with a status of 2xx or 3xx.
    s3_answers_ok,
    /// Of them, those answered with a status of 4xx.
    s3_answers_client_error,
    /// Of them, those answered with a status of 5xx.
    s3_answers_server_error,
    /// Answers that were cut off in the middle because the object changed or could not be read.
    s3_answers_cut,
    /// Pieces of S3 answers from the DRAM tier.
    s3_reads_dram,
    /// Pieces of S3 answers from the device.
    s3_reads_device,
    /// Pieces of S3 answers that waited for the under-store.
    s3_reads_under_store,
    /// Prefetches not begun because too many were under way.
    prefetches_refused,
    /// Prefetches of the first blocks of an object only, because the cache has no more room for any.
    prefetches_cut,
    /// Lanes opened.
    lanes_opened,
    /// Connections refused because too many were open.
    lanes_refused,
    /// Lanes closed because the client broke the protocol or was refused.
    lanes_failed,
    /// Lanes closed because the client did not say hello or did not read its answers in time.
    lanes_timed_out,
}

impl ShardCounters {
    /// Counts a piece of an S3 answer.
    pub fn count_s3_read(&self, source: ReadSource) {
        match source {
            ReadSource::Dram => self.s3_reads_dram.increase(),
            ReadSource::Device => self.s3_reads_device.increase(),
            ReadSource::UnderStore => self.s3_reads_under_store.increase(),
        }
    }

    /// Counts the status of an S3 answer.
    pub fn count_s3_status(&self, status: u16) {
        match status {
            0..400 => self.s3_answers_ok.increase(),
            400..500 => self.s3_answers_client_error.increase(),
            _ => self.s3_answers_server_error.increase(),
        }
    }
}
