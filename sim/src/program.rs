//! Programs of the simulated device: host programs that run on copies of device bytes.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use streampool_core::driver::{Bindings, Driver, Executable};
use streampool_core::op::{Operand, Place, Port, Program};
use streampool_core::{Error, Result};
use streampool_cpu::{CpuConfig, CpuDriver, CpuExecutable, Executor};

/// A program that runs on host memory.
pub trait HostProgram: Send + Sync {
    /// As [`Executable::bytes`].
    fn bytes(&self) -> usize {
        0
    }

    /// As [`Executable::describe`].
    fn describe(&self) -> Vec<String> {
        Vec::new()
    }

    /// Runs to its end. All slices are of host memory, aligned to [`streampool_core::driver::ALIGNMENT`] and used by nobody else; outputs hold
    /// what was there before.
    ///
    /// # Errors
    /// For what depends on data; they become the failure of the ticket.
    fn run(&self, bindings: &Bindings<'_>) -> Result<()>;
}

/// What makes host programs.
pub trait Compiler: Send + Sync {
    /// As [`streampool_core::driver::Driver::compile`].
    ///
    /// # Errors
    /// `is_unsupported` for what it cannot run.
    fn compile(&self, program: &Program) -> Result<Box<dyn HostProgram>>;

    /// As [`streampool_core::driver::Driver::frozen_bytes`].
    fn frozen_bytes(&self) -> usize {
        0
    }
}

/// Makes programs of the CPU's kernels.
#[derive(Clone)]
pub(crate) struct CpuCompiler(Arc<Cpu>);

struct Cpu {
    driver: CpuDriver,
    /// Idle executors: as many as there were runs at once.
    executors: Mutex<Vec<Executor>>,
}

impl Default for CpuCompiler {
    fn default() -> Self {
        let driver = CpuDriver::new(CpuConfig { cores: 1 });
        Self(Arc::new(Cpu { driver, executors: Mutex::default() }))
    }
}

impl Compiler for CpuCompiler {
    fn compile(&self, program: &Program) -> Result<Box<dyn HostProgram>> {
        Ok(Box::new(CpuProgram { program: self.0.driver.compile_program(program)?, cpu: self.0.clone() }))
    }

    fn frozen_bytes(&self) -> usize {
        self.0.driver.frozen_bytes()
    }
}

struct CpuProgram {
    program: CpuExecutable,
    cpu: Arc<Cpu>,
}

impl HostProgram for CpuProgram {
    fn bytes(&self) -> usize {
        self.program.bytes()
    }

    fn describe(&self) -> Vec<String> {
        self.program.describe()
    }

    fn run(&self, bindings: &Bindings<'_>) -> Result<()> {
        let executors = || self.cpu.executors.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = executors().pop();
        let mut executor = idle.unwrap_or_else(|| Executor::new(self.cpu.driver.team().clone()));
        let ran = executor.run(&self.program, bindings);
        executors().push(executor);
        ran
    }
}

/// A compiled program of the simulated device.
pub(crate) struct SimExecutable {
    pub(crate) name: String,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    /// Of each output, whether the steps together write every byte of it, so that what was there before does not matter.
    pub(crate) whole: Vec<bool>,
    pub(crate) arena_bytes: usize,
    pub(crate) host: Box<dyn HostProgram>,
}

/// Whether these operands together are every element of an output.
fn covers<'p>(port: &Port, written: impl Iterator<Item = &'p Operand> + Clone) -> bool {
    let is_all =
        |o: &Operand| o.layout.offset == 0 && o.layout.is_contiguous() && o.ty().bytes() == port.bytes;
    if port.bytes == 0 || written.clone().any(is_all) {
        return true;
    }
    // Joined of several parts, as by a concatenation.
    let mut bytes = vec![false; port.bytes];
    for operand in written {
        let (layout, size) = (&operand.layout, operand.dtype.size());
        for nth in 0..layout.shape.len() {
            let (mut rest, mut at) = (nth, layout.offset as isize);
            for (&length, &stride) in layout.shape.iter().zip(&layout.strides).rev() {
                at += (rest % length) as isize * stride;
                rest /= length;
            }
            bytes[at as usize * size..][..size].fill(true);
        }
    }
    bytes.into_iter().all(|written| written)
}

impl SimExecutable {
    pub(crate) fn new(program: &Program, host: Box<dyn HostProgram>) -> Self {
        let whole = |(n, port): (usize, &Port)| {
            let written = program.steps.iter().flat_map(|s| &s.outputs);
            covers(port, written.filter(|o| o.place == Place::Output(n as u32)))
        };
        Self {
            name: program.name.clone(),
            inputs: program.inputs.clone(),
            outputs: program.outputs.clone(),
            whole: program.outputs.iter().enumerate().map(whole).collect(),
            arena_bytes: program.arena_bytes,
            host,
        }
    }

    /// The driver's own type behind what a queue is given.
    pub(crate) fn of(program: &Arc<dyn Executable>) -> Result<&SimExecutable> {
        let any = (**program).as_any();
        any.downcast_ref()
            .ok_or_else(|| Error::invalid_argument("sim: the program was compiled for another device"))
    }

    /// Checks what is bound. Inputs and outputs may lie anywhere: programs see aligned copies.
    pub(crate) fn check(&self, bindings: &Bindings<'_>) -> Result<()> {
        let ports = (&*self.inputs, &*self.outputs);
        bindings.check(&self.name, ports, self.arena_bytes, |_, _| 1).map_err(|e| e.context("sim"))
    }
}

impl Executable for SimExecutable {
    fn bytes(&self) -> usize {
        self.host.bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn describe(&self) -> Vec<String> {
        self.host.describe()
    }
}
