//! How a core ends, and what may outlive it.

use super::*;

#[test]
fn a_core_that_ends_with_work_in_flight_waits_for_the_kernel() {
    let file = device_file(on_disk(), 64);
    let path = file.path().to_owned();
    backend::run(&small(), |io| async move {
        let device = io.open_device(&path).await.expect("a device");
        let pool = io.allocate_pool(8, 16).expect("memory");
        let address = start_echo(&io).await;
        let stream = io.connect(address).await.expect("the echo listens");
        send_bytes(&stream, b"unread").await;
        for _ in 0..8 {
            let (io, device, pool) = (io.clone(), device.clone(), pool.clone());
            let stream = stream.clone();
            io.clone().spawn(Priority::Background, async move {
                let lease = pool.take().expect("free").lease(0..16).expect("vacant");
                device.read(0, lease).await.expect("a read");
                stream.receive().await.ok();
                io.sleep(Duration::from_secs(3600)).await;
            });
        }
        io.yield_now().await;
    })
    .expect("a core");
}

/// Set in a child process that is to panic in a task.
const PANIC_SWITCH: &str = "CORELANE_TEST_PANIC_IN_TASK";

#[test]
fn a_panic_in_a_task_ends_the_process() {
    if std::env::var_os(PANIC_SWITCH).is_some() {
        let outcome = backend::run(&small(), |io| async move {
            io.spawn(Priority::Background, async { panic!("as the test wants") });
            io.sleep(Duration::from_secs(30)).await;
        });
        panic!("the task was lost: {outcome:?}");
    }
    let this = std::env::current_exe().expect("a test binary");
    let output = std::process::Command::new(this)
        .args([
            "--exact",
            "behaviour::ends::a_panic_in_a_task_ends_the_process",
            "--nocapture",
        ])
        .env(PANIC_SWITCH, "1")
        .output()
        .expect("the test runs itself");
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert_eq!(signal, Some(6), "not aborted: {:?}", output.status);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("as the test wants") && text.contains("ending the process"),
        "{text}"
    );
}

#[test]
fn a_panic_of_the_core_itself_reaches_the_caller() {
    let caught = std::panic::catch_unwind(|| {
        backend::run(&small(), |io| async move {
            io.yield_now().await;
            panic!("as the test wants");
        })
    });
    assert!(caught.is_err());
    // The thread can be a core again.
    assert_eq!(backend::run(&small(), |_| async { 7 }).expect("a core"), 7);
}

#[test]
fn what_outlives_its_core_can_be_dropped() {
    let file = device_file(on_disk(), 64);
    let path = file.path().to_owned();
    let left_over = backend::run(&small(), |io| async move {
        let device = io.open_device(&path).await.expect("a device");
        let pool = io.allocate_pool(2, 16).expect("memory");
        let address = start_echo(&io).await;
        let stream = io.connect(address).await.expect("the echo listens");
        send_bytes(&stream, b"kept").await;
        let received = stream.receive().await.expect("an echo");
        let lease = pool.take().expect("free").lease(0..16).expect("vacant");
        let reader = device.clone();
        let mut read = Box::pin(async move { reader.read(0, lease).await.map(drop) });
        poll_fn(|context| Poll::Ready(read.as_mut().poll(context).is_pending())).await;
        (io, device, pool, stream, received, read)
    })
    .expect("a core");
    assert_eq!(&*left_over.4, b"kept");
}
