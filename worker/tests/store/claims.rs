//! Which devices may be formatted, verified and served: none that is in use, none that holds something.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use corelane_worker::store::{
    DeviceLock, FormatOptions, StoreError, format_paths, inspect_offline, is_blank_file,
    read_identity, verify_offline,
};

use crate::bed::{REGION_BYTES, device_bytes};

const MIB: u64 = 1 << 20;

fn options() -> FormatOptions {
    FormatOptions {
        region_bytes: REGION_BYTES,
        ..FormatOptions::new([7; 16])
    }
}

fn sparse(path: &Path, length: u64) -> std::fs::File {
    let file = std::fs::File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)
        .expect("a file");
    file.set_len(length).expect("sparse");
    file
}

#[test]
fn one_byte_anywhere_is_refused_and_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("drive");
    let length = 600 * MIB;
    let ends = [1, 512, 4096, 8192, 64 << 10, 128 << 10, 3087 * 512];
    let offsets = [
        0,
        3,
        510,
        512,
        1080,
        4086,
        4096,
        8192,
        16 << 10,
        32 << 10,
        65600,
        256 << 10,
        MIB,
        2 * MIB,
        4 * MIB,
        64 * MIB,
        77 * MIB + 5,
    ];
    for offset in offsets
        .into_iter()
        .chain(ends.map(|before| length - before))
    {
        let file = sparse(&path, length);
        file.write_all_at(&[0x5a], offset).expect("written");
        let error = format_paths(&[&path], None, options(), false)
            .expect_err(&format!("a byte at {offset}"));
        assert!(
            matches!(error, StoreError::NotOurs { .. }),
            "{offset}: {error}"
        );
        let mut found = [0];
        file.read_exact_at(&mut found, offset).expect("read");
        assert_eq!(found, [0x5a], "at {offset}");
        assert!(!is_blank_file(&path).expect("read"), "at {offset}");
    }
    sparse(&path, length);
    assert!(is_blank_file(&path).expect("read"));
    format_paths(&[&path], None, options(), false).expect("only zeroes");
    assert!(!is_blank_file(&path).expect("read"), "a store");
}

#[test]
fn force_erases_the_marks_of_other_owners() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("drive");
    let length = 64 * MIB;
    let file = sparse(&path, length);
    let marks = [512, 4096, 65600, length - 8192, length - 512];
    for offset in marks {
        file.write_all_at(b"EFI PART", offset).expect("written");
    }
    format_paths(&[&path], None, options(), true).expect("by force");
    read_identity(&path).expect("a store");
    for offset in [4096, 4096 + 65536, length - 8192, length - 512] {
        let mut found = [1; 8];
        file.read_exact_at(&mut found, offset).expect("read");
        assert_eq!(found, [0; 8], "at {offset}");
    }
}

#[test]
fn what_can_be_no_device_is_refused_without_advice_to_force_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let paths = [
        PathBuf::from("/dev/null"),
        PathBuf::from("/dev/zero"),
        folder.path().to_owned(),
        pipe,
    ];
    for path in &paths {
        let refusals = [
            format_paths(&[path], None, options(), false).expect_err("no device"),
            format_paths(&[path], Some(device_bytes(32)), options(), true).expect_err("no device"),
            inspect_offline(path).expect_err("no device"),
            read_identity(path).expect_err("no device"),
            DeviceLock::take(path).expect_err("no device"),
        ];
        for refusal in refusals {
            assert!(matches!(refusal, StoreError::Mismatch(_)), "{refusal}");
            let text = refusal.to_string();
            assert!(!text.contains("force"), "{text}");
            assert!(text.contains(&path.display().to_string()), "{text}");
        }
        assert!(!is_blank_file(path).expect("looked at"));
    }
}

#[test]
fn created_files_are_for_their_owner_and_a_failed_creation_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let [first, second, third] = ["first", "second", "third"].map(|name| folder.path().join(name));
    let too_much = 1 << 60;
    let format = |paths: &[&Path], size| format_paths(paths, Some(size), options(), false);

    format(&[&first], too_much).expect_err("no file system is so large");
    format(&[&first], 5 * MIB).expect_err("too few regions");
    assert!(!first.exists());

    // One of several cannot be used: none stays.
    std::fs::write(&second, "notes").expect("written");
    format(&[&first, &second, &third], device_bytes(32)).expect_err("it holds notes");
    assert!(!first.exists() && !third.exists());
    assert_eq!(std::fs::read(&second).expect("still there"), b"notes");

    // A file that was there keeps its length, and its bytes.
    sparse(&second, 3 * MIB);
    format(&[&second, &first], too_much).expect_err("no room");
    assert!(!first.exists());
    assert_eq!(std::fs::metadata(&second).expect("there").len(), 3 * MIB);

    format(&[&second, &first], device_bytes(32)).expect("the corrected size");
    let mode = |path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&first), 0o600);
    assert_eq!(read_identity(&first).expect("a store").devices, 2);
}

/// A loop device, detached at the end; `None` where the machine gives none.
struct Loop {
    device: PathBuf,
    mounted: Option<PathBuf>,
}

impl Loop {
    fn attach(file: &Path, arguments: &[&str]) -> Option<Loop> {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .args(arguments)
            .arg(file)
            .output();
        match output {
            Ok(output) if output.status.success() => {
                let device = String::from_utf8(output.stdout).expect("a path");
                Some(Loop {
                    device: PathBuf::from(device.trim_end()),
                    mounted: None,
                })
            }
            failed => {
                println!("skipped: no loop device: {failed:?}");
                None
            }
        }
    }

    fn mount(&mut self, part: &str, folder: &Path) -> bool {
        let device = format!("{}{part}", self.device.display());
        let run = |program: &str, arguments: &[&str]| {
            Command::new(program)
                .args(arguments)
                .output()
                .is_ok_and(|output| output.status.success())
        };
        let is_mounted = run("mkfs.ext4", &["-q", &device])
            && run("mount", &[&device, &folder.display().to_string()]);
        if is_mounted {
            self.mounted = Some(folder.to_owned());
        } else {
            println!("skipped: cannot mount {device}");
        }
        is_mounted
    }

    fn unmount(&mut self) {
        if let Some(folder) = self.mounted.take() {
            let _ = Command::new("umount").arg(folder).status();
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.unmount();
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

#[track_caller]
fn assert_in_use(path: &Path, by: &str) {
    for force in [false, true] {
        let error = format_paths(&[path], None, options(), force).expect_err("in use");
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
        assert!(error.to_string().contains(by), "{error}, not {by}");
    }
    for error in [
        DeviceLock::take(path).expect_err("in use"),
        verify_offline(path, |_, _| {}).expect_err("in use"),
    ] {
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    }
}

#[test]
fn a_mounted_drive_is_never_formatted_and_its_mount_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, mount) = (folder.path().join("drive"), folder.path().join("mounted"));
    std::fs::create_dir(&mount).expect("a folder");
    sparse(&file, 64 * MIB);
    let Some(mut drive) = Loop::attach(&file, &[]) else {
        return;
    };
    let device = drive.device.clone();
    if !drive.mount("", &mount) {
        return;
    }
    assert_in_use(&device, &mount.display().to_string());
    std::fs::write(mount.join("note"), "kept").expect("it is a file system");
    // The file behind it is in use as well.
    assert_in_use(&file, &device.display().to_string());
    drive.unmount();
    let error = format_paths(&[&device], None, options(), false).expect_err("a file system");
    assert!(error.to_string().contains("ext"), "{error}");
    format_paths(&[&device], None, options(), true).expect("it is free");
    read_identity(&device).expect("a store");
}

#[test]
fn a_drive_of_which_a_partition_is_mounted_is_in_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, mount) = (folder.path().join("drive"), folder.path().join("mounted"));
    std::fs::create_dir(&mount).expect("a folder");
    let drive = sparse(&file, 96 * MIB);
    // One partition of Linux from 1 MiB on, 64 MiB long, in an MBR.
    let mut entry = vec![0, 0, 0, 0, 0x83, 0, 0, 0];
    entry.extend(2048u32.to_le_bytes());
    entry.extend((128u32 << 10).to_le_bytes());
    drive.write_all_at(&entry, 446).expect("written");
    drive.write_all_at(&[0x55, 0xaa], 510).expect("written");
    let Some(mut drive) = Loop::attach(&file, &["--partscan"]) else {
        return;
    };
    let device = drive.device.clone();
    let error = format_paths(&[&device], None, options(), false).expect_err("partitions");
    assert!(error.to_string().contains("partition table"), "{error}");
    let part = PathBuf::from(format!("{}p1", device.display()));
    if !part.exists() {
        println!("skipped: the kernel does not look for partitions");
        return;
    }
    if !drive.mount("p1", &mount) {
        return;
    }
    assert_in_use(&device, &mount.display().to_string());
    assert_in_use(&part, &mount.display().to_string());
}

#[test]
fn one_claim_holds_for_all_nodes_and_names_of_a_device() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("drive");
    sparse(&file, 64 * MIB);
    // A hard link is the same file.
    let link = folder.path().join("link");
    std::fs::hard_link(&file, &link).expect("a link");
    let claim = DeviceLock::take(&file).expect("free");
    assert_in_use(&link, "another process");
    drop(claim);

    let Some(drive) = Loop::attach(&file, &[]) else {
        return;
    };
    let node = folder.path().join("node");
    let metadata = std::fs::metadata(&drive.device).expect("a device");
    let number = std::os::unix::fs::MetadataExt::rdev(&metadata);
    let made = Command::new("mknod")
        .args([&node.display().to_string(), "b"])
        .args([
            libc::major(number).to_string(),
            libc::minor(number).to_string(),
        ])
        .status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: no device nodes may be made");
        return;
    }
    format_paths(&[&drive.device], None, options(), false).expect("formatted");
    let claim = DeviceLock::take(&drive.device).expect("free");
    assert_in_use(&node, "another process");
    // Only what a device is may be read by anyone.
    read_identity(&node).expect("it is a store");
    drop(claim);
    verify_offline(&node, |_, _| {}).expect("it is free");
    // The file behind it, claimed before the device was there, holds it too.
    drop(drive);
    let claim = DeviceLock::take(&file).expect("free");
    let Some(drive) = Loop::attach(&file, &[]) else {
        return;
    };
    assert_in_use(&drive.device, "behind it");
    drop(claim);
}

#[test]
fn a_read_only_drive_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("drive");
    sparse(&file, 64 * MIB);
    let Some(drive) = Loop::attach(&file, &["--read-only"]) else {
        return;
    };
    for error in [
        format_paths(&[&drive.device], None, options(), true).expect_err("read-only"),
        DeviceLock::take_for_writing(&drive.device).expect_err("read-only"),
    ] {
        assert!(error.to_string().contains("read-only"), "{error}");
    }
    // Looking at it is no writing.
    DeviceLock::take(&drive.device).expect("it may be verified");
}
