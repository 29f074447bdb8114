//! Reshape, Flatten.

use streampool_core::Error;

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("Reshape", 5, reshape), op("Flatten", 1, flatten)];

fn reshape(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, shape) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let asked = lo.ints(&shape)?;
    let allow_zero = n.attrs.flag("allowzero", false)?;
    let wrong = |why: &str| Error::invalid_argument(format!("{} cannot become {asked:?}: {why}", x.ty()));
    let mut free = None;
    let mut known: usize = 1;
    let mut dims = Vec::with_capacity(asked.len());
    for (i, &d) in asked.iter().enumerate() {
        let len = match d {
            -1 if free.is_some() => return Err(wrong("two lengths are left open").into()),
            -1 => {
                free = Some(i);
                1
            }
            0 if !allow_zero => {
                *x.shape().get(i).ok_or_else(|| wrong("a 0 copies an axis that is not there"))?
            }
            d => usize::try_from(d).map_err(|_| wrong("a length is negative"))?,
        };
        known = known.checked_mul(len).ok_or_else(|| wrong("it is too large"))?;
        dims.push(len);
    }
    if let Some(i) = free {
        let total = x.shape().len();
        if known == 0 || !total.is_multiple_of(known) {
            return Err(wrong("the open length cannot be found").into());
        }
        dims[i] = total / known;
    }
    let y = lo.reshape(&x, dims)?;
    lo.set(n, 0, y)
}

fn flatten(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let rank = x.rank() as i64;
    let axis = n.attrs.int("axis", 1)?;
    let at = if axis < 0 { axis + rank } else { axis };
    if !(0..=rank).contains(&at) {
        return Err(Error::invalid_model(format!("axis {axis} is out of range for {}", x.ty())).into());
    }
    let (outer, inner) = x.shape().split_at(at as usize);
    let dims = vec![outer.iter().product(), inner.iter().product()];
    let y = lo.reshape(&x, dims)?;
    lo.set(n, 0, y)
}
