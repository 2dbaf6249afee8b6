//! Where the demo may put its files: a folder on a file system that has direct I/O and room.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::failure::Failure;

/// The demo's folder: removed with all that is in it when this is dropped, or by the panic hook,
/// since release builds end at a panic without dropping anything.
pub struct Place {
    folder: TempDir,
}

impl Place {
    /// Makes the folder in `parent`, or in the first usable place of the usual ones.
    pub fn find(parent: Option<&Path>) -> Result<Place, Failure> {
        let candidates = match parent {
            Some(parent) => vec![parent.to_owned()],
            None => usual_places(),
        };
        let mut reasons = Vec::new();
        for candidate in &candidates {
            match Place::make(candidate) {
                Ok(place) => {
                    for reason in reasons {
                        eprintln!("{reason}; using {} instead", candidate.display());
                    }
                    place.remove_at_panic();
                    return Ok(place);
                }
                Err(reason) => reasons.push(reason),
            }
        }
        let reasons = reasons.join("; ");
        Err(Failure::failed(format!(
            "{reasons}; name a folder on ext4, xfs or tmpfs with --dir"
        )))
    }

    fn make(parent: &Path) -> Result<Place, String> {
        let folder = tempfile::Builder::new()
            .prefix("corelane-demo-")
            .tempdir_in(parent)
            .map_err(|error| format!("{} cannot be written: {error}", parent.display()))?;
        let probe = folder.path().join("probe");
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_DIRECT)
            .open(&probe);
        match opened {
            Ok(_) => {
                let removed = std::fs::remove_file(&probe);
                removed.map_err(|error| format!("{}: {error}", probe.display()))?;
                Ok(Place { folder })
            }
            Err(error) => Err(format!("{} has no direct I/O ({error})", parent.display())),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn remove_at_panic(&self) {
        let path = self.path().to_owned();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            let _ = std::fs::remove_dir_all(&path);
        }));
    }
}

/// The temporary folder, what usually is on a disk, and where the user is.
fn usual_places() -> Vec<PathBuf> {
    let mut places = vec![std::env::temp_dir(), PathBuf::from("/var/tmp")];
    places.extend(std::env::current_dir());
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_gone_when_dropped() {
        let place = Place::find(None).expect("some place has direct I/O");
        let path = place.path().to_owned();
        assert!(path.is_dir());
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_used_is_said_with_the_flag_that_helps() {
        let Err(Failure::Error { message, .. }) = Place::find(Some(Path::new("/proc"))) else {
            panic!("/proc holds no files of ours");
        };
        assert!(
            message.contains("/proc") && message.contains("--dir"),
            "{message}"
        );
    }
}
