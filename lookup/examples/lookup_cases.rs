//! Answers look-ups in local files, for the comparison with other engines in `ci/lookup`.
//!
//! `lookup_cases CASES OUT`: a line of CASES is a case in JSON (`paths`, `base`, `where`, `select`, `limit`);
//! its answer goes to `OUT/N.arrow` (Arrow IPC stream), or the reason why there is none to `OUT/N.error`.

use std::cell::RefCell;
use std::error::Error;
use std::fs;
use std::future::Future;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use corelane_lookup::cache::Cache;
use corelane_lookup::error::{ErrorKind, LookupError, Result};
use corelane_lookup::execute::counts::Counts;
use corelane_lookup::execute::plan::Plan;
use corelane_lookup::execute::{Limits, Search};
use corelane_lookup::file::footer;
use corelane_lookup::host::Host;
use corelane_lookup::key_index::KeyIndex;
use corelane_lookup::memory::Account;
use corelane_lookup::predicate::parse::parse;
use corelane_lookup::set::{FileAnswer, SetPlan, path_values};

/// A file of this machine, and work in line.
struct Local {
    file: fs::File,
    began: Instant,
    memory: Account,
}

impl Host for Local {
    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        ranges
            .iter()
            .map(|range| {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                self.file
                    .read_exact_at(&mut bytes, range.start)
                    .map_err(|error| LookupError::new(ErrorKind::Read, error.to_string()))?;
                Ok(bytes.into())
            })
            .collect()
    }

    fn run<T: Send + 'static>(
        &self,
        _estimate: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> {
        std::future::ready(work())
    }

    fn memory(&self) -> &Account {
        &self.memory
    }

    fn pause(&self) -> impl Future<Output = ()> {
        std::future::ready(())
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

#[derive(serde::Deserialize)]
struct Case {
    paths: Vec<String>,
    #[serde(default)]
    base: Option<String>,
    #[serde(rename = "where", default)]
    predicate: Option<String>,
    #[serde(default)]
    select: Vec<String>,
    #[serde(default)]
    limit: Option<u64>,
}

async fn answer(case: &Case) -> Result<(SchemaRef, Vec<RecordBatch>, Counts)> {
    let predicate = parse(case.predicate.as_deref().unwrap_or_default())?;
    let values = case
        .paths
        .iter()
        .map(|path| {
            case.base
                .as_ref()
                .map(|base| path_values(base, path))
                .unwrap_or_default()
        })
        .collect();
    let plan = SetPlan::new(values, &predicate, &case.select)?;
    // So small that pages are pushed out all the time.
    let cache = RefCell::new(Cache::new(4 << 20, 1));
    let mut answers = Vec::new();
    for query in &plan.queries {
        let path = &case.paths[query.file];
        let unreadable =
            |error: std::io::Error| LookupError::new(ErrorKind::Read, format!("{path}: {error}"));
        let file = fs::File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let host = Local {
            file,
            began: Instant::now(),
            memory: Account::default(),
        };
        let opened = footer::open(&host, path, length).await?;
        let own = Plan::new(&opened, &query.predicate, &query.select)?;
        let limits = Limits {
            rows: case.limit,
            scan_bytes: 1 << 40,
            answer_bytes: 1 << 30,
        };
        let search = || Search::new(&host, &opened, &cache, limits);
        let found = search().run(&own, &[]).await?;
        // The same by key indexes of all columns that the predicate compares.
        let mut indexes = Vec::new();
        for column in own.filter.columns() {
            let bytes = search().build_key_index(&column).await?;
            indexes.push((column.leaf, Rc::new(KeyIndex::open(bytes.into())?)));
        }
        let indexed = search().run(&own, &indexes).await?;
        // As text, in which a NaN is equal to itself.
        if format!("{:?}", indexed.batches) != format!("{:?}", found.batches) {
            return Err(LookupError::invalid(format!(
                "{path}: with key indexes the answer is another one"
            )));
        }
        let answer = FileAnswer {
            schema: own.schema,
            batches: found.batches,
            ordinals: found.ordinals,
            missing: own.missing,
            counts: found.counts,
            memory: found.memory.map(Arc::new),
        };
        answers.push((query.file, answer));
    }
    let merged = plan.merge(&answers, case.limit, usize::MAX, &Account::default())?;
    Ok((merged.schema, merged.batches, merged.counts))
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(cases), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("lookup_cases CASES OUT".into());
    };
    fs::create_dir_all(&out)?;
    for (number, line) in fs::read_to_string(&cases)?.lines().enumerate() {
        let case: Case = serde_json::from_str(line)?;
        let began = Instant::now();
        let answered = futures::executor::block_on(answer(&case));
        let place = Path::new(&out);
        match answered {
            Ok((schema, batches, _)) => {
                let file = fs::File::create(place.join(format!("{number}.arrow")))?;
                let mut writer = arrow_ipc::writer::StreamWriter::try_new(file, &schema)?;
                for batch in &batches {
                    writer.write(batch)?;
                }
                writer.finish()?;
            }
            Err(error) => fs::write(place.join(format!("{number}.error")), error.message)?,
        }
        if began.elapsed() > Duration::from_secs(10) {
            eprintln!("case {number} took {:?}", began.elapsed());
        }
    }
    Ok(())
}
