//! Who may enter: tokens, and the name and rights of their bearers.
//!
//! The invariant: how long a refusal takes says nothing about how near a guess was. Entering
//! happens once a connection, so the lock around the tokens is never on the way of a read.

use std::fmt;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use corelane_s3::credentials::Credentials;

use crate::config::{Config, TOKEN_BYTES_MAX, Token};
use crate::mount::{AccessSet, MountTable};

/// The tokens of a worker. Shared by all shards and the control plane.
pub struct Access {
    tokens: RwLock<Vec<Token>>,
    insecure: bool,
    s3: RwLock<Arc<Credentials>>,
    /// Counts the changes of the keys, so that cores notice them.
    s3_generation: AtomicU64,
}

/// Someone who entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    name: String,
    is_operator: bool,
}

/// Why someone may not enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnterError {
    /// No token came and one is needed.
    #[error("a token is needed; ask the operator for one")]
    Missing,
    /// The token is none of ours.
    #[error("the token is not valid here; ask the operator for a new one")]
    Unknown,
}

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Access")
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// Access by `tokens`. Without any, and with `insecure`, who brings none enters as an operator.
    pub fn new(tokens: Vec<Token>, insecure: bool) -> Self {
        Access {
            tokens: RwLock::new(tokens),
            insecure,
            s3: RwLock::new(Arc::new(Credentials::new(Vec::new(), None))),
            s3_generation: AtomicU64::new(0),
        }
    }

    /// What `config` says.
    pub fn of_config(config: &Config) -> Self {
        let access = Access::new(config.tokens.clone(), config.insecure);
        access.replace_s3(config.s3.credentials());
        access
    }

    /// Everyone enters, as an operator.
    pub fn open() -> Self {
        Access::new(Vec::new(), true)
    }

    /// Replaces the tokens. Who entered with one that is gone loses its rights at the next call of
    /// [`Access::set_of`].
    pub fn replace(&self, tokens: Vec<Token>) {
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    /// Replaces the keys of the S3 face and what they may do, from the next request on.
    pub fn replace_s3(&self, credentials: Credentials) {
        let mut current = self.s3.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(credentials);
        self.s3_generation.fetch_add(1, Ordering::Release);
    }

    /// The keys of the S3 face.
    pub fn s3(&self) -> Arc<Credentials> {
        Arc::clone(&self.s3.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another number after every change of the keys.
    #[inline]
    pub fn s3_generation(&self) -> u64 {
        self.s3_generation.load(Ordering::Acquire)
    }

    /// Who the bearer of `token` is; empty: none was given.
    ///
    /// # Errors
    /// When a token is needed and this one is not ours.
    pub fn enter(&self, token: &str) -> Result<Reader, EnterError> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        if token.is_empty() {
            return if self.admits_anyone(&tokens) {
                Ok(Reader::anonymous())
            } else {
                Err(EnterError::Missing)
            };
        }
        let mut found = None;
        for known in tokens.iter() {
            // No early end: the time depends on the number of tokens alone.
            if is_same(known.secret.as_bytes(), token.as_bytes()) {
                found = Some(Reader {
                    name: known.name.clone(),
                    is_operator: known.is_operator,
                });
            }
        }
        match found {
            Some(reader) => Ok(reader),
            // A client that brings a token to a worker without any is as welcome as one without.
            None if self.admits_anyone(&tokens) => Ok(Reader::anonymous()),
            None => Err(EnterError::Unknown),
        }
    }

    /// What `reader` may read of `table`; nothing once its token is gone.
    pub fn set_of(&self, table: &MountTable, reader: &str) -> AccessSet {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let is_known = if reader.is_empty() {
            self.admits_anyone(&tokens)
        } else {
            tokens.iter().any(|token| token.name == reader)
        };
        if is_known {
            AccessSet::of_reader(table, reader)
        } else {
            AccessSet::none()
        }
    }

    fn admits_anyone(&self, tokens: &[Token]) -> bool {
        self.insecure || tokens.is_empty()
    }
}

impl Reader {
    /// Who enters without a token.
    pub fn anonymous() -> Self {
        Reader {
            name: String::new(),
            is_operator: true,
        }
    }

    /// Name of the token; empty without one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may change things.
    pub fn is_operator(&self) -> bool {
        self.is_operator
    }
}

/// Whether two tokens are the same, in a time that does not depend on their bytes or lengths.
fn is_same(known: &[u8], given: &[u8]) -> bool {
    let mut difference = known.len() ^ given.len();
    for index in 0..TOKEN_BYTES_MAX {
        let left = known.get(index).copied().unwrap_or(0);
        let right = given.get(index).copied().unwrap_or(0);
        difference = black_box(difference | usize::from(left ^ right));
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Admission, Freshness, Mount, MountId};
    use proptest::prelude::*;

    fn token(name: &str, secret: &str, is_operator: bool) -> Token {
        Token {
            name: name.to_owned(),
            secret: secret.to_owned(),
            is_operator,
        }
    }

    fn mount(id: u16, readers: &[&str]) -> Mount {
        Mount {
            id: MountId(id),
            path: format!("/{id}"),
            uri: format!("s3://bucket/{id}"),
            block_bytes: 1 << 20,
            freshness: Freshness::Immutable,
            admission: Admission::Always,
            key_indexes: Vec::new(),
            readers: readers.iter().map(|name| (*name).to_owned()).collect(),
            options: Default::default(),
            is_runtime: false,
        }
    }

    #[test]
    fn a_token_is_needed_as_soon_as_there_is_one() {
        let access = Access::new(Vec::new(), false);
        assert!(access.enter("").is_ok_and(|reader| reader.is_operator()));
        let access = Access::new(vec![token("training", "0123456789abcdef", false)], false);
        assert_eq!(access.enter(""), Err(EnterError::Missing));
        assert_eq!(access.enter("0123456789abcdeF"), Err(EnterError::Unknown));
        assert_eq!(access.enter("0123456789abcdef\0"), Err(EnterError::Unknown));
        let reader = access
            .enter("0123456789abcdef")
            .expect("the token is right");
        assert_eq!((reader.name(), reader.is_operator()), ("training", false));
        let insecure = Access::new(vec![token("training", "0123456789abcdef", false)], true);
        assert_eq!(insecure.enter(""), Ok(Reader::anonymous()));
    }

    #[test]
    fn a_token_that_is_gone_reads_nothing_any_more() {
        let access = Access::new(vec![token("a", "0123456789abcdef", false)], false);
        let table =
            MountTable::new([mount(0, &[]), mount(1, &["b"]), mount(2, &["a"])]).expect("valid");
        let allowed = |access: &Access, reader: &str| {
            let set = access.set_of(&table, reader);
            [0, 1, 2].map(|id| set.allows(MountId(id)))
        };
        assert_eq!(allowed(&access, "a"), [true, false, true]);
        assert_eq!(allowed(&access, ""), [false; 3]);
        access.replace(vec![token("b", "fedcba9876543210", false)]);
        assert_eq!(allowed(&access, "a"), [false; 3]);
        assert_eq!(access.enter("0123456789abcdef"), Err(EnterError::Unknown));
        assert_eq!(allowed(&access, "b"), [true, true, false]);
    }

    proptest! {
        #[test]
        fn only_the_same_bytes_are_the_same(left in ".{0,40}", right in ".{0,40}") {
            prop_assert_eq!(is_same(left.as_bytes(), right.as_bytes()), left == right);
            prop_assert!(is_same(left.as_bytes(), left.as_bytes()));
        }
    }
}
