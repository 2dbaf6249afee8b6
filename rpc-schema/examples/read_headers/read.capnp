@0xd2b4b30a6a8b1a57;
# READ and its answer as they would be in the schema: what the fixed layouts are measured against.

struct Read {
  requestId @0 :UInt64;
  home @1 :UInt64;
  version @2 :UInt64;
  offset @3 :UInt64;
  length @4 :UInt32;
  flags @5 :UInt32;
}

struct ReadAnswer {
  requestId @0 :UInt64;
  source @1 :UInt8;
  checksumMode @2 :UInt8;
  shardHint @3 :UInt16;
  checksums @4 :List(UInt32);
}
