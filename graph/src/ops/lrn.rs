//! LRN: local response normalisation over channels, as an average pool over the channel axis.

use streampool_core::Error;
use streampool_core::op::{Binary, Op, Pool, PoolKind};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("LRN", 1, lrn)];

fn lrn(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let size = usize::try_from(n.attrs.required_int("size")?).unwrap_or(0);
    if x.rank() < 2 || size == 0 || size > 1 << 20 {
        return Err(Error::invalid_argument(format!(
            "size {size} over the channels of x {} is impossible",
            x.ty()
        ))
        .into());
    }
    let (alpha, beta, bias) =
        (n.attrs.float("alpha", 1e-4)?, n.attrs.float("beta", 0.75)?, n.attrs.float("bias", 1.0)?);
    let (batch, channels) = (x.shape()[0], x.shape()[1]);
    let inner = x.shape()[2..].iter().product();
    let squares = lo.map1(&x, |e, x| {
        e.mul(x, x);
    })?;
    let image = lo.reshape(&squares, vec![batch, 1, channels, inner])?;
    let op = Pool {
        kind: PoolKind::Average { count_pad: true },
        kernel: vec![size, 1],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads_before: vec![(size - 1) / 2, 0],
        pads_after: vec![size / 2, 0],
        ceil: false,
    };
    let mean = lo.emit1(Op::Pool(op), &[image])?;
    let mean = lo.reshape(&mean, x.shape().clone())?;
    let mut e = Expr::new();
    let (a, m) = (e.input(&x), e.input(&mean));
    let (alpha, beta, bias) =
        (e.num(a, f64::from(alpha)), e.num(a, f64::from(beta)), e.num(a, f64::from(bias)));
    let scaled = e.mul(m, alpha);
    let base = e.add(scaled, bias);
    let d = e.bin(Binary::Pow, base, beta);
    e.div(a, d);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}
