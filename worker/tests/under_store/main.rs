//! The fetch runtime against real things: files on a real file system, and stores behind real
//! sockets that answer well, badly or not at all.

mod changes;
mod files;
mod floods;
mod hangs;
mod harness;
mod identities;
mod large_directories;
mod listing_model;
mod listings;
mod origin;
mod origin_faults;
mod origins;
mod redirects;
mod s3_server;
mod stores;
