//! Sequences and optionals: they exist at plan time only, as lists of tensors.

use streampool_core::Error;
use streampool_core::op::{DType, Scalar};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, Value, View, axis};

pub(super) const OPS: &[Operator] = &[
    op("SequenceEmpty", 11, |lo, n| lo.set_value(n, 0, Value::Sequence(Vec::new()))),
    op("SequenceConstruct", 11, |lo, n| {
        let parts = lo.inputs(n)?;
        lo.set_value(n, 0, Value::Sequence(parts))
    }),
    op("SequenceLength", 11, |lo, n| {
        let len = sequence(lo, n)?.len();
        let y = lo.scalar(Scalar::from_i64(DType::I64, len as i64));
        lo.set(n, 0, y)
    }),
    op("SequenceAt", 11, |lo, n| {
        let parts = sequence(lo, n)?;
        let at = position(lo, n, 1, parts.len())?;
        lo.set(n, 0, parts[at].clone())
    }),
    op("SequenceInsert", 11, |lo, n| {
        let mut parts = sequence(lo, n)?;
        let v = lo.input(n, 1)?;
        let at = if n.has_input(2) { position(lo, n, 2, parts.len() + 1)? } else { parts.len() };
        parts.insert(at, v);
        lo.set_value(n, 0, Value::Sequence(parts))
    }),
    op("SequenceErase", 11, |lo, n| {
        let mut parts = sequence(lo, n)?;
        let at =
            if n.has_input(1) { position(lo, n, 1, parts.len())? } else { parts.len().saturating_sub(1) };
        if at < parts.len() {
            parts.remove(at);
        }
        lo.set_value(n, 0, Value::Sequence(parts))
    }),
    op("ConcatFromSequence", 11, concat),
    op("SplitToSequence", 11, split),
    op("Optional", 15, |lo, n| {
        let v = match n.inputs.first() {
            Some(Some(id)) => lo.value(*id)?,
            _ => Value::Nothing,
        };
        lo.set_value(n, 0, v)
    }),
    op("OptionalGetElement", 15, |lo, n| {
        let v = first(lo, n)?;
        if matches!(v, Value::Nothing) {
            return Err(Error::invalid_argument("the optional is empty").into());
        }
        lo.set_value(n, 0, v)
    }),
    op("OptionalHasElement", 15, |lo, n| {
        let has = n.has_input(0) && !matches!(first(lo, n)?, Value::Nothing);
        let y = lo.scalar(Scalar::from_i64(DType::Bool, i64::from(has)));
        lo.set(n, 0, y)
    }),
];

fn first(lo: &Lower<'_>, n: &Node) -> LResult<Value> {
    match n.inputs.first() {
        Some(Some(id)) => lo.value(*id),
        _ => Err(Error::invalid_model("input 0 is missing").into()),
    }
}

fn sequence(lo: &Lower<'_>, n: &Node) -> LResult<Vec<View>> {
    match first(lo, n)? {
        Value::Sequence(parts) => Ok(parts),
        _ => Err(Error::invalid_model("a sequence is needed").into()),
    }
}

fn position(lo: &mut Lower<'_>, n: &Node, input: usize, len: usize) -> LResult<usize> {
    let v = lo.input(n, input)?;
    let at = lo.one(&v, "the position")?.to_i64();
    Ok(axis(at, len)
        .map_err(|_| Error::invalid_argument(format!("position {at} is out of range for {len} tensors")))?)
}

fn concat(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let mut parts = sequence(lo, n)?;
    let first = parts.first().ok_or_else(|| Error::invalid_argument("the sequence is empty"))?;
    let stack = n.attrs.flag("new_axis", false)?;
    let at = axis(n.attrs.required_int("axis")?, first.rank() + usize::from(stack))?;
    if stack {
        parts = parts.iter().map(|p| lo.unsqueeze(p, &[at])).collect::<LResult<_>>()?;
    }
    let y = lo.concat(&parts, at)?;
    lo.set(n, 0, y)
}

fn split(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let at = axis(n.attrs.int("axis", 0)?, x.rank())?;
    let len = x.shape()[at];
    let (sizes, keep) = match lo.optional(n, 1)? {
        None => (vec![1; len], n.attrs.flag("keepdims", true)?),
        Some(s) if s.rank() == 0 => {
            let each = usize::try_from(lo.one(&s, "split")?.to_i64()).unwrap_or(0);
            if each == 0 {
                return Err(Error::invalid_argument("a split size should be positive").into());
            }
            ((0..len.div_ceil(each)).map(|i| each.min(len - i * each)).collect(), true)
        }
        Some(s) => {
            let sizes: Vec<usize> =
                lo.ints(&s)?.into_iter().map(|v| usize::try_from(v).unwrap_or(usize::MAX)).collect();
            if sizes.iter().try_fold(0usize, |a, &b| a.checked_add(b)) != Some(len) {
                return Err(
                    Error::invalid_argument(format!("split {sizes:?} does not add up to {len}")).into()
                );
            }
            (sizes, true)
        }
    };
    let mut parts = Vec::new();
    let mut from = 0;
    for size in sizes {
        let part = lo.slice(&x, at, from, size, 1);
        parts.push(if keep { part } else { lo.squeeze(&part, &[at])? });
        from += size;
    }
    lo.set_value(n, 0, Value::Sequence(parts))
}
