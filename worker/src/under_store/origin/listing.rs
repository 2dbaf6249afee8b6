//! Listings in the form of S3, from the same cached runs as all other listings.
//!
//! The order is that of keys as bytes. A run is searched, never copied: a page costs its own
//! entries and a binary search.

use std::sync::Arc;

use super::Origins;
use super::error::{Fault, OriginError, OriginErrorKind as Kind};
use super::types::{ListPage, ListQuery, ListedKey};
use crate::mount::Mount;
use crate::under_store::listing::{Depth, Item, check_prefix};
use crate::under_store::location::StoreKind;
use crate::under_store::stores::MountStore;
use crate::under_store::writer::Writer;
use crate::under_store::{UnderStoreError, UnderStoreErrorKind};

/// Most objects and common prefixes of a page, as in S3.
const PAGE_KEYS_MAX: usize = 1000;

/// Sorts behind every key that begins with what stands before it.
const LAST: char = char::MAX;

/// A page in the making.
struct Making<'a> {
    origins: &'a Origins,
    store: &'a Arc<MountStore>,
    uri: String,
    query: &'a ListQuery,
    page: ListPage,
    room: usize,
    /// Only what sorts behind this is looked at.
    after: String,
    /// What the page ends with so far.
    last: String,
}

impl Origins {
    /// A page of the objects of `mount`.
    ///
    /// # Errors
    /// When the prefix is not usable, or the store fails.
    pub async fn list(
        &self,
        mount: &Arc<Mount>,
        query: ListQuery,
    ) -> Result<ListPage, OriginError> {
        self.list_for(mount, query, None).await
    }

    /// The same, as far as others do not wait for more turns than `client` had.
    ///
    /// # Errors
    /// As [`Origins::list`].
    pub async fn list_for(
        &self,
        mount: &Arc<Mount>,
        query: ListQuery,
        client: Option<Arc<Writer>>,
    ) -> Result<ListPage, OriginError> {
        let (this, mount) = (self.clone(), Arc::clone(mount));
        self.on_runtime(Arc::clone(&mount), "", async move {
            let uri = format!("{}/{}", mount.uri, query.prefix);
            check_prefix(&query.prefix)
                .map_err(|cause| Fault::lasting(Kind::Invalid, cause).into_error(&uri, 0))?;
            let work = this.work(&mount)?;
            let making = Making {
                origins: &this,
                store: &work.store,
                uri: uri.clone(),
                room: query.max_keys.min(PAGE_KEYS_MAX),
                after: query.after.clone(),
                last: query.after.clone(),
                page: ListPage::default(),
                query: &query,
            };
            let listings = &this.listings;
            let result = listings
                .in_turn(&work.store, client.as_ref(), &uri, making.page())
                .await;
            if let Err(error) = &result {
                work.store.counters.error(error.kind);
            }
            result.map_err(|error| origin_error(error, &mount))
        })
        .await
    }
}

fn origin_error(error: UnderStoreError, mount: &Mount) -> OriginError {
    let kind = match error.kind {
        // Objects that are not there are an empty page; so it is the whole that is missing.
        UnderStoreErrorKind::NotFound => Kind::NoSuchBucket,
        UnderStoreErrorKind::VersionChanged => Kind::Malformed,
        UnderStoreErrorKind::Denied => Kind::Denied,
        UnderStoreErrorKind::Unavailable => Kind::Unavailable,
        UnderStoreErrorKind::Malformed => Kind::Malformed,
        UnderStoreErrorKind::Invalid => Kind::Invalid,
    };
    debug_assert!(error.uri.starts_with(&mount.uri));
    OriginError {
        kind,
        code: None,
        uri: error.uri,
        message: error.message,
        is_clear: true,
    }
}

impl Making<'_> {
    async fn page(mut self) -> Result<ListPage, UnderStoreError> {
        if self.room == 0 {
            return Ok(self.page);
        }
        match self
            .query
            .delimiter
            .as_deref()
            .filter(|delimiter| !delimiter.is_empty())
        {
            None => self.fill(Depth::All, None).await?,
            Some("/") => {
                self.begin_inside_a_group().await?;
                self.fill(Depth::Children, None).await?;
            }
            Some(delimiter) => {
                // A page that ended with a group goes on behind all of it.
                let (after, prefix) = (&self.query.after, &self.query.prefix);
                if group_of(after, prefix, delimiter).is_some_and(|group| group == after) {
                    self.after.push(LAST);
                }
                self.fill(Depth::All, Some(delimiter)).await?;
            }
        }
        Ok(self.page)
    }

    /// When the page begins in the middle of a group, the group is shown if it goes on.
    async fn begin_inside_a_group(&mut self) -> Result<(), UnderStoreError> {
        let Some(group) = group_of(&self.query.after, &self.query.prefix, "/")
            .filter(|group| group.len() < self.query.after.len())
            .map(str::to_owned)
        else {
            return Ok(());
        };
        let run = self
            .origins
            .listings
            .run(
                self.store,
                &self.uri,
                &group,
                Depth::All,
                &self.query.after,
                1,
            )
            .await;
        let has_more = match run {
            Ok(run) => run
                .items
                .iter()
                .any(|item| item.key() > self.query.after.as_str()),
            Err(error) if self.is_empty_directory(&error, &group) => false,
            Err(error) => return Err(error),
        };
        if has_more {
            self.push_group(&group);
        }
        self.after = group;
        Ok(())
    }

    fn push_group(&mut self, group: &str) {
        self.page.common_prefixes.push(group.to_owned());
        group.clone_into(&mut self.last);
        self.room -= 1;
    }

    /// Whether an error says only that a directory is not there, which for S3 is nothing listed.
    fn is_empty_directory(&self, error: &UnderStoreError, prefix: &str) -> bool {
        self.store.location.kind == StoreKind::File
            && error.kind == UnderStoreErrorKind::NotFound
            && prefix.contains('/')
    }

    /// Fills the page from behind `after`.
    async fn fill(&mut self, depth: Depth, groups_by: Option<&str>) -> Result<(), UnderStoreError> {
        let prefix = self.query.prefix.clone();
        loop {
            // One more than there is room for tells whether something follows.
            let run = self
                .origins
                .listings
                .run(
                    self.store,
                    &self.uri,
                    &prefix,
                    depth,
                    &self.after,
                    self.room + 1,
                )
                .await;
            let run = match run {
                Ok(run) => run,
                Err(error) if self.is_empty_directory(&error, &prefix) => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut at = behind(&run.items, &self.after);
            while let Some(item) = run.items.get(at) {
                if self.room == 0 {
                    self.page.next_after = Some(std::mem::take(&mut self.last));
                    return Ok(());
                }
                let key = item.key();
                let group = groups_by.and_then(|delimiter| group_of(key, &prefix, delimiter));
                match (item, group) {
                    (_, Some(group)) => {
                        self.push_group(group);
                        // Skips the whole group, without listing it.
                        self.after = format!("{group}{LAST}");
                        at = behind(&run.items, &self.after);
                        continue;
                    }
                    (Item::Prefix { key }, None) => self.push_group(key),
                    (
                        Item::Object {
                            key,
                            length,
                            last_modified_ms,
                            version,
                            storage_class,
                        },
                        None,
                    ) => {
                        self.page.objects.push(ListedKey {
                            key: key.clone(),
                            etag: self.etag_of(version),
                            size: *length,
                            last_modified_ms: *last_modified_ms,
                            storage_class: storage_class
                                .as_deref()
                                .unwrap_or("STANDARD")
                                .to_owned(),
                        });
                        key.clone_into(&mut self.last);
                        self.room -= 1;
                    }
                }
                key.clone_into(&mut self.after);
                at += 1;
            }
            if run.is_complete {
                return Ok(());
            }
        }
    }

    /// The ETag of an object of that version: a file's version is none by itself.
    fn etag_of(&self, version: &str) -> String {
        if version.is_empty() || version.contains('"') {
            version.to_owned()
        } else {
            format!("\"{version}\"")
        }
    }
}

/// Where what sorts behind `after` begins.
fn behind(items: &[Item], after: &str) -> usize {
    items.partition_point(|item| item.key() <= after)
}

/// The group of `key`: up to the first delimiter behind the prefix.
fn group_of<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    let rest = key.strip_prefix(prefix)?;
    let end = prefix.len() + rest.find(delimiter)? + delimiter.len();
    Some(&key[..end])
}
