//! Matrix products where no library does them: vectors, integers, and whatever has no plain strides.

use std::fmt::Write;

use streampool_core::op::{Activation, DType, MatMul, MatMulInteger, Operand};

use crate::emit::{
    Index, THREADS, activate, blocks, broadcast, collapse, element, float, load, register, storage, store,
};
use crate::{Binding, Kernel};

/// Rows and columns of the tile that a block computes.
const TILE: usize = 16;

/// Rows up to which a product is read as vectors times a matrix: the matrix is then the only thing worth reading fast.
const VECTORS: usize = 4;

/// What follows a product: bias, residual, activation. Binds parameters and writes `sum` to output element `i`, whose coordinates are `c*`.
struct Tail<'a> {
    op: &'a MatMul,
    inputs: &'a [Operand],
    /// Which of the inputs are added.
    which: Vec<usize>,
    output: &'a Operand,
}

impl Tail<'_> {
    fn params(&self, mut kernel: Kernel) -> Kernel {
        for &n in &self.which {
            let input = &self.inputs[n];
            kernel = kernel.param(Binding::Input(n), &format!("extra{n}"), storage(input.dtype));
        }
        kernel.param(Binding::Output(0), "y", storage(self.output.dtype))
    }

    /// The finished value of `sum`; `i` is the output's linear index.
    fn text(&self, index: Index, t: &str) -> String {
        let dtype = self.output.dtype;
        let shape = &self.output.layout.shape;
        let mut text = String::new();
        if dtype.is_float() && self.op.alpha.get() != 1.0 {
            let _ = writeln!(text, "    sum = sum * ({t}){};", float(self.op.alpha.get()));
        }
        for &n in &self.which {
            let input = &self.inputs[n];
            let (dims, strides) = collapse(shape, &[broadcast(&input.layout, shape)]);
            let _ = writeln!(text, "    {{");
            text.push_str(&index.split("i", &dims, "e"));
            let value = load(dtype, &format!("extra{n}"), &index.offset("e", &strides[0]));
            let _ = writeln!(text, "    sum = f_add(sum, {value}); }}");
        }
        let _ = writeln!(text, "    {}", store(dtype, "y", "i", &activate(self.op.activation, "sum", t)));
        text
    }
}

/// What follows a product that a library computed, as a kernel of its own: `y = act(y + bias + residual)` in place.
///
/// `inputs` are the product's, of which the first two are not read; `has` says which of bias and residual there are, `adds` which the kernel adds.
pub fn epilogue(
    inputs: &[Operand],
    output: &Operand,
    has: [bool; 2],
    adds: [bool; 2],
    activation: Option<Activation>,
) -> Kernel {
    let op = MatMul { bias: has[0], residual: has[1], activation, ..MatMul::default() };
    let mut which = Vec::new();
    if has[0] && adds[0] {
        which.push(2);
    }
    if has[1] && adds[1] {
        which.push(inputs.len() - 1);
    }
    let n = output.layout.shape.len();
    let index = Index::new(&[n]);
    let t = register(output.dtype);
    let tail = Tail { op: &op, inputs, which, output };
    let mut text = element(index, n);
    let _ = writeln!(text, "    {t} sum = {};", load(output.dtype, "y", "i"));
    text.push_str(&tail.text(index, t));
    tail.params(Kernel::new("bias and activation", blocks(n), THREADS)).body(text)
}

pub(crate) fn lower(op: &MatMul, inputs: &[Operand], output: &Operand) -> Vec<Kernel> {
    if let Some(kernel) = vectors(op, inputs, output) {
        return vec![kernel];
    }
    let (a, b, y) = (&inputs[0].layout, &inputs[1].layout, &output.layout.shape);
    let dtype = output.dtype;
    let rank = y.rank();
    let (m, n, k) = (y[rank - 2], y[rank - 1], a.shape[a.shape.rank() - 1]);
    let lead = &y[..rank - 2];
    let batches: usize = lead.iter().product();
    let batch = |l: &streampool_core::op::Layout| {
        let r = l.shape.rank() - 2;
        let part = streampool_core::op::Layout {
            shape: l.shape[..r].into(),
            strides: l.strides[..r].into(),
            offset: 0,
        };
        broadcast(&part, lead)
    };
    let (dims, strides) = collapse(lead, &[batch(a), batch(b)]);
    let (sa, sb) = (&a.strides[a.strides.len() - 2..], &b.strides[b.strides.len() - 2..]);
    let index = Index::of(&[a, b, &output.layout]);
    let (u, s) = (index.u(), index.s());
    let t = register(dtype);
    let (rows, columns) = (m.div_ceil(TILE), n.div_ceil(TILE));
    let mut text =
        format!("    SHARED {t} left[{TILE}][{}]; SHARED {t} right[{TILE}][{}];\n", TILE + 1, TILE + 1);
    let _ = writeln!(text, "    const {u} block = ({u})BID; const {u} which = block / {}u;", rows * columns);
    text.push_str(&index.split("which", &dims, "b"));
    let _ = writeln!(
        text,
        "    const {s} as = {}, bs = {};",
        index.offset("b", &strides[0]),
        index.offset("b", &strides[1])
    );
    let _ = writeln!(
        text,
        "    const {s} ty = TID / {TILE}, tx = TID % {TILE}; const {s} row = ({s})(block % {}u / {columns}u) * {TILE} + ty, column = ({s})(block % {columns}u) * {TILE} + tx;",
        rows * columns
    );
    let _ = writeln!(text, "    {t} sum = 0;\n    for ({s} k = 0; k < {k}; k += {TILE}) {{");
    let left = load(dtype, "a", &format!("as + row * ({s}){} + (k + tx) * ({s}){}", sa[0], sa[1]));
    let right = load(dtype, "b", &format!("bs + (k + ty) * ({s}){} + column * ({s}){}", sb[0], sb[1]));
    let _ = writeln!(text, "    left[ty][tx] = row < {m} && k + tx < {k} ? {left} : ({t})0;");
    let _ = writeln!(
        text,
        "    right[ty][tx] = column < {n} && k + ty < {k} ? {right} : ({t})0;\n    BARRIER();"
    );
    let step = if dtype.is_float() {
        "m_fma(left[ty][j], right[j][tx], sum)"
    } else {
        "f_add(sum, f_mul(left[ty][j], right[j][tx]))"
    };
    let _ =
        writeln!(text, "    UNROLL for (int j = 0; j < {TILE}; j++) sum = {step};\n    BARRIER();\n    }}");
    let _ = writeln!(
        text,
        "    if (row >= {m} || column >= {n}) return;\n    const {u} i = (which * {m}u + ({u})row) * {n}u + ({u})column;"
    );
    let tail = Tail { op, inputs, which: (2..inputs.len()).collect(), output };
    text.push_str(&tail.text(index, t));
    let kernel = Kernel::new("matrix product, 16x16 tiles", (batches * rows * columns) as u64, THREADS)
        .with_barriers()
        .param(Binding::Input(0), "a", storage(dtype))
        .param(Binding::Input(1), "b", storage(dtype));
    vec![tail.params(kernel).apart().body(text)]
}

/// A few dense rows times one matrix: reads the matrix once, consecutively, by enough threads to fill the device.
///
/// Sums are split over a number of threads that depends on the shape alone (INV-14).
pub fn vectors(op: &MatMul, inputs: &[Operand], output: &Operand) -> Option<Kernel> {
    let (a, b, y) = (&inputs[0].layout, &inputs[1].layout, &output.layout.shape);
    let dtype = output.dtype;
    let (n, rb) = (y[y.rank() - 1], b.shape.rank());
    let k = b.shape[rb - 2];
    let m: usize = y[..y.rank() - 1].iter().product();
    let single = b.shape[..rb - 2].iter().all(|&d| d == 1);
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
        || m == 0
        || m > VECTORS
        || !single
        || !a.is_contiguous()
        || a.shape.len() != m * k
        || k == 0
        || n * k >= 1 << 30
    {
        return None;
    }
    let strides = (b.strides[rb - 2], b.strides[rb - 1]);
    let index = Index::new(&[n * k]);
    let tail = Tail { op, inputs, which: (2..inputs.len()).collect(), output };
    let load_a = |row: &str| load(dtype, "a", &format!("{row} * {k} + p"));
    let mut text;
    let kernel;
    if strides == (1, k as isize) || (n == 1 && strides.0 == 1) {
        // A warp a column, along which the matrix is dense.
        let threads = 128;
        text = format!(
            "    const u32 column = (u32)BID * 4u + (u32)(TID >> 5); const i32 lane = TID & 31;\n    float sums[{m}];\n    UNROLL for (int r = 0; r < {m}; r++) sums[r] = 0;\n"
        );
        let _ = writeln!(
            text,
            "    if (column < {n}u) {{ UNROLL_8 for (i32 p = lane; p < {k}; p += 32) {{ const float w = {}; UNROLL for (int r = 0; r < {m}; r++) sums[r] = m_fma({}, w, sums[r]); }} }}",
            load(dtype, "b", &format!("column * {k}u + (u32)p")),
            load_a("r")
        );
        let _ = writeln!(
            text,
            "    UNROLL for (int r = 0; r < {m}; r++) UNROLL for (int s = 16; s > 0; s >>= 1) {{ const float o = shuffle_xor(sums[r], s); sums[r] = (TID & s) ? o + sums[r] : sums[r] + o; }}"
        );
        let _ = writeln!(
            text,
            "    if (column >= {n}u || lane >= {m}) return;\n    float sum = sums[0];\n    UNROLL for (int r = 1; r < {m}; r++) if (lane == r) sum = sums[r];"
        );
        let _ = writeln!(text, "    const u32 i = (u32)lane * {n}u + column;");
        kernel = Kernel::new("vector times matrix, a warp a column", n.div_ceil(4) as u64, threads);
    } else if strides == (n as isize, 1) || (k == 1 && strides.1 == 1) {
        // Groups of neighbouring columns, rows dealt out among the threads of a block.
        let wide = [8, 16].into_iter().find(|c| n / c <= 264).unwrap_or(32);
        let threads = 512;
        let groups = threads as usize / wide;
        text = format!(
            "    const i32 lane = TID % {wide}, group = TID / {wide}; const u32 column = (u32)BID * {wide}u + (u32)lane;\n    float sums[{m}];\n    UNROLL for (int r = 0; r < {m}; r++) sums[r] = 0;\n"
        );
        let _ = writeln!(
            text,
            "    if (column < {n}u) {{ UNROLL_8 for (i32 p = group; p < {k}; p += {groups}) {{ const float w = {}; UNROLL for (int r = 0; r < {m}; r++) sums[r] = m_fma({}, w, sums[r]); }} }}",
            load(dtype, "b", &format!("(u32)p * {n}u + column")),
            load_a("r")
        );
        let _ = writeln!(
            text,
            "    SHARED float part[{m}][{groups}][{wide}];\n    UNROLL for (int r = 0; r < {m}; r++) part[r][group][lane] = sums[r];\n    BARRIER();"
        );
        // A thread a column and row adds up the groups.
        let _ = writeln!(
            text,
            "    for (int step = {}; step > 0; step >>= 1) {{ if (group < step) {{ UNROLL for (int r = 0; r < {m}; r++) part[r][group][lane] += part[r][group + step][lane]; }} BARRIER(); }}",
            groups / 2
        );
        let _ = writeln!(
            text,
            "    if (column >= {n}u || group >= {m}) return;\n    float sum = part[group][0][lane];\n    const u32 i = (u32)group * {n}u + column;"
        );
        kernel = Kernel::new(
            format!("vector times matrix, {wide} columns a block"),
            n.div_ceil(wide) as u64,
            threads,
        );
    } else {
        return None;
    }
    text.push_str(&tail.text(index, "float"));
    let kernel = kernel.with_barriers().param(Binding::Input(0), "a", storage(dtype)).param(
        Binding::Input(1),
        "b",
        storage(dtype),
    );
    Some(tail.params(kernel).apart().body(text))
}

pub(crate) fn integer(op: &MatMulInteger, inputs: &[Operand], output: &Operand) -> Vec<Kernel> {
    let (a, b, y) = (&inputs[0].layout, &inputs[1].layout, &output.layout.shape);
    let rank = y.rank();
    let k = a.shape[a.shape.rank() - 1];
    let count = y.len();
    let index = Index::of(&[a, b, &output.layout]);
    let s = index.s();
    // Broadcast as if the summed axis had length 1.
    let strides = |l: &streampool_core::op::Layout, summed: usize| {
        let mut l = l.clone();
        let at = l.shape.rank() - summed;
        let step = std::mem::replace(&mut l.strides[at], 0);
        let mut shape = l.shape.to_vec();
        shape[at] = 1;
        l.shape = shape.into();
        (broadcast(&l, y), step)
    };
    let ((sa, ka), (sb, kb)) = (strides(a, 1), strides(b, 2));
    let mut text = element(index, count);
    text.push_str(&index.split("i", y, "c"));
    let _ = writeln!(text, "    const {s} as = {}, bs = {};", index.offset("c", &sa), index.offset("c", &sb));
    let mut kernel = Kernel::new("integer matrix product, a thread an output", blocks(count), THREADS)
        .param(Binding::Input(0), "a", storage(inputs[0].dtype))
        .param(Binding::Input(1), "b", storage(inputs[1].dtype));
    let mut zero = |there: bool, which: usize, rows: bool, name: &str| {
        if !there {
            return "0".to_owned();
        }
        let layout = &inputs[which].layout;
        let taken = kernel.clone();
        kernel = taken.param(Binding::Input(which), name, storage(inputs[which].dtype));
        let at = if layout.shape.len() == 1 {
            "0".to_owned()
        } else if rows && layout.shape.rank() == 1 {
            format!("c{} * ({s}){}", rank - 2, layout.strides[0])
        } else {
            let mut whole = y.to_vec();
            whole[rank - if rows { 1 } else { 2 }] = 1;
            index.offset("c", &broadcast(layout, &whole))
        };
        format!("(i32){name}[{at}]")
    };
    let (za, zb) = (zero(op.a_zero, 2, true, "az"), zero(op.b_zero, inputs.len() - 1, false, "bz"));
    let _ = writeln!(text, "    const i32 az_ = {za}, bz_ = {zb};\n    i32 sum = 0;");
    let _ = writeln!(
        text,
        "    for ({s} k = 0; k < {k}; k++) sum = f_add(sum, ((i32)a[as + k * ({s}){ka}] - az_) * ((i32)b[bs + k * ({s}){kb}] - bz_));"
    );
    text.push_str("    y[i] = sum;\n");
    vec![kernel.param(Binding::Output(0), "y", "i32").apart().body(text)]
}
