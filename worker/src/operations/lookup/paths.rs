//! The objects that the paths of a request name, where directories are listed by the worker itself.

use corelane_lookup::paths::{Named, Objects, Pattern};
use corelane_lookup::request::PATHS_MAX;
use corelane_rpc_schema::ShardId;
use corelane_rpc_schema::ids::home_of;
use corelane_rpc_schema::messages::ErrorCode;

use super::refusal::Refusal;
use crate::control_plane::Control;
use crate::control_plane::error::CallError;
use crate::control_plane::listing::{self, Query};
use crate::control_plane::rights::{Rights, checked_path};
use crate::under_store::path_key;

/// Names that are looked through for one look-up: a hundred pages of what stores list at a time, some seconds
/// of it. Tables with more files than a look-up takes are asked by partition.
const NAMES_MAX: usize = 100_000;

/// Names that a page counts for at least: a thousand patterns of small directories are a thousand listings.
const PAGE_NAMES_LEAST: usize = 200;

/// Names of one page: what S3 lists at a time.
const PAGE_NAMES: usize = 1000;

/// The objects that `written` names, as whoever has `rights` may list them.
pub(super) async fn objects(
    control: &Control,
    rights: &Rights,
    written: &[String],
) -> Result<Vec<String>, Refusal> {
    let mut objects = Objects::default();
    let mut names_left = NAMES_MAX;
    for path in written {
        match Named::parse(path)? {
            Named::Object(object) => objects.add(object, path)?,
            Named::Matching(pattern) => {
                let found = matching(control, rights, &pattern, &mut names_left).await?;
                objects.add_matching(&pattern, found)?;
            }
        }
    }
    Ok(objects.into_paths())
}

/// The shard that answers for the object at `path` without asking another.
pub(super) fn home(control: &Control, path: &str) -> Result<ShardId, Refusal> {
    let mounts = control.mounts();
    let Some(mount) = mounts.covering(path) else {
        let sentence = format!("no mount covers {path}; `corelane status` lists the mounts");
        return Err(Refusal::of_code(ErrorCode::NoMount, sentence));
    };
    let key = path_key(mount, path).map_err(CallError::from)?;
    Ok(control.shards.home(home_of(&key)))
}

/// The objects that match, at least one; or more than a look-up takes.
async fn matching(
    control: &Control,
    rights: &Rights,
    pattern: &Pattern,
    names_left: &mut usize,
) -> Result<Vec<String>, Refusal> {
    let mut query = Query {
        path: checked_path(pattern.directory())?,
        recursive: true,
        names_only: true,
        limit: PAGE_NAMES,
        ..Query::default()
    };
    let mut found = Vec::new();
    loop {
        let (entries, more) = listing::list(control, rights, &query).await?;
        if let Some(last) = entries.last() {
            query.after.clone_from(&last.listed.path);
        }
        let is_last = !more || entries.is_empty();
        let Some(left) = names_left.checked_sub(entries.len().max(PAGE_NAMES_LEAST)) else {
            return Err(Refusal::of_code(
                ErrorCode::Invalid,
                format!(
                    "{}: more than {NAMES_MAX} names to look through; name a part of them, such as one partition's \
                     directory",
                    pattern.written()
                ),
            ));
        };
        *names_left = left;
        let names = entries.into_iter().map(|entry| entry.listed);
        let matching = names.filter(|name| !name.is_directory && pattern.matches(&name.path));
        found.extend(matching.map(|name| name.path));
        if is_last || found.len() > PATHS_MAX {
            break;
        }
        // The thread is shared, and a page may come without a wait.
        tokio::task::yield_now().await;
    }
    if found.is_empty() {
        return Err(Refusal::of_code(
            ErrorCode::NotFound,
            pattern.sentence_of_none(),
        ));
    }
    Ok(found)
}
