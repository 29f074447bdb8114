//! Shape, Size.

use streampool_core::op::{DType, Scalar};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[
    op("Shape", 1, shape),
    op("Size", 1, |lo, n| {
        let len = lo.input(n, 0)?.shape().len();
        let y = lo.scalar(Scalar::from_i64(DType::I64, len as i64));
        lo.set(n, 0, y)
    }),
];

fn shape(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let rank = x.rank() as i64;
    let clamp = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (clamp(n.attrs.int("start", 0)?), clamp(n.attrs.int("end", rank)?));
    let dims: Vec<i64> = x.shape().get(start..end).unwrap_or(&[]).iter().map(|&d| d as i64).collect();
    let y = lo.ints_constant(&dims, vec![dims.len()]);
    lo.set(n, 0, y)
}
