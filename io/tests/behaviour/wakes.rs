//! What wakes a core: other threads, other cores, timers.

use super::*;

#[test]
fn a_ring_from_another_thread_wakes_a_sleeping_core() {
    const RINGS: usize = 500;
    backend::run(&small(), |io| async move {
        let doorbell = io.doorbell();
        let (answer, answered) = mpsc::channel::<()>();
        let ringing = std::thread::spawn(move || {
            for ring in 0..RINGS {
                if ring % 10 == 0 {
                    std::thread::sleep(Duration::from_micros(300));
                }
                doorbell.ring();
                answered
                    .recv_timeout(Duration::from_secs(30))
                    .expect("no ring is lost");
            }
        });
        for _ in 0..RINGS {
            io.rung().await;
            answer.send(()).expect("the ringer waits");
        }
        ringing.join().expect("the ringer got every answer");
        assert!(io.counters().sleeps > 0, "the core slept in between");
    })
    .expect("a core");
}

#[test]
fn cores_wake_each_other_through_their_rings() {
    const ROUNDS: u32 = 2_000;
    let (bells_in, bells_out) = mpsc::channel();
    let mut mesh = corelane_io::mesh::build::<u32>(2, 8);
    let mut back_channels = Vec::new();
    let mut cores = Vec::new();
    for (number, mut end) in mesh.drain(..).enumerate() {
        let bells_in = bells_in.clone();
        let (bells_to, bells_from) = mpsc::channel::<Vec<std::sync::Arc<dyn Doorbell>>>();
        back_channels.push(bells_to);
        let core = backend::spawn_core(small(), move |io| async move {
            bells_in
                .send((number, io.doorbell()))
                .expect("the test waits");
            end.set_doorbells(bells_from.recv().expect("all doorbells"));
            let other = 1 - number;
            if number == 0 {
                end.send(other, 0).expect("room");
            }
            loop {
                while let Some((from, round)) = end.try_receive() {
                    assert_eq!(from, other);
                    if round < ROUNDS {
                        end.send(other, round + 1).expect("room");
                    }
                    if round >= ROUNDS - 1 {
                        return io.counters().sleeps;
                    }
                }
                io.rung().await;
            }
        })
        .expect("a thread");
        cores.push(core);
    }
    let mut bells: Vec<_> = (0..2)
        .map(|_| bells_out.recv().expect("two cores"))
        .collect();
    bells.sort_by_key(|(number, _)| *number);
    let bells: Vec<_> = bells.into_iter().map(|(_, bell)| bell).collect();
    for channel in back_channels {
        channel.send(bells.clone()).expect("the core waits");
    }
    for core in cores {
        let sleeps = core.join().expect("no panic").expect("a core");
        assert!(sleeps > 0, "they slept while the other was at work");
    }
}

#[test]
fn sleeps_end_in_the_order_of_their_deadlines_and_never_early() {
    backend::run(&small(), |io| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        for millis in [30u64, 5, 20, 1, 10, 0, 15] {
            let (sleeper, order) = (io.clone(), Rc::clone(&order));
            io.spawn(Priority::Foreground, async move {
                let start = Instant::now();
                sleeper.sleep(Duration::from_millis(millis)).await;
                assert!(
                    start.elapsed() >= Duration::from_millis(millis),
                    "{millis} ms were short"
                );
                order.borrow_mut().push(millis);
            });
        }
        // Dropped sleeps leave nothing behind.
        poll_and_drop(io.sleep(Duration::from_millis(7))).await;
        until(&io, "all sleepers", || order.borrow().len() == 7).await;
        assert_eq!(*order.borrow(), [0, 1, 5, 10, 15, 20, 30]);
    })
    .expect("a core");
}

#[test]
fn an_idle_core_sleeps() {
    backend::run(
        &Options {
            spin: Duration::from_micros(10),
            ..small()
        },
        |io| async move {
            let before = io.counters();
            io.sleep(Duration::from_millis(100)).await;
            let turns = io.counters().turns - before.turns;
            // One for the sleep to start, a few as the wheel's levels come near its end.
            assert!(turns < 20, "{turns} turns to sleep once");
        },
    )
    .expect("a core");
}

#[test]
fn a_task_that_yields_for_ever_keeps_nobody_waiting() {
    backend::run(&small(), |io| async move {
        let address = start_echo(&io).await;
        for priority in [Priority::Foreground, Priority::Background] {
            let yielding = io.clone();
            io.spawn(priority, async move {
                loop {
                    yielding.yield_now().await;
                }
            });
        }
        let stream = io.connect(address).await.expect("the echo listens");
        for round in 0..100u32 {
            send_bytes(&stream, &round.to_le_bytes()).await;
            assert_eq!(receive_exactly(&stream, 4).await, round.to_le_bytes());
        }
        io.sleep(Duration::ZERO).await;
        io.sleep(Duration::from_millis(1)).await;
    })
    .expect("a core");
}
