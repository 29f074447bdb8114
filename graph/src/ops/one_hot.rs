//! OneHot. Indices out of range give rows of the off value.

use streampool_core::Error;
use streampool_core::op::{Binary, DType};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[op("OneHot", 9, one_hot)];

fn one_hot(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (indices, depth, values) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.input(n, 2)?);
    let depth = lo.one(&depth, "depth")?.to_i64();
    let count = usize::try_from(depth)
        .ok()
        .filter(|&d| (1..1 << 32).contains(&d))
        .ok_or_else(|| Error::invalid_argument(format!("a depth of {depth} is impossible")))?;
    if values.shape()[..] != [2] {
        return Err(Error::invalid_argument(format!("values {} should be (off, on)", values.ty())).into());
    }
    let at = axis(n.attrs.int("axis", -1)?, indices.rank() + 1)?;
    let column = lo.unsqueeze(&indices, &[at])?;
    let mut shape = vec![1; indices.rank() + 1];
    shape[at] = count;
    let positions: Vec<i64> = (0..depth).collect();
    let positions = lo.ints_constant(&positions, shape);
    let (off, on) = (lo.slice(&values, 0, 0, 1, 1), lo.slice(&values, 0, 1, 1, 1));
    let (off, on) = (lo.squeeze(&off, &[0])?, lo.squeeze(&on, &[0])?);
    let mut e = Expr::new();
    let (i, p) = (e.input(&column), e.input(&positions));
    let i = e.cast(DType::I64, i);
    let (d, zero) = (e.num(i, depth as f64), e.num(i, 0.0));
    let (wrapped, negative) = (e.add(i, d), e.bin(Binary::Lt, i, zero));
    let i = e.select(negative, wrapped, i);
    let hit = e.bin(Binary::Eq, i, p);
    let (a, b) = (e.input(&on), e.input(&off));
    e.select(hit, a, b);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}
