//! The data plane as callers see it: open an object, read ranges of it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use corelane_lookup::request::LookupRequest;
use corelane_rpc_schema::frame::{ReadFlags, ReadRequest, ReadSource};
use corelane_rpc_schema::messages::{ErrorCode, HelloAnswer, Message, Open};
use corelane_rpc_schema::{ObjectId, ShardId};
use futures::{StreamExt, TryStreamExt};

use crate::error::Error;
use crate::look_up::{self, Found, Homes};
use crate::options::Options;
use crate::pieces::{Piece, piece_bytes, pieces};
use crate::policy::retry::Attempts;
use crate::random;
use crate::shards::Shards;
use crate::sources::Sources;

/// A client of one worker. Cheap to clone; all clones share the lanes.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    homes: Homes,
    shards: Shards,
    options: Options,
    opens: AtomicU64,
    retries: AtomicU64,
    checksum_mismatches: AtomicU64,
}

/// One version of one object, as [`Client::open`] found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// As mounted.
    pub path: String,
    /// Its id on the wire, which changes with the version.
    pub id: ObjectId,
    /// Bytes.
    pub length: u64,
    /// The under-store's ETag, or size-mtime-inode for files.
    pub version: String,
    /// Block size of its mount.
    pub block_bytes: u32,
    /// Milliseconds since the Unix epoch; 0 where unknown.
    pub last_modified_ms: u64,
    /// Empty where unknown.
    pub content_type: String,
}

/// What a client counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that were sent again.
    pub retries: u64,
    /// Payloads that did not match their checksums.
    pub checksum_mismatches: u64,
    /// Connections made.
    pub connections: u64,
}

impl Client {
    /// Connects to any data port of the worker at `address` (host:port). An empty `token` is for a worker of the
    /// same user on this machine, whose [local token](crate::local_token) is taken then, and for
    /// workers that ask for none. Needs a tokio runtime, whose tasks the lanes become.
    ///
    /// # Errors
    /// At once, without a retry: a wrong address or token should not take seconds to show.
    pub async fn connect(address: &str, token: &str, options: Options) -> Result<Client, Error> {
        let shards = Shards::connect(address, token, &options).await?;
        let inner = Inner {
            shards,
            options,
            homes: Homes::default(),
            opens: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            checksum_mismatches: AtomicU64::new(0),
        };
        Ok(Client {
            inner: Arc::new(inner),
        })
    }

    /// What the worker said at the latest hello: its id, epoch and shards.
    pub fn worker(&self) -> HelloAnswer {
        self.inner.shards.map().hello.clone()
    }

    /// Whether a connection to the worker is open.
    pub fn is_connected(&self) -> bool {
        self.inner.shards.is_connected()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        Counters {
            retries: self.inner.retries.load(Ordering::Relaxed),
            checksum_mismatches: self.inner.checksum_mismatches.load(Ordering::Relaxed),
            connections: self.inner.shards.connected.load(Ordering::Relaxed),
        }
    }

    /// The object at `path` in its present version, as fresh as its mount promises.
    ///
    /// # Errors
    /// [`Error::Refused`] says why there is none; others are of the connection.
    pub async fn open(&self, path: &str) -> Result<Object, Error> {
        // Any shard can resolve a path. Turns spread the work; the owner is not known before.
        let shards = self.inner.shards.map().hello.shard_ports.len() as u64;
        let turn = self.inner.opens.fetch_add(1, Ordering::Relaxed);
        let shard = ShardId((turn % shards) as u16);
        let request = Message::Open(Open {
            path: path.to_owned(),
        });
        let what = || format!("open {path}");
        let mut attempts = Attempts::new(self.inner.options.retry_limits());
        loop {
            let answer = match self.inner.shards.lane(shard).await {
                Ok(lane) => {
                    lane.call(&request, &what, self.inner.options.request_timeout)
                        .await
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok(Message::OpenAnswer(answer)) => {
                    return Ok(Object {
                        path: path.to_owned(),
                        id: answer.object,
                        length: answer.length,
                        version: answer.version,
                        block_bytes: answer.block_bytes,
                        last_modified_ms: answer.last_modified_ms,
                        content_type: answer.content_type,
                    });
                }
                Ok(other) => {
                    let address = self.inner.shards.map().hello.worker_id.clone();
                    let reason = format!("{other:?} in answer to {}", what());
                    return Err(Error::Protocol { address, reason });
                }
                Err(error) => self.wait_to_retry(&mut attempts, error).await?,
            }
        }
    }

    /// Looks rows up in Parquet objects, on the shards that are their homes.
    ///
    /// # Errors
    /// [`Error::Refused`] says what is wrong with the request or the objects; others are of the
    /// connection.
    pub async fn look_up(&self, request: &LookupRequest) -> Result<Found, Error> {
        let encoded = request.encode();
        let first = request.paths.first().map_or("", String::as_str);
        let what = || look_up::named(request);
        let mut attempts = Attempts::new(self.inner.options.retry_limits());
        loop {
            let shards = self.inner.shards.map().hello.shard_ports.len() as u64;
            let known = self
                .inner
                .homes
                .of(first)
                .filter(|home| u64::from(home.0) < shards);
            let shard = known.unwrap_or_else(|| {
                let turn = self.inner.opens.fetch_add(1, Ordering::Relaxed);
                ShardId((turn % shards) as u16)
            });
            let answer = match self.inner.shards.lane(shard).await {
                Ok(lane) => {
                    lane.look_up(&encoded, &what, self.inner.options.request_timeout)
                        .await
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok((head, payload)) => {
                    self.inner.homes.learn(first, head.home);
                    let statistics = payload.slice(..head.statistics_bytes as usize);
                    return Ok(Found {
                        rows: head.rows,
                        stream: payload.slice(head.statistics_bytes as usize..),
                        counts: serde_json::from_slice(&statistics).ok(),
                    });
                }
                Err(error) => self.wait_to_retry(&mut attempts, error).await?,
            }
        }
    }

    /// The bytes of `range` of `object`, in pieces from the shards that own them, side by side.
    /// All of the version that was opened.
    ///
    /// # Errors
    /// [`Error::VersionChanged`] where the worker has a newer version only; [`Error::OutOfRange`];
    /// [`Error::Checksum`] where a piece was wrong twice; else as the retries ended.
    pub async fn read(&self, object: &Object, range: Range<u64>) -> Result<Bytes, Error> {
        Ok(self.read_with_sources(object, range).await?.0)
    }

    /// [`Client::read`], and where the worker had the bytes.
    ///
    /// # Errors
    /// See there.
    pub async fn read_with_sources(
        &self,
        object: &Object,
        range: Range<u64>,
    ) -> Result<(Bytes, Sources), Error> {
        if range.start > range.end || range.end > object.length {
            return Err(Error::OutOfRange {
                path: object.path.clone(),
                length: object.length,
                start: range.start,
                end: range.end,
            });
        }
        let (piece_bytes, stripe_bytes) = {
            let hello = &self.inner.shards.map().hello;
            (
                piece_bytes(hello.read_bytes_max, hello.bytes_in_flight_max),
                hello.stripe_bytes,
            )
        };
        let length = (range.end - range.start) as usize;
        let mut pieces = pieces(range, piece_bytes, stripe_bytes).peekable();
        let Some(first) = pieces.next() else {
            return Ok((Bytes::new(), Sources::default()));
        };
        let mut sources = Sources::default();
        if pieces.peek().is_none() {
            let (bytes, source) = self.read_piece(object, first).await?;
            sources.add(source, bytes.len());
            return Ok((bytes, sources));
        }
        let mut answers = futures::stream::iter(std::iter::once(first).chain(pieces))
            .map(|piece| self.read_piece(object, piece))
            .buffered(self.inner.options.pieces_in_flight_max.max(1));
        let mut joined = BytesMut::with_capacity(length);
        while let Some((bytes, source)) = answers.try_next().await? {
            sources.add(source, bytes.len());
            joined.extend_from_slice(&bytes);
        }
        assert_eq!(joined.len(), length, "the pieces cover the range");
        Ok((joined.freeze(), sources))
    }

    /// The object at `path` and all its bytes, of one version: where the version changes on the
    /// way, everything is read again from the new one.
    ///
    /// # Errors
    /// [`Error::VersionChanged`] where it changed more often than the options allow; else as
    /// [`Client::open`] and [`Client::read`].
    pub async fn read_file(&self, path: &str) -> Result<(Object, Bytes), Error> {
        let mut changes = 0;
        loop {
            let object = self.open(path).await?;
            match self.read(&object, 0..object.length).await {
                Ok(bytes) => return Ok((object, bytes)),
                Err(Error::VersionChanged { .. })
                    if changes < self.inner.options.version_changes_max =>
                {
                    changes += 1;
                    tracing::debug!(path, changes, "the object changed while it was read");
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn read_piece(
        &self,
        object: &Object,
        piece: Piece,
    ) -> Result<(Bytes, ReadSource), Error> {
        let mut attempts = Attempts::new(self.inner.options.retry_limits());
        let mut opened_again = false;
        let mut mismatched = false;
        loop {
            let error = match self.try_piece(object, piece).await {
                Ok(read) => return Ok(read),
                Err(error) => error,
            };
            match error {
                Error::Refused {
                    code: ErrorCode::VersionChanged,
                    ..
                } => {
                    return Err(Error::VersionChanged {
                        path: object.path.clone(),
                    });
                }
                // The worker forgot what it knew of the id, after a restart perhaps. Opening
                // reminds it, if the version is still the same.
                Error::Refused {
                    code: ErrorCode::ObjectUnknown,
                    ..
                } if !opened_again => {
                    opened_again = true;
                    if self.open(&object.path).await?.id != object.id {
                        return Err(Error::VersionChanged {
                            path: object.path.clone(),
                        });
                    }
                    self.inner.retries.fetch_add(1, Ordering::Relaxed);
                }
                Error::Checksum { .. } if !mismatched => {
                    mismatched = true;
                    self.inner.retries.fetch_add(1, Ordering::Relaxed);
                }
                error => self.wait_to_retry(&mut attempts, error).await?,
            }
        }
    }

    async fn try_piece(&self, object: &Object, piece: Piece) -> Result<(Bytes, ReadSource), Error> {
        let options = &self.inner.options;
        let shards = &self.inner.shards;
        let map = shards.map();
        let lane = shards.lane(map.owner(object.id.home, piece.stripe)).await?;
        let request = ReadRequest {
            // The lane chooses it.
            request_id: 0,
            object: object.id,
            offset: piece.offset,
            length: piece.length,
            flags: if options.verify {
                ReadFlags::CHECKSUMS
            } else {
                ReadFlags::NONE
            },
        };
        let what = || {
            let end = piece.offset + u64::from(piece.length);
            format!("read {} bytes {} to {end}", object.path, piece.offset)
        };
        let answer = lane.read(request, &what, options.request_timeout).await?;
        if let Some(owner) = answer.shard_hint {
            map.learn_owner(object.id.home, piece.stripe, owner);
        }
        if options.verify {
            self.verify(object, piece, &answer, lane.address())?;
        }
        let source = answer.source();
        Ok((answer.payload, source))
    }

    fn verify(
        &self,
        object: &Object,
        piece: Piece,
        answer: &crate::lane::ReadPayload,
        address: std::net::SocketAddr,
    ) -> Result<(), Error> {
        let checksums = answer.checksums();
        if checksums.is_empty() {
            return Err(Error::Protocol {
                address: address.to_string(),
                reason: format!(
                    "a read of {} came without the checksums asked for",
                    object.path
                ),
            });
        }
        checksums.verify(&answer.payload).map_err(|mismatch| {
            self.inner.checksum_mismatches.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(path = object.path, offset = piece.offset, %address, %mismatch, "wrong bytes");
            Error::Checksum {
                path: object.path.clone(),
                offset: piece.offset,
                address: address.to_string(),
                mismatch,
            }
        })
    }

    async fn wait_to_retry(&self, attempts: &mut Attempts, error: Error) -> Result<(), Error> {
        if !error.is_passing() {
            return Err(error);
        }
        let Some(wait) = attempts.wait(error.retry_after(), random::fraction()) else {
            return Err(error);
        };
        tracing::debug!(%error, ?wait, "asking again");
        self.inner.retries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Client")
            .field("worker", &self.inner.shards.map().hello.worker_id)
            .field("counters", &self.counters())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_can_run_on_a_runtime_of_many_threads() {
        fn sendable<F: Future + Send>(_: impl Fn(Client, Object) -> F) {}
        sendable(|client, object| async move { client.read_with_sources(&object, 0..1).await });
        sendable(|client, object| async move { client.read_file(&object.path).await });
    }
}
