//! TensorScatter: writes an update into a cache at a position per sample.

use streampool_core::Error;
use streampool_core::op::{Binary, DType, OnScatter, Op, ScatterElements, Shape};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[op("TensorScatter", 24, tensor_scatter)];

fn tensor_scatter(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (cache, update) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let rank = cache.rank();
    let at = axis(n.attrs.int("axis", -2)?, rank)?;
    let fits = update.rank() == rank
        && (0..rank).all(|i| {
            update.shape()[i] == cache.shape()[i] || (i == at && update.shape()[i] < cache.shape()[i])
        });
    if at == 0 || !fits {
        return Err(Error::invalid_argument(format!(
            "update {} does not fit cache {} along axis {at}",
            update.ty(),
            cache.ty()
        ))
        .into());
    }
    let circular = match n.attrs.str("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => {
            return Err(Error::invalid_model(format!("mode '{other}' is neither linear nor circular")).into());
        }
    };
    let mut shape = vec![1; rank];
    shape[at] = update.shape()[at];
    let steps: Vec<i64> = (0..shape[at] as i64).collect();
    let steps = lo.ints_constant(&steps, shape);
    let mut e = Expr::new();
    let mut position = e.input(&steps);
    if let Some(starts) = lo.optional(n, 2)? {
        let mut shape = vec![1; rank];
        shape[0] = starts.shape().len();
        let starts = lo.reshape(&starts, shape)?;
        let s = e.input(&starts);
        let s = e.cast(DType::I64, s);
        position = e.add(position, s);
    }
    if circular {
        let len = e.num(position, cache.shape()[at] as f64);
        e.bin(Binary::Mod, position, len);
    } else {
        let zero = e.num(position, 0.0);
        e.add(position, zero);
    }
    let positions = lo.map(e)?;
    let positions = lo.broadcast(&positions, &Shape::new(update.shape()))?;
    let op = Op::ScatterElements(ScatterElements { axis: at, reduction: OnScatter::Replace });
    let y = lo.emit1(op, &[cache, positions, update])?;
    lo.set(n, 0, y)
}
