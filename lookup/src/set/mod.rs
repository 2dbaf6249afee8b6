//! Several files as one table: values in their paths, and schemas that differ.
//!
//! Files may lack columns, have more, order them otherwise, or have them narrower: the answer has every
//! column in the widest type that one of them has it in, as DuckDB's `union_by_name` and pyarrow's unified
//! schemas do, and NULL where a file lacks it. Directories named `column=value` give columns, too.

mod types;

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray, UInt32Array, new_null_array,
};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::schema::types::{ColumnDescriptor, ColumnPath, Type};

use crate::column::{Column, Key};
use crate::error::{ErrorKind, LookupError, Result};
use crate::execute::counts::Counts;
use crate::memory::{Account, Charge};
use crate::predicate::bind::bind;
use crate::predicate::intervals::Bound;
use crate::predicate::{Comparison, Predicate};
use types::{conform, widened};

/// How a directory says that its files have NULL in a column.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// Bytes of a value that a path gives, in each row: an offset or a number and its bit, and what is in reserve.
const PATH_VALUE_BYTES: usize = 24;

/// Bytes of the widest number, which a narrower one may become.
const WIDENED_VALUE_BYTES: usize = 32;

/// Copies of an array while its type is made a wider one, both of them with what is in reserve.
const WIDENED_COPIES: usize = 2;

/// Values of the directories of a file: column and value, `None` for NULL.
pub type PathValues = Vec<(String, Option<String>)>;

/// The values that the directories of `path` below `base` give.
pub fn path_values(base: &str, path: &str) -> PathValues {
    if !path.as_bytes().contains(&b'=') {
        return Vec::new();
    }
    let below = path.strip_prefix(base).unwrap_or(path);
    let directories = below
        .rsplit_once('/')
        .map_or("", |(directories, _)| directories);
    directories
        .split('/')
        .filter_map(|directory| directory.split_once('='))
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| {
            let decoded = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
            let value = (decoded != NULL_PARTITION).then(|| decoded.into_owned());
            (name.to_owned(), value)
        })
        .collect()
}

fn is_same(one: &SchemaRef, other: &SchemaRef) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// The columns that paths give, and their types.
struct PathColumns {
    /// In the order in which paths name them.
    columns: Vec<Column>,
}

impl PathColumns {
    /// Integers where all values are such, else text.
    fn new(files: &[PathValues]) -> Self {
        let mut found: Vec<(&str, bool)> = Vec::new();
        for (name, value) in files.iter().flatten() {
            let parses = value
                .as_ref()
                .is_none_or(|value| value.parse::<i64>().is_ok());
            match found.iter_mut().find(|(known, _)| known == name) {
                Some((_, is_integer)) => *is_integer &= parses,
                None => found.push((name, parses)),
            }
        }
        let columns = found
            .into_iter()
            .map(|(name, is_integer)| path_column(name, is_integer))
            .collect();
        PathColumns { columns }
    }

    fn get(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.path == name)
    }
}

fn path_column(name: &str, is_integer: bool) -> Column {
    let builder = if is_integer {
        Type::primitive_type_builder(name, Physical::INT64)
    } else {
        Type::primitive_type_builder(name, Physical::BYTE_ARRAY)
            .with_logical_type(Some(LogicalType::String))
    };
    let primitive = builder
        .with_repetition(Repetition::OPTIONAL)
        .build()
        .expect("a plain column is a valid type");
    let path = ColumnPath::new(vec![name.to_owned()]);
    let descriptor = ColumnDescriptor::new(Arc::new(primitive), 1, 0, path);
    let data_type = if is_integer {
        DataType::Int64
    } else {
        DataType::Utf8
    };
    let field = Arc::new(Field::new(name, data_type, true));
    Column::new(0, 0, field, Arc::new(descriptor))
}

/// What one file of a set is asked for.
#[derive(Clone, Debug)]
pub struct FileQuery {
    /// Its place in the set.
    pub file: usize,
    /// Which rows: comparisons with values of its path are decided.
    pub predicate: Arc<Predicate>,
    /// Which columns; empty: all.
    pub select: Arc<[String]>,
}

/// What one file answered.
#[derive(Clone, Debug)]
pub struct FileAnswer {
    /// Of `batches`.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
    /// For each row of each batch, which of the wanted keys it has, where keys were wanted.
    pub ordinals: Vec<Vec<u32>>,
    /// Names that the file has not.
    pub missing: Vec<String>,
    /// What it took.
    pub counts: Counts,
    /// Memory of the batches, charged as long as the answer is there.
    pub memory: Option<Arc<Charge>>,
}

/// What files answered, as one table.
#[derive(Debug)]
pub struct Merged {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
    /// What it took.
    pub counts: Counts,
    /// Memory of what is not in the batches of the answers.
    pub memory: Charge,
}

/// A look-up in several files.
pub struct SetPlan {
    paths: Vec<PathValues>,
    path_columns: PathColumns,
    select: Vec<String>,
    /// What to ask the files, without those that the values in their paths rule out.
    pub queries: Vec<FileQuery>,
    /// Files that were ruled out.
    pub pruned: u64,
}

impl SetPlan {
    /// For files with these values in their paths.
    ///
    /// # Errors
    /// Invalid, if a literal is not of its column's type.
    pub fn new(paths: Vec<PathValues>, predicate: &Predicate, select: &[String]) -> Result<Self> {
        let path_columns = PathColumns::new(&paths);
        let own: Arc<[String]> = select
            .iter()
            .filter(|name| path_columns.get(name).is_none())
            .cloned()
            .collect();
        let undecided = Arc::new(predicate.clone());
        let mut queries = Vec::with_capacity(paths.len());
        let mut pruned = 0;
        for (file, values) in paths.iter().enumerate() {
            let predicate = if path_columns.columns.is_empty() {
                Arc::clone(&undecided)
            } else {
                Arc::new(decided(predicate, values, &path_columns)?)
            };
            if *predicate == Predicate::Or(Vec::new()) {
                pruned += 1;
                continue;
            }
            queries.push(FileQuery {
                file,
                predicate,
                select: Arc::clone(&own),
            });
        }
        // The columns of the answer are those of the files, even if none of them has a row for it.
        if queries.is_empty() && !paths.is_empty() {
            queries.push(FileQuery {
                file: 0,
                predicate: Arc::new(Predicate::Or(Vec::new())),
                select: own,
            });
        }
        Ok(SetPlan {
            paths,
            path_columns,
            select: select.to_vec(),
            queries,
            pruned,
        })
    }

    /// Whether all that is selected are values of paths, so that no column of a file is.
    pub fn selects_paths_only(&self) -> bool {
        !self.select.is_empty()
            && self
                .select
                .iter()
                .all(|name| self.path_columns.get(name).is_some())
    }

    /// One table of what the files answered, in the order of the files: at most `limit` rows, whose arrays take at
    /// most `bytes_max` bytes. Where keys were wanted, rows come in the order of the keys. What is made here, such
    /// as the values of a path in each row, is charged to `account`.
    ///
    /// # Errors
    /// Invalid, if no file has a named column, or types do not go together; `TooMuch`; what charging gives.
    pub fn merge(
        &self,
        answers: &[(usize, FileAnswer)],
        limit: Option<u64>,
        bytes_max: usize,
        account: &Account,
    ) -> Result<Merged> {
        let mut counts = Counts {
            files: self.paths.len() as u64,
            files_pruned_by_partition: self.pruned,
            ..Counts::default()
        };
        for (_, answer) in answers {
            counts.add(&answer.counts);
        }
        self.check_missing(answers)?;
        let schema = self.schema(answers)?;
        let mut batches = Vec::new();
        let mut ordinals = Vec::new();
        let mut left = limit.unwrap_or(u64::MAX);
        let mut memory = account.empty();
        let mut bytes = 0usize;
        for (file, answer) in answers {
            for (place, batch) in answer.batches.iter().enumerate() {
                let own = answer.ordinals.get(place);
                memory.add_values::<&u32>(own.map_or(0, |own| 2 * own.len()))?;
                ordinals.extend(own.into_iter().flatten());
                // Rows beyond the limit get no values of their path.
                let batch = match answer.ordinals.is_empty() && left < batch.num_rows() as u64 {
                    true => batch.slice(0, left as usize),
                    false => batch.clone(),
                };
                let most = self.conformed_bytes(*file, &batch, &schema);
                bytes = bytes.saturating_add(most);
                if bytes > bytes_max {
                    return Err(LookupError::new(
                        ErrorKind::TooMuch,
                        format!(
                            "the answer takes more than {bytes_max} bytes: select fewer columns, narrow the predicate \
                             or set a limit"
                        ),
                    ));
                }
                memory.add(most as u64)?;
                let batch = self.conform(*file, &batch, &schema)?;
                // Keys are put in order first.
                let is_cut = answer.ordinals.is_empty() && left < batch.num_rows() as u64;
                let batch = if is_cut {
                    batch.slice(0, left as usize)
                } else {
                    batch
                };
                left = left.saturating_sub(batch.num_rows() as u64);
                if batch.num_rows() > 0 {
                    batches.push(batch);
                }
            }
        }
        if ordinals.iter().any(|_| true) {
            // All of it at once, and then in order.
            let order = ordinals.len() * 2 * size_of::<u32>();
            let held = batches.iter().map(RecordBatch::get_array_memory_size);
            memory.add((2 * held.sum::<usize>() + order) as u64)?;
            batches = by_ordinal(&schema, &batches, &ordinals, limit)?;
        }
        Ok(Merged {
            schema,
            batches,
            counts,
            memory,
        })
    }

    /// Bytes that a file's batch takes at most in the set's schema.
    fn conformed_bytes(&self, file: usize, batch: &RecordBatch, schema: &SchemaRef) -> usize {
        if self.path_columns.columns.is_empty() && batch.schema_ref() == schema {
            return 0;
        }
        let rows = batch.num_rows();
        let bytes = schema.fields().iter().map(|field| {
            if self.path_columns.get(field.name()).is_some() {
                let value = self.paths[file]
                    .iter()
                    .find(|(name, _)| name == field.name())
                    .and_then(|(_, value)| value.as_ref());
                return rows * (PATH_VALUE_BYTES + value.map_or(0, String::len));
            }
            match batch.column_by_name(field.name()) {
                Some(array) if array.data_type() == field.data_type() => 0,
                Some(array) => {
                    WIDENED_COPIES * array.get_array_memory_size() + rows * WIDENED_VALUE_BYTES
                }
                None => null_bytes(field.data_type(), rows),
            }
        });
        bytes.fold(0, usize::saturating_add)
    }

    /// Refuses names that no file has.
    fn check_missing(&self, answers: &[(usize, FileAnswer)]) -> Result<()> {
        let Some(((_, first), rest)) = answers.split_first() else {
            return Ok(());
        };
        let missed = first
            .missing
            .iter()
            .find(|name| rest.iter().all(|(_, answer)| answer.missing.contains(name)));
        match missed {
            Some(name) => Err(LookupError::invalid(format!(
                "there is no column `{name}`: `corelane lookup PATH --limit 1` shows the columns"
            ))),
            None => Ok(()),
        }
    }

    fn schema(&self, answers: &[(usize, FileAnswer)]) -> Result<SchemaRef> {
        // Files of one table nearly always have the same columns.
        if let Some(((_, first), rest)) = answers.split_first()
            && self.path_columns.columns.is_empty()
            && first.missing.is_empty()
            && rest
                .iter()
                .all(|(_, answer)| is_same(&answer.schema, &first.schema))
        {
            return Ok(Arc::clone(&first.schema));
        }
        let mut order: Vec<String> = Vec::new();
        let mut fields: HashMap<String, FieldRef> = HashMap::new();
        for field in answers
            .iter()
            .flat_map(|(_, answer)| answer.schema.fields())
        {
            match fields.get_mut(field.name()) {
                Some(own) => *own = widened(own, field)?,
                None => {
                    order.push(field.name().clone());
                    fields.insert(field.name().clone(), Arc::clone(field));
                }
            }
        }
        let everywhere = |name: &str| {
            answers
                .iter()
                .all(|(_, answer)| answer.schema.field_with_name(name).is_ok())
        };
        let names: Vec<String> = if self.select.is_empty() {
            order.retain(|name| self.path_columns.get(name).is_none());
            order.extend(
                self.path_columns
                    .columns
                    .iter()
                    .map(|column| column.path.clone()),
            );
            order
        } else {
            self.select.clone()
        };
        let fields: Vec<FieldRef> = names
            .iter()
            .map(|name| match self.path_columns.get(name) {
                Some(column) => Arc::clone(&column.field),
                None => match fields.get(name) {
                    Some(field) if everywhere(name) => Arc::clone(field),
                    Some(field) => Arc::new(field.as_ref().clone().with_nullable(true)),
                    // All files were ruled out, so its type is not known.
                    None => Arc::new(Field::new(name, DataType::Null, true)),
                },
            })
            .collect();
        Ok(Arc::new(Schema::new(fields)))
    }

    /// A file's batch in the set's schema.
    fn conform(&self, file: usize, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        if self.path_columns.columns.is_empty() && batch.schema_ref() == schema {
            return Ok(batch.clone());
        }
        let columns = schema
            .fields()
            .iter()
            .map(|field| {
                if let Some(column) = self.path_columns.get(field.name()) {
                    let value = self.paths[file]
                        .iter()
                        .find(|(name, _)| name == field.name())
                        .and_then(|(_, value)| value.as_deref());
                    return Ok(constant(column, value, rows));
                }
                match batch.column_by_name(field.name()) {
                    Some(array) => conform(array, field.data_type())
                        .map_err(|error| error.of(format_args!("column {}", field.name()))),
                    None => Ok(new_null_array(field.data_type(), rows)),
                }
            })
            .collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
            .map_err(|error| LookupError::corrupt(error.to_string()))
    }
}

/// Rows in the order of the keys that they have; of one key, as they come.
fn by_ordinal(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    ordinals: &[&u32],
    limit: Option<u64>,
) -> Result<Vec<RecordBatch>> {
    let wrong = |error: arrow_schema::ArrowError| LookupError::corrupt(error.to_string());
    let whole = arrow_select::concat::concat_batches(schema, batches).map_err(wrong)?;
    let mut order: Vec<u32> = (0..ordinals.len() as u32).collect();
    order.sort_by_key(|row| ordinals[*row as usize]);
    if let Some(limit) = limit {
        order.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    let taken = arrow_select::take::take_record_batch(&whole, &UInt32Array::from(order));
    Ok(vec![taken.map_err(wrong)?])
}

/// Bytes of an array of NULLs.
fn null_bytes(data_type: &DataType, rows: usize) -> usize {
    let own = rows * WIDENED_VALUE_BYTES;
    match data_type {
        DataType::Struct(fields) => fields
            .iter()
            .map(|field| null_bytes(field.data_type(), rows))
            .fold(own, usize::saturating_add),
        DataType::FixedSizeList(field, length) => {
            let values = rows.saturating_mul(length.unsigned_abs() as usize);
            own.saturating_add(null_bytes(field.data_type(), values))
        }
        DataType::FixedSizeBinary(width) => {
            own.saturating_add(rows.saturating_mul(width.unsigned_abs() as usize))
        }
        _ => own,
    }
}

fn constant(column: &Column, value: Option<&str>, rows: usize) -> ArrayRef {
    match column.field.data_type() {
        DataType::Int64 => {
            let value: Option<i64> = value.and_then(|value| value.parse().ok());
            Arc::new(std::iter::repeat_n(value, rows).collect::<Int64Array>())
        }
        _ => Arc::new(std::iter::repeat_n(value, rows).collect::<StringArray>()),
    }
}

/// A predicate with what the values of a path decide: `And([])` holds, `Or([])` does not.
fn decided(
    predicate: &Predicate,
    values: &PathValues,
    path_columns: &PathColumns,
) -> Result<Predicate> {
    let (always, never) = (Predicate::And(Vec::new()), Predicate::Or(Vec::new()));
    Ok(match predicate {
        Predicate::And(children) => {
            let mut kept = Vec::with_capacity(children.len());
            for child in children {
                let child = decided(child, values, path_columns)?;
                if child == never {
                    return Ok(never);
                }
                if child != always {
                    kept.push(child);
                }
            }
            Predicate::And(kept)
        }
        Predicate::Or(children) => {
            let mut kept = Vec::with_capacity(children.len());
            for child in children {
                let child = decided(child, values, path_columns)?;
                if child == always {
                    return Ok(always);
                }
                if child != never {
                    kept.push(child);
                }
            }
            Predicate::Or(kept)
        }
        Predicate::Compare(Comparison { column, test }) => {
            let Some(typed) = path_columns.get(column) else {
                return Ok(predicate.clone());
            };
            let bound = bind(typed, test)?;
            let value = values
                .iter()
                .find(|(name, _)| name == column)
                .and_then(|(_, value)| value.as_deref());
            let holds = match (&bound, value) {
                (Bound::IsNull, value) => value.is_none(),
                (Bound::IsNotNull, value) => value.is_some(),
                (Bound::Values(_), None) => false,
                (Bound::Values(intervals), Some(value)) => match typed.field.data_type() {
                    DataType::Int64 => value
                        .parse()
                        .is_ok_and(|value| intervals.contains(Key::Narrow(value))),
                    _ => intervals.contains(Key::Bytes(value.as_bytes())),
                },
            };
            if holds { always } else { never }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predicate::{Literal, Test};

    #[test]
    fn directories_give_values() {
        let values = path_values("/lake/", "/lake/year=2024/name=a%20b/x.parquet");
        let expected = [("year", Some("2024")), ("name", Some("a b"))];
        let expected: PathValues = expected
            .map(|(name, value)| (name.to_owned(), value.map(str::to_owned)))
            .into();
        assert_eq!(values, expected);
        let null = path_values("/l/", "/l/a=__HIVE_DEFAULT_PARTITION__/b=1.parquet");
        assert_eq!(null, [("a".to_owned(), None)]);
    }

    #[test]
    fn files_are_ruled_out_by_their_directories() {
        let paths = ["y=1", "y=2", "y=30"].map(|path| path_values("", &format!("{path}/f")));
        let predicate = Predicate::Compare(Comparison {
            column: "y".to_owned(),
            test: Test::GreaterOrEqual(Literal::Integer(2)),
        });
        let plan = SetPlan::new(paths.into(), &predicate, &[]).unwrap();
        let left: Vec<usize> = plan.queries.iter().map(|query| query.file).collect();
        assert_eq!(
            (left, plan.pruned),
            (vec![1, 2], 1),
            "2 < 30: they are integers"
        );
    }
}
