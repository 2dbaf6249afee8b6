//! The objects that the paths of a look-up name, where directories are listed by the worker.

use corelane_client::control::{Control, ListOptions};
use corelane_client::lookup::error::LookupError;
use corelane_client::lookup::paths::{Named, Objects, Pattern};
use corelane_client::lookup::request::PATHS_MAX;

use super::usage;
use crate::connection::BothFlags;
use crate::failure::{Failure, Kind};

/// Entries that one call asks for.
const ENTRIES_PER_CALL: u32 = 1000;

/// What `written` names.
pub(super) fn parse(written: &str) -> Result<Named, Failure> {
    Named::parse(written).map_err(refused)
}

/// The objects that `names` name. The control plane is asked only for those that have to be listed.
pub(super) async fn objects(
    names: &[Named],
    connection: &BothFlags,
) -> Result<Vec<String>, Failure> {
    let mut objects = Objects::default();
    let mut control = None;
    for named in names {
        match named {
            Named::Object(path) => objects.add(path.clone(), path).map_err(refused)?,
            Named::Matching(pattern) => {
                if control.is_none() {
                    control = Some(connection.control().await?);
                }
                let control = control.as_ref().expect("it was connected to");
                let found = matching(pattern, control).await?;
                objects.add_matching(pattern, found).map_err(refused)?;
            }
        }
    }
    Ok(objects.into_paths())
}

/// The objects that match, at least one; or more than a look-up takes.
async fn matching(pattern: &Pattern, control: &Control) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let options = ListOptions {
            recursive: true,
            cached_only: false,
            limit: ENTRIES_PER_CALL,
            after: after.clone(),
        };
        let (entries, more) = control.list(pattern.directory(), options).await?;
        if let Some(last) = entries.last() {
            after.clone_from(&last.path);
        }
        let is_last = !more || entries.is_empty();
        let matching = entries
            .into_iter()
            .filter(|entry| !entry.is_directory && pattern.matches(&entry.path));
        found.extend(matching.map(|entry| entry.path));
        if is_last || found.len() > PATHS_MAX {
            break;
        }
    }
    if found.is_empty() {
        return Err(Failure::new(Kind::NotFound, pattern.sentence_of_none()));
    }
    Ok(found)
}

fn refused(error: LookupError) -> Failure {
    usage(error.message)
}
