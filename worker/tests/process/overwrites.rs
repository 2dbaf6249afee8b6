//! Objects that change in the under-store while they are read: one version or an error, never a
//! mixture; and each mount sees the new version when it promised to.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use corelane_client::Error;

use crate::harness::{BLOCK, Bed, Process, assert_same, content, eventually};

const LENGTH: usize = 20 * BLOCK + 777;

/// Versions of the object; a read must give exactly one of them.
fn versions() -> Arc<Vec<Vec<u8>>> {
    Arc::new((0..6).map(|seed| content(1000 + seed, LENGTH)).collect())
}

/// Reads the object as a whole until `is_over`; gives the number of reads that gave a version.
fn reader(
    process: &Process,
    versions: &Arc<Vec<Vec<u8>>>,
    is_over: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<u64> {
    let (client, versions, is_over) = (process.client(), Arc::clone(versions), Arc::clone(is_over));
    std::thread::spawn(move || {
        let mut reads = 0;
        while !is_over.load(Ordering::SeqCst) {
            match client.read_file("/data/object") {
                Ok((_, bytes)) => {
                    let version = versions
                        .iter()
                        .position(|version| version[..8] == bytes[..8]);
                    let version = &versions[version.expect("it begins as one of the versions")];
                    assert_same(&bytes, version, "a read of one version");
                    reads += 1;
                }
                Err(Error::VersionChanged { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        reads
    })
}

/// Lets readers read while `overwrite` is called with each version, several times over.
fn read_during(
    bed: &Bed,
    versions: &Arc<Vec<Vec<u8>>>,
    pause: Duration,
    overwrite: impl Fn(&Path, usize),
) {
    let object = bed.path("source").join("object");
    overwrite(&object, 0);
    let process = bed.start();
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| reader(&process, versions, &is_over))
        .collect();
    for round in 1..18 {
        std::thread::sleep(pause);
        overwrite(&object, round % versions.len());
    }
    let last = 17 % versions.len();
    let client = process.client();
    eventually("the last version is read", || {
        let read = client.read_file("/data/object");
        read.is_ok_and(|(_, bytes)| bytes == versions[last])
    });
    is_over.store(true, Ordering::SeqCst);
    let reads: u64 = readers
        .into_iter()
        .map(|reader| reader.join().expect("no mixture"))
        .sum();
    assert!(reads > 0);
    process.terminate();
}

#[test]
fn reads_during_overwrites_by_rename_are_of_one_version() {
    let bed = Bed::in_memory().freshness("always-check");
    let versions = versions();
    // Written beforehand, so that they have settled when they appear.
    fs::create_dir(bed.path("versions")).expect("a folder");
    let prepared = |version: usize| bed.path("versions").join(version.to_string());
    for (number, version) in versions.iter().enumerate() {
        fs::write(prepared(number), version).expect("a version");
    }
    std::thread::sleep(Duration::from_millis(2100));
    let beside = bed.path("beside");
    read_during(
        &bed,
        &versions,
        Duration::from_millis(40),
        |object, version| {
            fs::hard_link(prepared(version), &beside).expect("a second name");
            fs::rename(&beside, object).expect("it can be renamed");
            // Where it was the same file already, rename does nothing.
            let _ = fs::remove_file(&beside);
        },
    );
}

#[test]
fn reads_during_overwrites_in_place_are_of_one_version() {
    let mut bed = Bed::on_disk().freshness("always-check");
    bed.mounts[0]
        .keys
        .push_str("\noptions = { settle_ms = \"100\" }");
    let versions = versions();
    read_during(
        &bed,
        &versions,
        Duration::from_millis(300),
        |object, version| {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(object);
            let file = file.expect("the object");
            file.write_all_at(&versions[version], 0)
                .expect("it can be written");
        },
    );
}

#[test]
fn each_mount_sees_a_new_version_when_it_promised_to() {
    let mut bed = Bed::in_memory();
    let settled = "options = { settle_ms = \"0\" }";
    bed.mounts.clear();
    bed.add_mount(
        "/never",
        "never",
        &format!("freshness = \"immutable\"\n{settled}"),
    );
    bed.add_mount(
        "/always",
        "always",
        &format!("freshness = \"always-check\"\n{settled}"),
    );
    bed.add_mount(
        "/aged",
        "aged",
        &format!("freshness = \"max-age=1\"\n{settled}"),
    );
    let (old, new) = (content(1, 3 * BLOCK), content(2, 2 * BLOCK + 5));
    let write_all = |bytes: &[u8]| {
        for folder in ["never", "always", "aged"] {
            fs::write(bed.path(folder).join("beside"), bytes).expect("an object");
            let object = bed.path(folder).join("object");
            fs::rename(bed.path(folder).join("beside"), object).expect("it can be renamed");
        }
    };
    write_all(&old);
    let process = bed.start();
    let client = process.client();
    let read = |path: &str| client.read_file(path).expect("it can be read").1;
    for path in ["/never/object", "/always/object", "/aged/object"] {
        assert_same(&read(path), &old, path);
    }
    let opened = client.open("/always/object").expect("it can be opened");
    write_all(&new);
    assert_same(
        &read("/always/object"),
        &new,
        "always-check sees it at once",
    );
    assert_same(&read("/never/object"), &old, "immutable never does");
    std::thread::sleep(Duration::from_millis(1100));
    assert_same(&read("/aged/object"), &new, "max-age sees it after its age");
    assert_same(&read("/never/object"), &old, "immutable never does");
    // Whoever opened the old version gets it, or is told.
    match client.read(&opened, 0..opened.length) {
        Ok(bytes) => assert_same(&bytes, &old, "the version that was opened"),
        Err(Error::VersionChanged { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    process.terminate();

    let process = bed.start();
    let client = process.client();
    let read = |path: &str| client.read_file(path).expect("it can be read").1;
    assert_same(
        &read("/always/object"),
        &new,
        "always-check after a restart",
    );
    assert_same(&read("/never/object"), &old, "immutable after a restart");
    process.terminate();
}
