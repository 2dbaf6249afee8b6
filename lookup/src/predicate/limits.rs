//! How much of a predicate is read before it is refused.
//!
//! Whoever reads a predicate, from text, JSON or the data plane, asks here before it makes a node,
//! so that none of them lets through what another refuses.

use crate::error::{LookupError, Result};
use crate::predicate::{COMPARISONS_MAX, DEPTH_MAX, LITERALS_MAX, Literal};

/// What has been read of one predicate.
#[derive(Default)]
pub(crate) struct Limits {
    comparisons: usize,
    groups: usize,
}

impl Limits {
    /// One comparison more.
    pub(crate) fn comparison(&mut self) -> Result<()> {
        self.comparisons += 1;
        if self.comparisons > COMPARISONS_MAX {
            return Err(LookupError::invalid(format!(
                "more than {COMPARISONS_MAX} comparisons in a predicate; write equalities with one column as \
                 one `in` list"
            )));
        }
        Ok(())
    }

    /// One AND or OR more, of which `depth` are around it or are it.
    pub(crate) fn group(&mut self, depth: usize) -> Result<()> {
        self.groups += 1;
        // A group of fewer than two members says nothing that fewer groups would not.
        if self.groups > COMPARISONS_MAX {
            return Err(LookupError::invalid(format!(
                "more than {COMPARISONS_MAX} groups of `and` and `or` in a predicate; leave out those of one member"
            )));
        }
        if depth > DEPTH_MAX {
            return Err(LookupError::invalid(format!(
                "`and` and `or` nest deeper than {DEPTH_MAX}; leave out the parentheses around alike ones"
            )));
        }
        Ok(())
    }

    /// A list of `count` literals, or one that has got as long as that.
    pub(crate) fn literals(count: usize) -> Result<()> {
        if count > LITERALS_MAX {
            return Err(LookupError::invalid(format!(
                "more than {LITERALS_MAX} literals in a list; ask in several requests"
            )));
        }
        Ok(())
    }

    /// That `literal` can be the beginning of a value.
    pub(crate) fn prefix(literal: &Literal) -> Result<()> {
        match literal {
            Literal::Text(_) | Literal::Binary(_) => Ok(()),
            other => Err(LookupError::invalid(format!(
                "a prefix is a string or binary, not {other}; write '{other}' if it is meant as a string"
            ))),
        }
    }
}
