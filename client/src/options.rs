//! What a caller may choose. Every value has a bound that the client keeps by itself.

use std::time::Duration;

use crate::policy::retry::RetryLimits;

/// How a [`crate::Client`] behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Goes into the worker's logs; at most 64 bytes are sent.
    pub client_name: String,
    /// Connections to each shard. One is right unless a single stream is slower than the network.
    pub lanes_per_shard: usize,
    /// For connecting and for the hello, each time.
    pub connect_timeout: Duration,
    /// For one attempt of one request, waiting for credits included.
    pub request_timeout: Duration,
    /// Attempts after the first one.
    pub retries_max: u32,
    /// Longest wait before the first retry; it doubles with each one. The actual wait is random
    /// below it, so that clients do not come back in step.
    pub back_off_first: Duration,
    /// What the longest wait grows to at most; also bounds the time that a busy worker may ask for.
    pub back_off_max: Duration,
    /// Ask for checksums and compare what arrives.
    pub verify: bool,
    /// Pieces of one [`crate::Client::read`] that are under way at a time.
    pub pieces_in_flight_max: usize,
    /// How often [`crate::Client::read_file`] starts again because the object changed under it.
    pub version_changes_max: u32,
}

impl Options {
    /// Bounds of the attempts of one request.
    pub(crate) fn retry_limits(&self) -> RetryLimits {
        RetryLimits {
            retries_max: self.retries_max,
            back_off_first: self.back_off_first,
            back_off_max: self.back_off_max,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            client_name: String::from("corelane-client"),
            lanes_per_shard: 1,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            retries_max: 4,
            back_off_first: Duration::from_millis(20),
            back_off_max: Duration::from_secs(2),
            verify: true,
            // Two stripes of the longest reads: enough to keep several shards busy.
            pieces_in_flight_max: 8,
            version_changes_max: 3,
        }
    }
}
