//! The head, target, route and signature of S3 requests. The same promises are tested without a
//! fuzzer on the files in `corpus/s3_head` (`s3/tests/corpus.rs`).
//!
//! ```text
//! cargo +nightly fuzz run s3_head
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../promises/s3_head.rs"]
mod promises;

fuzz_target!(|input: &[u8]| {
    promises::hold(input);
});
