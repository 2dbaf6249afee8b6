//! Walks the objects of which the shards hold something, merged over the shards in order of URI.
//! Needs no under-store, so it works while that is away.

use std::collections::BTreeMap;
use std::sync::Arc;

use corelane_rpc_schema::ObjectId;

use super::error::CallError;
use super::shards::{ANSWER_DEADLINE, Shards};
use crate::object::ObjectMeta;
use crate::shard::request::{Cached, ShardRequest};

/// Objects asked of a shard at a time: some 300 KiB of answer.
const PAGE_OBJECTS: usize = 1024;

/// An object and what all shards together hold of it.
#[derive(Clone, Debug)]
pub struct CachedObject {
    /// The object.
    pub meta: Arc<ObjectMeta>,
    /// What is held.
    pub cached: Cached,
}

/// Adds `part` to what is known of the same object.
pub fn add(total: &mut Cached, part: Cached) {
    total.blocks += part.blocks;
    total.bytes += part.bytes;
    total.pinned |= part.pinned;
}

/// A walk in progress.
pub struct CachedWalk {
    shards: Shards,
    uri_prefix: String,
    after: String,
    is_done: bool,
    page_objects: usize,
}

impl CachedWalk {
    /// All objects whose URI starts with `uri_prefix` and comes after `after`.
    pub fn new(shards: &Shards, uri_prefix: impl Into<String>, after: impl Into<String>) -> Self {
        CachedWalk {
            shards: shards.clone(),
            uri_prefix: uri_prefix.into(),
            after: after.into(),
            is_done: false,
            page_objects: PAGE_OBJECTS,
        }
    }

    /// Goes on after `uri`, leaving out what comes before.
    pub fn skip_to(&mut self, uri: String) {
        self.after = uri;
        self.is_done = false;
    }

    /// The next objects in order of URI; `None` at the end. All versions of a URI come together.
    ///
    /// # Errors
    /// When a shard does not answer.
    pub async fn next_page(&mut self) -> Result<Option<Vec<CachedObject>>, CallError> {
        while !self.is_done {
            let page = self.ask().await?;
            if !page.is_empty() {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    async fn ask(&mut self) -> Result<Vec<CachedObject>, CallError> {
        let (prefix, after, limit) = (&self.uri_prefix, &self.after, self.page_objects);
        let answers = self
            .shards
            .ask_all(ANSWER_DEADLINE, |answer| ShardRequest::CachedObjects {
                uri_prefix: prefix.clone(),
                after: after.clone(),
                limit,
                answer,
            });
        let answers = answers.await?;
        // A shard that filled its page may hold more behind the last URI, also of that URI, so
        // the page ends where all shards are known to be complete.
        let full = answers.iter().filter(|objects| objects.len() >= limit);
        let horizon: Option<String> = full.filter_map(|objects| complete_to(objects)).min();
        let mut merged: BTreeMap<(String, ObjectId), CachedObject> = BTreeMap::new();
        for (meta, cached) in answers.into_iter().flatten() {
            if horizon.as_ref().is_some_and(|horizon| meta.uri > *horizon) {
                continue;
            }
            let key = (meta.uri.clone(), meta.id);
            let object = merged.entry(key).or_insert_with(|| CachedObject {
                meta,
                cached: Cached::default(),
            });
            add(&mut object.cached, cached);
        }
        match horizon {
            Some(horizon) => self.after = horizon,
            None => self.is_done = true,
        }
        Ok(merged.into_values().collect())
    }
}

/// The last URI of which a full page certainly has all versions.
fn complete_to(objects: &[(Arc<ObjectMeta>, Cached)]) -> Option<String> {
    let last = &objects.last()?.0.uri;
    let before = objects.iter().rev().find(|(meta, _)| meta.uri != *last);
    Some(before.map_or(last, |(meta, _)| &meta.uri).clone())
}
