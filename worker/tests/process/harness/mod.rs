//! A real worker, its surroundings, and clients of it.

pub mod bed;
pub mod content;
pub mod control;
pub mod http;
pub mod lane;
pub mod process;

pub use bed::{BLOCK, Bed, Mount};
pub use content::{Random, assert_same, content};
pub use control::bootstrap_message;
pub use http::{Http, HttpAnswer};
pub use lane::{Answer, Lane, owner};
pub use process::{HANG, Process, counter, eventually};
