//! Replays the fuzzers' corpora (`fuzz/corpus`) as ordinary tests.

use std::path::Path;

#[path = "../../fuzz/promises/aws_chunked.rs"]
mod aws_chunked;
#[path = "../../fuzz/promises/s3_head.rs"]
mod s3_head;
#[path = "../../fuzz/promises/xml.rs"]
mod xml;

/// Every file of a corpus, whole and cut anywhere in its first part, as the network would.
fn replay(name: &str, hold: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is checked in") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        let input = std::fs::read(&path).expect("a readable file");
        hold(&input);
        for end in 0..input.len().min(300) {
            hold(&input[..end]);
        }
        files += 1;
    }
    assert!(files >= 4, "only {files} files in {}", folder.display());
}

#[test]
fn the_promises_of_the_decoder_of_payloads_hold_for_the_corpus() {
    replay("aws_chunked", aws_chunked::hold);
}

#[test]
fn the_promises_of_the_readers_of_xml_hold_for_the_corpus() {
    replay("xml", xml::hold);
}

#[test]
fn the_promises_of_requests_hold_for_the_corpus_and_for_each_byte_of_it_changed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/s3_head");
    let (mut files, mut callers) = (0, 0);
    for entry in std::fs::read_dir(&folder).expect("the corpus is checked in") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        let input = std::fs::read(&path).expect("a readable file");
        callers += s3_head::hold(&input);
        for at in 0..input.len().min(1_000) {
            s3_head::hold(&input[..at]);
            let mut changed = input.clone();
            changed[at] ^= 1 << (at % 8);
            s3_head::hold(&changed);
        }
        files += 1;
    }
    assert!(files >= 12, "only {files} files in {}", folder.display());
    assert!(callers >= 4, "only {callers} of them have a caller");
}
