//! What a look-up is asked: which files, which rows, which columns, and how much it may cost.
//!
//! It comes as JSON over HTTP ([`LookupRequest::from_json`]) and in a compact form of its own on
//! the data plane ([`LookupRequest::decode`]). The invariant: whichever way it came, it keeps every
//! limit of this module and of [`predicate`](crate::predicate); what it names exists or not, only
//! the file knows.

mod binary;
mod json;

use crate::error::{LookupError, Result};
use crate::predicate::limits::Limits;
use crate::predicate::{Literal, Predicate};

/// Longest request in bytes, in either form: a batch of [`KEYS_MAX`] keys of some 60 bytes each. It
/// is also what a request costs in memory, several times over, before it is known to be sound.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;

/// Most files of one request: each has a footer to keep and an answer to wait for. A table of more
/// is asked in several requests, which go to the files' own shards in parallel.
pub const PATHS_MAX: usize = 1024;

/// Longest path in bytes: what Linux allows, and four times what S3 does.
pub const PATH_BYTES_MAX: usize = 4096;

/// Most selected columns: wider than tables get, few enough to resolve by name one by one.
pub const SELECT_MAX: usize = 4096;

/// Longest dotted path of a column in bytes, in the projection and for the keys; longer names are
/// some machine's accident, and are looked up for every file.
pub const COLUMN_BYTES_MAX: usize = 4096;

/// Most keys of a batch, as many as an IN list has: a batch is answered as one.
pub const KEYS_MAX: usize = crate::predicate::LITERALS_MAX;

/// A look-up as it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct LookupRequest {
    /// The files; at least one.
    pub paths: Vec<String>,
    /// Which rows are wanted.
    pub predicate: Predicate,
    /// Dotted paths of the wanted columns, in the order of the answer; none: all columns.
    pub select: Vec<String>,
    /// Most rows of the answer.
    pub limit: Option<u64>,
    /// Most bytes of pages that may be read for it, beyond which it is refused.
    pub scan_bytes_max: Option<u64>,
    /// Whether the answer says what it took, beside the rows.
    pub explain: bool,
    /// Keys that are looked up one by one, of which the predicate must hold too.
    pub keys: Option<Batch>,
}

/// Keys of one column. The answer has the rows of the first, then those of the second; a key that
/// is there twice is answered twice.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Dotted path of the column.
    pub column: String,
    /// The keys, in the order of the answer.
    pub keys: Vec<Literal>,
}

/// That `path` can name a file.
fn check_path(path: &str) -> Result<()> {
    match path.len() {
        0 => Err(LookupError::invalid("an empty path; name a file")),
        length if length > PATH_BYTES_MAX => Err(LookupError::invalid(format!(
            "a path of {length} bytes; at most {PATH_BYTES_MAX} are read"
        ))),
        _ => Ok(()),
    }
}

/// That `column` can name one.
fn check_column(column: &str) -> Result<()> {
    match column.len() {
        0 => Err(LookupError::invalid(
            "an empty name; write the column's dotted path",
        )),
        length if length > COLUMN_BYTES_MAX => Err(LookupError::invalid(format!(
            "a column's name of {length} bytes; at most {COLUMN_BYTES_MAX} are read"
        ))),
        _ => Ok(()),
    }
}

/// That a request in either form is not too long.
fn check_length(bytes: usize) -> Result<()> {
    if bytes > REQUEST_BYTES_MAX {
        return Err(LookupError::invalid(format!(
            "a request of {bytes} bytes; at most {REQUEST_BYTES_MAX} are read: ask in several requests"
        )));
    }
    Ok(())
}

/// That there are some paths, and not too many.
fn check_path_count(count: usize) -> Result<()> {
    match count {
        0 => Err(LookupError::invalid("no file; name at least one")),
        count if count > PATHS_MAX => Err(LookupError::invalid(format!(
            "{count} files; at most {PATHS_MAX} are asked at once: ask in several requests"
        ))),
        _ => Ok(()),
    }
}

/// That there are not too many selected columns.
fn check_select_count(count: usize) -> Result<()> {
    if count > SELECT_MAX {
        return Err(LookupError::invalid(format!(
            "{count} columns; at most {SELECT_MAX} are selected: leave the list out for all of them"
        )));
    }
    Ok(())
}

/// That there are not too many keys.
fn check_key_count(count: usize) -> Result<()> {
    Limits::literals(count)
}

#[cfg(test)]
mod samples {
    use proptest::prelude::*;

    use super::*;
    use crate::predicate::samples::{literal, predicate};

    /// Any request that keeps the limits.
    pub(super) fn request() -> impl Strategy<Value = LookupRequest> {
        let batch = (".{1,9}", prop::collection::vec(literal(), 0..5));
        (
            prop::collection::vec(".{1,20}", 1..4),
            predicate(),
            prop::collection::vec(".{1,9}", 0..4),
            any::<Option<u64>>(),
            any::<Option<u64>>(),
            any::<bool>(),
            prop::option::of(batch),
        )
            .prop_map(
                |(paths, predicate, select, limit, scan_bytes_max, explain, batch)| LookupRequest {
                    paths,
                    predicate,
                    select,
                    limit,
                    scan_bytes_max,
                    explain,
                    keys: batch.map(|(column, keys)| Batch { column, keys }),
                },
            )
    }
}
