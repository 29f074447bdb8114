//! Conv.

use streampool_core::Error;
use streampool_core::op::{Conv, Op};

use super::spatial::Window;
use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[op("Conv", 1, conv)];

fn conv(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, w, b) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.optional(n, 2)?);
    let y = emit(lo, n, &x, &w, b)?;
    lo.set(n, 0, y)
}

/// A convolution with the attributes of `n`.
pub(super) fn emit(lo: &mut Lower<'_>, n: &Node, x: &View, w: &View, b: Option<View>) -> LResult<View> {
    if x.rank() < 3 || w.rank() != x.rank() {
        return Err(Error::invalid_argument(format!(
            "x {} and weight {} should both be (batch or filters, channels, spatial axes...)",
            x.ty(),
            w.ty()
        ))
        .into());
    }
    let window = Window::new(n, &x.shape()[2..], Some(&w.shape()[2..]))?;
    let groups =
        usize::try_from(n.attrs.int("group", 1)?).map_err(|_| Error::invalid_model("group is negative"))?;
    let op = Conv {
        strides: window.strides,
        dilations: window.dilations,
        pads_before: window.before,
        pads_after: window.after,
        groups,
        bias: b.is_some(),
        residual: false,
        activation: None,
    };
    let operands: Vec<View> = [Some(x.clone()), Some(w.clone()), b].into_iter().flatten().collect();
    lo.emit1(Op::Conv(op), &operands)
}
