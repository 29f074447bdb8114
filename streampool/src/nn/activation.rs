//! Activations as layers.

use super::Module;
use crate::{Result, Tensor};

macro_rules! activations {
    ($($(#[$doc:meta])* $name:ident = $method:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default)]
            pub struct $name;

            impl Module for $name {
                fn forward(&self, x: &Tensor) -> Result<Tensor> {
                    x.$method()
                }
            }
        )*
    };
}

activations! {
    /// `max(x, 0)`.
    Relu = relu;
    /// By the error function.
    Gelu = gelu;
    /// Hyperbolic tangent.
    Tanh = tanh;
    /// `1 / (1 + e^-x)`.
    Sigmoid = sigmoid;
}

/// Softmax along an axis.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    /// Which; negative ones count from the end.
    pub axis: isize,
}

impl Module for Softmax {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.softmax(self.axis)
    }
}
