//! The general way of a read: its range piece by piece, and where each comes from.
//!
//! A piece is taken from the first of these that has it: the tier, blocks that wait for their flush, the
//! device, a fill. One that the device has but cannot give rightly (checksum, I/O error) is fetched again
//! like a miss. The invariant: memory for the pieces of one read is taken in its turn, so that no two
//! reads hold some of it and wait for the rest.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use corelane_io::{Frame, FrameLease, Io, PAGE_SIZE, Payload};
use corelane_rpc_schema::frame::{ReadRequest, ReadSource};
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};
use corelane_rpc_schema::{BlockId, ShardId};
use smallvec::SmallVec;

use super::Shard;
use super::known::Known;
use super::read::error;
use super::turns::{Turn, Turns};
use crate::cache::frames::{CachedFrame, FRAME_BYTES, FRAME_PAGES, FrameKey};
use crate::mount::AccessSet;
use crate::store::ReadError;
use crate::under_store::UnderStore;

/// The gathered bytes of a read.
#[derive(Debug)]
pub struct ReadParts {
    /// The slowest place that a piece came from.
    pub source: ReadSource,
    /// The bytes, in order.
    pub pieces: SmallVec<[Payload; 1]>,
    /// CRC-32C of each page that the range touches.
    pub checksums: SmallVec<[u32; 4]>,
    /// Whether the range ends where the object does.
    pub ends_with_object: bool,
    /// The shard to ask next time, where this one had to ask it.
    pub owner: Option<ShardId>,
    /// Nanoseconds that the read waited for devices.
    pub device_ns: u64,
    /// Nanoseconds that it waited for fills.
    pub under_store_ns: u64,
}

impl ReadParts {
    fn new() -> Self {
        ReadParts {
            source: ReadSource::Dram,
            pieces: SmallVec::new(),
            checksums: SmallVec::new(),
            ends_with_object: false,
            owner: None,
            device_ns: 0,
            under_store_ns: 0,
        }
    }

    fn came_from(&mut self, source: ReadSource) {
        if source as u8 > self.source as u8 {
            self.source = source;
        }
    }
}

/// The part of a read that lies in one frame of the object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub key: FrameKey,
    /// Bytes within the frame.
    pub start: usize,
    pub end: usize,
}

impl Piece {
    pub fn pages(&self) -> Range<usize> {
        self.start / PAGE_SIZE..self.end.div_ceil(PAGE_SIZE)
    }

    /// The block of `known` that it lies in.
    fn block(&self, known: &Known) -> BlockId {
        let index = self.frame_offset() / u64::from(known.meta.block_bytes);
        known.meta.block(index as u32)
    }

    /// Offset in the object of the frame's first byte.
    fn frame_offset(&self) -> u64 {
        self.key.number * FRAME_BYTES as u64
    }
}

#[inline]
pub(super) fn pieces(request: &ReadRequest) -> impl Iterator<Item = Piece> + use<> {
    let (object, mut offset) = (request.object, request.offset);
    let end = offset + u64::from(request.length);
    std::iter::from_fn(move || {
        (offset < end).then(|| {
            let key = FrameKey::of_offset(object, offset);
            let start = (offset % FRAME_BYTES as u64) as usize;
            let length = (FRAME_BYTES - start).min((end - offset) as usize);
            offset += length as u64;
            Piece {
                key,
                start,
                end: start + length,
            }
        })
    })
}

/// What came of reading a piece from the device.
enum OnDevice {
    /// It was read and is right.
    Read,
    /// The block left meanwhile (it was freed or evicted), or the device could not give it rightly.
    Gone,
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Gathers the bytes of a read of a stripe that this shard owns.
    pub(crate) async fn gather(
        self: &Rc<Self>,
        request: &ReadRequest,
        access: &AccessSet,
    ) -> Result<ReadParts, ErrorMessage> {
        let known = self.known(request.object).await?;
        if !self.may_read(&known, access) {
            return Err(denied());
        }
        let end = match request.offset.checked_add(u64::from(request.length)) {
            Some(end) if end <= known.meta.length => end,
            _ => {
                return Err(error(
                    ErrorCode::Invalid,
                    format!(
                        "{} bytes from {} of {} which has {}: read within the object",
                        request.length, request.offset, known.meta.uri, known.meta.length
                    ),
                ));
            }
        };
        let mut parts = ReadParts::new();
        parts.ends_with_object = end == known.meta.length;
        let mut missed = false;
        if pieces(request).nth(1).is_none() {
            let piece = pieces(request).next().expect("a read has a byte");
            missed = self.gather_piece(&known, piece, &mut parts, None).await?;
        } else {
            // Reads that each held a part of the memory for device reads and waited for the rest
            // would wait for each other. A turn ends when no piece may need such memory any more.
            let on_device = pieces(request)
                .filter(|piece| self.store.lookup(piece.block(&known)).is_some())
                .count();
            let turn = match on_device {
                0 => None,
                count => Some(Rc::new(self.long_reads.take(count).await)),
            };
            // Pieces are gathered side by side, so that a long read waits for its slowest piece
            // and not for the sum of all. The closure owns the turn: only pieces keep it.
            let object = &known;
            let gathered = futures::future::join_all(pieces(request).map(move |piece| {
                let (known, turn) = (Rc::clone(object), turn.clone());
                async move {
                    let mut part = ReadParts::new();
                    self.gather_piece(&known, piece, &mut part, turn)
                        .await
                        .map(|missed| (part, missed))
                }
            }))
            .await;
            for piece in gathered {
                let (part, piece_missed) = piece?;
                missed |= piece_missed;
                parts.came_from(part.source);
                parts.pieces.extend(part.pieces);
                parts.checksums.extend(part.checksums);
                parts.device_ns = parts.device_ns.max(part.device_ns);
                parts.under_store_ns = parts.under_store_ns.max(part.under_store_ns);
            }
        }
        self.consider_read_ahead(&known, request.offset..end, missed);
        Ok(parts)
    }

    /// Gathers one piece; says whether it had to be fetched.
    async fn gather_piece(
        self: &Rc<Self>,
        known: &Rc<Known>,
        piece: Piece,
        parts: &mut ReadParts,
        turn: Option<Rc<Turn<'_>>>,
    ) -> Result<bool, ErrorMessage> {
        let block_bytes = u64::from(known.meta.block_bytes);
        let block = piece.block(known);
        let frame_in_block = ((piece.frame_offset() % block_bytes) / FRAME_BYTES as u64) as usize;
        if self.take_from_tier(piece, parts)
            || self.take_pending(block, frame_in_block, piece, parts)
        {
            return Ok(false);
        }
        if self.store.lookup(block).is_some() {
            let began = self.io.now();
            let found = self
                .take_from_device(known, block, frame_in_block, piece, parts)
                .await?;
            parts.device_ns += self.io.now().since(began).as_nanos() as u64;
            match found {
                OnDevice::Read => return Ok(false),
                OnDevice::Gone => {}
            }
        }
        drop(turn);
        let began = self.io.now();
        let fill = self.fill(known, block.index);
        self.count_ahead_used(&fill.is_ahead);
        let first_page = frame_in_block * FRAME_PAGES;
        let pages = piece.pages();
        fill.until_filled(first_page + pages.end)
            .await
            .map_err(|failure| failure.to_message())?;
        parts.under_store_ns += self.io.now().since(began).as_nanos() as u64;
        parts.came_from(ReadSource::UnderStore);
        parts.pieces.push(Payload::Frame(
            fill.frame(frame_in_block).slice(piece.start..piece.end),
        ));
        fill.append_checksums(
            first_page + pages.start..first_page + pages.end,
            &mut parts.checksums,
        );
        Ok(true)
    }

    /// Counts a block that was fetched ahead, the first time that a read wants it.
    #[inline]
    pub(super) fn count_ahead_used(&self, is_ahead: &Cell<bool>) {
        if is_ahead.get() {
            is_ahead.set(false);
            self.counters.blocks_read_ahead_used.increase();
        }
    }

    fn take_from_tier(&self, piece: Piece, parts: &mut ReadParts) -> bool {
        let mut tier = self.tier.borrow_mut();
        let Some(cached) = tier.hit(piece.key) else {
            return false;
        };
        if !cached.frame.is_sealed(&piece.pages()) {
            return false;
        }
        self.count_ahead_used(&cached.is_ahead);
        parts
            .pieces
            .push(Payload::Frame(cached.frame.slice(piece.start..piece.end)));
        parts
            .checksums
            .extend_from_slice(&cached.checksums[piece.pages()]);
        true
    }

    fn take_pending(
        &self,
        block: BlockId,
        frame_in_block: usize,
        piece: Piece,
        parts: &mut ReadParts,
    ) -> bool {
        let Some(pending) = self.store.pending(block) else {
            return false;
        };
        let first_page = frame_in_block * FRAME_PAGES;
        let pages = piece.pages();
        // None: the block that waits is shorter than this reader's object says. It is fetched.
        let (Some(frame), Some(checksums)) = (
            pending.frames().get(frame_in_block),
            pending
                .checksums()
                .get(first_page + pages.start..first_page + pages.end),
        ) else {
            return false;
        };
        let slice = frame.slice(piece.start..piece.end);
        parts.pieces.push(Payload::Frame(slice));
        parts.checksums.extend_from_slice(checksums);
        true
    }

    /// Reads a piece from the device; whatever else than read it was, it must be fetched.
    async fn take_from_device(
        self: &Rc<Self>,
        known: &Known,
        block: BlockId,
        frame_in_block: usize,
        piece: Piece,
        parts: &mut ReadParts,
    ) -> Result<OnDevice, ErrorMessage> {
        loop {
            let pages = piece.pages();
            // Before memory is waited for, which a device that hangs may hold.
            if !self.store.is_readable(block) {
                return Ok(OnDevice::Gone);
            }
            let leased = self.lease_for_read(known, piece, pages.clone()).await?;
            let Some((lease, base)) = leased else {
                return Ok(OnDevice::Gone);
            };
            // Memory may have taken a while to come: only now is the entry looked up.
            let Some(entry) = self.store.lookup(block) else {
                return Ok(OnDevice::Gone);
            };
            let first_page = (frame_in_block * FRAME_PAGES + pages.start) as u32;
            self.store.touch(block);
            let read = self.store.read(block, entry, first_page, lease).await;
            match read {
                Ok(frame) => {
                    let count = pages.len() as u32;
                    let checksums = self.store.checksums(&entry, first_page, count);
                    let before = parts.checksums.len();
                    parts.checksums.extend_from_slice(&checksums);
                    self.note_in_tier(piece, &frame, &parts.checksums[before..]);
                    parts.came_from(ReadSource::Device);
                    let start = piece.start - base;
                    parts.pieces.push(Payload::Frame(
                        frame.slice(start..start + piece.end - piece.start),
                    ));
                    return Ok(OnDevice::Read);
                }
                Err(ReadError::Gone) => continue,
                Err(error) => {
                    self.count_unreadable(&error);
                    return Ok(OnDevice::Gone);
                }
            }
        }
    }

    /// Counts a read from the device that gave nothing.
    pub(super) fn count_unreadable(&self, error: &ReadError) {
        match error {
            ReadError::Gone => {}
            ReadError::Corrupt => self.counters.pages_corrupt_healed.increase(),
            ReadError::Device(_) => self.counters.device_reads_failed.increase(),
        }
    }

    /// Memory for `pages` of a piece: in the tier where the frame is worth keeping, else in a
    /// buffer that ends with the answer. Returns the lease and the offset in the object's frame of
    /// the first byte of the memory's frame; `None` where a device that hangs holds the buffers.
    async fn lease_for_read(
        self: &Rc<Self>,
        known: &Known,
        piece: Piece,
        pages: Range<usize>,
    ) -> Result<Option<(FrameLease, usize)>, ErrorMessage> {
        if let Some(lease) = self.lease_in_tier(known, piece, &pages) {
            return Ok(Some((lease, 0)));
        }
        let pool = if pages.len() == 1 {
            &self.pages
        } else {
            &self.frames
        };
        let frame = match pool.take() {
            Some(frame) => frame,
            None if self.store.has_silent_device() => return Ok(None),
            None => self
                .until_memory(&self.buffer_turn, || pool.take())
                .await
                .ok_or_else(|| {
                    error(
                        ErrorCode::Busy,
                        "all memory for device reads is in use; lower the depth or retry",
                    )
                })?,
        };
        let lease = frame
            .lease(0..pages.len())
            .expect("a fresh frame is vacant");
        Ok(Some((lease, pages.start * PAGE_SIZE)))
    }

    fn lease_in_tier(
        &self,
        known: &Known,
        piece: Piece,
        pages: &Range<usize>,
    ) -> Option<FrameLease> {
        let mut tier = self.tier.borrow_mut();
        if let Some(cached) = tier.peek(piece.key) {
            return cached.frame.lease(pages.clone());
        }
        if !tier.admits(piece.key) {
            return None;
        }
        let frame = tier.take()?;
        let lease = frame.lease(pages.clone()).expect("a fresh frame is vacant");
        let length = (known.meta.length - piece.frame_offset()).min(FRAME_BYTES as u64) as u32;
        tier.insert(CachedFrame {
            key: piece.key,
            mount: known.mount.get(),
            length,
            is_ahead: Cell::new(false),
            frame,
            checksums: [0; FRAME_PAGES],
        });
        Some(lease)
    }

    /// Writes down the checksums of pages that were read into a frame of the tier.
    fn note_in_tier(&self, piece: Piece, frame: &Frame, checksums: &[u32]) {
        let mut tier = self.tier.borrow_mut();
        if let Some(cached) = tier.peek_mut(piece.key)
            && cached.frame.is_same(frame)
        {
            cached.checksums[piece.pages()].copy_from_slice(checksums);
        }
    }

    /// Waits in turn until `take` finds memory; `None` at the deadline.
    pub(crate) async fn until_memory<T>(
        &self,
        turns: &Turns,
        mut take: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if turns.is_free()
            && let Some(found) = take()
        {
            return Some(found);
        }
        let deadline = self.io.now().plus(self.tuning.memory_deadline);
        let _turn = turns.take(1).await;
        loop {
            if let Some(found) = take() {
                return Some(found);
            }
            if self.io.now() >= deadline {
                return None;
            }
            // Memory comes back when sends and reads end, which nobody announces.
            self.io.sleep(std::time::Duration::from_micros(200)).await;
        }
    }
}

fn denied() -> ErrorMessage {
    error(
        ErrorCode::Denied,
        "the token may not read this object; its mount names who may",
    )
}
