//! Attention (operator set 23 on), RotaryEmbedding.

use streampool_core::Error;
use streampool_core::op::{Attention, Binary, DType, F32, Op, ReduceKind, Softmax, Unary};

use super::matmul::product;
use super::{Operator, op, reduce};
use crate::ir::{Node, dtype_of};
use crate::lower::{Expr, LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[op("Attention", 23, attention), op("RotaryEmbedding", 23, rotary)];

/// (batch, length, heads * size) as (batch, heads, length, size).
pub(super) fn split_heads(lo: &mut Lower<'_>, v: &View, heads: usize) -> LResult<View> {
    let [batch, len, width] = v.shape()[..] else {
        return Err(
            Error::invalid_argument(format!("{} should be (batch, length, heads * size)", v.ty())).into()
        );
    };
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(Error::invalid_argument(format!(
            "{width} columns cannot be divided among {heads} heads"
        ))
        .into());
    }
    let v = lo.reshape(v, vec![batch, len, heads, width / heads])?;
    lo.permute(&v, &[0, 2, 1, 3])
}

/// The inverse of [`split_heads`].
pub(super) fn join_heads(lo: &mut Lower<'_>, v: &View) -> LResult<View> {
    let [batch, heads, len, size] = [0, 1, 2, 3].map(|i| v.shape()[i]);
    let v = lo.permute(v, &[0, 2, 1, 3])?;
    lo.reshape(&v, vec![batch, len, heads * size])
}

/// Each head `times` over, for products that know no groups.
pub(super) fn repeat_heads(lo: &mut Lower<'_>, v: &View, times: usize) -> LResult<View> {
    if times == 1 {
        return Ok(v.clone());
    }
    let [batch, heads, len, size] = [0, 1, 2, 3].map(|i| v.shape()[i]);
    let one = lo.unsqueeze(v, &[2])?;
    let wide = lo.broadcast(&one, &[batch, heads, times, len, size].into())?;
    lo.reshape(&wide, vec![batch, heads * times, len, size])
}

/// The additive mask of a node, and whether a whole row may be masked.
struct Mask {
    bias: Option<View>,
    rows_may_vanish: bool,
}

/// A view that is 0 where `allowed` and `-inf` elsewhere.
fn additive(lo: &mut Lower<'_>, allowed: &View, dtype: DType) -> LResult<View> {
    let (zero, minus) = (lo.number(dtype, 0.0), lo.number(dtype, f64::NEG_INFINITY));
    lo.select(allowed, &zero, &minus)
}

fn mask(lo: &mut Lower<'_>, n: &Node, q: &View, keys: usize, past: Option<usize>) -> LResult<Mask> {
    let dtype = q.dtype;
    let (batch, queries) = (q.shape()[0], q.shape()[2]);
    let mut bias: Option<View> = None;
    let mut rows_may_vanish = false;
    if let Some(m) = lo.optional(n, 3)? {
        rows_may_vanish = true;
        let mut m = if m.dtype == DType::Bool { additive(lo, &m, dtype)? } else { lo.cast(&m, dtype)? };
        let have = m.shape().last().copied().unwrap_or(keys);
        if have < keys && have != 1 {
            let mut shape = m.shape().to_vec();
            shape[m.rank() - 1] = keys - have;
            let hidden =
                lo.filled(streampool_core::op::Scalar::from_f64(dtype, f64::NEG_INFINITY), &shape.into())?;
            m = lo.concat(&[m.clone(), hidden], m.rank() - 1)?;
        }
        bias = Some(m);
    }
    let lengths = lo.optional(n, 6)?;
    let causal = n.attrs.flag("is_causal", false)?;
    let (left, right) = (n.attrs.int("left_window_size", -1)?, n.attrs.int("right_window_size", -1)?);
    let columns: Vec<i64> = (0..keys as i64).collect();
    let columns = lo.ints_constant(&columns, vec![1, keys]);
    let mut allow: Vec<View> = Vec::new();
    if causal || left >= 0 || right >= 0 {
        // Position of each query among the keys; per sample if lengths are given.
        let rows: Vec<i64> = (0..queries as i64).map(|i| i + past.unwrap_or(0) as i64).collect();
        let mut rows = lo.ints_constant(&rows, vec![queries, 1]);
        if let (None, Some(lengths)) = (past, &lengths) {
            rows_may_vanish = true;
            let each = lo.reshape(lengths, vec![batch, 1, 1, 1])?;
            let mut e = Expr::new();
            let (r, l) = (e.input(&rows), e.input(&each));
            let l = e.cast(DType::I64, l);
            let count = e.num(r, queries as f64);
            let shift = e.sub(l, count);
            e.add(r, shift);
            rows = lo.map(e)?;
        }
        let mut compare = |lo: &mut Lower<'_>, f, offset: i64| -> LResult<()> {
            let mut e = Expr::new();
            let (c, r) = (e.input(&columns), e.input(&rows));
            let o = e.num(r, offset as f64);
            let edge = e.add(r, o);
            e.bin(f, c, edge);
            allow.push(lo.map(e)?);
            Ok(())
        };
        if causal {
            compare(lo, Binary::Le, 0)?;
        }
        if left >= 0 {
            compare(lo, Binary::Ge, -left)?;
        }
        if right >= 0 {
            compare(lo, Binary::Le, right)?;
        }
        rows_may_vanish |= left >= 0 || right >= 0;
    }
    if let Some(lengths) = &lengths {
        rows_may_vanish = true;
        let each = lo.reshape(lengths, vec![batch, 1, 1, 1])?;
        let each = lo.cast(&each, DType::I64)?;
        allow.push(lo.binary(Binary::Lt, &columns, &each)?);
    }
    for a in allow {
        let a = additive(lo, &a, dtype)?;
        bias = Some(match bias {
            Some(b) => lo.binary(Binary::Add, &b, &a)?,
            None => a,
        });
    }
    Ok(Mask { bias, rows_may_vanish })
}

fn heads(n: &Node, name: &str) -> LResult<usize> {
    Ok(usize::try_from(n.attrs.required_int(name)?)
        .map_err(|_| Error::invalid_model(format!("{name} is negative")))?)
}

fn attention(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (mut q, mut k, mut v) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.input(n, 2)?);
    let flat = q.rank() == 3;
    if flat {
        let (hq, hk) = (heads(n, "q_num_heads")?, heads(n, "kv_num_heads")?);
        q = split_heads(lo, &q, hq)?;
        k = split_heads(lo, &k, hk)?;
        v = split_heads(lo, &v, hk)?;
    }
    if [&q, &k, &v].iter().any(|t| t.rank() != 4) {
        return Err(Error::invalid_argument(format!(
            "q {}, k {} and v {} should all have rank 3 or 4",
            q.ty(),
            k.ty(),
            v.ty()
        ))
        .into());
    }
    let mut past = None;
    if let (Some(pk), Some(pv)) = (lo.optional(n, 4)?, lo.optional(n, 5)?) {
        past = pk.shape().get(2).copied();
        k = lo.concat(&[pk, k], 2)?;
        v = lo.concat(&[pv, v], 2)?;
    }
    lo.set(n, 1, k.clone())?;
    lo.set(n, 2, v.clone())?;
    let scale = match n.attrs.float_opt("scale")? {
        Some(&s) => s,
        None => 1.0 / (q.shape()[3] as f32).sqrt(),
    };
    let keys = k.shape()[2];
    let mask = mask(lo, n, &q, keys, past)?;
    let softcap = n.attrs.float("softcap", 0.0)?;
    let precision = n.attrs.int("softmax_precision", 0)?;
    let wants_scores = n.has_output(3);
    let mut y = if softcap == 0.0 && !wants_scores && precision == 0 && q.dtype != DType::F64 {
        let op = Attention {
            scale: F32::new(scale),
            causal: false,
            mask: mask.bias.is_some(),
            merge_heads: false,
        };
        let mut operands = vec![unit_last(lo, &q)?, unit_last(lo, &k)?, unit_last(lo, &v)?];
        operands.extend(mask.bias.clone());
        let y = lo.emit1(Op::Attention(op), &operands)?;
        zero_hidden_rows(lo, y, &mask)?
    } else {
        composed(lo, n, &q, &k, &v, &mask, scale, softcap, precision)?
    };
    if flat {
        y = join_heads(lo, &y)?;
    }
    lo.set(n, 0, y)
}

/// The view, or a copy whose last axis has stride 1.
fn unit_last(lo: &mut Lower<'_>, v: &View) -> LResult<View> {
    if v.layout.strides.last() == Some(&1) || v.shape().last() == Some(&1) {
        Ok(v.clone())
    } else {
        lo.contiguous(v)
    }
}

/// Rows that see no key at all are zero.
fn zero_hidden_rows(lo: &mut Lower<'_>, y: View, mask: &Mask) -> LResult<View> {
    let (Some(bias), true) = (&mask.bias, mask.rows_may_vanish) else { return Ok(y) };
    if bias.rank() == 0 {
        return Ok(y);
    }
    let most = reduce::apply(lo, bias, ReduceKind::Max, vec![bias.rank() - 1], true)?;
    let mut e = Expr::new();
    let (m, v) = (e.input(&most), e.input(&y));
    let hidden = e.un(Unary::IsNegInf, m);
    let zero = e.num(v, 0.0);
    e.select(hidden, zero, v);
    lo.map(e)
}

#[allow(clippy::too_many_arguments)]
fn composed(
    lo: &mut Lower<'_>,
    n: &Node,
    q: &View,
    k: &View,
    v: &View,
    mask: &Mask,
    scale: f32,
    softcap: f32,
    precision: i64,
) -> LResult<View> {
    let groups = k.shape()[1];
    if groups == 0 || !q.shape()[1].is_multiple_of(groups) {
        return Err(Error::invalid_argument(format!(
            "{} query heads do not share {groups} key heads",
            q.shape()[1]
        ))
        .into());
    }
    let times = q.shape()[1] / groups;
    let (k, v) = (repeat_heads(lo, k, times)?, repeat_heads(lo, v, times)?);
    let kt = lo.transpose_last(&k)?;
    // As the specification: both factors by the root of the scale.
    let root = f64::from(scale).sqrt();
    let (qs, ks) = (lo.with_number(Binary::Mul, q, root)?, lo.with_number(Binary::Mul, &kt, root)?);
    let raw = product(lo, &qs, &ks)?;
    let capped = if softcap > 0.0 {
        lo.map1(&raw, |e, x| {
            let c = e.num(x, f64::from(softcap));
            let d = e.div(x, c);
            let t = e.un(Unary::Tanh, d);
            e.mul(t, c);
        })?
    } else {
        raw.clone()
    };
    let biased = match &mask.bias {
        Some(b) => lo.binary(Binary::Add, &capped, b)?,
        None => capped.clone(),
    };
    let mode = n.attrs.int("qk_matmul_output_mode", 0)?;
    let wide = if precision == 0 { q.dtype } else { dtype_of(i32::try_from(precision).unwrap_or(0))? };
    let x = lo.cast(&biased, wide)?;
    let p = lo.emit1(Op::Softmax(Softmax { axis: 3, axes: 1, log: false }), &[x])?;
    let p = zero_hidden_rows(lo, p, mask)?;
    let p = lo.cast(&p, q.dtype)?;
    let shown = match mode {
        0 if n.version < 24 => raw,
        0 | 1 => capped,
        2 => biased,
        _ => p.clone(),
    };
    lo.set(n, 3, shown)?;
    product(lo, &p, &v)
}

/// Rotates pairs of columns by angles that depend on the position.
fn rotary(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, cos, sin) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.input(n, 2)?);
    let flat = x.rank() == 3;
    // Work on (batch, length, heads, size).
    let v = if flat {
        let count = heads(n, "num_heads")?;
        let h = split_heads(lo, &x, count)?;
        lo.permute(&h, &[0, 2, 1, 3])?
    } else if x.rank() == 4 {
        lo.permute(&x, &[0, 2, 1, 3])?
    } else {
        return Err(Error::invalid_argument(format!("x {} should have rank 3 or 4", x.ty())).into());
    };
    let size = v.shape()[3];
    let turned = match usize::try_from(n.attrs.int("rotary_embedding_dim", 0)?).unwrap_or(0) {
        0 => size,
        d if d <= size && d % 2 == 0 => d,
        d => {
            return Err(Error::invalid_model(format!(
                "rotary_embedding_dim {d} does not fit a head of {size}"
            ))
            .into());
        }
    };
    let half = turned / 2;
    let (batch, len) = (v.shape()[0], v.shape()[1]);
    let table = |lo: &mut Lower<'_>, t: View| -> LResult<View> {
        let t = match lo.optional(n, 3)? {
            Some(ids) => lo.emit1(Op::Gather(streampool_core::op::Gather { axis: 0 }), &[t, ids])?,
            None => t,
        };
        let t = if t.rank() == 2 { lo.unsqueeze(&t, &[0])? } else { t };
        if t.rank() != 3
            || t.shape()[2] < half
            || t.shape()[1] < len
            || (t.shape()[0] != batch && t.shape()[0] != 1)
        {
            return Err(
                Error::invalid_argument(format!("the cache {} does not fit x {}", t.ty(), x.ty())).into()
            );
        }
        let t = lo.slice(&t, 2, 0, half, 1);
        lo.unsqueeze(&t, &[2])
    };
    let (cos, sin) = (table(lo, cos)?, table(lo, sin)?);
    let interleaved = n.attrs.flag("interleaved", false)?;
    let head = lo.slice(&v, 3, 0, turned, 1);
    let tail = lo.slice(&v, 3, turned, size - turned, 1);
    let (a, b) = if interleaved {
        (lo.slice(&head, 3, 0, half, 2), lo.slice(&head, 3, 1, half, 2))
    } else {
        (lo.slice(&head, 3, 0, half, 1), lo.slice(&head, 3, half, half, 1))
    };
    let mix = |lo: &mut Lower<'_>, f: Binary, c: &View, s: &View| {
        let mut e = Expr::new();
        let (a, b, c, s) = (e.input(&a), e.input(&b), e.input(c), e.input(s));
        let (x, y) = (e.mul(a, c), e.mul(b, s));
        e.bin(f, x, y);
        lo.map(e)
    };
    let (real, imaginary) = (mix(lo, Binary::Sub, &cos, &sin)?, mix(lo, Binary::Add, &sin, &cos)?);
    let turned_view = if interleaved {
        let (r, i) = (lo.unsqueeze(&real, &[4])?, lo.unsqueeze(&imaginary, &[4])?);
        let pairs = lo.concat(&[r, i], 4)?;
        let mut shape = real.shape().to_vec();
        shape[3] = turned;
        lo.reshape(&pairs, shape)?
    } else {
        lo.concat(&[real, imaginary], 3)?
    };
    let y = if turned < size { lo.concat(&[turned_view, tail], 3)? } else { turned_view };
    let y = if flat { lo.reshape(&y, x.shape().clone())? } else { lo.permute(&y, &[0, 2, 1, 3])? };
    lo.set(n, 0, y)
}
