//! Every byte, by every way: cold, warm, after a restart, through either shard, at odd offsets.

use std::sync::Arc;

use corelane_rpc_schema::STRIPE_BYTES;
use corelane_rpc_schema::frame::ReadSource;

use crate::harness::{BLOCK, Bed, Lane, Process, assert_same, counter, eventually, owner};

/// A file and what is in it.
struct File {
    path: String,
    bytes: Vec<u8>,
}

/// Sizes around which implementations go wrong; the last one reaches into a second stripe.
const SIZES: [usize; 11] = [
    0,
    1,
    4095,
    4096,
    4097,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    5 * BLOCK + 123,
    STRIPE_BYTES as usize,
    STRIPE_BYTES as usize + 3 * BLOCK + 1,
];

fn write_files(bed: &Bed) -> Vec<File> {
    let write = |(seed, size): (usize, &usize)| File {
        path: format!("/data/of-{size}"),
        bytes: bed.write(&format!("of-{size}"), seed as u64, *size),
    };
    SIZES.iter().enumerate().map(write).collect()
}

fn blocks(files: &[File]) -> u64 {
    files
        .iter()
        .map(|file| file.bytes.len().div_ceil(BLOCK) as u64)
        .sum()
}

/// Ranges of an object that begin and end at, before and after pages, blocks and its end.
fn awkward_ranges(length: usize) -> Vec<(usize, usize)> {
    let marks = [
        0,
        1,
        4095,
        4096,
        4097,
        8192,
        BLOCK - 1,
        BLOCK,
        BLOCK + 4097,
        2 * BLOCK + 8191,
    ];
    let mut points: Vec<usize> = marks.into_iter().filter(|mark| *mark < length).collect();
    points.extend([
        length.saturating_sub(4097),
        length.saturating_sub(1),
        length,
    ]);
    points.sort_unstable();
    points.dedup();
    let mut ranges = Vec::new();
    for (number, start) in points.iter().enumerate() {
        // Far ends are left to the reads of whole files.
        for end in points[number + 1..].iter().take(4) {
            let end = (*end).min(start + (1 << 20));
            if start / STRIPE_BYTES as usize == (end - 1) / STRIPE_BYTES as usize {
                ranges.push((*start, end));
            }
        }
    }
    ranges
}

#[track_caller]
fn assert_whole_files(process: &Process, files: &[File], when: &str) {
    let client = process.client();
    for file in files {
        let (object, bytes) = client
            .read_file(&file.path)
            .unwrap_or_else(|error| panic!("{when}: {error}\n{}", process.log()));
        assert_eq!(
            object.length,
            file.bytes.len() as u64,
            "{when}: {}",
            file.path
        );
        assert_same(&bytes, &file.bytes, &format!("{} {when}", file.path));
    }
    assert_eq!(client.counters().checksum_mismatches, 0, "{when}");
    assert_eq!(client.counters().retries, 0, "{when}");
}

#[test]
fn every_byte_is_right_cold_warm_and_after_a_restart() {
    let mut bed = Bed::on_disk();
    // Room for all stripes on the same shard: where they lie follows from the folder's name.
    bed.device_size = "130M";
    let files = write_files(&bed);
    let process = bed.start();
    assert_eq!((process.epoch, process.recovered_blocks), (1, 0));
    assert_whole_files(&process, &files, "cold");
    assert_whole_files(&process, &files, "warm");
    process.load("/data");
    process.terminate();

    let process = bed.start();
    assert_eq!(process.epoch, 2);
    assert_eq!(
        process.recovered_blocks,
        blocks(&files),
        "a stop in good order loses nothing"
    );
    assert_whole_files(&process, &files, "after a restart");
    let stats = process.control().stats().expect("stats");
    assert_eq!(
        counter(&stats, "fetched_bytes"),
        0,
        "all of it was on the device"
    );
    assert_eq!(counter(&stats, "reads_under_store"), 0);
    assert!(counter(&stats, "reads_device") > 0);
    let read: u64 = files.iter().map(|file| file.bytes.len() as u64).sum();
    assert_eq!(counter(&stats, "bytes_served"), read);
    assert_eq!(counter(&stats, "reads_failed"), 0);
    process.terminate();
}

#[test]
fn either_shard_answers_any_range_and_says_who_owns_it() {
    let bed = Bed::on_disk();
    let mut files = write_files(&bed);
    let process = bed.start();
    let lanes: Vec<_> = process
        .data
        .iter()
        .map(|address| Lane::connect(*address))
        .collect();
    let hello = lanes[0].1.clone();
    assert_eq!(hello.shard_ports.len(), 2);
    for (number, (_, hello)) in lanes.iter().enumerate() {
        assert_eq!(usize::from(hello.shard.0), number);
    }
    let mut lanes: Vec<Lane> = lanes.into_iter().map(|(lane, _)| lane).collect();
    // Where files lie follows from the folder's name: more of them until both shards have some.
    let mut owned = [0, 0];
    for file in &files {
        if !file.bytes.is_empty() {
            let object = lanes[0].open(&file.path).object;
            owned[usize::from(owner(&hello, object, 0).0)] += 1;
        }
    }
    for number in 0..64 {
        if owned.iter().all(|count| *count > 0) {
            break;
        }
        let path = format!("/data/more-{number}");
        let bytes = bed.write(&format!("more-{number}"), 100 + number, BLOCK);
        let object = lanes[0].open(&path).object;
        owned[usize::from(owner(&hello, object, 0).0)] += 1;
        files.push(File { path, bytes });
    }
    assert!(owned.iter().all(|count| *count > 0), "{owned:?}");

    for file in &files {
        for (number, lane) in lanes.iter_mut().enumerate() {
            let opened = lane.open(&file.path);
            assert_eq!(opened.length, file.bytes.len() as u64);
            for (start, end) in awkward_ranges(file.bytes.len()) {
                let owner = owner(&hello, opened.object, start as u64);
                let (head, bytes) = lane.read(opened.object, start as u64, (end - start) as u32);
                let what = format!("{} {start}..{end} on shard {number}", file.path);
                assert_same(&bytes, &file.bytes[start..end], &what);
                let is_owner = usize::from(owner.0) == number;
                assert_eq!(head.shard_hint, (!is_owner).then_some(owner), "{what}");
            }
        }
    }
    assert!(process.counter("reads_forwarded") > 0);
    process.terminate();
}

#[test]
fn answers_say_whether_they_came_from_the_under_store_dram_or_the_device() {
    let bed = Bed::on_disk();
    let bytes = bed.write("one-block", 7, BLOCK);
    let process = bed.start();
    let read = |process: &Process| {
        let (mut lane, hello) = Lane::connect(process.data[0]);
        let object = lane.open("/data/one-block").object;
        let address = process.data[usize::from(owner(&hello, object, 0).0)];
        let (mut lane, _) = Lane::connect(address);
        let (head, found) = lane.read(object, 4096, 8192);
        assert_same(&found, &bytes[4096..4096 + 8192], "two pages");
        head.source
    };
    assert_eq!(read(&process), ReadSource::UnderStore);
    // It is answered from the pages that came first, while the rest of the block is on its way.
    eventually("the block is filled", || {
        process.counter("fills_under_way") == 0
    });
    assert_eq!(read(&process), ReadSource::Dram);
    let stats = process.control().stats().expect("stats");
    assert_eq!(counter(&stats, "reads_under_store"), 1);
    assert_eq!(counter(&stats, "reads_dram"), 1);
    assert_eq!(counter(&stats, "reads_device"), 0);
    assert_eq!(counter(&stats, "fetched_bytes"), BLOCK as u64);
    assert_eq!(counter(&stats, "bytes_served"), 2 * 8192);
    process.load("/data");
    process.terminate();

    let process = bed.start();
    assert_eq!(read(&process), ReadSource::Device);
    let stats = process.control().stats().expect("stats");
    assert_eq!(counter(&stats, "reads_device"), 1);
    assert_eq!(counter(&stats, "fetches"), 0);
    let info = process
        .control()
        .stat("/data/one-block")
        .expect("it is there");
    assert_eq!((info.blocks, info.blocks_cached), (1, 1));
    assert_eq!(info.length, BLOCK as u64);
    process.terminate();
}

#[test]
fn reads_that_are_together_larger_than_the_dram_tier_are_all_answered() {
    let mut bed = Bed::on_disk();
    // 33 MiB of tier a shard, and four clients that keep 32 MiB each under way.
    bed.dram = "132M".to_owned();
    let bytes = Arc::new(bed.write("object", 20, 128 << 20));
    let process = bed.start();
    for when in ["cold", "again"] {
        let readers: Vec<_> = (0..4u64)
            .map(|number| {
                let (client, bytes) = (process.client(), Arc::clone(&bytes));
                std::thread::spawn(move || {
                    let object = client.open("/data/object").expect("it can be opened");
                    let (start, end) = (number * (32 << 20), (number + 1) * (32 << 20));
                    let found = client.read(&object, start..end).expect("it can be read");
                    assert_same(&found, &bytes[start as usize..end as usize], when);
                })
            })
            .collect();
        for reader in readers {
            reader.join().expect("no reader failed");
        }
    }
    process.terminate();
}
