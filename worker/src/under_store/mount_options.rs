//! The options of a mount that are ours, and those that go to the store's client.

use std::collections::BTreeMap;
use std::time::Duration;

use super::location::StoreKind;
use crate::mount::{Freshness, Mount};

/// How long a file is left alone after it was modified, where the mount does not say.
const SETTLE_DEFAULT: Duration = Duration::from_secs(2);

/// Longest settle time that makes sense: the coarsest clocks of file systems tick every 2 s.
const SETTLE_MS_MAX: u64 = 60_000;

/// A mount's options, read.
#[derive(Clone, Debug)]
pub(crate) struct MountOptions {
    /// `requests_in_flight_max`
    pub requests_in_flight_max: Option<usize>,
    /// `bytes_per_second`; zero is no limit.
    pub bytes_per_second: Option<u64>,
    /// `settle_ms`, files only.
    pub settle: Duration,
    /// `follow_symlinks`, files only.
    pub follows_symlinks: bool,
    /// All others, for the store's client.
    pub client: BTreeMap<String, String>,
}

impl MountOptions {
    /// Reads the options of `mount`.
    ///
    /// # Errors
    /// Which option is wrong, and what was expected.
    pub fn of_mount(mount: &Mount, kind: StoreKind) -> Result<Self, String> {
        let mut own = MountOptions {
            requests_in_flight_max: None,
            bytes_per_second: None,
            // What never changes needs no time to come to rest.
            settle: if mount.freshness == Freshness::Immutable {
                Duration::ZERO
            } else {
                SETTLE_DEFAULT
            },
            follows_symlinks: false,
            client: BTreeMap::new(),
        };
        let is_file = kind == StoreKind::File;
        for (name, value) in &mount.options {
            match name.as_str() {
                "requests_in_flight_max" => {
                    own.requests_in_flight_max = Some(number(name, value, 1, 100_000)? as usize);
                }
                "bytes_per_second" => {
                    own.bytes_per_second = Some(number(name, value, 0, u64::MAX)?)
                }
                "settle_ms" if is_file => {
                    own.settle = Duration::from_millis(number(name, value, 0, SETTLE_MS_MAX)?);
                }
                "follow_symlinks" if is_file => {
                    own.follows_symlinks = value
                        .parse()
                        .map_err(|_| format!("option `{name}` is neither `true` nor `false`"))?;
                }
                _ if is_file => {
                    return Err(format!(
                        "option `{name}` is not known for files; they have settle_ms, follow_symlinks, \
                         requests_in_flight_max and bytes_per_second"
                    ));
                }
                _ => {
                    own.client.insert(name.clone(), value.clone());
                }
            }
        }
        Ok(own)
    }
}

fn number(name: &str, value: &str, min: u64, max: u64) -> Result<u64, String> {
    value
        .parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("option `{name}` is not a whole number from {min} to {max}"))
}
