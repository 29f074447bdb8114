//! DepthToSpace, SpaceToDepth: reshapes and a transpose.

use streampool_core::Error;

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, View};

pub(super) const OPS: &[Operator] =
    &[op("DepthToSpace", 1, depth_to_space), op("SpaceToDepth", 1, space_to_depth)];

fn image(lo: &mut Lower<'_>, n: &Node) -> LResult<(View, usize)> {
    let x = lo.input(n, 0)?;
    let block = usize::try_from(n.attrs.required_int("blocksize")?).unwrap_or(0);
    if x.rank() != 4 || block == 0 {
        return Err(Error::invalid_argument(format!(
            "x {} should have rank 4 and blocksize {block} be positive",
            x.ty()
        ))
        .into());
    }
    Ok((x, block))
}

fn depth_to_space(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, b) = image(lo, n)?;
    let [batch, c, h, w] = [0, 1, 2, 3].map(|i| x.shape()[i]);
    if !c.is_multiple_of(b.saturating_mul(b)) {
        return Err(Error::invalid_argument(format!(
            "{c} channels are no multiple of blocksize {b} squared"
        ))
        .into());
    }
    let out = c / (b * b);
    let parts = match n.attrs.str("mode", "DCR")? {
        "DCR" => {
            let v = lo.reshape(&x, vec![batch, b, b, out, h, w])?;
            lo.permute(&v, &[0, 3, 4, 1, 5, 2])?
        }
        "CRD" => {
            let v = lo.reshape(&x, vec![batch, out, b, b, h, w])?;
            lo.permute(&v, &[0, 1, 4, 2, 5, 3])?
        }
        other => return Err(Error::invalid_model(format!("mode '{other}' is neither DCR nor CRD")).into()),
    };
    let y = lo.reshape(&parts, vec![batch, out, h * b, w * b])?;
    lo.set(n, 0, y)
}

fn space_to_depth(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, b) = image(lo, n)?;
    let [batch, c, h, w] = [0, 1, 2, 3].map(|i| x.shape()[i]);
    if !h.is_multiple_of(b) || !w.is_multiple_of(b) {
        return Err(Error::invalid_argument(format!("{h} x {w} is no multiple of blocksize {b}")).into());
    }
    let v = lo.reshape(&x, vec![batch, c, h / b, b, w / b, b])?;
    let order: &[usize] = match n.attrs.str("mode", "DCR")? {
        "CRD" => &[0, 1, 3, 5, 2, 4],
        _ => &[0, 3, 5, 1, 2, 4],
    };
    let v = lo.permute(&v, order)?;
    let y = lo.reshape(&v, vec![batch, c * b * b, h / b, w / b])?;
    lo.set(n, 0, y)
}
