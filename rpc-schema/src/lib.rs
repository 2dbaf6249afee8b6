//! What goes over a wire: ids, schemas and the frame codec. Knows no other crate of ours.

pub mod frame;
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "generated code; what it means is said in the schema"
)]
pub mod generated;
pub mod ids;
pub mod local_token;
pub mod messages;

pub use ids::{
    BLOCK_BYTES_DEFAULT, BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, BlockId, ObjectId, PAGE_BYTES,
    PARTITIONS_MAX, PartitionId, READ_BYTES_MAX, STRIPE_BYTES, ShardId, Stripe,
};
