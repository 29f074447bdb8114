//! Compress and NonZero: the shape of the result depends on values, which are read at plan time.

use streampool_core::Error;
use streampool_core::op::{Gather, Op};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[op("Compress", 9, compress), op("NonZero", 9, non_zero)];

fn compress(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (mut x, condition) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let along = match n.attrs.int_opt("axis")? {
        Some(&a) => axis(a, x.rank())?,
        None => {
            x = lo.reshape(&x, vec![x.shape().len()])?;
            0
        }
    };
    let flags = lo.ints(&condition)?;
    if flags.len() > x.shape()[along] {
        return Err(Error::invalid_argument(format!(
            "the condition has {} entries, axis {along} of {} has {}",
            flags.len(),
            x.ty(),
            x.shape()[along]
        ))
        .into());
    }
    let kept: Vec<i64> = (0..flags.len() as i64).filter(|&i| flags[i as usize] != 0).collect();
    let count = kept.len();
    let kept = lo.ints_constant(&kept, vec![count]);
    let y = lo.emit1(Op::Gather(Gather { axis: along }), &[x, kept])?;
    lo.set(n, 0, y)
}

fn non_zero(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let host = lo.host(&x)?;
    let strides = x.shape().strides();
    // A scalar counts as a vector of one.
    let axes = x.rank().max(1);
    let found: Vec<usize> =
        host.scalars().iter().enumerate().filter(|(_, s)| s.to_f64() != 0.0).map(|(i, _)| i).collect();
    let mut out = Vec::with_capacity(found.len() * axes);
    for a in 0..axes {
        for &i in &found {
            out.push(if x.rank() == 0 { 0 } else { (i / strides[a] as usize % x.shape()[a]) as i64 });
        }
    }
    let y = lo.ints_constant(&out, vec![axes, found.len()]);
    lo.set(n, 0, y)
}
