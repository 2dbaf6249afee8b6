//! What a caller may see and do, decided once a call.

use std::sync::Arc;

use super::error::CallError;
use crate::access::{Access, Reader};
use crate::mount::{AccessSet, Mount, MountTable};

/// The mounts as one caller sees them.
#[derive(Clone)]
pub struct Rights {
    mounts: Arc<MountTable>,
    allowed: AccessSet,
    is_operator: bool,
    name: String,
}

impl Rights {
    /// What `reader` may see and do now.
    ///
    /// # Errors
    /// When its token is gone.
    pub fn of(
        reader: &Reader,
        access: &Access,
        mounts: Arc<MountTable>,
    ) -> Result<Self, CallError> {
        let standing = access.standing(reader).ok_or_else(|| {
            CallError::Denied(
                "the token of this connection is not valid any more; connect again with a new one"
                    .to_owned(),
            )
        })?;
        Ok(Rights {
            allowed: standing.set_of(&mounts),
            mounts,
            is_operator: standing.is_operator,
            name: reader.name().to_owned(),
        })
    }

    /// Whether things may be changed.
    pub fn is_operator(&self) -> bool {
        self.is_operator
    }

    /// Checks that nothing of what `before` allowed was lost meanwhile: for answers that took their time.
    ///
    /// # Errors
    /// When something was.
    pub fn still_allow(&self, before: &Rights) -> Result<(), CallError> {
        if self.allowed.covers(&before.allowed) {
            return Ok(());
        }
        // Another try finds out what is allowed now.
        Err(CallError::Busy(
            "mounts or their readers have changed meanwhile; retry".to_owned(),
        ))
    }

    /// Whether objects of `mount` may be read.
    pub fn may_read(&self, mount: &Mount) -> bool {
        self.allowed.allows(mount.id)
    }

    /// Whether everything at and below `path` may be read.
    pub fn may_read_all_at(&self, path: &str) -> bool {
        let covering = self.mounts.covering(path);
        let below = self
            .mounts
            .iter()
            .filter(|mount| is_below(&mount.path, path));
        let mut all = covering.into_iter().chain(below).peekable();
        all.peek().is_some() && all.all(|mount| self.may_read(mount))
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
