//! The whole worker as an operator runs it: the real binary on a real device file in front of a
//! real folder, with real clients over TCP.
//!
//! No test here is decided by timing: deadlines only tell a hang from a slow machine.

mod crash;
mod crowd;
mod damage;
mod devices;
mod end_to_end;
mod fleet;
#[cfg(feature = "glommio")]
mod glommio;
mod hangs;
mod harness;
mod hostile;
mod key_indexes;
mod listeners;
mod lookup_table;
mod lookups;
mod lookups_hostile;
mod lookups_http;
mod memory;
mod overwrites;
mod restarts;
mod room;
mod signals;
mod under_stores;
