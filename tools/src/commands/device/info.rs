//! `corelane device info`: what devices are and hold, going by their records.

use std::path::{Path, PathBuf};

use clap::Args;
use corelane_worker::store::{
    DeviceIdentity, DeviceReport, StoreError, inspect_offline, read_identity,
};
use serde::Serialize;

use super::uuid_text;
use crate::failure::Failure;
use crate::output::{Output, table};
use crate::quantity::{bytes, count};

/// Shows what devices are and hold. Of a device that a worker is using, only what it is.
#[derive(Args, Debug)]
pub struct Info {
    /// Block devices or files
    #[arg(required = true, value_name = "DEVICE")]
    devices: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Line {
    path: String,
    set_uuid: String,
    uuid: String,
    ordinal: u16,
    devices: u16,
    partitions: u32,
    region_bytes: u32,
    regions: u32,
    epoch: u64,
    in_use: bool,
    /// Nothing where a worker is using the device.
    contents: Option<Contents>,
}

#[derive(Serialize)]
struct Contents {
    regions_used: u32,
    blocks: u64,
    block_bytes: u64,
    objects: u64,
    bytes_written: u64,
}

impl Info {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let paths: Vec<&Path> = self.devices.iter().map(PathBuf::as_path).collect();
        answer(output, &paths)
    }
}

/// Prints the devices at `paths`.
pub fn answer(output: Output, paths: &[&Path]) -> Result<(), Failure> {
    let lines = paths
        .iter()
        .map(|path| Line::read(path))
        .collect::<Result<Vec<_>, _>>()?;
    output.answer(&lines, |lines| {
        let columns = [
            "device", "set", "place", ">regions", ">of", ">used", ">objects", ">blocks", ">bytes",
        ];
        table(columns, lines.iter().map(Line::row))
    })
}

impl Line {
    fn read(path: &Path) -> Result<Line, Failure> {
        let identity = read_identity(path)?;
        let contents = match inspect_offline(path) {
            Ok(report) => Some(Contents::from(report)),
            Err(StoreError::Locked { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Line::new(identity, contents))
    }

    fn new(identity: DeviceIdentity, contents: Option<Contents>) -> Line {
        Line {
            path: identity.path.display().to_string(),
            set_uuid: uuid_text(identity.set_uuid),
            uuid: uuid_text(identity.uuid),
            ordinal: identity.ordinal,
            devices: identity.devices,
            partitions: identity.partitions,
            region_bytes: identity.region_bytes,
            regions: identity.regions,
            epoch: identity.epoch,
            in_use: contents.is_none(),
            contents,
        }
    }

    fn row(&self) -> [String; 9] {
        let of_contents = |show: fn(&Contents) -> String| match &self.contents {
            Some(contents) => show(contents),
            None => "in use".to_owned(),
        };
        [
            self.path.clone(),
            self.set_uuid.clone(),
            format!("{} of {}", self.ordinal + 1, self.devices),
            self.regions.to_string(),
            bytes(self.region_bytes.into()),
            of_contents(|contents| contents.regions_used.to_string()),
            of_contents(|contents| count(contents.objects)),
            of_contents(|contents| count(contents.blocks)),
            of_contents(|contents| bytes(contents.block_bytes)),
        ]
    }
}

impl From<DeviceReport> for Contents {
    fn from(report: DeviceReport) -> Self {
        Contents {
            regions_used: report.regions_used,
            blocks: report.blocks,
            block_bytes: report.block_bytes,
            objects: report.objects,
            bytes_written: report.bytes_written,
        }
    }
}
