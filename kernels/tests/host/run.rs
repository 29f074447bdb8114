//! A case, run by the CPU device and by the kernels.

use std::sync::Arc;

use streampool_conformance::Case;
use streampool_core::Error;
use streampool_core::Result;
use streampool_core::driver::{Bindings, Slice};
use streampool_core::op::{DType, HostTensor, Operand, Program, TensorType};
use streampool_cpu::{CpuConfig, CpuDriver, Executor};
use streampool_kernels::{Binding, Kernel, failed_index, lower};

use crate::library::{Library, exact};
use crate::targets::HOPPER;

/// The kernels of a case.
pub(crate) fn kernels(case: &Case) -> Vec<Kernel> {
    lower(&case.op, &case.inputs, &case.outputs, HOPPER.0)
        .unwrap_or_else(|| panic!("{}: no kernels", case.name))
}

/// What the CPU device gives.
pub(crate) fn expected(case: &Case) -> Vec<HostTensor> {
    let mut outputs = case.buffers();
    run_into(&case.program(), &case.data, &mut outputs);
    outputs
}

/// What the CPU device gives of a program, in zeroed buffers of these types.
pub(crate) fn run_on_cpu(program: &Program, data: &[HostTensor], outputs: &[TensorType]) -> Vec<HostTensor> {
    let mut outputs: Vec<HostTensor> =
        outputs.iter().map(|t| HostTensor::zeros(t.clone()).expect("room for a test")).collect();
    run_into(program, data, &mut outputs);
    outputs
}

/// The error that the CPU device gives.
pub(crate) fn fails_on_cpu(case: &Case) -> Error {
    let mut outputs = case.buffers();
    try_run_into(&case.program(), &case.data, &mut outputs).expect_err("the case fails")
}

fn run_into(program: &Program, data: &[HostTensor], outputs: &mut [HostTensor]) {
    try_run_into(program, data, outputs).unwrap_or_else(|e| panic!("{}: {e}", program.name));
}

fn try_run_into(program: &Program, data: &[HostTensor], outputs: &mut [HostTensor]) -> Result<()> {
    let driver = CpuDriver::new(CpuConfig { cores: 1 });
    let executable = driver.compile_program(program)?;
    let mut arena = HostTensor::zeros(TensorType::new(DType::U8, [program.arena_bytes])).expect("an arena");
    let read: Vec<Slice<'_>> = data.iter().map(|t| Slice::host(t.bytes())).collect();
    let written: Vec<Slice<'_>> = outputs.iter_mut().map(|t| Slice::host_mut(t.bytes_mut())).collect();
    let bindings = Bindings { inputs: &read, outputs: &written, arena: Slice::host_mut(arena.bytes_mut()) };
    let team = Arc::clone(driver.team());
    Executor::new(team).run(&executable, &bindings)
}

impl Library {
    /// What the kernels give, and the index that was told if one was out of range.
    pub(crate) fn execute(&self, case: &Case) -> (Vec<HostTensor>, Option<i64>) {
        let (outputs, status) = self.run(case);
        (outputs, failed_index(status))
    }

    /// The status word that the kernels leave.
    pub(crate) fn status(&self, case: &Case) -> u64 {
        self.run(case).1
    }

    fn run(&self, case: &Case) -> (Vec<HostTensor>, u64) {
        let (outputs, status, complaints) = self.try_run(case, &kernels(case));
        assert_eq!(complaints, 0, "{}: a device would fail, or wait for ever", case.name);
        (outputs, status)
    }

    /// What `list`, the kernels of the case or others like them, give, the status word that they leave, and how often a device would fail or wait for
    /// ever.
    pub(crate) fn try_run(&self, case: &Case, list: &[Kernel]) -> (Vec<HostTensor>, u64, u64) {
        let mut outputs = case.buffers();
        let data: Vec<Box<[u8]>> = case.data.iter().map(exact).collect();
        let mut written: Vec<Box<[u8]>> = outputs.iter().map(exact).collect();
        let (mut status, mut complaints) = (0u64, 0);
        // Not zeros: kernels find anything there.
        let bytes = list.iter().map(|k| k.scratch).max().unwrap_or(0);
        let mut scratch = vec![0x7e7e_7e7e_7e7e_7e7eu64; bytes.div_ceil(8)];
        for kernel in list {
            let at = |o: &Operand, t: *mut u8| t.wrapping_add(o.layout.offset * o.dtype.size());
            complaints += self.try_launch_at(kernel, |binding| match binding {
                Binding::Input(i) => Some(at(&case.inputs[i], data[i].as_ptr().cast_mut())),
                Binding::Output(i) => Some(at(&case.outputs[i], written[i].as_mut_ptr())),
                Binding::Status => Some((&raw mut status).cast()),
                Binding::Scratch => Some(scratch.as_mut_ptr().cast()),
            });
        }
        outputs.iter_mut().zip(&written).for_each(|(t, bytes)| t.bytes_mut().copy_from_slice(bytes));
        (outputs, status, complaints)
    }

    /// Compiles all kernels of `cases`.
    pub(crate) fn new(cases: &[Case]) -> Self {
        Self::of(cases.iter().flat_map(kernels))
    }
}
