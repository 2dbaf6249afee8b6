//! The fetch runtime against real things: files on a real file system, and stores behind real
//! sockets that answer well, badly or not at all.

mod files;
mod harness;
