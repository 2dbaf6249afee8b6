//! What an object is known by, where stores say less of it, or other things, than they should.

use std::sync::Arc;

use corelane_worker::mount::{Freshness, Mount};
use corelane_worker::under_store::UnderStoreErrorKind;
use corelane_worker::under_store::runtime::FetchRuntime;

use crate::harness::{Shard, assert_brought, content, mount, quick_options};
use crate::origin::{Manner, Origin, Stored, stored};

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

/// A mount of an S3 bucket and one of a web server, both at the object `/bucket/object`.
fn mounts(origin: &Origin, freshness: Freshness) -> [Arc<Mount>; 2] {
    let options = origin.s3_options();
    let options: Vec<(&str, &str)> = options
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let web = format!("http://{}/bucket", origin.address);
    [
        mount("s3://bucket", freshness, &options),
        mount(&web, freshness, &[]),
    ]
}

fn object(bytes: &[u8], etag: Option<&str>, modified: &'static str) -> Stored {
    Stored {
        etag: etag.map(str::to_owned),
        modified,
        ..stored(bytes.to_vec(), "")
    }
}

fn put(origin: &Origin, object: Stored) {
    origin.put("/bucket/object", object);
}

#[test]
fn a_version_with_another_length_is_another_object_and_its_etag_stays_as_it_is() {
    let origin = Origin::start();
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    for mount in mounts(&origin, Freshness::AlwaysCheck) {
        for etag in ["\"const\"", "W/\"const\"", "const"] {
            let mut before = None;
            for length in [1000, 300_000, 70_000, 1001] {
                let bytes = content(length as u64, length);
                put(&origin, object(&bytes, Some(etag), DATE));
                let found = shard.describe(&mount, "/m/object").expect("described");
                assert_eq!(
                    (found.version.as_str(), found.length),
                    (etag, length as u64)
                );
                let range = 0..length as u64;
                assert_brought(&shard.fetch(&mount, &found, range), &bytes);
                if let Some(old) = before.replace(Arc::clone(&found)) {
                    assert_ne!(old.id, found.id, "{} and {length} bytes", old.length);
                    assert_eq!(old.id.home, found.id.home);
                    let range = 0..old.length;
                    let stale = shard.fetch(&mount, &old, range);
                    let error = stale.result.expect_err("another length");
                    assert_eq!(error.kind, UnderStoreErrorKind::VersionChanged, "{error}");
                    assert!(stale.bytes.is_empty(), "{etag}: nothing was believed");
                    // A range that both have, and one that only the longer has.
                    let stale = shard.fetch(&mount, &old, 0..512);
                    let error = stale.result.expect_err("another length");
                    assert_eq!(error.kind, UnderStoreErrorKind::VersionChanged, "{error}");
                    if old.length > 2 * found.length {
                        let behind = found.length.next_multiple_of(4096)..old.length;
                        let stale = shard.fetch(&mount, &old, behind);
                        let error = stale.result.expect_err("behind the end");
                        assert_eq!(error.kind, UnderStoreErrorKind::VersionChanged, "{error}");
                    }
                }
            }
        }
    }
    let sent = origin.if_match();
    assert!(!sent.is_empty());
    assert!(sent.iter().all(|etag| etag == "\"const\""), "{sent:?}");
}

#[test]
fn without_a_strong_etag_the_modification_time_counts() {
    let origin = Origin::start();
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let (old, new) = (content(1, 50_000), content(2, 50_000));
    for mount in mounts(&origin, Freshness::AlwaysCheck) {
        for etag in [Some("W/\"const\""), Some("const"), None] {
            put(&origin, object(&old, etag, DATE));
            let before = shard.describe(&mount, "/m/object").expect("described");
            assert_brought(&shard.fetch(&mount, &before, 0..50_000), &old);
            put(&origin, object(&new, etag, LATER));
            let after = shard.describe(&mount, "/m/object").expect("described");
            assert_ne!(before.id, after.id, "{etag:?}");
            let stale = shard.fetch(&mount, &before, 0..50_000);
            let error = stale.result.expect_err("another time");
            assert_eq!(error.kind, UnderStoreErrorKind::VersionChanged, "{error}");
            assert!(stale.bytes.is_empty());
            assert_brought(&shard.fetch(&mount, &after, 0..50_000), &new);
        }
        // A strong one promises the same bytes, whatever the time.
        put(&origin, object(&old, Some("\"same\""), DATE));
        let before = shard.describe(&mount, "/m/object").expect("described");
        put(&origin, object(&old, Some("\"same\""), LATER));
        let after = shard.describe(&mount, "/m/object").expect("described");
        assert_eq!(before.id, after.id);
        assert_brought(&shard.fetch(&mount, &before, 0..50_000), &old);
    }
}

#[test]
fn with_neither_a_strong_etag_nor_a_time_only_immutable_mounts_have_the_object() {
    let origin = Origin::start();
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let bytes = content(1, 50_000);
    for etag in [Some("W/\"const\""), Some("const"), None] {
        put(&origin, object(&bytes, etag, ""));
        for mount in mounts(&origin, Freshness::AlwaysCheck) {
            let error = shard.describe(&mount, "/m/object").expect_err("no version");
            assert_eq!(error.kind, UnderStoreErrorKind::Invalid, "{error}");
            assert!(error.message.contains("immutable"), "{error}");
        }
        for mount in mounts(&origin, Freshness::Immutable) {
            let found = shard.describe(&mount, "/m/object").expect("described");
            assert_brought(&shard.fetch(&mount, &found, 0..50_000), &bytes);
        }
    }
}

#[test]
fn dates_at_the_ends_of_time_are_dates() {
    let origin = Origin::start();
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let bytes = content(1, 5000);
    for mount in mounts(&origin, Freshness::AlwaysCheck) {
        for date in [
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "Fri, 11 Apr 2262 23:47:17 GMT",
            "Thu, 01 Jan 1970 00:00:01 GMT",
        ] {
            for etag in [None, Some("W/\"1\"")] {
                put(&origin, object(&bytes, etag, date));
                let found = shard
                    .describe(&mount, "/m/object")
                    .unwrap_or_else(|error| panic!("{date}: {error}"));
                assert_brought(&shard.fetch(&mount, &found, 0..5000), &bytes);
            }
        }
    }
}

#[test]
fn a_length_that_is_none_of_the_objects_is_refused_when_bytes_come() {
    let origin = Origin::start();
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let bytes = content(1, 50_000);
    for mount in mounts(&origin, Freshness::AlwaysCheck) {
        for etag in ["\"v\"", "W/\"v\""] {
            for head_length in [1, 49_999, 50_001, 3_000_000, 1 << 50] {
                put(
                    &origin,
                    Stored {
                        head_length: Some(head_length),
                        ..object(&bytes, Some(etag), DATE)
                    },
                );
                let found = shard.describe(&mount, "/m/object").expect("described");
                assert_eq!(found.length, head_length);
                let first = 0..head_length.min(1 << 20);
                let behind = (head_length > 1 << 20).then_some((1 << 20)..(1 << 20) + 4096);
                for range in std::iter::once(first).chain(behind) {
                    let fetched = shard.fetch(&mount, &found, range.clone());
                    let error = fetched.result.expect_err("another length");
                    let kind = error.kind;
                    assert_eq!(
                        kind,
                        UnderStoreErrorKind::VersionChanged,
                        "{range:?}: {error}"
                    );
                    assert!(fetched.bytes.is_empty(), "nothing was believed");
                }
            }
            // More than blocks have numbers for.
            for head_length in [1 << 60, u64::MAX] {
                put(
                    &origin,
                    Stored {
                        head_length: Some(head_length),
                        ..object(&bytes, Some(etag), DATE)
                    },
                );
                let error = shard.describe(&mount, "/m/object").expect_err("too long");
                assert_eq!(error.kind, UnderStoreErrorKind::Invalid, "{error}");
            }
        }
    }
    assert_eq!(shard.frames_available(), shard.frames());
}

#[test]
fn a_range_that_cannot_be_right_is_an_error() {
    let origin = Origin::start();
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let bytes = content(1, 50_000);
    for mount in mounts(&origin, Freshness::AlwaysCheck) {
        for text in [
            "bytes 0-18446744073709551615/18446744073709551615",
            "bytes 0-18446744073709551615/50000",
            "bytes 18446744073709551615-18446744073709551615/18446744073709551615",
            "bytes 0-99999999999999999999999999/50000",
            "bytes 49999-0/50000",
            "bytes 0-49999/*",
            "bytes */50000",
            "",
        ] {
            put(
                &origin,
                Stored {
                    manners: vec![Manner::ContentRange(text)],
                    ..object(&bytes, Some("\"v\""), DATE)
                },
            );
            let found = shard.describe(&mount, "/m/object").expect("described");
            let fetched = shard.fetch(&mount, &found, 0..50_000);
            let error = fetched.result.expect_err(text);
            assert_eq!(
                error.kind,
                UnderStoreErrorKind::Malformed,
                "{text}: {error}"
            );
            assert!(fetched.bytes.is_empty());
        }
    }
}
