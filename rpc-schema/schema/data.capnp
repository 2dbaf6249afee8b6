@0xb3974a0af6589e12;
# The data plane: headers of the frames on a lane, one shard's connection. Reads and their answers
# have fixed-layout headers (docs/protocol.md); everything else is a `Header`, a single-segment
# message behind the 16-byte prefix.

struct ObjectId {
  # Names one version of one object.
  home @0 :UInt64;     # hash of the path key: selects the home shard and, with the stripe, the partition
  version @1 :UInt64;  # hash of path key, version and block size
}

struct Header {
  requestId @0 :UInt64;  # chosen by the client; the answer repeats it

  union {
    hello @1 :Hello;              # client: first frame on every lane
    helloAnswer @2 :HelloAnswer;  # worker
    open @3 :Open;                # client
    openAnswer @4 :OpenAnswer;    # worker
    error @5 :Error;              # worker: answer to any request; requestId 0 ends the connection
    goAway @6 :Void;              # worker: no new requests please, those under way are answered
  }
}

struct Hello {
  token @0 :Text;       # empty where the worker asks for none
  clientName @1 :Text;  # for logs and /slow; at most 64 bytes
}

struct HelloAnswer {
  workerId @0 :Text;                 # stable over restarts
  epoch @1 :UInt64;                  # grows with every start of the worker
  shard @2 :UInt16;                  # the shard behind this lane
  shardPorts @3 :List(UInt16);       # the data port of each shard, on the address that was dialled
  partitionShards @4 :List(UInt16);  # owner of each partition; the length is a power of two
  requestsInFlightMax @5 :UInt32;    # credits: requests that may be unanswered on this lane
  bytesInFlightMax @6 :UInt64;       # credits: sum of their lengths
  readBytesMax @7 :UInt32;           # longest single read
  stripeBytes @8 :UInt64;            # a read never crosses a multiple of this
}

struct Open {
  path @0 :Text;  # as mounted, such as /data/train/0001.tar
}

struct OpenAnswer {
  object @0 :ObjectId;
  length @1 :UInt64;           # bytes
  blockBytes @2 :UInt32;
  version @3 :Text;            # the under-store's ETag, or size-mtime-inode-ctime for files
  lastModifiedMs @4 :UInt64;   # since the Unix epoch; 0 where unknown
  contentType @5 :Text;        # empty where unknown
}

struct Error {
  code @0 :Code;
  message @1 :Text;         # one sentence: what, where, what to do
  retryAfterMs @2 :UInt32;  # with busy: when to try again

  enum Code {
    internal @0;         # a bug: the message helps us find it
    busy @1;             # over a limit; retry
    notFound @2;         # no such object
    denied @3;           # the token may not read this mount
    unauthenticated @4;  # hello is missing, or its token unknown
    versionChanged @5;   # the object has a new version: open again
    objectUnknown @6;    # this worker does not know the id: open again
    underStore @7;       # the under-store failed; the message names object and cause
    invalid @8;          # the request breaks the protocol or the object's bounds
    draining @9;         # the worker takes no new work
    noMount @10;         # no mount covers the path
  }
}
