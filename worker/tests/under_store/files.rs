//! Objects that are files.

use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use corelane_io::{Doorbell, PAGE_SIZE};
use corelane_worker::mount::{Freshness, Mount};
use corelane_worker::under_store::listing::{Depth, ListingBounds, Listings};
use corelane_worker::under_store::runtime::FetchRuntime;
use corelane_worker::under_store::{UnderStore, UnderStoreErrorKind};
use rustix::fs::{CWD, FileType, Mode, inotify, mknodat};
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

/// Writes `bytes` to `path` and gives the file this modification time.
fn write_dated(path: &Path, bytes: &[u8], modified: SystemTime) {
    fs::write(path, bytes).expect("written");
    let file = fs::File::options().write(true).open(path).expect("opened");
    file.set_modified(modified).expect("dated");
}

#[test]
fn a_file_that_is_made_anew_with_size_time_and_inode_of_the_one_before_is_another_version() {
    // Most file systems of disks give an inode that became free to the next file; in memory they count on.
    let folder = tempfile::Builder::new()
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a folder");
    let path = folder.path().join("object");
    let dated = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let mount = mount(&uri(&folder), Freshness::AlwaysCheck, &[("settle_ms", "0")]);
    let (mut reused, mut replaced) = (0, 0);
    for turn in 0..200 {
        let (old, new) = (content(turn, 10_000), content(turn + 1000, 10_000));
        write_dated(&path, &old, dated);
        let before = fs::metadata(&path).expect("there");
        let object = shard.describe(&mount, "/m/object").expect("described");
        assert_brought(&shard.fetch(&mount, &object, 0..10_000), &old);
        // Past the tick of the file system's clock.
        std::thread::sleep(Duration::from_millis(12));
        // In place, as editors do, and anew, as archives do.
        if turn % 2 == 0 {
            fs::remove_file(&path).expect("removed");
        }
        write_dated(&path, &new, dated);
        let after = fs::metadata(&path).expect("there");
        assert_eq!(
            (after.len(), after.modified().ok()),
            (before.len(), before.modified().ok())
        );
        if after.ino() == before.ino() {
            if turn % 2 == 0 {
                reused += 1;
            } else {
                replaced += 1;
            }
        }
        let changed = shard.describe(&mount, "/m/object").expect("described");
        assert_ne!(changed.version, object.version);
        assert_ne!(changed.id, object.id);
        let stale = shard.fetch(&mount, &object, 0..10_000);
        let error = stale.result.expect_err("another file");
        assert_eq!(error.kind, UnderStoreErrorKind::VersionChanged, "{error}");
        assert_brought(&shard.fetch(&mount, &changed, 0..10_000), &new);
        if replaced >= 3 && (reused >= 3 || turn >= 40) {
            break;
        }
    }
    assert!(replaced >= 3, "{replaced} files were rewritten in place");
    eprintln!("{reused} files had the inode of the one before");
}

#[test]
fn a_link_in_the_place_of_the_folder_of_a_run_time_mount_is_not_followed() {
    let (above, outside) = (
        TempDir::new().expect("a folder"),
        TempDir::new().expect("a folder"),
    );
    let base = above.path().canonicalize().expect("it is there");
    let folder = base.join("data");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("object"), b"inside").expect("written");
    fs::write(outside.path().join("object"), b"outside").expect("written");
    let mount = mount(
        &format!("file://{}", folder.display()),
        Freshness::AlwaysCheck,
        &[],
    );
    let mount = Arc::new(Mount {
        is_runtime: true,
        ..mount.as_ref().clone()
    });
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let listings = Listings::new(&runtime, ListingBounds::default());
    let waiting = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let list = || waiting.block_on(listings.list(&mount, "/m/", Depth::All, "", 10));
    shard.describe(&mount, "/m/object").expect("inside");
    assert_eq!(list().expect("inside").entries.len(), 1);
    fs::rename(&folder, base.join("moved")).expect("moved");
    symlink(outside.path(), &folder).expect("linked");
    let error = shard.describe(&mount, "/m/object").expect_err("outside");
    assert_eq!(error.kind, UnderStoreErrorKind::Denied, "{error}");
    let error = list().expect_err("outside");
    assert_eq!(error.kind, UnderStoreErrorKind::Denied, "{error}");
}

#[test]
fn what_a_link_leads_to_is_not_opened_before_its_place_and_kind_are_known() {
    let (folder, outside) = (
        TempDir::new().expect("a folder"),
        TempDir::new().expect("a folder"),
    );
    let fifo = |path: &Path| {
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, path, FileType::Fifo, mode, 0).expect("made");
    };
    fifo(&outside.path().join("pipe"));
    fifo(&folder.path().join("own-pipe"));
    symlink(
        outside.path().join("pipe"),
        folder.path().join("linked-pipe"),
    )
    .expect("linked");
    fs::write(outside.path().join("plain"), b"plain").expect("written");
    symlink(
        outside.path().join("plain"),
        folder.path().join("linked-plain"),
    )
    .expect("linked");
    let flags = inotify::CreateFlags::NONBLOCK;
    let watch = inotify::init(flags).expect("inotify");
    for watched in [
        outside.path().join("pipe"),
        outside.path().join("plain"),
        folder.path().join("own-pipe"),
    ] {
        inotify::add_watch(&watch, &watched, inotify::WatchFlags::OPEN).expect("watched");
    }
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let strict = mount(&uri(&folder), Freshness::AlwaysCheck, &[]);
    for (path, kind) in [
        ("/m/linked-pipe", UnderStoreErrorKind::Denied),
        ("/m/linked-plain", UnderStoreErrorKind::Denied),
        ("/m/own-pipe", UnderStoreErrorKind::Invalid),
    ] {
        let error = shard.describe(&strict, path).expect_err(path);
        assert_eq!(error.kind, kind, "{path}: {error}");
    }
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&watch, &mut buffer);
    let opened = reader.next();
    assert!(opened.is_err(), "something was opened: {opened:?}");
    // A watch that sees nothing would prove nothing.
    drop(fs::File::open(outside.path().join("plain")).expect("opened"));
    assert!(reader.next().is_ok());
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
