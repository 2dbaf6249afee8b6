//! One version of one file: what its footer says, and where its pages are.
//!
//! The footers of most files are decoded whole when they are opened. Of a wide one, only where its parts
//! are is found then; a root column is decoded when it is first asked for by its name. Whoever holds a
//! [`Column`] can rely on its chunks' being there.

mod arrow_hint;
mod chunk_shape;
pub mod columns;
pub mod footer;
pub mod outline;
pub mod pages;
mod shape;
mod skip;
#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_schema::{Field, FieldRef};
use parquet::basic::ColumnOrder;
use parquet::file::metadata::ColumnChunkMetaData;

use crate::column::Column;
use crate::error::{LookupError, Result};
use crate::host::Host;
use crate::memory::{Account, Charge, Pool};
use arrow_hint::ArrowHint;
use columns::{Decoded, Root, decode_some, hint_in};
use outline::Outline;
use pages::ChunkPages;

/// Most bytes of memory that decoding takes which nobody prepared for: a few columns of a wide footer. Such work is
/// charged to nobody.
const IN_LINE_DECODE_BYTES_MAX: u64 = 32 << 20;

/// Most bytes of memory of a file's page lists, where whoever keeps the file says nothing else.
const PAGE_LISTS_BYTES_MAX: usize = 64 << 20;

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
    /// First row of each row group, and behind the last the number of rows.
    pub group_starts: Vec<u64>,
    /// Its root columns, in the file's order, those that are decoded.
    roots: Vec<OnceCell<Root>>,
    /// What the others are decoded from.
    outline: Option<Arc<Outline>>,
    /// Arrow's schema that a footer with an outline has, once it was looked for.
    hint: OnceCell<Option<Arc<ArrowHint>>>,
    /// Leaf columns by dotted path, root and place there, where all are decoded.
    by_path: HashMap<String, (usize, usize)>,
    memory_bytes: Cell<usize>,
    pages: RefCell<HashMap<(usize, usize), Rc<ChunkPages>>>,
    /// Bytes of memory of `pages`, of those in `memory_bytes`.
    pages_bytes: Cell<usize>,
    pages_bytes_max: Cell<usize>,
}

/// What is known of a footer when it was read.
enum Known {
    /// All root columns.
    All {
        roots: Vec<Root>,
        memory_bytes: usize,
    },
    /// Where they are.
    Parts(Arc<Outline>),
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
    fn new(name: String, length: u64, known: Known, group_starts: Vec<u64>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut by_path = HashMap::new();
        let (roots, outline, memory_bytes) = match known {
            Known::All {
                roots,
                memory_bytes,
            } => {
                for (place, root) in roots.iter().enumerate() {
                    for (leaf, column) in root.columns().iter().enumerate() {
                        // Where a file has two columns of one name, the first is meant, as in DuckDB.
                        by_path.entry(column.path.clone()).or_insert((place, leaf));
                    }
                }
                let roots = roots.into_iter().map(OnceCell::from).collect();
                (roots, None, memory_bytes)
            }
            Known::Parts(outline) => {
                let roots = outline.roots().iter().map(|_| OnceCell::new()).collect();
                let memory_bytes = outline.memory_bytes();
                (roots, Some(outline), memory_bytes)
            }
        };
        File {
            id: FileId(NEXT.fetch_add(1, Ordering::Relaxed)),
            name,
            length,
            group_starts,
            roots,
            outline,
            hint: OnceCell::new(),
            by_path,
            memory_bytes: Cell::new(memory_bytes),
            pages: RefCell::default(),
            pages_bytes: Cell::new(0),
            pages_bytes_max: Cell::new(PAGE_LISTS_BYTES_MAX),
        }
    }

    /// Bounds the memory of page lists that are remembered, with the bounds of their values: beyond it, they are
    /// forgotten, and found again by the look-up that needs them.
    pub fn limit_page_lists(&self, bytes: usize) {
        self.pages_bytes_max.set(bytes);
    }

    /// Bytes of memory that what is known of the footer takes now, about. It grows as columns are asked for.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes.get()
    }

    /// Root columns among `wanted` that are not decoded.
    fn missing(&self, wanted: impl Iterator<Item = usize>) -> Vec<usize> {
        wanted
            .filter(|root| self.roots[*root].get().is_none())
            .collect()
    }

    /// Decodes root columns, whose places rise, where that is still to be done.
    fn decode(&self, wanted: impl Iterator<Item = usize>) -> Result<()> {
        let Some(outline) = &self.outline else {
            return Ok(());
        };
        let missing = self.missing(wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let hint = self.hint.get().cloned();
        let memory = Account::new(&Pool::new(u64::MAX), IN_LINE_DECODE_BYTES_MAX);
        let decoded = decode_parts(outline, &missing, hint, self.length, &memory)?;
        self.learn(&missing, decoded);
        Ok(())
    }

    fn learn(&self, places: &[usize], decoded: DecodedParts) {
        self.hint.get_or_init(|| {
            let own = decoded.hint.as_ref().map_or(0, |hint| hint.memory_bytes());
            self.memory_bytes.update(|bytes| bytes + own);
            decoded.hint
        });
        self.memory_bytes
            .update(|bytes| bytes + decoded.memory_bytes);
        for (place, root) in places.iter().zip(decoded.roots) {
            // Another look-up may have been faster.
            let _ = self.roots[*place].set(root);
        }
    }

    /// Decodes what a look-up with these columns needs of a wide footer, elsewhere if that takes long; `None`:
    /// all columns. What is asked for without it is decoded in line.
    ///
    /// # Errors
    /// Corrupt or unsupported, if what the footer says of one of them is.
    pub async fn prepare(&self, host: &impl Host, paths: Option<&[&str]>) -> Result<()> {
        let Some(outline) = &self.outline else {
            return Ok(());
        };
        let missing = self.missing_of(paths);
        if missing.is_empty() {
            return Ok(());
        }
        let share = missing.len() as f64 / self.roots.len() as f64;
        let estimate = footer::decode_estimate(outline.footer_bytes()).mul_f64(share);
        let (outline, hint) = (Arc::clone(outline), self.hint.get().cloned());
        let (length, wanted) = (self.length, missing.clone());
        let memory = host.memory().clone();
        let decoded = host
            .run(estimate, move || {
                decode_parts(&outline, &wanted, hint, length, &memory)
            })
            .await
            .map_err(|error| error.of_file(&self.name, ""))?;
        self.learn(&missing, decoded);
        Ok(())
    }

    /// Whether columns are decoded when they are asked for: only then is there something to prepare.
    pub fn is_wide(&self) -> bool {
        self.outline.is_some()
    }

    /// Whether nothing has to be decoded for a look-up with these columns; `None`: with all.
    pub fn is_prepared(&self, paths: Option<&[&str]>) -> bool {
        self.missing_of(paths).is_empty()
    }

    fn missing_of(&self, paths: Option<&[&str]>) -> Vec<usize> {
        match paths {
            None => self.missing(0..self.roots.len()),
            Some(paths) => self.missing(self.related_to_any(paths)),
        }
    }

    fn related_to_any<'a>(&'a self, paths: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
        let outline = self.outline.as_deref();
        (0..self.roots.len()).filter(move |root| {
            outline.is_none_or(|outline| {
                let name = outline.name(*root);
                paths.iter().any(|path| is_related(name, path.as_bytes()))
            })
        })
    }

    /// Decodes the root columns of these paths together.
    ///
    /// # Errors
    /// Corrupt or unsupported, if what the footer says of one of them is.
    pub fn decode_named(&self, paths: &[String]) -> Result<()> {
        let Some(outline) = &self.outline else {
            return Ok(());
        };
        let names = (0..self.roots.len()).filter(|root| {
            let name = outline.name(*root);
            paths.iter().any(|path| name == path.as_bytes())
        });
        self.decode(names)
    }

    /// A root column.
    ///
    /// # Errors
    /// Corrupt or unsupported, if what the footer says of it is.
    pub fn root(&self, root: usize) -> Result<&Root> {
        self.decode(std::iter::once(root))?;
        Ok(self.roots[root].get().expect("it is decoded"))
    }

    /// All leaf columns, in the file's order.
    ///
    /// # Errors
    /// Corrupt or unsupported, if what the footer says of one of them is.
    pub fn columns(&self) -> Result<Vec<Arc<Column>>> {
        self.decode(0..self.roots.len())?;
        let roots = self.roots.iter().filter_map(OnceCell::get);
        Ok(roots.flat_map(Root::columns).cloned().collect())
    }

    /// Root columns that a path may be the name of, or of a part or the whole of, among those that were not
    /// decoded with the file.
    fn related<'a>(&'a self, path: &'a str) -> impl Iterator<Item = usize> + 'a {
        let outline = self.outline.as_deref();
        (0..self.roots.len()).filter(move |root| {
            outline.is_none_or(|outline| is_related(outline.name(*root), path.as_bytes()))
        })
    }

    /// The leaf column at a dotted path.
    ///
    /// # Errors
    /// Corrupt or unsupported, if what the footer says of its root column is.
    pub fn column(&self, path: &str) -> Result<Option<&Arc<Column>>> {
        if self.outline.is_none() {
            let Some((root, leaf)) = self.by_path.get(path) else {
                return Ok(None);
            };
            return Ok(Some(&self.root(*root)?.columns()[*leaf]));
        }
        for root in self.related(path) {
            let mut columns = self.root(root)?.columns().iter();
            if let Some(column) = columns.find(|column| column.path == path) {
                return Ok(Some(column));
            }
        }
        Ok(None)
    }

    /// The leaf column at a place among all leaves.
    ///
    /// # Errors
    /// Corrupt or unsupported, if what the footer says of its root column is.
    pub fn column_at(&self, leaf: usize) -> Result<Option<&Arc<Column>>> {
        let outline = self.outline.as_deref();
        let mut roots = (0..self.roots.len()).filter(|root| {
            outline.is_none_or(|outline| {
                let part = &outline.roots()[*root];
                (part.first_leaf..part.first_leaf + part.leaves).contains(&(leaf as u32))
            })
        });
        let found = roots.find_map(|root| {
            let columns = self.root(root).map(Root::columns);
            columns
                .map(|columns| columns.iter().find(|column| column.leaf == leaf))
                .transpose()
        });
        found.transpose()
    }

    /// The root column of a name.
    fn root_named(&self, name: &str) -> Option<usize> {
        (0..self.roots.len()).find(|root| match (&self.outline, self.roots[*root].get()) {
            (Some(outline), _) => outline.name(*root) == name.as_bytes(),
            (None, own) => own.is_some_and(|own| own.field().name() == name),
        })
    }

    /// Whether there are leaves below `path`.
    ///
    /// # Errors
    /// Corrupt or unsupported, if what the footer says of a root column is.
    pub fn is_group(&self, path: &str) -> Result<bool> {
        for root in self.related(path) {
            let mut columns = self.root(root)?.columns().iter();
            if columns.any(|column| is_within(column.path.as_bytes(), path.as_bytes())) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What `path` stands for in a select list.
    ///
    /// # Errors
    /// Invalid, if it names a part of a column that can only be had whole; corrupt or unsupported, if what
    /// the footer says of a root column is.
    pub fn select(&self, path: &str) -> Result<Option<Selected>> {
        let column = self.column(path)?;
        if let Some(column) = column.filter(|column| !column.is_repeated) {
            return Ok(Some(Selected::Leaf(Arc::clone(column))));
        }
        if let Some(root) = self.root_named(path) {
            return Ok(Some(Selected::Root(root)));
        }
        if column.is_some() || self.is_group(path)? {
            let root = path.split('.').next().unwrap_or(path);
            return Err(LookupError::invalid(format!(
                "{path} has many values a row, or is a group: select a leaf of it, or all of {root}"
            )));
        }
        Ok(None)
    }

    /// Everything that the file has: its root columns in their order, those of one leaf as leaves.
    ///
    /// # Errors
    /// Corrupt or unsupported, if what the footer says of one of them is.
    pub fn select_all(&self) -> Result<Vec<(String, Selected)>> {
        self.decode(0..self.roots.len())?;
        let mut first: HashMap<&str, &Arc<Column>> = HashMap::with_capacity(self.roots.len());
        let roots = self.roots.iter().filter_map(OnceCell::get);
        for column in roots.clone().flat_map(Root::columns) {
            first.entry(&column.path).or_insert(column);
        }
        let selected = roots.enumerate().map(|(root, own)| {
            let name = own.field().name();
            let leaf = first
                .get(name.as_str())
                .filter(|column| column.root == root && !column.is_repeated);
            let selected = match leaf {
                Some(column) => Selected::Leaf(Arc::clone(column)),
                None => Selected::Root(root),
            };
            (name.clone(), selected)
        });
        Ok(selected.collect())
    }

    /// The field that `selected` becomes, under the name `name`.
    ///
    /// # Errors
    /// Corrupt or unsupported, if what the footer says of a root column is.
    pub fn field_of(&self, name: &str, selected: &Selected) -> Result<FieldRef> {
        Ok(match selected {
            Selected::Leaf(column) => Arc::new(
                Field::new(
                    name,
                    column.field.data_type().clone(),
                    column.max_definition > 0,
                )
                .with_metadata(column.field.metadata().clone()),
            ),
            Selected::Root(root) => Arc::clone(self.root(*root)?.field()),
        })
    }

    /// Row groups.
    pub fn groups(&self) -> usize {
        self.group_starts.len() - 1
    }

    /// Rows of a row group.
    pub fn group_rows(&self, group: usize) -> u32 {
        (self.group_starts[group + 1] - self.group_starts[group]) as u32
    }

    fn root_of(&self, column: &Column) -> &Root {
        let root = self.roots[column.root].get();
        root.expect("a column's root was decoded to give it")
    }

    /// What a column was decoded with, and its place among the leaves there.
    pub fn decoded(&self, column: &Column) -> (&Decoded, usize) {
        let root = self.root_of(column);
        (&root.decoded, root.leaf_of(column))
    }

    /// A column chunk.
    pub fn chunk(&self, group: usize, column: &Column) -> &ColumnChunkMetaData {
        let root = self.root_of(column);
        root.chunk(group, root.leaf_of(column))
    }

    /// The order that bounds of a column's values are in, if the file says one.
    pub fn order(&self, column: &Column) -> Option<ColumnOrder> {
        let root = self.root_of(column);
        root.order(root.leaf_of(column))
    }

    /// Where the pages of a chunk are, if that is known already.
    pub fn known_pages(&self, group: usize, leaf: usize) -> Option<Rc<ChunkPages>> {
        self.pages.borrow().get(&(group, leaf)).cloned()
    }

    /// Remembers where the pages of a chunk are, if there is room; `charge` is what they are charged to until then.
    fn learn_pages(
        &self,
        group: usize,
        leaf: usize,
        pages: ChunkPages,
        charge: Charge,
    ) -> Rc<ChunkPages> {
        let pages = Rc::new(pages);
        if self.make_room(pages.memory_bytes()) {
            let mut known = self.pages.borrow_mut();
            if let Some(other) = known.insert((group, leaf), Rc::clone(&pages)) {
                // Another look-up was faster.
                self.count_pages(other.memory_bytes(), 0);
            }
            self.count_pages(0, pages.memory_bytes());
        } else {
            pages.hold(charge);
        }
        pages
    }

    /// Counts what a chunk's pages take more since their bounds are known, and forgets all where that is too much.
    fn count_bounds(&self, group: usize, leaf: usize, pages: &ChunkPages, charge: Charge) {
        let is_known = self
            .known_pages(group, leaf)
            .is_some_and(|known| std::ptr::eq(&*known, pages));
        let bytes = pages.bounds_bytes();
        if is_known && self.pages_bytes.get() + bytes <= self.pages_bytes_max.get() {
            self.count_pages(0, bytes);
            return;
        }
        if is_known {
            self.forget_pages();
        }
        pages.hold(charge);
    }

    /// Whether there is room for page lists of `bytes`, for which all others may go.
    fn make_room(&self, bytes: usize) -> bool {
        let limit = self.pages_bytes_max.get();
        if bytes > limit {
            return false;
        }
        if self.pages_bytes.get() + bytes > limit {
            self.forget_pages();
        }
        true
    }

    fn forget_pages(&self) {
        self.pages.borrow_mut().clear();
        self.count_pages(self.pages_bytes.get(), 0);
    }

    fn count_pages(&self, gone: usize, come: usize) {
        self.pages_bytes.update(|bytes| bytes - gone + come);
        self.memory_bytes.update(|bytes| bytes - gone + come);
    }

    /// An error about a chunk of this file, with its place in front.
    pub fn blame(&self, group: usize, column: &Column, error: LookupError) -> LookupError {
        let place = format_args!(", column {}, row group {group}", column.path);
        error.of_file(&self.name, place)
    }
}

/// Root columns as they were decoded together.
struct DecodedParts {
    roots: Vec<Root>,
    memory_bytes: usize,
    hint: Option<Arc<ArrowHint>>,
}

/// Decodes root columns with Arrow's schema of the footer, which is looked for if it was not yet.
fn decode_parts(
    outline: &Outline,
    roots: &[usize],
    hint: Option<Option<Arc<ArrowHint>>>,
    length: u64,
    memory: &Account,
) -> Result<DecodedParts> {
    let hint = hint.unwrap_or_else(|| hint_in(outline).map(Arc::new));
    let (roots, memory_bytes) = decode_some(outline, roots, hint.as_deref(), length, memory)?;
    Ok(DecodedParts {
        roots,
        memory_bytes,
        hint,
    })
}

fn is_within(leaf: &[u8], group: &[u8]) -> bool {
    leaf.strip_prefix(group)
        .is_some_and(|rest| rest.first() == Some(&b'.'))
}

/// Whether a root column of this name may have a leaf at `path`, or below it.
fn is_related(name: &[u8], path: &[u8]) -> bool {
    name == path || is_within(path, name) || is_within(name, path)
}
