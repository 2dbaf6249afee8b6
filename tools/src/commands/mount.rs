//! `corelane mount`: adds a mount to a running worker, or lists what is mounted.

use std::collections::BTreeMap;

use clap::Args;
use corelane_client::control::Mount;
use corelane_worker::config::quantity::parse_size;
use corelane_worker::printable::printable;
use serde::Serialize;

use crate::connection::ControlFlags;
use crate::failure::{Failure, Kind};
use crate::output::{Output, table};
use crate::quantity::bytes;

/// Mounts an under-store, or lists the mounts.
#[derive(Args, Debug)]
pub struct MountCommand {
    /// What to mount where, such as /data=s3://bucket/prefix or /files=file:///dir; nothing: list
    #[arg(value_name = "PATH=URI")]
    mount: Option<String>,
    /// Unit of fetch and eviction, such as 1M; without it, the worker's default
    #[arg(long, value_name = "SIZE", requires = "mount")]
    block_size: Option<String>,
    /// How long metadata is believed: immutable, always-check or max-age=SECONDS
    #[arg(long, value_name = "RULE", default_value = "max-age=60")]
    freshness: String,
    /// Which fetched blocks go to the device
    #[arg(long, value_name = "RULE", default_value = "always", value_parser = ["always", "second-touch"])]
    admission: String,
    /// Column of Parquet objects that a key index is built of as soon as an object is looked into; may be
    /// repeated. Without it, columns that are looked up often get one
    #[arg(long, value_name = "COLUMN", requires = "mount")]
    key_index: Vec<String>,
    /// Name of a token that may read; may be repeated. Without it, everyone who may connect
    #[arg(long, value_name = "NAME", requires = "mount")]
    reader: Vec<String>,
    /// Option of the under-store, such as region=eu-west-1 or endpoint=http://host:9000; may be
    /// repeated. A value of @FILE is read from the file, which keeps secrets out of `ps`
    #[arg(long, value_name = "KEY=VALUE", requires = "mount")]
    option: Vec<String>,
    #[command(flatten)]
    connection: ControlFlags,
}

#[derive(Serialize)]
struct Line {
    path: String,
    uri: String,
    block_bytes: u32,
    freshness: String,
    admission: String,
    key_indexes: Vec<String>,
    readers: Vec<String>,
    options: BTreeMap<String, String>,
}

impl MountCommand {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let mount = self
            .mount
            .as_deref()
            .map(|text| self.parsed(text))
            .transpose()?;
        let control = self.connection.connect()?;
        let Some(mount) = mount else {
            let lines: Vec<Line> = control.mounts()?.into_iter().map(Line::from).collect();
            return output.answer(&lines, |lines| {
                let columns = ["path", "uri", ">block", "freshness", "admission", "readers"];
                table(columns, lines.iter().map(Line::row))
            });
        };
        control.mount(mount.clone())?;
        // What the worker made of it, defaults filled in and secrets left out.
        let made = control
            .mounts()?
            .into_iter()
            .find(|made| made.path == mount.path)
            .unwrap_or(mount);
        output.answer(&Line::from(made), |line| {
            format!(
                "mounted {} at {}",
                printable(&line.uri),
                printable(&line.path)
            )
        })
    }

    fn parsed(&self, text: &str) -> Result<Mount, Failure> {
        let usage = |message: String| Failure::new(Kind::Usage, message);
        let Some((path, uri)) = text
            .split_once('=')
            .filter(|(path, _)| path.starts_with('/'))
        else {
            return Err(usage(format!(
                "`{text}` is not PATH=URI such as /data=s3://bucket/prefix"
            )));
        };
        let block_bytes = self
            .block_size
            .as_deref()
            .map_or(Ok(0), parse_size)
            .map_err(usage)?;
        let block_bytes = u32::try_from(block_bytes).map_err(|_| {
            usage(format!(
                "--block-size {block_bytes} is too large; 16M is the most"
            ))
        })?;
        let options = self
            .option
            .iter()
            .map(|text| parse_option(text))
            .collect::<Result<_, _>>()?;
        Ok(Mount {
            path: path.to_owned(),
            uri: uri.to_owned(),
            block_bytes,
            freshness: self.freshness.clone(),
            admission: self.admission.clone(),
            key_indexes: self.key_index.clone(),
            readers: self.reader.clone(),
            options,
        })
    }
}

fn parse_option(text: &str) -> Result<(String, String), Failure> {
    let usage = |message: String| Failure::new(Kind::Usage, message);
    let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
        return Err(usage(format!(
            "`{text}` is not KEY=VALUE such as region=eu-west-1"
        )));
    };
    let value = match value.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| usage(format!("--option {key}=@{file}: {error}")))?
            .trim()
            .to_owned(),
        None => value.to_owned(),
    };
    Ok((key.to_owned(), value))
}

impl From<Mount> for Line {
    fn from(mount: Mount) -> Self {
        Line {
            path: mount.path,
            uri: mount.uri,
            block_bytes: mount.block_bytes,
            freshness: mount.freshness,
            admission: mount.admission,
            key_indexes: mount.key_indexes,
            readers: mount.readers,
            options: mount.options.into_iter().collect(),
        }
    }
}

impl Line {
    fn row(&self) -> [String; 6] {
        let readers = if self.readers.is_empty() {
            "all".to_owned()
        } else {
            self.readers.join(",")
        };
        [
            self.path.clone(),
            self.uri.clone(),
            bytes(self.block_bytes.into()),
            self.freshness.clone(),
            self.admission.clone(),
            readers,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_may_come_from_a_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "s3cret\n").expect("written");
        let text = format!("secret_access_key=@{}", file.path().display());
        let (key, value) = parse_option(&text).expect("an option");
        assert_eq!(
            (key.as_str(), value.as_str()),
            ("secret_access_key", "s3cret")
        );
        assert!(parse_option("region").is_err() && parse_option("=x").is_err());
        assert!(parse_option("key=@/no/such/file").is_err());
    }

    #[test]
    fn everyone_is_spelled_out() {
        let line = Line::from(Mount {
            path: "/a".to_owned(),
            ..Mount::default()
        });
        assert_eq!(line.row()[5], "all");
    }
}
