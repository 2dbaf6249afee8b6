//! Devices and under-stores that do not answer: reads go on, and the worker ends in its time.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{BLOCK, Bed, Process, assert_same, eventually};

/// What the unit of systemd gives a worker that is to stop (docs/corelane-worker.service).
const STOP_MAX: Duration = Duration::from_secs(90);

/// A file system of its own that can be frozen; thawed and unmounted at the end.
struct Frozen {
    folder: PathBuf,
    is_frozen: bool,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

impl Frozen {
    /// Mounts a new file system below `bed`; `None` where this machine does not let us.
    fn mount(bed: &Bed) -> Option<Frozen> {
        let (image, folder) = (bed.path("image"), bed.path("mounted"));
        std::fs::create_dir(&folder).expect("a folder");
        let file = std::fs::File::create(&image).expect("a file");
        file.set_len(200 << 20).expect("sparse");
        let (image, place) = (image.display().to_string(), folder.display().to_string());
        if !run("mkfs.ext4", &["-q", &image]) || !run("mount", &["-o", "loop", &image, &place]) {
            println!("skipped: no loop device can be mounted here (root only)");
            return None;
        }
        Some(Frozen {
            folder,
            is_frozen: false,
        })
    }

    fn freeze(&mut self) -> bool {
        self.is_frozen = run("fsfreeze", &["-f", &self.folder.display().to_string()]);
        if !self.is_frozen {
            println!("skipped: the file system cannot be frozen");
        }
        self.is_frozen
    }

    fn thaw(&mut self) {
        if std::mem::take(&mut self.is_frozen) {
            run("fsfreeze", &["-u", &self.folder.display().to_string()]);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
        for _ in 0..100 {
            if run("umount", &[&self.folder.display().to_string()]) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Whether the worker has left, though the kernel may still hold threads of it that wait for the device.
fn has_left(process: &Process) -> bool {
    let status = Path::new("/proc")
        .join(process.id().to_string())
        .join("status");
    std::fs::read_to_string(status).map_or(true, |text| text.contains("State:\tZ"))
}

#[test]
fn a_device_that_hangs_is_taken_out_reads_go_on_and_the_worker_leaves_in_time() {
    let mut bed = Bed::on_disk();
    bed.cores = 1;
    bed.keys = "device_timeout = \"3s\"\n".to_owned();
    let Some(mut mounted) = Frozen::mount(&bed) else {
        return;
    };
    bed.device = mounted.folder.join("device");
    let kept = bed.write("kept", 1, 20 * BLOCK);
    let cold = bed.write("cold", 2, 20 * BLOCK);
    let process = bed.start();
    process.load("/data/kept");
    if !mounted.freeze() {
        return;
    }
    let client = process.client();
    for (path, bytes) in [("/data/kept", &kept), ("/data/cold", &cold)] {
        let (_, found) = client.read_file(path).expect("it is served");
        assert_same(&found, bytes, path);
    }
    eventually("the device is taken out", || {
        !process.control().stats().expect("stats").devices[0].healthy
    });
    let reason = &process.control().stats().expect("stats").devices[0].reason;
    assert!(reason.contains("has not answered for"), "{reason}");
    assert!(
        process.log().contains("has not answered for"),
        "{}",
        process.log()
    );
    assert!(process.counter("device_timeouts") > 0);
    let line = process.metrics();
    let line = line
        .lines()
        .find(|line| line.starts_with("corelane_device_healthy{"));
    assert!(line.is_some_and(|line| line.ends_with(" 0")), "{line:?}");
    let control = process.control();
    let began = Instant::now();
    let _ = control.free("/data/kept", false);
    let (_, found) = client.read_file("/data/cold").expect("it is served");
    assert_same(&found, &cold, "without the device");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "nobody waits for it"
    );

    let began = Instant::now();
    process.signal(libc::SIGTERM);
    while !has_left(&process) {
        assert!(
            began.elapsed() < STOP_MAX,
            "it does not leave\n{}",
            process.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("left after {:?}", began.elapsed());
    mounted.thaw();
    let mut process = process;
    process.wait();
}

#[test]
fn a_worker_that_is_stopped_while_its_device_hangs_leaves_in_time() {
    let mut bed = Bed::on_disk();
    bed.cores = 1;
    let Some(mut mounted) = Frozen::mount(&bed) else {
        return;
    };
    bed.device = mounted.folder.join("device");
    let cold = bed.write("cold", 2, 20 * BLOCK);
    let process = bed.start();
    if !mounted.freeze() {
        return;
    }
    let (_, found) = process
        .client()
        .read_file("/data/cold")
        .expect("it is served");
    assert_same(&found, &cold, "cold");
    let began = Instant::now();
    process.signal(libc::SIGTERM);
    while !has_left(&process) {
        assert!(
            began.elapsed() < STOP_MAX,
            "it does not leave\n{}",
            process.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("left after {:?}", began.elapsed());
    mounted.thaw();
    let mut process = process;
    process.wait();
}

#[test]
fn an_under_store_that_never_answers_does_not_keep_the_worker_from_leaving() {
    let mut bed = Bed::on_disk();
    bed.cores = 1;
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let is_asked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_asked);
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for connection in silent.incoming().flatten() {
            held.push(connection);
            asked.store(true, Ordering::SeqCst);
        }
    });
    bed.add_remote("/silent", &format!("http://{address}/objects"));
    let process = bed.start();
    let client = process.client();
    let reader = std::thread::spawn(move || client.read_file("/silent/object").is_err());
    eventually("it is asked", || is_asked.load(Ordering::SeqCst));
    let began = Instant::now();
    process.signal(libc::SIGTERM);
    let mut process = process;
    process.wait();
    assert!(
        began.elapsed() < Duration::from_secs(40),
        "{:?}",
        began.elapsed()
    );
    assert!(reader.join().expect("no panic"), "nothing came");
}

#[test]
fn a_worker_that_was_held_up_blames_neither_its_device_nor_its_clients() {
    let mut bed = Bed::on_disk();
    bed.cores = 1;
    bed.dram_policy = "noop";
    bed.keys = "device_timeout = \"3s\"\n".to_owned();
    let kept = bed.write("kept", 1, 20 * BLOCK);
    let process = bed.start();
    process.load("/data/kept");
    process.terminate();
    let process = bed.start();
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (client, kept) = (process.client(), kept.clone());
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                while !is_over.load(Ordering::SeqCst) {
                    let (_, found) = client.read_file("/data/kept").expect("it is served");
                    assert_same(&found, &kept, "kept");
                }
            })
        })
        .collect();
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(200));
        process.signal(libc::SIGSTOP);
        std::thread::sleep(Duration::from_secs(5));
        process.signal(libc::SIGCONT);
    }
    is_over.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.join().expect("every read came");
    }
    assert!(process.control().stats().expect("stats").devices[0].healthy);
    for counter in ["device_stalls", "device_timeouts", "lanes_timed_out"] {
        assert_eq!(process.counter(counter), 0, "{counter}\n{}", process.log());
    }
    assert!(process.counter("reads_device") > 0);
}
