//! Names of objects, stripes, blocks and partitions, and the arithmetic between them.

use std::fmt;

/// Bytes in a page: the unit of device I/O and of checksums.
pub const PAGE_BYTES: u32 = 4096;

/// Bytes in a stripe, the unit of placement. A constant of the format: changing it moves everything.
pub const STRIPE_BYTES: u64 = 16 << 20;

/// Smallest block size of a mount.
pub const BLOCK_BYTES_MIN: u32 = 64 << 10;

/// Largest block size of a mount: a stripe holds whole blocks.
pub const BLOCK_BYTES_MAX: u32 = 16 << 20;

/// Block size where a mount does not say otherwise.
pub const BLOCK_BYTES_DEFAULT: u32 = 1 << 20;

/// Longest single read on the data plane. Longer than any engine's range, short enough that the
/// checksums of its pages (4 KiB of header) and its frames stay a small part of a lane's credit.
pub const READ_BYTES_MAX: u32 = 4 << 20;

/// Names one version of one object.
///
/// Both halves are the first eight bytes, little-endian, of a BLAKE3 hash in key-derivation-free
/// mode: `home` of the path key; `version` of path key and version, each preceded by its length, the
/// block size and the object's length. Pinned by golden values in the tests, since they are written
/// to devices.
///
/// The length is a part of the identity because every bound of a block follows from it: an
/// under-store that answers the same version with another length names another object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Selects the home shard and, with the stripe, the partition.
    pub home: u64,
    /// Changes with the version, the length or the block size of the object.
    pub version: u64,
}

impl ObjectId {
    /// The id of `version` (ETag, or size-mtime-inode-ctime) of the object at `path_key` (store kind,
    /// endpoint and canonical URI), which has `length` bytes, in blocks of `block_bytes`.
    pub fn new(path_key: &str, version: &str, length: u64, block_bytes: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in [path_key, version] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&block_bytes.to_le_bytes());
        hasher.update(&length.to_le_bytes());
        ObjectId {
            home: home_of(path_key),
            version: first_half(&hasher.finalize()),
        }
    }
}

/// The home half of the id of every version of the object at `path_key`.
pub fn home_of(path_key: &str) -> u64 {
    first_half(&blake3::hash(path_key.as_bytes()))
}

fn first_half(hash: &blake3::Hash) -> u64 {
    let mut half = [0; 8];
    half.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(half)
}

impl fmt::Display for ObjectId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}-{:016x}", self.home, self.version)
    }
}

/// Names one block: piece `index` of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId {
    /// The object.
    pub object: ObjectId,
    /// Offset in the object divided by its block size.
    pub index: u32,
}

impl fmt::Display for BlockId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.object, self.index)
    }
}

/// Number of an aligned [`STRIPE_BYTES`] run of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stripe(pub u32);

impl Stripe {
    /// The stripe that holds byte `offset`.
    pub fn of_offset(offset: u64) -> Self {
        Stripe((offset / STRIPE_BYTES) as u32)
    }

    /// The stripe that holds block `index` of `block_bytes` bytes.
    pub fn of_block(index: u32, block_bytes: u32) -> Self {
        // Below 2^64: both factors are below 2^32.
        Stripe::of_offset(u64::from(index) * u64::from(block_bytes))
    }
}

/// Most partitions of a worker: the list of their owners has to fit the hello answer's 4 KiB, and
/// 1024 still divide a core's work finely among 64 cores.
pub const PARTITIONS_MAX: u32 = 1024;

/// A fixed share of the hash space; moves between cores as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u16);

/// One core of a worker, with everything that it owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_that_devices_and_clients_already_hold() {
        let id = ObjectId::new(
            "s3:https://s3.example.com:lake/a.parquet",
            "\"etag\"",
            5_000_000,
            1 << 20,
        );
        assert_eq!(id.to_string(), GOLDEN);
    }

    const GOLDEN: &str = "3e7464903f1d6ebb-42fdb4a2b9e1d3fc";

    #[test]
    fn version_length_and_block_size_change_the_object_but_not_its_home() {
        let id = ObjectId::new("key", "v1", 7, 1 << 20);
        for other in [
            ObjectId::new("key", "v2", 7, 1 << 20),
            ObjectId::new("key", "v1", 8, 1 << 20),
            ObjectId::new("key", "v1", 7, 1 << 16),
        ] {
            assert_eq!(other.home, id.home);
            assert_ne!(other.version, id.version);
        }
        assert_ne!(
            ObjectId::new("ke", "yv1", 7, 1 << 20),
            ObjectId::new("key", "v1", 7, 1 << 20)
        );
    }

    #[test]
    fn a_block_lies_in_the_stripe_of_its_first_byte() {
        assert_eq!(Stripe::of_block(15, 1 << 20), Stripe(0));
        assert_eq!(Stripe::of_block(16, 1 << 20), Stripe(1));
        assert_eq!(Stripe::of_offset(STRIPE_BYTES - 1), Stripe(0));
    }
}
