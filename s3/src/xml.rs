//! The XML of S3: answers are written, three kinds of request documents are read.
//!
//! One file a document. The invariant of the writers: whatever a name holds, the document is well
//! formed and says nothing else; every string passes through one function. The
//! invariant of the readers: nothing grows with what a client sends beyond the limits that they
//! state, and there are no entities to expand. Nothing here knows HTTP.

pub mod bucket;
pub mod complete;
pub mod copy;
pub mod create_bucket;
pub mod delete;
pub mod error;
pub mod list_buckets;
pub mod list_objects;
pub mod list_parts;
pub mod list_uploads;
pub mod location;
pub mod multipart;
mod read;
mod write;

pub use write::Owner;

/// The namespace of every answer but errors, as Amazon S3 writes it.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// The type of every document here, for `Content-Type`.
pub const CONTENT_TYPE: &str = "application/xml";
