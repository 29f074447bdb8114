//! Compiled programs of eager operations, shared by all streams of a device.

use std::sync::Arc;

use smallvec::SmallVec;
use streampool_core::driver::Executable;
use streampool_core::op::{DType, Layout, Op};

/// What a program was compiled for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ProgramKey {
    pub(crate) recipe: Recipe,
    pub(crate) args: SmallVec<[OperandKey; 3]>,
}

/// What a program does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Recipe {
    /// One operation.
    Op(Op),
    /// Joins its operands along an axis.
    Concat(usize),
}

/// What an operand looks like.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum OperandKey {
    /// A bound tensor, its layout counted from its lowest element.
    Tensor(DType, Layout),
    /// A frozen weight, by identity.
    Constant(u64),
}
