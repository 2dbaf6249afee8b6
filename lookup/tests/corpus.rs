//! Replays the fuzzer's corpus (`fuzz/corpus/parquet`) as an ordinary test.

use std::path::Path;

#[path = "../../fuzz/promises/parquet.rs"]
mod promises;

#[test]
fn the_promises_of_look_ups_hold_for_the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/parquet");
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is checked in") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        let input = std::fs::read(&path).expect("a readable file");
        promises::hold(&input);
        // And with each byte of its first and last parts damaged.
        let places = (0..input.len().min(300)).chain(input.len().saturating_sub(1200)..input.len());
        for place in places {
            for value in [0, 0xff, input[place] ^ 0x10] {
                let mut damaged = input.clone();
                damaged[place] = value;
                promises::hold(&damaged);
            }
        }
        files += 1;
    }
    assert!(files >= 6, "only {files} files in {}", folder.display());
}
