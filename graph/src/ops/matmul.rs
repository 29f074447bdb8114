//! MatMul with NumPy's rules, and MatMulInteger.

use streampool_core::op::{MatMul, MatMulInteger, Op};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[op("MatMul", 1, matmul), op("MatMulInteger", 10, integer)];

fn matmul(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (a, b) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let y = numpy(lo, &a, &b, |lo, a, b| product(lo, &a, &b))?;
    lo.set(n, 0, y)
}

/// A product of matrices. Leading axes of `a` over one matrix `b` are rows of one large product.
pub(super) fn product(lo: &mut Lower<'_>, a: &View, b: &View) -> LResult<View> {
    let (ra, rb) = (a.rank(), b.rank());
    let rows: usize = a.shape()[..ra - 1].iter().product();
    if rb == 2
        && ra > 2
        && a.shape()[ra - 1] == b.shape()[0]
        && a.layout.reshape(&vec![rows, a.shape()[ra - 1]].into()).is_some()
    {
        let flat = lo.reshape(a, vec![rows, a.shape()[ra - 1]])?;
        let y = lo.emit1(Op::MatMul(MatMul::default()), &[flat, b.clone()])?;
        let mut shape = a.shape()[..ra - 1].to_vec();
        shape.push(b.shape()[1]);
        return lo.reshape(&y, shape);
    }
    lo.emit1(Op::MatMul(MatMul::default()), &[a.clone(), b.clone()])
}

/// Vectors become matrices for the product and lose the extra axis after it.
pub(super) fn numpy(
    lo: &mut Lower<'_>,
    a: &View,
    b: &View,
    product: impl FnOnce(&mut Lower<'_>, View, View) -> LResult<View>,
) -> LResult<View> {
    if a.rank() == 0 || b.rank() == 0 {
        return Err(streampool_core::Error::invalid_argument(format!(
            "{} @ {}: a scalar has no product of matrices",
            a.ty(),
            b.ty()
        ))
        .into());
    }
    let left = if a.rank() == 1 { lo.unsqueeze(a, &[0])? } else { a.clone() };
    let right = if b.rank() == 1 { lo.unsqueeze(b, &[1])? } else { b.clone() };
    let y = product(lo, left, right)?;
    let mut shape = y.shape().to_vec();
    if b.rank() == 1 {
        shape.pop();
    }
    if a.rank() == 1 {
        shape.remove(y.rank() - 2);
    }
    lo.reshape(&y, shape)
}

fn integer(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (a, b) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let (za, zb) = (lo.optional(n, 2)?, lo.optional(n, 3)?);
    let y = product_integer(lo, &a, &b, za, zb)?;
    lo.set(n, 0, y)
}

/// The product of i8 or u8 tensors less their zero points, in i32.
pub(super) fn product_integer(
    lo: &mut Lower<'_>,
    a: &View,
    b: &View,
    za: Option<View>,
    zb: Option<View>,
) -> LResult<View> {
    let op = Op::MatMulInteger(MatMulInteger { a_zero: za.is_some(), b_zero: zb.is_some() });
    numpy(lo, a, b, |lo, a, b| {
        let operands: Vec<View> = [Some(a), Some(b), za, zb].into_iter().flatten().collect();
        lo.emit1(op, &operands)
    })
}
