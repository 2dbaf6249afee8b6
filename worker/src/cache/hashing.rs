//! Maps keyed by ids. Ids are BLAKE3 hashes already, so that one multiplication is hash enough.
//! Not for keys that a client chooses: those could be made to collide.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map keyed by object or block ids.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Folds the words of an id together; the multiplier is 2^64 divided by the golden ratio.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane_rpc_schema::{BlockId, ObjectId};
    use std::collections::BTreeSet;
    use std::hash::BuildHasher;

    #[test]
    fn blocks_of_one_object_do_not_share_low_or_high_bits() {
        let object = ObjectId::new("s3://lake/a", "1", 1 << 20, 1 << 20);
        let build = BuildHasherDefault::<IdHasher>::default();
        let hashes: Vec<u64> = (0..1024)
            .map(|index| build.hash_one(BlockId { object, index }))
            .collect();
        let low: BTreeSet<u64> = hashes.iter().map(|hash| hash % 4096).collect();
        let high: BTreeSet<u64> = hashes.iter().map(|hash| hash >> 52).collect();
        assert!(
            low.len() > 800 && high.len() > 800,
            "{} {}",
            low.len(),
            high.len()
        );
    }
}
