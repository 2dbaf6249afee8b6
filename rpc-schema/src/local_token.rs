//! Where a worker puts its local token, and where clients on the same machine look for it.
//!
//! A worker without configured tokens writes a random one at each start into a file that only its own user (and
//! root) can read, once for each address that it listens on. Whoever can read the file is its operator.
//!
//! The invariant: the folder belongs to the user and lets nobody else in, so that the name of a file says whose
//! token it is.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// Longest file that is taken for a token.
pub const LOCAL_TOKEN_FILE_BYTES_MAX: u64 = 1024;

/// Where files may be, by what a process knows of its surroundings.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Effective user id.
    pub user: u32,
    /// `RUNTIME_DIRECTORY`, which service managers set for a service.
    pub service: Option<OsString>,
    /// `XDG_RUNTIME_DIR`, which session managers set for a user.
    pub session: Option<OsString>,
}

impl Surroundings {
    /// Those of this process; `None` where the kernel does not tell the user.
    pub fn of_process() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        Some(Surroundings {
            user: ids.split_whitespace().nth(1)?.parse().ok()?,
            service: std::env::var_os("RUNTIME_DIRECTORY"),
            session: std::env::var_os("XDG_RUNTIME_DIR"),
        })
    }

    /// Folders in which a worker puts files: the first that can be had.
    pub fn folders_of_worker(&self) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        if let Some(service) = &self.service {
            // Several folders are separated by colons.
            let text = service.to_string_lossy();
            folders.extend(text.split(':').next().map(PathBuf::from));
        }
        folders.extend(
            self.session
                .iter()
                .map(|folder| PathBuf::from(folder).join("corelane")),
        );
        if self.user == 0 {
            // Nobody else can take the name away.
            folders.push(PathBuf::from("/run/corelane"));
        }
        folders.push(PathBuf::from(format!("/tmp/corelane-{}", self.user)));
        folders.retain(|folder| folder.is_absolute());
        folders
    }

    /// Folders in which a client looks: also those of workers that were started in other surroundings.
    pub fn folders_of_client(&self) -> Vec<PathBuf> {
        let mut folders = self.folders_of_worker();
        folders.push(PathBuf::from(format!("/run/user/{}/corelane", self.user)));
        folders.push(PathBuf::from("/run/corelane"));
        folders
    }
}

/// Name of the file for a listener at `address`.
pub fn file_name(address: SocketAddr) -> String {
    format!("{address}.token")
}

/// Names of files in which the token for a connection to `address` may be, the surest first.
pub fn file_names_for(address: SocketAddr) -> Vec<String> {
    let mut addresses = vec![address];
    if address.ip().is_loopback() {
        // Who listens on all addresses listens on this one.
        for any in [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ] {
            addresses.push(SocketAddr::new(any, address.port()));
        }
    }
    addresses.into_iter().map(file_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_looks_wherever_a_worker_of_its_user_may_have_put_it() {
        let bare = Surroundings {
            user: 7,
            ..Surroundings::default()
        };
        let session = Surroundings {
            session: Some("/run/user/7".into()),
            ..bare.clone()
        };
        let service = Surroundings {
            service: Some("/run/corelane:/run/other".into()),
            ..bare.clone()
        };
        for worker in [&bare, &session, &service] {
            let first = worker.folders_of_worker().remove(0);
            for client in [&bare, &session] {
                assert!(client.folders_of_client().contains(&first), "{first:?}");
            }
        }
        let relative = Surroundings {
            session: Some("here".into()),
            ..bare
        };
        assert_eq!(
            relative.folders_of_worker(),
            [PathBuf::from("/tmp/corelane-7")]
        );
    }

    #[test]
    fn files_are_named_by_address() {
        let address = |text: &str| text.parse().expect("an address");
        assert_eq!(
            file_names_for(address("127.0.0.1:7400")),
            [
                "127.0.0.1:7400.token",
                "0.0.0.0:7400.token",
                "[::]:7400.token"
            ]
        );
        assert_eq!(
            file_names_for(address("10.0.0.1:7400")),
            ["10.0.0.1:7400.token"]
        );
    }
}
