//! RNN, GRU, LSTM.

use streampool_core::Error;
use streampool_core::op::{Cell, DType, F32, Op, Recurrent, RecurrentActivation as A, RecurrentDirection};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[
    op("RNN", 7, |lo, n| recurrent(lo, n, Cell::Rnn)),
    op("GRU", 7, |lo, n| {
        let linear_before_reset = n.attrs.flag("linear_before_reset", false)?;
        recurrent(lo, n, Cell::Gru { linear_before_reset })
    }),
    op("LSTM", 7, |lo, n| {
        let input_forget = n.attrs.flag("input_forget", false)?;
        recurrent(lo, n, Cell::Lstm { input_forget })
    }),
];

fn activations(n: &Node, cell: Cell, directions: usize) -> LResult<Vec<A>> {
    let wanted = directions * cell.activations();
    let Some(names) = n.attrs.strings_opt("activations")?.filter(|l| !l.is_empty()) else {
        let one: &[A] = match cell {
            Cell::Rnn => &[A::Tanh],
            Cell::Gru { .. } => &[A::Sigmoid, A::Tanh],
            Cell::Lstm { .. } => &[A::Sigmoid, A::Tanh, A::Tanh],
        };
        return Ok(one.iter().copied().cycle().take(wanted).collect());
    };
    if names.len() != wanted {
        return Err(Error::invalid_model(format!(
            "{} activations are given, {wanted} are needed",
            names.len()
        ))
        .into());
    }
    let (alphas, betas) = (n.attrs.floats_opt("activation_alpha")?, n.attrs.floats_opt("activation_beta")?);
    // Values are taken in order by the functions that have such a parameter.
    let mut alphas = alphas.into_iter().flatten().copied();
    let mut betas = betas.into_iter().flatten().copied();
    let mut alpha = |default: f32| F32::new(alphas.next().unwrap_or(default));
    let mut beta = |default: f32| F32::new(betas.next().unwrap_or(default));
    names
        .iter()
        .map(|name| {
            Ok(match name.to_ascii_lowercase().as_slice() {
                b"sigmoid" => A::Sigmoid,
                b"tanh" => A::Tanh,
                b"relu" => A::Relu,
                b"softsign" => A::Softsign,
                b"softplus" => A::Softplus,
                b"leakyrelu" => A::LeakyRelu(alpha(0.01)),
                b"thresholdedrelu" => A::ThresholdedRelu(alpha(1.0)),
                b"elu" => A::Elu(alpha(1.0)),
                b"affine" => A::Affine(alpha(1.0), beta(0.0)),
                b"hardsigmoid" => A::HardSigmoid(alpha(0.2), beta(0.5)),
                b"scaledtanh" => A::ScaledTanh(alpha(1.0), beta(1.0)),
                other => {
                    let name = String::from_utf8_lossy(other).into_owned();
                    return Err(
                        Error::unsupported(format!("the activation '{name}' is not supported")).into()
                    );
                }
            })
        })
        .collect()
}

fn recurrent(lo: &mut Lower<'_>, n: &Node, cell: Cell) -> LResult<()> {
    let batch_first = n.attrs.flag("layout", false)?;
    let lstm = matches!(cell, Cell::Lstm { .. });
    let direction = match n.attrs.str("direction", "forward")? {
        "forward" => RecurrentDirection::Forward,
        "reverse" => RecurrentDirection::Reverse,
        "bidirectional" => RecurrentDirection::Bidirectional,
        other => return Err(Error::invalid_model(format!("direction '{other}' does not exist")).into()),
    };
    let swap = |lo: &mut Lower<'_>, v: View| -> LResult<View> {
        if batch_first && v.rank() == 3 { lo.permute(&v, &[1, 0, 2]) } else { Ok(v) }
    };
    let x = lo.input(n, 0)?;
    let x = swap(lo, x)?;
    let (w, r) = (lo.input(n, 1)?, lo.input(n, 2)?);
    if r.rank() != 3 {
        return Err(Error::invalid_argument(format!(
            "r {} should be (directions, gates * hidden, hidden)",
            r.ty()
        ))
        .into());
    }
    let hidden = match n.attrs.int_opt("hidden_size")? {
        Some(&h) => usize::try_from(h).map_err(|_| Error::invalid_model("hidden_size is negative"))?,
        None => r.shape()[2],
    };
    let bias = lo.optional(n, 3)?;
    let lengths = match lo.optional(n, 4)? {
        Some(l) => Some(lo.cast(&l, DType::I32)?),
        None => None,
    };
    let state = |lo: &mut Lower<'_>, i: usize| -> LResult<Option<View>> {
        match lo.optional(n, i)? {
            Some(v) => Ok(Some(swap(lo, v)?)),
            None => Ok(None),
        }
    };
    let initial_h = state(lo, 5)?;
    let (initial_c, peephole) = if lstm { (state(lo, 6)?, lo.optional(n, 7)?) } else { (None, None) };
    let op = Recurrent {
        cell,
        direction,
        hidden,
        activations: activations(n, cell, direction.count())?,
        clip: n.attrs.float_opt("clip")?.map(|&c| F32::new(c)),
        bias: bias.is_some(),
        lengths: lengths.is_some(),
        initial_h: initial_h.is_some(),
        initial_c: initial_c.is_some(),
        peephole: peephole.is_some(),
    };
    let operands: Vec<View> = [Some(x), Some(w), Some(r), bias, lengths, initial_h, initial_c, peephole]
        .into_iter()
        .flatten()
        .collect();
    let outputs = lo.emit(Op::Recurrent(op), &operands)?;
    for (i, y) in outputs.into_iter().enumerate() {
        let y = match (batch_first, y.rank()) {
            (true, 4) => lo.permute(&y, &[2, 0, 1, 3])?,
            (true, 3) => lo.permute(&y, &[1, 0, 2])?,
            _ => y,
        };
        lo.set(n, i, y)?;
    }
    Ok(())
}
