//! Split: views. Sizes are an attribute before operator set 13, an input since; `num_outputs` since 18.

use streampool_core::Error;

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[op("Split", 2, split)];

fn split(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let at = axis(n.attrs.int("axis", 0)?, x.rank())?;
    let len = x.shape()[at];
    let listed = match n.attrs.ints("split")? {
        Some(s) => Some(s.to_vec()),
        None => match lo.optional(n, 1)? {
            Some(s) => Some(lo.ints(&s)?),
            None => None,
        },
    };
    let sizes: Vec<usize> = match listed {
        Some(list) => list
            .iter()
            .map(|&v| {
                usize::try_from(v)
                    .map_err(|_| Error::invalid_argument(format!("split {list:?} has a negative size")))
            })
            .collect::<Result<_, _>>()?,
        None => {
            let parts = n.outputs.len().max(1);
            let each = len.div_ceil(parts);
            (0..parts).map(|i| each.min(len.saturating_sub(i * each))).collect()
        }
    };
    if sizes.iter().try_fold(0usize, |a, &b| a.checked_add(b)) != Some(len) || sizes.len() < n.outputs.len() {
        return Err(Error::invalid_argument(format!(
            "split {sizes:?} does not fit axis {at} of {} and {} outputs",
            x.ty(),
            n.outputs.len()
        ))
        .into());
    }
    let mut from = 0;
    for (i, size) in sizes.into_iter().enumerate() {
        let part = lo.slice(&x, at, from, size, 1);
        lo.set(n, i, part)?;
        from += size;
    }
    Ok(())
}
