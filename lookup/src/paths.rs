//! Which objects the paths of a look-up name.
//!
//! | written | names |
//! |---|---|
//! | `/lake/a.parquet` | the object |
//! | `s3://lake/a.parquet` | the same: a bucket of the S3 face is a mount right below `/` |
//! | `/lake/orders/` | all files ending in `.parquet` below the directory |
//! | `/lake/o*/y=199?` | the same below each match; `*` and `?` stand for letters of one name |
//!
//! Whoever lists directories asks [`Named::parse`] what a path names, lists [`Pattern::directory`] with
//! everything below it, and hands the paths that [match](Pattern::matches) to [`Objects`].
//!
//! The invariant: each object once, those of a directory in the order of their paths. Names that begin
//! with `.` or `_`, where writers keep logs and what is not finished, are left out unless
//! the pattern says them, or they are partitions (`_year=1995`), as Spark and pyarrow do.

use std::collections::HashSet;

use crate::error::{LookupError, Result};
use crate::request::PATHS_MAX;

/// What Parquet files end in, by the habit of all that write them.
pub const ENDING: &str = ".parquet";

/// What one path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// One object.
    Object(String),
    /// Those that match.
    Matching(Pattern),
}

/// A directory, or a path with `*` or `?` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// As the caller wrote it.
    written: String,
    /// The directory that is listed; empty for the root.
    base: String,
    /// What the names below it match, one after the other.
    names: Vec<String>,
    /// Whether only what is below a match is meant.
    ends_in_slash: bool,
}

impl Named {
    /// What `written` names.
    ///
    /// # Errors
    /// [`Invalid`](crate::error::ErrorKind::Invalid), if it is outside of a worker's namespace.
    pub fn parse(written: &str) -> Result<Self> {
        let mut path = written.to_owned();
        if let Some((scheme, rest)) = written.split_once("://") {
            if !scheme.eq_ignore_ascii_case("s3") {
                return Err(LookupError::invalid(format!(
                    "{written} is outside of the worker's namespace; `corelane mount` lists the paths that \
                     under-stores are mounted at"
                )));
            }
            if rest.is_empty() || rest.starts_with('/') {
                return Err(LookupError::invalid(format!(
                    "{written} has no bucket; write s3://lake/orders/ for /lake/orders/"
                )));
            }
            path = format!("/{rest}");
            if !rest.contains('/') {
                path.push('/');
            }
        }
        if !path.starts_with('/') {
            return Err(LookupError::invalid(format!(
                "{written} is no path in the worker's namespace; it begins with /, as in /lake/orders.parquet"
            )));
        }
        if !path.ends_with('/') && !path.contains(['*', '?']) {
            return Ok(Named::Object(path));
        }
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let fixed = names
            .iter()
            .take_while(|name| !name.contains(['*', '?']))
            .count();
        Ok(Named::Matching(Pattern {
            written: written.to_owned(),
            base: names[..fixed]
                .iter()
                .map(|name| format!("/{name}"))
                .collect(),
            names: names[fixed..]
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
            ends_in_slash: path.ends_with('/'),
        }))
    }
}

impl Pattern {
    /// As the caller wrote it.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// The directory to list, with everything below it.
    pub fn directory(&self) -> &str {
        match self.base.as_str() {
            "" => "/",
            base => base,
        }
    }

    /// Whether it means the object at `path`.
    pub fn matches(&self, path: &str) -> bool {
        let Some(below) = path
            .strip_prefix(&self.base)
            .and_then(|below| below.strip_prefix('/'))
        else {
            return false;
        };
        let names: Vec<&str> = below.split('/').collect();
        let (matched, rest) = match names.split_at_checked(self.names.len()) {
            Some(split) => split,
            None => return false,
        };
        path.ends_with(ENDING)
            && !(self.ends_in_slash && rest.is_empty())
            && self
                .names
                .iter()
                .zip(matched)
                .all(|(pattern, name)| name_matches(pattern, name))
            && !rest.iter().any(|name| is_hidden(name))
    }

    /// What is said where nothing matches.
    pub fn sentence_of_none(&self) -> String {
        format!(
            "{}: no file that ends in {ENDING}; `corelane ls --recursive {}` lists what is there",
            self.written,
            self.directory()
        )
    }
}

/// Objects in the order in which they were named.
#[derive(Debug, Default)]
pub struct Objects {
    paths: Vec<String>,
    known: HashSet<String>,
}

impl Objects {
    /// Adds the object at `path`, which `written` named; does nothing if it is there.
    ///
    /// # Errors
    /// [`Invalid`](crate::error::ErrorKind::Invalid), if there are [`PATHS_MAX`] already.
    pub fn add(&mut self, path: String, written: &str) -> Result<()> {
        if self.known.contains(&path) {
            return Ok(());
        }
        if self.paths.len() == PATHS_MAX {
            return Err(LookupError::invalid(format!(
                "{written}: more than {PATHS_MAX} objects, the most of one look-up; name a part of them, such as \
                 one partition's directory, and ask in several"
            )));
        }
        self.known.insert(path.clone());
        self.paths.push(path);
        Ok(())
    }

    /// Adds those that match `pattern`, in the order of their paths.
    ///
    /// # Errors
    /// As [`Objects::add`].
    pub fn add_matching(&mut self, pattern: &Pattern, mut found: Vec<String>) -> Result<()> {
        found.sort_unstable();
        found
            .into_iter()
            .try_for_each(|path| self.add(path, &pattern.written))
    }

    /// Their paths.
    pub fn into_paths(self) -> Vec<String> {
        self.paths
    }
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name.starts_with('_') && !name.contains('=')
}

/// Whether a name of a path matches; a hidden one only where the pattern begins as it does.
fn name_matches(pattern: &str, name: &str) -> bool {
    let is_said = pattern.chars().next() == name.chars().next();
    (is_said || !is_hidden(name)) && letters_match(pattern, name)
}

/// `*` is any letters, `?` one. Goes back to the latest `*` only, so its time is bounded by the product of the lengths.
fn letters_match(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut in_pattern, mut in_name) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match pattern.get(in_pattern) {
            Some('*') => {
                star = Some((in_pattern, in_name));
                in_pattern += 1;
            }
            Some(letter) if *letter == '?' || *letter == name[in_name] => {
                in_pattern += 1;
                in_name += 1;
            }
            _ => match &mut star {
                Some((star_at, taken)) => {
                    *taken += 1;
                    in_pattern = *star_at + 1;
                    in_name = *taken;
                }
                None => return false,
            },
        }
    }
    pattern[in_pattern..].iter().all(|letter| *letter == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(written: &str, paths: &[&str]) -> Vec<String> {
        match Named::parse(written) {
            Ok(Named::Matching(pattern)) => paths
                .iter()
                .filter(|path| pattern.matches(path))
                .map(|path| (*path).to_owned())
                .collect(),
            other => panic!("{written}: {other:?}"),
        }
    }

    #[test]
    fn a_bucket_is_a_mount_right_below_the_root() {
        let object = |written: &str| match Named::parse(written) {
            Ok(Named::Object(path)) => path,
            other => panic!("{written}: {other:?}"),
        };
        assert_eq!(object("s3://lake/a/b.parquet"), "/lake/a/b.parquet");
        assert_eq!(object("/lake/a/b.parquet"), "/lake/a/b.parquet");
        assert_eq!(matching("s3://lake", &["/lake/x.parquet"]).len(), 1);
        for wrong in ["lake/a", "s3://", "s3:///a", "gs://lake/a", ""] {
            assert!(Named::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_directory_is_all_parquet_files_below_it_that_are_not_hidden() {
        let paths = [
            "/lake/o/a.parquet",
            "/lake/o/_SUCCESS",
            "/lake/o/y=1995/b.parquet",
            "/lake/o/_y=1995/b.parquet",
            "/lake/o/_delta_log/c.parquet",
            "/lake/o/.tmp/d.parquet",
            "/lake/other/e.parquet",
        ];
        assert_eq!(
            matching("/lake/o/", &paths),
            [
                "/lake/o/a.parquet",
                "/lake/o/y=1995/b.parquet",
                "/lake/o/_y=1995/b.parquet"
            ]
        );
        assert_eq!(
            matching("/lake/o/_delta*/", &paths),
            ["/lake/o/_delta_log/c.parquet"]
        );
        assert_eq!(matching("/", &paths).len(), 4);
    }

    #[test]
    fn stars_and_question_marks_stand_for_letters_of_one_name() {
        let paths = [
            "/lake/o/y=1995/a.parquet",
            "/lake/o/y=1996/a.parquet",
            "/lake/o/y=1996/b.parquet",
            "/lake/o/z.parquet",
        ];
        assert_eq!(matching("/lake/o/y=199?/a*", &paths), &paths[..2]);
        assert_eq!(matching("/lake/*/y=1996", &paths), &paths[1..3]);
        assert_eq!(matching("/lake/o/*/", &paths), &paths[..3]);
        assert_eq!(matching("/lake/o/*.parquet", &paths), &paths[3..]);
        assert_eq!(matching("/lake/o/*", &paths), &paths);
        assert!(letters_match("*a*b*", "xxaxxbxx") && !letters_match("*a?b", "ab"));
    }

    #[test]
    fn an_object_that_is_named_twice_is_looked_into_once_and_too_many_are_refused() {
        let mut objects = Objects::default();
        for number in 0..PATHS_MAX {
            objects.add(format!("/{number}"), "/").expect("room");
        }
        objects.add("/7".to_owned(), "/").expect("it is there");
        assert!(objects.add("/more".to_owned(), "/").is_err());
        assert_eq!(objects.paths.len(), PATHS_MAX);
    }
}
