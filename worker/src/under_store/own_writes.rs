//! Files that this worker wrote, which need no time to come to rest.
//!
//! A file that was modified a moment ago may be modified again within one tick of the file system's
//! clock, without another version. Not so one that was written under another name, given a modification
//! time of our own, finer than any tick, and renamed: whoever modifies it later gives it another time.
//! Not so on file systems that round times, where nothing is noted and files are waited for.
//! The invariant: a version is noted only by whoever made its file so.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::limits::lock;

/// Longer than files are left alone for; what is older needs no note.
const KEPT: Duration = Duration::from_secs(150);

/// Most versions that are noted. Of one more, the oldest is read as any other file is: after a wait.
const VERSIONS_MAX: usize = 16 << 10;

/// The versions of such files, shared by clones.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnWrites(Arc<Mutex<VecDeque<(String, Instant)>>>);

impl OwnWrites {
    /// Notes a version.
    pub fn note(&self, version: &str) {
        let mut versions = lock(&self.0);
        let now = Instant::now();
        while versions.len() >= VERSIONS_MAX
            || versions
                .front()
                .is_some_and(|(_, at)| now.duration_since(*at) > KEPT)
        {
            versions.pop_front();
        }
        versions.push_back((version.to_owned(), now));
    }

    /// Whether this version was noted lately.
    pub fn contains(&self, version: &str) -> bool {
        // The newest is nearly always the one.
        let versions = lock(&self.0);
        versions.iter().rev().any(|(noted, _)| noted == version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_versions_are_noted() {
        let own = OwnWrites::default();
        let clone = own.clone();
        for number in 0..VERSIONS_MAX + 1 {
            own.note(&number.to_string());
        }
        assert!(!clone.contains("0") && clone.contains("1"));
        assert!(clone.contains(&VERSIONS_MAX.to_string()) && !clone.contains("other"));
    }
}
