//! Listings: order, pages, freshness.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use corelane_worker::mount::{Freshness, Mount};
use corelane_worker::under_store::UnderStoreErrorKind;
use corelane_worker::under_store::listing::{Depth, ListingBounds, Listings, Page};
use corelane_worker::under_store::runtime::FetchRuntime;
use tempfile::TempDir;

use crate::harness::{Shard, mount, quick_options};
use crate::origin::{Origin, stored};

/// Keys whose order as keys is not the order of the directories' names.
const KEYS: [&str; 8] = ["a", "b-c", "b/c/d", "b/c/e", "b/f", "b0", "c/x", "d"];

fn list(
    listings: &Listings,
    mount: &Arc<Mount>,
    prefix: &str,
    depth: Depth,
    after: &str,
    limit: usize,
) -> Page {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime
        .block_on(listings.list(mount, prefix, depth, after, limit))
        .expect("listed")
}

/// All names of a listing, objects and prefixes, page by page.
fn all(
    listings: &Listings,
    mount: &Arc<Mount>,
    prefix: &str,
    depth: Depth,
    limit: usize,
) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = list(listings, mount, prefix, depth, &after, limit);
        let mut found: Vec<String> = page.entries.into_iter().map(|entry| entry.path).collect();
        found.extend(page.common_prefixes);
        assert!(found.len() <= limit, "{found:?}");
        found.sort();
        names.extend(found);
        match page.more {
            Some(more) => after = more,
            None => return names,
        }
    }
}

fn expect_listings(listings: &Listings, mount: &Arc<Mount>) {
    let paths: Vec<String> = KEYS.iter().map(|key| format!("/m/{key}")).collect();
    for limit in [1, 2, 3, 100] {
        assert_eq!(
            all(listings, mount, "/m/", Depth::All, limit),
            paths,
            "limit {limit}"
        );
        assert_eq!(
            all(listings, mount, "/m/", Depth::Children, limit),
            ["/m/a", "/m/b-c", "/m/b/", "/m/b0", "/m/c/", "/m/d"],
            "limit {limit}"
        );
        assert_eq!(
            all(listings, mount, "/m/b/", Depth::Children, limit),
            ["/m/b/c/", "/m/b/f"]
        );
        assert_eq!(
            all(listings, mount, "/m/b", Depth::Children, limit),
            ["/m/b-c", "/m/b/", "/m/b0"]
        );
        assert_eq!(
            all(listings, mount, "/m/b/c/e", Depth::All, limit),
            ["/m/b/c/e"]
        );
        assert!(all(listings, mount, "/m/zz", Depth::All, limit).is_empty());
    }
}

fn write(folder: &Path, key: &str, bytes: &[u8]) {
    let path = folder.join(key);
    fs::create_dir_all(path.parent().expect("below the folder")).expect("made");
    fs::write(path, bytes).expect("written");
}

#[test]
fn files_and_s3_list_the_same_names_in_the_same_order_in_pages_of_any_size() {
    let folder = TempDir::new().expect("a folder");
    let origin = Origin::start();
    for key in KEYS {
        write(folder.path(), key, key.as_bytes());
        origin.put(&format!("/bucket/below/{key}"), stored(key.into(), key));
    }
    origin.put("/bucket/elsewhere", stored(b"no".to_vec(), "no"));
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let options = origin.s3_options();
    let options: Vec<(&str, &str)> = options
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    for freshness in [Freshness::AlwaysCheck, Freshness::Immutable] {
        let listings = Listings::new(&runtime, ListingBounds::default());
        expect_listings(
            &listings,
            &mount(
                &format!("file://{}", folder.path().display()),
                freshness,
                &[],
            ),
        );
        expect_listings(&listings, &mount("s3://bucket/below", freshness, &options));
    }
}

#[test]
fn a_listed_file_has_the_version_that_a_description_has() {
    let folder = TempDir::new().expect("a folder");
    write(folder.path(), "x/y", b"12345");
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mount = mount(
        &format!("file://{}", folder.path().display()),
        Freshness::AlwaysCheck,
        &[],
    );
    let listings = Listings::new(&runtime, ListingBounds::default());
    let page = list(&listings, &mount, "/m/", Depth::All, "", 10);
    let object = Shard::new(&runtime)
        .describe(&mount, "/m/x/y")
        .expect("described");
    assert_eq!(page.entries.len(), 1);
    let entry = &page.entries[0];
    assert_eq!((&entry.version, entry.length), (&object.version, 5));
    assert_eq!(entry.last_modified_ms, object.last_modified_ms);
}

#[test]
fn an_overwrite_shows_when_the_freshness_says() {
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let length = |listings: &Listings, mount: &Arc<Mount>| {
        list(listings, mount, "/m/", Depth::Children, "", 10).entries[0].length
    };
    for freshness in [
        Freshness::Immutable,
        Freshness::MaxAge(Duration::from_millis(400)),
        Freshness::MaxAge(Duration::from_secs(3600)),
        Freshness::AlwaysCheck,
    ] {
        let folder = TempDir::new().expect("a folder");
        let mount = mount(
            &format!("file://{}", folder.path().display()),
            freshness,
            &[],
        );
        let listings = Listings::new(&runtime, ListingBounds::default());
        write(folder.path(), "object", b"old");
        assert_eq!(length(&listings, &mount), 3);
        write(folder.path(), "object", b"newer");
        match freshness {
            Freshness::AlwaysCheck => assert_eq!(length(&listings, &mount), 5),
            Freshness::MaxAge(age) if age < Duration::from_secs(1) => {
                std::thread::sleep(age);
                assert_eq!(length(&listings, &mount), 5, "{freshness:?}");
            }
            Freshness::MaxAge(_) | Freshness::Immutable => {
                assert_eq!(length(&listings, &mount), 3, "{freshness:?}");
                listings.forget("/m");
                assert_eq!(length(&listings, &mount), 5, "forgotten");
            }
        }
    }
}

#[test]
fn cached_pages_do_not_ask_the_store_again_and_the_cache_stays_within_its_bounds() {
    let origin = Origin::start();
    for index in 0..300 {
        origin.put(
            &format!("/bucket/{}/{index:04}", index % 10),
            stored(vec![0], "v"),
        );
    }
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let options = origin.s3_options();
    let options: Vec<(&str, &str)> = options
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mount = mount("s3://bucket", Freshness::Immutable, &options);
    let bounds = ListingBounds {
        entries_max: 200,
        bytes_max: 1 << 20,
    };
    let listings = Listings::new(&runtime, bounds);
    for folder in 0..10 {
        let prefix = format!("/m/{folder}/");
        assert_eq!(
            all(&listings, &mount, &prefix, Depth::Children, 7).len(),
            30
        );
        assert_eq!(origin.lists(), folder + 1, "one request for all pages");
        let (entries, bytes) = listings.cached();
        assert!(entries <= bounds.entries_max && bytes <= bounds.bytes_max);
    }
    assert_eq!(
        all(&listings, &mount, "/m/9/", Depth::Children, 7).len(),
        30
    );
    assert_eq!(origin.lists(), 10, "the last one is still there");
    assert_eq!(
        all(&listings, &mount, "/m/0/", Depth::Children, 7).len(),
        30
    );
    assert_eq!(origin.lists(), 11, "the first one had to go");
}

#[test]
fn what_cannot_be_listed_is_said_so() {
    let folder = TempDir::new().expect("a folder");
    write(folder.path(), "object", b"x");
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mount = mount(
        &format!("file://{}", folder.path().display()),
        Freshness::Immutable,
        &[],
    );
    let listings = Listings::new(&runtime, ListingBounds::default());
    let local = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    for (prefix, kind) in [
        ("/m/missing/", UnderStoreErrorKind::NotFound),
        ("/m/object/", UnderStoreErrorKind::NotFound),
        ("/m/../", UnderStoreErrorKind::Invalid),
        ("/elsewhere/", UnderStoreErrorKind::Invalid),
    ] {
        let list = listings.list(&mount, prefix, Depth::Children, "", 10);
        let error = local.block_on(list).expect_err(prefix);
        assert_eq!(error.kind, kind, "{prefix}: {error}");
    }
}
