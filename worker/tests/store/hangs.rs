//! Devices that do not answer, and devices that another worker has taken.

use std::time::Duration;

use corelane_io::sim::{Fault, Faults, Hang};
use corelane_io::{Io, PAGE_SIZE};
use corelane_worker::store::{MarkError, NotKept, ReadError, Wear};

use crate::bed::{BLOCK_BYTES, Bed, REGION_BYTES, Shard, object};

const DEVICE: &str = "/dev/nvme0";

const READS: Hang = Hang {
    reads: true,
    writes: false,
    flushes: false,
};
const WRITES: Hang = Hang {
    reads: false,
    writes: true,
    flushes: false,
};
const FLUSHES: Hang = Hang {
    reads: false,
    writes: false,
    flushes: true,
};

/// Longest that a read waits for a device, and the watch for its next look.
const READ_MAX: Duration = Duration::from_secs(7);

/// Longest that frees and pins wait for a device, and the watch for its next look.
const FREE_MAX: Duration = Duration::from_secs(22);

/// Longest that anything waits for a device, by default.
const ANY_MAX: Duration = Duration::from_secs(63);

/// Longest that closing a store waits.
const CLOSE_MAX: Duration = Duration::from_secs(21);

/// Runs `work` and asserts that it ends within `max` of virtual time.
#[track_caller]
fn within<T>(bed: &Bed, max: Duration, work: impl Future<Output = T>) -> T {
    let began = bed.world.now();
    let done = bed.run(work);
    let took = bed.world.now().since(began);
    assert!(took <= max, "it took {took:?}, more than {max:?}");
    done
}

fn is_healthy(shard: &Shard) -> bool {
    shard.store.devices()[0].healthy
}

/// A store with 16 durable blocks of object 1.
fn filled(seed: u64) -> (Bed, Shard) {
    let bed = Bed::new(seed, Faults::none(), 1, 40);
    let shard = bed.open_one();
    bed.run(async {
        assert_eq!(shard.append_all(&object(1, 1 << 20)).await, 16);
        shard.store.flush().await.expect("a flush");
    });
    (bed, shard)
}

#[test]
fn a_read_that_is_not_answered_is_a_miss_and_the_block_stays() {
    let (bed, shard) = filled(1);
    let meta = object(1, 1 << 20);
    bed.world.hang_device(DEVICE, READS);
    let read = within(&bed, READ_MAX, shard.read(&meta, 0));
    assert!(matches!(read, Some(Err(ReadError::Device(_)))), "{read:?}");
    // From then on nothing is waited for.
    let read = within(&bed, Duration::from_millis(1), shard.read(&meta, 1));
    assert!(matches!(read, Some(Err(ReadError::Device(_)))), "{read:?}");
    assert!(is_healthy(&shard), "seconds do not take a device out");
    assert_eq!(shard.store.counters().device_stalls.get(), 1);
    assert_eq!(shard.store.counters().device_errors.get(), 0);

    bed.world.answer_device(DEVICE);
    bed.world.run_for(Duration::from_secs(2)).expect("no crash");
    assert_eq!(bed.run(shard.readable(&meta)), 16, "it answers again");
    assert!(bed.world.injected(Fault::Unanswered) > 0);
}

#[test]
fn the_memory_of_a_read_stays_with_the_device_until_it_answers() {
    let (bed, shard) = filled(2);
    let meta = object(1, 1 << 20);
    let free = shard.pool.available();
    bed.world.hang_device(DEVICE, READS);
    within(&bed, READ_MAX, shard.read(&meta, 0));
    assert_eq!(
        shard.pool.available(),
        free - 1,
        "the device may write to it"
    );
    bed.world
        .run_for(Duration::from_secs(20))
        .expect("no crash");
    assert_eq!(shard.pool.available(), free - 1, "still");
    bed.world.answer_device(DEVICE);
    bed.world.run_for(Duration::from_secs(2)).expect("no crash");
    assert_eq!(shard.pool.available(), free);
}

#[test]
fn a_device_that_answers_nothing_is_taken_out() {
    for (number, hang) in [READS, WRITES, FLUSHES, Hang::ALL].into_iter().enumerate() {
        let (bed, shard) = filled(3 + number as u64);
        bed.world.hang_device(DEVICE, hang);
        within(&bed, ANY_MAX, async {
            if hang.reads {
                shard.read(&object(1, 1 << 20), 0).await;
            }
            let _ = shard.append(&object(2, 4096), 0);
            // Of a device that does not answer, an error.
            let _ = shard.store.flush().await;
        });
        bed.world.run_for(ANY_MAX).expect("no crash");
        assert!(!is_healthy(&shard), "{hang:?}");
        assert_eq!(shard.store.counters().devices_failed.get(), 1, "{hang:?}");
        assert_eq!(
            shard.append(&object(3, 4096), 0),
            Err(NotKept::NoRoom),
            "{hang:?}"
        );
        // What comes late changes nothing any more.
        bed.world.answer_device(DEVICE);
        bed.world.run_for(Duration::from_secs(5)).expect("no crash");
        assert!(!is_healthy(&shard), "{hang:?}");
        // Of a device that does not answer, an error.
        let _ = within(&bed, Duration::from_secs(1), shard.store.close());
    }
}

#[test]
fn free_and_pin_do_not_wait_for_a_device_that_hangs() {
    for (number, hang) in [WRITES, FLUSHES, Hang::ALL].into_iter().enumerate() {
        let (bed, shard) = filled(10 + number as u64);
        let meta = object(1, 1 << 20);
        bed.world.hang_device(DEVICE, hang);
        let freed = within(&bed, FREE_MAX, shard.store.free(meta.id));
        assert!(matches!(freed, Err(MarkError::NotDurable(_))), "{freed:?}");
        assert_eq!(shard.store.held(meta.id).blocks, 0, "they are gone at once");
        let pinned = within(&bed, Duration::from_secs(1), shard.store.pin(meta.id, true));
        assert!(
            matches!(pinned, Err(MarkError::NotDurable(_))),
            "{pinned:?}"
        );
        bed.world.answer_device(DEVICE);
        bed.world.run_for(Duration::from_secs(2)).expect("no crash");
        bed.run(shard.store.free(meta.id))
            .expect("it answers again");
    }
}

#[test]
fn closing_ends_whatever_hangs() {
    for (number, hang) in [READS, WRITES, FLUSHES, Hang::ALL].into_iter().enumerate() {
        let (bed, shard) = filled(20 + number as u64);
        bed.world.hang_device(DEVICE, hang);
        let _ = shard.append(&object(2, 4096), 0);
        // Of a device that does not answer, an error.
        let _ = within(&bed, CLOSE_MAX, shard.store.close());
        // A second one finds nothing to wait for.
        // Of a device that does not answer, an error.
        let _ = within(&bed, CLOSE_MAX, shard.store.close());
    }
}

#[test]
fn of_two_devices_the_one_that_answers_goes_on_and_is_closed_in_order() {
    let bed = Bed::new(30, Faults::none(), 2, 40);
    let shard = bed.open_one();
    let objects: Vec<_> = (0..40)
        .map(|number| object(number, u64::from(BLOCK_BYTES)))
        .collect();
    bed.run(async {
        for object in &objects {
            shard.append_all(object).await;
        }
        shard.store.flush().await.expect("a flush");
    });
    bed.world.hang_device(DEVICE, Hang::ALL);
    let mut misses = 0;
    for object in &objects {
        match within(&bed, READ_MAX, shard.read(object, 0)) {
            Some(Ok(())) => {}
            Some(Err(ReadError::Device(_))) => misses += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(
        misses > 5 && misses < 35,
        "{misses} of 40 are on the device that hangs"
    );
    let late: Vec<_> = (100..140)
        .map(|number| object(number, u64::from(BLOCK_BYTES)))
        .collect();
    let kept: Vec<_> = late
        .iter()
        .filter(|object| shard.append(object, 0).is_ok())
        .collect();
    assert!(!kept.is_empty() && kept.len() < late.len());
    // Of a device that does not answer, an error.
    let _ = within(&bed, CLOSE_MAX, shard.store.close());
    bed.world.answer_device(DEVICE);
    drop(shard.store.clone());
    let shard = bed.open_one();
    for object in kept {
        let read = bed.run(shard.read(object, 0));
        assert!(matches!(read, Some(Ok(()))), "{read:?}");
    }
}

#[test]
fn reclaim_and_scrub_that_hang_keep_nobody_waiting() {
    for hang in [READS, WRITES, FLUSHES] {
        let bed = Bed::new(40, Faults::none(), 1, 32);
        let shard = bed
            .open_all(1, |config| config.scrub_bytes_per_second = 1 << 20)
            .pop()
            .expect("one");
        let one = object(1, 1 << 20);
        bed.run(async {
            for number in 0..32 {
                shard
                    .append_all(&object(number, u64::from(REGION_BYTES)))
                    .await;
            }
            shard.store.flush().await.expect("a flush");
        });
        let before = shard.store.counters().regions_reclaimed.get();
        assert!(before > 0, "it reclaims");
        bed.world.hang_device(DEVICE, hang);
        for number in 100..140 {
            let _ = shard.append(&object(number, 4096), 0);
        }
        // Both are under way now.
        bed.world.run_for(Duration::from_secs(2)).expect("no crash");
        let _ = within(&bed, FREE_MAX, shard.store.free(one.id));
        // Of a device that does not answer, an error.
        let _ = within(&bed, ANY_MAX, shard.store.flush());
        // Of a device that does not answer, an error.
        let _ = within(&bed, CLOSE_MAX, shard.store.close());
    }
}

#[test]
fn a_device_that_hangs_at_the_start_is_not_waited_for_without_end() {
    let (bed, shard) = filled(50);
    bed.run(shard.store.close()).expect("a flush");
    bed.world.crash_with(corelane_io::sim::Crash::ProcessKill);
    bed.world.hang_device(DEVICE, Hang::ALL);
    let opened = within(&bed, ANY_MAX, async {
        let io = bed.world.core();
        let scratch = io.allocate_pool(64, 16).expect("memory");
        let devices = bed.devices(&io).await;
        let config = corelane_worker::store::StoreConfig::default();
        let siblings = std::rc::Rc::new(crate::bed::Family::default());
        corelane_worker::store::Store::open(io, config, devices, scratch, siblings).await
    });
    assert!(opened.is_err(), "its superblock does not come");
}

#[test]
fn with_a_limit_of_zero_a_device_is_never_taken_out() {
    let bed = Bed::new(51, Faults::none(), 1, 40);
    let shard = bed
        .open_all(1, |config| config.device_timeout = Duration::ZERO)
        .pop()
        .expect("one");
    bed.run(async {
        shard.append_all(&object(1, 4096)).await;
        shard.store.flush().await.expect("a flush");
    });
    bed.world.hang_device(DEVICE, Hang::ALL);
    let read = within(&bed, READ_MAX, shard.read(&object(1, 4096), 0));
    assert!(matches!(read, Some(Err(_))), "{read:?}");
    bed.world
        .run_for(Duration::from_secs(600))
        .expect("no crash");
    assert!(is_healthy(&shard));
    bed.world.answer_device(DEVICE);
    bed.world.run_for(Duration::from_secs(2)).expect("no crash");
    assert_eq!(bed.run(shard.readable(&object(1, 4096))), 1);
}

/// What the superblocks hold, both copies.
fn superblocks(bed: &Bed) -> Vec<u8> {
    bed.world.device_bytes(DEVICE, 0, (64 << 10) + PAGE_SIZE)
}

#[test]
fn of_two_workers_on_one_device_the_first_stops_writing_at_once() {
    let (bed, first) = filled(60);
    bed.world
        .run_for(Duration::from_secs(60))
        .expect("no crash");
    assert!(is_healthy(&first), "its own superblocks are known to it");
    let second = bed.open_one();
    bed.world
        .run_for(Duration::from_secs(10))
        .expect("no crash");
    assert!(!is_healthy(&first), "it lost the device");
    assert!(is_healthy(&second), "it has the device");
    assert_eq!(first.append(&object(9, 4096), 0), Err(NotKept::NoRoom));
    // Not even its last words go to the device.
    let before = superblocks(&bed);
    // Of a device that was taken out, an error.
    let _ = bed.run(first.store.close());
    assert_eq!(superblocks(&bed), before);
    bed.run(async {
        assert_eq!(second.append_all(&object(2, 1 << 20)).await, 16);
        second.store.flush().await.expect("a flush");
        assert_eq!(second.readable(&object(2, 1 << 20)).await, 16);
    });
}

#[test]
fn a_device_that_was_overwritten_or_formatted_is_let_go() {
    for is_formatted in [false, true] {
        let (bed, shard) = filled(61);
        if is_formatted {
            // As another host would: with another set's superblocks.
            let other = Bed::new(99, Faults::none(), 1, 40);
            bed.world
                .write_device_bytes(DEVICE, 0, &superblocks(&other));
        } else {
            let other_owner = vec![0x5a; (64 << 10) + PAGE_SIZE];
            bed.world.write_device_bytes(DEVICE, 0, &other_owner);
        }
        bed.world
            .run_for(Duration::from_secs(10))
            .expect("no crash");
        assert!(!is_healthy(&shard));
        let before = superblocks(&bed);
        bed.run(shard.store.close()).expect("a flush");
        assert_eq!(superblocks(&bed), before, "it is theirs");
    }
}

#[test]
fn damage_to_one_or_both_superblocks_takes_no_device_out() {
    let (bed, shard) = filled(62);
    // Behind the magic number: damage, not something else.
    bed.world.corrupt(DEVICE, 70, 8, 1);
    bed.world.corrupt(DEVICE, (64 << 10) + 70, 8, 2);
    bed.world
        .run_for(Duration::from_secs(60))
        .expect("no crash");
    assert!(is_healthy(&shard));
}

#[test]
fn shards_of_one_worker_know_each_others_start() {
    let bed = Bed::new(63, Faults::none(), 2, 64);
    let wear = Wear::default();
    let shards = bed.open_all(2, |config| config.wear = wear.clone());
    bed.world
        .run_for(Duration::from_secs(60))
        .expect("no crash");
    for shard in &shards {
        assert!(shard.store.devices().iter().all(|device| device.healthy));
    }
}
