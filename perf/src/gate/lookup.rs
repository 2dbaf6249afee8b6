//! Look-ups in Parquet objects: on the files that people have, over the wire, beside engines and beside reads.
//!
//! The invariant: each answer has as many rows as it should, and those of one in 64 are compared with the
//! keys that were asked; a measure with a wrong one does not hold.
//!
//! | module | holds |
//! |---|---|
//! | `tables` | the files, made by DuckDB's generator and pyarrow |
//! | `worker` | a worker that has them in its cache |
//! | `asker` | one look-up at a time |
//! | `latency` | depth 1: hot keys, first look-ups, data on the device |
//! | `rates` | closed loops: hot, uniform, random order, batches |
//! | `engines` | DuckDB, Polars and pyarrow on the same files |
//! | `beside` | reads beside look-ups |
//! | `alone` | footers and key indexes, without a worker |

mod alone;
mod asker;
mod beside;
mod engines;
mod latency;
mod rates;
mod tables;
mod worker;

pub(super) use tables::Tables;

use super::Take;

/// All measures, in the order of the table.
pub(super) const MEASURES: [(&str, Take); 20] = [
    ("lookup_hot_added_us", latency::lookup_hot_added_us),
    (
        "lookup_first_known_dictionary_us",
        latency::lookup_first_known_dictionary_us,
    ),
    ("lookup_first_us", latency::lookup_first_us),
    ("lookup_device_reads", latency::lookup_device_reads),
    ("lookup_hot", rates::lookup_hot),
    ("lookup_hot_lineitem", rates::lookup_hot_lineitem),
    ("lookup_hot_20_files", rates::lookup_hot_20_files),
    ("lookup_uniform", rates::lookup_uniform),
    ("lookup_uniform_8k_pages", rates::lookup_uniform_8k_pages),
    ("lookup_uniform_roomy", rates::lookup_uniform_roomy),
    ("lookup_random_order", rates::lookup_random_order),
    ("lookup_batched_keys", rates::lookup_batched_keys),
    ("lookup_against_duckdb", engines::lookup_against_duckdb),
    ("lookup_against_polars", engines::lookup_against_polars),
    ("lookup_against_pyarrow", engines::lookup_against_pyarrow),
    (
        "lookup_against_duckdb_index",
        engines::lookup_against_duckdb_index,
    ),
    (
        "footer_of_1000_columns_us",
        alone::footer_of_1000_columns_us,
    ),
    ("reads_beside_lookups", beside::reads_beside_lookups),
    ("key_index_bytes_a_row", alone::key_index_bytes_a_row),
    ("key_index_rows_a_second", alone::key_index_rows_a_second),
];
