//! Replays the fuzzer's corpus (`fuzz/corpus/frame`) as an ordinary test.

use std::path::Path;

#[path = "../../fuzz/promises/frame.rs"]
mod promises;

#[test]
fn the_promises_of_the_frame_decoder_hold_for_the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/frame");
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is checked in") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        let input = std::fs::read(&path).expect("a readable file");
        promises::hold(&input);
        // And cut anywhere in its first part, as the network would.
        for end in 0..input.len().min(200) {
            promises::hold(&input[..end]);
        }
        files += 1;
    }
    assert!(files >= 12, "only {files} files in {}", folder.display());
}
