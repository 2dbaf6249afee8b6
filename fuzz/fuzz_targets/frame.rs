//! The frame decoder of the data plane and the messages in it. The same promises are tested without
//! a fuzzer on the files in `corpus/frame` (`rpc-schema/tests/corpus.rs`).
//!
//! ```text
//! cargo +nightly fuzz run frame
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../promises/frame.rs"]
mod promises;

fuzz_target!(|input: &[u8]| promises::hold(input));
