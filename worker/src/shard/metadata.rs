//! Objects that a shard remembers: by path, as fresh as the mount demands, and by id.
//!
//! It is remembered in bounded maps, first in first out. What is remembered is bounded by its bytes as well as by
//! its number: names, headers and answer lines of one object may take 11 KiB, and a client that writes objects
//! chooses them. How it is learned is in `describe`.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use corelane_io::Nanos;
use corelane_rpc_schema::ObjectId;
use corelane_rpc_schema::ids::home_of;

use super::describe::DescribeRequests;
use super::known::{Known, OBJECT_BYTES, Tally};
use crate::cache::hashing::IdMap;
use crate::mount::{Freshness, MountId};
use crate::object::ObjectMeta;

/// Bytes of memory of a note that an object is gone, beside its path key.
const FORGOTTEN_OVERHEAD_BYTES: usize = 144;

impl Tally {
    fn see(&mut self, seen: &Seen) {
        match seen {
            Seen::Object { known, .. } => self.enter(known),
            Seen::Forgotten { path_key, .. } => {
                self.bytes += FORGOTTEN_OVERHEAD_BYTES + path_key.len();
            }
        }
    }

    fn unsee(&mut self, seen: &Seen) {
        match seen {
            Seen::Object { known, .. } => self.leave(known),
            Seen::Forgotten { path_key, .. } => {
                self.bytes -= FORGOTTEN_OVERHEAD_BYTES + path_key.len();
            }
        }
    }
}

/// What is remembered of the object at one path key.
enum Seen {
    /// It was so at that time, and after all writes up to that one.
    Object {
        known: Rc<Known>,
        at: Nanos,
        write: u64,
    },
    /// What was at this path key is gone, by that write or after it. The entry itself leaves in its
    /// turn: looking for it in the queue would take milliseconds.
    Forgotten { path_key: Box<str>, write: u64 },
}

impl Seen {
    fn path_key(&self) -> &str {
        match self {
            Seen::Object { known, .. } => &known.meta.path_key,
            Seen::Forgotten { path_key, .. } => path_key,
        }
    }

    fn write(&self) -> u64 {
        match self {
            Seen::Object { write, .. } | Seen::Forgotten { write, .. } => *write,
        }
    }
}

/// What is remembered by path: a bounded map, first in first out.
struct Paths {
    /// By the home half of the path key's hash. Of two path keys with one hash, the one that was
    /// seen last is remembered.
    by_home: HashMap<u64, Seen>,
    homes: VecDeque<u64>,
    objects_max: usize,
}

impl Paths {
    fn new(objects_max: usize) -> Self {
        Paths {
            by_home: HashMap::new(),
            homes: VecDeque::new(),
            objects_max,
        }
    }

    /// The object at `path_key`, and when that was so, as far as it is fresh.
    #[inline]
    fn fresh(
        &self,
        home: u64,
        path_key: &str,
        freshness: Freshness,
        now: Nanos,
    ) -> Option<(&Rc<Known>, Nanos)> {
        let Seen::Object { known, at, .. } = self.by_home.get(&home)? else {
            return None;
        };
        let is_fresh = match freshness {
            Freshness::Immutable => true,
            Freshness::MaxAge(age) => now.since(*at) <= age,
            Freshness::AlwaysCheck => false,
        };
        (is_fresh && known.meta.path_key == path_key).then_some((known, *at))
    }

    /// Notes what is at a path, unless what is noted already is of after a later write: an answer may
    /// wait for its reader while the object is written.
    fn note(&mut self, home: u64, seen: Seen, tally: &mut Tally) {
        let noted = self.by_home.get(&home);
        if noted.is_some_and(|noted| {
            noted.write() > seen.write() && noted.path_key() == seen.path_key()
        }) {
            return;
        }
        tally.see(&seen);
        if let Some(before) = self.by_home.insert(home, seen) {
            tally.unsee(&before);
            return;
        }
        self.homes.push_back(home);
        while self.homes.len() > self.objects_max {
            self.drop_oldest(tally);
        }
    }

    /// Forgets what was remembered first, whatever it is.
    fn drop_oldest(&mut self, tally: &mut Tally) {
        if let Some(oldest) = self.homes.pop_front()
            && let Some(seen) = self.by_home.remove(&oldest)
        {
            tally.unsee(&seen);
        }
    }

    fn forget(&mut self, meta: &ObjectMeta, tally: &mut Tally) {
        if let Some(Seen::Object { known, .. }) = self.by_home.get(&meta.id.home)
            && known.meta.id == meta.id
        {
            self.forget_path(&meta.path_key, tally);
        }
    }

    /// Forgets what was learned below `prefix` from the write `since` on and before `number`, of the paths in
    /// these places; gives their path keys.
    fn forget_since(
        &mut self,
        prefix: &str,
        (since, number): (u64, u64),
        places: std::ops::Range<usize>,
        tally: &mut Tally,
    ) -> Vec<Box<str>> {
        let places = places.start.min(self.homes.len())..places.end.min(self.homes.len());
        let mut gone = Vec::new();
        for home in self.homes.range(places) {
            let Some(seen) = self.by_home.get_mut(home) else {
                continue;
            };
            let is_meant = matches!(seen, Seen::Object { .. })
                && (since..number).contains(&seen.write())
                && seen.path_key().starts_with(prefix);
            if is_meant {
                let path_key: Box<str> = seen.path_key().into();
                gone.push(path_key.clone());
                let forgotten = Seen::Forgotten {
                    path_key,
                    write: number,
                };
                tally.see(&forgotten);
                tally.unsee(seen);
                *seen = forgotten;
            }
        }
        gone
    }

    fn forget_path(&mut self, path_key: &str, tally: &mut Tally) {
        if let Some(seen) = self.by_home.get_mut(&home_of(path_key))
            && seen.path_key() == path_key
        {
            let forgotten = Seen::Forgotten {
                path_key: path_key.into(),
                write: seen.write(),
            };
            tally.see(&forgotten);
            tally.unsee(seen);
            *seen = forgotten;
        }
    }
}

/// One object that is remembered by path for every so many whose home this shard is may have its home
/// elsewhere.
const ELSEWHERE_SHARE: usize = 4;

/// The metadata of a shard: bounded maps, first in first out. Together they take at most [`OBJECT_BYTES`] for each
/// object that may be remembered.
pub struct Metadata {
    /// Objects whose home this shard is.
    paths: Paths,
    /// Objects whose home is another shard, which is not asked for them again while they are fresh: else
    /// everybody would ask the home of an object that everybody reads.
    elsewhere: Paths,
    by_id: IdMap<ObjectId, Rc<Known>>,
    ids: VecDeque<ObjectId>,
    /// Asked of under-stores and not answered yet.
    pub(super) describe_requests: DescribeRequests,
    objects_max: usize,
    tally: Tally,
    /// The last write that this shard was told of. Shards are told of them in one order.
    last_write: u64,
    /// The last write of objects whose paths are not known. What was asked for before it may be of before
    /// a write, and is not remembered.
    last_mount_write: u64,
}

/// Paths that are looked at between two yields when many are forgotten: some 100 µs.
const FORGOTTEN_AT_ONCE: usize = 1024;

impl Metadata {
    /// Remembers at most `objects_max` objects by path and as many by id, and fewer where names and headers are long.
    pub fn new(objects_max: usize) -> Self {
        Metadata {
            paths: Paths::new(objects_max),
            elsewhere: Paths::new(objects_max.div_ceil(ELSEWHERE_SHARE)),
            by_id: IdMap::default(),
            ids: VecDeque::new(),
            describe_requests: DescribeRequests::default(),
            objects_max,
            tally: Tally::default(),
            last_write: 0,
            last_mount_write: 0,
        }
    }

    /// Objects remembered by path, whose home this shard is.
    pub fn len(&self) -> usize {
        self.paths.by_home.len()
    }

    /// Bytes of memory of what is remembered, at most.
    pub fn memory_bytes(&self) -> usize {
        self.tally.bytes
    }

    /// Forgets what was remembered first until the rest is within its bytes: an object leaves when it has left all
    /// maps, so all of them give one at a time.
    fn shrink(&mut self) {
        while self.tally.bytes > self.objects_max * OBJECT_BYTES {
            self.drop_oldest_id();
            self.paths.drop_oldest(&mut self.tally);
            self.elsewhere.drop_oldest(&mut self.tally);
        }
    }

    fn drop_oldest_id(&mut self) {
        if let Some(oldest) = self.ids.pop_front()
            && let Some(forgotten) = self.by_id.remove(&oldest)
        {
            forgotten.is_remembered.set(false);
            self.tally.leave(&forgotten);
        }
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The object at `path_key`, whose home half is `home`, as far as it is fresh, and when it was so.
    #[inline]
    pub(super) fn fresh(
        &self,
        home: u64,
        path_key: &str,
        freshness: Freshness,
        now: Nanos,
    ) -> Option<(&Rc<Known>, Nanos)> {
        self.paths.fresh(home, path_key, freshness, now)
    }

    /// The same for an object whose home is another shard.
    #[inline]
    pub(super) fn fresh_elsewhere(
        &self,
        home: u64,
        path_key: &str,
        freshness: Freshness,
        now: Nanos,
    ) -> Option<&Rc<Known>> {
        let found = self.elsewhere.fresh(home, path_key, freshness, now);
        found.map(|(known, _)| known)
    }

    /// Remembers what the home of an object said: it was so at `at`, and knew of all writes up to
    /// `last_write`. Said before a write that this shard was told of, it is not believed.
    pub(super) fn learn(&mut self, known: Rc<Known>, at: Nanos, last_write: u64) {
        if self.last_write <= last_write {
            let home = known.meta.id.home;
            let write = last_write;
            let seen = Seen::Object { known, at, write };
            self.elsewhere.note(home, seen, &mut self.tally);
            self.shrink();
        }
    }

    /// The last write that this shard was told of.
    pub(super) fn last_write(&self) -> u64 {
        self.last_write
    }

    pub(super) fn see(&mut self, known: Rc<Known>, at: Nanos, write: u64) {
        if write < self.last_mount_write {
            return;
        }
        let home = known.meta.id.home;
        let seen = Seen::Object { known, at, write };
        self.paths.note(home, seen, &mut self.tally);
        self.shrink();
    }

    /// Remembers an object by id, and the mount below which it appears now.
    pub fn know(&mut self, meta: Arc<ObjectMeta>, mount: MountId) -> Rc<Known> {
        if let Some(known) = self.by_id.get_mut(&meta.id) {
            if known.meta != meta {
                // The same bytes were written again with other headers: stores that name versions by
                // their bytes give them the same ETag.
                known.is_remembered.set(false);
                self.tally.leave(known);
                *known = Rc::new(Known::new(meta, mount));
                self.tally.enter(known);
            }
            known.mount.set(mount);
            let known = Rc::clone(known);
            self.shrink();
            return known;
        }
        let known = Rc::new(Known::new(meta, mount));
        self.by_id.insert(known.meta.id, Rc::clone(&known));
        self.tally.enter(&known);
        self.ids.push_back(known.meta.id);
        while self.ids.len() > self.objects_max {
            self.drop_oldest_id();
        }
        self.shrink();
        known
    }

    /// Forgets the path of an object whose version is gone.
    pub fn forget(&mut self, meta: &ObjectMeta) {
        self.paths.forget(meta, &mut self.tally);
        self.elsewhere.forget(meta, &mut self.tally);
    }

    /// Whether what was at this path is known to be gone, so that a record of it proves nothing.
    pub(super) fn is_forgotten(&self, path_key: &str) -> bool {
        let seen = self.paths.by_home.get(&home_of(path_key));
        seen.is_some_and(
            |seen| matches!(seen, Seen::Forgotten { path_key: gone, .. } if **gone == *path_key),
        )
    }

    /// Forgets what was at a path where there is nothing any more.
    pub(super) fn forget_path(&mut self, path_key: &str) {
        self.paths.forget_path(path_key, &mut self.tally);
        self.elsewhere.forget_path(path_key, &mut self.tally);
    }

    /// The object at `path_key` was written, by the write `number`: nothing that was learned of it before
    /// counts, nor does the answer to a question that is under way.
    pub fn written(&mut self, path_key: &str, number: u64) {
        assert!(
            number > self.last_write,
            "writes are told in their order: {number} after {}",
            self.last_write
        );
        self.last_write = number;
        let forgotten = Seen::Forgotten {
            path_key: path_key.into(),
            write: number,
        };
        self.paths
            .note(home_of(path_key), forgotten, &mut self.tally);
        self.elsewhere.forget_path(path_key, &mut self.tally);
        self.shrink();
        // Whoever asked goes on with the answer; nobody joins them, and it is not noted.
        self.describe_requests.detach(path_key);
    }

    /// Objects whose path keys begin with `prefix` may have been written, by the write `number`: the answers
    /// to questions that are under way do not count. [`Metadata::mount_written`] does the rest.
    pub fn begin_mount_written(&mut self, prefix: &str, number: u64) {
        assert!(
            number > self.last_write,
            "writes are told in their order: {number} after {}",
            self.last_write
        );
        (self.last_write, self.last_mount_write) = (number, number);
        self.describe_requests.detach_all(prefix);
    }

    /// Forgets part of what was learned below `prefix` after the write `since` and before `number`: of the paths
    /// that were noted before the one in place `end`, so that a bounded number is looked at. Gives the path
    /// keys whose home this shard is, and the next `end`; zero when all were looked at.
    pub fn mount_written(
        &mut self,
        prefix: &str,
        (since, number): (u64, u64),
        end: usize,
    ) -> (Vec<Box<str>>, usize) {
        let places = self.paths.homes.len().max(self.elsewhere.homes.len());
        let end = end.min(places);
        // From the newest to the oldest: those that leave meanwhile leave at the other end.
        let places = end.saturating_sub(FORGOTTEN_AT_ONCE)..end;
        let next = places.start;
        let gone =
            self.paths
                .forget_since(prefix, (since, number), places.clone(), &mut self.tally);
        self.elsewhere
            .forget_since(prefix, (since, number), places, &mut self.tally);
        (gone, next)
    }

    /// The object with id `object`, if it is remembered.
    pub fn of_id(&self, object: ObjectId) -> Option<Arc<ObjectMeta>> {
        self.by_id.get(&object).map(|known| Arc::clone(&known.meta))
    }

    /// As [`Metadata::of_id`], with the mount.
    #[inline]
    pub fn known_by_id(&self, object: ObjectId) -> Option<Rc<Known>> {
        self.by_id.get(&object).cloned()
    }

    /// Ids of all objects that are remembered.
    pub fn ids(&self) -> Vec<ObjectId> {
        self.ids.iter().copied().collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::shard) fn object(path_key: &str, version: &str) -> Arc<ObjectMeta> {
        Arc::new(ObjectMeta {
            id: ObjectId::new(path_key, version, 1, 1 << 20),
            path_key: path_key.to_owned(),
            uri: "s3://lake/a".to_owned(),
            version: version.to_owned(),
            length: 1,
            last_modified_ms: 0,
            block_bytes: 1 << 20,
            content_type: String::new(),
            headers: String::new(),
        })
    }

    #[test]
    fn what_was_forgotten_is_not_fresh_until_it_is_seen_again() {
        let mut metadata = Metadata::new(2);
        let fresh = |metadata: &Metadata| {
            let found = metadata.fresh(home_of("a"), "a", Freshness::Immutable, Nanos(0));
            found.is_some()
        };
        let known = |key, version| Rc::new(Known::new(object(key, version), MountId(0)));
        for _ in 0..10 {
            metadata.see(known("a", "1"), Nanos(0), 0);
            assert!(fresh(&metadata));
            metadata.forget(&object("a", "2"));
            assert!(fresh(&metadata));
            metadata.forget_path("a");
            assert!(!fresh(&metadata));
        }
        metadata.see(known("b", "1"), Nanos(0), 0);
        metadata.see(known("c", "1"), Nanos(0), 0);
        assert_eq!((metadata.len(), metadata.paths.homes.len()), (2, 2));
        metadata.written("d", 1);
        assert!(metadata.is_forgotten("d"), "though it was never seen");
        assert_eq!((metadata.len(), metadata.paths.homes.len()), (2, 2));
    }

    #[test]
    fn what_the_home_said_counts_until_a_write_that_it_did_not_know_of() {
        let mut metadata = Metadata::new(8);
        let known = |key, version| Rc::new(Known::new(object(key, version), MountId(0)));
        let version = |metadata: &Metadata, key: &str| {
            let immutable = Freshness::Immutable;
            let found = metadata.fresh_elsewhere(home_of(key), key, immutable, Nanos(0));
            found.map(|known| known.meta.version.clone())
        };
        metadata.learn(known("a", "1"), Nanos(0), 0);
        assert_eq!(version(&metadata, "a").as_deref(), Some("1"));
        assert!(metadata.is_empty(), "it is not home to it");
        metadata.written("a", 5);
        assert_eq!(version(&metadata, "a"), None);
        // Said by a home that was told later than this shard, of whichever object.
        metadata.learn(known("a", "1"), Nanos(0), 4);
        metadata.learn(known("b", "1"), Nanos(0), 4);
        assert_eq!(
            (version(&metadata, "a"), version(&metadata, "b")),
            (None, None)
        );
        metadata.learn(known("a", "2"), Nanos(0), 5);
        metadata.learn(known("b", "1"), Nanos(0), 9);
        assert_eq!(version(&metadata, "a").as_deref(), Some("2"));
        metadata.forget(&object("a", "1"));
        assert_eq!(version(&metadata, "a").as_deref(), Some("2"));
        metadata.forget(&object("a", "2"));
        assert_eq!(version(&metadata, "a"), None);
        // At most a quarter of those whose home this shard may be.
        metadata.learn(known("c", "1"), Nanos(0), 9);
        metadata.learn(known("d", "1"), Nanos(0), 9);
        assert_eq!(version(&metadata, "b"), None);
        assert_eq!(version(&metadata, "d").as_deref(), Some("1"));
    }

    #[test]
    fn what_the_home_said_is_as_old_as_it_was_there() {
        let mut metadata = Metadata::new(8);
        let known = Rc::new(Known::new(object("a", "1"), MountId(0)));
        metadata.learn(known, Nanos(100), 0);
        let max_age = Freshness::MaxAge(std::time::Duration::from_nanos(50));
        let is_fresh = |freshness, now| {
            let home = home_of("a");
            metadata
                .fresh_elsewhere(home, "a", freshness, Nanos(now))
                .is_some()
        };
        assert!(is_fresh(max_age, 150) && !is_fresh(max_age, 151));
        assert!(!is_fresh(Freshness::AlwaysCheck, 100));
    }

    #[test]
    fn an_answer_that_waited_while_the_object_was_written_is_not_remembered() {
        let mut metadata = Metadata::new(8);
        let known = |version| Rc::new(Known::new(object("a", version), MountId(0)));
        let version = |metadata: &Metadata| {
            let found = metadata.fresh(home_of("a"), "a", Freshness::Immutable, Nanos(9));
            found.map(|(known, _)| known.meta.version.clone())
        };
        metadata.written("a", 7);
        // Asked before that write, taken up after it.
        metadata.see(known("1"), Nanos(1), 6);
        assert_eq!(version(&metadata), None);
        assert!(metadata.is_forgotten("a"));
        metadata.see(known("2"), Nanos(2), 7);
        assert_eq!(version(&metadata).as_deref(), Some("2"));
        metadata.see(known("1"), Nanos(1), 6);
        assert_eq!(version(&metadata).as_deref(), Some("2"));
        // Nor when a reader found meanwhile that its version is gone.
        metadata.forget(&object("a", "2"));
        metadata.see(known("1"), Nanos(1), 6);
        assert_eq!(version(&metadata), None);
    }

    #[test]
    fn a_write_of_a_mount_forgets_what_was_learned_since_and_nothing_else() {
        let mut metadata = Metadata::new(1 << 16);
        let known = |key: &str| Rc::new(Known::new(object(key, "1"), MountId(0)));
        let fresh = |metadata: &Metadata, key: &str| {
            let found = metadata.fresh(home_of(key), key, Freshness::Immutable, Nanos(9));
            found.is_some()
        };
        let keys: Vec<String> = (0..5000)
            .map(|number| format!("s3://lake/{number}"))
            .collect();
        metadata.see(known("s3://lake/before"), Nanos(0), 2);
        metadata.written("s3://lake/other-write", 3);
        for key in &keys {
            metadata.see(known(key), Nanos(0), 3);
        }
        metadata.see(known("s3://lakes/other"), Nanos(0), 3);
        metadata.learn(known("s3://lake/elsewhere"), Nanos(0), 3);
        metadata.begin_mount_written("s3://lake/", 4);
        // Asked before, answered afterwards.
        metadata.see(known("s3://lake/late"), Nanos(0), 3);
        assert!(!fresh(&metadata, "s3://lake/late"));
        let (mut gone, mut end, mut parts) = (Vec::new(), usize::MAX, 0);
        while end > 0 {
            let (some, next) = metadata.mount_written("s3://lake/", (3, 4), end);
            gone.extend(some);
            end = next;
            parts += 1;
            // Noted meanwhile, and asked after the write.
            metadata.see(known(&format!("s3://lake/new-{parts}")), Nanos(1), 4);
        }
        assert!(parts > 4, "in parts");
        assert_eq!(gone.len(), keys.len());
        assert!(keys.iter().all(|key| !fresh(&metadata, key)));
        assert!(keys.iter().all(|key| metadata.is_forgotten(key)));
        assert!(fresh(&metadata, "s3://lake/before") && fresh(&metadata, "s3://lakes/other"));
        assert!(fresh(&metadata, "s3://lake/new-1"));
        let elsewhere = home_of("s3://lake/elsewhere");
        let found = metadata.fresh_elsewhere(
            elsewhere,
            "s3://lake/elsewhere",
            Freshness::Immutable,
            Nanos(9),
        );
        assert!(found.is_none());
    }

    #[test]
    fn the_same_bytes_with_other_headers_are_known_with_those() {
        let mut metadata = Metadata::new(8);
        let before = metadata.know(object("a", "1"), MountId(0));
        let mut other = ObjectMeta::clone(&object("a", "1"));
        other.content_type = "text/csv".to_owned();
        let after = metadata.know(Arc::new(other), MountId(0));
        assert_eq!(after.meta.content_type, "text/csv");
        assert!(after.is_remembered.get() && !before.is_remembered.get());
        let again = metadata.know(Arc::clone(&after.meta), MountId(0));
        assert!(Rc::ptr_eq(&after, &again));
        assert_eq!(metadata.ids().len(), 1);
    }

    #[test]
    fn what_is_remembered_stays_within_its_bytes_whatever_its_names_are() {
        let long = |number: usize| {
            let mut meta = ObjectMeta::clone(&object(&format!("{number:02000}"), "1"));
            meta.uri = "u".repeat(2_000);
            meta.headers = "x-amz-meta-a:b\n".repeat(200);
            Arc::new(meta)
        };
        let objects_max = 256;
        let budget = objects_max * OBJECT_BYTES;
        let mut metadata = Metadata::new(objects_max);
        for number in 0..2 * objects_max {
            let meta = long(number);
            let known = metadata.know(Arc::clone(&meta), MountId(0));
            match number % 3 {
                0 => metadata.see(known, Nanos(0), 0),
                1 => metadata.learn(known, Nanos(0), u64::MAX),
                _ => metadata.written(&meta.path_key, number as u64 + 1),
            }
            assert!(metadata.memory_bytes() <= budget, "after {number}");
        }
        let known = metadata.known_by_id(long(2 * objects_max - 1).id);
        assert!(known.is_some_and(|known| known.is_remembered.get()));
        // What is counted is what is there.
        let counted: usize = metadata
            .by_id
            .values()
            .map(|known| known.memory_bytes())
            .sum();
        assert!(counted <= metadata.memory_bytes() && metadata.by_id.len() > 16);
        assert!(metadata.memory_bytes() > budget / 2, "the budget is used");
        // Short names: as many as may be.
        for number in 0..2 * objects_max {
            let known = metadata.know(object(&format!("s3://lake/{number}"), "1"), MountId(0));
            metadata.see(known, Nanos(0), 0);
        }
        assert_eq!(
            (metadata.len(), metadata.by_id.len()),
            (objects_max, objects_max)
        );
        let written = 2 * objects_max as u64 + 1;
        for number in 0..objects_max {
            metadata.written(&format!("s3://lake/{number}"), written + number as u64);
        }
        while !metadata.ids.is_empty() || !metadata.paths.homes.is_empty() {
            metadata.drop_oldest_id();
            metadata.paths.drop_oldest(&mut metadata.tally);
            metadata.elsewhere.drop_oldest(&mut metadata.tally);
        }
        let elsewhere = metadata.elsewhere.homes.len();
        (0..elsewhere).for_each(|_| metadata.elsewhere.drop_oldest(&mut metadata.tally));
        assert_eq!(
            metadata.memory_bytes(),
            0,
            "nothing is left and nothing counts"
        );
    }

    #[test]
    fn a_path_key_is_not_taken_for_another_with_the_same_hash() {
        let mut metadata = Metadata::new(2);
        metadata.see(
            Rc::new(Known::new(object("a", "1"), MountId(0))),
            Nanos(0),
            0,
        );
        let home = home_of("a");
        let found = metadata.fresh(home, "b", Freshness::Immutable, Nanos(0));
        assert!(found.is_none());
    }
}
