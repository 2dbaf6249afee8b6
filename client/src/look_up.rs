//! Look-ups in Parquet objects.
//!
//! Any shard takes a look-up; the home of the first object answers without asking another core. Which one
//! that is comes with the answer, and is remembered for the next time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use corelane_lookup::execute::counts::Counts;
use corelane_lookup::request::LookupRequest;
use corelane_rpc_schema::ShardId;

use crate::error::Error;

/// Objects whose homes are remembered. Beyond it all are forgotten: each costs one hop to learn again.
const HOMES_MAX: usize = 65_536;

/// Homes of objects, by path.
#[derive(Debug, Default)]
pub(crate) struct Homes {
    by_path: Mutex<HashMap<String, ShardId>>,
}

impl Homes {
    pub(crate) fn of(&self, path: &str) -> Option<ShardId> {
        let homes = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        homes.get(path).copied()
    }

    pub(crate) fn learn(&self, path: &str, home: ShardId) {
        let mut homes = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        if homes.get(path) == Some(&home) {
            return;
        }
        if homes.len() >= HOMES_MAX {
            homes.clear();
        }
        homes.insert(path.to_owned(), home);
    }
}

/// What a look-up found.
#[derive(Clone, Debug)]
pub struct Found {
    /// How many rows.
    pub rows: u64,
    /// The rows as an Arrow IPC stream.
    pub stream: Bytes,
    /// What it took, where the request asked to explain.
    pub counts: Option<Counts>,
}

impl Found {
    /// The columns, and the rows in batches.
    ///
    /// # Errors
    /// [`Error::Protocol`], if the stream is none.
    pub fn batches(&self) -> Result<(SchemaRef, Vec<RecordBatch>), Error> {
        let wrong = |error: arrow_schema::ArrowError| Error::Protocol {
            address: String::from("the worker"),
            reason: format!("the rows cannot be read: {error}"),
        };
        let reader = StreamReader::try_new(&self.stream[..], None).map_err(wrong)?;
        let schema = reader.schema();
        let batches = reader.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        Ok((schema, batches))
    }
}

/// What is said of a look-up in an error.
pub(crate) fn named(request: &LookupRequest) -> String {
    match request.paths.as_slice() {
        [] => String::from("look-up"),
        [path] => format!("look-up in {path}"),
        [path, rest @ ..] => format!("look-up in {path} and {} more", rest.len()),
    }
}
