//! Memory that look-ups hold while they run, beside the caches: charged before it is allocated.
//!
//! A worker has one [`Pool`]; each look-up in an object has an [`Account`] that draws from it. A [`Charge`] stands
//! for bytes that are about to be allocated and gives them back when it is dropped. The invariant: the charges of
//! an account never exceed its limit, and what all accounts hold beyond their [`ALLOWANCE_BYTES`] never exceeds the
//! pool's limit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{ErrorKind, LookupError, Result};

/// Bytes that an account holds without drawing from the pool: most look-ups find their pages in the cache or decode
/// one or two, and do not touch the counter that all cores share.
pub const ALLOWANCE_BYTES: u64 = 256 << 10;

/// Bytes that an account draws at a time: one access to the shared counter for several pages.
const PIECE_BYTES: u64 = 1 << 20;

/// Limit of an account that no worker has configured: the largest page, decompressed, beside its compressed bytes.
const ACCOUNT_BYTES_DEFAULT: u64 = 512 << 20;

/// Memory that all look-ups of a worker share.
#[derive(Debug)]
pub struct Pool {
    limit_bytes: u64,
    drawn_bytes: AtomicU64,
}

impl Pool {
    /// Creates a pool of `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Arc<Pool> {
        Arc::new(Pool {
            limit_bytes,
            drawn_bytes: AtomicU64::new(0),
        })
    }

    /// Bytes of the pool.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Bytes that accounts have drawn.
    pub fn drawn_bytes(&self) -> u64 {
        self.drawn_bytes.load(Ordering::Relaxed)
    }

    fn draw(&self, bytes: u64) -> bool {
        let drawn = |drawn: u64| {
            drawn
                .checked_add(bytes)
                .filter(|drawn| *drawn <= self.limit_bytes)
        };
        let order = Ordering::Relaxed;
        self.drawn_bytes.fetch_update(order, order, drawn).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.drawn_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Balance {
    bytes: u64,
    /// Of the pool: never less than `bytes` without the allowance.
    drawn_bytes: u64,
    peak_bytes: u64,
}

#[derive(Debug)]
struct Shared {
    pool: Arc<Pool>,
    limit_bytes: u64,
    held: Mutex<Balance>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.pool.give_back(held.drawn_bytes);
    }
}

/// The memory of one look-up in one object.
#[derive(Clone, Debug)]
pub struct Account(Arc<Shared>);

impl Default for Account {
    /// Creates an account with a pool of its own, of the default limit.
    fn default() -> Self {
        Account::new(&Pool::new(u64::MAX), ACCOUNT_BYTES_DEFAULT)
    }
}

impl Account {
    /// Creates an account of at most `limit_bytes` that draws from `pool`.
    pub fn new(pool: &Arc<Pool>, limit_bytes: u64) -> Account {
        Account(Arc::new(Shared {
            pool: Arc::clone(pool),
            limit_bytes,
            held: Mutex::default(),
        }))
    }

    /// Charges `bytes` that are about to be allocated.
    ///
    /// # Errors
    /// `TooMuch` if the account would hold more than its limit; `Busy` if the pool has no more for now.
    pub fn charge(&self, bytes: u64) -> Result<Charge> {
        let mut charge = self.empty();
        charge.add(bytes)?;
        Ok(charge)
    }

    /// Makes a charge of nothing, to add to.
    pub fn empty(&self) -> Charge {
        Charge {
            account: self.clone(),
            bytes: 0,
        }
    }

    /// Most bytes that the account may hold.
    pub fn limit_bytes(&self) -> u64 {
        self.0.limit_bytes
    }

    /// Bytes that it holds now.
    pub fn held_bytes(&self) -> u64 {
        self.held().bytes
    }

    /// Most bytes that it held at a time.
    pub fn peak_bytes(&self) -> u64 {
        self.held().peak_bytes
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Balance> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: u64) -> Result<()> {
        let shared = &*self.0;
        let mut held = self.held();
        let wanted = held.bytes.saturating_add(bytes);
        if wanted > shared.limit_bytes {
            return Err(LookupError::new(
                ErrorKind::TooMuch,
                format!(
                    "{bytes} bytes of memory more are needed at once, where the look-up holds {} of {} (half of \
                     lookup_working_memory): narrow the predicate, select fewer columns, or write smaller pages",
                    held.bytes, shared.limit_bytes
                ),
            ));
        }
        let beyond = wanted.saturating_sub(ALLOWANCE_BYTES);
        if beyond > held.drawn_bytes {
            let missing = beyond - held.drawn_bytes;
            let piece = missing.next_multiple_of(PIECE_BYTES);
            let drawn = [piece, missing]
                .into_iter()
                .find(|bytes| shared.pool.draw(*bytes));
            held.drawn_bytes += drawn.ok_or_else(|| {
                LookupError::new(
                    ErrorKind::Busy,
                    format!(
                        "look-ups hold all {} bytes of lookup_working_memory; retry",
                        shared.pool.limit_bytes
                    ),
                )
            })?;
        }
        held.bytes = wanted;
        held.peak_bytes = held.peak_bytes.max(wanted);
        Ok(())
    }

    fn release(&self, bytes: u64) {
        let mut held = self.held();
        held.bytes -= bytes;
        let needed = held.bytes.saturating_sub(ALLOWANCE_BYTES);
        let surplus = held.drawn_bytes - needed;
        // A piece is kept: what is released is often charged again at once.
        if surplus > PIECE_BYTES || held.bytes == 0 {
            held.drawn_bytes = needed;
            drop(held);
            self.0.pool.give_back(surplus);
        }
    }
}

/// Bytes that are charged to an account until this is dropped.
#[derive(Debug)]
pub struct Charge {
    account: Account,
    bytes: u64,
}

impl Charge {
    /// Bytes that are charged.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Account that they are charged to.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Charges `bytes` more.
    ///
    /// # Errors
    /// As [`Account::charge`]; nothing is charged then.
    pub fn add(&mut self, bytes: u64) -> Result<()> {
        if bytes > 0 {
            self.account.take(bytes)?;
            self.bytes += bytes;
        }
        Ok(())
    }

    /// Charges an allocation of `count` values of type `T` more.
    ///
    /// # Errors
    /// As [`Account::charge`].
    pub fn add_values<T>(&mut self, count: usize) -> Result<()> {
        self.add((count as u64).saturating_mul(size_of::<T>() as u64))
    }

    /// Adds a value to a vector whose memory is charged here, its growth before it grows.
    ///
    /// # Errors
    /// As [`Account::charge`]; the vector is as it was.
    #[inline]
    pub fn push<T>(&mut self, values: &mut Vec<T>, value: T) -> Result<()> {
        if values.len() == values.capacity() {
            self.grow(values)?;
        }
        values.push(value);
        Ok(())
    }

    #[cold]
    fn grow<T>(&mut self, values: &mut Vec<T>) -> Result<()> {
        let old = values.capacity();
        let more = old.max(8);
        // Both copies are there while values move.
        self.add_values::<T>(old + more)?;
        values.reserve_exact(more);
        self.reduce((old * size_of::<T>()) as u64);
        Ok(())
    }

    /// Gives back `bytes` of it.
    ///
    /// # Panics
    /// If so many are not charged.
    pub fn reduce(&mut self, bytes: u64) {
        assert!(bytes <= self.bytes, "{bytes} of {} bytes", self.bytes);
        if bytes > 0 {
            self.bytes -= bytes;
            self.account.release(bytes);
        }
    }

    /// Makes it `bytes`: what is left when work is done.
    ///
    /// # Errors
    /// As [`Account::charge`], if that is more.
    pub fn settle(&mut self, bytes: u64) -> Result<()> {
        match self.bytes.checked_sub(bytes) {
            Some(surplus) => self.reduce(surplus),
            None => self.add(bytes - self.bytes)?,
        }
        Ok(())
    }

    /// Takes over what `other` has charged to the same account.
    ///
    /// # Panics
    /// If it is of another account.
    pub fn absorb(&mut self, mut other: Charge) {
        assert!(
            Arc::ptr_eq(&self.account.0, &other.account.0),
            "charges of one account"
        );
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.account.release(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_ends_at_its_limit_and_gives_back_what_is_dropped() {
        let pool = Pool::new(64 << 20);
        let account = Account::new(&pool, 8 << 20);
        let small = account.charge(ALLOWANCE_BYTES).expect("its allowance");
        assert_eq!(pool.drawn_bytes(), 0, "most look-ups draw nothing");
        let mut large = account.charge(7 << 20).expect("within the limit");
        assert!(pool.drawn_bytes() >= 7 << 20);
        assert_eq!(
            large.add(1 << 20).expect_err("too much").kind,
            ErrorKind::TooMuch
        );
        large.settle(2 << 20).expect("it is less");
        large.add(1 << 20).expect("there is room again");
        drop((small, large));
        assert_eq!((account.held_bytes(), pool.drawn_bytes()), (0, 0));
        assert!(account.peak_bytes() <= account.limit_bytes());
    }

    #[test]
    fn a_pool_that_is_drawn_by_others_is_busy() {
        let pool = Pool::new(4 << 20);
        let accounts = [(); 3].map(|()| Account::new(&pool, 4 << 20));
        let first = accounts[0].charge(3 << 20).expect("the pool is empty");
        let error = accounts[1]
            .charge(3 << 20)
            .expect_err("3 of 4 MiB are gone");
        assert_eq!(error.kind, ErrorKind::Busy);
        accounts[2].charge(1 << 20).expect("so much is left");
        drop(first);
        accounts[1].charge(3 << 20).expect("it was given back");
        assert_eq!(pool.drawn_bytes(), 0);
    }

    #[test]
    fn vectors_grow_only_as_far_as_they_are_charged() {
        let account = Account::new(&Pool::new(u64::MAX), 1 << 20);
        let (mut charge, mut values) = (account.empty(), Vec::new());
        let pushed = (0..u64::MAX).try_for_each(|value| charge.push(&mut values, value));
        assert_eq!(pushed.expect_err("it ends").kind, ErrorKind::TooMuch);
        assert_eq!(charge.bytes(), (values.capacity() * 8) as u64);
        assert!(values.capacity() * 8 * 3 > 1 << 20);
        assert!(account.peak_bytes() <= 1 << 20);
    }
}
