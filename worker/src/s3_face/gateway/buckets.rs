//! Buckets themselves: which there are, and what clients ask of them before anything else.

use std::sync::{Arc, PoisonError};

use corelane_s3::credentials::Verb;
use corelane_s3::xml::list_buckets::ListedBucket;
use corelane_s3::xml::{self, Owner};
use corelane_s3::{Error, ErrorCode};

use super::super::buckets::{bucket_name, may};
use super::failure::error_of;
use super::{Request, Response};
use crate::mount::Mount;

/// Who owns everything here, as far as clients are told.
pub(super) const OWNER: Owner<'static> = Owner {
    id: "corelane",
    display_name: "corelane",
};

/// The day that buckets are said to be made on: mounts have none, and clients want one.
const CREATED_MS: u64 = 1_767_225_600_000;

impl Request {
    pub(super) fn list_buckets(&self) -> Response {
        let mounts = Arc::clone(
            &self
                .inner
                .mounts
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let verbs = [Verb::Read, Verb::List, Verb::Write, Verb::Delete];
        let is_seen = |mount: &Mount| verbs.iter().any(|verb| may(&self.caller, *verb, mount));
        let mut names: Vec<&str> = mounts
            .iter()
            .filter(|mount| is_seen(mount))
            .filter_map(|mount| bucket_name(mount))
            .collect();
        names.sort_unstable();
        let buckets: Vec<ListedBucket<'_>> = names
            .into_iter()
            .map(|name| ListedBucket {
                name,
                creation_ms: CREATED_MS,
            })
            .collect();
        let mut body = Vec::new();
        xml::list_buckets::write(&mut body, &OWNER, &buckets);
        Response::xml(200, body, None)
    }

    pub(super) fn head_bucket(&self) -> Response {
        Response::empty(200).with("x-amz-bucket-region", self.inner.region.clone())
    }

    pub(super) fn location(&self) -> Response {
        let mut body = Vec::new();
        xml::location::write(&mut body, &self.inner.region);
        Response::xml(200, body, None)
    }

    pub(super) fn versioning(&self) -> Response {
        let mut body = Vec::new();
        xml::bucket::write_versioning(&mut body);
        Response::xml(200, body, None)
    }

    pub(super) fn acl(&self) -> Response {
        let mut body = Vec::new();
        xml::bucket::write_acl(&mut body, &OWNER);
        Response::xml(200, body, None)
    }

    /// Makes the bucket at the origin where the mount is there and its place is not.
    pub(super) async fn create_bucket(
        &mut self,
        mount: Option<Arc<Mount>>,
    ) -> Result<Response, Error> {
        let Some(mount) = mount else {
            return Err(Error::new(
                ErrorCode::NotImplemented,
                format!(
                    "a bucket here is a mount right below /; `corelane mount /{} URI` makes this one",
                    self.bucket
                ),
            ));
        };
        match self.inner.origins.create_bucket(&mount).await {
            Ok(()) => Ok(Response::empty(200).with("Location", format!("/{}", self.bucket))),
            Err(failure) => Err(error_of(&failure)),
        }
    }
}
