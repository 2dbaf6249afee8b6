//! `corelane lookup`: rows of Parquet objects, found by the worker that holds their blocks.
//!
//! | file | does |
//! |---|---|
//! | [`paths`] | which objects the paths name |
//! | [`keys`] | the keys of `--key` |
//! | [`rows`] | rows as a table |
//! | [`explain`] | what it took, for people |
//!
//! The invariant: standard output holds the rows in the format that was asked for and nothing else;
//! what `--explain` says goes there only behind a table, which is for people too.

mod explain;
mod keys;
mod paths;
mod rows;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use corelane_client::lookup::answer;
use corelane_client::lookup::paths::Named;
use corelane_client::lookup::predicate::Predicate;
use corelane_client::lookup::predicate::parse::parse;
use corelane_client::lookup::request::LookupRequest;
use corelane_client::{Error, ErrorCode, Found};
use corelane_rpc_schema::frame::LOOKUP_BYTES_MAX;
use corelane_worker::config::quantity::parse_size;

use crate::connection::BothFlags;
use crate::failure::{Failure, Kind};
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  One row of one object:
    corelane lookup /lake/orders.parquet --where 'o_orderkey = 42'
  Columns of a directory with partitions such as year=1995/, and what it took:
    corelane lookup s3://lake/orders/ --where 'year = 1995 and o_orderkey = 42' \\
      --select o_custkey,address.zip --explain
  Many keys at once, answered in their order:
    corelane lookup '/lake/orders/part-*' --key o_orderkey=42,7,42 --format csv
  Into another program:
    corelane lookup /lake/orders/ --where \"o_clerk like 'Clerk#0001%'\" --format arrow >rows.arrows

Predicates:
  = <> < <= > >=, in (1, 2), between 1 and 2, like 'prefix%', is null, is not null, and, or, ( )
  Columns are dotted paths; text is written 'text', a date 1995-01-01, bytes x'0aff'.";

/// Looks rows up in Parquet objects, where their blocks are.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Lookup {
    /// Objects in the worker's namespace, such as /lake/orders.parquet, or s3://lake/orders.parquet
    /// for the same. With / at the end or with * and ? in it: all files ending in .parquet below,
    /// without those in directories that begin with . or _
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// Which rows, such as 'o_orderkey = 42 and o_orderdate >= 1995-01-01'; without it, all
    #[arg(long = "where", value_name = "PREDICATE")]
    predicate: Option<String>,
    /// Columns of the answer, by dotted paths; without it, all
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',')]
    select: Vec<String>,
    /// Keys that are looked up at once and answered in this order, one that is there twice twice.
    /// Text may go without quotes where it has no comma and looks like no other literal
    #[arg(long, value_name = "COLUMN=KEY,...")]
    key: Option<String>,
    /// At most so many rows
    #[arg(long, value_name = "ROWS")]
    limit: Option<u64>,
    /// Refuse to read more of the objects' pages than this, such as 64M
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    scan_bytes_max: Option<u64>,
    /// How the rows are printed; json is an object a line, arrow a raw IPC stream. Without it, a
    /// table, or json with --json
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Say what was pruned, what was read, from where, and how long it took: behind a table, else
    /// on standard error
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    connection: BothFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
    Arrow,
}

impl Lookup {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let format = self.format.unwrap_or(match output.is_json() {
            true => Format::Json,
            false => Format::Table,
        });
        if format == Format::Arrow && std::io::stdout().is_terminal() {
            return Err(usage(
                "--format arrow is no text and would upset the terminal: send it to a file or a program, or take \
                 --format table",
            ));
        }
        let names: Vec<Named> = self
            .paths
            .iter()
            .map(|path| paths::parse(path))
            .collect::<Result<_, _>>()?;
        let request = self.request()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("no runtime for the connection: {error}")))?;
        let (found, took) = runtime.block_on(self.ask(&names, request))?;
        print(output, format, &found)?;
        match found.counts.filter(|_| self.explain) {
            Some(counts) => explain::Explanation::new(counts, found.rows, took)
                .print(output, format == Format::Table),
            None => Ok(()),
        }
    }

    /// All but the paths.
    fn request(&self) -> Result<LookupRequest, Failure> {
        let predicate = match &self.predicate {
            Some(text) => parse(text).map_err(|error| usage(format!("--where: {error}")))?,
            None => Predicate::And(Vec::new()),
        };
        if self.select.iter().any(String::is_empty) {
            return Err(usage(
                "--select: an empty name; write dotted paths of columns with commas between them",
            ));
        }
        let keys = self.key.as_deref().map(keys::parse_batch).transpose()?;
        Ok(LookupRequest {
            paths: Vec::new(),
            predicate,
            select: self.select.clone(),
            limit: self.limit,
            scan_bytes_max: self.scan_bytes_max,
            explain: self.explain,
            keys,
        })
    }

    /// The rows, and how long the worker was waited for.
    async fn ask(
        &self,
        names: &[Named],
        mut request: LookupRequest,
    ) -> Result<(Found, Duration), Failure> {
        request.paths = paths::objects(names, &self.connection).await?;
        let bytes = request.encode().len();
        if bytes > LOOKUP_BYTES_MAX as usize {
            return Err(usage(format!(
                "a look-up of {bytes} bytes, for {} objects and {} keys, is longer than the {LOOKUP_BYTES_MAX} that \
                 a worker takes: ask in several",
                request.paths.len(),
                request.keys.as_ref().map_or(0, |batch| batch.keys.len())
            )));
        }
        let client = self.connection.data().await?;
        let asked = Instant::now();
        let found = client.look_up(&request).await.map_err(refused)?;
        Ok((found, asked.elapsed()))
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Usage, message)
}

/// Who names a directory as if it were an object is told how directories are named.
fn refused(error: Error) -> Failure {
    let is_missing = error.code() == Some(ErrorCode::NotFound);
    match Failure::from(error) {
        Failure::Error { kind, message } if is_missing => Failure::new(
            kind,
            format!("{message}; a directory is named with a / at its end"),
        ),
        failure => failure,
    }
}

fn print(output: Output, format: Format, found: &Found) -> Result<(), Failure> {
    let format = match format {
        Format::Arrow => return output.bytes(&found.stream),
        Format::Table => {
            let (schema, batches) = found.batches()?;
            return output.line(rows::table(&schema, &batches)?.trim_end());
        }
        Format::Json => answer::Format::JsonLines,
        Format::Csv => answer::Format::Csv,
    };
    let (schema, batches) = found.batches()?;
    let mut text = Vec::new();
    format
        .write(&schema, &batches, &mut text)
        .map_err(|error| Failure::failed(error.to_string()))?;
    output.bytes(&text)
}
