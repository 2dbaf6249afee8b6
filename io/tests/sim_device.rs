//! What the devices of a simulated world promise: what survives which crash, and how they break.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use corelane_io::sim::{
    Crash, CrashPoint, Fault, Faults, Hang, SimDevice, SimIo, World, check_seeds,
};
use corelane_io::{
    Device, FrameLease, FramePool, FrameSlice, Io, IoErrorKind, PAGE_SIZE, Priority,
};

const PATH: &str = "/dev/sim";
const PAGES: u64 = 64;

fn world(seed: u64, faults: Faults) -> World {
    let world = World::new(seed, faults);
    world.add_device(PATH, PAGES * PAGE_SIZE as u64);
    world
}

struct Bench {
    device: SimDevice,
    pool: FramePool,
}

impl Bench {
    async fn new(io: &SimIo) -> Bench {
        Bench {
            device: io
                .open_device(PATH.as_ref())
                .await
                .expect("the device is there"),
            pool: io.allocate_pool(32, 4).expect("memory for 32 frames"),
        }
    }

    fn lease(&self, pages: usize) -> FrameLease {
        let frame = self.pool.take().expect("a free frame");
        frame.lease(0..pages).expect("vacant pages")
    }

    fn pages_of(&self, byte: u8, pages: usize) -> FrameSlice {
        let mut lease = self.lease(pages);
        lease.bytes_mut().fill(byte);
        lease.seal().slice(0..pages * PAGE_SIZE)
    }

    async fn write(&self, page: u64, byte: u8, pages: usize) {
        let slice = self.pages_of(byte, pages);
        self.device
            .write(page * PAGE_SIZE as u64, slice)
            .await
            .expect("no write fault");
    }

    async fn read(&self, page: u64, pages: usize) -> Vec<u8> {
        let lease = self
            .device
            .read(page * PAGE_SIZE as u64, self.lease(pages))
            .await
            .expect("no read fault");
        lease.bytes().to_vec()
    }
}

/// Runs `work` on a bench of the core `io`, which meets no crash meanwhile.
fn on_bench<T>(world: &World, io: &SimIo, work: impl AsyncFnOnce(Bench) -> T) -> T {
    world
        .block_on(async { work(Bench::new(io).await).await })
        .expect("no crash was scheduled")
}

fn page_of(world: &World, page: u64) -> Vec<u8> {
    world.device_bytes(PATH, page * PAGE_SIZE as u64, PAGE_SIZE)
}

#[test]
fn what_was_written_is_read_until_discarded() {
    let world = world(1, Faults::none());
    let io = world.core();
    on_bench(&world, &io, async |bench| {
        bench.write(3, 7, 4).await;
        assert_eq!(
            bench.read(2, 4).await,
            [vec![0; PAGE_SIZE], vec![7; 3 * PAGE_SIZE]].concat()
        );
        bench
            .device
            .discard(3 * PAGE_SIZE as u64, PAGE_SIZE as u64)
            .await
            .expect("discard is a hint");
        let after = bench.read(3, 1).await;
        assert!(after.iter().all(|byte| *byte == 0) || after.iter().all(|byte| *byte == 7));
    });
    assert_eq!(world.injections(), []);
    assert_eq!(
        io.counters().completions,
        io.counters().submissions + 1,
        "and one timer of the open"
    );
}

#[test]
fn a_power_cut_takes_only_what_was_not_flushed() {
    let faults = Faults {
        unflushed_loss: 0.5,
        ..Faults::none()
    };
    let (mut lost, mut kept) = (0, 0);
    check_seeds("a_power_cut_takes_only_what_was_not_flushed", 50, |seed| {
        let world = world(seed, faults.clone());
        let io = world.core();
        on_bench(&world, &io, async |bench| {
            bench.write(0, 1, 4).await;
            bench.device.flush().await.expect("no flush fault");
            bench.write(2, 2, 4).await;
        });
        world.crash_with(Crash::PowerLoss);
        assert!(!io.is_alive());
        assert_eq!(
            page_of(&world, 0),
            [1; PAGE_SIZE],
            "flushed and not overwritten"
        );
        let survived = world.injected(Fault::UnflushedLost) == 0;
        let expected: [u8; 2] = if survived { [2, 2] } else { [1, 0] };
        assert_eq!([page_of(&world, 2)[0], page_of(&world, 4)[0]], expected);
    });
    for seed in 0..50 {
        let world = world(seed, faults.clone());
        let io = world.core();
        on_bench(&world, &io, async |bench| bench.write(2, 2, 4).await);
        world.crash_with(Crash::PowerLoss);
        if page_of(&world, 2)[0] == 2 {
            kept += 1
        } else {
            lost += 1
        }
    }
    assert!(
        lost > 5 && kept > 5,
        "{lost} lost and {kept} kept, half each was meant"
    );
}

#[test]
fn the_kill_of_a_process_keeps_what_completed() {
    let faults = Faults {
        unflushed_loss: 1.0,
        torn_write: 1.0,
        ..Faults::none()
    };
    let world = world(2, faults);
    let io = world.core();
    on_bench(&world, &io, async |bench| bench.write(5, 9, 4).await);
    world.crash_with(Crash::ProcessKill);
    assert_eq!(page_of(&world, 8), [9; PAGE_SIZE]);
    let restarted = world.core();
    let read = on_bench(&world, &restarted, async |bench| bench.read(5, 4).await);
    assert_eq!(read, vec![9; 4 * PAGE_SIZE]);
}

/// Crashes with one write of four pages over others in flight; the bytes that are left.
fn crash_in_a_write(seed: u64, torn_write: f64, power_loss: f64) -> (World, Vec<u8>) {
    let world = world(
        seed,
        Faults {
            torn_write,
            power_loss,
            ..Faults::none()
        },
    );
    let io = world.core();
    let crashed = world.block_on(async {
        let bench = Bench::new(&io).await;
        bench.write(10, 1, 4).await;
        bench.device.flush().await.expect("no flush fault");
        world.crash_at(CrashPoint::AtWrite(1));
        bench.write(10, 2, 4).await;
    });
    assert!(
        crashed.is_err(),
        "the crash comes before the write completes"
    );
    let left = world.device_bytes(PATH, 10 * PAGE_SIZE as u64, 4 * PAGE_SIZE);
    assert!(left.iter().all(|byte| [1, 2].contains(byte)));
    (world, left)
}

#[test]
fn a_write_in_flight_is_torn_in_pages_by_a_kill_and_in_sectors_by_a_power_cut() {
    let is_mixed = |bytes: &[u8]| bytes.contains(&1) && bytes.contains(&2);
    let left = |torn, power| (0..60).map(move |seed| crash_in_a_write(seed, torn, power).1);
    assert!(
        !left(0.0, 0.0).any(|bytes| is_mixed(&bytes)),
        "whole or nothing without tearing"
    );
    assert!(left(0.0, 0.0).any(|bytes| bytes[0] == 1) && left(0.0, 0.0).any(|bytes| bytes[0] == 2));
    let has_mixed_page = |bytes: Vec<u8>| bytes.chunks(PAGE_SIZE).any(is_mixed);
    assert!(left(1.0, 0.0).any(|bytes| is_mixed(&bytes)));
    assert!(
        !left(1.0, 0.0).any(has_mixed_page),
        "a kill tears between pages"
    );
    assert!(
        left(1.0, 1.0).any(has_mixed_page),
        "a power cut tears in a page"
    );
    assert!(crash_in_a_write(1, 1.0, 0.0).0.injected(Fault::TornWrite) > 0);
}

#[test]
fn a_misdirected_write_lands_elsewhere_and_is_logged() {
    let world = world(
        4,
        Faults {
            misdirected_write: 1.0,
            ..Faults::none()
        },
    );
    let io = world.core();
    on_bench(&world, &io, async |bench| bench.write(20, 5, 1).await);
    assert_eq!(page_of(&world, 20), [0; PAGE_SIZE]);
    let injections = world.injections();
    let place = injections
        .iter()
        .find(|injection| injection.fault == Fault::MisdirectedWrite);
    let place = place.expect("the place is logged");
    assert_eq!(
        world.device_bytes(PATH, place.offset, PAGE_SIZE),
        [5; PAGE_SIZE]
    );
    assert_eq!(
        world.injected(Fault::LostWrite),
        1,
        "the place that should have been written"
    );
}

#[test]
fn a_lost_write_reports_success_and_changes_nothing() {
    let world = world(
        10,
        Faults {
            lost_write: 1.0,
            ..Faults::none()
        },
    );
    let io = world.core();
    on_bench(&world, &io, async |bench| bench.write(20, 5, 1).await);
    assert_eq!(page_of(&world, 20), [0; PAGE_SIZE]);
    assert_eq!(world.injected(Fault::LostWrite), 1);
}

#[test]
fn a_misdirected_read_returns_another_place_and_leaves_the_device_alone() {
    let world = world(
        11,
        Faults {
            misdirected_read: 1.0,
            ..Faults::none()
        },
    );
    for page in 0..PAGES {
        world.write_device_bytes(PATH, page * PAGE_SIZE as u64, &[page as u8; PAGE_SIZE]);
    }
    let io = world.core();
    let read = on_bench(&world, &io, async |bench| bench.read(20, 1).await);
    let others = u64::from(read[0]);
    assert_eq!(read, page_of(&world, others), "a whole page of somewhere");
    assert_eq!(others != 20, world.injected(Fault::MisdirectedRead) == 1);
    assert_eq!(page_of(&world, 20), [20; PAGE_SIZE]);
}

#[test]
fn a_failed_flush_makes_nothing_durable() {
    let faults = Faults {
        flush_error: 1.0,
        unflushed_loss: 1.0,
        ..Faults::none()
    };
    let world = world(12, faults);
    let io = world.core();
    on_bench(&world, &io, async |bench| {
        bench.write(1, 1, 1).await;
        bench.device.flush().await.expect_err("every flush fails");
    });
    assert_eq!(page_of(&world, 1), [1; PAGE_SIZE]);
    world.cut_power_of(PATH);
    assert!(io.is_alive(), "only the device lost power");
    assert_eq!(page_of(&world, 1), [0; PAGE_SIZE]);
}

#[test]
fn what_a_failed_flush_drops_is_lost_with_power_although_later_flushes_succeed() {
    let dropping = Faults {
        flush_drop: 1.0,
        ..Faults::none()
    };
    let world = world(14, dropping);
    let io = world.core();
    on_bench(&world, &io, async |bench| {
        bench.write(1, 1, 1).await;
        bench.write(2, 2, 1).await;
        bench.device.flush().await.expect_err("every flush fails");
        world.set_faults(Faults::none());
        bench.write(2, 3, 1).await;
        bench.write(3, 4, 1).await;
        bench.device.flush().await.expect("nothing is left of it");
    });
    assert_eq!(world.injected(Fault::FlushDropped), 1);
    assert_eq!(page_of(&world, 1), [1; PAGE_SIZE], "reads see it");
    world.cut_power_of(PATH);
    assert_eq!(page_of(&world, 1), [0; PAGE_SIZE], "dropped");
    assert_eq!(page_of(&world, 2), [3; PAGE_SIZE], "written again");
    assert_eq!(page_of(&world, 3), [4; PAGE_SIZE], "flushed");
}

#[test]
fn a_device_that_failed_and_is_restored_has_what_it_had() {
    let world = world(15, Faults::none());
    let io = world.core();
    on_bench(&world, &io, async |bench| {
        bench.write(1, 1, 1).await;
        world.fail_device(PATH);
        bench.device.flush().await.expect_err("it does not answer");
        world.restore_device(PATH);
        bench.device.flush().await.expect("it does");
    });
    assert_eq!(page_of(&world, 1), [1; PAGE_SIZE]);
}

#[test]
fn a_flush_covers_only_the_writes_that_completed_before_it_started() {
    let world = world(
        13,
        Faults {
            unflushed_loss: 1.0,
            ..Faults::none()
        },
    );
    let io = world.core();
    on_bench(&world, &io, async |bench| {
        bench.write(1, 1, 1).await;
        // A flush that outlasts the write that starts after it.
        world.set_faults(Faults {
            device_ns: (1_000_000, 1_000_000),
            ..world.faults()
        });
        let flushing = bench.device.flush();
        let writing = async {
            io.yield_now().await;
            world.set_faults(Faults {
                device_ns: (1_000, 1_000),
                ..world.faults()
            });
            bench.write(2, 2, 1).await;
        };
        futures::join!(flushing, writing).0.expect("no flush fault");
    });
    world.crash_with(Crash::PowerLoss);
    assert_eq!([page_of(&world, 1)[0], page_of(&world, 2)[0]], [1, 0]);
}

#[test]
fn a_failed_write_leaves_all_some_or_nothing_and_says_so() {
    let mut left = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let world = world(
            seed,
            Faults {
                write_error: 1.0,
                ..Faults::none()
            },
        );
        let io = world.core();
        on_bench(&world, &io, async |bench| {
            let error = bench.device.write(0, bench.pages_of(1, 4)).await;
            assert_eq!(
                error.expect_err("every write fails").kind(),
                IoErrorKind::Device
            );
        });
        let bytes = world.device_bytes(PATH, 0, 4 * PAGE_SIZE);
        let written = bytes.iter().filter(|byte| **byte == 1).count();
        left.insert((written > 0, written == bytes.len()));
    }
    assert_eq!(
        left.len(),
        3,
        "nothing, some and all of it were seen: {left:?}"
    );
}

#[test]
fn a_flip_on_read_is_gone_the_next_time_and_one_at_rest_stays() {
    for (faults, fault, stays) in [
        (
            Faults {
                bit_flip_on_read: 1.0,
                ..Faults::none()
            },
            Fault::BitFlipOnRead,
            false,
        ),
        (
            Faults {
                bit_flip_at_rest: 1.0,
                ..Faults::none()
            },
            Fault::BitFlipAtRest,
            true,
        ),
    ] {
        let world = world(5, faults);
        let io = world.core();
        let (first, second) = on_bench(&world, &io, async |bench| {
            bench.write(0, 0, 1).await;
            let first = bench.read(0, 1).await;
            world.set_faults(Faults::none());
            bench.device.flush().await.expect("no flush fault");
            (first, bench.read(0, 1).await)
        });
        let bits = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
        assert_eq!(bits(&first), 1);
        assert_eq!(bits(&second), u32::from(stays));
        assert_eq!(world.injected(fault), 1);
        world.crash_with(Crash::PowerLoss);
        assert_eq!(
            bits(&page_of(&world, 0)),
            u32::from(stays),
            "also after a flush and a power cut"
        );
    }
}

#[test]
fn errors_are_of_the_device_and_name_the_place() {
    let world = world(
        6,
        Faults {
            read_error: 1.0,
            ..Faults::none()
        },
    );
    let io = world.core();
    on_bench(&world, &io, async |bench| {
        let read = || bench.device.read(PAGE_SIZE as u64, bench.lease(1));
        let error = read().await.expect_err("every read fails");
        assert_eq!(error.kind(), IoErrorKind::Device);
        assert!(
            error.to_string().contains("device /dev/sim, offset 4096"),
            "{error}"
        );
        world.set_faults(Faults::none());
        read().await.expect("no fault now");
        world.fail_device(PATH);
        read().await.expect_err("the device failed for good");
        bench
            .device
            .flush()
            .await
            .expect_err("the device failed for good");
        io.open_device(PATH.as_ref())
            .await
            .map(drop)
            .expect_err("the device failed for good");
        assert_eq!(
            bench.pool.available(),
            32,
            "failed reads give their leases up"
        );
        let missing = io.open_device("/dev/none".as_ref()).await.map(drop);
        assert_eq!(
            missing.expect_err("no such device").kind(),
            IoErrorKind::InvalidInput
        );
    });
    assert_eq!(
        (
            world.injected(Fault::ReadError),
            world.injected(Fault::DeviceFailed)
        ),
        (1, 1)
    );
}

#[test]
fn the_lease_of_a_dropped_read_is_held_until_the_device_is_done_and_never_filled() {
    let world = world(7, Faults::none());
    world.write_device_bytes(PATH, 0, &[9; PAGE_SIZE]);
    let io = world.core();
    on_bench(&world, &io, async |bench| {
        let frame = bench.pool.take().expect("a free frame");
        let mut lease = frame.lease(0..1).expect("vacant pages");
        lease.bytes_mut().fill(1);
        {
            let mut read = pin!(bench.device.read(0, lease));
            let polled = std::future::poll_fn(|context: &mut Context<'_>| {
                Poll::Ready(read.as_mut().poll(context).is_pending())
            });
            assert!(polled.await, "a read takes time");
        }
        assert!(
            frame.lease(0..1).is_none(),
            "the device may still write the pages"
        );
        world.sleep(Duration::from_secs(1)).await;
        let lease = frame.lease(0..1).expect("vacant again");
        assert_eq!(lease.bytes(), [1; PAGE_SIZE]);
        world.sleep(Duration::from_secs(1)).await;
        assert_eq!(lease.bytes(), [1; PAGE_SIZE]);
    });
}

#[test]
fn leases_and_slices_in_flight_come_back_when_the_core_is_killed() {
    let world = world(8, Faults::none());
    let io = world.core();
    let bench = on_bench(&world, &io, async |bench| bench);
    for page in 0..8 {
        let slice = bench.pages_of(1, 1);
        let (write, read) = (
            bench.device.write(page * PAGE_SIZE as u64, slice),
            bench.device.read(0, bench.lease(2)),
        );
        io.spawn(Priority::Flush, async move {
            write.await.expect("no write fault")
        });
        io.spawn(Priority::Foreground, async move { drop(read.await) });
    }
    world
        .run_for(Duration::from_micros(10))
        .expect("no crash was scheduled");
    assert!(bench.pool.available() <= 16, "operations hold their frames");
    world.kill_core(&io);
    assert_eq!(bench.pool.available(), 32);
}

#[test]
fn corruption_from_outside_changes_every_byte_for_good() {
    let world = world(
        9,
        Faults {
            unflushed_loss: 1.0,
            ..Faults::none()
        },
    );
    let io = world.core();
    on_bench(&world, &io, async |bench| bench.write(1, 3, 1).await);
    world.corrupt(PATH, PAGE_SIZE as u64 - 10, 20, 1);
    assert!(
        page_of(&world, 0)[PAGE_SIZE - 10..]
            .iter()
            .all(|byte| *byte != 0)
    );
    assert!(page_of(&world, 1)[..10].iter().all(|byte| *byte != 3));
    assert_eq!(page_of(&world, 1)[10..], [3; PAGE_SIZE - 10]);
    assert_eq!(world.injected(Fault::Corrupted), 1);
}

#[test]
fn a_device_that_hangs_keeps_what_it_works_on_until_it_answers_late() {
    let world = world(11, Faults::none());
    let io = world.core();
    on_bench(&world, &io, async |bench: Bench| {
        bench.write(0, 7, 1).await;
        world.hang_device(PATH, Hang::ALL);
        let free = bench.pool.available();
        let mut read = pin!(bench.device.read(0, bench.lease(1)));
        let mut write = pin!(bench.device.write(0, bench.pages_of(8, 1)));
        let mut flush = pin!(bench.device.flush());
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(read.as_mut().poll(&mut context).is_pending());
        assert!(write.as_mut().poll(&mut context).is_pending());
        assert!(flush.as_mut().poll(&mut context).is_pending());
        io.sleep(Duration::from_secs(3)).await;
        let three = Duration::from_secs(3);
        assert!(bench.device.time_out(Duration::MAX, Duration::MAX).any() >= three);
        assert!(read.as_mut().poll(&mut context).is_pending());
        bench.device.time_out(three, three);
        let error = read.await.expect_err("timed out");
        assert_eq!(error.kind(), IoErrorKind::Timeout);
        assert_eq!(
            write.await.expect_err("timed out").kind(),
            IoErrorKind::Timeout
        );
        assert_eq!(
            flush.await.expect_err("timed out").kind(),
            IoErrorKind::Timeout
        );
        assert_eq!(bench.pool.available(), free - 2, "it may still touch them");
        assert_eq!(page_of(&world, 0)[0], 7, "nothing was written yet");
        world.answer_device(PATH);
        io.sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.pool.available(), free);
        assert_eq!(page_of(&world, 0)[0], 8, "it came late");
        assert!(
            bench
                .device
                .time_out(Duration::ZERO, Duration::ZERO)
                .any()
                .is_zero()
        );
        assert_eq!(bench.read(0, 1).await, vec![8; PAGE_SIZE]);
        assert_eq!(world.injected(Fault::Unanswered), 3);
    });
}
