//! One version of one file: its footer, decoded once, and where its pages are.

pub mod footer;
pub mod pages;
mod shape;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, SchemaRef};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

use crate::column::Column;
use crate::error::{LookupError, Result};
use pages::ChunkPages;

/// Names a [`File`] in caches: no two of a process have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// What is known of one version of one file.
pub struct File {
    /// Its name in caches.
    pub id: FileId,
    /// Its name in messages.
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// The footer.
    pub metadata: Arc<ParquetMetaData>,
    /// The footer's schema as Arrow has it.
    pub schema: SchemaRef,
    /// Its leaf columns, in the file's order.
    pub columns: Vec<Arc<Column>>,
    /// Of leaf columns, by dotted path.
    by_path: HashMap<String, usize>,
    /// First row of each row group, and behind the last the number of rows.
    pub group_starts: Vec<u64>,
    /// Bytes of memory that the footer takes, about.
    pub memory_bytes: usize,
    pages: RefCell<HashMap<(usize, usize), Rc<ChunkPages>>>,
}

/// What a name in a select list stands for.
#[derive(Clone, Debug)]
pub enum Selected {
    /// A leaf with one value a row at most.
    Leaf(Arc<Column>),
    /// A whole root column, by its place in the schema.
    Root(usize),
}

impl File {
    /// The leaf column at a dotted path.
    pub fn column(&self, path: &str) -> Option<&Arc<Column>> {
        self.by_path.get(path).map(|leaf| &self.columns[*leaf])
    }

    /// What `path` stands for in a select list.
    ///
    /// # Errors
    /// Invalid, if it names a part of a column that can only be had whole.
    pub fn select(&self, path: &str) -> Result<Option<Selected>> {
        if let Some(column) = self.column(path).filter(|column| !column.is_repeated) {
            return Ok(Some(Selected::Leaf(Arc::clone(column))));
        }
        if let Some(root) = self
            .schema
            .fields()
            .iter()
            .position(|field| field.name() == path)
        {
            return Ok(Some(Selected::Root(root)));
        }
        let is_part = self.column(path).is_some()
            || self
                .columns
                .iter()
                .any(|column| is_within(&column.path, path));
        if is_part {
            let root = path.split('.').next().unwrap_or(path);
            return Err(LookupError::invalid(format!(
                "{}: {path} has many values a row, or is a group: select a leaf of it, or all of {root}",
                self.name
            )));
        }
        Ok(None)
    }

    /// Everything that the file has: its root columns in their order, those of one leaf as leaves.
    pub fn select_all(&self) -> Vec<(String, Selected)> {
        let fields = self.schema.fields().iter().enumerate();
        fields
            .map(|(root, field)| {
                let leaf = self
                    .column(field.name())
                    .filter(|column| column.root == root && !column.is_repeated);
                let selected = match leaf {
                    Some(column) => Selected::Leaf(Arc::clone(column)),
                    None => Selected::Root(root),
                };
                (field.name().clone(), selected)
            })
            .collect()
    }

    /// The field that `selected` becomes, under the name `name`.
    pub fn field_of(&self, name: &str, selected: &Selected) -> FieldRef {
        match selected {
            Selected::Leaf(column) => Arc::new(
                Field::new(
                    name,
                    column.field.data_type().clone(),
                    column.max_definition > 0,
                )
                .with_metadata(column.field.metadata().clone()),
            ),
            Selected::Root(root) => Arc::clone(&self.schema.fields()[*root]),
        }
    }

    /// Row groups.
    pub fn groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    /// Rows of a row group.
    pub fn group_rows(&self, group: usize) -> u32 {
        (self.group_starts[group + 1] - self.group_starts[group]) as u32
    }

    /// A column chunk.
    pub fn chunk(&self, group: usize, leaf: usize) -> &ColumnChunkMetaData {
        self.metadata.row_group(group).column(leaf)
    }

    /// Where the pages of a chunk are, if that is known already.
    pub fn known_pages(&self, group: usize, leaf: usize) -> Option<Rc<ChunkPages>> {
        self.pages.borrow().get(&(group, leaf)).cloned()
    }

    /// Remembers where the pages of a chunk are.
    pub fn learn_pages(&self, group: usize, leaf: usize, pages: ChunkPages) -> Rc<ChunkPages> {
        let pages = Rc::new(pages);
        self.pages
            .borrow_mut()
            .insert((group, leaf), Rc::clone(&pages));
        pages
    }

    /// An error about a chunk of this file, with its place in front.
    pub fn blame(&self, group: usize, column: &Column, error: LookupError) -> LookupError {
        error.of(format_args!(
            "{}, column {}, row group {group}",
            self.name, column.path
        ))
    }
}

fn is_within(leaf: &str, group: &str) -> bool {
    leaf.strip_prefix(group)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// The Arrow field of the leaf at `path` below `fields`.
fn leaf_field(fields: &arrow_schema::Fields, leaf: usize) -> Option<FieldRef> {
    fn walk(field: &FieldRef, left: &mut usize) -> Option<FieldRef> {
        match field.data_type() {
            DataType::Struct(fields) => fields.iter().find_map(|field| walk(field, left)),
            DataType::List(field)
            | DataType::LargeList(field)
            | DataType::ListView(field)
            | DataType::LargeListView(field)
            | DataType::FixedSizeList(field, _)
            | DataType::Map(field, _) => walk(field, left),
            _ if *left == 0 => Some(Arc::clone(field)),
            _ => {
                *left -= 1;
                None
            }
        }
    }
    let mut left = leaf;
    fields.iter().find_map(|field| walk(field, &mut left))
}
