//! The local token: made at each start, for the user that the worker runs as.
//!
//! Whoever may read its file could also read the worker's configuration and devices, so nobody gains by it; a
//! connection that merely comes from this machine proves nothing. It is a new one at each start: a process that
//! listens where a worker did sees tokens that nobody accepts any more.
//!
//! The invariant: a file never holds a token where another user can read it or could have made it.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use corelane_rpc_schema::local_token::{Surroundings, file_name};
use ring::rand::{SecureRandom, SystemRandom};

use crate::config::LocalToken;

/// Bytes of randomness: nobody guesses half of it.
const SECRET_BYTES: usize = 32;

/// Files that a folder may hold. Those of killed workers stay until the next start at the same address; beyond
/// this, the oldest ones go. A worker has at most 258.
const FILES_MAX: usize = 2048;

/// A new secret.
///
/// # Errors
/// When the kernel gives no randomness.
pub(super) fn make() -> io::Result<LocalToken> {
    let mut bytes = [0; SECRET_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the kernel gives no randomness"))?;
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    Ok(LocalToken(digits.collect()))
}

/// The files that hold the token of a running worker. Dropping it removes them.
pub(super) struct LocalTokenFiles {
    secret: LocalToken,
    folder: PathBuf,
    files: Vec<PathBuf>,
}

impl LocalTokenFiles {
    /// None yet, in the first folder that can be had.
    ///
    /// # Errors
    /// A sentence, when there is none.
    pub(super) fn new(secret: LocalToken) -> Result<Self, String> {
        let surroundings = Surroundings::of_process()
            .ok_or("/proc/self/status does not say which user this is")?;
        let mut reasons = Vec::new();
        for folder in surroundings.folders_of_worker() {
            match prepare(&folder, surroundings.user) {
                Ok(()) => {
                    return Ok(LocalTokenFiles {
                        secret,
                        folder,
                        files: Vec::new(),
                    });
                }
                Err(error) => reasons.push(format!("{}: {error}", folder.display())),
            }
        }
        Err(reasons.join("; "))
    }

    /// Where they are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds files for listeners at `addresses`.
    ///
    /// # Errors
    /// When one cannot be written.
    pub(super) fn add(&mut self, addresses: &[SocketAddr]) -> io::Result<()> {
        for address in addresses {
            let path = self.folder.join(file_name(*address));
            if self.files.contains(&path) {
                continue;
            }
            write(&path, &self.secret)?;
            self.files.push(path);
        }
        Ok(())
    }
}

impl Drop for LocalTokenFiles {
    fn drop(&mut self) {
        for path in &self.files {
            // Another worker may listen there by now.
            if std::fs::read_to_string(path).is_ok_and(|text| text.trim() == self.secret.0) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

fn prepare(folder: &Path, user: u32) -> io::Result<()> {
    if let Err(error) = DirBuilder::new().mode(0o700).create(folder)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    let metadata = std::fs::symlink_metadata(folder)?;
    if !metadata.is_dir() || metadata.uid() != user || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other(
            "it is not a folder of this user that nobody else can write to",
        ));
    }
    remove_oldest(folder)
}

fn remove_oldest(folder: &Path) -> io::Result<()> {
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "token")
        {
            files.push((entry.metadata()?.modified()?, path));
        }
    }
    files.sort();
    let surplus = files.len().saturating_sub(FILES_MAX);
    for (_, path) in &files[..surplus] {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Replaces the file at `path`, never writing to one that was there.
fn write(path: &Path, secret: &LocalToken) -> io::Result<()> {
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    writeln!(file, "{}", secret.0)?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn user_of(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it is there").uid()
    }

    #[test]
    fn folders_that_others_could_have_made_are_not_used() {
        let base = tempfile::tempdir().expect("a folder");
        let user = user_of(base.path());
        let folder = base.path().join("own");
        prepare(&folder, user).expect("a new one");
        let mode = std::fs::metadata(&folder).expect("it is there").mode();
        assert_eq!(mode & 0o777, 0o700);
        prepare(&folder, user).expect("the same again");
        assert!(prepare(&folder, user + 1).is_err(), "another user's");
        let link = base.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).expect("a link");
        assert!(prepare(&link, user).is_err(), "a link");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&folder, open).expect("it is ours");
        assert!(prepare(&folder, user).is_err(), "others can write to it");
    }

    #[test]
    fn files_are_private_replaced_and_removed_unless_they_are_anothers() {
        let base = tempfile::tempdir().expect("a folder");
        let address = ["127.0.0.1:1".parse().expect("an address")];
        let path = base.path().join("127.0.0.1:1.token");
        // What a link leads to is never written to.
        std::os::unix::fs::symlink("/nonexistent/place", &path).expect("a link");
        let files = |secret: &str| {
            let mut files = LocalTokenFiles {
                secret: LocalToken(secret.to_owned()),
                folder: base.path().to_owned(),
                files: Vec::new(),
            };
            files.add(&address).expect("a file");
            files
        };
        let old = files("old");
        let metadata = std::fs::symlink_metadata(&path).expect("it is there");
        assert!(metadata.is_file());
        assert_eq!(metadata.mode() & 0o777, 0o600);
        let new = files("new");
        drop(old);
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "new\n");
        drop(new);
        assert!(!path.exists());
    }

    #[test]
    fn secrets_differ() {
        let (one, other) = (make().expect("random"), make().expect("random"));
        assert_eq!(one.0.len(), 2 * SECRET_BYTES);
        assert!(one != other);
    }
}
