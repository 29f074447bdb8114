//! A step that has no kernel here: its operands are copied to the host, the CPU computes it, its results are copied back.

use std::sync::{Arc, Mutex, PoisonError};

use streampool_core::driver::{Bindings, Slice};
use streampool_core::op::{HostTensor, Op, Operand, Place, Port, Program, Step, TensorType};
use streampool_core::{Error, Result};
use streampool_cpu::{CpuDriver, CpuExecutable, Executor};

/// The step as the CPU runs it.
pub(crate) struct HostStep {
    executable: CpuExecutable,
    executor: Mutex<Executor>,
    /// Step inputs that are not constants, in order, and how many bytes from their place's start on.
    pub(crate) inputs: Vec<(usize, usize)>,
    /// Likewise for all outputs.
    pub(crate) outputs: Vec<usize>,
}

impl HostStep {
    pub(crate) fn new(cpu: &CpuDriver, program: &Program, step: &Step) -> Result<Self> {
        let mut local =
            Program { name: step.name.clone(), constants: program.constants.clone(), ..Program::default() };
        let bytes = |o: &Operand| o.layout.end() * o.dtype.size();
        let port = |o: &Operand| Port { dtype: o.dtype, bytes: bytes(o) };
        let mut inputs = Vec::new();
        let mut operands = Vec::new();
        for (i, input) in step.inputs.iter().enumerate() {
            let mut operand = input.clone();
            if !matches!(input.place, Place::Constant(_)) {
                operand.place = Place::Input(inputs.len() as u32);
                local.inputs.push(port(input));
                inputs.push((i, bytes(input)));
            }
            operands.push(operand);
        }
        let results = step
            .outputs
            .iter()
            .zip(0..)
            .map(|(o, n)| Operand { place: Place::Output(n), ..o.clone() })
            .collect();
        local.outputs = step.outputs.iter().map(port).collect();
        local.steps =
            vec![Step { name: step.name.clone(), op: step.op.clone(), inputs: operands, outputs: results }];
        Ok(Self {
            executable: cpu.compile_program(&local)?,
            executor: Mutex::new(Executor::new(cpu.team().clone())),
            inputs,
            outputs: step.outputs.iter().map(bytes).collect(),
        })
    }

    /// Runs it on host copies of the inputs and of what the outputs' places hold (an output may be a region).
    pub(crate) fn run(&self, inputs: &[HostTensor], outputs: &mut [HostTensor]) -> Result<()> {
        let read: Vec<Slice<'_>> = inputs.iter().map(|t| Slice::host(t.bytes())).collect();
        let written: Vec<Slice<'_>> = outputs.iter_mut().map(|t| Slice::host_mut(t.bytes_mut())).collect();
        let bindings = Bindings { inputs: &read, outputs: &written, arena: Slice::EMPTY };
        self.executor.lock().unwrap_or_else(PoisonError::into_inner).run(&self.executable, &bindings)
    }
}

/// Host bytes, aligned.
pub(crate) fn buffer(bytes: usize) -> Result<HostTensor> {
    HostTensor::zeros(TensorType::new(streampool_core::op::DType::U8, [bytes]))
}

/// What `inspect` says of such a step.
pub(crate) fn describe(op: &Op) -> String {
    format!("on the CPU, between copies: {} has no CUDA kernel for these operands", op.name())
}

/// What a strict device says of it.
pub(crate) fn refused(op: &Op) -> Error {
    Error::unsupported(format!(
        "cuda: {} has no CUDA kernel for these operands, and the device is strict; without that the step runs on the CPU between copies, or use \
         the device 'cpu' for the whole model",
        op.name()
    ))
}

/// Shared by all steps of a device.
pub(crate) type Cpu = Arc<CpuDriver>;

#[cfg(test)]
mod tests {
    use streampool_core::op::{Op, TopK};

    #[test]
    fn what_a_strict_device_refuses_is_named_with_the_ways_out() {
        let op = Op::TopK(TopK { axis: 0, k: 1, largest: true, sorted: true });
        let error = super::refused(&op);
        assert!(error.is_unsupported(), "{error:?}");
        for part in ["TopK", "strict", "'cpu'"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert!(super::describe(&op).contains("on the CPU"), "what inspect and gpu-verify look for");
    }
}
