//! FlexAttention (preview): attention whose scores and weights pass through graphs.

use streampool_core::Error;
use streampool_core::op::{Binary, DType, Op, Softmax};

use super::Operator;
use super::attention::repeat_heads;
use super::matmul::product;
use crate::ir::{Node, dtype_of};
use crate::lower::{LResult, Lower, Value, View};

pub(super) const OPS: &[Operator] =
    &[Operator { domain: "ai.onnx.preview", name: "FlexAttention", since: 1, lower: flex_attention }];

/// One value through a graph attribute of one input and one output.
fn through(lo: &mut Lower<'_>, n: &Node, name: &str, v: View) -> LResult<View> {
    let Some(graph) = n.attrs.graph(name)?.cloned() else { return Ok(v) };
    let ([input], [output]) = (graph.inputs.as_slice(), graph.outputs.as_slice()) else {
        return Err(
            Error::invalid_model(format!("the graph '{name}' should have one input and one output")).into()
        );
    };
    lo.bind(input.id, Value::Tensor(v.clone()));
    lo.graph(&graph)?;
    let y = lo.tensor(output.id)?;
    lo.cast(&y, v.dtype)
}

fn flex_attention(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (q, k, v) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.input(n, 2)?);
    if [&q, &k, &v].iter().any(|t| t.rank() != 4) {
        return Err(Error::invalid_argument(format!(
            "q {}, k {} and v {} should have rank 4",
            q.ty(),
            k.ty(),
            v.ty()
        ))
        .into());
    }
    let groups = k.shape()[1];
    if groups == 0 || !q.shape()[1].is_multiple_of(groups) {
        return Err(Error::invalid_argument(format!(
            "{} query heads do not share {groups} key heads",
            q.shape()[1]
        ))
        .into());
    }
    let times = q.shape()[1] / groups;
    let (k, v) = (repeat_heads(lo, &k, times)?, repeat_heads(lo, &v, times)?);
    let scale = match n.attrs.float_opt("scale")? {
        Some(&s) => f64::from(s),
        None => 1.0 / (q.shape()[3] as f64).sqrt(),
    };
    let wide = match n.attrs.int("softmax_precision", 0)? {
        0 if q.dtype == DType::F64 => DType::F64,
        0 => DType::F32,
        code => dtype_of(i32::try_from(code).unwrap_or(0))?,
    };
    // As the specification: both factors by the root of the scale, rounded to their dtype.
    let kt = lo.transpose_last(&k)?;
    let (qs, ks) =
        (lo.with_number(Binary::Mul, &q, scale.sqrt())?, lo.with_number(Binary::Mul, &kt, scale.sqrt())?);
    let scores = product(lo, &qs, &ks)?;
    let scores = lo.cast(&scores, wide)?;
    let scores = through(lo, n, "score_mod", scores)?;
    let weights = lo.emit1(Op::Softmax(Softmax { axis: 3, axes: 1, log: false }), &[scores])?;
    let weights = through(lo, n, "prob_mod", weights)?;
    let values = lo.cast(&v, wide)?;
    let y = product(lo, &weights, &values)?;
    let y = lo.cast(&y, v.dtype)?;
    lo.set(n, 0, y)
}
