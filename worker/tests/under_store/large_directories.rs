//! Listings of folders with very many names, and of names that cannot be shown.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use corelane_worker::mount::{Freshness, Mount};
use corelane_worker::under_store::counters::MountCounts;
use corelane_worker::under_store::listing::{Depth, ListingBounds, Listings};
use corelane_worker::under_store::runtime::FetchRuntime;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::harness::{Shard, mount, quick_options};

/// Longer than the clocks of file systems are coarse: what was written before it is told from what is
/// written later.
const QUIET: Duration = Duration::from_secs(4);

struct Bench {
    runtime: FetchRuntime,
    listings: Listings,
    mount: Arc<Mount>,
    local: Runtime,
}

impl Bench {
    fn new(folder: &Path, freshness: Freshness) -> Self {
        let runtime = FetchRuntime::start(quick_options()).expect("threads");
        Bench {
            listings: Listings::new(&runtime, ListingBounds::default()),
            runtime,
            mount: mount(&format!("file://{}", folder.display()), freshness, &[]),
            local: tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime"),
        }
    }

    fn counts(&self) -> MountCounts {
        self.runtime.counts().remove(0)
    }

    /// All names, page by page.
    fn all(&self, depth: Depth, limit: usize) -> Vec<String> {
        let (mut names, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.listings.list(&self.mount, "/m/", depth, &after, limit);
            let page = self.local.block_on(page).expect("listed");
            names.extend(page.entries.into_iter().map(|entry| entry.path));
            match page.more {
                Some(more) => after = more,
                None => return names,
            }
        }
    }
}

#[test]
fn a_whole_listing_reads_the_names_a_few_times_and_not_once_a_page() {
    const NAMES: usize = 100_000;
    let folder = TempDir::new_in("/dev/shm").expect("a folder");
    // Long ones: they are more than one stretch.
    let name = |number: usize| format!("{number:0>8}-{}", "n".repeat(200));
    for number in 0..NAMES {
        fs::File::create(folder.path().join(name(number))).expect("made");
    }
    std::thread::sleep(QUIET);
    for freshness in [
        Freshness::AlwaysCheck,
        Freshness::MaxAge(Duration::from_secs(1)),
    ] {
        let bench = Bench::new(folder.path(), freshness);
        let listed = bench.all(Depth::All, 1000);
        assert_eq!(listed.len(), NAMES);
        assert!(listed.iter().enumerate().all(|(number, path)| {
            path.strip_prefix("/m/")
                .is_some_and(|key| key == name(number))
        }));
        let read = bench.counts().names_read;
        assert!(
            (NAMES as u64..=4 * NAMES as u64).contains(&read),
            "{read} names were read of {NAMES}"
        );
        let (_, bytes) = bench.listings.cached();
        assert!(bytes > 1 << 20 && bytes <= ListingBounds::default().bytes_max);
    }
    // What changes is seen, also where a stretch would have it.
    let bench = Bench::new(folder.path(), Freshness::AlwaysCheck);
    let first = |bench: &Bench| {
        let page = bench
            .listings
            .list(&bench.mount, "/m/", Depth::Children, "", 1);
        bench.local.block_on(page).expect("listed").entries[0]
            .path
            .clone()
    };
    assert_eq!(first(&bench), format!("/m/{}", name(0)));
    fs::File::create(folder.path().join("0")).expect("made");
    assert_eq!(first(&bench), "/m/0");
    fs::remove_file(folder.path().join("0")).expect("removed");
    assert_eq!(
        first(&bench),
        format!("/m/{}", name(0)),
        "within the same tick"
    );
}

#[test]
fn many_who_list_a_folder_at_once_read_it_little_more_than_once_and_reads_have_their_own_places() {
    const NAMES: usize = 20_000;
    let folder = TempDir::new_in("/dev/shm").expect("a folder");
    for number in 0..NAMES {
        fs::File::create(folder.path().join(format!("{number:0>8}"))).expect("made");
    }
    std::thread::sleep(QUIET);
    let bench = Bench::new(folder.path(), Freshness::AlwaysCheck);
    let pages: Vec<_> = (0..100)
        .map(|number| {
            let after = format!("/m/{:0>8}", number * 100);
            let (listings, mount) = (bench.listings.clone(), Arc::clone(&bench.mount));
            async move { listings.list(&mount, "/m/", Depth::All, &after, 1).await }
        })
        .collect();
    let mut shard = Shard::new(&bench.runtime);
    let pages = std::thread::scope(|scope| {
        let listing = scope.spawn(|| {
            bench.local.block_on(async {
                let mut all = Vec::new();
                for page in futures::future::join_all(pages).await {
                    all.push(page.expect("listed").entries.len());
                }
                all
            })
        });
        shard
            .describe(&bench.mount, "/m/00000000")
            .expect("described");
        listing.join().expect("listed")
    });
    assert_eq!(pages, [1; 100]);
    let read = bench.counts().names_read;
    assert!(
        read <= 8 * NAMES as u64,
        "{read} names were read of {NAMES}"
    );
}

#[test]
fn names_that_cannot_be_shown_are_left_out_and_counted_and_hide_no_other() {
    let folder = TempDir::new().expect("a folder");
    let mut root = folder.path().to_owned();
    // So long that one more name makes a path that the system refuses.
    while root.as_os_str().len() + 100 < 3990 {
        root.push("d".repeat(99));
    }
    fs::create_dir_all(&root).expect("made");
    let touch = |name: &OsStr| {
        let touched = Command::new("touch").arg(name).current_dir(&root).status();
        assert!(touched.expect("touch").success());
    };
    for name in ["a", "z"] {
        fs::write(root.join(name), b"x").expect("written");
    }
    // Stat fails, as it does for files in a folder that may be read and not entered.
    touch(OsStr::new(&"m".repeat(250)));
    touch(OsStr::from_bytes(b"not-utf-8-\xff"));
    touch(OsStr::new("control-\u{1}"));
    symlink("nowhere", root.join("dangling")).expect("linked");
    symlink("circle", root.join("circle")).expect("linked");
    symlink("/etc/passwd", root.join("outside")).expect("linked");
    for depth in [Depth::All, Depth::Children] {
        let bench = Bench::new(&root, Freshness::AlwaysCheck);
        assert_eq!(bench.all(depth, 10), ["/m/a", "/m/z"]);
        assert_eq!(bench.counts().names_skipped, 6);
    }
}
