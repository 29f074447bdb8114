//! Reading and writing by index. Negative indices count from the end; one out of range is noted in the status word and touches nothing.

use std::fmt::Write;

use streampool_core::op::{Gather, GatherElements, GatherNd, OnScatter, Operand, ScatterElements, ScatterNd};

use crate::emit::{Index, THREADS, blocks, dense, element, load, raw, register, storage, store};
use crate::movement;
use crate::reduce::around;
use crate::{Binding, Kernel};

/// Statements that make `at` (i64) from the index `q`: wrapped once, or `otherwise` if it is out of range.
pub(crate) fn checked(len: usize, otherwise: &str) -> String {
    format!(
        "    i64 at = q < 0 ? q + {len}ll : q;\n    if (at < 0 || at >= {len}ll) {{ fail(status, q); {otherwise} }}\n"
    )
}

pub(crate) fn gather(op: &Gather, inputs: &[Operand], output: &Operand) -> Vec<Kernel> {
    let (data, indices) = (&inputs[0], &inputs[1]);
    let (outer, len, inner) = around(&data.layout.shape, op.axis);
    let taken = indices.layout.shape.len();
    let n = output.layout.shape.len();
    let index = Index::new(&[n, data.layout.shape.len()]);
    let u = index.u();
    let mut text = element(index, n);
    let _ = writeln!(
        text,
        "    const {u} in = i % {inner}u, which = i / {inner}u % {taken}u, outer = i / {}u;",
        taken * inner
    );
    text.push_str("    const i64 q = (i64)indices[which];\n");
    text.push_str(&checked(len, "return;"));
    let _ = writeln!(text, "    y[i] = x[outer * {}u + ({u})at * {inner}u + in];", len * inner);
    let _ = outer;
    vec![gathering("gather", n, data, indices).body(text)]
}

fn gathering(what: &str, n: usize, data: &Operand, indices: &Operand) -> Kernel {
    Kernel::new(what, blocks(n), THREADS)
        .param(Binding::Input(0), "x", raw(data.dtype))
        .param(Binding::Input(1), "indices", storage(indices.dtype))
        .param(Binding::Output(0), "y", raw(data.dtype))
        .param(Binding::Status, "status", "u64")
        .apart()
}

pub(crate) fn gather_elements(op: &GatherElements, inputs: &[Operand], output: &Operand) -> Vec<Kernel> {
    let (data, indices) = (&inputs[0], &inputs[1]);
    let n = output.layout.shape.len();
    let index = Index::new(&[n, data.layout.shape.len()]);
    let mut text = element(index, n);
    text.push_str(&index.split("i", &output.layout.shape, "c"));
    text.push_str("    const i64 q = (i64)indices[i];\n");
    text.push_str(&checked(data.layout.shape[op.axis], "return;"));
    let mut strides = dense(&data.layout.shape);
    let along = std::mem::replace(&mut strides[op.axis], 0);
    let _ = writeln!(text, "    y[i] = x[{} + at * {along}];", index.offset("c", &strides));
    vec![gathering("gather elements", n, data, indices).body(text)]
}

pub(crate) fn gather_nd(op: &GatherNd, inputs: &[Operand], output: &Operand) -> Vec<Kernel> {
    let (data, indices) = (&inputs[0], &inputs[1]);
    let (shape, tuples) = (&data.layout.shape, &indices.layout.shape);
    let tuple = tuples[tuples.rank() - 1];
    let n = output.layout.shape.len();
    let index = Index::new(&[n, shape.len()]);
    let strides = dense(shape);
    let slice: usize = shape[op.batch_dims + tuple..].iter().product();
    // Tuples that belong to one element of the shared leading axes.
    let per_batch: usize = tuples[op.batch_dims..tuples.rank() - 1].iter().product();
    let batch_size: usize = shape[op.batch_dims..].iter().product();
    let u = index.u();
    let mut text = element(index, n);
    let _ = writeln!(
        text,
        "    const {u} which = i / {slice}u;\n    i64 from = (i64)(which / {per_batch}u) * {batch_size}ll + (i64)(i % {slice}u);"
    );
    for k in 0..tuple {
        let _ = writeln!(text, "    {{ const i64 q = (i64)indices[which * {tuple}u + {k}u];");
        text.push_str(&checked(shape[op.batch_dims + k], "return;"));
        let _ = writeln!(text, "    from += at * {}ll; }}", strides[op.batch_dims + k]);
    }
    text.push_str("    y[i] = x[from];\n");
    vec![gathering("gather n-d", n, data, indices).body(text)]
}

/// How an update `e` meets what is there.
fn combined(reduction: OnScatter) -> Option<&'static str> {
    match reduction {
        OnScatter::Replace => None,
        OnScatter::Add => Some("f_add"),
        OnScatter::Mul => Some("f_mul"),
        OnScatter::Min => Some("f_min"),
        OnScatter::Max => Some("f_max"),
    }
}

fn scattering(what: String, n: usize, data: &Operand, indices: &Operand) -> Kernel {
    Kernel::new(what, blocks(n), THREADS)
        .param(Binding::Input(1), "indices", storage(indices.dtype))
        .param(Binding::Input(2), "updates", storage(data.dtype))
        .param(Binding::Output(0), "y", storage(data.dtype))
        .param(Binding::Status, "status", "u64")
}

fn update(text: &mut String, data: &Operand, reduction: OnScatter, to: &str, from: &str) {
    let (dtype, t) = (data.dtype, register(data.dtype));
    let e = load(dtype, "updates", from);
    let value = match combined(reduction) {
        None => e,
        Some(f) => format!("{f}({}, {e})", load(dtype, "y", to)),
    };
    let _ = writeln!(text, "    {{ const {t} v = {value}; {} }}", store(dtype, "y", to, "v"));
}

/// The data first, unless the step works in place.
fn base(inputs: &[Operand], output: &Operand) -> Vec<Kernel> {
    if inputs[0].place == output.place && inputs[0].layout.offset == output.layout.offset {
        return Vec::new();
    }
    movement::copy(&inputs[0], output)
}

pub(crate) fn scatter_elements(op: &ScatterElements, inputs: &[Operand], output: &Operand) -> Vec<Kernel> {
    let (data, indices) = (&inputs[0], &inputs[1]);
    let mut kernels = base(inputs, output);
    let shape = &indices.layout.shape;
    if shape.is_empty() {
        return kernels;
    }
    // A thread a line: lines along the axis never meet, and within one the order of updates is kept.
    let (_, len, inner) = around(shape, op.axis);
    let mut lines = shape.to_vec();
    lines[op.axis] = 1;
    let n: usize = lines.iter().product();
    let index = Index::new(&[shape.len(), data.layout.shape.len()]);
    let mut text = element(index, n);
    text.push_str(&index.split("i", &lines, "c"));
    let mut strides = dense(&data.layout.shape);
    let along = std::mem::replace(&mut strides[op.axis], 0);
    let _ = writeln!(text, "    const i64 line = {};", index.offset("c", &strides));
    let _ = writeln!(
        text,
        "    const i64 first = {};",
        index.offset("c", &{
            let mut s = dense(shape);
            s[op.axis] = 0;
            s
        })
    );
    let _ = writeln!(
        text,
        "    for (i64 k = 0; k < {len}ll; k++) {{ const i64 from = first + k * {inner}ll; const i64 q = (i64)indices[from];"
    );
    text.push_str(&checked(data.layout.shape[op.axis], "continue;"));
    let _ = writeln!(text, "    const i64 to = line + at * {along}ll;");
    update(&mut text, data, op.reduction, "to", "from");
    text.push_str("    }\n");
    kernels.push(scattering(format!("scatter elements, {len} a thread"), n, data, indices).body(text));
    kernels
}

pub(crate) fn scatter_nd(op: &ScatterNd, inputs: &[Operand], output: &Operand) -> Vec<Kernel> {
    let (data, indices) = (&inputs[0], &inputs[1]);
    let mut kernels = base(inputs, output);
    let (shape, tuples) = (&data.layout.shape, &indices.layout.shape);
    let tuple = tuples[tuples.rank() - 1];
    let count: usize = tuples[..tuples.rank() - 1].iter().product();
    let slice: usize = shape[tuple..].iter().product();
    if count == 0 || slice == 0 {
        return kernels;
    }
    // A thread an element of the slice, which takes the tuples in order: the last update wins.
    let strides = dense(shape);
    let index = Index::new(&[shape.len(), count * slice]);
    let mut text = element(index, slice);
    let _ = writeln!(text, "    for (i64 k = 0; k < {count}ll; k++) {{ i64 to = (i64)i; bool good = true;");
    for j in 0..tuple {
        let _ = writeln!(text, "    {{ const i64 q = (i64)indices[k * {tuple}ll + {j}];");
        text.push_str(&checked(shape[j], "good = false;"));
        let _ = writeln!(text, "    to += at * {}ll; }}", strides[j]);
    }
    text.push_str("    if (!good) continue;\n");
    update(&mut text, data, op.reduction, "to", &format!("k * {slice}ll + (i64)i"));
    text.push_str("    }\n");
    kernels.push(scattering(format!("scatter n-d, {count} a thread"), slice, data, indices).body(text));
    kernels
}
