//! Moving and making elements.

use std::fmt::Write;

use streampool_core::op::{DType, Fill, Operand, Pad, PadMode, Range, Trilu};

use crate::emit::{Index, THREADS, blocks, collapse, element, literal, raw, raw_literal, storage, store};
use crate::map::cast;
use crate::{Binding, Kernel};

/// Rows and columns of a transposed tile.
const TILE: usize = 32;

pub(crate) fn copy(input: &Operand, output: &Operand) -> Vec<Kernel> {
    let (from, to) = (&input.layout, &output.layout);
    let (dims, strides) = collapse(&from.shape, &[from.strides.to_vec(), to.strides.to_vec()]);
    let index = Index::of(&[from, to]);
    let t = raw(input.dtype);
    // A transpose: the reader's unit stride is on another axis than the writer's.
    let unit = |s: &[isize]| s.iter().position(|&s| s == 1);
    if let (Some(r), Some(w)) = (unit(&strides[0]), unit(&strides[1]))
        && r != w
        && dims[r] >= 16
        && dims[w] >= 16
    {
        return vec![transpose(t, &dims, &strides, r, w, index)];
    }
    let n: usize = dims.iter().product();
    let mut text = element(index, n);
    text.push_str(&index.split("i", &dims, "c"));
    let _ =
        writeln!(text, "    y[{}] = x[{}];", index.offset("c", &strides[1]), index.offset("c", &strides[0]));
    let kernel = Kernel::new("copy", blocks(n), THREADS);
    vec![kernel.param(Binding::Input(0), "x", t).param(Binding::Output(0), "y", t).apart().body(text)]
}

/// Through a tile in shared memory, so that reads and writes are both consecutive. `r` is the axis of unit stride of the reader, `w` the writer's.
fn transpose(
    t: &'static str,
    dims: &[usize],
    strides: &[Vec<isize>],
    r: usize,
    w: usize,
    index: Index,
) -> Kernel {
    let s = index.s();
    let mut outer = dims.to_vec();
    (outer[r], outer[w]) = (dims[r].div_ceil(TILE), dims[w].div_ceil(TILE));
    let grid: usize = outer.iter().product();
    let mut text = format!("    SHARED {t} tile[{TILE}][{}];\n", TILE + 1);
    text.push_str(&index.split(&format!("({})BID", index.u()), &outer, "b"));
    // Strides of a tile step on the two axes are 32 elements.
    let base = |strides: &[isize]| {
        let mut s = strides.to_vec();
        s[r] *= TILE as isize;
        s[w] *= TILE as isize;
        index.offset("b", &s)
    };
    let _ = writeln!(text, "    const {s} in = {}, out = {};", base(&strides[0]), base(&strides[1]));
    let _ = writeln!(text, "    const {s} fast = TID % {TILE}, slow = TID / {TILE};");
    let _ = writeln!(
        text,
        "    for ({s} k = slow; k < {TILE}; k += {}) if (b{r} * {TILE} + fast < {} && b{w} * {TILE} + k < {}) tile[k][fast] = x[in + fast + k * ({s}){}];",
        THREADS as usize / TILE,
        dims[r],
        dims[w],
        strides[0][w]
    );
    text.push_str("    BARRIER();\n");
    let _ = writeln!(
        text,
        "    for ({s} k = slow; k < {TILE}; k += {}) if (b{w} * {TILE} + fast < {} && b{r} * {TILE} + k < {}) y[out + fast + k * ({s}){}] = tile[fast][k];",
        THREADS as usize / TILE,
        dims[w],
        dims[r],
        strides[1][r]
    );
    Kernel::new("transpose, 32x32 tiles", grid as u64, THREADS)
        .param(Binding::Input(0), "x", t)
        .param(Binding::Output(0), "y", t)
        .with_barriers()
        .apart()
        .body(text)
}

pub(crate) fn fill(op: &Fill, output: &Operand) -> Vec<Kernel> {
    let (dims, strides) = collapse(&output.layout.shape, &[output.layout.strides.to_vec()]);
    let index = Index::of(&[&output.layout]);
    let n: usize = dims.iter().product();
    let mut text = element(index, n);
    text.push_str(&index.split("i", &dims, "c"));
    let _ = writeln!(text, "    y[{}] = {};", index.offset("c", &strides[0]), raw_literal(op.value));
    vec![Kernel::new("fill", blocks(n), THREADS).param(Binding::Output(0), "y", raw(output.dtype)).body(text)]
}

pub(crate) fn range(op: &Range, output: &Operand) -> Vec<Kernel> {
    let dtype = output.dtype;
    let index = Index::new(&[op.len]);
    let mut text = element(index, op.len);
    let value = if dtype.is_float() {
        // As the CPU does: in double precision, rounded once.
        let sum = format!("(double){} + (double)i * (double){}", literal(op.start), literal(op.step));
        cast(DType::F64, dtype, &format!("({sum})"))
    } else {
        let t = storage(dtype);
        format!("f_add({}, f_mul(({t})i, {}))", literal(op.start), literal(op.step))
    };
    let _ = writeln!(text, "    {}", store(dtype, "y", "i", &value));
    vec![
        Kernel::new("range", blocks(op.len), THREADS)
            .param(Binding::Output(0), "y", storage(dtype))
            .body(text),
    ]
}

pub(crate) fn pad(op: &Pad, input: &Operand, output: &Operand) -> Vec<Kernel> {
    let (x, y) = (&input.layout, &output.layout);
    let index = Index::of(&[x, y]);
    let s = index.s();
    let n = y.shape.len();
    let mut text = element(index, n);
    text.push_str(&index.split("i", &y.shape, "c"));
    let mut inside = Vec::new();
    for (axis, &len) in x.shape.iter().enumerate() {
        // What negative borders take off leaves the elements from `low` on, `kept` of them.
        let (before, after) = (op.before[axis], op.after[axis]);
        let low = (-before).max(0);
        let kept = len as isize - low - (-after).max(0);
        let shifted = format!("c{axis} - ({s}){}", before.max(0));
        let position = match op.mode {
            PadMode::Constant(_) => {
                inside.push(format!("s{axis} >= 0 && s{axis} < {kept}"));
                shifted
            }
            PadMode::Edge => {
                format!("({shifted}) < 0 ? 0 : ({shifted}) >= {kept} ? {} : ({shifted})", kept - 1)
            }
            PadMode::Wrap => format!("((({shifted}) % ({s}){kept}) + {kept}) % ({s}){kept}"),
            PadMode::Reflect => {
                let period = (2 * (kept - 1)).max(1);
                let folded = format!("((({shifted}) % ({s}){period}) + {period}) % ({s}){period}");
                format!("({folded}) < {kept} ? ({folded}) : {period} - ({folded})")
            }
        };
        let _ = writeln!(text, "    const {s} s{axis} = {position};");
        let _ = writeln!(text, "    const {s} q{axis} = s{axis} + {low};");
    }
    let from = index.offset("q", &x.strides);
    let t = raw(input.dtype);
    let value = match op.mode {
        PadMode::Constant(v) if !inside.is_empty() => {
            format!("({}) ? x[{from}] : {}", inside.join(" && "), raw_literal(v))
        }
        _ => format!("x[{from}]"),
    };
    let _ = writeln!(text, "    y[i] = {value};");
    vec![
        Kernel::new("pad", blocks(n), THREADS)
            .param(Binding::Input(0), "x", t)
            .param(Binding::Output(0), "y", t)
            .apart()
            .body(text),
    ]
}

pub(crate) fn trilu(op: &Trilu, input: &Operand, output: &Operand) -> Vec<Kernel> {
    let shape = &output.layout.shape;
    let n = shape.len();
    let index = Index::new(&[n]);
    let (rows, columns) = (shape[shape.rank() - 2], shape[shape.rank() - 1]);
    let mut text = element(index, n);
    text.push_str(&index.split("i", &[n / (rows * columns), rows, columns], "c"));
    let k = op.k.clamp(-(1 << 40), 1 << 40);
    let keep = if op.upper { "<=" } else { ">=" };
    let _ = writeln!(text, "    y[i] = (i64)c1 + (i64){k}ll {keep} (i64)c2 ? x[i] : 0;\n    (void)c0;");
    let t = raw(input.dtype);
    vec![
        Kernel::new("trilu", blocks(n), THREADS)
            .param(Binding::Input(0), "x", t)
            .param(Binding::Output(0), "y", t)
            .body(text),
    ]
}
