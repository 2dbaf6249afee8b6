use std::future::poll_fn;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use super::*;

#[derive(Default)]
struct CountingBell(AtomicUsize);

impl Doorbell for CountingBell {
    fn ring(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn executor() -> Executor {
    Executor::new(Arc::new(CountingBell::default()))
}

async fn yield_once() {
    let mut yielded = false;
    poll_fn(move |context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[test]
fn foreground_runs_before_flush_before_background() {
    let executor = executor();
    let _entered = executor.enter();
    let order = Rc::new(RefCell::new(Vec::new()));
    for priority in [Priority::Background, Priority::Flush, Priority::Foreground] {
        let order = Rc::clone(&order);
        executor.spawn(priority, async move { order.borrow_mut().push(priority) });
    }
    assert_eq!(executor.turn(), 3);
    assert_eq!(
        *order.borrow(),
        [Priority::Foreground, Priority::Flush, Priority::Background]
    );
    assert!(executor.is_idle());
    assert_eq!(executor.tasks(), 0);
}

#[test]
fn endless_foreground_work_does_not_starve_the_background() {
    let executor = executor();
    let _entered = executor.enter();
    executor.spawn(Priority::Foreground, async {
        loop {
            yield_once().await;
        }
    });
    let steps = Rc::new(Cell::new(0));
    let counted = Rc::clone(&steps);
    executor.spawn(Priority::Background, async move {
        loop {
            counted.set(counted.get() + 1);
            yield_once().await;
        }
    });
    for turn in 1..=10 {
        executor.turn();
        assert!(
            steps.get() >= turn,
            "turn {turn}: {} background polls",
            steps.get()
        );
    }
}

#[test]
fn a_wake_from_another_thread_rings_and_runs_the_task_here() {
    let bell = Arc::new(CountingBell::default());
    let executor = Executor::new(Arc::clone(&bell) as Arc<dyn Doorbell>);
    let _entered = executor.enter();
    let home = std::thread::current().id();
    let (sender, receiver) = std::sync::mpsc::channel();
    let polls = Rc::new(Cell::new(0));
    let counted = Rc::clone(&polls);
    executor.spawn(
        Priority::Foreground,
        poll_fn(move |context| {
            assert_eq!(std::thread::current().id(), home);
            counted.set(counted.get() + 1);
            if counted.get() == 2 {
                return Poll::Ready(());
            }
            sender
                .send(context.waker().clone())
                .expect("the test waits");
            Poll::Pending
        }),
    );
    executor.turn();
    let waker = receiver.recv().expect("the task sent its waker");
    std::thread::spawn(move || waker.wake())
        .join()
        .expect("the thread ends");
    assert_eq!(bell.0.load(Ordering::SeqCst), 1);
    assert!(!executor.is_idle());
    executor.turn();
    assert_eq!(polls.get(), 2);
    assert_eq!(executor.tasks(), 0);
}

#[test]
fn wakes_from_many_threads_at_once_are_never_lost() {
    const THREADS: usize = 4;
    // Miri takes milliseconds for each.
    const ROUNDS: usize = if cfg!(miri) { 20 } else { 2_000 };
    let executor = executor();
    let _entered = executor.enter();
    let done = Rc::new(Cell::new(0));
    for _ in 0..THREADS {
        let (sender, receiver) = std::sync::mpsc::channel::<Waker>();
        std::thread::spawn(move || receiver.into_iter().for_each(Waker::wake));
        let done = Rc::clone(&done);
        let mut rounds = 0;
        executor.spawn(
            Priority::Foreground,
            poll_fn(move |context| {
                rounds += 1;
                if rounds > ROUNDS {
                    done.set(done.get() + 1);
                    return Poll::Ready(());
                }
                sender
                    .send(context.waker().clone())
                    .expect("the thread lives");
                Poll::Pending
            }),
        );
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while done.get() < THREADS {
        executor.turn();
        assert!(
            Instant::now() < deadline,
            "a wake was lost: {} tasks left",
            executor.tasks()
        );
    }
}

#[test]
fn dropping_the_executor_drops_what_its_tasks_hold_even_while_others_wake_them() {
    let held = Rc::new(());
    let executor = executor();
    let entered = executor.enter();
    let (sender, receiver) = std::sync::mpsc::channel::<Waker>();
    for _ in 0..8 {
        let (held, sender) = (Rc::clone(&held), sender.clone());
        executor.spawn(
            Priority::Background,
            poll_fn(move |context| {
                let _keep = &held;
                sender.send(context.waker().clone()).ok();
                Poll::<()>::Pending
            }),
        );
    }
    drop(sender);
    for _ in 0..8 {
        executor.turn();
    }
    let waking = std::thread::spawn(move || receiver.into_iter().for_each(Waker::wake));
    drop(entered);
    drop(executor);
    assert_eq!(Rc::strong_count(&held), 1);
    waking.join().expect("the thread ends");
}

#[test]
#[cfg_attr(miri, ignore = "every poll takes long there")]
fn a_poll_that_takes_too_long_is_counted_and_measured() {
    let executor = executor();
    let _entered = executor.enter();
    executor.spawn(Priority::Foreground, async {
        std::thread::sleep(Duration::from_nanos(3 * STALL_NS_MAX));
    });
    executor.spawn(Priority::Background, async {});
    executor.turn();
    assert_eq!(executor.stalls(), 1);
    assert!(executor.poll_ns_longest() >= 2 * STALL_NS_MAX);
}
