//! `corelane cat`: the bytes of an object on standard output, checked on the way.

use clap::Args;
use corelane_client::blocking::Client;
use corelane_client::{Error, Object};

use crate::connection::DataFlags;
use crate::failure::Failure;
use crate::output::Output;

/// Bytes that are read before they are written: a stripe, so that all shards can work on it.
const PIECE_BYTES: u64 = 16 << 20;

/// Writes an object to standard output.
#[derive(Args, Debug)]
pub struct Cat {
    /// Object in the worker's namespace
    path: String,
    /// First byte
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    offset: u64,
    /// Bytes to write; without it, up to the end
    #[arg(long, value_name = "BYTES")]
    length: Option<u64>,
    #[command(flatten)]
    connection: DataFlags,
}

impl Cat {
    /// Runs the command. With `--json` the bytes come as they are too: they are the answer.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let client = self.connection.connect()?;
        let object = client.open(&self.path)?;
        let end = end(&object, self.offset, self.length)?;
        let mut offset = self.offset;
        while offset < end {
            let next = (offset - offset % PIECE_BYTES + PIECE_BYTES).min(end);
            output.bytes(&piece(
                &client,
                &object,
                offset..next,
                offset > self.offset,
            )?)?;
            offset = next;
        }
        Ok(())
    }
}

/// What is beyond the object is an error: a range that silently gets shorter hides mistakes.
fn end(object: &Object, offset: u64, length: Option<u64>) -> Result<u64, Failure> {
    let end = match length {
        Some(length) => offset.saturating_add(length),
        None => object.length.max(offset),
    };
    if end > object.length {
        return Err(Failure::failed(format!(
            "{} has {} bytes, bytes {offset} to {end} were asked for; ask for less",
            object.path, object.length
        )));
    }
    Ok(end)
}

fn piece(
    client: &Client,
    object: &Object,
    range: std::ops::Range<u64>,
    has_written: bool,
) -> Result<bytes::Bytes, Failure> {
    client.read(object, range).map_err(|error| match error {
        Error::VersionChanged { path } if has_written => Failure::failed(format!(
            "{path} changed while it was read; what was written so far is of the version before: start over"
        )),
        error => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(length: u64) -> Object {
        Object {
            path: "/a".to_owned(),
            id: Default::default(),
            length,
            version: String::new(),
            block_bytes: 1 << 20,
            last_modified_ms: 0,
            content_type: String::new(),
        }
    }

    #[test]
    fn a_range_beyond_the_end_is_refused_and_an_empty_one_is_not() {
        let end_of = |offset, length| end(&object(10), offset, length).ok();
        assert_eq!(end_of(0, None), Some(10));
        assert_eq!(end_of(10, None), Some(10));
        assert_eq!(end_of(4, Some(6)), Some(10));
        assert_eq!(end_of(4, Some(7)), None);
        assert_eq!(end_of(11, None), None);
        assert_eq!(end_of(5, Some(u64::MAX)), None);
        assert_eq!(end(&object(0), 0, None).ok(), Some(0));
    }
}
