//! What goes over a wire: ids, schemas and the frame codec. Knows no other crate of ours.

pub mod ids;

pub use ids::{
    BLOCK_BYTES_DEFAULT, BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, BlockId, ObjectId, PAGE_BYTES,
    PartitionId, READ_BYTES_MAX, STRIPE_BYTES, ShardId, Stripe,
};
