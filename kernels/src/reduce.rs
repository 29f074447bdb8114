//! Reductions over axes.

use std::fmt::Write;

use streampool_core::op::{ArgReduce, Cumulative, CumulativeKind, DType, Operand, Reduce, ReduceKind};

use crate::emit::{
    Index, THREADS, all_reduce, blocks, collapse, element, literal, load, register, storage, store, team,
};
use crate::{Binding, Kernel};

/// What a kind starts from, takes of an element, joins, and makes of the total.
struct Fold {
    start: String,
    take: fn(&str) -> String,
    join: fn(&str, &str) -> String,
    finish: String,
}

fn lowest(dtype: DType, max: bool) -> String {
    use streampool_core::op::Scalar;
    match dtype {
        DType::Bool => (!max).to_string(),
        DType::F64 => {
            literal(Scalar::from_f64(DType::F64, if max { f64::NEG_INFINITY } else { f64::INFINITY }))
        }
        d if d.is_float() => {
            literal(Scalar::from_f64(DType::F32, if max { f64::NEG_INFINITY } else { f64::INFINITY }))
        }
        d => literal(Scalar::from_f64(d, if max { f64::NEG_INFINITY } else { f64::INFINITY })),
    }
}

fn fold(kind: ReduceKind, dtype: DType, count: usize) -> Fold {
    let t = register(dtype);
    let same = "total".to_owned();
    let plain: fn(&str) -> String = |x| x.to_owned();
    let add: fn(&str, &str) -> String = |a, b| format!("f_add({a}, {b})");
    let square: fn(&str) -> String = |x| format!("f_mul({x}, {x})");
    let zero = format!("({t})0");
    match kind {
        ReduceKind::Sum => Fold { start: zero, take: plain, join: add, finish: same },
        ReduceKind::Mean => {
            Fold { start: zero, take: plain, join: add, finish: format!("total / ({t}){count}.0") }
        }
        ReduceKind::Prod => Fold {
            start: format!("({t})1"),
            take: plain,
            join: |a, b| format!("f_mul({a}, {b})"),
            finish: same,
        },
        ReduceKind::Max | ReduceKind::Any => Fold {
            start: lowest(dtype, true),
            take: plain,
            join: |a, b| format!("f_max({a}, {b})"),
            finish: same,
        },
        ReduceKind::Min | ReduceKind::All => Fold {
            start: lowest(dtype, false),
            take: plain,
            join: |a, b| format!("f_min({a}, {b})"),
            finish: same,
        },
        ReduceKind::L1 => Fold { start: zero, take: |x| format!("f_abs({x})"), join: add, finish: same },
        ReduceKind::L2 => Fold { start: zero, take: square, join: add, finish: "m_sqrt(total)".into() },
        ReduceKind::SumSquare => Fold { start: zero, take: square, join: add, finish: same },
        ReduceKind::LogSum => Fold { start: zero, take: plain, join: add, finish: "m_log(total)".into() },
        ReduceKind::LogSumExp => Fold {
            start: zero,
            take: |x| format!("m_exp({x} - top)"),
            join: add,
            finish: "(infinite ? top : top + m_log(total))".into(),
        },
    }
}

pub(crate) fn reduce(op: &Reduce, input: &Operand, output: &Operand) -> Option<Vec<Kernel>> {
    let dtype = input.dtype;
    if !dtype.is_float()
        && matches!(op.kind, ReduceKind::Mean | ReduceKind::L2 | ReduceKind::LogSum | ReduceKind::LogSumExp)
    {
        return None;
    }
    let layout = &input.layout;
    let part = |reduced: bool| {
        let axes = (0..layout.shape.rank()).filter(|a| op.axes.contains(a) == reduced);
        let (dims, strides): (Vec<usize>, Vec<isize>) =
            axes.map(|a| (layout.shape[a], layout.strides[a])).unzip();
        let (dims, mut strides) = collapse(&dims, &[strides]);
        (dims, strides.remove(0))
    };
    let ((kept, kept_strides), (dims, strides)) = (part(false), part(true));
    let (outputs, count): (usize, usize) = (kept.iter().product(), dims.iter().product());
    let index = Index::of(&[layout, &output.layout]);
    let (u, s) = (index.u(), index.s());
    let t = register(dtype);
    let f = fold(op.kind, dtype, count);
    // A block an output where the sum is along neighbours or there are few outputs; else a thread an output.
    let along = strides.last() == Some(&1);
    let block = count >= 32 && (along || outputs < 4096);
    let threads = if block { team(count, THREADS) } else { 1 };
    let mut text = String::new();
    if block {
        let _ = writeln!(text, "    const {u} i = ({u})BID;\n    const {u} lane = (u32)TID;");
    } else {
        text.push_str(&element(index, outputs));
        let _ = writeln!(text, "    const {u} lane = 0;");
    }
    text.push_str(&index.split("i", &kept, "c"));
    let _ = writeln!(text, "    const {s} at = {};", index.offset("c", &kept_strides));
    let walk = |text: &mut String,
                variable: &str,
                start: &str,
                value: &dyn Fn(&str) -> String,
                join: fn(&str, &str) -> String| {
        let _ = writeln!(text, "    {t} {variable} = {start};");
        let _ = writeln!(text, "    for ({u} k = lane; k < {count}u; k += {threads}u) {{");
        text.push_str(&index.split("k", &dims, "d"));
        let x = load(dtype, "x", &format!("at + {}", index.offset("d", &strides)));
        let _ = writeln!(
            text,
            "    const {t} e = {x};\n    {variable} = {};\n    }}",
            join(variable, &value("e"))
        );
        if block {
            text.push_str(&all_reduce(variable, t, threads, false, join));
        }
    };
    if op.kind == ReduceKind::LogSumExp {
        walk(&mut text, "top", &lowest(dtype, true), &|x| x.to_owned(), |a, b| format!("f_max({a}, {b})"));
        text.push_str("    const bool infinite = f_is_inf(top);\n");
    }
    walk(&mut text, "total", &f.start, &|x| (f.take)(x), f.join);
    let write = store(output.dtype, "y", "i", &f.finish);
    let _ = writeln!(text, "    {}{write}", if block { "if (TID == 0) " } else { "" });
    let kernel = if block {
        Kernel::new(format!("reduce {count}, a block of {threads} an output"), outputs as u64, threads)
            .with_barriers()
    } else {
        Kernel::new(format!("reduce {count}, a thread an output"), blocks(outputs), THREADS)
    };
    let kernel = kernel.param(Binding::Input(0), "x", storage(dtype)).param(
        Binding::Output(0),
        "y",
        storage(output.dtype),
    );
    Some(vec![kernel.apart().body(text)])
}

/// Outer, axis and inner lengths of a dense tensor.
pub(crate) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

pub(crate) fn arg(op: &ArgReduce, input: &Operand, output: &Operand) -> Vec<Kernel> {
    let shape = &input.layout.shape;
    let (outer, len, inner) = around(shape, op.axis);
    let index = Index::new(&[shape.len()]);
    let (u, t) = (index.u(), register(input.dtype));
    let mut text = element(index, outer * inner);
    let _ = writeln!(text, "    const {u} from = i / {inner}u * {}u + i % {inner}u;", len * inner);
    let _ = writeln!(text, "    {t} best = {}; {u} found = 0;", load(input.dtype, "x", "from"));
    let compare = if op.max { ">" } else { "<" };
    let or = if op.last { format!("{compare}=") } else { compare.to_owned() };
    let nan = if op.last { "e != e" } else { "e != e && best == best" };
    let _ = writeln!(
        text,
        "    for ({u} k = 1; k < {len}u; k++) {{ const {t} e = {}; if ((best == best && e {or} best) || ({nan})) {{ best = e; found = k; }} }}",
        load(input.dtype, "x", &format!("from + k * {inner}u"))
    );
    text.push_str("    y[i] = (i64)found;\n");
    let _ = output;
    vec![
        Kernel::new(format!("arg of {len}, a thread an output"), blocks(outer * inner), THREADS)
            .param(Binding::Input(0), "x", storage(input.dtype))
            .param(Binding::Output(0), "y", "i64")
            .apart()
            .body(text),
    ]
}

pub(crate) fn cumulative(op: &Cumulative, input: &Operand, _output: &Operand) -> Vec<Kernel> {
    let shape = &input.layout.shape;
    let (outer, len, inner) = around(shape, op.axis);
    let index = Index::new(&[shape.len()]);
    let (u, t) = (index.u(), register(input.dtype));
    let mut text = element(index, outer * inner);
    let (start, join) = match op.kind {
        CumulativeKind::Sum => (0, "f_add"),
        CumulativeKind::Prod => (1, "f_mul"),
    };
    let _ = writeln!(
        text,
        "    const {u} from = i / {inner}u * {}u + i % {inner}u;\n    {t} total = ({t}){start};",
        len * inner
    );
    let position = if op.reverse { format!("({}u - k)", len - 1) } else { "k".to_owned() };
    let _ = writeln!(
        text,
        "    for ({u} k = 0; k < {len}u; k++) {{ const {u} at = from + {position} * {inner}u;"
    );
    let take = format!("const {t} e = {}; ", load(input.dtype, "x", "at"));
    let put = store(input.dtype, "y", "at", "total");
    let add = format!("total = {join}(total, e);");
    let _ = writeln!(
        text,
        "    {take}{}{} }}",
        if op.exclusive { &put } else { &add },
        if op.exclusive { &add } else { &put }
    );
    vec![
        Kernel::new(format!("running total of {len}, a thread a line"), blocks(outer * inner), THREADS)
            .param(Binding::Input(0), "x", storage(input.dtype))
            .param(Binding::Output(0), "y", storage(input.dtype))
            .body(text),
    ]
}
