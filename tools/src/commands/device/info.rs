//! `corelane device info`: what superblocks say. Works beside a running worker too.

use std::path::{Path, PathBuf};

use clap::Args;
use corelane_worker::store::{DeviceIdentity, read_identity};
use serde::Serialize;

use super::uuid_text;
use crate::failure::Failure;
use crate::output::{Output, table};
use crate::quantity::bytes;

/// Shows what devices are.
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
            "device",
            "set",
            "place",
            ">regions",
            ">of",
            ">partitions",
            ">starts",
        ];
        table(columns, lines.iter().map(Line::row))
    })
}

impl Line {
    fn read(path: &Path) -> Result<Line, Failure> {
        let DeviceIdentity {
            path,
            set_uuid,
            uuid,
            ordinal,
            devices,
            partitions,
            region_bytes,
            regions,
            epoch,
        } = read_identity(path)?;
        Ok(Line {
            path: path.display().to_string(),
            set_uuid: uuid_text(set_uuid),
            uuid: uuid_text(uuid),
            ordinal,
            devices,
            partitions,
            region_bytes,
            regions,
            epoch,
        })
    }

    fn row(&self) -> [String; 7] {
        [
            self.path.clone(),
            self.set_uuid.clone(),
            format!("{} of {}", self.ordinal + 1, self.devices),
            self.regions.to_string(),
            bytes(self.region_bytes.into()),
            self.partitions.to_string(),
            self.epoch.to_string(),
        ]
    }
}
