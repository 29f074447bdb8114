//! ONNX's operators, one file for each or for a small family. Each file lists its own in `OPS`; [`find`] is the only look-up.

mod activation;
mod affine_grid;
mod arg;
mod attention;
mod batch_norm;
mod binary;
mod bits;
mod cast;
mod causal_conv;
mod center_crop;
mod clip;
mod col2im;
mod compare;
mod compress;
mod concat;
mod constant;
mod control;
mod conv;
mod conv_integer;
mod conv_transpose;
mod cumulative;
mod depth_space;
mod dft;
mod dropout;
mod einsum;
mod expand;
mod eye;
mod flex_attention;
mod gather;
mod gemm;
mod grid_sample;
mod identity;
mod instance_norm;
mod layer_norm;
mod linalg;
mod linear_attention;
mod logic;
mod loss;
mod lrn;
mod matmul;
mod nms;
mod one_hot;
mod pad;
mod pool;
mod quantize;
mod random;
mod range;
mod recurrent;
mod reduce;
mod reshape;
mod resize;
mod scatter;
mod sequence;
mod shape;
mod slice;
mod softmax;
mod spatial;
mod split;
mod squeeze;
mod tensor_scatter;
mod tile;
mod topk;
mod transpose;
mod trilu;
mod unary;
mod unique;
mod variadic;
mod where_op;
mod window_functions;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::ir::Node;
use crate::lower::{LResult, Lower};

/// The newest operator set of ONNX's own domain that is known here.
pub(crate) const NEWEST_OPSET: i64 = 28;

/// Lowers one node: reads its inputs and attributes, emits primitive operations, sets its outputs.
pub(crate) type Handler = fn(&mut Lower<'_>, &Node) -> LResult<()>;

/// An operator from one version of its operator set on, until the next entry of its name.
#[derive(Debug)]
pub(crate) struct Operator {
    domain: &'static str,
    name: &'static str,
    since: i64,
    lower: Handler,
}

/// An operator of ONNX's own domain.
const fn op(name: &'static str, since: i64, lower: Handler) -> Operator {
    Operator { domain: "", name, since, lower }
}

const FAMILIES: &[&[Operator]] = &[
    activation::OPS,
    affine_grid::OPS,
    arg::OPS,
    attention::OPS,
    batch_norm::OPS,
    binary::OPS,
    bits::OPS,
    cast::OPS,
    causal_conv::OPS,
    center_crop::OPS,
    clip::OPS,
    col2im::OPS,
    compare::OPS,
    compress::OPS,
    concat::OPS,
    constant::OPS,
    control::OPS,
    conv::OPS,
    conv_integer::OPS,
    conv_transpose::OPS,
    cumulative::OPS,
    depth_space::OPS,
    dft::OPS,
    dropout::OPS,
    einsum::OPS,
    expand::OPS,
    eye::OPS,
    flex_attention::OPS,
    gather::OPS,
    gemm::OPS,
    grid_sample::OPS,
    identity::OPS,
    instance_norm::OPS,
    layer_norm::OPS,
    linalg::OPS,
    linear_attention::OPS,
    logic::OPS,
    loss::OPS,
    lrn::OPS,
    matmul::OPS,
    nms::OPS,
    one_hot::OPS,
    pad::OPS,
    pool::OPS,
    quantize::OPS,
    random::OPS,
    range::OPS,
    recurrent::OPS,
    reduce::OPS,
    reshape::OPS,
    resize::OPS,
    scatter::OPS,
    sequence::OPS,
    shape::OPS,
    slice::OPS,
    softmax::OPS,
    split::OPS,
    squeeze::OPS,
    tensor_scatter::OPS,
    tile::OPS,
    topk::OPS,
    transpose::OPS,
    trilu::OPS,
    unary::OPS,
    unique::OPS,
    variadic::OPS,
    where_op::OPS,
    window_functions::OPS,
];

type Table = HashMap<(&'static str, &'static str), Vec<&'static Operator>>;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table::new();
    for operator in FAMILIES.iter().copied().flatten() {
        table.entry((operator.domain, operator.name)).or_default().push(operator);
    }
    for versions in table.values_mut() {
        versions.sort_by_key(|o| o.since);
    }
    table
});

/// How to lower an operator in a version of its operator set, if it is known.
pub(crate) fn find(domain: &str, name: &str, version: i64) -> Option<Handler> {
    let versions = TABLE.get(&(domain, name))?;
    versions.iter().rev().find(|o| o.since <= version).map(|o| o.lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_operator_is_registered_twice_for_one_version() {
        for ((_, name), versions) in TABLE.iter() {
            assert!(versions.windows(2).all(|w| w[0].since < w[1].since), "{name}");
        }
    }

    #[test]
    fn the_version_in_force_is_the_newest_not_above_the_asked_one() {
        assert!(find("", "Squeeze", 12).is_some());
        assert!(find("", "NoSuchThing", 20).is_none());
        assert!(find("com.example", "Add", 20).is_none());
    }
}
