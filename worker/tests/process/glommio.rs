//! A worker on glommio: it serves, keeps its cache over a kill, and hands devices to and from a
//! worker on our own ring.

use crate::harness::{BLOCK, Bed, Process, assert_same, counter};

fn bed_on_glommio(mut bed: Bed) -> Bed {
    bed.backend = "glommio";
    // Its device buffers are part of the budget.
    bed.dram = "256M".to_owned();
    bed
}

fn write_files(bed: &Bed) -> Vec<(String, Vec<u8>)> {
    let sizes = [1, 4097, BLOCK + 1, 7 * BLOCK + 99, (16 << 20) + 2 * BLOCK];
    let write = |(seed, size): (usize, &usize)| {
        let name = format!("{seed}-of-{size}");
        let bytes = bed.write(&name, seed as u64, *size);
        (format!("/data/{name}"), bytes)
    };
    sizes.iter().enumerate().map(write).collect()
}

#[track_caller]
fn assert_files(process: &Process, files: &[(String, Vec<u8>)], when: &str) {
    let client = process.client();
    for (path, bytes) in files {
        let read = client.read_file(path);
        let (_, found) = read.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_same(&found, bytes, &format!("{path} {when}"));
    }
}

#[track_caller]
fn assert_cached(process: &Process, files: &[(String, Vec<u8>)], when: &str) {
    assert!(process.recovered_blocks > 0, "{when}");
    assert_files(process, files, when);
    let stats = process.control().stats().expect("stats");
    assert_eq!(counter(&stats, "fetches"), 0, "{when}");
}

#[test]
fn a_cache_goes_from_glommio_to_our_ring_and_back_over_a_kill() {
    let mut bed = bed_on_glommio(Bed::on_disk());
    let files = write_files(&bed);
    let process = bed.start();
    assert_files(&process, &files, "cold");
    process.load("/data");
    assert_files(&process, &files, "loaded");
    process.terminate();

    let process = bed.start();
    assert_cached(&process, &files, "after a restart");
    process.kill();

    (bed.backend, bed.cores) = ("uring", 1);
    let process = bed.start();
    assert_cached(&process, &files, "on our ring");
    process.terminate();

    (bed.backend, bed.cores) = ("glommio", 2);
    let process = bed.start();
    assert_cached(&process, &files, "on glommio again");
    process.terminate();
}

#[test]
fn a_device_in_memory_serves_what_dram_does_not_keep() {
    let mut bed = bed_on_glommio(Bed::in_memory());
    bed.dram_policy = "noop";
    let files = write_files(&bed);
    let process = bed.start();
    assert_files(&process, &files, "cold");
    process.load("/data");
    for round in 0..3 {
        assert_files(&process, &files, &format!("from the device, round {round}"));
    }
    process.terminate();
}
