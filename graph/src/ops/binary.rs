//! Arithmetic of two elements: Add, Sub, Mul, Div, Pow, Mod, PRelu.

use streampool_core::Error;
use streampool_core::op::{Binary, DType};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower};

pub(super) const OPS: &[Operator] = &[
    op("Add", 7, |lo, n| binary(lo, n, Binary::Add)),
    op("Sub", 7, |lo, n| binary(lo, n, Binary::Sub)),
    op("Mul", 7, |lo, n| binary(lo, n, Binary::Mul)),
    op("Div", 7, |lo, n| binary(lo, n, Binary::Div)),
    op("Pow", 7, pow),
    op("Mod", 10, modulo),
    op("PRelu", 7, prelu),
];

pub(super) fn binary(lo: &mut Lower<'_>, n: &Node, f: Binary) -> LResult<()> {
    let (a, b) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let y = lo.binary(f, &a, &b)?;
    lo.set(n, 0, y)
}

/// The result has the base's dtype, whatever the exponent's.
fn pow(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (a, b) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let mut e = Expr::new();
    let (x, y) = (e.input(&a), e.input(&b));
    if !a.dtype.is_float() && b.dtype.is_float() {
        let (x, y) = (e.cast(DType::F64, x), e.cast(DType::F64, y));
        let r = e.bin(Binary::Pow, x, y);
        e.cast(a.dtype, r);
    } else {
        let y = e.cast(a.dtype, y);
        e.bin(Binary::Pow, x, y);
    }
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}

fn modulo(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let fmod = n.attrs.flag("fmod", false)?;
    binary(lo, n, if fmod { Binary::Rem } else { Binary::Mod })
}

fn prelu(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, slope) = (lo.input(n, 0)?, lo.input(n, 1)?);
    if x.shape().broadcast(slope.shape()).ok().as_ref() != Some(x.shape()) {
        return Err(Error::invalid_argument(format!(
            "slope {} does not broadcast to {}",
            slope.shape(),
            x.shape()
        ))
        .into());
    }
    let mut e = Expr::new();
    let (a, s) = (e.input(&x), e.input(&slope));
    let zero = e.num(a, 0.0);
    let (scaled, negative) = (e.mul(a, s), e.bin(Binary::Lt, a, zero));
    e.select(negative, scaled, a);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}
