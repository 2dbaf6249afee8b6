//! Stores that send the worker elsewhere.

use std::sync::Arc;

use corelane_worker::mount::{Freshness, Mount};
use corelane_worker::under_store::UnderStoreErrorKind;
use corelane_worker::under_store::listing::{Depth, ListingBounds, Listings};
use corelane_worker::under_store::runtime::FetchRuntime;

use crate::harness::{Shard, assert_brought, content, mount, quick_options};
use crate::origin::{Origin, stored};

const LENGTH: usize = 50_000;

/// One mount of each kind that reaches a store by HTTP, at an origin that has its objects below `/bucket`.
fn mounts(origin: &Origin) -> Vec<Arc<Mount>> {
    let options = origin.s3_options();
    let options: Vec<(&str, &str)> = options
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let here = format!("http://{}", origin.address);
    let gcs_key = format!(
        "{{\"gcs_base_url\": \"{here}\", \"disable_oauth\": true, \"client_email\": \"\", \
         \"private_key\": \"\", \"private_key_id\": \"\"}}"
    );
    let azure = [
        ("account_name", "bucket"),
        ("endpoint", here.as_str()),
        ("allow_http", "true"),
        ("skip_signature", "true"),
    ];
    let gcs = [
        ("google_service_account_key", gcs_key.as_str()),
        ("allow_http", "true"),
    ];
    let always = Freshness::AlwaysCheck;
    vec![
        mount(&format!("{here}/bucket"), always, &[]),
        mount("s3://bucket", always, &options),
        mount("gs://bucket", always, &gcs),
        mount("az://bucket", always, &azure),
    ]
}

#[test]
fn no_store_sends_the_worker_to_another_origin() {
    let elsewhere = Origin::start();
    elsewhere.put("/bucket/object", stored(content(1, LENGTH), "v1"));
    let origin = Origin::start();
    let there = format!("http://{}", elsewhere.address);
    origin.redirect("/", &there);
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let listings = Listings::new(&runtime, ListingBounds::default());
    let waiting = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let mut shard = Shard::new(&runtime);
    // What a mount knew of an object before its store was changed.
    let good = Origin::start();
    good.put("/bucket/object", stored(content(1, LENGTH), "v1"));
    let known = shard
        .describe(&mounts(&good)[0], "/m/object")
        .expect("described");
    for mount in mounts(&origin) {
        let before = origin.requests();
        let error = shard
            .describe(&mount, "/m/object")
            .expect_err("sent elsewhere");
        assert_eq!(error.kind, UnderStoreErrorKind::Invalid, "{error}");
        assert!(error.message.contains(&there), "{error}");
        let object = Arc::new(corelane_worker::object::ObjectMeta {
            uri: format!("{}/object", mount.uri),
            ..known.as_ref().clone()
        });
        let fetched = shard.fetch(&mount, &object, 0..LENGTH as u64);
        let error = fetched.result.expect_err("sent elsewhere");
        assert_eq!(error.kind, UnderStoreErrorKind::Invalid, "{error}");
        assert!(error.message.contains(&there), "{error}");
        assert!(fetched.bytes.is_empty());
        let listed = waiting.block_on(listings.list(&mount, "/m/", Depth::All, "", 10));
        listed.expect_err("sent elsewhere");
        // A describe, a fetch and a listing, none of them tried again.
        assert_eq!(origin.requests() - before, 3, "{}", mount.uri);
    }
    assert_eq!(elsewhere.requests(), 0);
}

#[test]
fn a_redirect_within_a_web_servers_origin_is_followed_and_a_circle_ends() {
    let origin = Origin::start();
    let bytes = content(1, LENGTH);
    origin.put("/new/old/object", stored(bytes.clone(), "v1"));
    origin.redirect("/old", "/new");
    origin.redirect("/circle", "");
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let uri = format!("http://{}/old", origin.address);
    let old = mount(&uri, Freshness::AlwaysCheck, &[]);
    let found = shard.describe(&old, "/m/object").expect("described");
    assert_brought(&shard.fetch(&old, &found, 0..LENGTH as u64), &bytes);
    let before = origin.requests();
    let uri = format!("http://{}/circle", origin.address);
    let circle = mount(&uri, Freshness::AlwaysCheck, &[]);
    let error = shard.describe(&circle, "/m/object").expect_err("a circle");
    assert_eq!(error.kind, UnderStoreErrorKind::Invalid, "{error}");
    assert!(origin.requests() - before < 10);
}
