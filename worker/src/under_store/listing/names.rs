//! The names in large directories, sorted and kept for a moment.
//!
//! A file system gives the names of a directory in no order and only all of them, while a listing wants them
//! page by page. So one reading keeps a *stretch*: the smallest names from some place on, as many as fit
//! [`STRETCH_BYTES_MAX`]. The pages that follow are served from it, until the directory changes.
//!
//! The invariants: a reading holds one stretch, however many names there are; what is kept together stays
//! within its bound; and of those who want the same stretch one reads and the others wait.

use std::collections::{BinaryHeap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::under_store::files::{FileTree, failure_of};
use crate::under_store::limits::lock;
use crate::under_store::location::check_key;
use crate::under_store::origin::is_reserved;
use crate::under_store::retry::Failure;

/// Most bytes of a stretch: some 100,000 to 200,000 names. A directory of ten million is read some hundred
/// times for a listing of all of it, not a thousand times, one a run.
const STRETCH_BYTES_MAX: usize = 16 << 20;

/// Stretches of deeper directories are shorter, half as long for each level, up to this many: a listing
/// of a deep tree holds one of each level.
const HALVINGS_MAX: u32 = 6;

/// Least entries of a directory whose names are worth keeping, be they few of them: fewer are read again in less
/// than a page takes.
const KEPT_ENTRIES_MIN: u64 = 256;

/// How long a stretch is kept.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// How long before it is read a directory must have changed for its times to tell the next change: the
/// coarsest clocks of file systems tick every 2 s.
const QUIET: Duration = Duration::from_secs(2);

/// Memory of a name beside its text.
const NAME_BYTES: usize = size_of::<Name>();

/// A name in a directory, in the form that it sorts by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// With a slash at the end for directories.
    pub text: Box<str>,
    pub is_link: bool,
}

/// What tells one state of a directory from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Names of a directory, sorted, without a gap.
#[derive(Debug)]
pub(super) struct Stretch {
    /// It has the names from here on.
    from: String,
    pub names: Vec<Name>,
    /// Whether no names follow.
    pub is_all: bool,
    /// What the directory had in it, also what is not listed.
    entries: u64,
    identity: Identity,
    /// Whether the directory had been quiet, so that `identity` tells a change.
    was_quiet: bool,
    read_at: Instant,
}

/// What was counted while names were read.
#[derive(Debug, Default)]
pub struct NameCounts {
    /// Names that the file system gave.
    pub read: AtomicU64,
    /// Of them and of files, those that cannot be shown.
    pub skipped: AtomicU64,
}

/// Which names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    mount_path: String,
    directory: String,
    stem: String,
}

#[derive(Debug)]
struct Kept {
    stretch: Arc<Stretch>,
    bytes: usize,
    used: u64,
}

#[derive(Debug, Default)]
struct State {
    kept: HashMap<Key, Kept>,
    bytes: usize,
    uses: u64,
    forgotten: u64,
    /// Those that are being read.
    readings: HashMap<Key, Arc<Mutex<()>>>,
}

/// The names of all mounts.
#[derive(Debug)]
pub(super) struct DirectoryNames {
    bytes_max: usize,
    state: Mutex<State>,
}

/// What is wanted of a directory.
#[derive(Clone, Copy)]
pub(super) struct WantedNames<'a> {
    pub tree: &'a FileTree,
    pub mount_path: &'a str,
    /// Below the mount; empty, or ending in a slash.
    pub directory: &'a str,
    /// What the names begin with.
    pub stem: &'a str,
    /// The least of them.
    pub from: &'a str,
    /// Levels between the directory and the one that is listed.
    pub depth: usize,
    /// How old they may be whatever happened to the directory since.
    pub max_age: Duration,
    pub counts: &'a NameCounts,
}

fn identity_of(path: &Path) -> io::Result<Identity> {
    let metadata = fs::metadata(path)?;
    Ok(Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

impl Identity {
    /// Whether the last change was so long ago that the next one has another time.
    fn is_quiet(&self) -> bool {
        let last = self.modified.0.max(self.changed.0);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs() as i64);
        last + (QUIET.as_secs() as i64) < now
    }
}

impl Stretch {
    /// Whether the directory has nothing in it, not even what is not listed.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    fn covers(&self, from: &str) -> bool {
        let reaches = self.is_all || self.names.last().is_some_and(|last| *last.text >= *from);
        *self.from <= *from && reaches
    }

    fn bytes(&self) -> usize {
        let names: usize = self.names.iter().map(|name| name.text.len()).sum();
        names + self.names.capacity() * NAME_BYTES
    }
}

impl State {
    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.kept.remove(key) {
            self.bytes -= kept.bytes;
        }
    }
}

impl DirectoryNames {
    /// Keeps up to `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        DirectoryNames {
            bytes_max,
            state: Mutex::default(),
        }
    }

    /// A stretch that has the names from `wanted.from` on, or the first of them, and when it was so where that
    /// is not now. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn stretch(
        &self,
        wanted: WantedNames<'_>,
    ) -> Result<(Arc<Stretch>, Option<Instant>), io::Error> {
        let key = Key {
            mount_path: wanted.mount_path.to_owned(),
            directory: wanted.directory.to_owned(),
            stem: wanted.stem.to_owned(),
        };
        let path = wanted.tree.root.join(wanted.directory);
        let identity = identity_of(&path)?;
        if let Some(found) = self.find(&key, identity, wanted) {
            return Ok(found);
        }
        let reading = {
            let mut state = lock(&self.state);
            Arc::clone(state.readings.entry(key.clone()).or_default())
        };
        let turn = lock(&reading);
        // Whoever read it meanwhile may have read what is wanted here.
        let found = self.find(&key, identity, wanted);
        let forgotten = lock(&self.state).forgotten;
        let stretch = match found {
            Some(found) => Ok(found),
            None => read(wanted, &path, identity).map(|stretch| (Arc::new(stretch), None)),
        };
        drop(turn);
        let mut state = lock(&self.state);
        // The map and this call have it; nobody else waits.
        if Arc::strong_count(&reading) <= 2 {
            state.readings.remove(&key);
        }
        let (stretch, as_of) = stretch?;
        if state.forgotten == forgotten && as_of.is_none() {
            self.keep(&mut state, key, &stretch);
        }
        Ok((stretch, as_of))
    }

    fn find(
        &self,
        key: &Key,
        identity: Identity,
        wanted: WantedNames<'_>,
    ) -> Option<(Arc<Stretch>, Option<Instant>)> {
        let mut state = lock(&self.state);
        state.uses += 1;
        let uses = state.uses;
        let all = Key {
            stem: String::new(),
            ..key.clone()
        };
        // One without a stem has the names with it, too.
        for key in [key, &all] {
            let Some(kept) = state.kept.get_mut(key) else {
                continue;
            };
            let stretch = &kept.stretch;
            let age = stretch.read_at.elapsed();
            let is_unchanged = stretch.was_quiet && stretch.identity == identity;
            if age > KEPT_FOR || !(is_unchanged || age < wanted.max_age) {
                state.remove(key);
            } else if stretch.covers(wanted.from) {
                kept.used = uses;
                let as_of = (!is_unchanged).then_some(stretch.read_at);
                return Some((Arc::clone(&kept.stretch), as_of));
            }
        }
        None
    }

    fn keep(&self, state: &mut State, key: Key, stretch: &Arc<Stretch>) {
        let bytes = stretch.bytes() + size_of::<Kept>() + key.directory.len();
        if stretch.entries < KEPT_ENTRIES_MIN || bytes > self.bytes_max {
            return;
        }
        state.remove(&key);
        while state.bytes + bytes > self.bytes_max {
            let oldest = state.kept.iter().min_by_key(|(_, kept)| kept.used);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            state.remove(&oldest);
        }
        state.bytes += bytes;
        state.uses += 1;
        let kept = Kept {
            stretch: Arc::clone(stretch),
            bytes,
            used: state.uses,
        };
        state.kept.insert(key, kept);
    }

    /// Drops what a change of `key` in the mount at `mount_path` makes untrue; of every key, where there is
    /// none.
    pub fn forget(&self, mount_path: &str, key: Option<&str>) {
        let mut state = lock(&self.state);
        let changed: Vec<Key> = state
            .kept
            .keys()
            .filter(|kept| {
                kept.mount_path == mount_path
                    && key.is_none_or(|key| key.starts_with(&kept.directory))
            })
            .cloned()
            .collect();
        for key in changed {
            state.remove(&key);
        }
        state.forgotten += 1;
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        lock(&self.state).bytes
    }
}

/// Reads a directory once and takes the least names out of it. Blocks.
fn read(wanted: WantedNames<'_>, path: &Path, identity: Identity) -> Result<Stretch, io::Error> {
    let read_at = Instant::now();
    let was_quiet = identity.is_quiet();
    let halvings = (wanted.depth as u32).min(HALVINGS_MAX);
    let mut least = Least::new(STRETCH_BYTES_MAX >> halvings);
    let (mut entries, mut skipped) = (0, 0);
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        entries += 1;
        let Ok(text) = entry.file_name().into_string() else {
            skipped += 1;
            continue;
        };
        if !text.starts_with(wanted.stem) || least.is_beyond(&text) {
            continue;
        }
        if check_key(&text).is_err() {
            skipped += 1;
            continue;
        }
        if is_reserved(&text) {
            continue;
        }
        match name_of(wanted.tree, &entry, text) {
            Ok(name) if *name.text >= *wanted.from => least.push(name),
            Ok(_) => {}
            Err(_) => skipped += 1,
        }
    }
    wanted.counts.read.fetch_add(entries, Ordering::Relaxed);
    wanted.counts.skipped.fetch_add(skipped, Ordering::Relaxed);
    let (names, is_all) = least.into_sorted();
    Ok(Stretch {
        from: wanted.from.to_owned(),
        names,
        is_all,
        entries,
        identity,
        was_quiet,
        read_at,
    })
}

/// The name of an entry; an error where it leads nowhere, or where it must not.
fn name_of(tree: &FileTree, entry: &fs::DirEntry, mut text: String) -> Result<Name, Failure> {
    let kind = entry
        .file_type()
        .map_err(|error| failure_of(&error, "stat"))?;
    let is_link = kind.is_symlink();
    let is_directory = if is_link {
        tree.check_place(&entry.path())?;
        let metadata = fs::metadata(entry.path()).map_err(|error| failure_of(&error, "stat"))?;
        metadata.is_dir()
    } else {
        kind.is_dir()
    };
    if is_directory {
        text.push('/');
    }
    Ok(Name {
        text: text.into_boxed_str(),
        is_link,
    })
}

/// The least names of many, in bounded memory.
struct Least {
    /// The greatest on top.
    names: BinaryHeap<Name>,
    bytes: usize,
    bytes_max: usize,
    is_all: bool,
}

impl Least {
    fn new(bytes_max: usize) -> Self {
        Least {
            names: BinaryHeap::new(),
            bytes: 0,
            bytes_max,
            is_all: true,
        }
    }

    /// Whether a name of an entry is not among the least, whether it gets a slash at its end or not.
    fn is_beyond(&mut self, text: &str) -> bool {
        let top = self.names.peek().filter(|_| !self.is_all);
        top.is_some_and(|top| *text > *top.text)
    }

    fn push(&mut self, name: Name) {
        self.bytes += NAME_BYTES + name.text.len();
        self.names.push(name);
        while self.bytes > self.bytes_max && self.names.len() > 1 {
            let greatest = self.names.pop().expect("more than one");
            self.bytes -= NAME_BYTES + greatest.text.len();
            self.is_all = false;
        }
    }

    fn into_sorted(self) -> (Vec<Name>, bool) {
        let mut names = self.names.into_sorted_vec();
        names.shrink_to_fit();
        (names, self.is_all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_least_names_are_those_of_all_names_sorted(
            mut texts in prop::collection::vec("[a-c/-]{1,6}", 0..60),
            kept in 1usize..70,
        ) {
            let mut least = Least::new(kept * (NAME_BYTES + 6));
            for text in &texts {
                if !least.is_beyond(text) {
                    least.push(Name { text: text.as_str().into(), is_link: false });
                }
                prop_assert!(least.bytes <= least.bytes_max.max(NAME_BYTES + 6));
            }
            let (names, is_all) = least.into_sorted();
            texts.sort();
            let names: Vec<&str> = names.iter().map(|name| &*name.text).collect();
            // Without a gap from the first one on, but for copies of the last.
            prop_assert_eq!(&names[..], &texts[..names.len()]);
            prop_assert!(!is_all || names.len() == texts.len());
            prop_assert!(texts.is_empty() || !names.is_empty());
        }
    }
}
