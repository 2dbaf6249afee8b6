//! Reports: run files in, one HTML page out, which needs nothing but itself.
//!
//! The invariant: whatever stands in a run file is text. It reaches the page only through `maud`,
//! which escapes it, or as JSON within `sections::attachments`, where `<` is written as an escape.
//! A report measures nothing and decides nothing that the runs did not: it shows, compares, and says
//! in words what to doubt.
//!
//! | module | holds |
//! |---|---|
//! | `source` | run files |
//! | `rounds` | points that were taken alike, and names for them |
//! | `warnings` | what not to overlook about a point |
//! | `chart` | drawings |
//! | `sections` | the parts of the page |
//! | `changes` | two sets of runs against each other, as text too |
//! | `number` | how numbers are written |

mod changes;
mod chart;
#[cfg(test)]
mod fixtures;
mod number;
mod page;
mod rounds;
mod sections;
mod source;
#[cfg(test)]
mod tests;
mod warnings;

pub use changes::text as changes_as_text;
pub use page::page;
pub use source::Source;

/// What a page is made of.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Its title.
    pub title: &'a str,
    /// The runs that it is about, at least one.
    pub runs: &'a [Source],
    /// Earlier runs to compare them with.
    pub against: &'a [Source],
}
