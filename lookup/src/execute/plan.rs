//! A predicate and a select list in terms of one file.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use smallvec::SmallVec;

use crate::column::{Column, Key};
use crate::error::{LookupError, Result};
use crate::file::{File, Selected};
use crate::predicate::bind::bind;
use crate::predicate::intervals::Bound;
use crate::predicate::{Comparison, Literal, Predicate, Test};
use crate::prune::{self, Verdict};

/// A test of a column of the file.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The column.
    pub column: Arc<Column>,
    /// The test.
    pub bound: Bound,
}

/// A predicate in terms of a file.
#[derive(Clone, Debug)]
pub enum Node {
    /// All of these hold.
    And(Vec<Node>),
    /// One of these holds.
    Or(Vec<Node>),
    /// A test.
    Leaf(Leaf),
    /// For all rows, or for none.
    Constant(bool),
}

/// A value of a column that outlives its page.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OwnedKey {
    /// See [`Order::Narrow`](crate::column::Order::Narrow).
    Narrow(i64),
    /// See [`Order::Wide`](crate::column::Order::Wide).
    Wide(i128),
    /// See [`Order::Bytes`](crate::column::Order::Bytes).
    Bytes(Box<[u8]>),
}

impl From<Key<'_>> for OwnedKey {
    fn from(key: Key<'_>) -> Self {
        match key {
            Key::Narrow(key) => OwnedKey::Narrow(key),
            Key::Wide(key) => OwnedKey::Wide(key),
            Key::Bytes(key) => OwnedKey::Bytes(key.into()),
        }
    }
}

/// Keys whose rows are wanted in the keys' order.
#[derive(Clone, Debug)]
pub struct WantedKeys {
    /// The column.
    pub column: Arc<Column>,
    /// For each key, its places in the request.
    pub ordinals: HashMap<OwnedKey, SmallVec<[u32; 1]>>,
}

/// A select list in terms of a file: the same for all look-ups with this list.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Which columns, and what they are called.
    pub selected: Vec<(String, Selected)>,
    /// Their schema.
    pub schema: SchemaRef,
    /// Names that the file has not.
    pub missing: Vec<String>,
}

impl Selection {
    /// For `file`. An empty `select` is all of its columns.
    ///
    /// # Errors
    /// Invalid, if the list names part of a column.
    pub fn new(file: &File, select: &[String]) -> Result<Self> {
        Self::of(file, select).map_err(|error| error.of_file(&file.name, ""))
    }

    fn of(file: &File, select: &[String]) -> Result<Self> {
        let mut missing = Vec::new();
        let selected = if select.is_empty() {
            file.select_all()?
        } else {
            file.decode_named(select)?;
            let mut selected = Vec::with_capacity(select.len());
            for name in select {
                match file.select(name)? {
                    Some(found) => selected.push((name.clone(), found)),
                    None => missing.push(name.clone()),
                }
            }
            selected
        };
        let fields: Vec<_> = selected
            .iter()
            .map(|(name, selected)| file.field_of(name, selected))
            .collect::<Result<_>>()?;
        Ok(Selection {
            selected,
            schema: Arc::new(Schema::new(fields)),
            missing,
        })
    }
}

/// What one file is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which rows.
    pub filter: Node,
    /// Which columns.
    pub selection: Arc<Selection>,
    /// The answer's schema.
    pub schema: SchemaRef,
    /// Names in the predicate and the select list that the file has not.
    pub missing: Vec<String>,
    /// Keys that the answer is to be in the order of.
    pub keys: Option<WantedKeys>,
}

impl Plan {
    /// For `file`. An empty `select` is all of its columns. Columns that the file has not are NULL, and
    /// named in [`Plan::missing`].
    ///
    /// # Errors
    /// Invalid, if a literal is not of its column's type or a select list names part of a column.
    pub fn new(file: &File, predicate: &Predicate, select: &[String]) -> Result<Self> {
        Plan::of_selection(file, predicate, Arc::new(Selection::new(file, select)?))
    }

    /// The same for a select list that was looked at before.
    ///
    /// # Errors
    /// Invalid, if a literal is not of its column's type.
    pub fn of_selection(
        file: &File,
        predicate: &Predicate,
        selection: Arc<Selection>,
    ) -> Result<Self> {
        let mut missing = Vec::new();
        let filter = node_of(file, predicate, &mut missing)
            .map_err(|error| error.of_file(&file.name, ""))?
            .simplified();
        missing.extend(selection.missing.iter().cloned());
        Ok(Plan {
            filter,
            schema: Arc::clone(&selection.schema),
            selection,
            missing,
            keys: None,
        })
    }

    /// The same for rows that have one of `keys` in `column` only.
    ///
    /// # Errors
    /// Invalid, if a key is not of the column's type.
    pub fn with_keys(self, file: &File, column: &str, keys: &[Literal]) -> Result<Self> {
        self.of_keys(file, column, keys)
            .map_err(|error| error.of_file(&file.name, ""))
    }

    /// Whether the statistics of all row groups of `file`, which the plan is for, say that no row matches.
    pub fn is_ruled_out(&self, file: &File) -> bool {
        (0..file.groups()).all(|group| self.filter.verdict(file, group) == Verdict::Never)
    }

    fn of_keys(mut self, file: &File, column: &str, keys: &[Literal]) -> Result<Self> {
        let Some(found) = file.column(column)? else {
            self.missing.push(column.to_owned());
            self.filter = Node::Constant(false);
            return Ok(self);
        };
        let mut ordinals: HashMap<OwnedKey, SmallVec<[u32; 1]>> =
            HashMap::with_capacity(keys.len());
        for (place, key) in keys.iter().enumerate() {
            // A literal that no value can equal has no point.
            if let Bound::Values(intervals) = bind(found, &Test::Equal(key.clone()))?
                && let Some([point]) = intervals.points(1).as_deref()
            {
                let own = ordinals.entry(OwnedKey::from(*point)).or_default();
                own.push(place as u32);
            }
        }
        let bound = bind(found, &Test::In(keys.to_vec()))?;
        let column = Arc::clone(found);
        let leaf = Node::Leaf(Leaf {
            column: Arc::clone(&column),
            bound,
        });
        self.filter = Node::And(vec![leaf, self.filter]).simplified();
        self.keys = Some(WantedKeys { column, ordinals });
        Ok(self)
    }
}

fn node_of(file: &File, predicate: &Predicate, missing: &mut Vec<String>) -> Result<Node> {
    let mut children_of = |children: &[Predicate]| {
        children
            .iter()
            .map(|child| node_of(file, child, missing))
            .collect::<Result<Vec<Node>>>()
    };
    Ok(match predicate {
        Predicate::And(children) => Node::And(children_of(children)?),
        Predicate::Or(children) => Node::Or(children_of(children)?),
        Predicate::Compare(Comparison { column, test }) => match file.column(column)? {
            Some(found) => Node::Leaf(Leaf {
                column: Arc::clone(found),
                bound: bind_leaf(found, test)?,
            }),
            None => {
                if file.is_group(column)? {
                    return Err(LookupError::invalid(format!(
                        "{column} is a group: compare a leaf of it"
                    )));
                }
                missing.push(column.clone());
                Node::Constant(matches!(test, Test::IsNull))
            }
        },
    })
}

fn bind_leaf(column: &Column, test: &Test) -> Result<Bound> {
    if column.is_repeated {
        return Err(LookupError::invalid(format!(
            "column {} has many values a row: compare a column that has one",
            column.path
        )));
    }
    bind(column, test)
}

impl Leaf {
    /// What the statistics of a row group say.
    pub(super) fn verdict(&self, file: &File, group: usize) -> Verdict {
        prune::of_chunk(
            file.order(&self.column),
            &self.column,
            file.chunk(group, &self.column),
            u64::from(file.group_rows(group)),
            &self.bound,
        )
    }
}

impl Node {
    /// What the statistics of a row group say.
    pub(super) fn verdict(&self, file: &File, group: usize) -> Verdict {
        match self {
            Node::Constant(true) => Verdict::Always,
            Node::Constant(false) => Verdict::Never,
            Node::And(children) => children.iter().fold(Verdict::Always, |all, child| {
                all.and(child.verdict(file, group))
            }),
            Node::Or(children) => children.iter().fold(Verdict::Never, |any, child| {
                any.or(child.verdict(file, group))
            }),
            Node::Leaf(leaf) => leaf.verdict(file, group),
        }
    }

    /// The columns that are compared, each once.
    pub fn columns(&self) -> Vec<Arc<Column>> {
        fn walk(node: &Node, columns: &mut Vec<Arc<Column>>) {
            match node {
                Node::And(children) | Node::Or(children) => {
                    children.iter().for_each(|child| walk(child, columns));
                }
                Node::Leaf(leaf) => {
                    if columns.iter().all(|column| column.leaf != leaf.column.leaf) {
                        columns.push(Arc::clone(&leaf.column));
                    }
                }
                Node::Constant(_) => {}
            }
        }
        let mut columns = Vec::new();
        walk(self, &mut columns);
        columns
    }

    /// Without constants and single children; tests of one column that all have to hold come one behind
    /// the other, cheap ones first.
    #[must_use]
    pub fn simplified(self) -> Node {
        match self {
            Node::And(children) => {
                let mut kept = Vec::with_capacity(children.len());
                for child in children {
                    match child.simplified() {
                        Node::Constant(true) => {}
                        Node::Constant(false) => return Node::Constant(false),
                        Node::And(inner) => kept.extend(inner),
                        child => kept.push(child),
                    }
                }
                match kept.len() {
                    0 => Node::Constant(true),
                    1 => kept.pop().expect("there is one"),
                    _ => Node::And(kept),
                }
            }
            Node::Or(children) => {
                let mut kept = Vec::with_capacity(children.len());
                for child in children {
                    match child.simplified() {
                        Node::Constant(false) => {}
                        Node::Constant(true) => return Node::Constant(true),
                        Node::Or(inner) => kept.extend(inner),
                        child => kept.push(child),
                    }
                }
                match kept.len() {
                    0 => Node::Constant(false),
                    1 => kept.pop().expect("there is one"),
                    _ => Node::Or(kept),
                }
            }
            Node::Leaf(leaf) => match &leaf.bound {
                Bound::Values(intervals) if intervals.is_empty() => Node::Constant(false),
                _ => Node::Leaf(leaf),
            },
            constant @ Node::Constant(_) => constant,
        }
    }
}
