//! Recurrent layers, with ONNX's gate order and operands.

use super::matmul::names;
use super::{DType, F32, Operation, TensorType, check};
use crate::error::Result;

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

impl Cell {
    /// Gates stacked in the weights.
    pub const fn gates(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru { .. } => 3,
            Cell::Lstm { .. } => 4,
        }
    }

    /// Activations a direction needs.
    pub const fn activations(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru { .. } => 2,
            Cell::Lstm { .. } => 3,
        }
    }
}

impl RecurrentDirection {
    /// Directions that are computed: 1 or 2.
    pub const fn count(self) -> usize {
        match self {
            RecurrentDirection::Bidirectional => 2,
            _ => 1,
        }
    }
}

impl Operation for Recurrent {
    fn name(&self) -> &'static str {
        match self.cell {
            Cell::Rnn => "RNN",
            Cell::Gru { .. } => "GRU",
            Cell::Lstm { .. } => "LSTM",
        }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        let names = names(
            &["x", "w", "r"],
            &[
                ("bias", self.bias),
                ("lengths", self.lengths),
                ("initial_h", self.initial_h),
                ("initial_c", self.initial_c),
                ("peephole", self.peephole),
            ],
        );
        check::operands(op, inputs, &names)?;
        let lstm = matches!(self.cell, Cell::Lstm { .. });
        if !lstm && (self.initial_c || self.peephole) {
            return Err(check::invalid(op, "initial_c and peephole belong to LSTM only"));
        }
        let (d, gates, h) = (self.direction.count(), self.cell.gates(), self.hidden);
        if self.activations.len() != d * self.cell.activations() {
            return Err(check::invalid(
                op,
                format_args!(
                    "{d} direction(s) need {} activations, got {}",
                    d * self.cell.activations(),
                    self.activations.len()
                ),
            ));
        }
        let overflow = || check::invalid(op, format_args!("a hidden size of {h} is too large"));
        let rows = h.checked_mul(2 * gates).ok_or_else(overflow)? / 2;
        let x = &inputs[0];
        check::dtype(op, "x", x, |d| d.is_float(), check::FLOATS)?;
        check::rank_is(op, "x", x, 3)?;
        let [t, b, i] = [x.shape[0], x.shape[1], x.shape[2]];
        for (&name, ty) in names.iter().zip(inputs).skip(1) {
            if name == "lengths" {
                check::dtype(op, name, ty, |d| d == DType::I32, "int32")?;
            } else {
                check::same_dtype(op, name, ty, "x", x)?;
            }
            match name {
                "w" => check::shape_is(op, name, ty, &[d, rows, i])?,
                "r" => check::shape_is(op, name, ty, &[d, rows, h])?,
                "bias" => check::shape_is(op, name, ty, &[d, 2 * rows])?,
                "lengths" => check::shape_is(op, name, ty, &[b])?,
                "peephole" => check::shape_is(op, name, ty, &[d, 3 * h])?,
                _ => check::shape_is(op, name, ty, &[d, b, h])?,
            }
        }
        let state = TensorType::new(x.dtype, [d, b, h]);
        let mut out = vec![TensorType::new(x.dtype, [t, d, b, h]), state.clone()];
        if lstm {
            out.push(state);
        }
        Ok(out)
    }
}
