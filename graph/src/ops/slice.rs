//! Slice: a view.

use streampool_core::Error;

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[op("Slice", 1, slice)];

fn slice(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let mut x = lo.input(n, 0)?;
    let (starts, ends, axes, steps) = if n.version < 10 {
        let list = |name: &str| -> LResult<Option<Vec<i64>>> { Ok(n.attrs.ints(name)?.map(<[i64]>::to_vec)) };
        (list("starts")?.unwrap_or_default(), list("ends")?.unwrap_or_default(), list("axes")?, None)
    } else {
        let (s, e) = (lo.input(n, 1)?, lo.input(n, 2)?);
        let mut list = |i| -> LResult<Option<Vec<i64>>> {
            match lo.optional(n, i)? {
                Some(v) => Ok(Some(lo.ints(&v)?)),
                None => Ok(None),
            }
        };
        let (axes, steps) = (list(3)?, list(4)?);
        (lo.ints(&s)?, lo.ints(&e)?, axes, steps)
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(Error::invalid_argument(format!(
            "starts {starts:?}, ends {ends:?}, axes {axes:?} and steps {steps:?} should have one length"
        ))
        .into());
    }
    let mut done = Vec::new();
    for i in 0..starts.len() {
        let at = axis(axes[i], x.rank())?;
        if done.contains(&at) {
            return Err(Error::invalid_argument(format!("axes {axes:?} name axis {at} twice")).into());
        }
        done.push(at);
        let len = x.shape()[at] as i64;
        let step = steps[i];
        if step == 0 {
            return Err(Error::invalid_argument("a step of 0 is impossible").into());
        }
        let wrap = |v: i64| if v < 0 { v.saturating_add(len) } else { v };
        let (start, count) = if step > 0 {
            let (a, b) = (wrap(starts[i]).clamp(0, len), wrap(ends[i]).clamp(0, len));
            (a, if b > a { 1 + (b - a - 1) / step } else { 0 })
        } else {
            let (a, b) = (wrap(starts[i]).clamp(-1, len - 1), wrap(ends[i]).clamp(-1, len - 1));
            (a, if a > b { 1 + ((a - b - 1) as u64 / step.unsigned_abs()) as i64 } else { 0 })
        };
        // The step of a single element does not matter; a huge one must not overflow strides.
        let step = if count <= 1 { 1 } else { step as isize };
        x = lo.slice(&x, at, start.max(0) as usize, count as usize, step);
    }
    lo.set(n, 0, x)
}
