//! The greatest or least elements of a line, by counting for each how many come before it: all pairs, but no order of work to agree on.

use std::fmt::Write;

use streampool_core::op::{Operand, TopK};

use crate::emit::{Index, THREADS, blocks, element, load, register, storage, store};
use crate::reduce::around;
use crate::{Binding, Kernel};

/// Longer lines than this are not worth comparing all pairs.
const LONGEST: usize = 8192;

pub(crate) fn top_k(op: &TopK, input: &Operand, outputs: &[Operand]) -> Option<Vec<Kernel>> {
    let shape = &input.layout.shape;
    let (_, len, inner) = around(shape, op.axis);
    if len > LONGEST {
        return None;
    }
    let (dtype, n, k) = (input.dtype, shape.len(), op.k);
    let index = Index::new(&[n]);
    let (u, t) = (index.u(), register(dtype));
    let mut text = element(index, n);
    let _ = writeln!(
        text,
        "    const {u} in = i % {inner}u, me = i / {inner}u % {len}u, outer = i / {}u;",
        len * inner
    );
    let _ = writeln!(
        text,
        "    const {u} from = outer * {}u + in;\n    const {t} e = {};\n    {u} rank = 0;",
        len * inner,
        load(dtype, "x", "i")
    );
    // NaN counts as greatest.
    let (before, nan_before) =
        if op.largest { ("o > e", "(o != o && e == e)") } else { ("o < e", "(e != e && o == o)") };
    let _ = writeln!(
        text,
        "    for ({u} k = 0; k < {len}u; k++) {{ const {t} o = {}; const bool tie = o == e || (o != o && e != e); if (({before}) || {nan_before} || (tie && k < me)) rank++; }}",
        load(dtype, "x", &format!("from + k * {inner}u"))
    );
    let _ = writeln!(
        text,
        "    if (rank < {k}u) {{ const {u} to = (outer * {k}u + rank) * {inner}u + in; {} which[to] = (i64)me; }}",
        store(dtype, "y", "to", "e")
    );
    let kernel = Kernel::new(format!("top {k} of {len} by rank"), blocks(n), THREADS)
        .param(Binding::Input(0), "x", storage(dtype))
        .param(Binding::Output(0), "y", storage(outputs[0].dtype))
        .param(Binding::Output(1), "which", "i64");
    Some(vec![kernel.apart().body(text)])
}
