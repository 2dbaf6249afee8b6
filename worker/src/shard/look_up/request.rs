//! A whole look-up: objects to their homes, what they answer to one table.

use std::rc::Rc;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use corelane_io::Io;
use corelane_lookup::execute::counts::Counts;
use corelane_lookup::memory::Charge;
use corelane_lookup::request::LookupRequest;
use corelane_lookup::set::{FileAnswer, Merged, SetPlan, path_values};
use corelane_rpc_schema::ShardId;
use corelane_rpc_schema::messages::ErrorCode;
use futures::StreamExt;

use super::failure::{LookupFailure, Why};
use super::object::{ANSWER_BYTES_MAX, ObjectQuery};
use crate::mount::AccessSet;
use crate::shard::Shard;
use crate::shard::message::{Answer, Question};
use crate::shard::read::error;
use crate::under_store::UnderStore;

/// Objects of one look-up that are looked into side by side.
const OBJECTS_AT_A_TIME: usize = 8;

/// Objects whose statistics are asked until others have their turn: some 50 µs.
const RULED_OUT_PER_TURN: usize = 128;

/// Literals of a predicate that statistics are asked about on the way: more take longer to put in the terms of
/// each object.
const RULED_OUT_LITERALS_MAX: usize = 16;

/// The rows that match.
#[derive(Debug)]
pub struct LookupAnswer {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
    /// What it took.
    pub counts: Counts,
    /// The home of the first object: the shard to ask next time.
    pub home: ShardId,
    /// Memory of the rows, charged as long as they are there.
    pub memory: AnswerMemory,
}

/// Charges of an answer: of its rows, and of the bytes that are made of them.
#[derive(Debug)]
pub struct AnswerMemory {
    /// Of the arrays that files gave.
    _files: Vec<Arc<Charge>>,
    /// Of what was made of them.
    pub own: Charge,
}

impl LookupAnswer {
    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.batches
            .iter()
            .map(|batch| batch.num_rows() as u64)
            .sum()
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Looks a request up.
    ///
    /// # Errors
    /// For the client.
    pub(crate) async fn look_up(
        self: &Rc<Self>,
        request: LookupRequest,
        access: &Arc<AccessSet>,
    ) -> Result<LookupAnswer, LookupFailure> {
        self.counters.lookups.increase();
        let answer = self.look_up_now(request, access).await;
        match &answer {
            Ok(answer) => self.counters.lookup_rows.add(answer.rows()),
            Err(_) => self.counters.lookups_failed.increase(),
        }
        answer
    }

    async fn look_up_now(
        self: &Rc<Self>,
        request: LookupRequest,
        access: &Arc<AccessSet>,
    ) -> Result<LookupAnswer, LookupFailure> {
        let Some(first) = request.paths.first() else {
            let sentence = "a look-up names at least one object";
            return Err(error(ErrorCode::Invalid, sentence).into());
        };
        let home = self.place_of(first)?.shard;
        let values = request
            .paths
            .iter()
            .map(|path| path_values("", path))
            .collect();
        let plan = SetPlan::new(values, &request.predicate, &request.select)?;
        let keys = request.keys.map(Arc::new);
        let wanted = request.limit.filter(|_| keys.is_none());
        let mut answers = Vec::with_capacity(plan.queries.len());
        let mut left = Vec::new();
        // One alone is looked into at once.
        let may_be_ruled_out = keys.is_none()
            && plan.queries.len() > 1
            && request.predicate.literals() <= RULED_OUT_LITERALS_MAX;
        for (place, query) in plan.queries.iter().enumerate() {
            if place % RULED_OUT_PER_TURN == RULED_OUT_PER_TURN - 1 {
                self.io.yield_now().await;
            }
            let path = &request.paths[query.file];
            let ruled_out = may_be_ruled_out.then(|| self.ruled_out(path, query, access));
            match ruled_out.flatten() {
                Some(answer) => answers.push((query.file, answer)),
                None => left.push(query),
            }
        }
        let asked = left.into_iter().map(|query| {
            let object = ObjectQuery {
                path: request.paths[query.file].as_str().into(),
                query: query.clone(),
                keys: keys.clone(),
                limit: wanted,
                scan_bytes: request.scan_bytes_max,
            };
            let file = query.file;
            async move {
                let answer = self.look_into_anywhere(object, access).await?;
                Ok::<(usize, FileAnswer), LookupFailure>((file, answer))
            }
        });
        let (mut rows, mut bytes) = (0, 0);
        let mut answered = futures::stream::iter(asked).buffered(OBJECTS_AT_A_TIME);
        while let Some(answer) = answered.next().await {
            let (file, answer) = answer?;
            rows += answer
                .batches
                .iter()
                .map(|batch| batch.num_rows() as u64)
                .sum::<u64>();
            bytes += answer
                .batches
                .iter()
                .map(RecordBatch::get_array_memory_size)
                .sum::<usize>();
            if bytes > ANSWER_BYTES_MAX {
                return Err(LookupFailure::new(
                    Why::TooMuch,
                    format!(
                        "the answer takes more than {ANSWER_BYTES_MAX} bytes: select fewer columns, narrow the \
                         predicate or set a limit"
                    ),
                ));
            }
            answers.push((file, answer));
            // The rows of later objects come behind these.
            if wanted.is_some_and(|wanted| rows >= wanted) {
                break;
            }
        }
        drop(answered);
        answers.sort_unstable_by_key(|(file, _)| *file);
        let account = self.lookups.account();
        let merged = plan.merge(&answers, request.limit, ANSWER_BYTES_MAX, &account)?;
        let Merged {
            schema,
            batches,
            counts,
            memory: own,
        } = merged;
        let files = answers.into_iter().filter_map(|(_, answer)| answer.memory);
        let memory = AnswerMemory {
            _files: files.collect(),
            own,
        };
        Ok(LookupAnswer {
            schema,
            batches,
            counts,
            home,
            memory,
        })
    }

    /// Looks into one object, on its home shard.
    async fn look_into_anywhere(
        self: &Rc<Self>,
        asked: ObjectQuery,
        access: &Arc<AccessSet>,
    ) -> Result<FileAnswer, LookupFailure> {
        let home = self.place_of(&asked.path)?.shard;
        if home == self.id {
            return self.look_into(&asked, access).await;
        }
        let question = Question::LookUp {
            asked: Box::new(asked),
            access: Arc::clone(access),
        };
        match self.ask(home, question).await? {
            Answer::LookedUp(answer) => answer.map(|answer| *answer),
            answer => unreachable!("{answer:?} does not answer a look-up"),
        }
    }
}
