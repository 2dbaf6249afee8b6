//! Which of S3's operations a request is.
//!
//! The invariant: a request is routed by everything it says, or refused. A sub-resource or header
//! that would change what the answer means and is not served here ends in `NotImplemented`, never
//! in the plain operation: `DELETE /bucket/key?tagging` must not delete the object. What only
//! decorates a request (`x-id`, `amz-sdk-*`, unknown headers) is ignored, as S3 does.
//!
//! Reads of objects stay borrowed and allocate nothing; the rest is owned and boxed.

mod list;
mod object_headers;
mod read;
mod write;

use crate::credentials::Verb;
use crate::error::{Error, ErrorCode};
use crate::head::Head;
use crate::target::Target;

pub use list::{ListMultipartUploads, ListObjects, ListParts, ListVersion};
pub use object_headers::ObjectHeaders;
pub use read::{Read, ResponseOverrides};
pub use write::{
    CompleteMultipartUpload, CopyObject, CopySource, CreateMultipartUpload, PutObject, UploadPart,
    UploadPartCopy,
};

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routed<'a> {
    /// GetObject or HeadObject.
    Read(Read<'a>),
    /// Anything else.
    Operation(Box<Operation>),
}

impl Routed<'_> {
    /// S3's name of the operation.
    pub fn name(&self) -> &'static str {
        match self {
            Routed::Read(read) if read.is_head => "HeadObject",
            Routed::Read(_) => "GetObject",
            Routed::Operation(operation) => operation.name(),
        }
    }

    /// What a key must be allowed to do on the target's bucket.
    pub fn verb(&self) -> Verb {
        match self {
            Routed::Read(_) => Verb::Read,
            Routed::Operation(operation) => operation.verb(),
        }
    }
}

/// An operation that is not a read of an object. Bucket and key are the target's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are S3's, and S3 documents them")]
pub enum Operation {
    ListBuckets,
    HeadBucket,
    GetBucketLocation,
    /// Answered with an empty configuration: nothing here keeps versions.
    GetBucketVersioning,
    /// Answered with full control for the owner: rules are in the configuration.
    GetBucketAcl,
    /// Its body is optional.
    CreateBucket,
    ListObjects(ListObjects),
    ListMultipartUploads(ListMultipartUploads),
    PutObject(PutObject),
    /// The caller must be allowed to read the source, too.
    CopyObject(CopyObject),
    CreateMultipartUpload(CreateMultipartUpload),
    UploadPart(UploadPart),
    /// The caller must be allowed to read the source, too.
    UploadPartCopy(UploadPartCopy),
    CompleteMultipartUpload(CompleteMultipartUpload),
    AbortMultipartUpload {
        upload_id: String,
    },
    ListParts(ListParts),
    DeleteObject,
    DeleteObjects,
}

impl Operation {
    /// S3's name of the operation.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::ListBuckets => "ListBuckets",
            Operation::HeadBucket => "HeadBucket",
            Operation::GetBucketLocation => "GetBucketLocation",
            Operation::GetBucketVersioning => "GetBucketVersioning",
            Operation::GetBucketAcl => "GetBucketAcl",
            Operation::CreateBucket => "CreateBucket",
            Operation::ListObjects(list) => match list.version {
                ListVersion::V1 => "ListObjects",
                ListVersion::V2 => "ListObjectsV2",
            },
            Operation::ListMultipartUploads(_) => "ListMultipartUploads",
            Operation::PutObject(_) => "PutObject",
            Operation::CopyObject(_) => "CopyObject",
            Operation::CreateMultipartUpload(_) => "CreateMultipartUpload",
            Operation::UploadPart(_) => "UploadPart",
            Operation::UploadPartCopy(_) => "UploadPartCopy",
            Operation::CompleteMultipartUpload(_) => "CompleteMultipartUpload",
            Operation::AbortMultipartUpload { .. } => "AbortMultipartUpload",
            Operation::ListParts(_) => "ListParts",
            Operation::DeleteObject => "DeleteObject",
            Operation::DeleteObjects => "DeleteObjects",
        }
    }

    /// What a key must be allowed to do on the target's bucket.
    pub fn verb(&self) -> Verb {
        match self {
            Operation::ListBuckets
            | Operation::HeadBucket
            | Operation::GetBucketLocation
            | Operation::GetBucketVersioning
            | Operation::GetBucketAcl
            | Operation::ListObjects(_)
            | Operation::ListMultipartUploads(_)
            | Operation::ListParts(_) => Verb::List,
            Operation::CreateBucket
            | Operation::PutObject(_)
            | Operation::CopyObject(_)
            | Operation::CreateMultipartUpload(_)
            | Operation::UploadPart(_)
            | Operation::UploadPartCopy(_)
            | Operation::CompleteMultipartUpload(_)
            | Operation::AbortMultipartUpload { .. } => Verb::Write,
            Operation::DeleteObject | Operation::DeleteObjects => Verb::Delete,
        }
    }
}

/// Finds the operation of a request.
///
/// # Errors
/// If it is none that is served here, or its parameters are not what S3 allows.
pub fn route<'a>(head: &Head<'a>, target: &Target<'a>) -> Result<Routed<'a>, Error> {
    if !target.query.is_empty() {
        refuse_foreign_sub_resources(head, target)?;
    }
    let operation = match (target.bucket.is_empty(), target.key.is_empty()) {
        (false, false) => match head.method {
            "GET" if target.query.has("uploadId") => Operation::ListParts(ListParts::of(target)?),
            "GET" | "HEAD" => return Read::of(head, target).map(Routed::Read),
            method => write::on_object(method, head, target)?,
        },
        (false, true) => on_bucket(head, target)?,
        (true, _) => match head.method {
            "GET" => Operation::ListBuckets,
            method => return Err(method_not_allowed(method, "the service")),
        },
    };
    Ok(Routed::Operation(Box::new(operation)))
}

fn on_bucket(head: &Head<'_>, target: &Target<'_>) -> Result<Operation, Error> {
    let query = &target.query;
    match head.method {
        "HEAD" => Ok(Operation::HeadBucket),
        "GET" if query.has("location") => Ok(Operation::GetBucketLocation),
        "GET" if query.has("versioning") => Ok(Operation::GetBucketVersioning),
        "GET" if query.has("acl") => Ok(Operation::GetBucketAcl),
        "GET" if query.has("uploads") => {
            ListMultipartUploads::of(target).map(Operation::ListMultipartUploads)
        }
        "GET" => ListObjects::of(target).map(Operation::ListObjects),
        // Configurations of a bucket are the origin's business.
        method
            if ["location", "versioning", "acl", "uploads"]
                .iter()
                .any(|name| query.has(name)) =>
        {
            Err(not_implemented(format_args!(
                "{method} on a sub-resource of a bucket is not served; set it at the origin"
            )))
        }
        "PUT" => Ok(Operation::CreateBucket),
        "POST" if query.has("delete") => Ok(Operation::DeleteObjects),
        "POST" => Err(not_implemented(
            "uploads by HTML form (POST on a bucket) are not served; use PutObject",
        )),
        "DELETE" => Err(not_implemented(
            "DeleteBucket is not served: a bucket is a mount of the configuration; remove it there",
        )),
        method => Err(method_not_allowed(method, "a bucket")),
    }
}

/// Sub-resources that S3 has and that are not served here, whatever the method.
const FOREIGN_SUB_RESOURCES: [&str; 28] = [
    "accelerate",
    "analytics",
    "append",
    "attributes",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "logging",
    "metadataConfiguration",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "renameObject",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "session",
    "tagging",
];

/// The same, of objects only: buckets have those that are served.
const FOREIGN_ON_OBJECTS: [&str; 2] = ["acl", "torrent"];

/// The same, of buckets only.
const FOREIGN_ON_BUCKETS: [&str; 2] = ["versions", "website"];

fn refuse_foreign_sub_resources(head: &Head<'_>, target: &Target<'_>) -> Result<(), Error> {
    let also: &[&str] = if target.key.is_empty() {
        &FOREIGN_ON_BUCKETS
    } else {
        &FOREIGN_ON_OBJECTS
    };
    for (name, _) in target.query.iter() {
        if FOREIGN_SUB_RESOURCES.contains(&name.as_ref()) || also.contains(&name.as_ref()) {
            return Err(not_implemented(format_args!(
                "{} on the sub-resource `{name}` is not served: the worker holds objects, not their configuration; ask the origin",
                head.method
            )));
        }
    }
    Ok(())
}

fn not_implemented(message: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::NotImplemented, message)
}

fn invalid(message: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}

fn method_not_allowed(method: &str, on: &str) -> Error {
    Error::new(
        ErrorCode::MethodNotAllowed,
        format_args!("{method} is not allowed on {on}"),
    )
}

/// A number in a query within its bounds.
fn number(
    target: &Target<'_>,
    name: &str,
    allowed: std::ops::RangeInclusive<u32>,
) -> Result<Option<u32>, Error> {
    let Some(value) = target.query.get(name) else {
        return Ok(None);
    };
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(number) if digits && allowed.contains(&number) => Ok(Some(number)),
        _ => Err(invalid(format_args!(
            "the parameter `{name}` is not a number from {} to {}",
            allowed.start(),
            allowed.end()
        ))),
    }
}

/// An upload id: opaque text of the origin, which goes back there in a query.
fn upload_id(target: &Target<'_>) -> Result<String, Error> {
    match target.query.get("uploadId") {
        Some(id)
            if !id.is_empty()
                && id.len() <= UPLOAD_ID_BYTES_MAX
                && !id.contains(char::is_control) =>
        {
            Ok(id.into_owned())
        }
        _ => Err(Error::new(
            ErrorCode::NoSuchUpload,
            "there is no upload of that id; take it from the answer to CreateMultipartUpload",
        )),
    }
}

/// Longest upload id taken; S3's have below 200 bytes.
const UPLOAD_ID_BYTES_MAX: usize = 2_048;

#[cfg(test)]
mod tests;
