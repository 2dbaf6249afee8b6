//! Reads that wait: for metadata, another core, the device or the under-store.
//!
//! Windows leave while the next ones are gathered. The invariant: once a head has left, either all bytes
//! that it promised follow it, of that version, or the connection ends.

use std::rc::Rc;
use std::time::Duration;

use corelane_io::Io;
use corelane_s3::Error;
use corelane_s3::response::Extent;

use super::call::denied;
use super::connection::{Connection, Gone};
use super::connections::Phase;
use super::get::{Found, Get, Outcome, Windows, error_of, lines_of, lines_with, status_of};
use crate::shard::gather::ReadParts;
use crate::shard::known::Known;
use crate::under_store::UnderStore;
use corelane_rpc_schema::messages::{ErrorCode as FailureCode, ErrorMessage};

/// Versions of an object that may go between their description and their first byte until a reader is
/// told to come again: who replaces it faster than this starves its readers anywhere.
const CHANGES_MAX: u32 = 8;

/// How long an answer that is under way waits for memory or room in a queue, and how often it looks.
const BUSY_MAX: Duration = Duration::from_secs(30);
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Why a read was not answered.
enum Refused {
    /// The version that was described is gone; there is another one.
    Changed(Error),
    /// Something that another try would not mend.
    Told(Error),
}

impl Refused {
    fn of(failure: &ErrorMessage) -> Self {
        let error = error_of(failure);
        if failure.code == FailureCode::VersionChanged {
            Refused::Changed(error)
        } else {
            Refused::Told(error)
        }
    }
}

impl<I: Io, U: UnderStore> Connection<I, U> {
    /// A read that waits: for metadata, another core, the device or the under-store.
    pub(super) async fn get(&mut self, mut get: Get) -> Result<(), Gone> {
        self.watched.enter(Phase::Working, self.shard.io.now());
        let mut changes = 0;
        loop {
            match self.get_once(&get).await? {
                Ok(()) => return self.flush().await,
                // The next version is there, and its conditions are its own.
                Err(Refused::Changed(_)) if changes < CHANGES_MAX => {
                    changes += 1;
                    get.known = None;
                }
                Err(Refused::Changed(error) | Refused::Told(error)) => {
                    let (name, key) = (get.bucket_name(), get.key());
                    self.answer_error(&error, name, key);
                    return self.flush().await;
                }
            }
        }
    }

    async fn get_once(&mut self, get: &Get) -> Result<Result<(), Refused>, Gone> {
        let shard = Rc::clone(&self.shard);
        let Found { known, first } = match shard.find_for_get(get).await {
            Ok(found) => found,
            Err(failure) => return Ok(Err(Refused::of(&failure))),
        };
        if !self.face.still_grants(&get.grant) {
            return Ok(Err(Refused::Told(denied())));
        }
        let extent = match get.outcome(&known.meta) {
            Outcome::Bytes(extent) => extent,
            Outcome::NotModified => {
                self.answer_not_modified(&known);
                return Ok(Ok(()));
            }
            Outcome::Refused(error) => return Ok(Err(Refused::Told(error))),
        };
        let overridden = get
            .overrides
            .as_ref()
            .map(|overrides| lines_with(&known.meta, overrides));
        let lines = overridden.as_deref().unwrap_or_else(|| lines_of(&known));
        let length = extent.end - extent.start;
        if get.is_head {
            self.prefetch_if_asked(&known, extent);
        }
        if get.is_head || length == 0 {
            self.push_object_head(extent, lines);
            self.finish(status_of(extent), None, 0, known.meta.length);
            return Ok(Ok(()));
        }
        // The owner gave the first bytes of the range, which the answer may not be of.
        let first = first.filter(|_| extent.is_range == get.range.is_some());
        let mut windows = Windows::new();
        let began = match first {
            Some(began) => began,
            None => {
                self.until_memory().await;
                let length = windows.next(extent.start, extent.end);
                shard
                    .window(&get.bucket, &known, extent.start, length)
                    .await
            }
        };
        let parts = match began {
            Ok(parts) => parts,
            Err(failure) => return Ok(Err(Refused::of(&failure))),
        };
        if !self.face.still_grants(&get.grant) {
            return Ok(Err(Refused::Told(denied())));
        }
        // From here on the head is under way: what fails now cuts the answer off.
        self.push_object_head(extent, lines);
        let mut offset = extent.start;
        let sent = self
            .stream_windows(get, &known, (&mut offset, extent.end), parts, windows)
            .await;
        let bytes = offset - extent.start;
        self.finish(status_of(extent), None, bytes, known.meta.length);
        sent.map(Ok)
    }

    /// Resolves when there is memory for another window. A connection that waits pins none.
    pub(super) async fn until_memory(&self) {
        assert_eq!(self.pinned, 0, "what is pinned was sent");
        self.credit.until_memory().await;
    }

    /// Sends `parts`, then the rest up to `end`, each window while the next is gathered. `offset` is
    /// where the bytes begin that are not batched.
    async fn stream_windows(
        &mut self,
        get: &Get,
        known: &Rc<Known>,
        (offset, end): (&mut u64, u64),
        parts: ReadParts,
        mut windows: Windows,
    ) -> Result<(), Gone> {
        let shard = Rc::clone(&self.shard);
        let mut parts = parts;
        loop {
            let bytes = self.push_parts(parts);
            *offset += bytes;
            assert!(
                bytes > 0 && *offset <= end,
                "an answer is as long as its head says"
            );
            if *offset == end {
                return Ok(());
            }
            let gathered = if shard.shared_credit.has_room() {
                let length = windows.next(*offset, end);
                let gathering = shard.window(&get.bucket, known, *offset, length);
                let watched = Rc::clone(&self.watched);
                let sending = async {
                    let sent = self.flush().await;
                    // From here on it is the worker that the client waits for.
                    watched.enter(Phase::Working, shard.io.now());
                    sent
                };
                let (sent, gathered) = futures::join!(sending, gathering);
                sent?;
                gathered
            } else {
                self.flush().await?;
                self.watched.enter(Phase::Working, shard.io.now());
                self.until_memory().await;
                windows.shorten();
                let length = windows.next(*offset, end);
                shard.window(&get.bucket, known, *offset, length).await
            };
            if !self.face.still_grants(&get.grant) {
                let sentence = "the key or the mount no longer allows it".to_owned();
                let failure = ErrorMessage {
                    code: FailureCode::Denied,
                    message: sentence,
                    retry_after_ms: 0,
                };
                return Err(self.cut_off(known, *offset, &failure));
            }
            parts = match gathered {
                Err(failure) if failure.code == FailureCode::Busy => {
                    self.gather_patiently(get, known, (*offset, end)).await
                }
                gathered => gathered,
            }
            .map_err(|failure| self.cut_off(known, *offset, &failure))?;
        }
    }

    /// The next bytes in the middle of an answer, when this worker was too busy for them: it holds none
    /// itself, so others make room.
    async fn gather_patiently(
        &mut self,
        get: &Get,
        known: &Rc<Known>,
        (offset, end): (u64, u64),
    ) -> Result<ReadParts, ErrorMessage> {
        let shard = Rc::clone(&self.shard);
        let began = shard.io.now();
        let length = Windows::new().next(offset, end);
        loop {
            shard.io.sleep(BUSY_PAUSE).await;
            let gathered = shard.window(&get.bucket, known, offset, length).await;
            match gathered {
                Err(failure)
                    if failure.code == FailureCode::Busy
                        && shard.io.now().since(began) < BUSY_MAX => {}
                gathered => return gathered,
            }
        }
    }

    fn cut_off(&self, known: &Known, offset: u64, failure: &ErrorMessage) -> Gone {
        self.shard.counters.s3_answers_cut.increase();
        tracing::warn!(
            object = known.meta.uri,
            offset,
            error = failure.message,
            "an S3 answer was cut off in the middle"
        );
        Gone
    }

    /// Appends gathered bytes to the batch; gives their number.
    fn push_parts(&mut self, parts: ReadParts) -> u64 {
        let mut bytes = 0;
        for piece in parts.pieces {
            bytes += piece.len() as u64;
            self.push_piece(piece);
        }
        self.shard.counters.count_s3_read(parts.source);
        self.shard.counters.bytes_served.add(bytes);
        bytes
    }

    /// HEAD of the first byte asks for the whole object to be brought in.
    pub(super) fn prefetch_if_asked(&self, known: &Rc<Known>, extent: Extent) {
        if extent.is_range && extent.start == 0 && extent.end == 1 {
            self.shard.prefetch_object(&known.meta);
        }
    }
}
