//! Devices that were away while objects were freed or pinned: what they missed does not come back with
//! them, and what they did not miss anything of does.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use corelane_io::sim::{Crash, CrashPoint, Faults, Prng, check_seeds};
use corelane_worker::store::MarkError;

use crate::bed::{BLOCK_BYTES, Bed, Family, Shard, object};

const DEVICES: [&str; 3] = ["/dev/nvme0", "/dev/nvme1", "/dev/nvme2"];

/// Objects that are freed in these tests, and others that stay. A block each.
const FREED: std::ops::Range<u32> = 0..40;
const KEPT: std::ops::Range<u32> = 100..140;

async fn append(shards: &[Shard], numbers: std::ops::Range<u32>) {
    let count = shards.len() as u16;
    for number in numbers {
        let meta = object(number, u64::from(BLOCK_BYTES));
        let owner = (0..count).find(|at| shards[usize::from(*at)].owns(&meta, 0, *at, count));
        let owner = &shards[usize::from(owner.expect("someone owns it"))];
        owner.append_all(&meta).await;
    }
    for shard in shards {
        shard.store.flush().await.expect("durable");
    }
}

/// Frees on all shards, as the worker does; whether all say that it is durable.
async fn free(shards: &[Shard], numbers: std::ops::Range<u32>) -> Result<(), MarkError> {
    for number in numbers {
        for shard in shards {
            shard
                .store
                .free(object(number, u64::from(BLOCK_BYTES)).id)
                .await?;
        }
    }
    Ok(())
}

/// How many of the objects are readable, in all and by the device that they belong on.
fn readable(bed: &Bed, shards: &[Shard], numbers: std::ops::Range<u32>) -> Vec<u32> {
    let mut by_device = vec![0; bed.paths.len()];
    bed.run(async {
        for number in numbers {
            let meta = object(number, u64::from(BLOCK_BYTES));
            for shard in shards {
                if shard.readable(&meta).await == 1 {
                    by_device[shard.device_of(&meta, 0, bed.paths.len())] += 1;
                }
            }
        }
    });
    by_device
}

fn filled(seed: u64, devices: usize, shards: u16) -> (Bed, Vec<Shard>) {
    let bed = Bed::new(seed, Faults::none(), devices, 32);
    let opened = bed.open_all(shards, |_| {});
    bed.run(append(&opened, FREED));
    bed.run(append(&opened, KEPT));
    (bed, opened)
}

/// Lets shard `at` find out that the device fails.
fn take_out(bed: &Bed, shards: &[Shard], at: usize, path: &str) {
    bed.world.fail_device(path);
    bed.run(async {
        let _ = shards[at].store.flush().await;
    });
    let devices = shards[at].store.devices();
    let out: Vec<_> = devices.iter().filter(|device| !device.healthy).collect();
    assert_eq!((out.len(), out[0].path.as_str()), (1, path));
    assert!(out[0].reason.contains("flush"), "{:?}", out[0].reason);
}

fn none(devices: usize) -> Vec<u32> {
    vec![0; devices]
}

#[test]
fn what_was_freed_while_its_device_was_out_stays_away_when_it_is_back() {
    for (seed, shards) in [(40, 1), (41, 1), (42, 2), (43, 3)] {
        let (bed, opened) = filled(seed, 2, shards);
        let kept = readable(&bed, &opened, KEPT);
        // A mark that both have, so that the superblocks say already that there are some.
        bed.run(free(&opened, 200..201)).expect("both are well");
        // One shard alone notices.
        take_out(&bed, &opened, usize::from(shards) - 1, DEVICES[1]);
        bed.world.restore_device(DEVICES[1]);
        bed.run(free(&opened, FREED)).expect("one device is well");
        bed.world.crash_with(Crash::ProcessKill);
        let opened = bed.open_all(shards, |_| {});
        assert_eq!(readable(&bed, &opened, FREED), none(2), "freed");
        assert_eq!(readable(&bed, &opened, KEPT), [kept[0], 0], "missed marks");
        bed.run(append(&opened, KEPT));
        bed.world.crash_with(Crash::ProcessKill);
        let opened = bed.open_all(shards, |_| {});
        assert_eq!(readable(&bed, &opened, FREED), none(2), "freed");
        assert_eq!(readable(&bed, &opened, KEPT), kept, "it counts again");
    }
}

#[test]
fn what_was_freed_while_its_device_was_missing_stays_away_when_it_is_back() {
    for (seed, missing, shards) in [(44, 0, 1), (45, 1, 2), (46, 2, 1)] {
        let (bed, opened) = filled(seed, 3, shards);
        let kept = readable(&bed, &opened, KEPT);
        drop(opened);
        bed.world.crash_with(Crash::ProcessKill);
        bed.absent.borrow_mut().insert(DEVICES[missing].to_owned());
        for _ in 0..2 {
            let opened = bed.open_all(shards, |_| {});
            let mut here = kept.clone();
            here[missing] = 0;
            assert_eq!(readable(&bed, &opened, KEPT), here, "the others serve on");
            bed.run(free(&opened, FREED)).expect("two devices are well");
            bed.world.crash_with(Crash::ProcessKill);
        }
        bed.absent.borrow_mut().clear();
        for _ in 0..2 {
            let opened = bed.open_all(shards, |_| {});
            let mut here = kept.clone();
            here[missing] = 0;
            assert_eq!(readable(&bed, &opened, FREED), none(3), "freed");
            assert_eq!(readable(&bed, &opened, KEPT), here, "the others are whole");
            bed.world.crash_with(Crash::ProcessKill);
        }
    }
}

#[test]
fn a_device_that_missed_nothing_comes_back_with_all_its_blocks() {
    let (bed, opened) = filled(47, 2, 2);
    // Marks that it got.
    bed.run(free(&opened, FREED)).expect("both are well");
    let kept = readable(&bed, &opened, KEPT);
    take_out(&bed, &opened, 0, DEVICES[1]);
    bed.world.restore_device(DEVICES[1]);
    bed.world.crash_with(Crash::ProcessKill);
    bed.absent.borrow_mut().insert(DEVICES[0].to_owned());
    let opened = bed.open_all(2, |_| {});
    assert_eq!(readable(&bed, &opened, KEPT), [0, kept[1]]);
    bed.run(async {
        for shard in &opened {
            shard.store.close().await.expect("durable");
        }
    });
    bed.world.crash_with(Crash::ProcessKill);
    bed.absent.borrow_mut().clear();
    let opened = bed.open_all(2, |_| {});
    assert_eq!(readable(&bed, &opened, KEPT), kept);
    assert_eq!(readable(&bed, &opened, FREED), none(2));
}

#[test]
fn what_was_freed_since_a_device_was_copied_stays_away_when_the_copy_is_restored() {
    for is_freed in [true, false] {
        let (bed, opened) = filled(48, 2, 1);
        let kept = readable(&bed, &opened, KEPT);
        bed.run(async { opened[0].store.close().await.expect("durable") });
        bed.world.crash_with(Crash::ProcessKill);
        let length = crate::bed::device_bytes(32) as usize;
        let copy = bed.world.device_bytes(DEVICES[0], 0, length);
        let opened = bed.open_all(1, |_| {});
        if is_freed {
            bed.run(free(&opened, FREED)).expect("both are well");
        }
        bed.world.crash_with(Crash::ProcessKill);
        bed.world.write_device_bytes(DEVICES[0], 0, &copy);
        let opened = bed.open_all(1, |_| {});
        if is_freed {
            assert_eq!(readable(&bed, &opened, FREED), none(2), "freed");
            assert_eq!(readable(&bed, &opened, KEPT), [0, kept[1]]);
        } else {
            assert_eq!(readable(&bed, &opened, KEPT), kept, "nothing was missed");
        }
    }
}

#[test]
fn a_pin_and_its_end_hold_on_a_device_that_was_out_meanwhile() {
    let (bed, opened) = filled(49, 2, 1);
    let (pinned, ended) = (
        object(100, u64::from(BLOCK_BYTES)),
        object(101, u64::from(BLOCK_BYTES)),
    );
    bed.run(opened[0].store.pin(ended.id, true)).expect("room");
    take_out(&bed, &opened, 0, DEVICES[1]);
    bed.world.restore_device(DEVICES[1]);
    bed.run(opened[0].store.pin(pinned.id, true))
        .expect("one is well");
    bed.run(opened[0].store.pin(ended.id, false))
        .expect("one is well");
    bed.world.crash_with(Crash::ProcessKill);
    // Back, and then alone: it got the pin from the other.
    for missing in [None, Some(DEVICES[0])] {
        bed.absent.borrow_mut().extend(missing.map(str::to_owned));
        let opened = bed.open_all(1, |_| {});
        assert!(opened[0].store.is_pinned(pinned.id), "missing: {missing:?}");
        assert!(!opened[0].store.is_pinned(ended.id), "missing: {missing:?}");
        // The device gets the record of the pin while the store serves.
        bed.run(bed.world.sleep(Duration::from_millis(100)));
        bed.world.crash_with(Crash::ProcessKill);
    }
}

#[test]
fn with_all_devices_out_nothing_is_freed_for_good_and_nobody_is_told_so() {
    for devices in [1, 2] {
        let (bed, opened) = filled(50, devices, 1);
        let shard = &opened[0];
        for path in &DEVICES[..devices] {
            bed.world.fail_device(path);
        }
        bed.run(async {
            shard.store.flush().await.expect_err("no device answers");
            for number in FREED {
                let meta = object(number, u64::from(BLOCK_BYTES));
                shard
                    .store
                    .free(meta.id)
                    .await
                    .expect_err("no device is well");
                shard
                    .store
                    .pin(meta.id, true)
                    .await
                    .expect_err("nor pinned");
                shard
                    .store
                    .pin(meta.id, false)
                    .await
                    .expect_err("nor unpinned");
            }
            shard
                .store
                .distrust_absent_devices()
                .await
                .expect_err("nor written");
            shard.store.save_state(vec![1]).await.expect_err("nor kept");
        });
        for path in &DEVICES[..devices] {
            bed.world.restore_device(path);
        }
        bed.world.crash_with(Crash::ProcessKill);
        let opened = bed.open_all(1, |_| {});
        let all = FREED.len() as u32;
        assert_eq!(readable(&bed, &opened, FREED).iter().sum::<u32>(), all);
        bed.run(free(&opened, FREED)).expect("well again");
        bed.world.crash_with(Crash::ProcessKill);
        let opened = bed.open_all(1, |_| {});
        assert_eq!(readable(&bed, &opened, FREED), none(devices), "freed");
    }
}

#[test]
fn objects_of_an_absent_device_that_nobody_can_name_are_not_believed_when_it_is_back() {
    let (bed, opened) = filled(51, 2, 1);
    let kept = readable(&bed, &opened, KEPT);
    bed.world.crash_with(Crash::ProcessKill);
    bed.absent.borrow_mut().insert(DEVICES[1].to_owned());
    let opened = bed.open_all(1, |_| {});
    bed.run(opened[0].store.distrust_absent_devices())
        .expect("one is well");
    bed.world.crash_with(Crash::ProcessKill);
    bed.absent.borrow_mut().clear();
    let opened = bed.open_all(1, |_| {});
    assert_eq!(readable(&bed, &opened, KEPT), [kept[0], 0]);
}

#[test]
fn a_crash_at_any_write_brings_back_nothing_that_was_freed_while_a_device_was_away() {
    let name = "a_crash_at_any_write_brings_back_nothing_that_was_freed_while_a_device_was_away";
    check_seeds(name, 16, |seed| {
        let random = Prng::new(seed ^ 0x6162_7365_6e74);
        let mut faults = Faults::none();
        (faults.power_loss, faults.unflushed_loss) = (0.5, [0.5, 1.0][random.below(2) as usize]);
        faults.torn_write = 0.5;
        let (bed, opened) = filled(seed, 2, 1);
        bed.world.set_faults(faults);
        let kept = readable(&bed, &opened, KEPT);
        bed.world.crash_with(Crash::ProcessKill);
        bed.absent.borrow_mut().insert(DEVICES[1].to_owned());
        let opened = bed.open_all(1, |_| {});
        // The first mark writes the superblocks twice.
        bed.world
            .crash_at(CrashPoint::AtWrite(random.between(1, 8)));
        let mut freed = 0;
        let ended = bed.world.block_on(async {
            for number in FREED {
                free(&opened, number..number + 1)
                    .await
                    .expect("one is well");
                freed = number + 1;
            }
        });
        if ended.is_ok() {
            bed.world.crash();
        }
        bed.absent.borrow_mut().clear();
        // Crashes while it is emptied, and a start that comes to its end.
        for _ in 0..random.between(0, 3) {
            bed.world
                .crash_at(CrashPoint::AtWrite(random.between(1, 40)));
            if bed.try_open_all(1, &Family::default(), |_| {}).is_ok() {
                bed.world.crash();
            }
        }
        bed.world.cancel_crash();
        let opened = bed.open_all(1, |_| {});
        assert_eq!(readable(&bed, &opened, 0..freed), none(2), "{freed} freed");
        assert_eq!(
            readable(&bed, &opened, KEPT)[0],
            kept[0],
            "nothing was missed"
        );
    });
}

#[test]
fn a_device_counts_again_only_once_it_is_durably_empty() {
    for seed in 52..56 {
        let (bed, opened) = filled(seed, 2, 1);
        bed.world.crash_with(Crash::ProcessKill);
        bed.absent.borrow_mut().insert(DEVICES[1].to_owned());
        let opened_without = bed.open_all(1, |_| {});
        drop(opened);
        bed.run(free(&opened_without, FREED)).expect("one is well");
        bed.world.crash_with(Crash::ProcessKill);
        bed.absent.borrow_mut().clear();
        let mut faults = Faults::none();
        (faults.power_loss, faults.unflushed_loss) = (1.0, 1.0);
        bed.world.set_faults(faults);
        // Of all that was not flushed, the superblock that makes it count reaches the medium.
        let superblock = Rc::new(Cell::new(None));
        let seen = Rc::clone(&superblock);
        bed.world.crash_when_written(move |device, offset, bytes| {
            let is_superblock = device == 1 && offset < 128 << 10;
            if is_superblock {
                seen.set(Some((offset, bytes.to_vec())));
            }
            is_superblock
        });
        let ended = bed.try_open_all(1, &Family::default(), |_| {});
        assert!(
            ended.is_err(),
            "it is emptied, and then its superblock is written"
        );
        let (offset, bytes) = superblock.take().expect("it ended the world");
        bed.world.write_device_bytes(DEVICES[1], offset, &bytes);
        let opened = bed.open_all(1, |_| {});
        assert_eq!(readable(&bed, &opened, FREED), none(2), "freed");
    }
}

#[test]
fn state_is_kept_by_every_device_that_takes_writes_or_not_at_all() {
    let (bed, opened) = filled(56, 2, 1);
    let store = &opened[0].store;
    bed.run(async {
        store.save_state(vec![1; 100]).await.expect("both are well");
        bed.world.fail_device(DEVICES[1]);
        store
            .save_state(vec![2; 100])
            .await
            .expect_err("one did not take it");
        assert!(store.devices().iter().all(|device| device.healthy));
        bed.world.restore_device(DEVICES[1]);
        store.save_state(vec![3; 100]).await.expect("both are well");
    });
    bed.world.crash_with(Crash::ProcessKill);
    bed.absent.borrow_mut().insert(DEVICES[0].to_owned());
    let opened = bed.open_all(1, |_| {});
    let state = bed.run(opened[0].store.load_state()).expect("readable");
    assert_eq!(state, Some(vec![3; 100]));
}
