//! Runs of a store behind HTTP.
//!
//! S3, Google and Azure list in pages, sorted; each page is one request under the limits. A web
//! server lists by WebDAV or not at all, whole and unsorted.

use std::time::Duration;

use futures::{FutureExt, TryStreamExt};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{ListResult, ObjectMeta, ObjectStore};

use super::{Depth, Item, RUN_BYTES_MAX, Run, Wanted};
use crate::under_store::location::StoreKind;
use crate::under_store::origin::{Fault, S3Access, S3Entry};
use crate::under_store::remote::RemoteStore;
use crate::under_store::retry::Failure;
use crate::under_store::stores::{MountStore, Stores};
use crate::under_store::{UnderStoreError, UnderStoreErrorKind};

/// Most entries that an unsorted listing may have: all of them are held while they are sorted.
const UNSORTED_ENTRIES_MAX: usize = 100_000;

/// Pages in a row that bring a run nothing, until the store is not asked for more: one that says without end
/// that more follows would keep a listing for ever.
const EMPTY_PAGES_MAX: usize = 1000;

/// Notes that a page left a run with `length` entries.
///
/// # Errors
/// When too many pages in a row brought nothing.
fn note_page(empty: &mut (usize, usize), length: usize) -> Result<(), Failure> {
    let (pages, before) = *empty;
    *empty = if length > before {
        (0, length)
    } else {
        (pages + 1, before)
    };
    if empty.0 < EMPTY_PAGES_MAX {
        return Ok(());
    }
    Err(Failure::lasting(
        UnderStoreErrorKind::Malformed,
        format!("the store answers {EMPTY_PAGES_MAX} empty pages of the listing in a row"),
    ))
}

/// One run of what `remote` has.
pub(super) async fn run(
    remote: &RemoteStore,
    stores: &Stores,
    store: &MountStore,
    uri: &str,
    wanted: Wanted<'_>,
) -> Result<Run, UnderStoreError> {
    let mut items = Vec::new();
    let mut is_all = true;
    if let Some(Ok(s3)) = &remote.s3 {
        return bucket(s3, remote, stores, store, uri, wanted).await;
    }
    match remote.pages.as_deref() {
        None => {
            let request = |time| unsorted(remote, wanted, time).boxed();
            let result = stores.with_tries(store, uri, request).await?;
            append(remote, wanted, result, &mut items);
        }
        Some(pages) => {
            let (mut token, mut empty) = (None, (0, 0));
            loop {
                let request = |time| page(remote, pages, wanted, token.clone(), time).boxed();
                let (result, next) = stores.with_tries(store, uri, request).await?;
                append(remote, wanted, result, &mut items);
                if next.is_none() {
                    break;
                }
                if is_enough(&items, wanted) {
                    is_all = false;
                    break;
                }
                note_page(&mut empty, items.len()).map_err(|failure| failure.into_error(uri, 1))?;
                if next == token {
                    let failure = Failure::lasting(
                        UnderStoreErrorKind::Malformed,
                        "the store answers the same page of the listing again and again",
                    );
                    return Err(failure.into_error(uri, 1));
                }
                token = next;
            }
        }
    }
    items.sort_unstable_by(|left, right| left.key().cmp(right.key()));
    items.dedup_by(|left, right| left.key() == right.key());
    Ok(Run::new(items, is_all, wanted.entries_max))
}

/// Whether a run has all entries that were wanted, or as many bytes as one may have.
fn is_enough(items: &[Item], wanted: Wanted<'_>) -> bool {
    items.len() > wanted.entries_max || items.iter().map(Item::bytes).sum::<usize>() > RUN_BYTES_MAX
}

/// One run of an S3 bucket, with the keys as they are.
async fn bucket(
    s3: &S3Access,
    remote: &RemoteStore,
    stores: &Stores,
    store: &MountStore,
    uri: &str,
    wanted: Wanted<'_>,
) -> Result<Run, UnderStoreError> {
    let mut items: Vec<Item> = Vec::new();
    let mut token: Option<String> = None;
    let (prefix, after) = (
        remote.location.full_key(wanted.prefix),
        remote.location.full_key(wanted.after),
    );
    let after = if wanted.after.is_empty() {
        ""
    } else {
        after.as_str()
    };
    let groups = wanted.depth == Depth::Children;
    // One more than wanted tells whether something follows; 1000 is what stores give at most.
    let keys_max = (wanted.entries_max + 1).min(1000);
    let mut empty = (0, 0);
    loop {
        let (prefix, current) = (prefix.as_str(), token.as_deref());
        let page = stores
            .with_tries(store, uri, |time| {
                async move {
                    s3.list(prefix, groups, after, current, keys_max, time)
                        .await
                        .map_err(Fault::into_failure)
                }
                .boxed()
            })
            .await?;
        append_page(
            remote,
            wanted,
            page.objects,
            page.common_prefixes,
            &mut items,
        );
        if page.token.is_none() || is_enough(&items, wanted) {
            items.sort_unstable_by(|left, right| left.key().cmp(right.key()));
            items.dedup_by(|left, right| left.key() == right.key());
            return Ok(Run::new(items, page.token.is_none(), wanted.entries_max));
        }
        note_page(&mut empty, items.len()).map_err(|failure| failure.into_error(uri, 1))?;
        if page.token == token {
            let failure = Failure::lasting(
                UnderStoreErrorKind::Malformed,
                "the store answers the same page of the listing again and again",
            );
            return Err(failure.into_error(uri, 1));
        }
        token = page.token;
    }
}

/// Appends what was wanted of a page of a bucket, by keys below the mount.
fn append_page(
    remote: &RemoteStore,
    wanted: Wanted<'_>,
    objects: Vec<S3Entry>,
    common_prefixes: Vec<String>,
    items: &mut Vec<Item>,
) {
    let skipped = remote.location.full_key("").len();
    let below = |full_key: &str| {
        let key = full_key.get(skipped..)?;
        // Stores may repeat the group that the page before ended with.
        let is_wanted = key.starts_with(wanted.prefix) && key > wanted.after;
        (is_wanted && !key.is_empty()).then(|| key.to_owned())
    };
    items.extend(objects.into_iter().filter_map(|object| {
        Some(Item::Object {
            key: below(&object.key)?,
            length: object.size,
            last_modified_ms: object.last_modified_ms,
            version: object.etag,
            storage_class: Some(object.storage_class)
                .filter(|class| !class.is_empty() && class != "STANDARD")
                .map(String::into_boxed_str),
        })
    }));
    items.extend(
        common_prefixes
            .iter()
            .filter_map(|key| Some(Item::Prefix { key: below(key)? })),
    );
}

async fn page(
    remote: &RemoteStore,
    pages: &dyn PaginatedListStore,
    wanted: Wanted<'_>,
    token: Option<String>,
    time_left: Duration,
) -> Result<(ListResult, Option<String>), Failure> {
    let prefix = remote.location.full_key(wanted.prefix);
    let options = PaginatedListOptions {
        offset: (!wanted.after.is_empty()).then(|| remote.location.full_key(wanted.after)),
        delimiter: (wanted.depth == Depth::Children).then_some("/".into()),
        // One more than wanted tells whether something follows; 1000 is what stores give at most.
        max_keys: Some((wanted.entries_max + 1).min(1000)),
        page_token: token,
        ..PaginatedListOptions::default()
    };
    let prefix = (!prefix.is_empty()).then_some(prefix.as_str());
    let answer = remote
        .answered(pages.list_paginated(prefix, options), time_left)
        .await?;
    Ok((answer.result, answer.page_token))
}

async fn unsorted(
    remote: &RemoteStore,
    wanted: Wanted<'_>,
    time_left: Duration,
) -> Result<ListResult, Failure> {
    let directory = remote.location.full_key(wanted.directory());
    let directory = Path::parse(&directory)
        .map_err(|error| Failure::lasting(UnderStoreErrorKind::Invalid, error.to_string()))?;
    let client: &dyn ObjectStore = remote.client();
    if wanted.depth == Depth::Children {
        let answer = client.list_with_delimiter(Some(&directory));
        let result = remote.answered(answer, time_left).await?;
        if result.objects.len() + result.common_prefixes.len() > UNSORTED_ENTRIES_MAX {
            return Err(too_many_unsorted());
        }
        return Ok(result);
    }
    let all = async {
        let mut objects = Vec::new();
        let mut stream = client.list(Some(&directory));
        while let Some(object) = stream.try_next().await? {
            objects.push(object);
            if objects.len() > UNSORTED_ENTRIES_MAX {
                break;
            }
        }
        Ok(objects)
    };
    let objects = remote.answered(all, time_left).await?;
    if objects.len() > UNSORTED_ENTRIES_MAX {
        return Err(too_many_unsorted());
    }
    Ok(ListResult {
        objects,
        common_prefixes: Vec::new(),
        extensions: Default::default(),
    })
}

fn too_many_unsorted() -> Failure {
    let cause = format!(
        "a web server's listing of more than {UNSORTED_ENTRIES_MAX} entries; list a longer prefix"
    );
    Failure::lasting(UnderStoreErrorKind::Invalid, cause)
}

/// The version in the form that a description has: Azure's listings leave out the quotes.
fn listed_version(remote: &RemoteStore, object: &ObjectMeta) -> String {
    let version = remote.version(object).unwrap_or_default();
    let is_bare = object.e_tag.is_some() && !version.contains('"');
    if is_bare && remote.location.kind == StoreKind::Azure {
        format!("\"{version}\"")
    } else {
        version
    }
}

/// Appends what was wanted of an answer, by keys below the mount.
fn append(remote: &RemoteStore, wanted: Wanted<'_>, result: ListResult, items: &mut Vec<Item>) {
    let below = |path: &Path| {
        let key = path.as_ref().strip_prefix(&remote.location.prefix)?;
        let key = if remote.location.prefix.is_empty() {
            key
        } else {
            key.strip_prefix('/')?
        };
        Some(key.to_owned())
    };
    let is_wanted = |key: &str| key.starts_with(wanted.prefix) && key > wanted.after;
    items.extend(result.objects.into_iter().filter_map(|object| {
        // A marker object for the directory itself has its name without the slash: filtered here.
        let key = below(&object.location).filter(|key| is_wanted(key))?;
        Some(Item::Object {
            key,
            length: object.size,
            last_modified_ms: u64::try_from(object.last_modified.timestamp_millis()).unwrap_or(0),
            version: listed_version(remote, &object),
            storage_class: None,
        })
    }));
    items.extend(result.common_prefixes.iter().filter_map(|path| {
        let key = below(path)
            .map(|key| format!("{key}/"))
            .filter(|key| is_wanted(key))?;
        Some(Item::Prefix { key })
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_has_always_more_and_never_anything_is_left() {
        let mut empty = (0, 0);
        for length in 0..10 {
            for _ in 1..EMPTY_PAGES_MAX {
                assert!(note_page(&mut empty, length).is_ok());
            }
            assert!(note_page(&mut empty, length + 1).is_ok(), "it goes on");
        }
        let ended = (0..EMPTY_PAGES_MAX).find(|_| note_page(&mut empty, 10).is_err());
        assert_eq!(ended, Some(EMPTY_PAGES_MAX - 1));
    }
}
