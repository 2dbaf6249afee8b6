//! One request: who sends it, what it is, and whether it can be answered at once.
//!
//! The invariant: nothing is looked up for a caller that may not do it, and a request whose body is not
//! read is the last of its connection.

use std::rc::Rc;
use std::sync::Arc;

use corelane_io::{FrameSlice, Io, Payload, Stream};
use corelane_s3::credentials::Verb;
use corelane_s3::head::{Framing, Head};
use corelane_s3::operation::{Operation, Read, Routed, route};
use corelane_s3::payload::PayloadSpec;
use corelane_s3::sigv4::{Caller, PayloadMode};
use corelane_s3::target::Target;
use corelane_s3::{Error, ErrorCode};

use super::Face;
use super::access_log::{Entry, operation_name};
use super::buckets::{Bucket, may};
use super::call::{Call, Task, denied};
use super::connection::{Connection, Next, has_body};
use super::get::{
    FIRST_PART, Get, Outcome, OwnedConditions, WINDOW_BYTES_MAX, lines_of, outcome_of, status_of,
};
use crate::host::is_own;
use crate::shard::known::Known;
use crate::shard::object_read::read_of;
use crate::under_store::UnderStore;
use corelane_rpc_schema::Stripe;

impl<I: Io, U: UnderStore> Connection<I, U> {
    /// Serves one request; `None` where its answer is batched.
    pub(super) fn serve_request(&mut self, head: &Head<'_>) -> Option<Next> {
        self.begin(head.method);
        self.closes = !head.keeps_alive || self.watched.is_going();
        let served = self.route_request(head);
        match served {
            Ok(None) if self.closes => Some(Next::Close),
            Ok(next) => next,
            Err(error) => {
                // A body that nobody wants is not read: it would be taken for the next head.
                self.closes |= has_body(head) || head.expects_continue;
                self.leave_body(head);
                let (bucket, key) = named(head, &self.face);
                self.answer_error(&error, &bucket, &key);
                self.closes.then_some(Next::Close)
            }
        }
    }

    pub(super) fn route_request(&mut self, head: &Head<'_>) -> Result<Option<Next>, Error> {
        let face = Rc::clone(&self.face);
        if face.shared.log.is_some() {
            self.current.entry = Some(Box::new(Entry::of(head, self.transport.peer())));
        }
        let target = Target::parse(head, &face.shared.hosts)?;
        let verifier = face.verifier();
        let now_ms = self.shard.io.wall_clock_ms();
        let caller = verifier.verify(head, &target, now_ms)?;
        if caller.key.is_none() && face.shared.checks_host {
            self.check_origin(head, &face.shared.domains)?;
        }
        if let Some(entry) = &mut self.current.entry {
            entry.name(&caller, &target);
        }
        let routed = route(head, &target)?;
        if let Some(entry) = &mut self.current.entry {
            entry.operation = operation_name(&routed);
        }
        match routed {
            Routed::Read(read) => {
                // Nor is one that means nothing, which a read may have (RFC 9110, 9.3.1).
                self.closes |= has_body(head);
                self.leave_body(head);
                self.serve_read(&target, read, caller)
            }
            Routed::Operation(operation) => {
                let mut call = self.prepare_call(head, &target, operation, caller)?;
                // A body that means nothing stays unread, so that a listing is charged as one.
                if matches!(head.method, "GET" | "HEAD") {
                    self.closes |= has_body(head);
                    self.leave_body(head);
                    (call.framing, call.expects_continue) = (Framing::None, false);
                }
                Ok(Some(Next::Call(call)))
            }
        }
    }

    /// Refuses requests that a web page made a browser on this machine send: they need no signature, and come from
    /// loopback like everyone's.
    #[inline]
    fn check_origin(&self, head: &Head<'_>, domains: &[String]) -> Result<(), Error> {
        if !is_own(head.known.host.unwrap_or_default(), domains) {
            return Err(Error::new(
                ErrorCode::AccessDenied,
                "this host name is not one of this worker's: call it by its address or as localhost, sign the \
                 request, or add the name to `domains` in [s3]",
            ));
        }
        let is_read = matches!(head.method, "GET" | "HEAD");
        if !is_read && head.header("origin").is_some() {
            return Err(Error::new(
                ErrorCode::AccessDenied,
                "requests of web pages that change something must be signed",
            ));
        }
        Ok(())
    }

    /// Serves a read whose object and bytes are at hand; else says what to do.
    fn serve_read(
        &mut self,
        target: &Target<'_>,
        read: Read<'_>,
        caller: Caller,
    ) -> Result<Option<Next>, Error> {
        let buckets = self.face.buckets();
        let bucket = buckets.get(&target.bucket);
        let is_allowed = match bucket {
            Some(bucket) => may(&caller, Verb::Read, &bucket.mount),
            None => caller.may(Verb::Read, &target.bucket),
        };
        if !is_allowed {
            return Err(denied());
        }
        let bucket = bucket.ok_or_else(no_such_bucket)?;
        if read.overrides.is_some() && caller.key.is_none() {
            return Err(Error::new(
                ErrorCode::InvalidRequest,
                "Request specific response headers cannot be used for anonymous GET requests.",
            ));
        }
        if read.version_id.as_deref().is_some_and(|id| id != "null") {
            return Err(Error::new(
                ErrorCode::NotImplemented,
                "single versions are not served: the worker caches what is current; ask the origin",
            ));
        }
        let range = match read.part_number {
            None => read.range,
            // Parts are the origin's to know: the object is its first and only one.
            Some(1) => Some(FIRST_PART),
            Some(_) => {
                let sentence = "The requested part does not exist: objects are one part here";
                return Err(Error::new(ErrorCode::InvalidRange, sentence));
            }
        };
        let read = Read { range, ..read };
        if target.key.ends_with('/') {
            let task = Task::Marker {
                is_head: read.is_head,
            };
            return Ok(Some(self.call_without_body(target, task, caller, bucket)));
        }
        let mut path_key = std::mem::take(&mut self.path_key);
        let home = bucket.home(&target.key, &mut path_key);
        self.path_key = path_key;
        let home = home.ok_or_else(|| {
            let sentence =
                "Your key is too long for this worker together with the place of its bucket";
            Error::new(ErrorCode::KeyTooLongError, sentence)
        })?;
        let shard = Rc::clone(&self.shard);
        let is_home = shard.owner_of(home, Stripe(0)) == shard.id;
        let known = if is_home {
            shard.fresh_object(&bucket.mount, home, &self.path_key)
        } else {
            shard.fresh_object_elsewhere(&bucket.mount, home, &self.path_key)
        };
        if let Some(known) = &known
            && self.answer_known(known, &read)?
        {
            return Ok(None);
        }
        Ok(Some(Next::Get(Box::new(Get {
            grant: self.face.grant(caller.key, Verb::Read, &bucket.mount),
            bucket: Rc::clone(bucket),
            path_key: self.path_key.as_str().into(),
            home,
            is_head: read.is_head,
            range: read.range,
            conditions: OwnedConditions::of(&read.conditions),
            overrides: read.overrides,
            known,
        }))))
    }

    /// Answers a read of a known object if that takes no waiting.
    #[inline]
    fn answer_known(&mut self, known: &Rc<Known>, read: &Read<'_>) -> Result<bool, Error> {
        if read.overrides.is_some() {
            return Ok(false);
        }
        let extent = match outcome_of(&known.meta, read.range, &read.conditions) {
            Outcome::Bytes(extent) => extent,
            Outcome::NotModified => {
                self.answer_not_modified(known);
                return Ok(true);
            }
            Outcome::Refused(error) => return Err(error),
        };
        let length = extent.end - extent.start;
        if read.is_head {
            self.prefetch_if_asked(known, extent);
        } else if length > WINDOW_BYTES_MAX || !self.shard.shared_credit.has_room() {
            // Long answers leave in windows, and all do where memory is short.
            return Ok(false);
        }
        if read.is_head || length == 0 {
            self.push_object_head(extent, lines_of(known));
            self.finish(status_of(extent), None, 0, known.meta.length);
            return Ok(true);
        }
        // The head goes first, so the pieces wait here: mostly one.
        let mut slices: smallvec::SmallVec<[FrameSlice; 1]> = smallvec::SmallVec::new();
        let request = read_of(known, extent.start, length as u32);
        if !self
            .shard
            .slices_in_tier(&request, |slice| slices.push(slice))
        {
            return Ok(false);
        }
        self.push_object_head(extent, lines_of(known));
        for slice in slices {
            self.push_piece(Payload::Frame(slice));
        }
        self.shard.counters.s3_reads_dram.increase();
        self.shard.counters.bytes_served.add(length);
        self.finish(status_of(extent), None, length, known.meta.length);
        Ok(true)
    }

    fn call_without_body(
        &self,
        target: &Target<'_>,
        task: Task,
        caller: Caller,
        bucket: &Bucket,
    ) -> Next {
        Next::Call(Box::new(Call {
            task,
            bucket: target.bucket.clone().into_owned(),
            key: target.key.clone().into_owned(),
            mount: Some(Arc::clone(&bucket.mount)),
            grant: None,
            caller,
            peer: self.transport.peer().ip(),
            payload: None,
            framing: Framing::None,
            expects_continue: false,
        }))
    }

    fn prepare_call(
        &self,
        head: &Head<'_>,
        target: &Target<'_>,
        operation: Box<Operation>,
        mut caller: Caller,
    ) -> Result<Box<Call>, Error> {
        let buckets = self.face.buckets();
        let bucket = buckets.get(&target.bucket);
        let mount = bucket.map(|bucket| Arc::clone(&bucket.mount));
        if !target.bucket.is_empty() {
            let is_allowed = match &mount {
                Some(mount) => may(&caller, operation.verb(), mount),
                None => caller.may(operation.verb(), &target.bucket),
            };
            if !is_allowed {
                return Err(denied());
            }
            if mount.is_none() && !matches!(*operation, Operation::CreateBucket) {
                return Err(no_such_bucket());
            }
        }
        let grant = mount.as_ref().map(|mount| {
            let key = caller.key.clone();
            self.face.grant(key, operation.verb(), mount)
        });
        let mode = std::mem::replace(&mut caller.payload, PayloadMode::Unsigned);
        let payload = match *operation {
            // What it says of checksums is of the object, not of the document.
            Operation::CompleteMultipartUpload(_) => PayloadSpec::of_document(head, mode)?,
            _ => PayloadSpec::of(head, mode)?,
        };
        Ok(Box::new(Call {
            bucket: target.bucket.clone().into_owned(),
            key: target.key.clone().into_owned(),
            mount,
            grant,
            payload: Some(payload),
            framing: head.framing,
            expects_continue: head.expects_continue,
            task: Task::Operation(operation),
            caller,
            peer: self.transport.peer().ip(),
        }))
    }
}

/// Bucket and key of a request, as far as they can be told, for an error's text.
fn named<S: Stream>(head: &Head<'_>, face: &Face<S>) -> (String, String) {
    match Target::parse(head, &face.shared.hosts) {
        Ok(target) => (target.bucket.into_owned(), target.key.into_owned()),
        Err(_) => Default::default(),
    }
}

fn no_such_bucket() -> Error {
    Error::new(
        ErrorCode::NoSuchBucket,
        "The specified bucket does not exist; buckets are the mounts right below /",
    )
}
