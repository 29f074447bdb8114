//! Pad. Amounts are an attribute before operator set 11, an input since; `axes` since 18.

use streampool_core::Error;
use streampool_core::op::{Op, Pad, PadMode, Scalar};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[op("Pad", 2, pad), op("Pad", 11, pad)];

fn pad(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let rank = x.rank();
    let (pads, value) = if n.version < 11 {
        let value = Scalar::from_f64(x.dtype, f64::from(n.attrs.float("value", 0.0)?));
        (n.attrs.ints("pads")?.unwrap_or(&[]).to_vec(), value)
    } else {
        let pads = lo.input(n, 1)?;
        let value = match lo.optional(n, 2)? {
            Some(v) if !v.shape().is_empty() => lo.one(&v, "the constant value")?,
            _ => Scalar::from_f64(x.dtype, 0.0),
        };
        (lo.ints(&pads)?, value)
    };
    let axes: Vec<usize> = match lo.optional(n, 3)? {
        Some(a) => lo.ints(&a)?.into_iter().map(|a| axis(a, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(Error::invalid_argument(format!(
            "pads {pads:?} should have {} entries, a begin and an end for each of {} axes",
            2 * axes.len(),
            axes.len()
        ))
        .into());
    }
    let (mut before, mut after) = (vec![0isize; rank], vec![0isize; rank]);
    for (i, &a) in axes.iter().enumerate() {
        before[a] = pads[i] as isize;
        after[a] = pads[axes.len() + i] as isize;
    }
    let mode = match n.attrs.str("mode", "constant")? {
        "constant" => PadMode::Constant(value),
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => return Err(Error::invalid_model(format!("mode '{other}' does not exist")).into()),
    };
    let y = if before.iter().chain(&after).all(|&p| p == 0) {
        x
    } else {
        lo.emit1(Op::Pad(Pad { mode, before, after }), &[x])?
    };
    lo.set(n, 0, y)
}
