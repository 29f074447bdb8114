//! Constant, ConstantOfShape.

use streampool_core::Error;
use streampool_core::op::{DType, Scalar, Shape};

use super::{Operator, op};
use crate::ir::{Attr, Node};
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("Constant", 1, constant), op("ConstantOfShape", 9, of_shape)];

fn constant(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let y = match n.attrs.0.first() {
        Some((_, Attr::Tensor(t))) => lo.constant(t.clone(), true),
        Some((_, Attr::Float(f))) => lo.number(DType::F32, f64::from(*f)),
        Some((_, Attr::Int(i))) => lo.scalar(Scalar::from_i64(DType::I64, *i)),
        Some((_, Attr::Ints(v))) => lo.ints_constant(v, vec![v.len()]),
        Some((_, Attr::Floats(v))) => {
            let v: Vec<f64> = v.iter().map(|&f| f64::from(f)).collect();
            lo.floats_constant(DType::F32, &v, vec![v.len()])
        }
        Some((name, other)) => {
            return Err(Error::unsupported(format!(
                "a constant given by {name} ({other:?}) is not supported"
            ))
            .into());
        }
        None => return Err(Error::invalid_model("Constant without a value").into()),
    };
    lo.set(n, 0, y)
}

/// Sizes given as a tensor of integers.
pub(super) fn shape_from(list: &[i64]) -> LResult<Shape> {
    let shape: Shape = list
        .iter()
        .map(|&d| {
            usize::try_from(d)
                .map_err(|_| Error::invalid_argument(format!("shape {list:?} has the negative {d}")))
        })
        .collect::<Result<_, _>>()?;
    shape.checked_len()?;
    Ok(shape)
}

fn of_shape(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let dims = lo.input(n, 0)?;
    let shape = shape_from(&lo.ints(&dims)?)?;
    let value = match n.attrs.tensor("value")? {
        Some(t) => {
            let v = lo.constant(t.clone(), true);
            lo.one(&v, "value")?
        }
        None => Scalar::from_f64(DType::F32, 0.0),
    };
    let y = lo.filled(value, &shape)?;
    lo.set(n, 0, y)
}
