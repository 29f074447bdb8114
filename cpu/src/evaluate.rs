//! One operation on host tensors: constant folding, tests.

use std::sync::Arc;

use streampool_core::Result;
use streampool_core::driver::{Bindings, Slice};
use streampool_core::op::{HostTensor, Layout, Op, Operand, Place, Port, Program, Step, TensorType};

use crate::constants::Constants;
use crate::program::{CpuExecutable, Executor};
use crate::team::Team;

/// Runs one operation on this thread.
///
/// # Errors
/// `is_invalid_argument` if the operands do not fit or hold an index out of range or the like, `is_out_of_memory` if there is no room for the
/// outputs, `is_unsupported` if the CPU has no kernel for it.
pub fn evaluate(op: &Op, inputs: &[&HostTensor]) -> Result<Vec<HostTensor>> {
    let types: Vec<TensorType> = inputs.iter().map(|t| t.ty().clone()).collect();
    let results = op.infer(&types)?;
    let port = |ty: &TensorType| Port { dtype: ty.dtype, bytes: ty.bytes() };
    let operand = |place: Place, ty: &TensorType| Operand {
        place,
        dtype: ty.dtype,
        layout: Layout::contiguous(ty.shape.clone()),
    };
    let numbered = |make: fn(u32) -> Place, types: &[TensorType]| {
        types.iter().zip(0..).map(|(ty, n)| operand(make(n), ty)).collect::<Vec<_>>()
    };
    let program = Program {
        name: op.name().into(),
        inputs: types.iter().map(port).collect(),
        outputs: results.iter().map(port).collect(),
        steps: vec![Step {
            name: op.name().into(),
            op: op.clone(),
            inputs: numbered(Place::Input, &types),
            outputs: numbered(Place::Output, &results),
        }],
        ..Program::default()
    };
    let executable = CpuExecutable::new(&program, &Constants::default())?;
    let mut outputs = results.into_iter().map(HostTensor::zeros).collect::<Result<Vec<_>>>()?;
    let read: Vec<Slice<'_>> = inputs.iter().map(|t| Slice::host(t.bytes())).collect();
    let written: Vec<Slice<'_>> = outputs.iter_mut().map(|t| Slice::host_mut(t.bytes_mut())).collect();
    let bindings = Bindings { inputs: &read, outputs: &written, arena: Slice::EMPTY };
    Executor::new(Arc::new(Team::default())).run(&executable, &bindings)?;
    Ok(outputs)
}
