//! `corelane device`: devices that no worker is using.

mod format;
mod info;
mod verify;

use clap::Subcommand;
use corelane_worker::store::StoreError;

use crate::failure::Failure;
use crate::output::Output;

/// What can be done with a device offline.
#[derive(Subcommand, Debug)]
pub enum DeviceCommand {
    /// Make devices into a cache, erasing what they hold
    Format(format::Format),
    /// Show what devices are
    Info(info::Info),
    /// Read and check everything on devices
    Verify(verify::Verify),
}

impl DeviceCommand {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        match self {
            DeviceCommand::Format(command) => command.run(output),
            DeviceCommand::Info(command) => command.run(output),
            DeviceCommand::Verify(command) => command.run(output),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::failed(error.to_string())
    }
}

/// A uuid as people write it.
fn uuid_text(uuid: [u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_uuid_has_five_groups() {
        let uuid = std::array::from_fn(|index| index as u8 * 17);
        assert_eq!(
            super::uuid_text(uuid),
            "00112233-4455-6677-8899-aabbccddeeff"
        );
    }
}
