@0xcf6e01544165b57c;
# The control plane: everything that is not a hot read. Served with capnp-rpc on the control thread.
# Sizes are bytes, times milliseconds unless a name says otherwise.

interface Gate {
  # The bootstrap capability. Nothing is reachable without passing it.
  enter @0 (token :Text) -> (worker :Worker);
}

interface Worker {
  stats @0 () -> (stats :Stats);
  mounts @1 () -> (mounts :List(Mount));
  mount @2 (mount :Mount) -> ();
  unmount @3 (path :Text) -> ();
  stat @4 (path :Text) -> (object :ObjectInfo);
  list @5 (path :Text, recursive :Bool, cachedOnly :Bool, limit :UInt32, after :Text)
      -> (entries :List(Entry), more :Bool);
  # Entries in byte order of their paths, those after `after`; at most `limit` (0: the server's limit).
  load @6 (path :Text, recursive :Bool) -> (job :UInt64);
  free @7 (path :Text, recursive :Bool) -> (blocks :UInt64, bytes :UInt64);
  pin @8 (path :Text, recursive :Bool, pinned :Bool) -> (objects :UInt64);
  verify @9 (path :Text) -> (job :UInt64);
  # Reads what the device holds of everything below the path, checks it, and drops what is wrong.
  progress @10 (job :UInt64) -> (progress :Progress);
  cancel @11 (job :UInt64) -> ();
  read @12 (path :Text, offset :UInt64, length :UInt32) -> (data :Data, version :Text);
  # For simple clients; at most 1 MiB a call.
  jobs @13 () -> (jobs :List(Progress));
}

struct Mount {
  path @0 :Text;            # prefix, such as /data
  uri @1 :Text;             # s3://bucket/prefix, file:///dir, gs://, az://, http://
  blockBytes @2 :UInt32;    # 0: the worker's default
  freshness @3 :Text;       # immutable | always-check | max-age=SECONDS
  admission @4 :Text;       # always | second-touch
  readers @5 :List(Text);   # names of tokens that may read; empty: everyone who may connect
  options @6 :List(Option); # under-store options, such as endpoint and region; secrets are never returned
  keyIndexes @7 :List(Text); # columns of Parquet objects that key indexes are built of at once

  struct Option {
    key @0 :Text;
    value @1 :Text;
  }
}

struct ObjectInfo {
  path @0 :Text;
  uri @1 :Text;
  length @2 :UInt64;
  version @3 :Text;
  lastModifiedMs @4 :UInt64;
  blockBytes @5 :UInt32;
  blocks @6 :UInt64;         # blocks of the object
  blocksCached @7 :UInt64;   # of them on the device
  bytesCached @8 :UInt64;
  pinned @9 :Bool;
  homeShard @10 :UInt16;
}

struct Entry {
  path @0 :Text;
  isDirectory @1 :Bool;
  length @2 :UInt64;
  lastModifiedMs @3 :UInt64;
  version @4 :Text;
  bytesCached @5 :UInt64;
}

struct Progress {
  job @0 :UInt64;
  kind @1 :Text;             # load | verify
  path @2 :Text;
  state @3 :State;
  objectsDone @4 :UInt64;
  objectsTotal @5 :UInt64;   # grows while the listing is under way
  bytesDone @6 :UInt64;
  bytesTotal @7 :UInt64;
  bytesSkipped @8 :UInt64;   # were cached already
  failures @9 :UInt64;
  firstFailure @10 :Text;
  blocksWrong @11 :UInt64;   # verify: blocks that failed their checksum and were dropped
  bytesNotKept @12 :UInt64;  # load: fetched, but the device had no room for them or fell behind

  enum State {
    running @0;
    done @1;
    failed @2;
    cancelled @3;
  }
}

struct Stats {
  workerId @0 :Text;
  epoch @1 :UInt64;
  version @2 :Text;
  uptimeMs @3 :UInt64;
  shards @4 :List(ShardStats);
  devices @5 :List(DeviceStats);
  mounts @6 :UInt32;
}

struct ShardStats {
  shard @0 :UInt16;
  counters @1 :List(Counter);  # every counter of /metrics, by name
  struct Counter {
    name @0 :Text;
    value @1 :UInt64;
  }
}

struct DeviceStats {
  path @0 :Text;
  uuid @1 :Text;
  healthy @2 :Bool;
  bytes @3 :UInt64;
  bytesUsed @4 :UInt64;
  bytesWritten @5 :UInt64;   # since format, for wear
  regions @6 :UInt32;
  regionsFree @7 :UInt32;
  reason @8 :Text;           # why it is not used now: taken out, or it does not answer; empty while it is
}
