//! The result: a program with its memory laid out.

mod check;
mod memory;

use std::collections::HashMap;
use std::sync::Arc;

use streampool_core::Result;
use streampool_core::op::{Constant, Copy, Op, Operand, Place, Port, Program, Step, TensorType};

use crate::lower::{LNode, Lir, Source, View};
use crate::passes;

/// A model for concrete input shapes, ready to be compiled by a driver. Immutable; shared by all threads.
#[derive(Debug)]
pub struct Plan {
    /// What a driver compiles. Its ports are [`Plan::inputs`] and [`Plan::outputs`] in order.
    pub program: Program,
    /// Names and types of what a run is given.
    pub inputs: Vec<(String, TensorType)>,
    /// Names and types of what a run gives.
    pub outputs: Vec<(String, TensorType)>,
    /// What was done.
    pub report: Report,
    /// Which buffer each operand of each step belongs to, for [`Plan::check`].
    trace: Vec<Trace>,
    /// Which buffer each output holds in the end.
    results: Vec<u32>,
}

/// What planning did, for people.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One line for each rewrite.
    pub fused: Vec<String>,
    /// Bytes of the arena: all tensors between inputs and outputs, memory shared over their lifetimes.
    pub arena_bytes: usize,
    /// What those tensors would take one beside the other.
    pub naive_bytes: usize,
    /// Bytes of the constants that the program reads.
    pub constant_bytes: usize,
    /// How many results were written over an input that had died.
    pub in_place: usize,
}

/// The buffers behind one step's operands.
#[derive(Clone, Debug)]
struct Trace {
    inputs: Vec<u32>,
    outputs: Vec<u32>,
}

/// Lays out memory and writes the program.
pub(crate) fn build(
    name: &str,
    mut lir: Lir,
    inputs: Vec<(String, TensorType)>,
    output_names: Vec<String>,
    fused: Vec<String>,
) -> Result<Plan> {
    passes::dead(&mut lir);
    let outputs: Vec<(String, TensorType)> =
        output_names.into_iter().zip(lir.outputs.iter().map(View::ty)).collect();
    let bound = bind_outputs(&mut lir);
    let layout = memory::lay_out(&lir, &bound);
    let mut constants: Vec<Arc<Constant>> = Vec::new();
    let mut numbers: HashMap<u64, u32> = HashMap::new();
    let mut place = |buf: u32| -> Place {
        match &lir.bufs[buf as usize].source {
            Source::Input(n) => Place::Input(*n),
            Source::Constant { constant, .. } => {
                let next = constants.len() as u32;
                let n = *numbers.entry(constant.id()).or_insert(next);
                if n == next {
                    constants.push(constant.clone());
                }
                Place::Constant(n)
            }
            Source::Nodes => layout.places[buf as usize].unwrap_or(Place::Arena(0)),
        }
    };
    let mut steps = Vec::new();
    let mut trace = Vec::new();
    for (_, node) in lir.live() {
        let mut operand =
            |v: &View| Operand { place: place(v.buf), dtype: v.dtype, layout: v.layout.clone() };
        steps.push(Step {
            name: node.name.clone(),
            op: node.op.clone(),
            inputs: node.inputs.iter().map(&mut operand).collect(),
            outputs: node.outputs.iter().map(&mut operand).collect(),
        });
        trace.push(Trace {
            inputs: node.inputs.iter().map(|v| v.buf).collect(),
            outputs: node.outputs.iter().map(|v| v.buf).collect(),
        });
    }
    let port = |(_, ty): &(String, TensorType)| Port { dtype: ty.dtype, bytes: ty.bytes() };
    let report = Report {
        fused,
        arena_bytes: layout.arena_bytes,
        naive_bytes: layout.naive_bytes,
        constant_bytes: constants.iter().map(|c| c.data().len()).sum(),
        in_place: layout.in_place,
    };
    let program = Program {
        name: name.to_string(),
        inputs: inputs.iter().map(port).collect(),
        outputs: outputs.iter().map(port).collect(),
        constants,
        arena_bytes: layout.arena_bytes,
        steps,
    };
    let results = lir.outputs.iter().map(|v| v.buf).collect();
    let plan = Plan { program, inputs, outputs, report, trace, results };
    if cfg!(debug_assertions) {
        plan.check()?;
    }
    Ok(plan)
}

/// Gives each output of the model a buffer of its own that nodes write; where that is not so, a copy is added. Tells which output each
/// buffer is.
fn bind_outputs(lir: &mut Lir) -> HashMap<u32, u32> {
    let mut bound: HashMap<u32, u32> = HashMap::new();
    for n in 0..lir.outputs.len() {
        let v = lir.outputs[n].clone();
        let own = matches!(lir.bufs[v.buf as usize].source, Source::Nodes)
            && lir.is_whole(&v)
            && !bound.contains_key(&v.buf);
        let buf = if own {
            v.buf
        } else {
            let out = lir.add_buf(v.ty(), Source::Nodes);
            let buf = out.buf;
            lir.outputs[n] = out.clone();
            let name = format!("output {n}");
            lir.nodes.push(Some(LNode { name, op: Op::Copy(Copy), inputs: vec![v], outputs: vec![out] }));
            buf
        };
        bound.insert(buf, n as u32);
    }
    bound
}
