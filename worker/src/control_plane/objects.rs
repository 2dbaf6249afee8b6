//! Calls about single objects, or all below a folder: describe, free, pin, read.

use std::collections::HashSet;
use std::sync::Arc;

use corelane_rpc_schema::{ObjectId, STRIPE_BYTES, ShardId, Stripe};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::Control;
use super::cached::{self, CachedObject, CachedWalk};
use super::error::CallError;
use super::listing::{self, Query};
use super::rights::Rights;
use super::shards::{ANSWER_DEADLINE, WORK_DEADLINE};
use crate::mount::Mount;
use crate::object::ObjectMeta;
use crate::shard::request::{Cached, DescribeError, ShardRequest};

/// Longest plain read: what a simple client may hold, and what a control connection may queue.
pub const PLAIN_READ_BYTES_MAX: u32 = 1 << 20;

/// Objects of one call that are worked on at a time.
const OBJECTS_AT_ONCE: usize = 16;

/// Most objects that one call pins: each writes a record.
const PINS_MAX: usize = 100_000;

/// The object at `path` as the under-store (or its mount's freshness) has it.
///
/// # Errors
/// When it is not there or the under-store fails.
pub async fn describe(control: &Control, path: &str) -> Result<Arc<ObjectMeta>, CallError> {
    let shard = ShardId((spread(path) % u64::from(control.shards.count())) as u16);
    let path = path.to_owned();
    let described = control
        .shards
        .ask(shard, ANSWER_DEADLINE, |answer| ShardRequest::Describe {
            path,
            answer,
        });
    Ok(described.await??)
}

/// Any shard can describe; this spreads the questions over them.
fn spread(path: &str) -> u64 {
    corelane_rpc_schema::ids::home_of(path)
}

/// The object at `path` with what is cached of it; none when there is no such object.
///
/// # Errors
/// When the under-store fails.
pub async fn described(control: &Control, path: &str) -> Result<Option<CachedObject>, CallError> {
    match describe(control, path).await {
        Ok(meta) => {
            let cached = cached_of(control, &meta).await?;
            Ok(Some(CachedObject { meta, cached }))
        }
        Err(CallError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What all shards hold of `meta`.
///
/// # Errors
/// When a shard does not answer.
pub async fn cached_of(control: &Control, meta: &ObjectMeta) -> Result<Cached, CallError> {
    let answers = control
        .shards
        .ask_all(ANSWER_DEADLINE, |answer| ShardRequest::Cached {
            object: meta.id,
            blocks: meta.blocks(),
            block_bytes: meta.block_bytes,
            answer,
        });
    Ok(sum(answers.await?))
}

fn sum(parts: Vec<Cached>) -> Cached {
    let mut total = Cached::default();
    for part in parts {
        cached::add(&mut total, part);
    }
    total
}

/// Cached objects at `path` of `mount`, all versions; with `recursive`, also those below it.
///
/// # Errors
/// When a shard does not answer.
pub async fn cached_at(
    control: &Control,
    mount: &Mount,
    path: &str,
    recursive: bool,
) -> Result<Vec<CachedObject>, CallError> {
    let uri = mount.uri_of(path);
    let uri = uri.trim_end_matches('/');
    let mut found = Vec::new();
    let mut walk = CachedWalk::new(&control.shards, uri, "");
    while let Some(page) = walk.next_page().await? {
        let mut is_beyond = false;
        for object in page {
            let rest = &object.meta.uri[uri.len()..];
            if rest.is_empty() || recursive && rest.starts_with('/') {
                found.push(object);
            } else {
                // Of the object itself nothing comes later; names below follow `/` in ASCII.
                is_beyond |= !recursive || rest.as_bytes()[0] > b'/';
            }
        }
        if is_beyond {
            break;
        }
    }
    Ok(found)
}

/// Cached objects at or below `path`, of all mounts there that may be read.
async fn cached_in(
    control: &Control,
    rights: &Rights,
    path: &str,
    recursive: bool,
) -> Result<Vec<CachedObject>, CallError> {
    let mounts = rights.mounts_at(path);
    if mounts.is_empty() {
        rights.mount_of(path)?;
    }
    let mut found = Vec::new();
    for mount in mounts {
        let is_inside = !super::rights::is_below(&mount.path, path);
        if !is_inside && !recursive {
            continue;
        }
        let start = if is_inside { path } else { &mount.path };
        let objects = cached_at(control, &mount, start, recursive).await?;
        found.extend(objects.into_iter().filter(|object| {
            mount
                .path_of(&object.meta.uri)
                .is_some_and(|path| rights.shows(&path, &mount))
        }));
    }
    Ok(found)
}

/// Drops what is cached at `path` (all versions), or everything below it.
///
/// # Errors
/// When nothing is mounted there, a shard does not answer, or could not make it durable: then what
/// was dropped may come back with a restart, and freeing it again is in order.
pub async fn free(
    control: &Control,
    rights: &Rights,
    path: &str,
    recursive: bool,
) -> Result<Cached, CallError> {
    let objects = cached_in(control, rights, path, recursive).await?;
    let freed: Vec<Cached> = stream::iter(objects)
        .map(|object| async move {
            let freed = control
                .shards
                .ask_all(ANSWER_DEADLINE, |answer| ShardRequest::Free {
                    object: Arc::clone(&object.meta),
                    answer,
                });
            let freed: Result<Vec<Cached>, String> = freed.await?.into_iter().collect();
            freed.map(sum).map_err(CallError::Failed)
        })
        .buffer_unordered(OBJECTS_AT_ONCE)
        .try_collect()
        .await?;
    distrust_absent_devices(control).await?;
    Ok(sum(freed))
}

/// Makes sure that what was freed or unpinned stays so on devices that are missing or were taken out:
/// what they hold is not listed.
async fn distrust_absent_devices(control: &Control) -> Result<(), CallError> {
    let first = ShardId(0);
    let answer = control.shards.ask(first, ANSWER_DEADLINE, |answer| {
        ShardRequest::DistrustAbsentDevices { answer }
    });
    answer.await?.map_err(CallError::Failed)
}

/// Pins or unpins the object at `path`, or all below it. Returns how many.
///
/// # Errors
/// When nothing is there, or pins would take more of a device than allowed. Where the under-store
/// cannot say what is there, pins of what is cached are ended all the same.
pub async fn pin(
    control: &Control,
    rights: &Rights,
    path: &str,
    recursive: bool,
    pinned: bool,
) -> Result<u64, CallError> {
    if pinned {
        let objects = objects_in(control, rights, path, recursive).await?;
        return pin_all(control, objects, true).await;
    }
    // What is cached is known without the under-store, versions that it has no more included; what is
    // pinned and has no block yet only it can name.
    let cached = cached_in(control, rights, path, recursive).await?;
    distrust_absent_devices(control).await?;
    let known: HashSet<ObjectId> = cached.iter().map(|object| object.meta.id).collect();
    let pinned = cached.into_iter().filter(|object| object.cached.pinned);
    let ended = pin_all(control, pinned.map(|object| object.meta).collect(), false).await?;
    match pinned_beside(control, rights, path, recursive, &known).await {
        Ok(others) => Ok(ended + pin_all(control, others, false).await?),
        // It was removed or renamed since it was pinned.
        Err(CallError::NotFound(_)) if ended > 0 => Ok(ended),
        Err(error) if ended > 0 => Err(CallError::Unavailable(format!(
            "pins of {ended} cached objects were ended; whether others at {path} are pinned is not known: {error}"
        ))),
        Err(error) => Err(error),
    }
}

/// Pins or unpins `objects` on all their shards. Returns how many.
async fn pin_all(
    control: &Control,
    objects: Vec<Arc<ObjectMeta>>,
    pinned: bool,
) -> Result<u64, CallError> {
    let count = objects.len() as u64;
    stream::iter(objects)
        .map(|object| async move {
            // The end of a pin goes to all: after changes of the number of shards others have copies of it.
            let shards = if pinned {
                owners(control, &object)
            } else {
                control.shards.ids().collect()
            };
            for owner in shards {
                let object = Arc::clone(&object);
                let answer =
                    control
                        .shards
                        .ask(owner, ANSWER_DEADLINE, |answer| ShardRequest::Pin {
                            object,
                            pinned,
                            answer,
                        });
                answer.await?.map_err(CallError::Failed)?;
            }
            Ok::<(), CallError>(())
        })
        .buffer_unordered(OBJECTS_AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(count)
}

/// Pinned objects at `path`, by the under-store's listing, that are not in `known`.
async fn pinned_beside(
    control: &Control,
    rights: &Rights,
    path: &str,
    recursive: bool,
    known: &HashSet<ObjectId>,
) -> Result<Vec<Arc<ObjectMeta>>, CallError> {
    let listed = objects_in(control, rights, path, recursive).await?;
    let unknown = listed.into_iter().filter(|meta| !known.contains(&meta.id));
    let held: Vec<(Arc<ObjectMeta>, Cached)> = stream::iter(unknown)
        .map(|meta| async move {
            let held = cached_of(control, &meta).await?;
            Ok::<_, CallError>((meta, held))
        })
        .buffer_unordered(OBJECTS_AT_ONCE)
        .try_collect()
        .await?;
    let pinned = held.into_iter().filter(|(_, held)| held.pinned);
    Ok(pinned.map(|(meta, _)| meta).collect())
}

async fn objects_in(
    control: &Control,
    rights: &Rights,
    path: &str,
    recursive: bool,
) -> Result<Vec<Arc<ObjectMeta>>, CallError> {
    if !recursive {
        rights.mount_of(path)?;
        return Ok(vec![describe(control, path).await?]);
    }
    let mut query = Query {
        path: path.to_owned(),
        recursive,
        limit: listing::ENTRIES_MAX,
        ..Query::default()
    };
    let mut objects = Vec::new();
    loop {
        let (entries, more) = listing::list(control, rights, &query).await?;
        let Some(last) = entries.last() else {
            return Ok(objects);
        };
        query.after.clone_from(&last.listed.path);
        let described: Vec<Arc<ObjectMeta>> = stream::iter(entries)
            .filter(|entry| futures::future::ready(!entry.listed.is_directory))
            .map(|entry| async move { describe(control, &entry.listed.path).await })
            .buffered(OBJECTS_AT_ONCE)
            .try_collect()
            .await?;
        objects.extend(described);
        if objects.len() > PINS_MAX {
            let message =
                format!("{path} has more than {PINS_MAX} objects; pin its folders one by one");
            return Err(CallError::Invalid(message));
        }
        if !more {
            return Ok(objects);
        }
    }
}

/// Whether a plain read may ask for `length` bytes.
///
/// # Errors
/// When it may not.
pub fn check_plain_read(length: u32) -> Result<(), CallError> {
    if length > PLAIN_READ_BYTES_MAX {
        return Err(CallError::Invalid(format!(
            "{length} bytes are more than a plain read may ask for ({PLAIN_READ_BYTES_MAX}); read in parts, or use the data plane"
        )));
    }
    Ok(())
}

/// Bytes of the object at `path`, and its version. Short at the end of the object.
///
/// # Errors
/// When it is not there, too much is asked for, or it cannot be read.
pub async fn read(
    control: &Control,
    rights: &Rights,
    path: &str,
    offset: u64,
    length: u32,
) -> Result<(Vec<u8>, String), CallError> {
    rights.mount_of(path)?;
    check_plain_read(length)?;
    let meta = describe(control, path).await?;
    let end = meta.length.min(offset.saturating_add(u64::from(length)));
    let mut bytes = Vec::with_capacity(end.saturating_sub(offset) as usize);
    let mut position = offset;
    while position < end {
        let stripe_end = (position / STRIPE_BYTES + 1) * STRIPE_BYTES;
        let part = (end.min(stripe_end) - position) as u32;
        let owner = control.shards.owner(meta.id, Stripe::of_offset(position));
        let answer = control
            .shards
            .ask(owner, ANSWER_DEADLINE, |answer| ShardRequest::Read {
                object: Arc::clone(&meta),
                offset: position,
                length: part,
                answer,
            });
        let read: Result<Vec<u8>, DescribeError> = answer.await?;
        let read = read?;
        if read.len() != part as usize {
            return Err(CallError::Failed(format!(
                "{path}: {} bytes came instead of {part}",
                read.len()
            )));
        }
        bytes.extend_from_slice(&read);
        position += u64::from(part);
    }
    Ok((bytes, meta.version.clone()))
}

/// The shards that own stripes of `meta`, each once.
pub fn owners(control: &Control, meta: &ObjectMeta) -> Vec<ShardId> {
    let mut owners: Vec<ShardId> = Vec::new();
    for stripe in 0..meta.stripes() {
        let owner = control.shards.owner(meta.id, Stripe(stripe));
        if !owners.contains(&owner) {
            owners.push(owner);
            if owners.len() == usize::from(control.shards.count()) {
                break;
            }
        }
    }
    owners
}

/// Reads and checks what is cached of `meta`; the counts of right and wrong blocks and of bytes.
///
/// # Errors
/// When a shard does not answer.
pub async fn verify(
    control: &Control,
    meta: &Arc<ObjectMeta>,
) -> Result<(u64, u64, u64), CallError> {
    let answers = control
        .shards
        .ask_all(WORK_DEADLINE, |answer| ShardRequest::Verify {
            object: Arc::clone(meta),
            answer,
        });
    let parts = answers.await?;
    Ok(parts.iter().fold((0, 0, 0), |(right, wrong, bytes), part| {
        (
            right + part.blocks_right,
            wrong + part.blocks_wrong,
            bytes + part.bytes,
        )
    }))
}

/// Cached objects at or below `path`, for a verification.
///
/// # Errors
/// When nothing is mounted there or a shard does not answer.
pub async fn to_verify(
    control: &Control,
    rights: &Rights,
    path: &str,
) -> Result<Vec<CachedObject>, CallError> {
    cached_in(control, rights, path, true).await
}
