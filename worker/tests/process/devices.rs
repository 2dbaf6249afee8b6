//! Several devices, and devices that go: what they held is fetched again, the rest stays.

use corelane_client::control::{DeviceStats, JobState};
use corelane_worker::store::{FormatOptions, format_paths};

use crate::harness::{BLOCK, Bed, Process, assert_same, eventually};

/// Objects whose stripes lie on all devices, with their bytes.
fn write_objects(bed: &Bed, count: u64) -> Vec<(String, Vec<u8>)> {
    (0..count)
        .map(|number| {
            let name = format!("{number:03}");
            let bytes = bed.write(&name, number + 1, 5 * BLOCK + 77);
            (format!("/data/{name}"), bytes)
        })
        .collect()
}

#[track_caller]
fn assert_objects(process: &Process, objects: &[(String, Vec<u8>)], when: &str) {
    let client = process.client();
    for (path, bytes) in objects {
        let read = client.read_file(path);
        let (_, found) = read.unwrap_or_else(|error| panic!("{path} {when}: {error}"));
        assert_same(&found, bytes, &format!("{path} {when}"));
    }
}

fn devices(process: &Process) -> Vec<DeviceStats> {
    process.control().stats().expect("stats").devices
}

#[test]
fn three_devices_share_the_blocks_and_the_worker_goes_on_without_one_of_them() {
    let mut bed = Bed::on_disk();
    bed.device_size = "34M";
    bed.more_devices = vec![bed.path("second"), bed.path("third")];
    let objects = write_objects(&bed, 60);
    let process = bed.start();
    process.load("/data");
    assert_objects(&process, &objects, "cold");
    let used = devices(&process);
    assert_eq!(used.len(), 3);
    assert!(used.iter().all(|device| device.bytes_used > 0), "{used:?}");
    process.kill();

    let process = bed.start();
    assert_eq!(process.recovered_blocks, 60 * 6, "all that was loaded");
    assert_objects(&process, &objects, "after a crash");
    assert_eq!(process.counter("fetches"), 0, "all of it is on the devices");
    process.kill();

    let gone = bed.more_devices.remove(0);
    std::fs::remove_file(&gone).expect("it is ours");
    // Named but not there, it may be a mistake: that is for the operator to say.
    bed.more_devices.push(gone);
    let refusal = Process::start(&bed.write_config()).err().expect("refused");
    assert_eq!(refusal.code, Some(4), "{}", refusal.log);
    assert!(refusal.log.contains("go on without it"), "{}", refusal.log);

    bed.more_devices.pop();
    let process = bed.start();
    assert_objects(&process, &objects, "without a device");
    let fetched = process.counter("fetched_bytes");
    assert!(fetched > 0, "its part is fetched");
    assert!(process.counter("reads_device") > 0, "the rest is there");
    assert_objects(&process, &objects, "without a device, again");
    let log = process.terminate();
    assert!(log.contains("WARN") && log.contains("device"), "{log}");
}

#[test]
fn a_device_that_fails_while_it_is_read_is_taken_out_and_every_byte_is_served() {
    let mut bed = Bed::on_disk();
    bed.cores = 1;
    let bytes = bed.write("object", 9, 400 * BLOCK);
    let process = bed.start();
    process.load("/data");
    assert!(devices(&process)[0].healthy);
    process.terminate();

    let process = bed.start();
    assert_eq!(process.recovered_blocks, 400);
    assert!(process.metrics().contains("\ncorelane_device_healthy{"));
    let device = std::fs::File::options().write(true).open(&bed.device);
    // All regions lie behind it, so that every read of a block fails.
    device
        .and_then(|device| device.set_len(1 << 20))
        .expect("it can be cut short");
    let client = process.client();
    for _ in 0..2 {
        let (_, found) = client.read_file("/data/object").expect("it is served");
        assert_same(&found, &bytes, "from a device that fails");
    }
    eventually("the device is taken out", || !devices(&process)[0].healthy);
    assert!(process.counter("device_reads_failed") > 0);
    assert!(
        process.counter("device_errors") >= 16,
        "the configured number"
    );
    let text = process.metrics();
    let line = text
        .lines()
        .find(|line| line.starts_with("corelane_device_healthy{"))
        .expect("it is reported");
    assert!(line.ends_with(" 0"), "{line}");
    for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
        assert_eq!(
            line.ends_with("counter"),
            line.contains("_total "),
            "only counters end in _total: {line}"
        );
        let name = line.split(' ').nth(2).expect("a name");
        let help = format!("# HELP {name} ");
        assert!(text.contains(&help), "{name} is not explained");
    }
    let log = process.terminate();
    assert!(log.contains("ERROR"), "{log}");
}

#[test]
fn a_load_waits_for_a_device_that_is_behind() {
    let mut bed = Bed::on_disk();
    bed.cores = 1;
    bed.dram = "320M".to_owned();
    bed.device_size = "200M";
    // The last blocks wait for seconds until the first ones are written.
    bed.sections = "[limits]\ndevice_writes = \"16M\"\n".to_owned();
    let bytes = bed.write("object", 11, 110 << 20);
    let process = bed.start();
    process.load("/data/object");
    assert_eq!(process.counter("bytes_live"), bytes.len() as u64);
    assert_eq!(process.counter("fetched_bytes"), bytes.len() as u64);
    process.terminate();
}

#[test]
fn a_load_without_room_fails_and_says_how_much_was_not_kept() {
    let mut bed = Bed::on_disk();
    bed.cores = 1;
    bed.device_size = "34M";
    bed.write("object", 12, 29 << 20);
    let process = bed.start();
    let control = process.control();
    control.pin("/data/object", false, true).expect("pinned");
    let job = control.load("/data/object", false).expect("it starts");
    eventually("the load ends", || {
        control.progress(job).expect("known").state != JobState::Running
    });
    let progress = control.progress(job).expect("known");
    assert_eq!(progress.state, JobState::Failed, "{progress:?}");
    assert!(progress.bytes_not_kept > 0, "{progress:?}");
    assert_eq!(progress.bytes_done, 29 << 20, "each byte counts once");
    assert!(
        progress.first_failure.contains("were not kept"),
        "{progress:?}"
    );
    process.terminate();
}

#[test]
fn a_creation_that_failed_or_was_interrupted_leaves_nothing_in_the_way() {
    use std::os::unix::fs::PermissionsExt;
    let mut bed = Bed::on_disk();
    bed.cores = 1;
    bed.more_devices = vec![bed.path("second")];
    bed.device_size = "900000T";
    let refusal = Process::start(&bed.write_config()).err().expect("refused");
    assert!(refusal.log.contains("no room"), "{}", refusal.log);
    assert!(!bed.device.exists() && !bed.more_devices[0].exists());

    // Killed after the first file was created, and while the second was allocated.
    bed.device_size = "34M";
    std::fs::File::create(&bed.device).expect("a file");
    let process = bed.start();
    assert_eq!(devices(&process).len(), 2);
    let mode = std::fs::metadata(&bed.more_devices[0])
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "cached bytes are not for all");
    process.terminate();
    let process = bed.start();
    assert_eq!(
        process.epoch, 2,
        "what was served on is not formatted again"
    );
    process.terminate();

    // Killed before the second one was formatted.
    let mut bed = Bed::on_disk();
    bed.cores = 1;
    bed.device_size = "34M";
    bed.more_devices = vec![bed.path("second")];
    let options = FormatOptions {
        region_bytes: 1 << 20,
        partitions: 16,
        set_uuid: [3; 16],
    };
    let paths = [bed.device.as_path(), bed.more_devices[0].as_path()];
    format_paths(&paths, Some(34 << 20), options, false).expect("formatted");
    let second = std::fs::File::create(paths[1]).expect("emptied");
    second.set_len(34 << 20).expect("zeroes");
    let process = bed.start();
    assert_eq!((devices(&process).len(), process.epoch), (2, 1));
    process.terminate();

    // A set that was served on is not begun anew because a file of it holds nothing.
    let second = std::fs::File::create(&bed.more_devices[0]).expect("emptied");
    second.set_len(34 << 20).expect("zeroes");
    let refusal = Process::start(&bed.write_config()).err().expect("refused");
    assert_eq!(refusal.code, Some(4), "{}", refusal.log);
    assert!(refusal.log.contains("as a whole"), "{}", refusal.log);
}
