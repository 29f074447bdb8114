//! What goes into a run and what comes out.

use std::ops::Index;

use streampool_core::op::{DType, HostTensor};

use crate::Tensor;

/// One input of a run: a host array or a tensor on the model's device.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// Elements in host memory, row-major. Bound without a copy on devices whose memory is the host's.
    Host {
        /// Element type.
        dtype: DType,
        /// Axis lengths.
        shape: &'a [usize],
        /// `shape.product() * dtype.size()` bytes.
        bytes: &'a [u8],
    },
    /// A tensor of the model's device; whatever makes it is waited for on the device.
    Tensor(&'a Tensor),
}

impl<'a> From<&'a HostTensor> for Input<'a> {
    fn from(t: &'a HostTensor) -> Self {
        Input::Host { dtype: t.ty().dtype, shape: &t.ty().shape, bytes: t.bytes() }
    }
}

impl<'a> From<&'a Tensor> for Input<'a> {
    fn from(t: &'a Tensor) -> Self {
        Input::Tensor(t)
    }
}

impl Input<'_> {
    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Input::Host { dtype, .. } => *dtype,
            Input::Tensor(t) => t.dtype(),
        }
    }

    /// Axis lengths.
    pub fn shape(&self) -> &[usize] {
        match self {
            Input::Host { shape, .. } => shape,
            Input::Tensor(t) => &t.layout().shape,
        }
    }
}

/// What a run gives: one tensor per output of the model, in its order, found by name or position.
#[derive(Debug)]
pub struct Outputs<'m> {
    names: &'m [String],
    tensors: Vec<Tensor>,
}

impl<'m> Outputs<'m> {
    pub(super) fn new(names: &'m [String], tensors: Vec<Tensor>) -> Self {
        Self { names, tensors }
    }

    /// The output of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.names.iter().position(|n| n == name).map(|i| &self.tensors[i])
    }

    /// How many outputs.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether the model has no outputs.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Names and tensors in the model's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'m str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.tensors)
    }

    /// The tensors in the model's order.
    pub fn into_vec(self) -> Vec<Tensor> {
        self.tensors
    }
}

impl Index<&str> for Outputs<'_> {
    type Output = Tensor;
    /// # Panics
    /// If there is no output of this name; [`Outputs::get`] does not.
    fn index(&self, name: &str) -> &Tensor {
        self.get(name)
            .unwrap_or_else(|| panic!("no output named '{name}'; there are: {}", self.names.join(", ")))
    }
}

impl Index<usize> for Outputs<'_> {
    type Output = Tensor;
    fn index(&self, position: usize) -> &Tensor {
        &self.tensors[position]
    }
}
