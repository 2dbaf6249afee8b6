//! Look-ups in Parquet files where their blocks are: predicates, pruning, pages, answers.
//!
//! The crate does no I/O and knows no runtime: whoever runs a look-up gives it a [`Host`] that
//! reads byte ranges of the file and runs long work elsewhere. The invariant: an answer holds
//! exactly the rows that a scan of the whole file would give, whatever was pruned, cached or
//! indexed on the way; what a hostile file says of itself costs bounded memory and time.
//!
//! The way of a look-up:
//!
//! | step | in | what it leaves |
//! |---|---|---|
//! | the paths that it names | [`paths`] | objects, and directories to list |
//! | the predicate's text or JSON | [`predicate`] | a tree of comparisons of columns with literals |
//! | footer of the file, decoded once a version | [`mod@file`] | columns, row groups, statistics |
//! | literals to the columns' types | [`predicate`] | intervals in the column's order |
//! | partition values, statistics, bloom filters, page index | [`prune`] | ranges of rows |
//! | key index, where there is one | [`key_index`] | the rows themselves |
//! | pages, decoded and kept by value | [`page`], [`cache`] | rows that match |
//! | projected columns of these rows | [`execute`] | Arrow arrays |
//! | several files to one table | [`set`] | one schema, rows in order |
//! | Arrow IPC, JSON lines, CSV | [`answer`] | bytes |
//!
//! All that a look-up holds beside the caches is charged to its [`memory::Account`] before it is allocated.
//!
//! [`Host`]: host::Host

pub mod answer;
pub mod cache;
pub mod column;
pub mod error;
pub mod execute;
pub mod file;
pub mod host;
mod json_fields;
pub mod key_index;
pub mod memory;
pub mod page;
pub mod paths;
pub mod predicate;
pub mod prune;
pub mod request;
pub mod rows;
pub mod set;
mod thrift;
