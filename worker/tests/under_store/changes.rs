//! Files that change while they are read: a successful fetch is of one version as a whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use corelane_worker::mount::Freshness;
use corelane_worker::under_store::UnderStoreErrorKind;
use corelane_worker::under_store::runtime::FetchRuntime;
use tempfile::TempDir;

use crate::harness::{Fetched, Shard, assert_brought, content, mount, quick_options};

/// Not a multiple of the page, and more than one visit to a reading thread.
const LENGTH: usize = (3 << 20) + 77;

/// Versions that the writer goes through, again and again.
const VERSIONS: u64 = 8;

/// Fetches the file in two halves while `write` replaces it, until there were `whole` successes
/// of both halves and at least one refusal.
fn run(settle_ms: &str, pause: Duration, whole: usize, write: fn(&Path, &Path, &[u8])) {
    let folder = TempDir::new().expect("a folder");
    let path: PathBuf = folder.path().join("object");
    let versions: Vec<Vec<u8>> = (0..VERSIONS)
        .map(|seed| content(seed << 32, LENGTH))
        .collect();
    fs::write(&path, &versions[0]).expect("written");
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (path, spare) = (path.clone(), folder.path().join("spare"));
        let (versions, is_over) = (versions.clone(), Arc::clone(&is_over));
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                for bytes in &versions {
                    write(&path, &spare, bytes);
                }
                std::thread::sleep(pause);
            }
        })
    };
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let uri = format!("file://{}", folder.path().display());
    let mount = mount(&uri, Freshness::AlwaysCheck, &[("settle_ms", settle_ms)]);
    let (mut wholes, mut refusals) = (0, 0);
    let give_up = Instant::now() + Duration::from_secs(120);
    while wholes < whole || refusals == 0 {
        assert!(
            Instant::now() < give_up,
            "{wholes} successes, {refusals} refusals"
        );
        let object = match shard.describe(&mount, "/m/object") {
            Ok(object) if object.length == LENGTH as u64 => object,
            // In the middle of a rewrite, which is a version too.
            Ok(_) => continue,
            Err(error) => panic!("{error}"),
        };
        let middle = 1 << 20;
        let mut read = Vec::new();
        for range in [0..middle, middle..LENGTH as u64] {
            let length = (range.end - range.start) as usize;
            let fetched = shard.fetch(&mount, &object, range.clone());
            // Whatever came was promised to be of the version, also if the fetch then failed.
            let arrived = fetched.bytes.len().min(length);
            read.push((range.start as usize, fetched.bytes[..arrived].to_vec()));
            match fetched.result {
                Ok(()) => assert_eq!(arrived, length),
                Err(error) => {
                    assert_eq!(error.kind, UnderStoreErrorKind::VersionChanged, "{error}");
                    refusals += 1;
                }
            }
        }
        let total: usize = read.iter().map(|(_, bytes)| bytes.len()).sum();
        let is_of = |version: &[u8]| {
            read.iter()
                .all(|(start, bytes)| version[*start..*start + bytes.len()] == bytes[..])
        };
        assert!(
            versions.iter().any(|version| is_of(version)),
            "{total} bytes are a mixture of versions"
        );
        wholes += usize::from(total == LENGTH);
    }
    is_over.store(true, Ordering::Relaxed);
    writer.join().expect("the writer ends");
    assert_eq!(
        shard.frames_available(),
        shard.frames(),
        "all memory came back"
    );
}

#[test]
fn a_file_that_is_replaced_by_rename_is_read_as_one_version() {
    // Complete before it appears, so it needs no time to settle.
    run("0", Duration::from_millis(5), 20, |path, spare, bytes| {
        fs::write(spare, bytes).expect("written");
        fs::rename(spare, path).expect("renamed");
    });
}

#[test]
fn a_file_that_is_truncated_and_rewritten_in_place_is_read_as_one_version() {
    run("500", Duration::from_millis(900), 4, |path, _, bytes| {
        fs::write(path, bytes).expect("written");
    });
}

#[test]
fn a_young_file_is_read_only_after_it_settled() {
    let folder = TempDir::new().expect("a folder");
    let bytes = content(1, LENGTH);
    fs::write(folder.path().join("object"), &bytes).expect("written");
    let written = Instant::now();
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let uri = format!("file://{}", folder.path().display());
    let mount = mount(&uri, Freshness::AlwaysCheck, &[("settle_ms", "800")]);
    let object = shard.describe(&mount, "/m/object").expect("described");
    assert_brought(&shard.fetch(&mount, &object, 0..LENGTH as u64), &bytes);
    // The file system's clock may be a tick behind.
    assert!(
        written.elapsed() >= Duration::from_millis(700),
        "{:?}",
        written.elapsed()
    );
}

/// Starts a fetch that stops after a few leases, since nobody empties the shard's inbox; lets
/// `change` happen to the file, and collects the rest.
fn fetch_around(change: fn(&Path, &[u8])) -> (Vec<u8>, Fetched) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("object");
    let old = content(1, LENGTH);
    fs::write(&path, &old).expect("written");
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::with_inbox(&runtime, 1);
    let uri = format!("file://{}", folder.path().display());
    let mount = mount(&uri, Freshness::AlwaysCheck, &[("settle_ms", "0")]);
    let object = shard.describe(&mount, "/m/object").expect("described");
    let id = shard.submit_fetch(&mount, &object, 0..LENGTH as u64);
    shard.await_event(id);
    // Past the tick of the file system's clock in which the file was written.
    std::thread::sleep(Duration::from_millis(50));
    change(&path, &content(2, LENGTH));
    let fetched = shard.fetched(id);
    assert_eq!(
        shard.frames_available(),
        shard.frames(),
        "all memory came back"
    );
    (old, fetched)
}

#[test]
fn a_rewrite_in_the_middle_of_a_fetch_ends_it_before_the_first_byte_of_the_new_version() {
    let (old, fetched) = fetch_around(|path, bytes| fs::write(path, bytes).expect("written"));
    let error = fetched.result.expect_err("changed");
    assert_eq!(error.kind, UnderStoreErrorKind::VersionChanged, "{error}");
    assert!(!fetched.bytes.is_empty() && fetched.bytes[..] == old[..fetched.bytes.len()]);
}

#[test]
fn a_fetch_under_way_ends_with_bytes_of_the_old_file_when_another_takes_its_name() {
    let (old, fetched) = fetch_around(|path, bytes| {
        let spare = path.with_extension("spare");
        fs::write(&spare, bytes).expect("written");
        fs::rename(&spare, path).expect("renamed");
    });
    let error = fetched.result.expect_err("changed");
    assert_eq!(error.kind, UnderStoreErrorKind::VersionChanged, "{error}");
    assert!(!fetched.bytes.is_empty() && fetched.bytes[..] == old[..fetched.bytes.len()]);
}

#[test]
fn a_rewrite_that_sets_the_modification_time_back_ends_a_fetch_like_any_other() {
    let (old, fetched) = fetch_around(|path, bytes| {
        let before = fs::metadata(path)
            .expect("there")
            .modified()
            .expect("a time");
        fs::write(path, bytes).expect("written");
        let file = fs::File::options().write(true).open(path).expect("opened");
        file.set_modified(before).expect("set back");
    });
    let error = fetched.result.expect_err("changed");
    assert_eq!(error.kind, UnderStoreErrorKind::VersionChanged, "{error}");
    assert!(fetched.bytes[..] == old[..fetched.bytes.len()]);
}

#[test]
fn a_file_dated_in_the_future_or_the_past_settles_like_any_other() {
    let year = Duration::from_secs(365 * 24 * 3600);
    let now = std::time::SystemTime::now();
    for time in [now + year, now - year, std::time::SystemTime::UNIX_EPOCH] {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("object");
        let bytes = content(1, LENGTH);
        fs::write(&path, &bytes).expect("written");
        let file = fs::File::options().write(true).open(&path).expect("opened");
        file.set_modified(time).expect("dated");
        let written = Instant::now();
        let runtime = FetchRuntime::start(quick_options()).expect("threads");
        let mut shard = Shard::new(&runtime);
        let uri = format!("file://{}", folder.path().display());
        let mount = mount(&uri, Freshness::AlwaysCheck, &[("settle_ms", "800")]);
        let object = shard.describe(&mount, "/m/object").expect("described");
        assert_brought(&shard.fetch(&mount, &object, 0..LENGTH as u64), &bytes);
        let waited = written.elapsed();
        assert!(waited >= Duration::from_millis(700), "{time:?}: {waited:?}");
        // Once it is at rest, it is not waited for again.
        let began = Instant::now();
        assert_brought(&shard.fetch(&mount, &object, 0..LENGTH as u64), &bytes);
        assert!(began.elapsed() < Duration::from_millis(700), "{time:?}");
    }
}
