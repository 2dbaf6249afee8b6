//! Where the worker is and who is asking: the flags that all commands for a running worker share.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use corelane_client::blocking::{Client, Control};
use corelane_client::{Options, control};

use crate::failure::{Failure, Kind};

/// The name in the worker's logs and in `/slow`.
const CLIENT_NAME: &str = "corelane";

/// Longest file that is taken for a token; the protocol's limit is a quarter of it.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;

/// Flags of commands that speak to the control plane.
#[derive(Args, Debug)]
pub struct ControlFlags {
    #[command(flatten)]
    control: ControlAddress,
    #[command(flatten)]
    common: CommonFlags,
}

/// Flags of commands that speak to the data plane.
#[derive(Args, Debug)]
pub struct DataFlags {
    #[command(flatten)]
    data: DataAddress,
    #[command(flatten)]
    common: CommonFlags,
}

/// Flags of commands that speak to both planes.
#[derive(Args, Debug)]
pub struct BothFlags {
    #[command(flatten)]
    data: DataAddress,
    #[command(flatten)]
    control: ControlAddress,
    #[command(flatten)]
    common: CommonFlags,
}

#[derive(Args, Debug)]
struct ControlAddress {
    /// Address of the worker's control plane
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "CORELANE_CONTROL",
        default_value = "127.0.0.1:7400"
    )]
    control: String,
}

#[derive(Args, Debug)]
struct DataAddress {
    /// Address of any of the worker's data ports
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "CORELANE_ADDRESS",
        default_value = "127.0.0.1:7410"
    )]
    address: String,
}

/// Flags of both.
#[derive(Args, Debug)]
struct CommonFlags {
    /// File that holds the token; without it the variable CORELANE_TOKEN is used, if set
    // There is no flag for the token itself: every user of the machine could read it in `ps`.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl CommonFlags {
    fn token(&self) -> Result<String, Failure> {
        let Some(path) = &self.token_file else {
            return Ok(std::env::var("CORELANE_TOKEN").unwrap_or_default());
        };
        let wrong = |why: String| {
            Failure::new(
                Kind::Usage,
                format!("--token-file {}: {why}", path.display()),
            )
        };
        let length = std::fs::metadata(path)
            .map_err(|error| wrong(error.to_string()))?
            .len();
        if length > TOKEN_FILE_BYTES_MAX {
            return Err(wrong(format!(
                "{length} bytes are no token; name the file that holds only the token"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        Ok(text.trim().to_owned())
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    fn options(&self) -> Options {
        Options {
            client_name: CLIENT_NAME.to_owned(),
            request_timeout: self.timeout(),
            ..Options::default()
        }
    }
}

impl ControlFlags {
    /// Connects to the control plane.
    pub fn connect(&self) -> Result<Control, Failure> {
        Ok(Control::connect(
            &self.control.control,
            &self.common.token()?,
            self.common.timeout(),
        )?)
    }
}

impl DataFlags {
    /// Connects to the data plane.
    pub fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(
            &self.data.address,
            &self.common.token()?,
            self.common.options(),
        )?)
    }
}

impl BothFlags {
    /// Connects to the data plane.
    pub async fn data(&self) -> Result<corelane_client::Client, Failure> {
        let token = self.common.token()?;
        let options = self.common.options();
        Ok(corelane_client::Client::connect(&self.data.address, &token, options).await?)
    }

    /// Connects to the control plane.
    pub async fn control(&self) -> Result<control::Control, Failure> {
        let token = self.common.token()?;
        let timeout = self.common.timeout();
        Ok(control::Control::connect(&self.control.control, &token, timeout).await?)
    }
}
