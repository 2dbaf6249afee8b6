//! TPC-H's orders and lineitem in Parquet files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::gate::bench::Bench;
use crate::target::look_up::Table;

/// Scale factor, and that of a quick run.
const SCALE: f64 = 1.0;
const SCALE_QUICK: f64 = 0.01;

/// Copies of the table of orders, for look-ups that come first.
pub(super) const COPIES: usize = 8;

/// Where the worker has the files.
const MOUNT: &str = "/gate";

/// The files, below one directory.
#[derive(Clone, Debug)]
pub(in crate::gate) struct Tables {
    /// Where they are.
    pub directory: PathBuf,
    /// Orders: as many keys.
    pub orders: u64,
}

#[derive(Deserialize)]
struct Rows {
    orders: u64,
}

impl Tables {
    /// Those of `bench`, which are made at first.
    pub fn of(bench: &mut Bench) -> Result<Tables, String> {
        if let Some(tables) = &bench.tables {
            return Ok(tables.clone());
        }
        let kept = bench.options.tables.clone();
        let directory = kept.unwrap_or_else(|| bench.fast_directory().join("tables"));
        std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let directory = directory
            .canonicalize()
            .map_err(|error| error.to_string())?;
        let done = directory.join("rows.json");
        if !done.exists() {
            let rows = make(bench, &directory)?;
            std::fs::write(&done, rows).map_err(|error| error.to_string())?;
        }
        let text = std::fs::read(&done).map_err(|error| error.to_string())?;
        let rows: Rows = serde_json::from_slice(&text)
            .map_err(|error| format!("{}: {error}", done.display()))?;
        let tables = Tables {
            directory,
            orders: rows.orders,
        };
        for copy in 0..COPIES {
            let copy = tables.directory.join(format!("copy-{copy}.parquet"));
            if !copy.exists() {
                std::fs::hard_link(tables.file("orders.parquet"), copy)
                    .map_err(|error| error.to_string())?;
            }
        }
        bench.tables = Some(tables.clone());
        Ok(tables)
    }

    /// A file's own path.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Orders in the files `names`.
    pub fn orders_in(&self, names: &[String]) -> Table {
        Table {
            paths: names.iter().map(|name| format!("{MOUNT}/{name}")).collect(),
            key: "o_orderkey".to_owned(),
            select: ["o_orderkey", "o_totalprice", "o_orderdate"]
                .map(str::to_owned)
                .to_vec(),
            keys: self.orders,
            rows_of_key: Some(1),
        }
    }

    /// Orders in one file.
    pub fn orders(&self, name: &str) -> Table {
        self.orders_in(&[name.to_owned()])
    }

    /// Orders in 20 files.
    pub fn parts(&self) -> Table {
        let names: Vec<String> = (0..20)
            .map(|part| format!("parts/part-{part:02}.parquet"))
            .collect();
        self.orders_in(&names)
    }

    /// Items of the orders.
    pub fn lineitem(&self) -> Table {
        Table {
            paths: vec![format!("{MOUNT}/lineitem.parquet")],
            key: "l_orderkey".to_owned(),
            select: ["l_orderkey", "l_extendedprice", "l_shipdate"]
                .map(str::to_owned)
                .to_vec(),
            keys: self.orders,
            rows_of_key: None,
        }
    }

    /// The path of one file of `table` as the worker has it, below the mount.
    pub fn local(&self, path: &str) -> PathBuf {
        let name = path.strip_prefix(MOUNT).unwrap_or(path);
        self.directory.join(name.trim_start_matches('/'))
    }
}

/// Makes the files; gives their rows in JSON.
fn make(bench: &Bench, directory: &Path) -> Result<String, String> {
    let scale = if bench.options.quick {
        SCALE_QUICK
    } else {
        SCALE
    };
    bench.say(&format!("files of TPC-H, scale factor {scale} ..."));
    let script = include_str!("../../../lookup/make_files.py");
    let output = python(bench, script)
        .arg(directory)
        .arg(scale.to_string())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("{}: {error}", bench.options.python.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().last() {
        Some(rows) if output.status.success() => Ok(rows.to_owned()),
        _ => Err(format!(
            "the files were not made; install what makes them: {} -m pip install -r ci/lookup-oracle/requirements.txt, \
             or name another Python with --python",
            bench.options.python.display()
        )),
    }
}

/// The Python of `bench` with a script.
fn python(bench: &Bench, script: &str) -> Command {
    let mut command = Command::new(&bench.options.python);
    command.arg("-c").arg(script).stdin(Stdio::null());
    command
}

/// Bytes of a file.
pub(super) fn bytes_of(path: &Path) -> Result<u64, String> {
    std::fs::metadata(path)
        .map(|metadata| metadata.len())
        .map_err(|error| format!("{}: {error}", path.display()))
}
