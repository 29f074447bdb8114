//! Random tensors. Without a `seed` the node's name is one: a model's runs can be repeated.

use std::hash::{DefaultHasher, Hash, Hasher};

use streampool_core::op::{Binary, DType, Distribution, F32, Op, Random, Shape};

use super::constant::shape_from;
use super::{Operator, op};
use crate::ir::{Node, dtype_of};
use crate::lower::{Expr, LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[
    op("RandomNormal", 1, |lo, n| by_attribute(lo, n, normal(n)?)),
    op("RandomUniform", 1, |lo, n| by_attribute(lo, n, uniform(n)?)),
    op("RandomNormalLike", 1, |lo, n| like(lo, n, normal(n)?)),
    op("RandomUniformLike", 1, |lo, n| like(lo, n, uniform(n)?)),
    op("Bernoulli", 15, bernoulli),
];

fn normal(n: &Node) -> LResult<Distribution> {
    Ok(Distribution::Normal {
        mean: F32::new(n.attrs.float("mean", 0.0)?),
        std: F32::new(n.attrs.float("scale", 1.0)?),
    })
}

fn uniform(n: &Node) -> LResult<Distribution> {
    Ok(Distribution::Uniform {
        low: F32::new(n.attrs.float("low", 0.0)?),
        high: F32::new(n.attrs.float("high", 1.0)?),
    })
}

fn dtype(n: &Node, default: DType) -> LResult<DType> {
    Ok(match n.attrs.int_opt("dtype")? {
        Some(&code) => dtype_of(i32::try_from(code).unwrap_or(0))?,
        None => default,
    })
}

fn emit(
    lo: &mut Lower<'_>,
    n: &Node,
    distribution: Distribution,
    dtype: DType,
    shape: Shape,
) -> LResult<View> {
    let seed = match n.attrs.float_opt("seed")? {
        Some(s) => i64::from(s.to_bits()),
        None => {
            let mut hasher = DefaultHasher::new();
            n.name.hash(&mut hasher);
            hasher.finish() as i64
        }
    };
    let key = lo.ints_constant(&[seed, 0], [2]);
    lo.emit1(Op::Random(Random { distribution, dtype, shape }), &[key])
}

fn by_attribute(lo: &mut Lower<'_>, n: &Node, d: Distribution) -> LResult<()> {
    let shape = shape_from(n.attrs.ints("shape")?.unwrap_or(&[]))?;
    let y = emit(lo, n, d, dtype(n, DType::F32)?, shape)?;
    lo.set(n, 0, y)
}

fn like(lo: &mut Lower<'_>, n: &Node, d: Distribution) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let y = emit(lo, n, d, dtype(n, x.dtype)?, x.shape().clone())?;
    lo.set(n, 0, y)
}

/// One with the probability that the input says.
fn bernoulli(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let d = Distribution::Uniform { low: F32::new(0.0), high: F32::new(1.0) };
    let r = emit(lo, n, d, x.dtype, x.shape().clone())?;
    let mut e = Expr::new();
    let (r, p) = (e.input(&r), e.input(&x));
    let hit = e.bin(Binary::Lt, r, p);
    e.cast(dtype(n, x.dtype)?, hit);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}
