//! A model after import: values by number, nodes in topological order, attributes decoded, functions inlined.

mod attr;
mod external;
mod import;
mod sort;
mod tensor;

use std::sync::Arc;

use streampool_core::op::{Constant, DType};

pub(crate) use attr::{Attr, Attrs};
pub(crate) use external::DataFolder;
pub(crate) use import::import;
pub(crate) use tensor::{constant as constant_of, dtype_of};

/// A value of the whole model, subgraphs included.
pub(crate) type ValueId = u32;

/// One axis of a declared shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this long.
    Fixed(usize),
    /// Any length, but the same wherever the name stands.
    Symbol(String),
    /// Any length.
    Unknown,
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(s) => f.write_str(s),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// A declared type of a graph's input or output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ValueType {
    /// Nothing was declared.
    Unknown,
    /// A tensor; without dims the rank is free.
    Tensor { dtype: Option<DType>, code: i32, dims: Option<Vec<Dim>> },
    /// A sequence, map, optional or sparse tensor.
    Other(&'static str),
}

/// An input or output of a graph.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub(crate) id: ValueId,
    pub(crate) name: String,
    pub(crate) ty: ValueType,
}

/// A graph or the body of a control-flow operator.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) name: String,
    /// Without those that have an initialiser.
    pub(crate) inputs: Vec<Interface>,
    pub(crate) outputs: Vec<Interface>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) constants: Vec<(ValueId, Arc<Constant>)>,
}

/// One operator call.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its name, or one made of its operator and first output.
    pub(crate) name: String,
    pub(crate) op_type: String,
    /// `""` is ONNX's own.
    pub(crate) domain: String,
    /// Version of the domain's operator set in force here.
    pub(crate) version: i64,
    pub(crate) inputs: Vec<Option<ValueId>>,
    pub(crate) outputs: Vec<Option<ValueId>>,
    pub(crate) attrs: Attrs,
}

impl Node {
    /// `Conv 'conv1'`, for errors.
    pub(crate) fn label(&self) -> String {
        if self.domain.is_empty() {
            format!("{} '{}'", self.op_type, self.name)
        } else {
            format!("{}.{} '{}'", self.domain, self.op_type, self.name)
        }
    }

    /// Whether input `i` is given.
    pub(crate) fn has_input(&self, i: usize) -> bool {
        self.inputs.get(i).is_some_and(Option::is_some)
    }

    /// Whether output `i` is wanted.
    pub(crate) fn has_output(&self, i: usize) -> bool {
        self.outputs.get(i).is_some_and(Option::is_some)
    }
}
