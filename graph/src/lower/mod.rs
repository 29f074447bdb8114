//! From ONNX nodes to primitive operations, for concrete input shapes.

mod build;
mod elementwise;
mod host;
mod lir;
mod run;
pub(crate) mod views;

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use streampool_core::Error;
use streampool_core::op::{Constant, Layout, Op, TensorType};

pub(crate) use elementwise::Expr;
pub(crate) use host::{HostTensor, evaluate, gather};
pub(crate) use lir::{LNode, Lir, Source, Uses, View};
pub(crate) use views::{axes, axis};

/// Why lowering stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The values of these model inputs are needed to know shapes.
    Need(BTreeSet<usize>),
    /// It cannot go on.
    Error(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Error(e)
    }
}

impl Stop {
    /// Adds where it happened to an error.
    pub(crate) fn context(self, place: impl std::fmt::Display) -> Self {
        match self {
            Stop::Error(e) => Stop::Error(e.context(place)),
            need => need,
        }
    }
}

/// Result of lowering something.
pub(crate) type LResult<T> = Result<T, Stop>;

/// What an ONNX value is while lowering. Sequences and optionals exist at plan time only.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Tensor(View),
    Sequence(Vec<View>),
    /// An optional without content.
    Nothing,
}

/// A constant's type and bytes.
type Content = (TensorType, Vec<u8>);

/// Results of folding that every plan of a model shares: weights after a cast, a transpose, a batch norm.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    results: Mutex<HashMap<FoldKey, Vec<Arc<Constant>>>>,
    small: Mutex<HashMap<Content, Arc<Constant>>>,
}

/// An operation on views of constants, by their ids.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FoldKey {
    op: Op,
    inputs: Vec<(u64, Layout)>,
}

/// Nodes that one plan may unroll to.
pub(crate) const MAX_NODES: usize = 100_000;

/// Builds the lowered graph of one plan.
pub(crate) struct Lower<'m> {
    pub(crate) lir: Lir,
    folded: &'m Folded,
    /// What each value of the model is now.
    values: Vec<Option<Value>>,
    /// Views that were made already, by operation and inputs.
    known: HashMap<(Op, Vec<View>), Vec<View>>,
    /// Buffers of constants, by constant id.
    constants: HashMap<u64, u32>,
    /// Name of the node being lowered.
    name: String,
    /// ONNX nodes lowered so far, unrolled ones included.
    lowered: usize,
    depth: usize,
}

impl<'m> Lower<'m> {
    pub(crate) fn new(values: usize, folded: &'m Folded) -> Self {
        Self {
            lir: Lir::default(),
            folded,
            values: vec![None; values],
            known: HashMap::new(),
            constants: HashMap::new(),
            name: String::new(),
            lowered: 0,
            depth: 0,
        }
    }
}
