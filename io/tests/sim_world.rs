//! What a simulated world promises about time, order, tasks and replay.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use corelane_io::sim::{CrashPoint, Faults, World, check_seeds};
use corelane_io::{Device, Io, Listener, Nanos, PAGE_SIZE, Priority, SendBatch, Stream};

const PATH: &str = "/dev/sim";

/// Two cores that read, write, flush, sleep, talk and ring; the hash of all that happened.
fn busy_run(seed: u64) -> u64 {
    let world = World::new(seed, Faults::from_seed(seed));
    world.add_device(PATH, 256 * PAGE_SIZE as u64);
    let (server, client) = (world.core(), world.core());
    let listener = world.block_on(server.listen("127.0.0.1:0".parse().expect("an address")));
    let listener = listener
        .expect("no crash was scheduled")
        .expect("a free port");
    let address = listener.local_address();
    let served = server.clone();
    server.spawn(Priority::Foreground, async move {
        while let Ok(stream) = listener.accept().await {
            served.spawn(Priority::Foreground, async move {
                while let Ok(bytes) = stream.receive().await {
                    let mut answer = Box::<SendBatch>::default();
                    answer.push_head(&bytes);
                    if bytes.is_empty() || stream.send(answer).await.0.is_err() {
                        break;
                    }
                }
            });
        }
    });
    for worker in 0..8 {
        let io = client.clone();
        client.spawn(Priority::Background, async move {
            let device = io
                .open_device(PATH.as_ref())
                .await
                .expect("the device is there");
            let pool = io.allocate_pool(2, 4).expect("memory for two frames");
            for _ in 0..20 {
                let frame = pool.take().expect("a free frame");
                let mut lease = frame.lease(0..2).expect("vacant pages");
                lease.bytes_mut().fill(worker);
                let offset = io.random() % 250 * PAGE_SIZE as u64;
                if io.random() % 2 == 0 {
                    drop(device.read(offset, lease).await);
                } else {
                    drop(
                        device
                            .write(offset, lease.seal().slice(0..2 * PAGE_SIZE))
                            .await,
                    );
                }
                io.yield_now().await;
                drop(device.flush().await);
            }
        });
    }
    world.crash_at(CrashPoint::After(Duration::from_secs(60)));
    let talking = world.block_on(async {
        for _ in 0..10 {
            let Ok(stream) = client.connect(address).await else {
                continue;
            };
            let mut batch = Box::<SendBatch>::default();
            batch.push_head(&[1; 1000]);
            drop(stream.send(batch).await);
            drop(stream.receive().await);
        }
    });
    talking.expect("the crash comes later");
    world
        .run_for(Duration::from_millis(50))
        .expect("the crash comes later");
    world.trace_hash()
}

#[test]
fn the_same_seed_takes_the_same_steps_and_another_one_others() {
    check_seeds(
        "the_same_seed_takes_the_same_steps_and_another_one_others",
        20,
        |seed| {
            assert_eq!(busy_run(seed), busy_run(seed));
            assert_ne!(busy_run(seed), busy_run(seed + 1));
        },
    );
}

#[test]
fn a_deadlock_ends_in_a_panic_that_names_the_seed() {
    let world = World::new(41, Faults::none());
    let io = world.core();
    io.spawn(Priority::Flush, std::future::pending());
    let panic =
        catch_unwind(AssertUnwindSafe(|| world.block_on(io.rung()))).expect_err("nobody rings");
    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(
        message.contains("seed 41") && message.contains("deadlock"),
        "{message}"
    );
    assert!(message.contains("1 flush"), "{message}");
}

#[test]
fn a_livelock_ends_at_the_bound_on_turns() {
    let world = World::new(42, Faults::none());
    let io = world.core();
    world.set_turns_max(1_000);
    let spinning = io.clone();
    io.spawn(Priority::Background, async move {
        loop {
            spinning.yield_now().await;
        }
    });
    let panic =
        catch_unwind(AssertUnwindSafe(|| world.block_on(io.rung()))).expect_err("nobody rings");
    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(
        message.contains("seed 42") && message.contains("1000 turns"),
        "{message}"
    );
}

#[test]
fn time_passes_only_as_far_as_somebody_waits_for_it() {
    let world = World::new(3, Faults::none());
    let io = world.core();
    let started_ms = io.wall_clock_ms();
    world
        .block_on(async {
            drop(io.sleep(Duration::from_secs(3_600)));
            let started = io.now();
            io.sleep(Duration::from_secs(7)).await;
            let slept = io.now().since(started);
            assert!(
                slept >= Duration::from_secs(7) && slept < Duration::from_millis(7_001),
                "{slept:?}"
            );
        })
        .expect("no crash was scheduled");
    assert!((7_000..7_002).contains(&(io.wall_clock_ms() - started_ms)));
    let now = world.now();
    world.step_wall_clock(-10_000);
    assert!(io.wall_clock_ms() < started_ms);
    assert_eq!(world.now(), now, "the monotonic clock does not step");
    assert!(now < Nanos(8_000_000_000));
}

#[test]
fn a_ring_before_the_wait_is_not_lost_and_rings_coalesce() {
    let world = World::new(4, Faults::none());
    let io = world.core();
    let woken = Rc::new(Cell::new(0));
    let (waiter, count) = (io.clone(), Rc::clone(&woken));
    io.doorbell().ring();
    io.doorbell().ring();
    io.spawn(Priority::Foreground, async move {
        loop {
            waiter.rung().await;
            count.set(count.get() + 1);
        }
    });
    world.run_until_idle().expect("no crash was scheduled");
    assert_eq!(woken.get(), 1);
    io.doorbell().ring();
    world.run_until_idle().expect("no crash was scheduled");
    assert_eq!(woken.get(), 2);
}

#[test]
fn seeds_try_different_orders_and_mostly_respect_priorities() {
    let first_of = |seed| {
        let world = World::new(seed, Faults::none());
        let io = world.core();
        let order = Rc::new(RefCell::new(Vec::new()));
        for (name, priority) in [
            ("low", Priority::Background),
            ("one", Priority::Foreground),
            ("two", Priority::Foreground),
        ] {
            let order = Rc::clone(&order);
            io.spawn(priority, async move { order.borrow_mut().push(name) });
        }
        world.run_until_idle().expect("no crash was scheduled");
        order.take()[0]
    };
    let firsts: Vec<&str> = (0..200).map(first_of).collect();
    let count = |name| firsts.iter().filter(|first| **first == name).count();
    assert!(
        count("one") > 40 && count("two") > 40,
        "either of two equals may be first"
    );
    assert!(
        (1..60).contains(&count("low")),
        "the lower priority is first at times, not mostly"
    );
}

#[test]
fn who_yields_lets_every_other_runnable_task_run() {
    check_seeds(
        "who_yields_lets_every_other_runnable_task_run",
        50,
        |seed| {
            let world = World::new(seed, Faults::none());
            let io = world.core();
            let ran = Rc::new(Cell::new(0));
            for _ in 0..10 {
                let ran = Rc::clone(&ran);
                io.spawn(Priority::Background, async move { ran.set(ran.get() + 1) });
            }
            world
                .block_on(async {
                    io.yield_now().await;
                    assert_eq!(ran.get(), 10);
                })
                .expect("no crash was scheduled");
        },
    );
}

#[test]
fn a_task_may_kill_its_own_core_and_runs_no_further() {
    struct Flag(Rc<Cell<bool>>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let world = Rc::new(World::new(6, Faults::none()));
    let io = world.core();
    let dropped = Rc::new(Cell::new(false));
    let (flag, killer, own) = (Flag(Rc::clone(&dropped)), Rc::downgrade(&world), io.clone());
    io.spawn(Priority::Foreground, async move {
        let _flag = flag;
        killer.upgrade().expect("the world runs").kill_core(&own);
        own.yield_now().await;
        unreachable!("the core is dead");
    });
    world.run_until_idle().expect("no crash was scheduled");
    assert!(dropped.get());
    io.spawn(Priority::Foreground, async {
        unreachable!("spawned on a dead core")
    });
    world.run_until_idle().expect("no crash was scheduled");
}

#[test]
fn a_scheduled_crash_ends_the_run_and_a_new_core_starts() {
    let world = World::new(7, Faults::none());
    let io = world.core();
    world.crash_at(CrashPoint::After(Duration::from_millis(3)));
    let crashed = world
        .block_on(io.sleep(Duration::from_secs(1)))
        .expect_err("the crash comes first");
    assert!(
        (3_000_000..3_001_000).contains(&crashed.at.0),
        "{crashed:?}"
    );
    assert!(!io.is_alive());
    let restarted = world.core();
    world.crash_at(CrashPoint::After(Duration::from_millis(3)));
    world.cancel_crash();
    world
        .block_on(restarted.sleep(Duration::from_secs(1)))
        .expect("the crash was cancelled");
}
