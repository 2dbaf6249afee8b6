//! The tables of TPC-H as Parquet files.
//!
//! `tpchgen` generates rows and writes them as CSV; the CSV reader of Arrow turns them into batches, by a
//! schema that stands here. Arrow's umbrella crate, which the generator's own conversion needs, would take
//! longer to compile than all else that only the demo uses.

use std::fmt::{Display, Write as _};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tpchgen::csv::{
    CustomerCsv, LineItemCsv, NationCsv, OrderCsv, PartCsv, PartSuppCsv, RegionCsv, SupplierCsv,
};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};

/// Lineitem comes in parts, as tables in a lake do.
const LINEITEM_PARTS: i32 = 4;

/// Several row groups a file also at the demo's small scale.
const ROWS_PER_GROUP: usize = 50_000;

/// Rows that are converted at a time.
const ROWS_PER_BATCH: usize = 8_192;

/// Folder of the parts of lineitem, below the demo's folder.
pub const LINEITEM: &str = "tpch/lineitem";

/// 64-bit key.
const KEY: DataType = DataType::Int64;
/// 32-bit number.
const NUMBER: DataType = DataType::Int32;
/// Money and quantities, with two digits after the point.
const DECIMAL: DataType = DataType::Decimal128(15, 2);
const DATE: DataType = DataType::Date32;
const TEXT: DataType = DataType::Utf8View;

/// Writes all tables at `scale` below `folder` and returns their names there.
///
/// # Errors
/// What the file system says, or that `stop` was set.
pub fn write(folder: &Path, scale: f64, stop: &AtomicBool) -> io::Result<Vec<String>> {
    fs::create_dir_all(folder.join(LINEITEM))?;
    let mut tables = Tables {
        folder,
        stop,
        names: Vec::new(),
    };
    tables.write(
        "tpch/region",
        &[("r_regionkey", KEY), ("r_name", TEXT), ("r_comment", TEXT)],
        RegionGenerator::new(scale, 1, 1).iter().map(RegionCsv::new),
    )?;
    tables.write(
        "tpch/nation",
        &[
            ("n_nationkey", KEY),
            ("n_name", TEXT),
            ("n_regionkey", KEY),
            ("n_comment", TEXT),
        ],
        NationGenerator::new(scale, 1, 1).iter().map(NationCsv::new),
    )?;
    tables.write(
        "tpch/supplier",
        &[
            ("s_suppkey", KEY),
            ("s_name", TEXT),
            ("s_address", TEXT),
            ("s_nationkey", KEY),
            ("s_phone", TEXT),
            ("s_acctbal", DECIMAL),
            ("s_comment", TEXT),
        ],
        SupplierGenerator::new(scale, 1, 1)
            .iter()
            .map(SupplierCsv::new),
    )?;
    tables.write(
        "tpch/part",
        &[
            ("p_partkey", KEY),
            ("p_name", TEXT),
            ("p_mfgr", TEXT),
            ("p_brand", TEXT),
            ("p_type", TEXT),
            ("p_size", NUMBER),
            ("p_container", TEXT),
            ("p_retailprice", DECIMAL),
            ("p_comment", TEXT),
        ],
        PartGenerator::new(scale, 1, 1).iter().map(PartCsv::new),
    )?;
    tables.write(
        "tpch/partsupp",
        &[
            ("ps_partkey", KEY),
            ("ps_suppkey", KEY),
            ("ps_availqty", NUMBER),
            ("ps_supplycost", DECIMAL),
            ("ps_comment", TEXT),
        ],
        PartSuppGenerator::new(scale, 1, 1)
            .iter()
            .map(PartSuppCsv::new),
    )?;
    tables.write(
        "tpch/customer",
        &[
            ("c_custkey", KEY),
            ("c_name", TEXT),
            ("c_address", TEXT),
            ("c_nationkey", KEY),
            ("c_phone", TEXT),
            ("c_acctbal", DECIMAL),
            ("c_mktsegment", TEXT),
            ("c_comment", TEXT),
        ],
        CustomerGenerator::new(scale, 1, 1)
            .iter()
            .map(CustomerCsv::new),
    )?;
    tables.write(
        "tpch/orders",
        &[
            ("o_orderkey", KEY),
            ("o_custkey", KEY),
            ("o_orderstatus", TEXT),
            ("o_totalprice", DECIMAL),
            ("o_orderdate", DATE),
            ("o_orderpriority", TEXT),
            ("o_clerk", TEXT),
            ("o_shippriority", NUMBER),
            ("o_comment", TEXT),
        ],
        OrderGenerator::new(scale, 1, 1).iter().map(OrderCsv::new),
    )?;
    for part in 1..=LINEITEM_PARTS {
        tables.write(
            &format!("{LINEITEM}/{part}"),
            &[
                ("l_orderkey", KEY),
                ("l_partkey", KEY),
                ("l_suppkey", KEY),
                ("l_linenumber", NUMBER),
                ("l_quantity", DECIMAL),
                ("l_extendedprice", DECIMAL),
                ("l_discount", DECIMAL),
                ("l_tax", DECIMAL),
                ("l_returnflag", TEXT),
                ("l_linestatus", TEXT),
                ("l_shipdate", DATE),
                ("l_commitdate", DATE),
                ("l_receiptdate", DATE),
                ("l_shipinstruct", TEXT),
                ("l_shipmode", TEXT),
                ("l_comment", TEXT),
            ],
            LineItemGenerator::new(scale, part, LINEITEM_PARTS)
                .iter()
                .map(LineItemCsv::new),
        )?;
    }
    Ok(tables.names)
}

struct Tables<'a> {
    folder: &'a Path,
    stop: &'a AtomicBool,
    names: Vec<String>,
}

impl Tables<'_> {
    /// Writes `rows`, each a line of CSV, to the file `table` with the columns `columns`.
    fn write(
        &mut self,
        table: &str,
        columns: &[(&str, DataType)],
        rows: impl Iterator<Item = impl Display>,
    ) -> io::Result<()> {
        let name = format!("{table}.parquet");
        let schema = schema_of(columns);
        let mut file = BufWriter::new(File::create(self.folder.join(&name))?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
            .build();
        let mut writer = ArrowWriter::try_new(&mut file, Arc::clone(&schema), Some(properties))
            .map_err(io::Error::other)?;
        let mut rows = rows.peekable();
        let mut lines = String::new();
        while rows.peek().is_some() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::other("the demo was ended"));
            }
            lines.clear();
            for row in rows.by_ref().take(ROWS_PER_BATCH) {
                writeln!(lines, "{row}").map_err(io::Error::other)?;
            }
            let batches = arrow_csv::ReaderBuilder::new(Arc::clone(&schema))
                .with_batch_size(ROWS_PER_BATCH)
                .build(lines.as_bytes())
                .map_err(io::Error::other)?;
            for batch in batches {
                writer
                    .write(&batch.map_err(io::Error::other)?)
                    .map_err(io::Error::other)?;
            }
        }
        writer.close().map_err(io::Error::other)?;
        file.flush()?;
        self.names.push(name);
        Ok(())
    }
}

fn schema_of(columns: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(
        columns
            .iter()
            .map(|(name, kind)| Field::new(*name, kind.clone(), false))
            .collect::<Vec<_>>(),
    ))
}
