//! CausalConvWithState: a depthwise convolution over time that carries its last inputs.

use streampool_core::Error;
use streampool_core::op::{Conv, Op, Scalar, Shape, Unary};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[op("CausalConvWithState", 27, causal_conv)];

fn causal_conv(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, w) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let bias = lo.optional(n, 2)?;
    if x.rank() != 3 || w.rank() != 3 || w.shape()[2] == 0 {
        return Err(Error::invalid_argument(format!(
            "x {} should be (batch, channels, length) and weight {} (channels, 1, k)",
            x.ty(),
            w.ty()
        ))
        .into());
    }
    let (batch, channels, kept) = (x.shape()[0], x.shape()[1], w.shape()[2] - 1);
    let past = match lo.optional(n, 3)? {
        Some(p) => p,
        None => lo.filled(Scalar::from_f64(x.dtype, 0.0), &Shape::new(&[batch, channels, kept]))?,
    };
    let padded = lo.concat(&[past, x], 2)?;
    let op = Conv {
        strides: vec![1],
        dilations: vec![1],
        pads_before: vec![0],
        pads_after: vec![0],
        groups: channels,
        bias: bias.is_some(),
        residual: false,
        activation: None,
    };
    let operands: Vec<View> = [Some(padded.clone()), Some(w), bias].into_iter().flatten().collect();
    let mut y = lo.emit1(Op::Conv(op), &operands)?;
    match n.attrs.str("activation", "none")? {
        "none" => {}
        "silu" | "swish" => y = lo.unary(Unary::Silu, &y)?,
        other => return Err(Error::invalid_model(format!("activation '{other}' does not exist")).into()),
    }
    lo.set(n, 0, y)?;
    let start = padded.shape()[2] - kept;
    let state = lo.slice(&padded, 2, start, kept, 1);
    lo.set(n, 1, state)
}
