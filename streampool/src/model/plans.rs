//! Compiled plans, and each stream's own table of them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use streampool_core::driver::{Driver, Executable};
use streampool_core::op::TensorType;
use streampool_graph as graph;

use super::Input;
use crate::{Error, Result};

/// What a plan was compiled for: the types of all inputs, and the values of those on which shapes depend.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct PlanKey {
    pub(crate) types: Vec<TensorType>,
    pub(crate) values: Vec<Option<Vec<u8>>>,
}

/// A plan ready to run.
pub(crate) struct Compiled {
    model: u64,
    key: PlanKey,
    pub(crate) plan: Arc<graph::Plan>,
    pub(crate) executable: Arc<dyn Executable>,
}

impl Compiled {
    /// Plans and compiles.
    ///
    /// # Errors
    /// Those of planning, and of the driver.
    pub(crate) fn new(model: u64, graph: &graph::Model, key: &PlanKey, driver: &dyn Driver) -> Result<Self> {
        let inputs: Vec<graph::InputSpec> = key
            .types
            .iter()
            .zip(&key.values)
            .map(|(ty, value)| {
                let spec = graph::InputSpec::new(ty.clone());
                match value {
                    Some(bytes) => spec.with_value(Bytes::copy_from_slice(bytes)),
                    None => spec,
                }
            })
            .collect();
        let plan = match graph.plan(&inputs)? {
            graph::Planned::Plan(plan) => *plan,
            graph::Planned::NeedValues(which) => {
                let names: Vec<&str> = which.iter().map(|&i| graph.inputs()[i].name.as_str()).collect();
                return Err(Error::invalid_argument(format!(
                    "a plan depends on the values of the inputs '{}', not only on their shapes: run the model on them",
                    names.join("', '")
                )));
            }
        };
        let executable = driver.compile(&plan.program)?;
        Ok(Self { model, key: key.clone(), plan: Arc::new(plan), executable })
    }

    /// Bytes that a cache counts for it.
    pub(crate) fn bytes(&self) -> usize {
        self.executable.bytes() + self.plan.program.steps.len() * 512
    }

    fn fits(&self, model: u64, inputs: &[Input<'_>], values: &[Option<Vec<u8>>]) -> bool {
        self.model == model
            && self.key.types.len() == inputs.len()
            && self
                .key
                .types
                .iter()
                .zip(inputs)
                .all(|(ty, i)| ty.dtype == i.dtype() && *ty.shape == *i.shape())
            && self.key.values.iter().zip(values).all(|(a, b)| a == b)
    }
}

/// Plans that a stream's table keeps; the model's own cache keeps the rest.
const TABLE: usize = 128;

/// A plan as one stream keeps it: whoever runs it moves this stream's own count, not the plan's, which all streams share.
pub(crate) struct Kept {
    compiled: Arc<Compiled>,
    clock: Clock,
}

/// How long runs of a plan take on one stream. Written by the stream's present user alone.
struct Clock {
    runs: AtomicU32,
    /// Nanoseconds; falls at once, rises slowly, so that a run during which the thread was not scheduled counts for little.
    expected: AtomicU64,
}

/// Of the first runs each is timed, of the later ones one in so many: reading the clock is no small part of the smallest runs.
const TIMED: u32 = 64;

impl Kept {
    /// How long a run is likely to take; for ever as long as none was timed.
    pub(crate) fn expected(&self) -> Duration {
        Duration::from_nanos(self.clock.expected.load(Ordering::Relaxed))
    }

    /// Runs, and now and then takes the time of it.
    #[inline]
    pub(crate) fn timed<R>(&self, run: impl FnOnce() -> R) -> R {
        let n = self.clock.runs.load(Ordering::Relaxed);
        self.clock.runs.store(n.wrapping_add(1), Ordering::Relaxed);
        if n >= 8 && !n.is_multiple_of(TIMED) {
            return run();
        }
        let begin = Instant::now();
        let result = run();
        let took = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let before = self.clock.expected.load(Ordering::Relaxed);
        let expected = if took <= before { took } else { before + (took - before).min(before / 4 + 1) };
        self.clock.expected.store(expected, Ordering::Relaxed);
        result
    }
}

impl std::ops::Deref for Kept {
    type Target = Compiled;
    fn deref(&self) -> &Compiled {
        &self.compiled
    }
}

/// A stream's own table of plans, so that a warm run asks nobody and moves no count that other threads move.
#[derive(Default)]
pub(crate) struct Plans {
    table: HashMap<u64, Vec<Arc<Kept>>, BuildHasherDefault<Given>>,
    count: usize,
}

impl Plans {
    /// The plan of `model` for these inputs, if the stream ran it before.
    pub(crate) fn find(
        &self,
        hash: u64,
        model: u64,
        inputs: &[Input<'_>],
        values: &[Option<Vec<u8>>],
    ) -> Option<Arc<Kept>> {
        self.table.get(&hash)?.iter().find(|c| c.fits(model, inputs, values)).cloned()
    }

    /// Remembers a plan.
    pub(crate) fn insert(&mut self, hash: u64, compiled: Arc<Compiled>) -> Arc<Kept> {
        if self.count >= TABLE {
            self.table.clear();
            self.count = 0;
        }
        self.count += 1;
        let own = Arc::new(Kept {
            compiled,
            clock: Clock { runs: AtomicU32::new(0), expected: AtomicU64::new(u64::MAX) },
        });
        self.table.entry(hash).or_default().push(own.clone());
        own
    }

    /// Lets go of a model that is no more.
    pub(crate) fn forget(&mut self, model: u64) {
        for plans in self.table.values_mut() {
            plans.retain(|c| c.model != model);
        }
        self.table.retain(|_, plans| !plans.is_empty());
        self.count = self.table.values().map(Vec::len).sum();
    }
}

/// Hash of a run's inputs: model, dtypes, shapes and the values that matter.
pub(crate) fn hash(model: u64, inputs: &[Input<'_>], values: &[Option<Vec<u8>>]) -> u64 {
    let mut h = mix(0x9e37_79b9_7f4a_7c15, model);
    for input in inputs {
        h = mix(h, input.dtype() as u64 + ((input.shape().len() as u64) << 8));
        for &d in input.shape() {
            h = mix(h, d as u64);
        }
    }
    for value in values.iter().flatten() {
        for chunk in value.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            h = mix(h, u64::from_le_bytes(word));
        }
    }
    h
}

/// One round of folded multiplication (Yi's wyhash): the halves of a 128-bit product, exclusive-or.
fn mix(h: u64, x: u64) -> u64 {
    let p = u128::from(h ^ x) * 0xa076_1d64_78bd_642f_u128;
    (p as u64 ^ (p >> 64) as u64).wrapping_add(0xe703_7ed1_a0b4_28db)
}

/// Keys of the table are hashes already.
#[derive(Default)]
pub(crate) struct Given(u64);

impl Hasher for Given {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
