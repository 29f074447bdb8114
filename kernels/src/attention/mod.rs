//! Fused attention with an online softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
//! "FlashAttention", 2022): the scores never reach memory.

mod blocks;
mod tile;
mod walk;

use std::fmt::Write;

use streampool_core::op::{Attention, Operand, Place};

use crate::emit::{Index, broadcast, float, load, storage, store};
use crate::{Binding, Kernel, Target};

pub(crate) use tile::{Block, IntoTile};

/// Threads of a block.
const THREADS: u32 = 128;

/// Whether the operand's place begins at a multiple of `bytes`, at most 16.
fn aligned(operand: &Operand, bytes: usize) -> bool {
    match operand.place {
        Place::Arena(at) => at.is_multiple_of(bytes),
        _ => true,
    }
}

/// Whether rows lie at multiples of 16 bytes.
fn wide_rows(operand: &Operand) -> bool {
    let l = &operand.layout;
    aligned(operand, 16)
        && l.offset.is_multiple_of(8)
        && l.strides[3] == 1
        && l.strides[..3].iter().zip(l.shape.iter()).all(|(s, &len)| s % 8 == 0 || len == 1)
}

struct Sizes {
    b: usize,
    h: usize,
    s: usize,
    d: usize,
    t: usize,
    e: usize,
    per_group: usize,
}

impl Sizes {
    fn of(inputs: &[Operand]) -> Self {
        let (q, k, v) = (&inputs[0].layout.shape, &inputs[1].layout.shape, &inputs[2].layout.shape);
        Self { b: q[0], h: q[1], s: q[2], d: q[3], t: k[2], e: v[3], per_group: q[1] / k[1].max(1) }
    }
}

pub(crate) fn lower(op: &Attention, inputs: &[Operand], output: &Operand, target: Target) -> Vec<Kernel> {
    let sizes = Sizes::of(inputs);
    if let Some(kernel) = blocks::tensor_cores(op, inputs, output, &sizes, target) {
        return vec![kernel];
    }
    vec![scalar(op, inputs, output, &sizes)]
}

fn bind(op: &Attention, inputs: &[Operand], mut kernel: Kernel) -> Kernel {
    for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
        kernel = kernel.param(Binding::Input(i), name, storage(inputs[i].dtype));
    }
    if op.mask {
        kernel = kernel.param(Binding::Input(3), "mask", storage(inputs[3].dtype));
    }
    kernel
}

/// Where the part of input `n` begins that belongs to the batch and to the head of the name `head`.
fn base(inputs: &[Operand], s: &str, n: usize, head: &str) -> String {
    let l = &inputs[n].layout.strides;
    format!("batch * ({s}){} + {head} * ({s}){}", l[0], l[1])
}

/// Bytes from one row of keys, and of values, to the next in shared memory: an odd number of 16, so that eight rows lie in different banks.
fn pitches(z: &Sizes) -> [usize; 2] {
    [(z.d / 8) | 1, (z.e / 8) | 1].map(|chunks| chunks * 16)
}

/// The number of the mask's element for query `row` and key `key` of `batch`, `head`.
fn mask_at(inputs: &[Operand], z: &Sizes, s: &str, row: &str, key: &str) -> String {
    let strides = broadcast(&inputs[3].layout, &[z.b, z.h, z.s, z.t]);
    let names = ["batch", "head", row, key];
    let terms: Vec<String> = strides
        .iter()
        .zip(names)
        .filter(|(s, _)| **s != 0)
        .map(|(stride, name)| format!("{name} * ({s}){stride}"))
        .collect();
    if terms.is_empty() { "0".to_owned() } else { terms.join(" + ") }
}

/// The element of the mask for query `row` and key `key` of `batch`, `head`.
fn mask(inputs: &[Operand], z: &Sizes, s: &str, row: &str, key: &str) -> String {
    load(inputs[3].dtype, "mask", &mask_at(inputs, z, s, row, key))
}

/// Several threads share a query: each takes every so many keys, and they join at the end.
fn scalar(op: &Attention, inputs: &[Operand], output: &Operand, z: &Sizes) -> Kernel {
    let dtype = output.dtype;
    let index = Index::of(&inputs.iter().chain([output]).map(|o| &o.layout).collect::<Vec<_>>());
    let s = index.s();
    let queries = z.b * z.h * z.s;
    // From the shape alone, so that sums are always split alike (INV-14).
    let mut share = 1usize;
    while share < 32 && queries * share < 65_536 && share * 4 <= z.t {
        share *= 2;
    }
    let per_block = THREADS as usize / share;
    let Sizes { d, t, e, .. } = *z;
    let mut text = format!(
        "    const u64 which = BID * {per_block}u + (u32)(TID / {share}); const {s} part = TID % {share}; const bool there = which < {queries}u;\n"
    );
    let _ = writeln!(
        text,
        "    const u64 w = there ? which : 0; const {s} row = ({s})(w % {s0}u), head = ({s})(w / {s0}u % {h}u), batch = ({s})(w / {all}u), group = head / {pg};",
        s0 = z.s,
        h = z.h,
        all = z.s * z.h,
        pg = z.per_group
    );
    let _ = writeln!(
        text,
        "    const {s} qs = {} + row * ({s}){}, ks = {}, vs = {};",
        base(inputs, s, 0, "head"),
        inputs[0].layout.strides[2],
        base(inputs, s, 1, "group"),
        base(inputs, s, 2, "group")
    );
    let _ = writeln!(
        text,
        "    float top = -float_of_bits(0x7f800000u), total = 0; float mine[{d0}], acc[{e0}];",
        d0 = d.max(1),
        e0 = e.max(1)
    );
    let _ = writeln!(
        text,
        "    UNROLL for (int c = 0; c < {d}; c++) mine[c] = {};\n    UNROLL for (int c = 0; c < {e}; c++) acc[c] = 0;",
        load(dtype, "q", &format!("qs + c * ({s}){}", inputs[0].layout.strides[3]))
    );
    let end = if op.causal {
        let _ = writeln!(
            text,
            "    {s} end = row + 1 + ({s}){t} - ({s}){}; end = end < 0 ? 0 : end > {t} ? {t} : end;",
            z.s
        );
        "end".to_owned()
    } else {
        t.to_string()
    };
    let _ = writeln!(text, "    for ({s} j = part; j < {end}; j += {share}) {{\n    float score = 0;");
    let (ks, vs) = (&inputs[1].layout.strides, &inputs[2].layout.strides);
    let _ = writeln!(
        text,
        "    UNROLL for (int c = 0; c < {d}; c++) score = m_fma(mine[c], {}, score);",
        load(dtype, "k", &format!("ks + j * ({s}){} + c * ({s}){}", ks[2], ks[3]))
    );
    let _ = writeln!(text, "    score = score * {};", float(op.scale.get()));
    if op.mask {
        let _ = writeln!(text, "    score = score + {};", mask(inputs, z, s, "row", "j"));
    }
    text.push_str("    if (score > top || score != score) { const float by = top == -float_of_bits(0x7f800000u) ? 0.0f : m_exp(top - score); top = score; total = total * by;\n");
    let _ = writeln!(text, "    UNROLL for (int c = 0; c < {e}; c++) acc[c] = acc[c] * by; }}");
    text.push_str("    const float weight = score == -float_of_bits(0x7f800000u) ? 0.0f : m_exp(score - top); total = total + weight;\n");
    let _ = writeln!(
        text,
        "    UNROLL for (int c = 0; c < {e}; c++) acc[c] = m_fma(weight, {}, acc[c]);\n    }}",
        load(dtype, "v", &format!("vs + j * ({s}){} + c * ({s}){}", vs[2], vs[3]))
    );
    if share > 1 {
        let _ = writeln!(
            text,
            "    for (int m = {}; m > 0; m >>= 1) {{ const float other = shuffle_xor(top, m), greatest = f_max(top, other); const float by = top == greatest ? 1.0f : m_exp(top - greatest); const float its = other == greatest ? 1.0f : m_exp(other - greatest); const float sum = shuffle_xor(total, m); total = total * by + sum * its; top = greatest;",
            share / 2
        );
        let _ = writeln!(
            text,
            "    UNROLL for (int c = 0; c < {e}; c++) {{ const float o = shuffle_xor(acc[c], m); acc[c] = acc[c] * by + o * its; }} }}"
        );
    }
    let _ = writeln!(
        text,
        "    if (!there || part != 0) return;\n    const float by = total == 0.0f ? 0.0f : 1.0f / total;"
    );
    let to = if op.merge_heads {
        format!("(((u64)batch * {}u + (u64)row) * {}u + (u64)head) * {e}u", z.s, z.h)
    } else {
        format!("which * {e}u")
    };
    let _ = writeln!(
        text,
        "    const u64 to = {to};\n    UNROLL for (int c = 0; c < {e}; c++) {}",
        store(dtype, "y", "to + (u32)c", "total == 0.0f ? 0.0f : acc[c] * by")
    );
    let kernel = Kernel::new(
        format!("fused attention, {share} threads a query"),
        (queries * share).div_ceil(THREADS as usize) as u64,
        THREADS,
    );
    bind(op, inputs, kernel).param(Binding::Output(0), "y", storage(dtype)).with_barriers().apart().body(text)
}
