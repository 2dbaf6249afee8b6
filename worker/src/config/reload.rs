//! What changed between two configurations, and which of it a running worker can take over.

use super::Config;
use super::fields::Fields;
use super::keys;

/// Changed keys, each as one line such as `limits.scrub_reads: 8388608 -> 0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Applied at once.
    pub applied: Vec<String>,
    /// Take effect at the next start only.
    pub need_restart: Vec<String>,
}

impl Changes {
    /// What changes from `old` to `new`. Secrets and store options are never shown.
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut changes = Changes::default();
        let (before, after) = (&old.document, &new.document);
        changes.add_section("", &before.top, &after.top);
        changes.add_section("limits.", &before.limits, &after.limits);
        changes.add_section("s3.", &before.s3, &after.s3);
        changes.add_section("log.", &before.log, &after.log);
        changes.add_list(keys::TOKEN, "name", &before.tokens, &after.tokens);
        changes.add_list(keys::S3_KEY, "id", &before.s3_keys, &after.s3_keys);
        changes.add_list(keys::MOUNT, "path", &before.mounts, &after.mounts);
        for token in &new.tokens {
            let earlier = old.tokens.iter().find(|other| other.name == token.name);
            let is_other = earlier.is_some_and(|earlier| earlier.secret != token.secret);
            changes.note_secret(format!("token {}", token.name), is_other);
        }
        for key in &new.s3.keys {
            let earlier = old.s3.keys.iter().find(|other| other.id == key.id);
            let is_other = earlier.is_some_and(|earlier| earlier.secret != key.secret);
            changes.note_secret(format!("s3_key {}", key.id), is_other);
        }
        changes
    }

    /// The secret itself may have changed behind the same file name.
    fn note_secret(&mut self, label: String, is_other: bool) {
        let is_noted = self.applied.iter().any(|line| line.starts_with(&label));
        if is_other && !is_noted {
            self.applied.push(format!("{label}: secret changed"));
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.need_restart.is_empty()
    }

    fn add_section(&mut self, prefix: &str, before: &Fields, after: &Fields) {
        for (key, old) in before.iter() {
            let new = after.get(key.name);
            if old != new {
                let line = format!("{prefix}{}: {old:?} -> {new:?}", key.name);
                let list = if key.is_reloadable {
                    &mut self.applied
                } else {
                    &mut self.need_restart
                };
                list.push(line);
            }
        }
    }

    fn add_list(
        &mut self,
        section: &keys::Section,
        name: &str,
        before: &[Fields],
        after: &[Fields],
    ) {
        let named = |list: &[Fields], wanted: &Fields| {
            list.iter()
                .find(|fields| fields.text(name) == wanted.text(name))
                .cloned()
        };
        for new in after {
            let label = format!("{} {}", section.name, new.text(name).unwrap_or_default());
            match named(before, new) {
                None => self.applied.push(format!("{label}: added")),
                Some(old) => self.add_section(&format!("{label}: "), &old, new),
            }
        }
        for old in before {
            if named(after, old).is_none() {
                let label = old.text(name).unwrap_or_default();
                self.applied
                    .push(format!("{} {label}: removed", section.name));
            }
        }
    }
}
