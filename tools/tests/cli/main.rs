//! The command line as scripts see it: what it prints, and what it ends with.

mod devices;
mod harness;
mod lookup;
mod usage;
mod worker;
