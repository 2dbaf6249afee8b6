//! Pages of listings against a model: order, prefix, delimiter, where a page begins and ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use corelane_worker::mount::Mount;
use corelane_worker::under_store::origin::{ListPage, ListQuery};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::origins::{Bench, files_mount};
use crate::s3_server::S3Server;

/// Names of directories and of objects are apart, since a file cannot be both.
const DIRECTORIES: [&str; 4] = ["a", "a-b", "ab", "b"];
const OBJECTS: [&str; 5] = ["a-x", "a.x", "abx", "x", "é-x-y"];

fn key() -> impl Strategy<Value = String> {
    let directories = prop::collection::vec(prop::sample::select(&DIRECTORIES[..]), 0..3);
    (directories, prop::sample::select(&OBJECTS[..])).prop_map(|(directories, object)| {
        let mut names = directories;
        names.push(object);
        names.join("/")
    })
}

fn query() -> impl Strategy<Value = ListQuery> {
    let cut = |(key, end): (String, usize)| {
        let end = (0..=end.min(key.len()))
            .rev()
            .find(|end| key.is_char_boundary(*end))
            .unwrap_or(0);
        key[..end].to_owned()
    };
    (
        (key(), 0..6usize).prop_map(cut),
        prop::option::of(prop::sample::select(&["/", "-", "-x"][..])),
        (key(), 0..8usize).prop_map(cut),
        1..6usize,
    )
        .prop_map(|(prefix, delimiter, after, max_keys)| ListQuery {
            prefix,
            delimiter: delimiter.map(str::to_owned),
            after,
            max_keys,
        })
}

/// All that the query shows from its start on, in order.
fn model(keys: &BTreeSet<String>, query: &ListQuery) -> Vec<String> {
    let mut shown = BTreeSet::new();
    for key in keys {
        let Some(rest) = key.strip_prefix(&query.prefix) else {
            continue;
        };
        let delimiter = query.delimiter.as_deref();
        let end = delimiter.and_then(|text| Some(rest.find(text)? + text.len()));
        let entry = end.map_or(key.as_str(), |end| &key[..query.prefix.len() + end]);
        // A page that ended with a group has shown all of it.
        if key.as_str() > query.after.as_str() && entry != query.after {
            shown.insert(entry.to_owned());
        }
    }
    shown.into_iter().collect()
}

fn merged(page: &ListPage) -> Vec<String> {
    let objects = page.objects.iter().map(|object| object.key.clone());
    let mut names: Vec<String> = objects.chain(page.common_prefixes.clone()).collect();
    assert!(page.common_prefixes.is_sorted());
    assert!(
        page.objects
            .is_sorted_by(|left, right| left.key < right.key)
    );
    names.sort();
    names
}

fn check(bench: &Bench, mount: &Arc<Mount>, keys: &BTreeSet<String>, query: &ListQuery) {
    let expected = model(keys, query);
    let (mut found, mut next) = (Vec::new(), query.clone());
    loop {
        let page = bench
            .run(bench.origins.list(mount, next.clone()))
            .expect("listed");
        let names = merged(&page);
        assert!(names.len() <= query.max_keys, "{names:?}");
        for object in &page.objects {
            assert_eq!(object.size, object.key.len() as u64, "{object:?}");
        }
        let is_full = names.len() == query.max_keys;
        found.extend(names);
        match page.next_after {
            None => break,
            Some(after) => {
                assert!(is_full, "a page that is cut is full: {query:?}");
                next.after = after;
            }
        }
    }
    assert_eq!(found, expected, "{query:?} of {keys:?}");
}

#[test]
fn pages_of_a_directory_are_those_of_the_model() {
    let bench = Bench::new();
    proptest!(ProptestConfig::with_cases(96), |(
        keys in prop::collection::btree_set(key(), 0..14),
        queries in prop::collection::vec(query(), 8),
    )| {
        let folder = TempDir::new().expect("a folder");
        let mount = files_mount(&folder);
        for key in &keys {
            bench.put(&mount, key, key.as_bytes());
        }
        for query in &queries {
            check(&bench, &mount, &keys, query);
        }
    });
}

#[test]
fn pages_of_an_s3_server_are_those_of_the_model() {
    let (bench, server) = (Bench::new(), S3Server::start());
    let case = std::cell::Cell::new(0);
    let keys = prop::collection::btree_set(key(), 0..10);
    let strategy = (keys, prop::collection::vec(query(), 6));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(24));
    runner
        .run(&strategy, |(keys, queries)| {
            // A prefix of its own, so that no case sees the keys of another one.
            case.set(case.get() + 1);
            let uri = format!("s3://bucket/case-{}", case.get());
            let mount = server.mount(&uri, "secret");
            for key in &keys {
                bench.put(&mount, key, key.as_bytes());
            }
            for query in &queries {
                check(&bench, &mount, &keys, query);
            }
            Ok(())
        })
        .expect("the model's pages");
}

#[test]
fn a_forgotten_key_shows_in_cached_listings_and_others_stay_cached() {
    use corelane_worker::mount::Freshness;
    let (bench, folder) = (Bench::new(), TempDir::new().expect("a folder"));
    let uri = format!("file://{}", folder.path().display());
    let mount = crate::harness::mount(&uri, Freshness::Immutable, &[]);
    bench.put(&mount, "a/1", b"1");
    bench.put(&mount, "b/1", b"1");
    let list = |prefix: &str| {
        let query = ListQuery {
            prefix: prefix.to_owned(),
            max_keys: 1000,
            ..ListQuery::default()
        };
        let page = bench
            .run(bench.origins.list(&mount, query))
            .expect("listed");
        page.objects.len()
    };
    assert_eq!((list(""), list("a/"), list("b/")), (2, 1, 1));
    bench.put(&mount, "a/2", b"2");
    bench.put(&mount, "b/2", b"2");
    assert_eq!((list(""), list("a/"), list("b/")), (2, 1, 1), "cached");
    bench.origins.forget(&mount, "a/2");
    assert_eq!((list(""), list("a/"), list("b/")), (4, 2, 1));
}
