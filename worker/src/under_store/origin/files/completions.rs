//! Uploads that were completed lately.
//!
//! A client that loses the answer to its completion asks again, perhaps while the first try goes on. The
//! invariant: an upload is completed once, and whoever asks again while it is remembered is told the same.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::under_store::limits::lock;
use crate::under_store::origin::types::Written;

/// Most completions that are remembered; a repetition of an older one finds no such upload.
const COMPLETIONS_MAX: usize = 1024;

/// Held while an upload is completed: key and outcome, once it is.
#[derive(Debug, Default)]
pub(crate) struct Completion(Mutex<Option<(String, Written)>>);

/// By upload id, the oldest first.
type ById = VecDeque<(String, Arc<Completion>)>;

/// The completions of a tree, shared by clones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Completions(Arc<Mutex<ById>>);

impl Completions {
    /// The completion of the upload `id`, perhaps one that is under way or has ended.
    pub fn of(&self, id: &str) -> Arc<Completion> {
        let mut all = lock(&self.0);
        if let Some((_, completion)) = all.iter().rev().find(|(other, _)| other == id) {
            return Arc::clone(completion);
        }
        if all.len() >= COMPLETIONS_MAX {
            all.pop_front();
        }
        let completion = Arc::<Completion>::default();
        all.push_back((id.to_owned(), Arc::clone(&completion)));
        completion
    }
}

impl Completion {
    /// Waits until nobody else completes it; what is in there then is the outcome. Blocks.
    pub fn enter(&self) -> MutexGuard<'_, Option<(String, Written)>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_completions_are_remembered() {
        let completions = Completions::default();
        let written = Written {
            etag: "\"e\"".to_owned(),
            ..Written::default()
        };
        *completions.of("first").enter() = Some(("key".to_owned(), written.clone()));
        assert_eq!(
            *completions.clone().of("first").enter(),
            Some(("key".to_owned(), written))
        );
        for number in 0..COMPLETIONS_MAX {
            assert_eq!(*completions.of(&number.to_string()).enter(), None);
        }
        assert_eq!(*completions.of("first").enter(), None);
    }
}
