//! Who may do what: access keys and their rules.
//!
//! The invariant: a secret is in no text that this crate writes. It is given once and leaves only as
//! the key of an HMAC.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// What is done to a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Get objects and their heads.
    Read,
    /// List objects, uploads and parts, and see that a bucket is there.
    List,
    /// Put and copy objects, upload parts, create buckets.
    Write,
    /// Delete objects.
    Delete,
}

impl Verb {
    const ALL: [Verb; 4] = [Verb::Read, Verb::List, Verb::Write, Verb::Delete];

    fn bit(self) -> u8 {
        match self {
            Verb::Read => 1,
            Verb::List => 2,
            Verb::Write => 4,
            Verb::Delete => 8,
        }
    }
}

/// A set of verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verbs(u8);

impl Verbs {
    /// All of them.
    pub fn all() -> Self {
        Verb::ALL.into_iter().collect()
    }

    /// Whether the verb is among them.
    pub fn contains(self, verb: Verb) -> bool {
        self.0 & verb.bit() != 0
    }
}

impl FromIterator<Verb> for Verbs {
    fn from_iter<I: IntoIterator<Item = Verb>>(verbs: I) -> Self {
        Verbs(verbs.into_iter().fold(0, |bits, verb| bits | verb.bit()))
    }
}

/// Allows verbs on buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Names of buckets; with a `*` at the end, all that begin so.
    pub buckets: Vec<String>,
    /// What is allowed there.
    pub verbs: Verbs,
}

impl Rule {
    /// Everything everywhere.
    pub fn all() -> Self {
        Rule {
            buckets: vec!["*".to_owned()],
            verbs: Verbs::all(),
        }
    }

    fn allows(&self, verb: Verb, bucket: &str) -> bool {
        self.verbs.contains(verb)
            && self
                .buckets
                .iter()
                .any(|pattern| match pattern.strip_suffix('*') {
                    Some(prefix) => bucket.starts_with(prefix),
                    None => pattern == bucket,
                })
    }
}

/// One key of the configuration.
pub struct AccessKey {
    /// What the configuration calls it; for logs and metrics.
    pub name: String,
    /// The public half, which requests name.
    pub id: String,
    /// What it allows; without rules nothing.
    pub rules: Vec<Rule>,
    secret: Box<str>,
}

impl AccessKey {
    /// A key with its secret.
    pub fn new(name: String, id: String, secret: String, rules: Vec<Rule>) -> Self {
        AccessKey {
            name,
            id,
            rules,
            secret: secret.into_boxed_str(),
        }
    }

    /// Whether the key allows a verb on a bucket.
    pub fn may(&self, verb: Verb, bucket: &str) -> bool {
        may(&self.rules, verb, bucket)
    }

    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AccessKey")
            .field("name", &self.name)
            .field("id", &self.id)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

pub(crate) fn may(rules: &[Rule], verb: Verb, bucket: &str) -> bool {
    rules.iter().any(|rule| rule.allows(verb, bucket))
}

/// All keys of a configuration.
#[derive(Debug)]
pub struct Credentials {
    keys: HashMap<String, Arc<AccessKey>>,
    anonymous: Option<Arc<[Rule]>>,
}

impl Credentials {
    /// Keys by their ids; of two with the same id the last counts. `anonymous` is what requests
    /// without a signature may do; `None`: they are refused.
    pub fn new(keys: Vec<AccessKey>, anonymous: Option<Vec<Rule>>) -> Self {
        Credentials {
            keys: keys
                .into_iter()
                .map(|key| (key.id.clone(), Arc::new(key)))
                .collect(),
            anonymous: anonymous.map(Arc::from),
        }
    }

    /// The key of that id.
    pub fn key(&self, id: &str) -> Option<&Arc<AccessKey>> {
        self.keys.get(id)
    }

    /// The key that `key` is here: that of the same id and secret, with the rules that it has here.
    pub fn renewed(&self, key: &AccessKey) -> Option<&Arc<AccessKey>> {
        self.key(&key.id).filter(|now| now.secret == key.secret)
    }

    /// Whether requests without a signature may do `verb` to `bucket`.
    pub fn anonymous_may(&self, verb: Verb, bucket: &str) -> bool {
        let rules = self.anonymous.as_ref();
        rules.is_some_and(|rules| may(rules, verb, bucket))
    }

    /// What requests without a signature may do.
    pub fn anonymous(&self) -> Option<&Arc<[Rule]>> {
        self.anonymous.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(rules: Vec<Rule>) -> AccessKey {
        AccessKey::new("etl".into(), "AKIA".into(), "wJalrXUtnFEMI".into(), rules)
    }

    fn rule(bucket: &str, verbs: &[Verb]) -> Rule {
        Rule {
            buckets: vec![bucket.to_owned()],
            verbs: verbs.iter().copied().collect(),
        }
    }

    #[test]
    fn a_key_is_the_same_only_with_the_same_id_and_secret() {
        let old = key(vec![rule("lake", &[Verb::Write])]);
        let now = Credentials::new(vec![key(vec![rule("lake", &[Verb::Read])])], None);
        let renewed = now.renewed(&old).expect("the same key");
        assert!(renewed.may(Verb::Read, "lake") && !renewed.may(Verb::Write, "lake"));
        let rotated = AccessKey::new("etl".into(), "AKIA".into(), "other".into(), Vec::new());
        assert!(now.renewed(&rotated).is_none());
        assert!(Credentials::new(Vec::new(), None).renewed(&old).is_none());
        assert!(!now.anonymous_may(Verb::Read, "lake"));
    }

    #[test]
    fn a_key_without_rules_may_do_nothing() {
        assert!(!key(Vec::new()).may(Verb::Read, "lake"));
        assert!(!key(Vec::new()).may(Verb::List, ""));
    }

    #[test]
    fn rules_name_buckets_exactly_or_by_their_begin() {
        let key = key(vec![
            rule("lake", &[Verb::Read, Verb::List]),
            rule("tmp-*", &[Verb::Write]),
        ]);
        assert!(key.may(Verb::Read, "lake") && key.may(Verb::List, "lake"));
        assert!(!key.may(Verb::Write, "lake") && !key.may(Verb::Delete, "lake"));
        assert!(
            !key.may(Verb::Read, "lake2")
                && !key.may(Verb::Read, "lak")
                && !key.may(Verb::Read, "Lake")
        );
        assert!(
            key.may(Verb::Write, "tmp-")
                && key.may(Verb::Write, "tmp-1")
                && !key.may(Verb::Write, "tmp")
        );
        assert!(
            Verb::ALL
                .iter()
                .all(|&verb| self::key(vec![Rule::all()]).may(verb, "any"))
        );
    }

    #[test]
    fn a_secret_is_in_no_debug_text() {
        let credentials = Credentials::new(vec![key(vec![Rule::all()])], None);
        let text = format!("{credentials:?} {:#?}", credentials.key("AKIA"));
        assert!(text.contains("AKIA") && !text.contains("wJalr"), "{text}");
    }
}
