//! `corelane stat`: what is known of one object.

use clap::Args;
use corelane_client::control::ObjectInfo;
use serde::Serialize;

use crate::connection::ControlFlags;
use crate::failure::Failure;
use crate::output::{Output, pairs};
use crate::quantity::{ago, bytes, count};

/// Shows what is known of an object.
#[derive(Args, Debug)]
pub struct Stat {
    /// Object in the worker's namespace
    path: String,
    #[command(flatten)]
    connection: ControlFlags,
}

#[derive(Serialize)]
struct Answer {
    path: String,
    uri: String,
    length: u64,
    version: String,
    last_modified_ms: u64,
    block_bytes: u32,
    blocks: u64,
    blocks_cached: u64,
    bytes_cached: u64,
    pinned: bool,
    home_shard: u16,
}

impl Stat {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let answer = Answer::from(self.connection.connect()?.stat(&self.path)?);
        output.answer(&answer, Answer::text)
    }
}

impl From<ObjectInfo> for Answer {
    fn from(object: ObjectInfo) -> Self {
        Answer {
            path: object.path,
            uri: object.uri,
            length: object.length,
            version: object.version,
            last_modified_ms: object.last_modified_ms,
            block_bytes: object.block_bytes,
            blocks: object.blocks,
            blocks_cached: object.blocks_cached,
            bytes_cached: object.bytes_cached,
            pinned: object.pinned,
            home_shard: object.home_shard,
        }
    }
}

impl Answer {
    fn text(&self) -> String {
        pairs([
            ("path", self.path.clone()),
            ("uri", self.uri.clone()),
            (
                "length",
                format!("{} ({} bytes)", bytes(self.length), count(self.length)),
            ),
            ("version", self.version.clone()),
            ("modified", ago(self.last_modified_ms)),
            (
                "cached",
                format!(
                    "{} of {} blocks of {}, {}",
                    count(self.blocks_cached),
                    count(self.blocks),
                    bytes(self.block_bytes.into()),
                    bytes(self.bytes_cached)
                ),
            ),
            ("pinned", if self.pinned { "yes" } else { "no" }.to_owned()),
            ("home shard", self.home_shard.to_string()),
        ])
    }
}
