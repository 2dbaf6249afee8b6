//! Devices: files on disk and in memory.

use super::*;

async fn round_trip(io: CoreIo, path: &Path) {
    const PAGES: usize = 16;
    let pool = io.allocate_pool(64, PAGES).expect("memory");
    let device = io.open_device(path).await.expect("a device");
    let frame = pool.take().expect("a free frame");
    let mut lease = frame.lease(0..PAGES).expect("vacant pages");
    assert_eq!(
        lease.registered_buffer().is_some(),
        backend::REGISTERS_FRAMES
    );
    for (at, byte) in lease.bytes_mut().iter_mut().enumerate() {
        *byte = (at / 512 + at) as u8;
    }
    let written = lease.seal();
    let slice = written.slice(0..PAGES * PAGE_SIZE);
    device
        .write(PAGE_SIZE as u64, slice.clone())
        .await
        .expect("room");
    device.flush().await.expect("a flush");
    let other = pool.take().expect("a free frame");
    let lease = other.lease(0..PAGES).expect("vacant pages");
    let lease = device
        .read(PAGE_SIZE as u64, lease)
        .await
        .expect("what was written");
    assert!(
        lease.bytes() == slice.bytes(),
        "the device returned other bytes"
    );
    // Single pages, many at a time.
    let done = Rc::new(Cell::new(0));
    for page in 0..PAGES {
        let (device, frame, slice) = (device.clone(), pool.take().expect("free"), slice.clone());
        let done = Rc::clone(&done);
        io.spawn(Priority::Flush, async move {
            let lease = frame.lease(3..4).expect("vacant page");
            let lease = device
                .read((1 + page as u64) * PAGE_SIZE as u64, lease)
                .await
                .expect("a page");
            assert!(lease.bytes() == &slice.bytes()[page * PAGE_SIZE..(page + 1) * PAGE_SIZE]);
            done.set(done.get() + 1);
        });
    }
    until(&io, "all pages", || done.get() == PAGES).await;
    device
        .discard(0, PAGE_SIZE as u64)
        .await
        .expect("a hint is never refused");
}

#[test]
fn a_file_on_disk_gives_back_what_was_written() {
    let file = device_file(on_disk(), 64);
    let path = file.path().to_owned();
    backend::run(&small(), |io| async move { round_trip(io, &path).await }).expect("a core");
}

#[test]
fn a_file_in_memory_gives_back_what_was_written_without_kernel_threads() {
    let file = device_file(Path::new("/dev/shm"), 64);
    let path = file.path().to_owned();
    backend::run(&small(), |io| async move {
        let device = io.open_device(&path).await.expect("tmpfs has direct I/O");
        let pool = io.allocate_pool(32, 1).expect("memory");
        // Opening a file may be the work of such a thread.
        let before = kernel_worker_runs();
        for round in 0..50 {
            for page in 0..32u64 {
                let lease = pool.take().expect("free").lease(0..1).expect("vacant");
                device
                    .read((page + round) % 64 * PAGE_SIZE as u64, lease)
                    .await
                    .expect("a page");
            }
        }
        let runs = kernel_worker_runs().saturating_sub(before);
        assert!(runs < 160, "of 1,600 reads {runs} went to kernel threads");
    })
    .expect("a core");
    let path = file.path().to_owned();
    backend::run(&small(), |io| async move { round_trip(io, &path).await }).expect("a core");
}

/// How often the kernel's workers for this thread's rings have gone back to sleep. They are named
/// `iou-wrk-<thread that made the ring>`; tests run in one process, so others' are here as well.
fn kernel_worker_runs() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("/proc");
    let own = corelane_io::cores::parse_thread_status(&status)
        .expect("a status")
        .thread;
    let name = format!("iou-wrk-{own}");
    let mut runs = 0;
    for thread in std::fs::read_dir("/proc/self/task").expect("/proc") {
        let path = thread.expect("a thread").path();
        // A thread may have ended meanwhile.
        let read = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            let status = read("status");
            let switches = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            runs += switches.map_or(0, |count| count.trim().parse().expect("a number"));
        }
    }
    runs
}

#[test]
fn a_dropped_read_keeps_its_pages_until_the_kernel_is_done() {
    let file = device_file(on_disk(), 64);
    let path = file.path().to_owned();
    backend::run(&small(), |io| async move {
        let device = io.open_device(&path).await.expect("a device");
        let pool = io.allocate_pool(8, 16).expect("memory");
        for round in 0..50 {
            for _ in 0..8 {
                let lease = pool
                    .take()
                    .expect("all frames are back")
                    .lease(0..16)
                    .expect("vacant");
                poll_and_drop(device.read(0, lease)).await;
            }
            assert_eq!(
                pool.available(),
                0,
                "round {round}: a page in flight may not be reused"
            );
            until(&io, "the frames", || pool.available() == 8).await;
        }
    })
    .expect("a core");
}

#[test]
fn a_wait_that_is_timed_out_leaves_its_pages_with_the_kernel() {
    let file = device_file(on_disk(), 64);
    let path = file.path().to_owned();
    backend::run(&small(), |io| async move {
        let device = io.open_device(&path).await.expect("a device");
        let pool = io.allocate_pool(8, 16).expect("memory");
        for round in 0..20 {
            let lease = |pages| pool.take().expect("free").lease(0..pages).expect("vacant");
            let mut written = lease(16);
            written.bytes_mut().fill(round);
            let slice = written.seal().slice(0..16 * PAGE_SIZE);
            let mut read = Box::pin(device.read(0, lease(16)));
            let mut write = Box::pin(device.write(0, slice));
            let mut flush = Box::pin(device.flush());
            assert!(futures::poll!(&mut read).is_pending());
            assert!(futures::poll!(&mut write).is_pending());
            assert!(futures::poll!(&mut flush).is_pending());
            device.time_out(Duration::MAX, Duration::MAX);
            assert!(
                futures::poll!(&mut read).is_pending(),
                "nothing is that old"
            );
            device.time_out(Duration::ZERO, Duration::MAX);
            assert!(
                futures::poll!(&mut write).is_pending(),
                "only reads were meant"
            );
            let error = read.await.expect_err("not waited for");
            assert_eq!(error.kind(), IoErrorKind::Timeout);
            device.time_out(Duration::MAX, Duration::ZERO);
            for outcome in [write.await, flush.await] {
                let error = outcome.expect_err("not waited for");
                assert_eq!(error.kind(), IoErrorKind::Timeout, "{error}");
            }
            assert_eq!(pool.available(), 6, "round {round}: both are in flight");
            until(&io, "the frames", || pool.available() == 8).await;
            let oldest = || device.time_out(Duration::MAX, Duration::MAX).any();
            until(&io, "the flush", || oldest().is_zero()).await;
        }
        // The device is as usable as before.
        let lease = pool.take().expect("free").lease(0..1).expect("vacant");
        let lease = device.read(0, lease).await.expect("a page");
        assert_eq!(lease.bytes()[0], 19, "what was written late");
    })
    .expect("a core");
}

#[test]
fn an_end_of_file_is_an_error_that_names_the_device() {
    let file = device_file(on_disk(), 16);
    let path = file.path().to_owned();
    backend::run(&small(), |io| async move {
        let device = io.open_device(&path).await.expect("a device");
        file.as_file()
            .set_len(8 * PAGE_SIZE as u64)
            .expect("shorter");
        let pool = io.allocate_pool(1, 16).expect("memory");
        let lease = pool.take().expect("free").lease(0..16).expect("vacant");
        let error = device.read(0, lease).await.expect_err("half of it is gone");
        assert_eq!(error.kind(), IoErrorKind::Device);
        assert!(error.to_string().contains("missing_bytes 32768"), "{error}");
        assert_eq!(pool.available(), 1);
    })
    .expect("a core");
}
