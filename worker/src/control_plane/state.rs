//! What the devices keep for the control plane over a restart: mounts made at run time and jobs
//! that were not finished. JSON with a version, in the state slots of the store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::access::SavedReader;
use crate::mount::{Mount, MountId};

/// The version that is written. A worker refuses to guess at a newer one.
const VERSION: u32 = 1;

/// The state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedState {
    /// Mounts made at run time.
    pub mounts: Vec<Mount>,
    /// Jobs that were not finished.
    pub jobs: Vec<SavedJob>,
}

/// A job that goes on after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedJob {
    /// Its number.
    pub job: u64,
    /// `load` or `verify`.
    pub kind: String,
    /// Where it works.
    pub path: String,
    /// Whether below the path, too.
    pub recursive: bool,
    /// Whose rights it has. Older workers did not keep it: their jobs go on where nobody needs a token.
    #[serde(default)]
    pub reader: SavedReader,
    /// Everything up to this path is done.
    pub done_to: String,
    /// Objects done so far.
    pub objects_done: u64,
    /// Bytes done so far.
    pub bytes_done: u64,
    /// Of them, bytes that were cached already.
    pub bytes_skipped: u64,
    /// Of them, bytes that the devices did not keep.
    #[serde(default)]
    pub bytes_not_kept: u64,
    /// Objects that failed so far.
    pub failures: u64,
    /// The first of them.
    pub first_failure: String,
    /// Blocks found wrong so far.
    pub blocks_wrong: u64,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    #[serde(default)]
    mounts: Vec<SavedMount>,
    #[serde(default)]
    jobs: Vec<SavedJob>,
}

#[derive(Serialize, Deserialize)]
struct SavedMount {
    path: String,
    uri: String,
    block_bytes: u32,
    freshness: String,
    admission: String,
    #[serde(default)]
    key_indexes: Vec<String>,
    readers: Vec<String>,
    options: BTreeMap<String, String>,
}

/// Why a state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another program wrote it, or it is damaged.
    #[error(
        "the state kept on the devices is not readable ({0}); run-time mounts and unfinished jobs are lost"
    )]
    Malformed(String),
    /// A newer worker wrote it.
    #[error(
        "the state kept on the devices is of version {0}, this worker knows {VERSION}; run the newer worker again"
    )]
    Newer(u32),
}

impl SavedState {
    /// The bytes to be kept.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mounts = self.mounts.iter().map(|mount| SavedMount {
            path: mount.path.clone(),
            uri: mount.uri.clone(),
            block_bytes: mount.block_bytes,
            freshness: mount.freshness.to_string(),
            admission: mount.admission.to_string(),
            key_indexes: mount.key_indexes.clone(),
            readers: mount.readers.clone(),
            options: mount.options.clone(),
        });
        let envelope = Envelope {
            version: VERSION,
            mounts: mounts.collect(),
            jobs: self.jobs.clone(),
        };
        serde_json::to_vec(&envelope).expect("texts and numbers can always be written as JSON")
    }

    /// Reads what [`SavedState::to_bytes`] made; no bytes are an empty state.
    ///
    /// # Errors
    /// When they are damaged or of a newer version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if bytes.is_empty() {
            return Ok(SavedState::default());
        }
        let malformed = |error: serde_json::Error| StateError::Malformed(error.to_string());
        // The version is looked at alone: the rest of a newer state may have another shape.
        let Version { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if version > VERSION {
            return Err(StateError::Newer(version));
        }
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(malformed)?;
        let mounts: Result<Vec<Mount>, StateError> =
            envelope.mounts.into_iter().map(restore).collect();
        Ok(SavedState {
            mounts: mounts?,
            jobs: envelope.jobs,
        })
    }
}

fn restore(saved: SavedMount) -> Result<Mount, StateError> {
    Ok(Mount {
        id: MountId::NONE,
        freshness: saved.freshness.parse().map_err(StateError::Malformed)?,
        admission: saved.admission.parse().map_err(StateError::Malformed)?,
        path: saved.path,
        uri: saved.uri,
        block_bytes: saved.block_bytes,
        key_indexes: saved.key_indexes,
        readers: saved.readers,
        options: saved.options,
        is_runtime: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Admission, Freshness};

    #[test]
    fn state_comes_back_as_it_was_kept() {
        let state = SavedState {
            mounts: vec![Mount {
                id: MountId::NONE,
                path: "/a".to_owned(),
                uri: "s3://a".to_owned(),
                block_bytes: 1 << 20,
                freshness: Freshness::MaxAge(std::time::Duration::from_secs(7)),
                admission: Admission::SecondTouch,
                key_indexes: vec!["o_orderkey".to_owned()],
                readers: vec!["training".to_owned()],
                options: [("region".to_owned(), "eu".to_owned())].into(),
                is_runtime: true,
            }],
            jobs: vec![SavedJob {
                job: 7,
                kind: "load".to_owned(),
                reader: SavedReader::Token("training".to_owned()),
                ..SavedJob::default()
            }],
        };
        assert_eq!(
            SavedState::from_bytes(&state.to_bytes()).expect("own bytes"),
            state
        );
        assert_eq!(
            SavedState::from_bytes(&[]).expect("nothing kept"),
            SavedState::default()
        );
    }

    #[test]
    fn a_newer_or_damaged_state_is_refused_with_a_sentence() {
        let newer = SavedState::from_bytes(br#"{"version":9,"mounts":7}"#).expect_err("newer");
        assert!(newer.to_string().contains("version 9"), "{newer}");
        let damaged = SavedState::from_bytes(b"{\"version\":1,").expect_err("damaged");
        assert!(damaged.to_string().contains("not readable"), "{damaged}");
    }
}
