//! QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, QLinearMatMul.

use streampool_core::Error;
use streampool_core::op::{Binary, DType, ReduceKind, Unary};

use super::matmul::product_integer;
use super::{Operator, op, reduce};
use crate::ir::{Node, dtype_of};
use crate::lower::{Expr, LResult, Lower, View, axis};

pub(super) const OPS: &[Operator] = &[
    op("QuantizeLinear", 10, quantize_linear),
    op("DequantizeLinear", 10, dequantize_linear),
    op("DynamicQuantizeLinear", 11, dynamic),
    op("QLinearMatMul", 10, matmul),
];

/// A scale or zero point of one value, or one per index of `axis`, shaped to broadcast over a tensor of `rank`.
pub(super) fn per_axis(lo: &mut Lower<'_>, v: &View, axis: usize, rank: usize) -> LResult<View> {
    if v.rank() != 1 || v.shape()[0] == 1 {
        return if v.shape().len() == 1 { lo.reshape(v, []) } else { Ok(v.clone()) };
    }
    let mut shape = vec![1; rank];
    shape[axis] = v.shape()[0];
    lo.reshape(v, shape)
}

fn limits(dtype: DType) -> LResult<(f64, f64)> {
    match dtype {
        DType::U8 => Ok((0.0, 255.0)),
        DType::I8 => Ok((-128.0, 127.0)),
        other => Err(Error::unsupported(format!(
            "quantisation to {other} is not supported, there are int8 and uint8"
        ))
        .into()),
    }
}

/// `saturate(round(x / scale) + zero)`, halves to even.
pub(super) fn quantize(
    lo: &mut Lower<'_>,
    x: &View,
    scale: &View,
    zero: Option<&View>,
    to: DType,
) -> LResult<View> {
    let (low, high) = limits(to)?;
    let mut e = Expr::new();
    let v = e.input(x);
    let v = e.cast(DType::F32, v);
    let s = e.input(scale);
    let s = e.cast(DType::F32, s);
    let scaled = e.div(v, s);
    let mut y = e.un(Unary::Round, scaled);
    if let Some(zero) = zero {
        let z = e.input(zero);
        let z = e.cast(DType::F32, z);
        y = e.add(y, z);
    }
    let (low, high) = (e.num(y, low), e.num(y, high));
    let y = e.bin(Binary::Max, y, low);
    let y = e.bin(Binary::Min, y, high);
    e.cast(to, y);
    lo.map(e)
}

/// Scale and zero point broadcast over `x`: one, one per index of an axis, or one per block along it.
fn spread(lo: &mut Lower<'_>, n: &Node, x: &View, v: &View) -> LResult<View> {
    let block = n.attrs.int("block_size", 0)?;
    if v.shape().len() == 1 && v.rank() <= 1 {
        return lo.reshape(v, []);
    }
    let at = axis(n.attrs.int("axis", 1)?, x.rank())?;
    if block == 0 {
        return per_axis(lo, v, at, x.rank());
    }
    let block = usize::try_from(block).map_err(|_| Error::invalid_model("block_size is negative"))?;
    if v.rank() != x.rank() || v.shape()[at].saturating_mul(block) < x.shape()[at] {
        return Err(Error::invalid_argument(format!(
            "scale {} does not fit x {} in blocks of {block}",
            v.ty(),
            x.ty()
        ))
        .into());
    }
    let one = lo.unsqueeze(v, &[at + 1])?;
    let mut shape = one.shape().to_vec();
    shape[at + 1] = block;
    let wide = lo.broadcast(&one, &shape.into())?;
    let mut shape = v.shape().to_vec();
    shape[at] *= block;
    let flat = lo.reshape(&wide, shape)?;
    let len = x.shape()[at];
    Ok(lo.slice(&flat, at, 0, len, 1))
}

fn quantize_linear(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, scale, zero) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.optional(n, 2)?);
    let to = match (&zero, n.attrs.int("output_dtype", 0)?) {
        (Some(z), _) => z.dtype,
        (None, 0) => DType::U8,
        (None, code) => dtype_of(i32::try_from(code).unwrap_or(0))?,
    };
    let scale = spread(lo, n, &x, &scale)?;
    let zero = match zero {
        Some(z) => Some(spread(lo, n, &x, &z)?),
        None => None,
    };
    let y = quantize(lo, &x, &scale, zero.as_ref(), to)?;
    lo.set(n, 0, y)
}

/// `(x - zero) * scale` in the scale's dtype.
fn dequantize_linear(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, scale, zero) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.optional(n, 2)?);
    let to = match n.attrs.int("output_dtype", 0)? {
        0 => scale.dtype,
        code => dtype_of(i32::try_from(code).unwrap_or(0))?,
    };
    let scale = spread(lo, n, &x, &scale)?;
    let zero = match zero {
        Some(z) => Some(spread(lo, n, &x, &z)?),
        None => None,
    };
    let mut e = Expr::new();
    let v = e.input(&x);
    let mut v = e.cast(DType::I32, v);
    if let Some(zero) = &zero {
        let z = e.input(zero);
        let z = e.cast(DType::I32, z);
        v = e.sub(v, z);
    }
    let v = e.cast(DType::F32, v);
    let s = e.input(&scale);
    let s = e.cast(DType::F32, s);
    let y = e.mul(v, s);
    e.cast(to, y);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}

fn dynamic(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let axes: Vec<usize> = (0..x.rank()).collect();
    let max = reduce::apply(lo, &x, ReduceKind::Max, axes.clone(), false)?;
    let min = reduce::apply(lo, &x, ReduceKind::Min, axes, false)?;
    // The range always holds zero.
    let mut e = Expr::new();
    let (hi, lo_) = (e.input(&max), e.input(&min));
    let zero = e.num(hi, 0.0);
    let (hi, lo_) = (e.bin(Binary::Max, hi, zero), e.bin(Binary::Min, lo_, zero));
    let range = e.sub(hi, lo_);
    let levels = e.num(range, 255.0);
    e.div(range, levels);
    let scale = lo.map(e)?;
    let mut e = Expr::new();
    let (low, s) = (e.input(&min), e.input(&scale));
    let zero = e.num(low, 0.0);
    let low = e.bin(Binary::Min, low, zero);
    let from = e.sub(zero, low);
    let z = e.div(from, s);
    let z = e.un(Unary::Round, z);
    let (a, b) = (e.num(z, 0.0), e.num(z, 255.0));
    let z = e.bin(Binary::Max, z, a);
    let z = e.bin(Binary::Min, z, b);
    e.cast(DType::U8, z);
    let zero_point = lo.map(e)?;
    let y = quantize(lo, &x, &scale, Some(&zero_point), DType::U8)?;
    lo.set(n, 0, y)?;
    lo.set(n, 1, scale)?;
    lo.set(n, 2, zero_point)
}

fn matmul(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (a, sa, za) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.input(n, 2)?);
    let (b, sb, zb) = (lo.input(n, 3)?, lo.input(n, 4)?, lo.input(n, 5)?);
    let (sy, zy) = (lo.input(n, 6)?, lo.input(n, 7)?);
    let squeeze = |lo: &mut Lower<'_>, v: View| if v.shape().len() == 1 { lo.reshape(&v, []) } else { Ok(v) };
    let (za, zb) = (squeeze(lo, za)?, squeeze(lo, zb)?);
    let sums = product_integer(lo, &a, &b, Some(za), Some(zb))?;
    // Per row of a, per column of b.
    let sa = if sa.rank() == 1 && sa.shape()[0] > 1 { lo.unsqueeze(&sa, &[1])? } else { squeeze(lo, sa)? };
    let sb = squeeze(lo, sb)?;
    let sy = squeeze(lo, sy)?;
    let zy = squeeze(lo, zy)?;
    let mut e = Expr::new();
    let acc = e.input(&sums);
    let acc = e.cast(DType::F32, acc);
    let (x, y) = (e.input(&sa), e.input(&sb));
    let (x, y) = (e.cast(DType::F32, x), e.cast(DType::F32, y));
    let s = e.mul(x, y);
    e.mul(acc, s);
    let real = lo.map(e)?;
    let y = quantize(lo, &real, &sy, Some(&zy), zy.dtype)?;
    lo.set(n, 0, y)
}
