//! Writes of unknown outcome, and when their readers are sent to the origin again.
//!
//! An origin that did not confirm a write may still carry it out, within the patience of whatever stands
//! between it and this worker. So each such key is invalidated again at the ages in [`CHECK_AGES`].
//!
//! The invariant: memory is bounded by [`KEYS_BYTES_MAX`] and one record a mount, whatever fails and how
//! often; keys that do not fit are covered by a record of their whole mount. One task serves all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::mount::Mount;

/// Ages of a failed write at which its readers are sent to the origin again: behind the timeouts of usual
/// proxies, and behind those of patient ones.
const CHECK_AGES: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(300)];

/// Memory for keys. With keys of 100 bytes it holds some 16,000; an origin that fails more of them within
/// [`CHECK_AGES`] has its mounts invalidated as a whole, once for all of their keys.
const KEYS_BYTES_MAX: usize = 4 << 20;

/// Memory of a key's record and its place in the table, the text aside.
const RECORD_BYTES: usize = 160;

/// Checks that are handed out at a time, so that a batch is small beside the table.
const BATCH_MAX: usize = 256;

/// How soon a mount is invalidated again that the shards could not be told of.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Pause between two looks at the table while it has records.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A check that is due.
#[derive(Clone, Debug)]
pub(super) enum Check {
    /// Of one key.
    Key(Arc<Mount>, String),
    /// Of everything that was learned of a mount since the write with that number.
    Mount(Arc<Mount>, u64),
}

/// When a key or a mount is checked.
#[derive(Debug)]
struct Record {
    mount: Arc<Mount>,
    failed_at: Instant,
    check_at: Instant,
    /// The last write that shards were told of before the first failure.
    since: u64,
}

impl Record {
    fn new(mount: &Arc<Mount>, since: u64, now: Instant) -> Self {
        Record {
            mount: Arc::clone(mount),
            failed_at: now,
            check_at: now + CHECK_AGES[0],
            since,
        }
    }

    /// Notes one more failure.
    fn fail(&mut self, since: u64, now: Instant) {
        self.failed_at = now;
        self.check_at = self.check_at.min(now + CHECK_AGES[0]);
        self.since = self.since.min(since);
    }

    /// Notes a check; false when it was the last one.
    fn is_kept_after_check(&mut self, now: Instant) -> bool {
        let next = CHECK_AGES
            .into_iter()
            .find(|age| now < self.failed_at + *age);
        if let Some(age) = next {
            self.check_at = self.failed_at + age;
        }
        next.is_some()
    }
}

#[derive(Debug, Default)]
struct State {
    /// By path of the mount, then by key.
    keys: HashMap<String, HashMap<String, Record>>,
    keys_bytes: usize,
    /// By path; at most as many as there are mounts, and those that were removed a moment ago.
    mounts: HashMap<String, Record>,
}

/// All writes of unknown outcome.
#[derive(Debug, Default)]
pub(super) struct UncertainWrites {
    state: Mutex<State>,
    changed: Notify,
}

fn bytes_of(key: &str) -> usize {
    RECORD_BYTES + key.len()
}

impl State {
    fn add(&mut self, mount: &Arc<Mount>, key: &str, since: u64, now: Instant) {
        if let Some(whole) = self.mounts.get_mut(&mount.path) {
            whole.fail(since, now);
            return;
        }
        let known = self.keys.get_mut(&mount.path);
        if let Some(record) = known.and_then(|keys| keys.get_mut(key)) {
            record.fail(since, now);
            return;
        }
        if self.keys_bytes + bytes_of(key) > KEYS_BYTES_MAX {
            self.add_mount(mount, since, now);
            return;
        }
        self.keys_bytes += bytes_of(key);
        let keys = self.keys.entry(mount.path.clone()).or_default();
        keys.insert(key.to_owned(), Record::new(mount, since, now));
    }

    /// Puts one record of the mount in the place of all of its keys.
    fn add_mount(&mut self, mount: &Arc<Mount>, since: u64, now: Instant) -> &mut Record {
        let keys = self.keys.remove(&mount.path).unwrap_or_default();
        let whole = self
            .mounts
            .entry(mount.path.clone())
            .or_insert_with(|| Record::new(mount, since, now));
        whole.fail(since, now);
        for (key, record) in keys {
            self.keys_bytes -= bytes_of(&key);
            whole.check_at = whole.check_at.min(record.check_at);
            whole.since = whole.since.min(record.since);
        }
        whole
    }

    fn take_due(&mut self, now: Instant) -> Vec<Check> {
        let mut due = Vec::new();
        self.mounts.retain(|_, record| {
            if record.check_at > now || due.len() >= BATCH_MAX {
                return true;
            }
            due.push(Check::Mount(Arc::clone(&record.mount), record.since));
            record.is_kept_after_check(now)
        });
        let keys_bytes = &mut self.keys_bytes;
        self.keys.retain(|_, keys| {
            keys.retain(|key, record| {
                if record.check_at > now || due.len() >= BATCH_MAX {
                    return true;
                }
                due.push(Check::Key(Arc::clone(&record.mount), key.clone()));
                let is_kept = record.is_kept_after_check(now);
                if !is_kept {
                    *keys_bytes -= bytes_of(key);
                }
                is_kept
            });
            !keys.is_empty()
        });
        due
    }
}

impl UncertainWrites {
    /// Notes that a write of `key` failed at `now`, and the origin may yet carry it out. `since` is the last
    /// write that the shards were told of before it.
    pub fn add(&self, mount: &Arc<Mount>, key: &str, since: u64, now: Instant) {
        self.state().add(mount, key, since, now);
        self.changed.notify_one();
    }

    /// Notes that shards could not be told to invalidate something of `mount`: all of it follows soon.
    pub fn add_untold(&self, mount: &Arc<Mount>, since: u64, now: Instant) {
        let mut state = self.state();
        let whole = state.add_mount(mount, since, now);
        whole.check_at = whole.check_at.min(now + TELL_AGAIN_AFTER);
        drop(state);
        self.changed.notify_one();
    }

    /// Some of the checks that are due at `now`; none when no more are.
    pub fn take_due(&self, now: Instant) -> Vec<Check> {
        self.state().take_due(now)
    }

    /// Keys and mounts that are noted.
    pub fn len(&self) -> (usize, usize) {
        let state = self.state();
        let keys = state.keys.values().map(HashMap::len).sum();
        (keys, state.mounts.len())
    }

    /// Resolves when something was noted since the last call.
    pub async fn until_changed(&self) {
        self.changed.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::mount::{Admission, Freshness, MountId};

    fn mount(path: &str) -> Arc<Mount> {
        Arc::new(Mount {
            id: MountId(0),
            path: path.to_owned(),
            uri: format!("s3://origin{path}"),
            block_bytes: 1 << 20,
            freshness: Freshness::Immutable,
            admission: Admission::Always,
            key_indexes: Vec::new(),
            readers: Vec::new(),
            options: Default::default(),
            is_runtime: false,
        })
    }

    fn after(began: Instant, seconds: u64) -> Instant {
        began + Duration::from_secs(seconds)
    }

    /// Everything that is due at a moment, as paths.
    fn due(writes: &UncertainWrites, now: Instant) -> HashSet<String> {
        let mut all = HashSet::new();
        loop {
            let batch = writes.take_due(now);
            if batch.is_empty() {
                return all;
            }
            assert!(batch.len() <= BATCH_MAX);
            for check in batch {
                let is_new = all.insert(match check {
                    Check::Key(mount, key) => format!("{}/{key}", mount.path),
                    Check::Mount(mount, _) => mount.path.clone(),
                });
                assert!(is_new, "one check a key and time");
            }
        }
    }

    #[test]
    fn a_key_is_checked_at_each_age_and_then_no_more() {
        let (writes, lake, began) = (UncertainWrites::default(), mount("/lake"), Instant::now());
        writes.add(&lake, "a", 7, began);
        assert!(due(&writes, after(began, 59)).is_empty());
        let key = HashSet::from(["/lake/a".to_owned()]);
        assert_eq!(due(&writes, after(began, 60)), key);
        assert!(due(&writes, after(began, 299)).is_empty());
        assert_eq!(due(&writes, after(began, 300)), key);
        assert_eq!(writes.len(), (0, 0));
        assert_eq!(writes.state().keys_bytes, 0);
    }

    #[test]
    fn a_key_that_fails_without_end_is_one_record_checked_once_a_minute() {
        let (writes, lake, began) = (UncertainWrites::default(), mount("/lake"), Instant::now());
        let mut checks = Vec::new();
        for second in 0..1200 {
            writes.add(&lake, "a", 7, after(began, second));
            assert_eq!(writes.len(), (1, 0));
            if !due(&writes, after(began, second)).is_empty() {
                checks.push(second);
            }
        }
        assert_eq!(checks.len(), 19, "{checks:?}");
        // The last failure is checked at both ages.
        for second in [1199 + 60, 1199 + 300] {
            assert_eq!(due(&writes, after(began, second)).len(), 1, "{second}");
        }
        assert_eq!(writes.len(), (0, 0));
    }

    #[test]
    fn ten_thousand_long_keys_are_one_record_of_their_mount_which_covers_all_of_them() {
        let (writes, began) = (UncertainWrites::default(), Instant::now());
        let (lake, other) = (mount("/lake"), mount("/other"));
        writes.add(&other, "kept", 1, began);
        for number in 0..10_000_u64 {
            let key = format!("{number:0>1000}");
            writes.add(&lake, &key, 100 + number, after(began, number / 1000));
            let state = writes.state();
            assert!(state.keys_bytes <= KEYS_BYTES_MAX);
            let held = state.keys.values().flat_map(HashMap::keys);
            assert_eq!(
                held.map(|key| bytes_of(key)).sum::<usize>(),
                state.keys_bytes
            );
        }
        assert_eq!(writes.len(), (1, 1), "the other mount has its key");
        // As early as the first of its keys would be, and with what was learned since.
        let first = writes.take_due(after(began, 60));
        let of_lake = first.iter().find_map(|check| match check {
            Check::Mount(mount, since) => Some((mount.path.as_str(), *since)),
            Check::Key(..) => None,
        });
        assert_eq!(of_lake, Some(("/lake", 100)));
        // And at both ages of the last one.
        assert_eq!(
            due(&writes, after(began, 69)),
            HashSet::from(["/lake".into()])
        );
        let last = due(&writes, after(began, 309));
        assert_eq!(last, HashSet::from(["/lake".into(), "/other/kept".into()]));
        assert_eq!(writes.len(), (0, 0));
    }

    #[test]
    fn a_mount_whose_shards_were_not_told_is_checked_soon() {
        let (writes, lake, began) = (UncertainWrites::default(), mount("/lake"), Instant::now());
        writes.add(&lake, "a", 9, began);
        writes.add_untold(&lake, 12, began);
        assert_eq!(writes.len(), (0, 1));
        let checks = writes.take_due(after(began, 1));
        assert!(matches!(&checks[..], [Check::Mount(_, 9)]), "{checks:?}");
    }
}
