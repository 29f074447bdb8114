//! A run, from top to bottom: names, stream, plan, memory, order, launch, results.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smallvec::SmallVec;
use streampool_core::driver::{Bindings, Slice};
use streampool_core::memory::Block;
use streampool_core::op::{Layout, TensorType};
use streampool_core::slot::Running;

use super::plans::{Compiled, PlanKey, hash};
use super::{Input, Model, Outputs};
use crate::device::{Storage, Stream};
use crate::{Error, Result, Tensor};

impl Model {
    /// Runs the model on named inputs. Callable from any number of threads at once.
    ///
    /// Host inputs are read before this returns. Results are tensors on the device; on devices that work asynchronously they may still be in
    /// the making, and whoever uses them waits by itself.
    ///
    /// # Errors
    /// `is_invalid_argument` naming the input if a name, dtype, rank or dimension does not fit; `is_out_of_memory`;
    /// `is_pool_exhausted` by the pool's policy; `is_forked`, `is_shut_down`.
    pub fn run(&self, inputs: &[(&str, Input<'_>)]) -> Result<Outputs<'_>> {
        let declared = self.graph.inputs();
        let mut ordered: SmallVec<[Input<'_>; 4]> = SmallVec::new();
        for info in declared {
            // Nearly always in the model's order already.
            let given = match inputs.get(ordered.len()) {
                Some((name, input)) if *name == info.name => input,
                _ => match inputs.iter().find(|(name, _)| *name == info.name) {
                    Some((_, input)) => input,
                    None => return Err(self.wrong_names(inputs)),
                },
            };
            ordered.push(*given);
        }
        if inputs.len() != declared.len() {
            return Err(self.wrong_names(inputs));
        }
        self.run_ordered(&ordered)
    }

    /// [`Model::run`] on inputs in the model's order.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn run_ordered(&self, inputs: &[Input<'_>]) -> Result<Outputs<'_>> {
        let shared = self.device.shared();
        let values = self.values(inputs)?;
        let dense = self.check(inputs)?;
        let key = hash(self.id, inputs, &values);
        let mut stream = shared.enter()?;
        let compiled = match stream.plans.find(key, self.id, inputs, &values) {
            Some(compiled) => compiled,
            None => {
                // Planning may take long and other threads may want this stream: leave it meanwhile.
                drop(stream);
                let compiled = match self.plan_for(inputs, values)? {
                    Planned::Ready(compiled) => compiled,
                    Planned::NowKeyedByValue => return self.run_ordered(inputs),
                };
                stream = shared.enter()?;
                stream.plans.insert(key, compiled)
            }
        };
        let tensors = compiled.timed(|| launch(&mut stream, &compiled, inputs, &dense))?;
        Ok(Outputs::new(&self.outputs, tensors))
    }

    /// [`Model::run_ordered`] if nothing has to be waited for and the run is known to take less than `limit`: the thread's stream is
    /// free, and the plan ran on it before. `None` otherwise, without having begun. For callers that hold a lock which others want.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn run_if_short(&self, inputs: &[Input<'_>], limit: Duration) -> Result<Option<Outputs<'_>>> {
        let shared = self.device.shared();
        if !shared.driver.info().inline || self.value_inputs.load(Ordering::Relaxed) != 0 {
            return Ok(None);
        }
        if inputs.iter().any(|input| matches!(input, Input::Tensor(t) if !t.is_contiguous())) {
            return Ok(None);
        }
        let dense = self.check(inputs)?;
        let Some(mut stream) = shared.try_enter()? else { return Ok(None) };
        let Some(compiled) = stream.plans.find(hash(self.id, inputs, &[]), self.id, inputs, &[]) else {
            return Ok(None);
        };
        if compiled.expected() > limit {
            return Ok(None);
        }
        let tensors = compiled.timed(|| launch(&mut stream, &compiled, inputs, &dense))?;
        Ok(Some(Outputs::new(&self.outputs, tensors)))
    }

    /// Inputs whose strided views had to be made dense, by position. Empty as a rule.
    fn check(&self, inputs: &[Input<'_>]) -> Result<SmallVec<[(usize, Tensor); 1]>> {
        if inputs.len() != self.graph.inputs().len() {
            return Err(Error::invalid_argument(format!(
                "run: {} inputs were given, the model has {}",
                inputs.len(),
                self.graph.inputs().len()
            )));
        }
        let mut dense = SmallVec::new();
        for (i, input) in inputs.iter().enumerate() {
            match input {
                Input::Tensor(t) => {
                    if !t.is_on(&self.device) {
                        return Err(Error::invalid_argument(format!(
                            "run: input '{}' is on another device than the model ({:?}); move it with to_device",
                            self.graph.inputs()[i].name,
                            self.device
                        )));
                    }
                    if !t.is_contiguous() {
                        dense.push((i, t.contiguous()?));
                    }
                }
                Input::Host { dtype, shape, bytes } => {
                    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
                    if elements.and_then(|n| n.checked_mul(dtype.size())) != Some(bytes.len()) {
                        return Err(Error::invalid_argument(format!(
                            "run: input '{}' has {} bytes, its shape {shape:?} of {dtype} needs another number",
                            self.graph.inputs()[i].name,
                            bytes.len()
                        )));
                    }
                }
            }
        }
        Ok(dense)
    }

    /// The values of the inputs on which plans depend. Empty for most models.
    fn values(&self, inputs: &[Input<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
        let mask = self.value_inputs.load(Ordering::Acquire);
        if mask == 0 {
            return Ok(Vec::new());
        }
        inputs
            .iter()
            .enumerate()
            .map(|(i, input)| match input {
                _ if mask & (1 << i) == 0 => Ok(None),
                Input::Host { bytes, .. } => Ok(Some(bytes.to_vec())),
                Input::Tensor(t) => Ok(Some(t.to_host()?.bytes().to_vec())),
            })
            .collect()
    }

    #[cold]
    fn plan_for(&self, inputs: &[Input<'_>], mut values: Vec<Option<Vec<u8>>>) -> Result<Planned> {
        values.resize(inputs.len(), None);
        let types = inputs.iter().map(|i| TensorType::new(i.dtype(), i.shape())).collect();
        let key = PlanKey { types, values };
        match self.compiled(&key) {
            Ok(compiled) => Ok(Planned::Ready(compiled)),
            Err(e) => {
                // Planning may have found that it needs values: then plans are keyed by them from now on.
                let needed = self.graph.value_inputs().iter().fold(0, |mask, &i| mask | 1 << i);
                match needed & !self.value_inputs.fetch_or(needed, Ordering::AcqRel) {
                    0 => Err(e),
                    _ => Ok(Planned::NowKeyedByValue),
                }
            }
        }
    }

    #[cold]
    fn wrong_names(&self, inputs: &[(&str, Input<'_>)]) -> Error {
        let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join("', '") };
        Error::invalid_argument(format!(
            "run: the model's inputs are '{}', given were '{}'; give each once, by name",
            list(self.graph.inputs().iter().map(|i| i.name.as_str()).collect()),
            list(inputs.iter().map(|(name, _)| *name).collect())
        ))
    }
}

enum Planned {
    Ready(Arc<Compiled>),
    NowKeyedByValue,
}

/// Memory, order, launch, results.
fn launch(
    stream: &mut Running<'_, Stream>,
    compiled: &Compiled,
    inputs: &[Input<'_>],
    dense: &[(usize, Tensor)],
) -> Result<Vec<Tensor>> {
    let outputs = &compiled.plan.outputs;
    let blocks: SmallVec<[Block; 4]> =
        outputs.iter().map(|(_, ty)| stream.alloc(ty.bytes())).collect::<Result<_>>()?;
    let arena = stream.alloc(compiled.plan.program.arena_bytes)?;
    let direct = stream.binds_host_memory();
    // Host arrays that the device cannot read where they are.
    let mut staged: SmallVec<[Block; 2]> = SmallVec::new();
    for input in inputs {
        if let Input::Host { dtype, bytes, .. } = input
            && !(direct && bytes.as_ptr().addr().is_multiple_of(dtype.size()))
        {
            let block = stream.alloc(bytes.len())?;
            if let Some(ticket) = stream.write(block.slice(), bytes)? {
                block.record(ticket);
            }
            staged.push(block);
        }
    }
    let mut next_staged = staged.iter();
    let mut sources: SmallVec<[Slice<'_>; 4]> = SmallVec::new();
    for (i, input) in inputs.iter().enumerate() {
        sources.push(match input {
            Input::Host { dtype, bytes, .. }
                if direct && bytes.as_ptr().addr().is_multiple_of(dtype.size()) =>
            {
                Slice::host(bytes)
            }
            Input::Host { .. } => match next_staged.next() {
                Some(block) => block.slice(),
                None => return Err(Error::internal("run: an input was not staged")),
            },
            Input::Tensor(t) => {
                let t = dense.iter().find(|(at, _)| *at == i).map_or(*t, |(_, t)| t);
                stream.order_after(t.storage())?;
                let size = t.dtype().size();
                t.storage().slice().part(t.layout().offset * size, t.numel() * size)
            }
        });
    }
    let results: SmallVec<[Slice<'_>; 4]> = blocks.iter().map(Block::slice).collect();
    let bindings = Bindings { inputs: &sources, outputs: &results, arena: arena.slice() };
    let ticket = stream.launch(&compiled.executable, &bindings)?;
    drop(results);
    if let Some(ticket) = ticket {
        arena.record(ticket);
        staged.iter().for_each(|block| block.record(ticket));
        for (i, input) in inputs.iter().enumerate() {
            if let Input::Tensor(t) = input {
                dense.iter().find(|(at, _)| *at == i).map_or(*t, |(_, t)| t).storage().record(ticket);
            }
        }
    }
    Ok(blocks
        .into_iter()
        .zip(outputs)
        .map(|(block, (_, ty))| {
            if let Some(ticket) = ticket {
                block.record(ticket);
            }
            let storage = Storage::new(block, ticket, &stream.home);
            Tensor::new(storage, ty.dtype, Layout::contiguous(ty.shape.clone()))
        })
        .collect())
}
