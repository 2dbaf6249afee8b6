//! The store on simulated devices: what it promises about reading back, crashes, damage and room.

mod absent;
mod bed;
mod claims;
mod corpus;
mod crash_points;
mod damage;
mod flushes;
mod hangs;
mod marks;
mod offline;
mod oracle;
mod room;
mod round_trip;
mod shards;
mod speed;
