//! No room: everything pinned, the smallest device, more objects than it holds. Reads are served
//! all the same, and the counters say why nothing is kept.

use crate::harness::{BLOCK, Bed, Process, assert_same, counter, eventually};

fn write_files(bed: &Bed, count: u64, length: usize) -> Vec<(String, Vec<u8>)> {
    (0..count)
        .map(|number| {
            let name = format!("{number:05}");
            let bytes = bed.write(&name, number, length);
            (format!("/data/{name}"), bytes)
        })
        .collect()
}

#[track_caller]
fn assert_files(process: &Process, files: &[(String, Vec<u8>)], when: &str) {
    let client = process.client();
    for (path, bytes) in files {
        let read = client.read_file(path);
        let (_, found) = read.unwrap_or_else(|error| panic!("{when}: {error}\n{}", process.log()));
        assert_same(&found, bytes, &format!("{path} {when}"));
    }
}

#[test]
fn a_device_full_of_pins_refuses_more_pins_and_reads_go_on() {
    let mut bed = Bed::on_disk();
    bed.device_size = "34M";
    let files = write_files(&bed, 44, 16 * BLOCK);
    let process = bed.start();
    let control = process.control();
    let mut refusals = 0;
    for (path, bytes) in &files {
        let (_, found) = process.client().read_file(path).expect("it can be read");
        assert_same(&found, bytes, path);
        if control.pin(path, false, true).is_err() {
            refusals += 1;
        }
    }
    assert_files(&process, &files, "with pins");
    let stats = control.stats().expect("stats");
    let device = &stats.devices[0];
    let pinned = counter(&stats, "bytes_pinned");
    assert!(pinned > 0);
    assert!(
        pinned <= device.bytes * 8 / 10,
        "{pinned} of {} bytes are pinned",
        device.bytes
    );
    let not_kept = counter(&stats, "not_kept_no_room") + counter(&stats, "not_kept_busy");
    assert!(
        refusals > 0 || not_kept > 0,
        "44 MiB were pinned on 32 MiB and nothing says no"
    );
    assert!(counter(&stats, "reads_under_store") > 0);
    process.terminate();

    let process = bed.start();
    assert_files(&process, &files, "with pins, after a restart");
    let freed = process
        .control()
        .pin("/data", true, false)
        .expect("they can be unpinned");
    assert!(freed > 0);
    eventually("no pin is left", || process.counter("bytes_pinned") == 0);
    assert_files(&process, &files, "without pins");
    process.terminate();
}

#[test]
fn the_smallest_device_in_front_of_four_times_as_much_serves_every_byte() {
    let mut bed = Bed::in_memory();
    bed.device_size = "34M";
    let files = write_files(&bed, 16, 8 << 20);
    let process = bed.start();
    assert_files(&process, &files, "cold");
    assert_files(&process, &files[8..], "again");
    let stats = process.control().stats().expect("stats");
    assert!(counter(&stats, "regions_reclaimed") > 32);
    assert!(counter(&stats, "blocks_evicted") > 0);
    assert_eq!(counter(&stats, "reads_failed"), 0);
    assert!(stats.devices[0].healthy);
    process.terminate();
}

#[test]
fn an_index_full_of_tiny_objects_makes_room_or_says_so() {
    let mut bed = Bed::in_memory();
    // The index has room for 16384 blocks a shard at the least; a page an object, 64 MiB of device
    // hold as many, so that both ends are near.
    bed.cores = 1;
    bed.dram = "80M".to_owned();
    bed.device_size = "130M";
    let files = write_files(&bed, 18_000, 100);
    let process = bed.start();
    process.load("/data");
    assert_files(&process, &files[..200], "the first ones");
    assert_files(&process, &files[files.len() - 200..], "the last ones");
    let stats = process.control().stats().expect("stats");
    let made_room = counter(&stats, "regions_reclaimed") + counter(&stats, "not_kept_index_full");
    assert!(made_room > 0, "{stats:?}");
    assert_eq!(counter(&stats, "reads_failed"), 0);
    process.terminate();
}

#[test]
fn unpinning_ends_a_pin_of_which_nothing_is_cached_yet() {
    let bed = Bed::in_memory();
    bed.write("folder/one", 1, 2 * BLOCK);
    bed.write("folder/two", 2, 2 * BLOCK);
    bed.write("three", 3, 2 * BLOCK);
    let process = bed.start();
    let control = process.control();
    assert_eq!(control.pin("/data/folder", true, true).expect("pinned"), 2);
    assert_eq!(control.pin("/data/three", false, true).expect("pinned"), 1);
    assert_eq!(
        control.pin("/data/folder", true, false).expect("unpinned"),
        2
    );
    assert_eq!(
        control.pin("/data/three", false, false).expect("unpinned"),
        1
    );
    process.load("/data");
    assert!(process.counter("bytes_live") > 0);
    assert_eq!(process.counter("bytes_pinned"), 0);
    process.terminate();
}

#[test]
fn pins_of_what_is_cached_end_also_where_the_under_store_has_it_no_more() {
    let bed = Bed::in_memory();
    bed.write("folder/one", 1, 2 * BLOCK);
    bed.write("folder/two", 2, 2 * BLOCK);
    bed.write("three", 3, 2 * BLOCK);
    let process = bed.start();
    process.load("/data");
    let control = process.control();
    assert_eq!(control.pin("/data", true, true).expect("pinned"), 3);
    assert!(process.counter("bytes_pinned") > 0);
    std::fs::remove_dir_all(bed.path("source/folder")).expect("removed");
    std::fs::remove_file(bed.path("source/three")).expect("removed");
    assert_eq!(
        control.pin("/data/three", false, false).expect("unpinned"),
        1
    );
    assert_eq!(
        control.pin("/data/folder", true, false).expect("unpinned"),
        2
    );
    assert_eq!(process.counter("bytes_pinned"), 0);
    assert_eq!(
        control.pin("/data/three", false, false).expect("cached"),
        0,
        "it is pinned no more"
    );
    let error = control
        .pin("/data/four", false, false)
        .expect_err("nothing is there");
    assert!(error.to_string().contains("four"), "{error}");
    process.terminate();
}

#[test]
fn an_unpin_says_where_the_under_store_cannot_tell_what_else_is_pinned() {
    let bed = Bed::in_memory();
    bed.write("folder/one", 1, 2 * BLOCK);
    let process = bed.start();
    process.load("/data");
    let control = process.control();
    assert_eq!(control.pin("/data", true, true).expect("pinned"), 1);
    let folder = bed.path("source/folder");
    std::fs::remove_dir_all(&folder).expect("removed");
    // Whoever follows it is told of too many links.
    std::os::unix::fs::symlink(&folder, &folder).expect("a link to itself");
    let error = control
        .pin("/data/folder", true, false)
        .expect_err("the folder cannot be listed");
    assert!(error.to_string().contains("pins of 1 cached"), "{error}");
    assert_eq!(process.counter("bytes_pinned"), 0);
    process.terminate();
}
