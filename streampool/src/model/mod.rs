//! Models: a plan of operations, loaded once, run from any thread.

mod io;
mod plans;
mod run;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streampool_core::once::OnceCache;
use streampool_core::op::TensorType;
use streampool_core::sync::Deadline;
use streampool_graph as graph;

pub use io::{Input, Outputs};
pub(crate) use plans::Plans;
use plans::{Compiled, PlanKey};

use crate::{Device, Error, Result};

/// How long a run waits for a plan that another thread compiles.
const COMPILE_PATIENCE: Duration = Duration::from_secs(300);

/// Bytes of plans that one model keeps, whatever the number of input shapes it is run with.
const PLAN_CACHE_BYTES: usize = 256 << 20;

/// A model on a device. `Send + Sync`: share one among all threads, by reference or in an `Arc`; there is no session per thread.
///
/// The first run with a new input shape compiles a plan (once, however many threads ask); later runs of any thread use it.
pub struct Model {
    device: Device,
    /// Unique in this process: tells this model's plans from others' in the streams' tables.
    id: u64,
    graph: graph::Model,
    outputs: Vec<String>,
    /// Bit i: plans depend on the value of input i (a shape given as a tensor), so it is part of their key. Set while
    /// planning, read by every run.
    value_inputs: AtomicU64,
    plans: OnceCache<PlanKey, Compiled>,
}

impl Model {
    /// Loads an ONNX file (opset 7 to 22 and later where the operators' meaning is known). Weights are mapped, not read.
    ///
    /// # Errors
    /// `is_io` if the file cannot be read; `is_invalid_model` naming file and node if it is damaged; `is_unsupported` listing every
    /// operator that is not implemented, by node.
    pub fn load(device: &Device, path: impl AsRef<Path>) -> Result<Model> {
        Self::new(device, graph::Model::load(path.as_ref(), &graph::LoadOptions::default())?)
    }

    /// Loads an ONNX model from memory. It cannot refer to external data.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_bytes(device: &Device, bytes: impl Into<bytes::Bytes>) -> Result<Model> {
        Self::new(device, graph::Model::from_bytes(bytes.into(), &graph::LoadOptions::default())?)
    }

    fn new(device: &Device, graph: graph::Model) -> Result<Model> {
        device.shared().pool.gate().check()?;
        // Taken at load time only.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if graph.inputs().len() > 64 {
            return Err(Error::unsupported(format!(
                "the model has {} inputs; up to 64 are possible",
                graph.inputs().len()
            )));
        }
        Ok(Model {
            device: device.clone(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            outputs: graph.outputs().iter().map(|o| o.name.clone()).collect(),
            graph,
            value_inputs: AtomicU64::new(0),
            plans: OnceCache::new(PLAN_CACHE_BYTES),
        })
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the file says: inputs, outputs, operators, metadata.
    pub fn graph(&self) -> &graph::Model {
        &self.graph
    }

    /// The plan for inputs of these types: steps, fusions, memory. Compiled if it was not yet.
    ///
    /// # Errors
    /// `is_invalid_argument` if the types do not fit the model, or if the plan depends on the value of an input.
    pub fn plan(&self, types: &[TensorType]) -> Result<Arc<graph::Plan>> {
        let key = PlanKey { types: types.to_vec(), values: vec![None; types.len()] };
        Ok(self.compiled(&key)?.plan.clone())
    }

    /// [`Model::plan`] for inputs with their values as far as `inputs` give them, and a line a step about what the device chose for
    /// it (kernel, tile, library); no lines if the device chooses nothing. `Model::graph().plan(..)` tells which values are needed.
    ///
    /// # Errors
    /// As [`Model::plan`]; `is_invalid_argument` if an input is missing.
    pub fn explain(&self, inputs: &[graph::InputSpec]) -> Result<(Arc<graph::Plan>, Vec<String>)> {
        let needed = self.graph.inputs().len();
        if inputs.len() != needed {
            return Err(Error::invalid_argument(format!(
                "explain: {} inputs were given, the model has {needed}",
                inputs.len()
            )));
        }
        let key = PlanKey {
            types: inputs.iter().map(|i| i.ty.clone()).collect(),
            values: inputs.iter().map(|i| i.value.as_ref().map(|v| v.to_vec())).collect(),
        };
        let compiled = self.compiled(&key)?;
        Ok((compiled.plan.clone(), compiled.executable.describe()))
    }

    /// How many plans were compiled so far: one for each set of input shapes, however many threads asked.
    pub fn compile_count(&self) -> u64 {
        self.plans.stats().compiles
    }

    /// The plan for `key`: compiled once, however many threads ask; the others wait.
    fn compiled(&self, key: &PlanKey) -> Result<Arc<Compiled>> {
        self.plans.get_or_compile(key, Deadline::after(COMPILE_PATIENCE), || {
            let compiled = Compiled::new(self.id, &self.graph, key, &*self.device.shared().driver)?;
            // The driver has its own copy of every weight now, packed; without this they would be in memory twice.
            self.graph.release_pages();
            let bytes = compiled.bytes();
            Ok((Arc::new(compiled), bytes))
        })
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({} nodes on {:?})", self.graph.nodes().len(), self.device)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // INV-10: in a forked child the list may be locked for ever.
        if !self.device.shared().pool.gate().is_forked() {
            self.device.shared().models_gone.add(self.id);
        }
    }
}
