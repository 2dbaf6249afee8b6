//! Objects that are files.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corelane_io::{Doorbell, PAGE_SIZE};
use corelane_worker::mount::Freshness;
use corelane_worker::under_store::runtime::FetchRuntime;
use corelane_worker::under_store::{UnderStore, UnderStoreErrorKind};
use tempfile::TempDir;

use crate::harness::{Shard, assert_brought, content, mount, quick_options};

fn uri(folder: &TempDir) -> String {
    format!("file://{}", folder.path().display())
}

#[test]
fn files_of_every_size_arrive_as_they_are_with_checksums_and_zero_padding() {
    let folder = TempDir::new().expect("a folder");
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let mount = mount(&uri(&folder), Freshness::Immutable, &[]);
    for length in [
        0,
        1,
        PAGE_SIZE - 1,
        PAGE_SIZE,
        65_537,
        (16 << 20) - 5,
        20 << 20,
    ] {
        let bytes = content(length as u64, length);
        fs::write(folder.path().join("object"), &bytes).expect("written");
        let object = shard.describe(&mount, "/m/object").expect("described");
        assert_eq!(object.length, length as u64);
        assert_eq!(object.uri, format!("{}/object", uri(&folder)));
        let end = object.length.min(16 << 20);
        assert_brought(
            &shard.fetch(&mount, &object, 0..end),
            &bytes[..end as usize],
        );
        if length > 3 * PAGE_SIZE {
            let middle = PAGE_SIZE as u64..PAGE_SIZE as u64 * 3 + 17;
            let fetched = shard.fetch(&mount, &object, middle.clone());
            assert_brought(&fetched, &bytes[middle.start as usize..middle.end as usize]);
        }
    }
    assert_eq!(
        shard.frames_available(),
        shard.frames(),
        "all memory came back"
    );
}

#[test]
fn what_is_no_object_is_refused_with_the_reason() {
    let folder = TempDir::new().expect("a folder");
    let outside = TempDir::new().expect("a folder");
    fs::write(outside.path().join("secret"), b"secret").expect("written");
    fs::write(folder.path().join("plain"), b"plain").expect("written");
    fs::create_dir(folder.path().join("directory")).expect("made");
    symlink(outside.path().join("secret"), folder.path().join("escape")).expect("linked");
    symlink(folder.path().join("plain"), folder.path().join("inside")).expect("linked");
    symlink(outside.path(), folder.path().join("way-out")).expect("linked");
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let strict = mount(&uri(&folder), Freshness::AlwaysCheck, &[]);
    for (path, kind, reason) in [
        ("/m/missing", UnderStoreErrorKind::NotFound, "no such file"),
        (
            "/m/plain/below",
            UnderStoreErrorKind::NotFound,
            "no such file",
        ),
        ("/m/directory", UnderStoreErrorKind::NotFound, "directory"),
        ("/m/escape", UnderStoreErrorKind::Denied, "follow_symlinks"),
        (
            "/m/way-out/secret",
            UnderStoreErrorKind::Denied,
            "follow_symlinks",
        ),
        ("/m/../plain", UnderStoreErrorKind::Invalid, "`..`"),
        ("/m/a\0b", UnderStoreErrorKind::Invalid, "0x00"),
        ("/m", UnderStoreErrorKind::Invalid, "empty segment"),
    ] {
        let error = shard.describe(&strict, path).expect_err(path);
        assert_eq!(error.kind, kind, "{path}: {error}");
        assert!(error.message.contains(reason), "{path}: {error}");
        assert!(error.uri.starts_with(&strict.uri), "{path}: {error}");
    }
    assert_eq!(
        shard
            .describe(&strict, "/m/inside")
            .expect("stays inside")
            .length,
        5
    );
    let open = mount(
        &uri(&folder),
        Freshness::AlwaysCheck,
        &[("follow_symlinks", "true")],
    );
    assert_eq!(
        shard.describe(&open, "/m/escape").expect("allowed").length,
        6
    );
}

struct Bell(Mutex<Sender<()>>);

impl Doorbell for Bell {
    fn ring(&self) {
        // Nobody listens any more when the test is over.
        let _ = self.0.lock().expect("no panic").send(());
    }
}

#[test]
fn an_event_rings_the_doorbell_of_its_core() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("object"), b"x").expect("written");
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let (sender, rings) = channel();
    shard.store.connect(Arc::new(Bell(Mutex::new(sender))));
    let mount = mount(&uri(&folder), Freshness::Immutable, &[]);
    shard.submit_describe(&mount, "/m/object");
    rings.recv_timeout(Duration::from_secs(30)).expect("rung");
    assert!(
        shard.store.next_event().is_some(),
        "there is an event once it rang"
    );
}
