//! The language a device is spoken to: element types, shapes, one set of primitive operations, and programs of them.
//!
//! An eager call submits a program of one operation; a model submits a whole plan. A primitive's struct holds its attributes;
//! its operands are given beside it. Each says which inputs it takes and what it writes; [`Op::infer`] checks them
//! and computes the output types, so a driver never sees operands that do not fit.

mod check;
mod dtype;
mod host;
mod index;
mod linalg;
mod map;
mod matmul;
mod movement;
mod normalize;
mod program;
mod random;
mod recurrent;
mod reduce;
mod shape;
mod window;

pub use dtype::{DType, Element, Scalar};
pub use host::HostTensor;
pub use index::{Gather, GatherElements, GatherNd, OnScatter, ScatterElements, ScatterNd, TopK, Unique};
pub use linalg::Linalg;
pub use map::{Binary, Instr, Map, Reg, Unary};
pub use matmul::{Activation, Attention, MatMul, MatMulInteger};
pub use movement::{Copy, Fill, Pad, PadMode, Range, Trilu};
pub use normalize::{LayerNorm, Softmax};
pub use program::{Constant, Operand, Pages, Place, Port, Program, Step};
pub use random::{Distribution, Random};
pub use recurrent::{Cell, Recurrent, RecurrentActivation, RecurrentDirection};
pub use reduce::{ArgReduce, Cumulative, CumulativeKind, Reduce, ReduceKind};
pub use shape::{Layout, MAX_RANK, Shape, TensorType};
pub use window::{Conv, ConvTranspose, CoordinateMode, NearestMode, Pool, PoolKind, Resize, ResizeMode};

use crate::error::Result;

/// A primitive operation with its attributes. It is its own key in program caches, so attributes are compared by bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each variant is documented on its struct
pub enum Op {
    Map(Map),
    Reduce(Reduce),
    ArgReduce(ArgReduce),
    Cumulative(Cumulative),
    MatMul(MatMul),
    MatMulInteger(MatMulInteger),
    Attention(Attention),
    Conv(Conv),
    ConvTranspose(ConvTranspose),
    Pool(Pool),
    Resize(Resize),
    Softmax(Softmax),
    LayerNorm(LayerNorm),
    Copy(Copy),
    Fill(Fill),
    Range(Range),
    Pad(Pad),
    Trilu(Trilu),
    Gather(Gather),
    GatherElements(GatherElements),
    GatherNd(GatherNd),
    ScatterElements(ScatterElements),
    ScatterNd(ScatterNd),
    TopK(TopK),
    Unique(Unique),
    Random(Random),
    Recurrent(Recurrent),
    Linalg(Linalg),
}

/// What every operation can say of itself.
pub(crate) trait Operation {
    /// The name people see.
    fn name(&self) -> &'static str;

    /// Checks the operands and gives the output types. Errors are `is_invalid_argument` and name the operation,
    /// what it got and what it needs.
    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>>;

    /// Whether input `i` may be a strided view.
    fn takes_strided_input(&self, _i: usize) -> bool {
        false
    }

    /// Whether output 0 may be bound to the memory of input `i` (same dtype size, both contiguous, same element count).
    fn in_place(&self, _i: usize) -> bool {
        false
    }
}

impl Op {
    fn operation(&self) -> &dyn Operation {
        match self {
            Op::Map(o) => o,
            Op::Reduce(o) => o,
            Op::ArgReduce(o) => o,
            Op::Cumulative(o) => o,
            Op::MatMul(o) => o,
            Op::MatMulInteger(o) => o,
            Op::Attention(o) => o,
            Op::Conv(o) => o,
            Op::ConvTranspose(o) => o,
            Op::Pool(o) => o,
            Op::Resize(o) => o,
            Op::Softmax(o) => o,
            Op::LayerNorm(o) => o,
            Op::Copy(o) => o,
            Op::Fill(o) => o,
            Op::Range(o) => o,
            Op::Pad(o) => o,
            Op::Trilu(o) => o,
            Op::Gather(o) => o,
            Op::GatherElements(o) => o,
            Op::GatherNd(o) => o,
            Op::ScatterElements(o) => o,
            Op::ScatterNd(o) => o,
            Op::TopK(o) => o,
            Op::Unique(o) => o,
            Op::Random(o) => o,
            Op::Recurrent(o) => o,
            Op::Linalg(o) => o,
        }
    }

    /// The name people see: `"MatMul"`.
    pub fn name(&self) -> &'static str {
        self.operation().name()
    }

    /// Checks operand types and gives the output types. Errors are `is_invalid_argument`.
    pub fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        for (i, ty) in inputs.iter().enumerate() {
            ty.shape.checked_len().map_err(|e| e.context(format_args!("{}: operand {i}", self.name())))?;
        }
        let out = self.operation().infer(inputs)?;
        for ty in &out {
            ty.shape.checked_len().map_err(|e| e.context(self.name()))?;
        }
        Ok(out)
    }

    /// Whether input `i` may be a strided view; otherwise it must be contiguous.
    pub fn takes_strided_input(&self, i: usize) -> bool {
        self.operation().takes_strided_input(i)
    }

    /// Whether output 0 may be bound to the memory of input `i`, if both are contiguous, of one element size and count.
    pub fn in_place(&self, i: usize) -> bool {
        self.operation().in_place(i)
    }
}

/// An `f32` attribute, compared and hashed by its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct F32(u32);

impl F32 {
    /// From its value.
    pub const fn new(value: f32) -> Self {
        Self(value.to_bits())
    }

    /// Its value.
    pub const fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl std::fmt::Debug for F32 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.get())
    }
}
