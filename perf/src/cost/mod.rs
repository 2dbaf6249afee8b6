//! What an operation costs in instructions: exact counts, whatever else the machine does.
//!
//! | module | holds |
//! |---|---|
//! | [`script`] | fixed scripts of hits: the real worker's shard on the simulated backend |
//! | `shard` | the shard under them |
//! | `s3_client` | who asks the scripts of the S3 face |
//! | [`callgrind`] | counts of a script, told apart by source file |
//! | [`budget`] | the checked-in counts that may not grow |

pub mod budget;
pub mod callgrind;
mod s3_client;
pub mod script;
mod shard;

pub use callgrind::PerHit;
pub use script::Script;

/// Hits of the shorter run, and of the longer one.
pub const HITS: [u64; 2] = [4096, 36_864];

/// The same, where only the shape counts.
pub const HITS_QUICK: [u64; 2] = [1024, 3072];
