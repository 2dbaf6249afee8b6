//! Parquet files: footers, page indexes, bloom filters and pages. The same promises are tested without a
//! fuzzer on the files in `corpus/parquet` (`lookup/tests/corpus.rs`).
//!
//! ```text
//! cargo +nightly fuzz run parquet
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../promises/parquet.rs"]
mod promises;

fuzz_target!(|input: &[u8]| promises::hold(input));
