//! The store on simulated devices: what it promises about reading back, crashes, damage and room.

mod bed;
mod claims;
mod corpus;
mod damage;
mod hangs;
mod marks;
mod offline;
mod oracle;
mod room;
mod round_trip;
mod shards;
mod speed;
