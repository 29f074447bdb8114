//! Softmax and normalisation: a block a row, the row in registers where it fits.

use std::fmt::Write;

use streampool_core::op::{LayerNorm, Operand, Softmax};

use crate::emit::{
    Index, THREADS, all_reduce, blocks, broadcast, collapse, element, float, load, register, storage, store,
    team,
};
use crate::{Binding, Kernel};

/// Elements of a row that a thread keeps in registers.
const KEPT: usize = 16;

fn add(a: &str, b: &str) -> String {
    format!("({a} + {b})")
}

fn max(a: &str, b: &str) -> String {
    format!("f_max({a}, {b})")
}

/// How the threads of a block go over a row: each takes every `threads`-th element and keeps them in registers where they fit.
struct Walk<'a> {
    row: usize,
    threads: u32,
    /// Types of an index and of an element in a register.
    types: (&'a str, &'a str),
    /// Element `k` of the row.
    element: &'a str,
    /// Stands in the registers beyond the row's end.
    beyond: &'a str,
}

impl Walk<'_> {
    /// Registers of a thread; `None` if the row does not fit.
    fn kept(&self) -> Option<usize> {
        Some(self.row.div_ceil(self.threads as usize)).filter(|&each| each <= KEPT)
    }

    fn declare(&self, text: &mut String) {
        if let Some(each) = self.kept() {
            let _ = writeln!(text, "    {} v[{each}];", self.types.1);
        }
    }

    /// `f` sees the element as `e`; the `first` walk fills the registers.
    fn over(&self, text: &mut String, first: bool, f: &str) {
        let Self { row, threads, types: (u, t), element, beyond } = self;
        if let Some(each) = self.kept() {
            let take =
                if first { format!("v[j] = k < {row}u ? {element} : {beyond}; ") } else { String::new() };
            let _ = writeln!(
                text,
                "    UNROLL for (int j = 0; j < {each}; j++) {{ const {u} k = (u32)(TID + j * {threads}); {take}if (k < {row}u) {{ const {t} e = v[j]; {f} }} }}"
            );
        } else {
            let _ = writeln!(
                text,
                "    for ({u} k = (u32)TID; k < {row}u; k += {threads}u) {{ const {t} e = {element}; {f} }}"
            );
        }
    }
}

pub(crate) fn softmax(op: &Softmax, input: &Operand) -> Vec<Kernel> {
    let (shape, dtype) = (&input.layout.shape, input.dtype);
    let row: usize = shape[op.axis..op.axis + op.axes].iter().product();
    let inner: usize = shape[op.axis + op.axes..].iter().product();
    let rows = shape.len() / row;
    let index = Index::new(&[shape.len()]);
    let (u, t) = (index.u(), register(dtype));
    let finish = if op.log { "(e - top) - m_log(total)" } else { "m_exp(e - top) / total" };
    let bind = |kernel: Kernel, text: String| {
        vec![
            kernel
                .param(Binding::Input(0), "x", storage(dtype))
                .param(Binding::Output(0), "y", storage(dtype))
                .body(text),
        ]
    };
    let lowest = crate::emit::literal(streampool_core::op::Scalar::from_f64(
        if t == "double" { streampool_core::op::DType::F64 } else { streampool_core::op::DType::F32 },
        f64::NEG_INFINITY,
    ));
    if inner > 1 || row < 8 {
        let mut text = element(index, rows);
        let _ = writeln!(
            text,
            "    const {u} from = i / {inner}u * {}u + i % {inner}u;\n    {t} top = {lowest}, total = 0;",
            row * inner
        );
        let each = |text: &mut String, body: &str| {
            let x = load(dtype, "x", "at");
            let _ = writeln!(
                text,
                "    for ({u} k = 0; k < {row}u; k++) {{ const {u} at = from + k * {inner}u; const {t} e = {x}; {body} }}"
            );
        };
        each(&mut text, "top = f_max(top, e);");
        each(&mut text, "total += m_exp(e - top);");
        each(&mut text, &store(dtype, "y", "at", finish));
        return bind(Kernel::new(format!("softmax of {row}, a thread a row"), blocks(rows), THREADS), text);
    }
    let threads = team(row.div_ceil(2), 512);
    let mut text = format!("    const {u} from = ({u})BID * {row}u;\n    {t} top = {lowest}, total = 0;\n");
    let x = load(dtype, "x", "from + k");
    let walk = Walk { row, threads, types: (u, t), element: &x, beyond: &lowest };
    walk.declare(&mut text);
    walk.over(&mut text, true, "top = f_max(top, e);");
    text.push_str(&all_reduce("top", t, threads, false, max));
    walk.over(&mut text, false, "total += m_exp(e - top);");
    text.push_str(&all_reduce("total", t, threads, false, add));
    walk.over(&mut text, false, &store(dtype, "y", "from + k", finish));
    bind(
        Kernel::new(format!("softmax of {row}, a block of {threads} a row"), rows as u64, threads)
            .with_barriers(),
        text,
    )
}

/// What a row is made of, if it is not read.
pub(crate) struct Computed {
    /// Statements that make `e` of row element `k`, the row's first element being `from`.
    pub(crate) statements: String,
    /// What they read beside what the norm does, and the bindings before the norm's.
    pub(crate) params: Vec<(Binding, String, &'static str)>,
    pub(crate) bindings: usize,
    /// What it is, for people.
    pub(crate) what: String,
}

pub(crate) fn layer_norm(op: &LayerNorm, inputs: &[Operand]) -> Vec<Kernel> {
    norm(op, inputs, None).into_iter().collect()
}

/// The kernel of a layer norm whose first operand is computed, if a row fits the registers of a block.
pub(crate) fn layer_norm_of(op: &LayerNorm, inputs: &[Operand], row: Computed) -> Option<Kernel> {
    norm(op, inputs, Some(row))
}

fn norm(op: &LayerNorm, inputs: &[Operand], computed: Option<Computed>) -> Option<Kernel> {
    let (shape, dtype) = (&inputs[0].layout.shape, inputs[0].dtype);
    let normalised = &shape[op.axis..];
    let row: usize = normalised.iter().product();
    let rows = shape.len() / row;
    let index = Index::new(&[shape.len()]);
    let (u, t) = (index.u(), register(dtype));
    let threads = team(row.div_ceil(4), 512);
    let mut kernel =
        Kernel::new(format!("layer norm of {row}, a block of {threads} a row"), rows as u64, threads)
            .with_barriers();
    // Bindings count on from what the row is made of.
    let mut next = 1;
    if let Some(computed) = &computed {
        next = computed.bindings;
        kernel.what.push_str(&computed.what);
        for (binding, name, ctype) in &computed.params {
            kernel = kernel.param(*binding, name, ctype);
        }
    } else {
        kernel = kernel.param(Binding::Input(0), "x", storage(dtype));
    }
    let mut operands = inputs[1..].iter();
    let mut text = format!("    const {u} from = ({u})BID * {row}u;\n    {t} total = 0, spread = 0;\n");
    let mut element = load(dtype, "x", "from + k");
    let (mut scale, mut bias) = (String::new(), String::new());
    for (flag, name) in [(op.scale, "scale"), (op.bias, "bias")] {
        if flag {
            let (dims, strides) = collapse(normalised, &[broadcast(&operands.next()?.layout, normalised)]);
            // Nearly always dense along the row.
            let at = if strides[0] == [1] { "k".to_owned() } else { format!("{name}_at") };
            let mut text = String::new();
            if strides[0] != [1] {
                text = index.split("k", &dims, name);
                let _ = writeln!(text, "    const {u} {name}_at = ({u}){};", index.offset(name, &strides[0]));
            }
            let value = load(dtype, name, &at);
            let target = if name == "scale" { &mut scale } else { &mut bias };
            *target = format!("{text}    r = r {} {value};", if name == "scale" { "*" } else { "+" });
            kernel = kernel.param(Binding::Input(next), name, storage(dtype));
            next += 1;
        }
    }
    if op.residual {
        operands.next()?;
        element = format!("({element} + {})", load(dtype, "more", "from + k"));
        kernel = kernel.param(Binding::Input(next), "more", storage(dtype));
    }
    let walk = Walk { row, threads, types: (u, t), element: &element, beyond: "0" };
    walk.declare(&mut text);
    if let Some(computed) = &computed {
        let each = walk.kept()?;
        let _ = writeln!(
            text,
            "    UNROLL for (int j = 0; j < {each}; j++) {{ const {u} k = (u32)(TID + j * {threads}); v[j] = 0; if (k < {row}u) {{ {t} e;\n{}\n    v[j] = e; }} }}",
            computed.statements
        );
    }
    let read = computed.is_none();
    let epsilon = format!("({t}){}", float(op.epsilon.get()));
    if op.rms {
        walk.over(&mut text, read, "spread += e * e;");
        let _ = writeln!(text, "    const {t} mean = 0;");
    } else {
        walk.over(&mut text, read, "total += e;");
        text.push_str(&all_reduce("total", t, threads, false, add));
        let _ = writeln!(text, "    const {t} mean = total / ({t}){row}.0;");
        walk.over(&mut text, false, "spread += (e - mean) * (e - mean);");
    }
    text.push_str(&all_reduce("spread", t, threads, false, add));
    let _ = writeln!(text, "    const {t} by = ({t})1 / m_sqrt(spread / ({t}){row}.0 + {epsilon});");
    let write =
        format!("{t} r = (e - mean) * by;\n{scale}\n{bias}\n    {}", store(dtype, "y", "from + k", "r"));
    walk.over(&mut text, false, &write);
    Some(kernel.param(Binding::Output(0), "y", storage(dtype)).body(text))
}
