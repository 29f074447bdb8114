//! Layer norm of an elementwise expression, with the gathers of its operands, in one kernel: what a transformer does to tokens first.
//!
//! A block has a row, as in a layer norm of its own ([`crate::normalize`]); what would be read is computed instead, and rounded as it would have been
//! stored.

use std::fmt::Write;

use streampool_core::op::{DType, Gather, Instr, LayerNorm, Map, Operand};

use crate::emit::{Index, broadcast, collapse, load, register, storage};
use crate::index::checked;
use crate::map::expression;
use crate::normalize::{Computed, layer_norm_of};
use crate::reduce::around;
use crate::{Binding, Kernel};

/// An operand of the expression.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// In memory, broadcast to the expression's shape.
    Stored(&'a Operand),
    /// What a gather of data by indices gives, which has the expression's shape and need not exist.
    Gathered(&'a Gather, [&'a Operand; 2]),
}

impl<'a> Value<'a> {
    /// What is read.
    pub fn operands(&self) -> impl Iterator<Item = &'a Operand> + use<'a> {
        let (one, two) = match *self {
            Self::Stored(o) => (Some(o), None),
            Self::Gathered(_, [data, indices]) => (Some(data), Some(indices)),
        };
        one.into_iter().chain(two)
    }
}

/// The kernel of the layer norm `op` of the expression `map` of `values`, if there is one for their shapes. `inputs` are the norm's operands; the first
/// is the expression's result, which need not exist.
///
/// Bindings are the operands of all values in order, then `inputs` from the second on; the one output is the norm's. The output may be the very memory
/// of a stored value of its shape; it must not overlap any other input.
pub fn embedded(op: &LayerNorm, inputs: &[Operand], map: &Map, values: &[Value<'_>]) -> Option<Kernel> {
    let result = &inputs[0];
    let (shape, dtype) = (&result.layout.shape, result.dtype);
    if op.residual || !matches!(dtype, DType::F16 | DType::BF16 | DType::F32) || shape.is_empty() {
        return None;
    }
    let types: Vec<DType> = values.iter().filter_map(|v| v.operands().next()).map(|o| o.dtype).collect();
    let registers = map.check(&types).ok().filter(|r| r.last() == Some(&dtype))?;
    let whole = |v: &Value<'_>| match v {
        Value::Stored(_) => true,
        Value::Gathered(op, [data, indices]) => {
            let (outer, len, inner) = around(&data.layout.shape, op.axis);
            let dense = data.layout.is_contiguous() && indices.layout.is_contiguous();
            dense && len > 0 && outer * indices.layout.shape.len() * inner == shape.len()
        }
    };
    if !values.iter().all(whole) {
        return None;
    }
    // Of the stored values: where element `i` of the result is.
    let stored: Vec<Vec<isize>> = values
        .iter()
        .filter_map(|v| match v {
            Value::Stored(o) => Some(broadcast(&o.layout, shape)),
            Value::Gathered(..) => None,
        })
        .collect();
    let (dims, strides) = collapse(shape, &stored);
    let all: Vec<&Operand> = values.iter().flat_map(Value::operands).chain([result]).collect();
    let index = Index::of(&all.iter().map(|o| &o.layout).collect::<Vec<_>>());
    let u = index.u();
    let used = |n: usize| map.code.contains(&Instr::Input(n as u8));
    let mut text = format!("    const {u} i = from + k;\n{}", index.split("i", &dims, "c"));
    let (mut params, mut binding, mut strides, mut gathers) = (Vec::new(), 0, strides.iter(), 0);
    for (n, value) in values.iter().enumerate() {
        let ctype = register(types[n]);
        match value {
            Value::Stored(o) => {
                let at = index.offset("c", strides.next()?);
                if used(n) {
                    params.push((Binding::Input(binding), format!("p{n}"), storage(o.dtype)));
                    let value = load(o.dtype, &format!("p{n}"), &at);
                    let _ = writeln!(text, "    {ctype} x{n}[1]; x{n}[0] = {value};");
                }
                binding += 1;
            }
            Value::Gathered(op, [data, indices]) => {
                let (_, len, inner) = around(&data.layout.shape, op.axis);
                let taken = indices.layout.shape.len();
                params.push((Binding::Input(binding), format!("p{n}"), storage(data.dtype)));
                params.push((Binding::Input(binding + 1), format!("q{n}"), storage(indices.dtype)));
                let value = load(
                    data.dtype,
                    &format!("p{n}"),
                    &format!("outer * {}u + ({u})at * {inner}u + in", len * inner),
                );
                let _ = writeln!(
                    text,
                    "    {ctype} x{n}[1]; {{ const {u} in = i % {inner}u, which = i / {inner}u % {taken}u, outer = i / {}u; const i64 q = (i64)q{n}[which];\n{}    x{n}[0] = {value}; }}",
                    taken * inner,
                    // The block's threads meet later: none may leave.
                    checked(len, "at = 0;")
                );
                binding += 2;
                gathers += 1;
            }
        }
    }
    text.push_str("    { const int k = 0; (void)k;\n");
    for (i, instr) in map.code.iter().enumerate() {
        let _ =
            writeln!(text, "    const {} v{i} = {};", register(registers[i]), expression(instr, &registers));
    }
    // What is normalised is what would have been stored.
    let last = format!("v{}", map.code.len() - 1);
    let rounded = if dtype == DType::F32 { last } else { format!("as_{}({last})", storage(dtype)) };
    let _ = write!(text, "    e = {rounded}; }}");
    let mut what = format!(", of an expression of {} instructions", map.code.len());
    if gathers > 0 {
        params.push((Binding::Status, "status".to_owned(), "u64"));
        let _ = write!(what, " and {gathers} gathers");
    }
    layer_norm_of(op, inputs, Computed { statements: text, params, bindings: binding, what })
}
