//! What the configuration says of the S3 face: where it listens, and who may do what.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use corelane_s3::credentials::{AccessKey, Credentials, Rule, Verb};

use super::check::{address, missing, number, secret};
use super::fields::Fields;
use super::mistake::Mistakes;

/// The S3 face.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What requests without a signature may do.
    pub anonymous: Vec<Verb>,
    /// Base domains for the virtual-host style.
    pub domains: Vec<String>,
    /// The region that signatures must be for; empty: any.
    pub region: String,
    /// Certificate chain and private key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// File of the access log.
    pub access_log: Option<PathBuf>,
    /// Open connections of each core.
    pub connections: usize,
    /// Who may sign.
    pub keys: Vec<S3Key>,
}

/// One access key.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Key {
    /// What mounts call its bearer.
    pub name: String,
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: String,
    /// Buckets that it may use.
    pub buckets: Vec<String>,
    /// What it may do there.
    pub verbs: Vec<Verb>,
}

impl fmt::Debug for S3Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "S3Key({}, {:?} in {:?})",
            self.id, self.verbs, self.buckets
        )
    }
}

impl S3Config {
    /// Whether anyone may use it, so that it listens.
    pub fn is_open(&self) -> bool {
        !self.keys.is_empty() || !self.anonymous.is_empty()
    }

    /// Who may do what.
    pub fn credentials(&self) -> Credentials {
        let keys = self.keys.iter().map(|key| {
            let rule = Rule {
                buckets: key.buckets.clone(),
                verbs: key.verbs.iter().copied().collect(),
            };
            let (name, id) = (key.name.clone(), key.id.clone());
            AccessKey::new(name, id, key.secret.clone(), vec![rule])
        });
        let anonymous = Rule {
            buckets: vec!["*".to_owned()],
            verbs: self.anonymous.iter().copied().collect(),
        };
        let anonymous = (!self.anonymous.is_empty()).then(|| vec![anonymous]);
        Credentials::new(keys.collect(), anonymous)
    }
}

/// What `fields` and `keys` say.
pub(super) fn s3(fields: &Fields, keys: &[Fields], mistakes: &mut Mistakes) -> S3Config {
    let path = |name| fields.text(name).map(PathBuf::from);
    let tls = match (path("tls_certificate"), path("tls_key")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            let message = "`tls_key`: expected with `tls_certificate`; TLS needs both";
            mistakes.add(fields.origin("tls_certificate"), message);
            None
        }
        (None, Some(_)) => {
            let message = "`tls_certificate`: expected with `tls_key`; TLS needs both";
            mistakes.add(fields.origin("tls_key"), message);
            None
        }
    };
    S3Config {
        listen: address(fields, "listen"),
        anonymous: verbs(fields, "anonymous", mistakes),
        domains: fields.texts("domains"),
        region: fields.text("region").unwrap_or_default(),
        tls,
        access_log: path("access_log"),
        connections: number(fields, "connections") as usize,
        keys: s3_keys(keys, mistakes),
    }
}

fn s3_keys(list: &[Fields], mistakes: &mut Mistakes) -> Vec<S3Key> {
    let mut ids = BTreeSet::new();
    let mut keys = Vec::new();
    for fields in list {
        let secret = secret(fields, "s3_key", mistakes);
        let Some(id) = fields.text("id") else {
            missing(fields, "id", mistakes);
            continue;
        };
        if !ids.insert(id.clone()) {
            let message = format!("`id`: a second key {id}; expected each id once");
            mistakes.add(fields.origin("id"), message);
        }
        let mut allowed = verbs(fields, "verbs", mistakes);
        if allowed.is_empty() {
            allowed = vec![Verb::Read, Verb::List];
        }
        let mut buckets = fields.texts("buckets");
        if buckets.is_empty() {
            buckets.push("*".to_owned());
        }
        if let Some(secret) = secret {
            keys.push(S3Key {
                name: fields.text("name").unwrap_or_else(|| id.clone()),
                id,
                secret,
                buckets,
                verbs: allowed,
            });
        }
    }
    keys
}

fn verbs(fields: &Fields, name: &str, mistakes: &mut Mistakes) -> Vec<Verb> {
    let mut verbs = Vec::new();
    for text in fields.texts(name) {
        match text.as_str() {
            "read" => verbs.push(Verb::Read),
            "list" => verbs.push(Verb::List),
            "write" => verbs.push(Verb::Write),
            "delete" => verbs.push(Verb::Delete),
            _ => mistakes.add(
                fields.origin(name),
                format!("`{name}`: expected some of read, list, write and delete, found `{text}`"),
            ),
        }
    }
    verbs
}
