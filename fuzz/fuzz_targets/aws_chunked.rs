//! The decoder of aws-chunked payloads. The same promises are tested without a fuzzer on the files in
//! `corpus/aws_chunked` (`s3/tests/corpus.rs`).
//!
//! ```text
//! cargo +nightly fuzz run aws_chunked
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../promises/aws_chunked.rs"]
mod promises;

fuzz_target!(|input: &[u8]| promises::hold(input));
