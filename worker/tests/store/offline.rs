//! Formatting and verifying device files without a worker.

use std::path::Path;

use corelane_io::PAGE_SIZE;
use corelane_io::sim::Faults;
use corelane_worker::store::{
    DeviceLock, FormatOptions, StoreError, format_paths, inspect_offline, verify_offline,
};

use crate::bed::{Bed, REGION_BYTES, device_bytes, object};

fn options() -> FormatOptions {
    FormatOptions {
        region_bytes: REGION_BYTES,
        ..FormatOptions::new([7; 16])
    }
}

#[test]
fn a_new_file_is_formatted_and_a_used_one_only_by_force() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cache.img");
    assert!(
        format_paths(&[&path], None, options(), false).is_err(),
        "it does not exist"
    );
    format_paths(&[&path], Some(device_bytes(32)), options(), false).expect("formatted");
    let report = inspect_offline(&path).expect("ours");
    assert_eq!(
        (
            report.regions,
            report.partitions,
            report.blocks,
            report.epoch
        ),
        (32, 256, 0, 0)
    );
    let error = format_paths(&[&path], None, options(), false).expect_err("it holds a store");
    assert!(error.to_string().contains("--force"), "{error}");
    format_paths(&[&path], None, options(), true).expect("by force");

    let foreign = folder.path().join("notes.txt");
    std::fs::write(&foreign, "do not lose me").expect("written");
    let error =
        format_paths(&[&foreign], Some(device_bytes(32)), options(), false).expect_err("not empty");
    assert!(error.to_string().contains("something else"), "{error}");
    assert_eq!(
        std::fs::read(&foreign).expect("still there"),
        b"do not lose me"
    );
    assert!(inspect_offline(&foreign).is_err());
}

#[test]
fn fewer_than_32_regions_are_refused_with_the_size_that_is_needed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cache.img");
    let error =
        format_paths(&[&path], Some(device_bytes(31)), options(), false).expect_err("too small");
    assert!(
        error.to_string().contains(&device_bytes(32).to_string()),
        "{error}"
    );
}

#[test]
fn a_device_in_use_is_neither_verified_nor_formatted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cache.img");
    format_paths(&[&path], Some(device_bytes(32)), options(), false).expect("formatted");
    let lock = DeviceLock::take(&path).expect("free");
    assert!(matches!(
        verify_offline(&path, |_, _| {}),
        Err(StoreError::Locked { .. })
    ));
    assert!(matches!(
        format_paths(&[&path], None, options(), true),
        Err(StoreError::Locked { .. })
    ));
    drop(lock);
    assert!(verify_offline(&path, |_, _| {}).is_ok());
}

/// What a world's device holds, as a file.
fn copied(bed: &Bed, path: &Path) {
    let bytes = bed
        .world
        .device_bytes("/dev/nvme0", 0, device_bytes(32) as usize);
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn verify_counts_what_is_there_and_names_what_is_wrong() {
    let bed = Bed::new(30, Faults::none(), 1, 32);
    let shard = bed.open_one();
    let meta = object(3, 300_000);
    bed.run(async {
        for number in 0..20 {
            shard.append_all(&object(number, 300_000)).await;
        }
        shard.store.flush().await.expect("durable");
        shard
            .store
            .free(object(9, 300_000).id)
            .await
            .expect("durable");
        shard
            .store
            .pin(meta.id, true)
            .await
            .expect("within the share");
        shard.store.close().await.expect("durable");
    });
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cache.img");
    copied(&bed, &path);
    let report = verify_offline(&path, |_, _| {}).expect("ours");
    assert_eq!(
        (report.blocks, report.objects, report.block_bytes),
        (95, 19, 19 * 300_000),
        "the freed object does not count"
    );
    assert_eq!((report.tombstones, report.pins), (1, 1));
    assert_eq!((report.pages_wrong, report.summaries_wrong), (0, 0));
    assert_eq!(report.pages_checked, 20 * 74);
    assert_eq!(report.block_records, 100);
    assert!(report.regions_sealed >= 4 && report.regions_used == report.regions_sealed);
    assert_eq!(report.damage, []);

    let entry = shard.store.lookup(meta.block(1)).expect("kept");
    let place = (2 << 20)
        + u64::from(entry.region) * u64::from(REGION_BYTES)
        + (u64::from(entry.first_page) + 2) * PAGE_SIZE as u64;
    bed.world.corrupt("/dev/nvme0", place + 9, 1, 1);
    copied(&bed, &path);
    let report = verify_offline(&path, |_, _| {}).expect("ours");
    assert_eq!(report.pages_wrong, 1);
    assert_eq!(report.damage[0].offset, place);
    assert!(
        report.damage[0].what.contains(&meta.block(1).to_string()),
        "{:?}",
        report.damage
    );
}

#[test]
fn verify_tells_what_counts_from_what_is_no_longer_used() {
    let bed = Bed::new(35, Faults::none(), 1, 32);
    let shard = bed.open_one();
    let (freed, again, kept) = (object(1, 100_000), object(2, 100_000), object(3, 100_000));
    let place = |meta: &corelane_worker::object::ObjectMeta| {
        let entry = shard.store.lookup(meta.block(0)).expect("kept");
        (2 << 20)
            + u64::from(entry.region) * u64::from(REGION_BYTES)
            + u64::from(entry.first_page) * PAGE_SIZE as u64
    };
    let wrong = bed.run(async {
        for meta in [&freed, &again, &kept] {
            shard.append_all(meta).await;
        }
        shard.store.flush().await.expect("a flush");
        let places = [place(&freed), place(&again), place(&kept)];
        bed.world.corrupt("/dev/nvme0", places[0], 1, 1);
        bed.world.corrupt("/dev/nvme0", places[1], 1, 1);
        shard.store.free(freed.id).await.expect("durable");
        // A read finds it, and it comes again.
        assert!(shard.read(&again, 0).await.expect("known").is_err());
        assert_eq!(shard.append(&again, 0), Ok(()));
        shard.store.flush().await.expect("a flush");
        shard.store.save_state(vec![1; 5000]).await.expect("kept");
        shard.store.close().await.expect("a flush");
        places
    });
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cache.img");
    let verify = || {
        copied(&bed, &path);
        verify_offline(&path, |_, _| {}).expect("ours")
    };
    let report = verify();
    assert_eq!((report.pages_wrong, report.pages_wrong_unused), (0, 2));
    assert_eq!((report.summaries_wrong, report.copies_wrong), (0, 0));
    assert!(report.damage.iter().all(|damage| !damage.is_used));
    assert_eq!((report.blocks, report.block_bytes), (4, 200_000));

    bed.world.corrupt("/dev/nvme0", wrong[2], 1, 1);
    assert_eq!(verify().pages_wrong, 1);

    // A copy of the superblock, and a slot of state; then both slots.
    bed.world.corrupt("/dev/nvme0", (64 << 10) + 20, 1, 1);
    bed.world.corrupt("/dev/nvme0", (128 << 10) + 20, 1, 1);
    let report = verify();
    assert_eq!((report.copies_wrong, report.is_state_lost), (2, false));
    bed.world.corrupt("/dev/nvme0", (768 << 10) + 4500, 1, 1);
    let report = verify();
    assert_eq!((report.copies_wrong, report.is_state_lost), (3, true));

    // A first page that says free, and one of records; both have another page that tells.
    let region = |number: u64| (2 << 20) + number * u64::from(REGION_BYTES);
    bed.world
        .write_device_bytes("/dev/nvme0", region(30), &[0; PAGE_SIZE]);
    let report = verify();
    assert_eq!((report.summaries_wrong, report.regions_damaged), (1, 1));
    let used = (wrong[2] - (2 << 20)) / u64::from(REGION_BYTES);
    bed.world.corrupt("/dev/nvme0", region(used) + 30, 1, 1);
    let report = verify();
    assert_eq!((report.summaries_wrong, report.regions_damaged), (2, 1));
    assert_eq!(report.blocks, 4, "the footer has them");
}
