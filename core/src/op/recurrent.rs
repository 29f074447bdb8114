//! Recurrent layers, with ONNX's gate order and operands.

use super::F32;

/// Which cell.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    Rnn,
    /// Gates z, r, h.
    Gru {
        linear_before_reset: bool,
    },
    /// Gates i, o, f, c.
    Lstm {
        input_forget: bool,
    },
}

/// Direction of time.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecurrentDirection {
    Forward,
    Reverse,
    Bidirectional,
}

/// Activations of gates.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecurrentActivation {
    Sigmoid,
    Tanh,
    Relu,
    LeakyRelu(F32),
    ThresholdedRelu(F32),
    Affine(F32, F32),
    Elu(F32),
    HardSigmoid(F32, F32),
    ScaledTanh(F32, F32),
    Softsign,
    Softplus,
}

/// ONNX's RNN, GRU and LSTM, layout 0. Inputs in this order, all floats but lengths: x (t, b, i), w (d, gates * h, i), r (d, gates * h, h), then those
/// of: bias (d, 2 * gates * h), lengths (b,) i32, initial_h (d, b, h), initial_c (d, b, h; LSTM), peephole (d, 3 * h; LSTM) whose flags are set.
/// Outputs: y (t, d, b, h), y_h (d, b, h), and for LSTM y_c (d, b, h).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recurrent {
    /// Which cell.
    pub cell: Cell,
    /// Which way.
    pub direction: RecurrentDirection,
    /// Size of the state.
    pub hidden: usize,
    /// Per direction: one for RNN, two for GRU (f, g), three for LSTM (f, g, h).
    pub activations: Vec<RecurrentActivation>,
    /// Clips gate inputs to [-clip, clip].
    pub clip: Option<F32>,
    /// Whether a bias is given.
    pub bias: bool,
    /// Whether sequence lengths are given.
    pub lengths: bool,
    /// Whether initial_h is given.
    pub initial_h: bool,
    /// Whether initial_c is given.
    pub initial_c: bool,
    /// Whether peephole weights are given.
    pub peephole: bool,
}

impl super::Operation for Recurrent {
    fn name(&self) -> &'static str {
        "Recurrent"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Recurrent: shape inference is not written yet"))
    }
}
