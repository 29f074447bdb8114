//! A program prepared for the device: kernels, library calls and host steps, with the places of their operands.

mod fuse;
mod place;
mod prepare;
mod siblings;

use std::any::Any;
use std::sync::Arc;

use streampool_core::driver::{Bindings, Executable};
use streampool_core::op::{Op, Place, Port};
use streampool_core::{Error, Result};

use streampool_kernels::failure;

use crate::compiler::Function;
use crate::driver::Shared;
use crate::gemm::Gemm;
use crate::host_step::HostStep;
use crate::memory::DeviceMemory;

pub(crate) use place::{INPUT_ALIGNMENT, Located};

/// The base of what lies in the queue's workspace, which grows and then moves. No bound operand has this number.
pub(crate) const WORKSPACE: u32 = u32::MAX;

/// A compiled kernel and how it is launched.
pub(crate) struct Form {
    pub(crate) function: Arc<Function>,
    pub(crate) grid: u64,
    pub(crate) threads: u32,
    /// Bytes of shared memory that the launch asks for, and blocks of a cluster.
    pub(crate) shared: u32,
    pub(crate) cluster: u32,
}

/// One kernel launch.
pub(crate) struct Launch {
    usual: Form,
    /// What gives the same bits sooner, at others' expense.
    quick: Option<Form>,
    pub(crate) args: Box<[Located]>,
    what: String,
}

impl Launch {
    /// How to launch it, if few streams are at work or many.
    pub(crate) fn form(&self, few: bool) -> &Form {
        self.quick.as_ref().filter(|_| few).unwrap_or(&self.usual)
    }
}

/// What a step does.
pub(crate) enum Work {
    Kernels(Vec<Launch>),
    Gemm { gemm: Gemm, at: [Located; 3], residual: Located, tail: Option<Launch> },
    Host { step: HostStep, inputs: Vec<Located>, outputs: Vec<Located> },
}

pub(crate) struct Prepared {
    pub(crate) name: String,
    /// Which status word, if data can make the step fail, and the operation, which knows what its codes say.
    pub(crate) status: Option<(usize, Op)>,
    pub(crate) work: Work,
    what: String,
}

/// A program compiled for a CUDA device.
pub(crate) struct CudaExecutable {
    /// Unique in this process: the key of graphs.
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) inputs: Box<[Port]>,
    pub(crate) outputs: Box<[Port]>,
    pub(crate) arena_bytes: usize,
    pub(crate) workspace_bytes: usize,
    pub(crate) steps: Box<[Prepared]>,
    /// Whether one launch of a graph is quicker than the launches of a run.
    pub(crate) worth_a_graph: bool,
    /// Whether it has kernels for when few streams are at work.
    pub(crate) has_quick: bool,
    /// Status words that its steps use.
    pub(crate) status_words: usize,
    /// Whether data can make it fail: then its run is waited for, so that the error is that call's own.
    pub(crate) may_fail: bool,
    /// Whether the host takes part: then it is no graph.
    pub(crate) on_host: bool,
    device: *const (),
    context: Arc<crate::context::Context>,
    _constants: Box<[Option<Arc<DeviceMemory>>]>,
    _groups: Box<[Arc<DeviceMemory>]>,
}

// SAFETY: immutable; `device` is compared, never followed.
unsafe impl Send for CudaExecutable {}
// SAFETY: as above.
unsafe impl Sync for CudaExecutable {}

impl CudaExecutable {
    /// Whether it was compiled for this device.
    pub(crate) fn belongs_to(&self, device: &Shared) -> bool {
        std::ptr::eq(self.device, std::ptr::from_ref(device).cast())
    }

    /// The error of the step that left `code` in status word `word`.
    pub(crate) fn failed(&self, word: usize, code: u64) -> Error {
        let step = self.steps.iter().find_map(|s| match &s.status {
            Some((own, op)) if *own == word => Some((s.name.as_str(), op)),
            _ => None,
        });
        explained(&self.name, step, code)
    }

    /// Checks what is bound: cheap, as it is done for every launch.
    pub(crate) fn check(&self, bindings: &Bindings<'_>) -> Result<()> {
        bindings.check(&self.name, (&self.inputs, &self.outputs), self.arena_bytes, |place, port| match place
        {
            _ if port.bytes == 0 => 1,
            Place::Output(_) => INPUT_ALIGNMENT as usize,
            _ => port.dtype.size(),
        })
    }
}

/// What a step's code says, with the step's name, or the program's if no step is known.
fn explained(program: &str, step: Option<(&str, &Op)>, code: u64) -> Error {
    let (name, why) = match step {
        Some((name, op)) => (name, failure(op, code)),
        None => (program, None),
    };
    let why = why.unwrap_or_else(|| "its data could not be processed".into());
    Error::invalid_argument(format!("{name}: {why}"))
}

impl Drop for CudaExecutable {
    fn drop(&mut self) {
        // Machine code and weights go with the last program that uses them; work under way may still read them. Rare, so all is waited for.
        if self.context.enter().is_ok() {
            // SAFETY: takes nothing.
            let _ = unsafe { cudarc::driver::sys::cuCtxSynchronize() };
        }
    }
}

impl Executable for CudaExecutable {
    fn bytes(&self) -> usize {
        // Machine code is shared by programs; a few KiB a step is what is this one's own.
        size_of::<Self>() + self.steps.len() * 2048
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn describe(&self) -> Vec<String> {
        self.steps.iter().map(|s| format!("{}: {}", s.name, s.what)).collect()
    }
}

#[cfg(test)]
mod tests {
    use streampool_core::op::{Gather, Linalg, Op};

    use super::explained;

    #[test]
    fn what_data_made_fail_is_an_invalid_argument_that_names_the_step() {
        let set = 1u64 << 63;
        let index = (-11i64 as u64) | set;
        let matrix = set | ((1 << 60) - 1 - 7) << 2 | 1;
        let (gather, solve) = (Op::Gather(Gather { axis: 0 }), Op::Linalg(Linalg::Solve));
        for (op, code, parts) in [
            (&gather, index, ["layer 3", "-11", "out of range"]),
            (&solve, matrix, ["layer 3", "matrix 7 of the batch", "is singular"]),
        ] {
            let error = explained("program", Some(("layer 3", op)), code);
            assert!(error.is_invalid_argument(), "{error:?}");
            assert!(parts.iter().all(|p| error.to_string().contains(p)), "{error}");
        }
        assert!(explained("program", None, index).to_string().contains("program"));
    }
}
