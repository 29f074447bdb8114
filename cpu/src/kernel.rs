//! What a kernel is: one step of a program, prepared for this processor.

use std::sync::Arc;

use streampool_core::Result;
use streampool_core::op::{Constant, Op, Operand};

use crate::team::Team;

/// Where a step's operands lie, for one run.
///
/// Pointers are to element 0 of each operand's view: its place's first byte plus the layout's offset. Shapes, strides and
/// dtypes are those the kernel was made for.
pub struct Args<'a> {
    /// One per input operand. Null for inputs whose constant the kernel holds in packed form.
    pub inputs: &'a [*const u8],
    /// One per output operand.
    pub outputs: &'a [*mut u8],
    /// At least [`Kernel::scratch_bytes`], aligned to 64 bytes, this stream's own, contents undefined.
    pub scratch: *mut u8,
    /// Cores that may help with this call.
    pub team: &'a Team,
}

/// One step of a program, prepared: shapes known, constants packed, instruction set chosen.
///
/// Kernels are immutable and run from many threads at once, each with its own [`Args`].
pub trait Kernel: Send + Sync {
    /// Runs it.
    ///
    /// # Safety
    /// Every pointer of `args` is valid for the whole extent of its operand for reads (inputs) or writes (outputs) and aligned to
    /// its element; no other thread writes any of them or reads the outputs during the call; outputs overlap no input,
    /// except the very same address as [`Op::in_place`] allows.
    ///
    /// # Errors
    /// Only what depends on data: an index out of range, a singular matrix.
    unsafe fn run(&self, args: &Args<'_>) -> Result<()>;

    /// Bytes of scratch memory that a run needs.
    fn scratch_bytes(&self) -> usize {
        0
    }

    /// Whether this kernel keeps input `i`, a constant, in a form of its own: then the constant itself is not uploaded, and the
    /// input's pointer is null.
    fn holds_input(&self, _i: usize) -> bool {
        false
    }

    /// What was chosen, for `inspect`: `"gemm 14x32 avx512, b packed"`.
    fn describe(&self) -> String;

    /// Estimated work of a run in multiply-adds or elements moved: large steps may ask other cores for help.
    fn work(&self) -> usize {
        0
    }
}

/// What a kernel is made from.
pub struct Prepare<'a> {
    /// The operation.
    pub op: &'a Op,
    /// What it reads.
    pub inputs: &'a [Operand],
    /// What it writes.
    pub outputs: &'a [Operand],
    /// The constant behind each input that is one.
    pub constants: &'a [Option<Arc<Constant>>],
    /// Packed forms of constants, shared by all programs of the device.
    pub packs: &'a crate::kernels::Packs,
}
