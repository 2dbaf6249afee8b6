//! Replays the fuzzers' corpora (`fuzz/corpus`) as ordinary tests.

use std::path::Path;

#[path = "../../fuzz/promises/aws_chunked.rs"]
mod aws_chunked;
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
