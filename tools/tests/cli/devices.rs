//! Devices without a worker.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::harness::{Worker, folder, formatted_device, run};

fn name(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_formatted_device_says_what_it_is() {
    let folder = folder();
    let device = formatted_device(folder.path());
    let lines = run(&["device", "info", "--json", name(&device)]).json();
    assert_eq!(lines[0]["regions"], 32);
    assert_eq!(lines[0]["region_bytes"], 2 << 20);
    assert_eq!(lines[0]["contents"]["blocks"], 0);
    assert!(
        run(&["device", "info", name(&device)])
            .text()
            .contains("1 of 1")
    );
    let verified = run(&["device", "verify", "--json", name(&device)]);
    assert_eq!(
        (verified.code, &verified.json()["pages_wrong"]),
        (0, &0.into())
    );
}

#[test]
fn a_device_is_not_formatted_again_without_being_told_to() {
    let folder = folder();
    let device = formatted_device(folder.path());
    let before = run(&["device", "info", "--json", name(&device)]).json();
    let refused = run(&["device", "format", name(&device)]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(
        run(&["device", "info", "--json", name(&device)]).json(),
        before
    );
    let forced = run(&[
        "device",
        "format",
        name(&device),
        "--region-size",
        "2M",
        "--force",
    ]);
    assert_eq!(forced.code, 0, "{}", forced.stderr);
    let after = run(&["device", "info", "--json", name(&device)]).json();
    assert_ne!(after[0]["uuid"], before[0]["uuid"]);
}

#[test]
fn what_is_no_device_is_refused_with_the_reason() {
    let folder = folder();
    let file = folder.path().join("notes");
    std::fs::write(&file, vec![b'x'; 1 << 20]).expect("a file");
    for command in ["info", "verify"] {
        let outcome = run(&["device", command, name(&file)]);
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        assert!(
            outcome.stderr.contains("device format"),
            "{}",
            outcome.stderr
        );
    }
    let missing = run(&["device", "info", "/no/such/device"]);
    assert_eq!(missing.code, 1, "{}", missing.stderr);
    let twice = run(&["device", "format", name(&file), name(&file)]);
    assert_eq!(twice.code, 2, "{}", twice.stderr);
}

#[test]
fn a_flipped_bit_is_found_offline() {
    let folder = folder();
    let files = folder.path().join("files");
    std::fs::create_dir(&files).expect("a folder");
    let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(files.join("numbers"), &content).expect("a file");
    let device = formatted_device(folder.path());
    let worker = Worker::start(&device, &files);
    assert_eq!(worker.ask(&["load", "/data/numbers"]).code, 0);
    let in_use = run(&["device", "info", "--json", name(&device)]).json();
    assert_eq!(in_use[0]["in_use"], true);
    worker.stop();

    let right = run(&["device", "verify", "--json", name(&device)]);
    assert_eq!(right.code, 0, "{}{}", right.text(), right.stderr);
    assert_eq!(right.json()["block_bytes"], content.len());
    flip_a_bit_of(&device, &content[300_000..300_016]);
    let wrong = run(&["device", "verify", "--json", name(&device)]);
    assert_eq!(wrong.code, 5, "{}", wrong.stderr);
    assert_eq!(wrong.json()["pages_wrong"], 1);
    assert_eq!(wrong.json()["damage"].as_array().map(Vec::len), Some(1));
}

/// Changes the device where `bytes` stand.
fn flip_a_bit_of(device: &Path, bytes: &[u8]) {
    let all = std::fs::read(device).expect("the device");
    let at = all
        .windows(bytes.len())
        .position(|window| window == bytes)
        .expect("they are there");
    let file = File::options()
        .write(true)
        .open(device)
        .expect("the device");
    file.write_all_at(&[bytes[0] ^ 1], at as u64)
        .expect("written");
}
