//! The parsers of what a device holds: superblock, state, summaries and their records, footers. The
//! same promises are tested without a fuzzer on `corpus/device` (`worker/tests/store/corpus.rs`).
//!
//! ```text
//! cargo +nightly fuzz run device
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| corelane_worker::store::hold_for_device_bytes(input));
