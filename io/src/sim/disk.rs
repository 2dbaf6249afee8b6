//! The bytes behind a simulated device, and how they break.
//!
//! A disk keeps what a read sees and, apart from it, what a power cut would leave. The difference is
//! the list of completed writes that no flush has covered yet; a power cut decides on each of them
//! alone, so they may survive in any combination. Pages are shared between the three.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use super::faults::{Fault, Hang};
use super::random::Prng;
use super::state::State;
use super::world::Crash;
use crate::{DeviceGeometry, FrameLease, IoError, PAGE_SIZE};

/// The unit in which a power cut may tear a page.
const SECTOR_SIZE: usize = 512;

/// Sectors in a page; a byte holds one bit for each.
const SECTORS: usize = PAGE_SIZE / SECTOR_SIZE;

/// All sectors of a page.
const WHOLE_PAGE: u8 = u8::MAX;

/// Pages that a table of the sparse map covers.
const TABLE_PAGES: usize = 512;

/// Unflushed pages that a disk keeps in its cache; beyond, the oldest become durable by themselves,
/// as on a drive whose cache is full. 64 MiB.
const UNFLUSHED_PAGES_MAX: usize = 16_384;

/// A misdirected access lands within this many pages of its place half of the time, since near
/// places are more likely to hold something that looks valid.
const MISDIRECTED_PAGES_NEAR: u64 = 64;

type Page = Rc<[u8; PAGE_SIZE]>;

/// Pages by number; absent ones are zero.
struct SparsePages {
    tables: Vec<Option<Box<[Option<Page>; TABLE_PAGES]>>>,
}

impl SparsePages {
    fn new(length: u64) -> Self {
        let pages = (length / PAGE_SIZE as u64) as usize;
        SparsePages {
            tables: (0..pages.div_ceil(TABLE_PAGES)).map(|_| None).collect(),
        }
    }

    fn get(&self, page: u64) -> Option<&Page> {
        let page = page as usize;
        self.tables[page / TABLE_PAGES].as_ref()?[page % TABLE_PAGES].as_ref()
    }

    fn set(&mut self, page: u64, content: Option<Page>) {
        let page = page as usize;
        let table = &mut self.tables[page / TABLE_PAGES];
        if table.is_none() && content.is_none() {
            return;
        }
        let table = table.get_or_insert_with(|| Box::new([const { None }; TABLE_PAGES]));
        table[page % TABLE_PAGES] = content;
    }

    fn change(&mut self, page: u64, change: impl FnOnce(&mut [u8; PAGE_SIZE])) {
        let mut content = self.get(page).cloned().unwrap_or_else(zero_page);
        change(Rc::make_mut(&mut content));
        self.set(page, Some(content));
    }
}

fn zero_page() -> Page {
    Rc::new([0; PAGE_SIZE])
}

/// A page of a completed write that is not durable yet. `None` is a page of zeros.
struct Unflushed {
    write: u64,
    page: u64,
    content: Option<Page>,
    /// A flush gave it up: it never becomes durable.
    is_given_up: bool,
}

pub(super) struct Disk {
    pub(super) geometry: DeviceGeometry,
    pub(super) has_failed: bool,
    /// What is not answered.
    pub(super) hang: Hang,
    number: usize,
    current: SparsePages,
    durable: SparsePages,
    /// In the order in which the writes completed.
    unflushed: VecDeque<Unflushed>,
    writes_completed: u64,
}

impl Disk {
    pub(super) fn new(number: usize, geometry: DeviceGeometry) -> Self {
        Disk {
            current: SparsePages::new(geometry.length),
            durable: SparsePages::new(geometry.length),
            geometry,
            has_failed: false,
            hang: Hang::default(),
            number,
            unflushed: VecDeque::new(),
            writes_completed: 0,
        }
    }

    pub(super) fn writes_completed(&self) -> u64 {
        self.writes_completed
    }

    pub(super) fn read(
        &mut self,
        state: &State,
        offset: u64,
        mut lease: FrameLease,
    ) -> Result<FrameLease, IoError> {
        let length = lease.len() as u64;
        let faults = state.faults.borrow();
        self.check_alive("read", offset)?;
        if state.fate.chance(faults.read_error) {
            state.inject(Fault::ReadError, Some(self.number), offset, length);
            return Err(self.error("read", offset));
        }
        if state.fate.chance(faults.bit_flip_at_rest) {
            let at = offset + state.fate.below(length);
            let mut byte = [0];
            self.copy_out(at, &mut byte);
            byte[0] ^= 1 << state.fate.below(8);
            self.write_medium(at, &byte);
            state.inject(Fault::BitFlipAtRest, Some(self.number), at, 1);
        }
        let mut from = offset;
        if state.fate.chance(faults.misdirected_read)
            && let Some(other) = self.misdirect(&state.fate, offset, length)
        {
            state.inject(Fault::MisdirectedRead, Some(self.number), offset, length);
            from = other;
        }
        self.copy_out(from, lease.bytes_mut());
        if state.fate.chance(faults.bit_flip_on_read) {
            let at = state.fate.below(length);
            lease.bytes_mut()[at as usize] ^= 1 << state.fate.below(8);
            state.inject(Fault::BitFlipOnRead, Some(self.number), offset + at, 1);
        }
        Ok(lease)
    }

    pub(super) fn write(
        &mut self,
        state: &State,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), IoError> {
        let length = bytes.len() as u64;
        let faults = state.faults.borrow();
        self.check_alive("write", offset)?;
        if state.fate.chance(faults.write_error) {
            state.inject(Fault::WriteError, Some(self.number), offset, length);
            self.apply_fate(state, offset, bytes, SECTOR_SIZE, 0.5);
            return Err(self.error("write", offset));
        }
        if state.fate.chance(faults.lost_write) {
            state.inject(Fault::LostWrite, Some(self.number), offset, length);
            return Ok(());
        }
        let mut to = offset;
        if state.fate.chance(faults.misdirected_write)
            && let Some(other) = self.misdirect(&state.fate, offset, length)
        {
            state.inject(Fault::LostWrite, Some(self.number), offset, length);
            state.inject(Fault::MisdirectedWrite, Some(self.number), other, length);
            to = other;
        }
        self.apply(to, bytes, |_| WHOLE_PAGE);
        Ok(())
    }

    pub(super) fn flush(&mut self, state: &State, writes_before: u64) -> Result<(), IoError> {
        self.check_alive("flush", 0)?;
        let (error, drop) = {
            let faults = state.faults.borrow();
            (faults.flush_error, faults.flush_drop)
        };
        let is_dropped = state.fate.chance(drop);
        if is_dropped {
            state.inject(Fault::FlushDropped, Some(self.number), 0, 0);
            self.unflushed
                .iter_mut()
                .for_each(|unflushed| unflushed.is_given_up = true);
        }
        if is_dropped || state.fate.chance(error) {
            state.inject(Fault::FlushError, Some(self.number), 0, 0);
            return Err(self.error("flush", 0));
        }
        self.make_durable(writes_before);
        Ok(())
    }

    /// Makes the extent read as zeros, or not at all: a discard is a hint.
    pub(super) fn discard(
        &mut self,
        state: &State,
        offset: u64,
        length: u64,
    ) -> Result<(), IoError> {
        self.check_alive("discard", offset)?;
        if state.fate.coin() {
            self.writes_completed += 1;
            for page in page_range(offset, length) {
                self.store(page, None);
            }
            self.bound_cache();
        }
        Ok(())
    }

    /// Decides what becomes of a write that was in flight when its core died.
    pub(super) fn settle_in_flight(
        &mut self,
        state: &State,
        offset: u64,
        bytes: &[u8],
        crash: Crash,
    ) {
        if self.has_failed {
            return;
        }
        let unit = match crash {
            Crash::ProcessKill => PAGE_SIZE,
            Crash::PowerLoss => SECTOR_SIZE,
        };
        let torn_write = state.faults.borrow().torn_write;
        self.apply_fate(state, offset, bytes, unit, torn_write);
    }

    /// Takes back what was not flushed, wholly, in part or not, each write on its own.
    pub(super) fn cut_power(&mut self, state: &State) {
        let (loss, torn) = {
            let faults = state.faults.borrow();
            (faults.unflushed_loss, faults.torn_write)
        };
        let mut unflushed = std::mem::take(&mut self.unflushed);
        let mut touched = Vec::with_capacity(unflushed.len());
        while let Some(first) = unflushed.front() {
            let count = unflushed
                .iter()
                .take_while(|other| other.write == first.write)
                .count();
            let write: Vec<Unflushed> = unflushed.drain(..count).collect();
            touched.extend(write.iter().map(|page| page.page));
            let offset = write[0].page * PAGE_SIZE as u64;
            let length = (count * PAGE_SIZE) as u64;
            if write[0].is_given_up || state.fate.chance(loss) {
                state.inject(Fault::UnflushedLost, Some(self.number), offset, length);
                continue;
            }
            let masks = if state.fate.chance(torn) {
                state.inject(Fault::TornWrite, Some(self.number), offset, length);
                tear(
                    &state.fate,
                    count,
                    if state.fate.coin() {
                        PAGE_SIZE
                    } else {
                        SECTOR_SIZE
                    },
                )
            } else {
                vec![WHOLE_PAGE; count]
            };
            for (page, mask) in write.into_iter().zip(masks) {
                let merged = merge(self.durable.get(page.page), page.content, mask);
                self.durable.set(page.page, merged);
            }
        }
        for page in touched {
            let left = self.durable.get(page).cloned();
            self.current.set(page, left);
        }
    }

    /// What a read would see now, without faults.
    pub(super) fn copy_out(&self, offset: u64, bytes: &mut [u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = (at % PAGE_SIZE as u64) as usize;
            let length = rest.len().min(PAGE_SIZE - within);
            let (piece, after) = rest.split_at_mut(length);
            match self.current.get(at / PAGE_SIZE as u64) {
                Some(page) => piece.copy_from_slice(&page[within..within + length]),
                None => piece.fill(0),
            }
            at += length as u64;
            rest = after;
        }
    }

    /// Overwrites bytes wherever they are: in what is read, in what is durable, and in the cache.
    pub(super) fn write_medium(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let page = at / PAGE_SIZE as u64;
            let within = (at % PAGE_SIZE as u64) as usize;
            let (piece, after) = rest.split_at(rest.len().min(PAGE_SIZE - within));
            let overwrite = |content: &mut [u8; PAGE_SIZE]| {
                content[within..within + piece.len()].copy_from_slice(piece);
            };
            self.current.change(page, overwrite);
            self.durable.change(page, overwrite);
            for unflushed in self
                .unflushed
                .iter_mut()
                .filter(|unflushed| unflushed.page == page)
            {
                overwrite(Rc::make_mut(
                    unflushed.content.get_or_insert_with(zero_page),
                ));
            }
            at += piece.len() as u64;
            rest = after;
        }
    }

    fn check_alive(&self, operation: &'static str, offset: u64) -> Result<(), IoError> {
        if self.has_failed {
            Err(self.error(operation, offset))
        } else {
            Ok(())
        }
    }

    fn error(&self, operation: &'static str, offset: u64) -> IoError {
        IoError::from_errno(libc::EIO, "the device failed; if this goes on, replace it")
            .with("operation", operation)
            .with("device", self.geometry.path.display())
            .with("offset", offset)
    }

    /// Another place on the disk for an access of `length` bytes, if there is one.
    fn misdirect(&self, prng: &Prng, offset: u64, length: u64) -> Option<u64> {
        let page_size = PAGE_SIZE as u64;
        let last = (self.geometry.length - length) / page_size;
        let here = offset / page_size;
        let range = if prng.coin() {
            here.saturating_sub(MISDIRECTED_PAGES_NEAR)..=last.min(here + MISDIRECTED_PAGES_NEAR)
        } else {
            0..=last
        };
        let other = prng.between(*range.start(), *range.end());
        (other != here).then_some(other * page_size)
    }

    /// Applies a write wholly, in part (with probability `torn`, in units of `unit` bytes) or not.
    fn apply_fate(&mut self, state: &State, offset: u64, bytes: &[u8], unit: usize, torn: f64) {
        let length = bytes.len() as u64;
        if state.fate.chance(torn) {
            state.inject(Fault::TornWrite, Some(self.number), offset, length);
            let unit = if state.fate.coin() { PAGE_SIZE } else { unit };
            let masks = tear(&state.fate, bytes.len() / PAGE_SIZE, unit);
            self.apply(offset, bytes, |index| masks[index]);
        } else if state.fate.coin() {
            self.apply(offset, bytes, |_| WHOLE_PAGE);
        } else {
            state.inject(Fault::DroppedWrite, Some(self.number), offset, length);
        }
    }

    fn apply(&mut self, offset: u64, bytes: &[u8], sectors: impl Fn(usize) -> u8) {
        self.writes_completed += 1;
        let first = offset / PAGE_SIZE as u64;
        for (index, content) in bytes.as_chunks::<PAGE_SIZE>().0.iter().enumerate() {
            let mask = sectors(index);
            if mask != 0 {
                let page = first + index as u64;
                let merged = merge(self.current.get(page), Some(Rc::new(*content)), mask);
                self.store(page, merged);
            }
        }
        self.bound_cache();
    }

    fn store(&mut self, page: u64, content: Option<Page>) {
        self.current.set(page, content.clone());
        self.unflushed.push_back(Unflushed {
            write: self.writes_completed,
            page,
            content,
            is_given_up: false,
        });
    }

    /// Makes the oldest writes durable, each as a whole, until the cache is within its bound.
    fn bound_cache(&mut self) {
        let alive = |unflushed: &&Unflushed| !unflushed.is_given_up;
        while self.unflushed.len() > UNFLUSHED_PAGES_MAX
            && let Some(oldest) = self.unflushed.iter().find(alive)
        {
            let oldest = oldest.write;
            self.make_durable(oldest);
        }
    }

    /// Makes every write up to number `write` durable.
    fn make_durable(&mut self, write: u64) {
        let mut given_up = Vec::new();
        while let Some(unflushed) = self
            .unflushed
            .pop_front_if(|unflushed| unflushed.write <= write)
        {
            if unflushed.is_given_up {
                given_up.push(unflushed);
            } else {
                self.durable.set(unflushed.page, unflushed.content);
            }
        }
        // What a power cut takes back is still to be known.
        for unflushed in given_up.into_iter().rev() {
            self.unflushed.push_front(unflushed);
        }
    }
}

fn page_range(offset: u64, length: u64) -> Range<u64> {
    let page_size = PAGE_SIZE as u64;
    offset / page_size..(offset + length) / page_size
}

/// The sectors of `new` in `mask`, and the others of `old`.
fn merge(old: Option<&Page>, new: Option<Page>, mask: u8) -> Option<Page> {
    if mask == WHOLE_PAGE {
        return new;
    }
    let mut merged = old.cloned().unwrap_or_else(zero_page);
    let bytes = Rc::make_mut(&mut merged);
    for sector in (0..SECTORS).filter(|sector| mask & (1 << sector) != 0) {
        let range = sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
        match &new {
            Some(new) => bytes[range.clone()].copy_from_slice(&new[range]),
            None => bytes[range].fill(0),
        }
    }
    Some(merged)
}

/// Which sectors of each of `pages` pages a torn write reached: a run from the start or any subset,
/// in units of `unit` bytes.
fn tear(prng: &Prng, pages: usize, unit: usize) -> Vec<u8> {
    let units = pages * PAGE_SIZE / unit;
    let sectors_each = unit / SECTOR_SIZE;
    let is_prefix = prng.coin();
    let reached = prng.below(units as u64 + 1) as usize;
    let mut masks = vec![0u8; pages];
    for index in 0..units {
        if if is_prefix {
            index < reached
        } else {
            prng.coin()
        } {
            for sector in index * sectors_each..(index + 1) * sectors_each {
                masks[sector / SECTORS] |= 1 << (sector % SECTORS);
            }
        }
    }
    masks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tear_in_pages_leaves_whole_pages_and_one_in_sectors_does_not() {
        let prng = Prng::new(1);
        let in_pages = (0..100).flat_map(|_| tear(&prng, 4, PAGE_SIZE));
        assert!(
            in_pages
                .into_iter()
                .all(|mask| mask == 0 || mask == WHOLE_PAGE)
        );
        let in_sectors = (0..100).flat_map(|_| tear(&prng, 4, SECTOR_SIZE));
        assert!(
            in_sectors
                .into_iter()
                .any(|mask| mask != 0 && mask != WHOLE_PAGE)
        );
    }

    #[test]
    fn merging_takes_the_named_sectors_of_the_new_page() {
        let old: Page = Rc::new([1; PAGE_SIZE]);
        let merged = merge(Some(&old), Some(Rc::new([2; PAGE_SIZE])), 0b10).expect("a page");
        assert_eq!(merged[SECTOR_SIZE - 1], 1);
        assert_eq!(merged[SECTOR_SIZE..2 * SECTOR_SIZE], [2; SECTOR_SIZE]);
        assert_eq!(merged[2 * SECTOR_SIZE], 1);
    }
}
