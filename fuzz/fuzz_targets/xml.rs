//! The readers of the XML that clients send. The same promises are tested without a fuzzer on the files in
//! `corpus/xml` (`s3/tests/corpus.rs`).
//!
//! ```text
//! cargo +nightly fuzz run xml
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../promises/xml.rs"]
mod promises;

fuzz_target!(|input: &[u8]| promises::hold(input));
