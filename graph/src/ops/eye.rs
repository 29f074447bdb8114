//! EyeLike.

use streampool_core::Error;
use streampool_core::op::Binary;

use super::{Operator, op};
use crate::ir::{Node, dtype_of};
use crate::lower::{Expr, LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("EyeLike", 9, eye_like)];

fn eye_like(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let [rows, cols] = x.shape()[..] else {
        return Err(Error::invalid_argument(format!("x {} should be a matrix", x.ty())).into());
    };
    let dtype = match n.attrs.int_opt("dtype")? {
        Some(&code) => dtype_of(i32::try_from(code).unwrap_or(0))?,
        None => x.dtype,
    };
    let k = n.attrs.int("k", 0)?;
    let down: Vec<i64> = (0..rows as i64).map(|i| i.saturating_add(k)).collect();
    let across: Vec<i64> = (0..cols as i64).collect();
    let (down, across) = (lo.ints_constant(&down, vec![rows, 1]), lo.ints_constant(&across, vec![1, cols]));
    let mut e = Expr::new();
    let (a, b) = (e.input(&down), e.input(&across));
    let hit = e.bin(Binary::Eq, a, b);
    e.cast(dtype, hit);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}
