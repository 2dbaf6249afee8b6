//! Replays the fuzzer's corpus of device bytes (`fuzz/corpus/device`) as an ordinary test.

use std::path::{Path, PathBuf};

use corelane_io::PAGE_SIZE;
use corelane_io::sim::{Faults, Prng};
use corelane_worker::store::hold_for_device_bytes;

use crate::bed::{Bed, REGION_BYTES, object};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/device")
}

#[test]
fn the_promises_of_the_device_parsers_hold_for_the_corpus_and_its_neighbours() {
    let random = Prng::new(1);
    let mut files = 0;
    for entry in std::fs::read_dir(folder()).expect("the corpus is checked in") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        let input = std::fs::read(&path).expect("a readable file");
        hold_for_device_bytes(&input);
        for end in (0..input.len()).step_by(61) {
            hold_for_device_bytes(&input[..end]);
        }
        for _ in 0..2_000 {
            let mut changed = input.clone();
            for _ in 0..random.between(1, 4) {
                let at = random.below(changed.len().min(1024) as u64) as usize;
                changed[at] = random.next() as u8;
            }
            hold_for_device_bytes(&changed);
        }
        files += 1;
    }
    assert!(files >= 4, "only {files} files");
}

#[test]
#[ignore = "writes the corpus anew; run it after a change of the format"]
fn write_the_corpus() {
    let bed = Bed::new(50, Faults::none(), 1, 32);
    let shard = bed.open_one();
    bed.run(async {
        for number in 0..6 {
            shard.append_all(&object(number, 200_000)).await;
            shard.store.flush().await.expect("durable");
        }
        shard
            .store
            .free(object(1, 200_000).id)
            .await
            .expect("durable");
        shard
            .store
            .pin(object(2, 200_000).id, true)
            .await
            .expect("within the share");
        shard
            .store
            .save_state(b"some state".to_vec())
            .await
            .expect("kept");
    });
    let entry = shard
        .store
        .lookup(object(0, 200_000).block(0))
        .expect("kept");
    let region = (2 << 20) + u64::from(entry.region) * u64::from(REGION_BYTES);
    let sealed = (2u64 << 20) + u64::from(REGION_BYTES) - PAGE_SIZE as u64;
    let places = [
        ("superblock", 0),
        ("state", (768 << 10)),
        ("summary-with-object", region),
        ("footer", sealed),
    ];
    std::fs::create_dir_all(folder()).expect("a folder");
    let keep = |name: &str, offset: u64| {
        let bytes = bed.world.device_bytes("/dev/nvme0", offset, PAGE_SIZE);
        let mut body = [0; 4];
        body.copy_from_slice(&bytes[16..20]);
        let used = 64 + u32::from_le_bytes(body) as usize;
        std::fs::write(folder().join(name), &bytes[..used]).expect("written");
    };
    places.iter().for_each(|(name, offset)| keep(name, *offset));
    // Marks are the last extents of the small log's open region.
    let mut marks = 0;
    for page in 0..32 * u64::from(REGION_BYTES) / PAGE_SIZE as u64 {
        let offset = (2 << 20) + page * PAGE_SIZE as u64;
        let bytes = bed.world.device_bytes("/dev/nvme0", offset, 80);
        let is_mark = bytes.starts_with(b"CORELANE") && (5..=6).contains(&bytes[64]);
        if is_mark {
            keep(&format!("summary-with-mark-{marks}"), offset);
            marks += 1;
        }
    }
    assert!(marks >= 2, "{marks} extents of marks");
}
