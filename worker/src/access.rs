//! Who may enter: tokens, and the rights of their bearers.
//!
//! The invariant: a [`Reader`] is an identity, never a right. Rights are decided at each use, from the
//! tokens as they are then, by the secret that was shown: a secret that was removed or rotated has none.
//! How long a refusal takes depends on no secret. The lock around the tokens is never on the way of a read.

use std::fmt;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use corelane_s3::credentials::Credentials;
use ring::digest::{SHA256, digest};

use crate::config::{Config, Token};
use crate::mount::{AccessSet, MountTable};

/// Name of the local token's bearer in logs and messages. No configured token can have it: names have no blanks.
const LOCAL_NAME: &str = "local token";

/// The tokens of a worker. Shared by all shards and the control plane.
pub struct Access {
    tokens: RwLock<Vec<KnownToken>>,
    /// The token that the worker made for the user that it runs as, and for root. It is valid while no others are.
    local: Option<Digest>,
    insecure: bool,
    /// Counts the changes of the tokens, so that whoever holds connections notices them.
    generation: AtomicU64,
    s3: RwLock<Arc<Credentials>>,
    /// Counts the changes of the keys, so that cores notice them.
    s3_generation: AtomicU64,
}

/// A token without its secret.
struct KnownToken {
    name: String,
    secret: Digest,
    is_operator: bool,
}

/// SHA-256 of a secret.
#[derive(Clone, Copy)]
struct Digest([u8; 32]);

impl Digest {
    fn of(secret: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
        Digest(bytes)
    }
}

impl PartialEq for Digest {
    /// In a time that does not depend on the bytes.
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        pairs.fold(0, |difference, (left, right)| {
            black_box(difference | (left ^ right))
        }) == 0
    }
}

impl Eq for Digest {}

/// The identity of someone who entered: which secret was shown, if any.
#[derive(Clone, PartialEq, Eq)]
pub struct Reader {
    name: String,
    proof: Proof,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    None,
    Local,
    Token(Digest),
}

impl fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Reader({:?})", self.name)
    }
}

/// Rights of a [`Reader`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it may change things.
    pub is_operator: bool,
    reads: Reads,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reads {
    /// Mounts whose readers name this token, and those that name nobody. Empty: the latter only.
    AsNamed(String),
    /// All mounts.
    AllMounts,
}

/// A caller in a form that can be kept over a restart, when secrets may have been rotated.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SavedReader {
    /// No token was shown.
    #[default]
    Anonymous,
    /// The local token.
    Local,
    /// The token of this name.
    Token(String),
}

/// Why someone may not enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnterError {
    /// No token came and one is needed.
    #[error(
        "a token is needed: run the command as the user that the worker runs as, name a file with \
         --token-file, or ask the operator for a [[token]]"
    )]
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
    /// Access by `tokens`. With `insecure`, who brings none enters as an operator.
    pub fn new(tokens: Vec<Token>, insecure: bool) -> Self {
        Access {
            tokens: RwLock::new(known(tokens)),
            local: None,
            insecure,
            generation: AtomicU64::new(0),
            s3: RwLock::new(Arc::new(Credentials::new(Vec::new(), None))),
            s3_generation: AtomicU64::new(0),
        }
    }

    /// Access as `config` grants it.
    pub fn of_config(config: &Config) -> Self {
        let mut access = Access::new(config.tokens.clone(), config.insecure);
        access.local = config
            .local_token
            .as_ref()
            .map(|token| Digest::of(&token.0));
        access.replace_s3(config.s3.credentials());
        access
    }

    /// Everyone enters, as an operator.
    pub fn open() -> Self {
        Access::new(Vec::new(), true)
    }

    /// Replaces the tokens. Whoever entered with a secret that is gone has no rights from here on.
    pub fn replace(&self, tokens: Vec<Token>) {
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = known(tokens);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Another number after every change of the tokens.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
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

    /// The identity of the bearer of `token`; empty: none was given.
    ///
    /// # Errors
    /// When a token is needed and this one is not ours.
    pub fn enter(&self, token: &str) -> Result<Reader, EnterError> {
        if token.is_empty() {
            return if self.insecure {
                Ok(Reader::anonymous())
            } else {
                Err(EnterError::Missing)
            };
        }
        let secret = Digest::of(token);
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        if self.local == Some(secret) {
            if !tokens.is_empty() {
                return Err(EnterError::Missing);
            }
            found = Some(Reader::local());
        }
        for known in tokens.iter() {
            // No early end: the time depends on the number of tokens alone.
            if known.secret == secret {
                found = Some(Reader {
                    name: known.name.clone(),
                    proof: Proof::Token(secret),
                });
            }
        }
        match found {
            Some(reader) => Ok(reader),
            // A client that brings a token to a worker without any is as welcome as one without.
            None if self.insecure => Ok(Reader::anonymous()),
            None => Err(EnterError::Unknown),
        }
    }

    /// The rights of `reader` now; `None` once its secret is gone.
    pub fn standing(&self, reader: &Reader) -> Option<Standing> {
        match reader.proof {
            Proof::None => self.insecure.then(|| Standing {
                is_operator: true,
                reads: Reads::AsNamed(String::new()),
            }),
            Proof::Local => {
                let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
                let is_valid = self.local.is_some() && tokens.is_empty();
                is_valid.then_some(Standing {
                    is_operator: true,
                    reads: Reads::AllMounts,
                })
            }
            Proof::Token(secret) => {
                let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
                let known = tokens.iter().find(|known| known.secret == secret)?;
                Some(Standing {
                    is_operator: known.is_operator,
                    reads: Reads::AsNamed(known.name.clone()),
                })
            }
        }
    }

    /// Mounts of `table` that `reader` may read now; none once its secret is gone.
    pub fn set_of(&self, table: &MountTable, reader: &Reader) -> AccessSet {
        self.standing(reader)
            .map_or_else(AccessSet::none, |standing| standing.set_of(table))
    }

    /// The caller of a job that was kept over a restart; `None` if nobody is called so any more.
    pub fn restored(&self, saved: &SavedReader) -> Option<Reader> {
        let reader = match saved {
            SavedReader::Anonymous => Reader::anonymous(),
            SavedReader::Local => Reader::local(),
            SavedReader::Token(name) => {
                let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
                let known = tokens.iter().find(|known| known.name == *name)?;
                Reader {
                    name: name.clone(),
                    proof: Proof::Token(known.secret),
                }
            }
        };
        self.standing(&reader).map(|_| reader)
    }
}

fn known(tokens: Vec<Token>) -> Vec<KnownToken> {
    let known = tokens.into_iter().map(|token| KnownToken {
        secret: Digest::of(&token.secret),
        name: token.name,
        is_operator: token.is_operator,
    });
    known.collect()
}

impl Standing {
    /// Mounts of `table` that may be read.
    pub fn set_of(&self, table: &MountTable) -> AccessSet {
        match &self.reads {
            Reads::AsNamed(name) => AccessSet::of_reader(table, name),
            Reads::AllMounts => AccessSet::of_all_mounts(table),
        }
    }
}

impl Reader {
    /// Who enters without a token.
    pub fn anonymous() -> Self {
        Reader {
            name: String::new(),
            proof: Proof::None,
        }
    }

    fn local() -> Self {
        Reader {
            name: LOCAL_NAME.to_owned(),
            proof: Proof::Local,
        }
    }

    /// Name of the token when it entered; empty without one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The form that is kept over a restart.
    pub fn saved(&self) -> SavedReader {
        match self.proof {
            Proof::None => SavedReader::Anonymous,
            Proof::Local => SavedReader::Local,
            Proof::Token(_) => SavedReader::Token(self.name.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Admission, Freshness, Mount, MountId};

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
    fn nobody_enters_without_a_token_unless_that_is_said() {
        let access = Access::new(Vec::new(), false);
        assert_eq!(access.enter(""), Err(EnterError::Missing));
        assert_eq!(access.standing(&Reader::anonymous()), None);
        let access = Access::new(vec![token("training", "0123456789abcdef", false)], false);
        assert_eq!(access.enter(""), Err(EnterError::Missing));
        for wrong in ["0123456789abcdeF", "0123456789abcdef\0", "0123456789abcde"] {
            assert_eq!(access.enter(wrong), Err(EnterError::Unknown));
        }
        let reader = access
            .enter("0123456789abcdef")
            .expect("the token is right");
        let is_operator = |reader| access.standing(reader).map(|now| now.is_operator);
        assert_eq!(
            (reader.name(), is_operator(&reader)),
            ("training", Some(false))
        );
        let insecure = Access::new(vec![token("training", "0123456789abcdef", false)], true);
        assert_eq!(insecure.enter(""), Ok(Reader::anonymous()));
    }

    #[test]
    fn rights_follow_the_secret_and_not_the_name() {
        let (one, other) = ("0123456789abcdef", "fedcba9876543210");
        let access = Access::new(vec![token("a", one, true)], false);
        let reader = access.enter(one).expect("the token is right");
        let is_operator = || access.standing(&reader).map(|now| now.is_operator);
        assert_eq!(is_operator(), Some(true));
        let before = access.generation();
        access.replace(vec![token("a", one, false)]);
        assert_eq!(is_operator(), Some(false), "demoted");
        assert_ne!(access.generation(), before);
        access.replace(vec![token("a", other, true)]);
        assert_eq!(is_operator(), None, "rotated");
        access.replace(vec![token("b", one, false)]);
        let table = MountTable::new([mount(0, &["a"]), mount(1, &["b"])]).expect("valid");
        let set = access.set_of(&table, &reader);
        let allowed = [0, 1].map(|id| set.allows(MountId(id)));
        assert_eq!(allowed, [false, true], "renamed");
        access.replace(Vec::new());
        assert_eq!(is_operator(), None, "removed");
    }

    #[test]
    fn the_local_token_is_an_operators_until_there_is_another() {
        let mut access = Access::new(Vec::new(), false);
        access.local = Some(Digest::of("local-local-local"));
        let reader = access.enter("local-local-local").expect("it is valid");
        let is_operator = || access.standing(&reader).map(|now| now.is_operator);
        assert_eq!(is_operator(), Some(true));
        assert_eq!(access.enter("other-other-other"), Err(EnterError::Unknown));
        access.replace(vec![token("a", "0123456789abcdef", false)]);
        assert_eq!(is_operator(), None);
        assert_eq!(access.enter("local-local-local"), Err(EnterError::Missing));
    }

    #[test]
    fn a_kept_caller_comes_back_by_its_name_only_while_it_is_known() {
        let access = Access::new(vec![token("a", "0123456789abcdef", false)], false);
        let reader = access
            .enter("0123456789abcdef")
            .expect("the token is right");
        assert_eq!(access.restored(&reader.saved()), Some(reader.clone()));
        access.replace(vec![token("a", "fedcba9876543210", false)]);
        let restored = access.restored(&reader.saved()).expect("a is known");
        assert_ne!(restored, reader);
        access.replace(Vec::new());
        for saved in [reader.saved(), SavedReader::Anonymous, SavedReader::Local] {
            assert_eq!(access.restored(&saved), None, "{saved:?}");
        }
    }

    #[test]
    fn a_token_that_is_gone_reads_nothing_any_more() {
        let access = Access::new(vec![token("a", "0123456789abcdef", false)], false);
        let reader = access
            .enter("0123456789abcdef")
            .expect("the token is right");
        let table =
            MountTable::new([mount(0, &[]), mount(1, &["b"]), mount(2, &["a"])]).expect("valid");
        let allowed = |access: &Access, reader: &Reader| {
            let set = access.set_of(&table, reader);
            [0, 1, 2].map(|id| set.allows(MountId(id)))
        };
        assert_eq!(allowed(&access, &reader), [true, false, true]);
        assert_eq!(allowed(&access, &Reader::anonymous()), [false; 3]);
        access.replace(vec![token("b", "fedcba9876543210", false)]);
        assert_eq!(allowed(&access, &reader), [false; 3]);
        assert_eq!(access.enter("0123456789abcdef"), Err(EnterError::Unknown));
        let other = access
            .enter("fedcba9876543210")
            .expect("the token is right");
        assert_eq!(allowed(&access, &other), [true, true, false]);
    }
}
