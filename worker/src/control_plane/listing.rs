//! Lists folders: what the under-stores have, and how much of it is cached; or what is cached,
//! which needs no under-store. Mounts show as folders, and hide what lies under them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cached::CachedWalk;
use super::catalogue::{ListRequest, Listed};
use super::error::CallError;
use super::rights::{Rights, is_below};
use super::{Control, objects};
use crate::mount::Mount;
use crate::shard::derived::is_derived;

/// Entries where the caller names no limit.
const ENTRIES_DEFAULT: usize = 1000;

/// Most entries in one answer: with paths of 1 KiB it stays below 16 MiB.
pub const ENTRIES_MAX: usize = 10_000;

/// Most pages of cached objects that one call looks through (a million objects); what lies beyond
/// is listed without its cached bytes.
const CACHED_PAGES_MAX: usize = 1000;

/// What is to be listed.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// The folder.
    pub path: String,
    /// Everything below it.
    pub recursive: bool,
    /// Only what is cached.
    pub cached_only: bool,
    /// At most so many; 0: the default.
    pub limit: usize,
    /// Only what comes after this path.
    pub after: String,
    /// The names as the under-stores have them, without what is cached of them, which takes a walk over
    /// what the shards hold.
    pub names_only: bool,
}

/// A name with what is cached of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub listed: Listed,
    /// Bytes on devices, of this version or below this folder.
    pub bytes_cached: u64,
}

/// Most entries of the answer to `query`.
pub fn limit_of(query: &Query) -> usize {
    match query.limit {
        0 => ENTRIES_DEFAULT,
        limit => limit.min(ENTRIES_MAX),
    }
}

/// Entries in byte order of their paths, and whether there may be more.
///
/// # Errors
/// When nothing is mounted there, nothing is there, or an under-store fails.
pub async fn list(
    control: &Control,
    rights: &Rights,
    query: &Query,
) -> Result<(Vec<Entry>, bool), CallError> {
    let limit = limit_of(query);
    let sources = rights.mounts_at(&query.path);
    if sources.is_empty() {
        rights.mount_of(&query.path)?;
    }
    let mut merged = Merged::new(limit);
    for mount in &sources {
        if is_below(&mount.path, &query.path) && !query.recursive {
            merged.add_folder(
                child(&format!("{}/", mount.path), &query.path),
                &query.after,
            );
            continue;
        }
        let (entries, more) = if query.cached_only {
            cached_entries(control, rights, mount, query, limit).await?
        } else {
            match store_entries(control, rights, mount, query, limit).await {
                // File systems refuse to list what is a file; it may be an object of that name.
                Err(CallError::NotFound(_)) if is_below(&query.path, &mount.path) => {
                    (Vec::new(), false)
                }
                listed => listed?,
            }
        };
        merged.add(entries, more);
    }
    let (entries, more) = merged.into_page();
    // An empty folder is one when it is a mount, or stands above mounts; elsewhere, stores without
    // folders cannot tell it from nothing.
    let is_inside = sources
        .iter()
        .any(|mount| is_below(&query.path, &mount.path));
    if entries.is_empty() && query.after.is_empty() && is_inside {
        return lone_object(control, rights, query).await;
    }
    Ok((entries, more))
}

/// The folder directly in `folder` on the way to `path`; `path` itself when it lies directly in it.
fn child(path: &str, folder: &str) -> String {
    let start = folder.trim_end_matches('/').len() + 1;
    match path[start..].find('/') {
        Some(length) => path[..=start + length].to_owned(),
        None => path.to_owned(),
    }
}

fn folder(path: String) -> Listed {
    Listed {
        path,
        is_directory: true,
        length: 0,
        last_modified_ms: 0,
        version: String::new(),
    }
}

/// Entries of several mounts on their way into one page: the least ones, at most one more than the page has.
struct Merged {
    limit: usize,
    entries: BTreeMap<String, Entry>,
    /// Behind this path, a mount may have entries that were not asked for yet.
    horizon: Option<String>,
}

impl Merged {
    fn new(limit: usize) -> Self {
        Merged {
            limit,
            entries: BTreeMap::new(),
            horizon: None,
        }
    }

    fn add_folder(&mut self, path: String, after: &str) {
        if path.as_str() > after {
            self.entries.entry(path.clone()).or_insert(Entry {
                listed: folder(path),
                bytes_cached: 0,
            });
            self.drop_greatest();
        }
    }

    fn add(&mut self, entries: Vec<Entry>, more: bool) {
        if let Some(last) = entries.last().filter(|_| more) {
            let last = &last.listed.path;
            if self.horizon.as_ref().is_none_or(|horizon| last < horizon) {
                self.horizon = Some(last.clone());
            }
        }
        for entry in entries {
            self.entries.insert(entry.listed.path.clone(), entry);
            self.drop_greatest();
        }
    }

    /// Keeps one more than the page has, which tells that more follows.
    fn drop_greatest(&mut self) {
        if self.entries.len() > self.limit + 1 {
            self.entries.pop_last();
        }
    }

    fn into_page(self) -> (Vec<Entry>, bool) {
        let Merged {
            limit,
            entries,
            horizon,
        } = self;
        let total = entries.len();
        let complete = entries.into_values().filter(|entry| {
            horizon
                .as_ref()
                .is_none_or(|horizon| entry.listed.path <= *horizon)
        });
        let page: Vec<Entry> = complete.take(limit).collect();
        let more = horizon.is_some() || page.len() < total;
        (page, more)
    }
}

/// Where the part of `query` in `mount` begins: its folder, and what entries come after.
fn start_in(mount: &Mount, query: &Query) -> String {
    if is_below(&mount.path, &query.path) {
        mount.path.clone()
    } else {
        query.path.clone()
    }
}

/// The part of `after` that concerns `mount`: empty when all of it comes later, `None` when none.
fn after_in(mount: &Mount, after: &str) -> Option<String> {
    if is_below(after, &mount.path) {
        return Some(after.to_owned());
    }
    let first = format!("{}/", mount.path.trim_end_matches('/'));
    (after <= first.as_str()).then(String::new)
}

fn folder_uri(mount: &Mount, path: &str) -> String {
    let uri = mount.uri_of(path);
    format!("{}/", uri.trim_end_matches('/'))
}

async fn store_entries(
    control: &Control,
    rights: &Rights,
    mount: &Arc<Mount>,
    query: &Query,
    limit: usize,
) -> Result<(Vec<Entry>, bool), CallError> {
    let path = start_in(mount, query);
    let Some(mut after) = after_in(mount, &query.after) else {
        return Ok((Vec::new(), false));
    };
    // A page of which mounts below hide everything is not the end, so it goes on.
    loop {
        let request = ListRequest {
            mount: Arc::clone(mount),
            path: path.clone(),
            recursive: query.recursive,
            after: after.clone(),
            limit,
        };
        let page = control.catalogue.list(request).await?;
        let last = page.entries.last().map(|listed| listed.path.clone());
        let shown = page
            .entries
            .into_iter()
            .filter(|listed| listed.path > after && rights.shows(&listed.path, mount));
        let mut entries: Vec<Entry> = shown
            .map(|listed| Entry {
                listed,
                bytes_cached: 0,
            })
            .collect();
        match last {
            Some(last) if entries.is_empty() && page.more => after = last,
            _ => {
                if !query.names_only {
                    count_cached(control, mount, &path, &mut entries).await?;
                }
                return Ok((entries, page.more));
            }
        }
    }
}

/// Fills in the cached bytes of `entries`, which lie in `folder` of `mount` in order.
async fn count_cached(
    control: &Control,
    mount: &Mount,
    folder: &str,
    entries: &mut [Entry],
) -> Result<(), CallError> {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        return Ok(());
    };
    let (first, last) = (
        mount.uri_of(&first.listed.path),
        mount.uri_of(&last.listed.path),
    );
    let mut before_first = first;
    before_first.pop();
    let positions: BTreeMap<String, usize> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| (entry.listed.path.clone(), index))
        .collect();
    let mut walk = CachedWalk::new(&control.shards, folder_uri(mount, folder), before_first);
    for _ in 0..CACHED_PAGES_MAX {
        let Some(page) = walk.next_page().await? else {
            break;
        };
        let is_beyond = page
            .last()
            .is_some_and(|object| object.meta.uri > last && !object.meta.uri.starts_with(&last));
        for object in page {
            let Some(path) = mount.path_of(&object.meta.uri) else {
                continue;
            };
            if object.meta.block_bytes != mount.block_bytes || is_derived(&object.meta) {
                continue;
            }
            if let Some(index) = positions.get(&path) {
                let entry = &mut entries[*index];
                let listed = &entry.listed;
                let is_shown = object.meta.is_listed_as(
                    &listed.version,
                    listed.length,
                    listed.last_modified_ms,
                );
                if !listed.is_directory && is_shown {
                    entry.bytes_cached += object.cached.bytes;
                }
            } else if is_below(&path, folder)
                && let Some(index) = positions.get(&child(&path, folder))
                && entries[*index].listed.is_directory
            {
                entries[*index].bytes_cached += object.cached.bytes;
            }
        }
        if is_beyond {
            break;
        }
    }
    Ok(())
}

async fn cached_entries(
    control: &Control,
    rights: &Rights,
    mount: &Arc<Mount>,
    query: &Query,
    limit: usize,
) -> Result<(Vec<Entry>, bool), CallError> {
    let Some(after) = after_in(mount, &query.after) else {
        return Ok((Vec::new(), false));
    };
    let folder_path = start_in(mount, query);
    let start = match after.as_str() {
        "" => String::new(),
        after => mount.uri_of(after),
    };
    let mut entries: Vec<Entry> = Vec::new();
    let mut walk = CachedWalk::new(&control.shards, folder_uri(mount, &folder_path), start);
    while let Some(page) = walk.next_page().await? {
        for object in page {
            let Some(path) = mount.path_of(&object.meta.uri) else {
                continue;
            };
            if !rights.shows(&path, mount) || is_derived(&object.meta) {
                continue;
            }
            let is_deeper = !query.recursive && child(&path, &folder_path) != path;
            let listed = if is_deeper {
                folder(child(&path, &folder_path))
            } else {
                described(&path, &object.meta)
            };
            // A page that ended with a folder goes on behind all of it.
            if listed.path <= after {
                continue;
            }
            // The walk is in order, so an object belongs to the last entry or to a new one: a folder has what lies
            // below it, and an object its versions, of which the one that was modified last is shown.
            let is_full = entries.len() == limit;
            match entries.last_mut() {
                Some(last) if last.listed.path == listed.path => {
                    last.bytes_cached += object.cached.bytes;
                    if last.listed.last_modified_ms < listed.last_modified_ms {
                        last.listed = listed;
                    }
                }
                _ if is_full => return Ok((entries, true)),
                _ => entries.push(Entry {
                    listed,
                    bytes_cached: object.cached.bytes,
                }),
            }
        }
    }
    Ok((entries, false))
}

fn described(path: &str, meta: &crate::object::ObjectMeta) -> Listed {
    Listed {
        path: path.to_owned(),
        is_directory: false,
        length: meta.length,
        last_modified_ms: meta.last_modified_ms,
        version: meta.version.clone(),
    }
}

/// The entry of an object whose own path was listed.
async fn lone_object(
    control: &Control,
    rights: &Rights,
    query: &Query,
) -> Result<(Vec<Entry>, bool), CallError> {
    let mount = rights.mount_of(&query.path)?;
    let found = if query.cached_only {
        objects::cached_at(control, mount, &query.path, false).await?
    } else {
        objects::described(control, &query.path)
            .await?
            .into_iter()
            .collect()
    };
    // Of several versions, the one that was modified last.
    let entries: Vec<Entry> = found
        .into_iter()
        .filter(|object| !is_derived(&object.meta))
        .max_by_key(|object| object.meta.last_modified_ms)
        .map(|object| Entry {
            listed: described(&query.path, &object.meta),
            bytes_cached: object.cached.bytes,
        })
        .into_iter()
        .collect();
    if entries.is_empty() {
        let what = if query.cached_only {
            "nothing is cached at"
        } else {
            "there is nothing at"
        };
        return Err(CallError::NotFound(format!("{what} {}", query.path)));
    }
    Ok((entries, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_many_mounts_holds_the_least_entries_and_one_more() {
        let mut merged = Merged::new(3);
        for mount in (0..9).rev() {
            let entries = (0..9).map(|name| Entry {
                listed: folder(format!("/{mount}/{name}/")),
                bytes_cached: 0,
            });
            merged.add(entries.collect(), false);
            merged.add_folder(format!("/{mount}/x/"), "");
            assert!(merged.entries.len() <= 4);
        }
        let (page, more) = merged.into_page();
        let names: Vec<&str> = page
            .iter()
            .map(|entry| entry.listed.path.as_str())
            .collect();
        assert_eq!((names, more), (vec!["/0/0/", "/0/1/", "/0/2/"], true));
    }
}
