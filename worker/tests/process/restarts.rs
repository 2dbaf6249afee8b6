//! What a device keeps: over restarts with other numbers of cores, under other paths, and without
//! the under-store.

use std::fs;

use corelane_client::control::{JobState, ListOptions};

use crate::harness::{BLOCK, Bed, Process, assert_same, counter, eventually};

/// Names and bytes. None is empty: what has no blocks is not cached, and cannot be opened without
/// the under-store.
fn write_files(bed: &Bed) -> Vec<(String, Vec<u8>)> {
    let sizes = [
        1,
        4097,
        BLOCK,
        BLOCK + 1,
        7 * BLOCK + 99,
        (16 << 20) + 2 * BLOCK,
    ];
    let write = |(seed, size): (usize, &usize)| {
        let name = format!("{seed:02}-of-{size}");
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

/// Runs a verify job to its end.
#[track_caller]
fn verified(process: &Process) -> corelane_client::control::Progress {
    let control = process.control();
    let job = control.verify("/data").expect("verify starts");
    let mut last = None;
    eventually("the verify job ends", || {
        let progress = control.progress(job).expect("the job is known");
        let is_over = progress.state != JobState::Running;
        last = Some(progress);
        is_over
    });
    last.expect("it was asked")
}

#[test]
fn the_cache_is_kept_with_another_number_of_cores_a_moved_device_and_no_under_store() {
    let mut bed = Bed::on_disk();
    bed.cores = 1;
    let files = write_files(&bed);
    let blocks: u64 = files
        .iter()
        .map(|(_, bytes)| bytes.len().div_ceil(BLOCK) as u64)
        .sum();
    let process = bed.start();
    assert_files(&process, &files, "cold");
    process.load("/data");
    process.terminate();

    fs::rename(bed.path("source"), bed.path("away")).expect("the under-store goes away");
    for (round, cores) in [2, 1, 2].into_iter().enumerate() {
        bed.cores = cores;
        let moved = bed.path(&format!("moved-{round}"));
        fs::rename(&bed.device, &moved).expect("the device moves");
        bed.device = moved;
        let when = format!("with {cores} cores at {}", bed.device.display());
        let process = bed.start();
        assert_eq!(process.data.len(), cores);
        assert_eq!(process.recovered_blocks, blocks, "{when}");
        assert_files(&process, &files, &when);
        let stats = process.control().stats().expect("stats");
        assert_eq!(counter(&stats, "fetches"), 0, "{when}");

        let (entries, more) = process
            .control()
            .list(
                "/data",
                ListOptions {
                    cached_only: true,
                    recursive: true,
                    ..Default::default()
                },
            )
            .unwrap_or_else(|error| panic!("{when}: {error}"));
        assert!(!more);
        let listed: Vec<(String, u64)> = entries
            .into_iter()
            .map(|entry| (entry.path, entry.bytes_cached))
            .collect();
        let expected: Vec<(String, u64)> = files
            .iter()
            .map(|(path, bytes)| (path.clone(), bytes.len() as u64))
            .collect();
        assert_eq!(listed, expected, "{when}");

        let progress = verified(&process);
        assert_eq!(progress.state, JobState::Done, "{when}: {progress:?}");
        assert_eq!(
            (progress.failures, progress.blocks_wrong),
            (0, 0),
            "{when}: {progress:?}"
        );
        let bytes: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        assert_eq!(progress.bytes_done, bytes, "{when}: {progress:?}");
        process.terminate();
    }
}

#[test]
fn what_was_freed_and_pinned_stays_so_after_a_kill() {
    let bed = Bed::on_disk();
    bed.write("freed", 1, 3 * BLOCK);
    bed.write("kept", 2, 3 * BLOCK);
    let process = bed.start();
    let client = process.client();
    for path in ["/data/freed", "/data/kept"] {
        client.read_file(path).expect("it can be read");
    }
    let control = process.control();
    eventually("both are on the device", || {
        let cached = |path| control.stat(path).expect("it is there").blocks_cached;
        cached("/data/freed") == 3 && cached("/data/kept") == 3
    });
    assert_eq!(
        control
            .pin("/data/kept", false, true)
            .expect("it is pinned"),
        1
    );
    let freed = control.free("/data/freed", false).expect("it is freed");
    assert_eq!((freed.blocks, freed.bytes), (3, 3 * BLOCK as u64));
    process.kill();

    let process = bed.start();
    assert_eq!(process.recovered_blocks, 3, "only what was not freed");
    let control = process.control();
    assert_eq!(
        control
            .stat("/data/freed")
            .expect("it is there")
            .blocks_cached,
        0
    );
    let kept = control.stat("/data/kept").expect("it is there");
    assert!(kept.pinned);
    assert_eq!(kept.blocks_cached, 3);
    process.terminate();
}

#[test]
fn mounts_that_were_made_at_run_time_are_there_after_a_kill() {
    let bed = Bed::on_disk();
    fs::create_dir(bed.path("other")).expect("a folder");
    fs::write(bed.path("other").join("a"), b"of the other").expect("an object");
    let process = bed.start();
    let mount = corelane_client::control::Mount {
        path: "/other".to_owned(),
        uri: format!("file://{}", bed.path("other").display()),
        block_bytes: BLOCK as u32,
        ..Default::default()
    };
    process.control().mount(mount).expect("it can be mounted");
    process.kill();
    let process = bed.start();
    let (_, bytes) = process
        .client()
        .read_file("/other/a")
        .expect("it is mounted");
    assert_eq!(&bytes[..], b"of the other");
    process
        .control()
        .unmount("/other")
        .expect("it can be unmounted");
    process.kill();
    let process = bed.start();
    assert!(
        process.client().open("/other/a").is_err(),
        "it is not mounted any more"
    );
    process.terminate();
}
