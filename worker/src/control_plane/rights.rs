//! What a caller may see and do, decided once a call.

use std::sync::Arc;

use super::error::CallError;
use crate::access::{Access, Reader};
use crate::mount::{AccessSet, Mount, MountTable};

/// The mounts as one caller sees them.
#[derive(Clone)]
pub struct Rights {
    mounts: Arc<MountTable>,
    /// `None`: the worker itself, which may read everything.
    allowed: Option<AccessSet>,
    name: String,
}

impl Rights {
    /// What `reader` may read now.
    pub fn of(reader: &Reader, access: &Access, mounts: Arc<MountTable>) -> Self {
        let allowed = access.set_of(&mounts, reader.name());
        Rights {
            mounts,
            allowed: Some(allowed),
            name: reader.name().to_owned(),
        }
    }

    /// The worker's own, for jobs that were allowed when they began.
    pub fn own(mounts: Arc<MountTable>) -> Self {
        Rights {
            mounts,
            allowed: None,
            name: String::new(),
        }
    }

    /// Whether objects of `mount` may be read.
    pub fn may_read(&self, mount: &Mount) -> bool {
        self.allowed
            .as_ref()
            .is_none_or(|allowed| allowed.allows(mount.id))
    }

    /// The mount that covers `path`, if it may be read.
    ///
    /// # Errors
    /// When no mount covers it, or the caller may not read it.
    pub fn mount_of(&self, path: &str) -> Result<&Arc<Mount>, CallError> {
        let Some(mount) = self.mounts.covering(path) else {
            return Err(CallError::NotFound(format!(
                "no mount covers {path}; `corelane status` lists the mounts"
            )));
        };
        if self.may_read(mount) {
            return Ok(mount);
        }
        let name = if self.name.is_empty() {
            "who brings no token"
        } else {
            &self.name
        };
        Err(CallError::Denied(format!(
            "{name} is not among the readers of the mount at {}",
            mount.path
        )))
    }

    /// Readable mounts that have a part below `path`: the one that covers it, and those below it.
    pub fn mounts_at(&self, path: &str) -> Vec<Arc<Mount>> {
        let covering = self.mounts.covering(path).map(|mount| mount.id);
        self.mounts
            .iter()
            .filter(|mount| Some(mount.id) == covering || is_below(&mount.path, path))
            .filter(|mount| self.may_read(mount))
            .cloned()
            .collect()
    }

    /// Whether the object at `path` is `mount`'s, and not hidden by a mount below it.
    pub fn shows(&self, path: &str, mount: &Mount) -> bool {
        self.mounts
            .covering(path)
            .is_some_and(|covering| covering.id == mount.id)
    }
}

/// Whether `path` lies strictly below `folder`.
pub fn is_below(path: &str, folder: &str) -> bool {
    let folder = folder.trim_end_matches('/');
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}

/// `path` as the worker knows it: absolute, without a trailing slash.
///
/// # Errors
/// When it is relative, or has empty parts, `.` or `..`.
pub fn checked_path(path: &str) -> Result<String, CallError> {
    crate::config::keys::check_mount_path(path).map_err(CallError::Invalid)?;
    Ok(crate::config::normal_path(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_means_whole_names() {
        assert!(is_below("/a/b", "/a") && is_below("/a", "/") && is_below("/a/b", "/a/"));
        assert!(!is_below("/ab", "/a") && !is_below("/a", "/a") && !is_below("/", "/"));
    }

    #[test]
    fn paths_that_climb_or_are_relative_are_refused() {
        for wrong in ["", "a", "/a/../b", "/a//b", "/./a"] {
            assert!(
                matches!(checked_path(wrong), Err(CallError::Invalid(_))),
                "{wrong}"
            );
        }
        assert_eq!(checked_path("/a/b/"), Ok("/a/b".to_owned()));
        assert_eq!(checked_path("/"), Ok("/".to_owned()));
    }
}
