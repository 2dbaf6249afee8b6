//! What a look-up pruned, read and decoded: the statistics of its answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// See the module. All add up over files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Files of the set.
    pub files: u64,
    /// Of them, ruled out by the values in their paths.
    pub files_pruned_by_partition: u64,
    /// Footers that were read and decoded; the others were known.
    pub footers_read: u64,
    /// Row groups.
    pub groups: u64,
    /// Of them, ruled out by their statistics.
    pub groups_pruned_by_statistics: u64,
    /// Of them, ruled out by a bloom filter.
    pub groups_pruned_by_bloom: u64,
    /// Of them, ruled out by a dictionary.
    pub groups_pruned_by_dictionary: u64,
    /// Look-ups that a key index answered.
    pub key_index_used: u64,
    /// Pages of the compared columns in the row groups that were left.
    pub pages: u64,
    /// Of them, ruled out by their bounds.
    pub pages_pruned: u64,
    /// Pages that were read and decoded.
    pub pages_decoded: u64,
    /// Pages that were found decoded.
    pub pages_cached: u64,
    /// Dictionaries that were read and decoded.
    pub dictionaries_decoded: u64,
    /// Dictionaries that were found decoded.
    pub dictionaries_cached: u64,
    /// Bytes of pages and dictionaries that were read.
    pub bytes_read: u64,
    /// Bytes that came from memory.
    pub bytes_from_dram: u64,
    /// Bytes that came from the device.
    pub bytes_from_device: u64,
    /// Bytes that came from the under-store.
    pub bytes_from_under_store: u64,
    /// Bytes that they were decompressed to.
    pub bytes_decoded: u64,
    /// Reads one after the other.
    pub read_rounds: u64,
    /// Rows that match.
    pub rows_matched: u64,
    /// Nanoseconds that reading took.
    pub read_ns: u64,
    /// Nanoseconds that decoding took.
    pub decode_ns: u64,
    /// Nanoseconds from the beginning to the last row known, reading and decoding among them.
    pub filter_ns: u64,
    /// Nanoseconds of building the selected columns, reading and decoding among them.
    pub project_ns: u64,
}

/// What is done with each count.
macro_rules! for_each_count {
    ($($name:ident,)*) => {
        impl Counts {
            /// Adds those of another file.
            pub fn add(&mut self, other: &Counts) {
                $(self.$name += other.$name;)*
            }

            /// All of them, by name.
            pub fn fields(&self) -> [(&'static str, u64); 25] {
                [$((stringify!($name), self.$name)),*]
            }

            #[cfg(test)]
            fn fields_mut(&mut self) -> [&mut u64; 25] {
                [$(&mut self.$name),*]
            }
        }
    };
}

for_each_count! {
    files,
    files_pruned_by_partition,
    footers_read,
    groups,
    groups_pruned_by_statistics,
    groups_pruned_by_bloom,
    groups_pruned_by_dictionary,
    key_index_used,
    pages,
    pages_pruned,
    pages_decoded,
    pages_cached,
    dictionaries_decoded,
    dictionaries_cached,
    bytes_read,
    bytes_from_dram,
    bytes_from_device,
    bytes_from_under_store,
    bytes_decoded,
    read_rounds,
    rows_matched,
    read_ns,
    decode_ns,
    filter_ns,
    project_ns,
}

/// Nanoseconds of a duration.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_adds_up() {
        let mut one = Counts::default();
        for (place, field) in one.fields_mut().into_iter().enumerate() {
            *field = place as u64 + 1;
        }
        let mut both = one;
        both.add(&one);
        for ((_, twice), (name, once)) in both.fields().into_iter().zip(one.fields()) {
            assert_eq!(twice, 2 * once, "{name}");
        }
        let in_order = one.fields().map(|(_, value)| value);
        assert!(in_order.is_sorted(), "names and places agree: {in_order:?}");
    }
}
