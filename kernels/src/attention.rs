//! Fused attention with an online softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
//! "FlashAttention", 2022): the scores never reach memory.

use std::fmt::Write;

use streampool_core::op::{Attention, DType, Operand, Place};

use crate::emit::{Index, broadcast, float, load, storage, store};
use crate::{Binding, Kernel};

/// Threads of a block.
const THREADS: u32 = 128;

/// Bytes of shared memory that keys and values may take.
const STAGED: usize = 96 << 10;

/// Whether rows lie at multiples of 16 bytes.
fn wide_rows(operand: &Operand) -> bool {
    let l = &operand.layout;
    let at = match operand.place {
        Place::Arena(at) => at,
        _ => 0,
    };
    at.is_multiple_of(16)
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

pub(crate) fn lower(op: &Attention, inputs: &[Operand], output: &Operand) -> Vec<Kernel> {
    let (q, k, v) = (&inputs[0].layout.shape, &inputs[1].layout.shape, &inputs[2].layout.shape);
    let sizes = Sizes { b: q[0], h: q[1], s: q[2], d: q[3], t: k[2], e: v[3], per_group: q[1] / k[1].max(1) };
    if let Some(kernel) = tensor_cores(op, inputs, output, &sizes) {
        return vec![kernel];
    }
    vec![scalar(op, inputs, output, &sizes)]
}

fn bind(op: &Attention, inputs: &[Operand], output: &Operand, mut kernel: Kernel) -> Kernel {
    for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
        kernel = kernel.param(Binding::Input(i), name, storage(inputs[i].dtype));
    }
    if op.mask {
        kernel = kernel.param(Binding::Input(3), "mask", storage(inputs[3].dtype));
    }
    kernel.param(Binding::Output(0), "y", storage(output.dtype)).with_barriers().apart()
}

/// The element of the mask for query `row` and key `key` of `batch`, `head`.
fn mask(inputs: &[Operand], z: &Sizes, s: &str, row: &str, key: &str) -> String {
    let strides = broadcast(&inputs[3].layout, &[z.b, z.h, z.s, z.t]);
    let names = ["batch", "head", row, key];
    let terms: Vec<String> = strides
        .iter()
        .zip(names)
        .filter(|(s, _)| **s != 0)
        .map(|(stride, name)| format!("{name} * ({s}){stride}"))
        .collect();
    let at = if terms.is_empty() { "0".to_owned() } else { terms.join(" + ") };
    load(inputs[3].dtype, "mask", &at)
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
    let base = |n: usize, head: &str| {
        let l = &inputs[n].layout.strides;
        format!("batch * ({s}){} + {head} * ({s}){}", l[0], l[1])
    };
    let _ = writeln!(
        text,
        "    const {s} qs = {} + row * ({s}){}, ks = {}, vs = {};",
        base(0, "head"),
        inputs[0].layout.strides[2],
        base(1, "group"),
        base(2, "group")
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
    bind(op, inputs, output, kernel).body(text)
}

/// A block for 16 queries of a head: its warps take turns at 16 keys, by `mma` straight from memory, and join at the end.
fn tensor_cores(op: &Attention, inputs: &[Operand], output: &Operand, z: &Sizes) -> Option<Kernel> {
    let dtype = output.dtype;
    let Sizes { d, t, e, .. } = *z;
    let even = |n: usize| {
        let l = &inputs[n].layout;
        l.strides[3] == 1
            && l.offset.is_multiple_of(2)
            && l.strides[..3].iter().zip(l.shape.iter()).all(|(s, &len)| s % 2 == 0 || len == 1)
    };
    if !matches!(dtype, DType::F16 | DType::BF16)
        || d % 16 != 0
        || e % 8 != 0
        || d == 0
        || e == 0
        || d > 128
        || e > 128
        || t == 0
        || !output.layout.offset.is_multiple_of(2)
        || !even(0)
        || !even(1)
    {
        return None;
    }
    let index = Index::of(&inputs.iter().chain([output]).map(|o| &o.layout).collect::<Vec<_>>());
    let s = index.s();
    let tiles = z.s.div_ceil(16);
    let (steps, columns) = (d / 16, e / 8);
    let half = storage(dtype);
    let infinity = "float_of_bits(0x7f800000u)";
    let narrow = format!("narrow_{half}");
    let strides = |n: usize| &inputs[n].layout.strides;
    // From the shape alone (INV-14).
    let warps = z.t.div_ceil(16).min(4);
    let (threads, stride) = (32 * warps as u32, 16 * warps);
    // Keys and values through shared memory, if they fit: each row is then read once, 16 bytes at a time, and all of them at once.
    let keys = t.next_multiple_of(16);
    let pitches = [(d / 8) | 1, (e / 8) | 1].map(|chunks| chunks * 16);
    let staged =
        [1, 2].into_iter().all(|n| wide_rows(&inputs[n])) && keys * (pitches[0] + pitches[1]) <= STAGED;
    let mut text = format!("    const {s} warp = TID >> 5, lane = TID & 31, g = lane >> 2, c = lane & 3;\n");
    let _ = writeln!(
        text,
        "    const {s} tile = ({s})(BID % {tiles}u) * 16, head = ({s})(BID / {tiles}u % {h}u), batch = ({s})(BID / {all}u), group = head / {pg};",
        h = z.h,
        all = tiles * z.h,
        pg = z.per_group
    );
    let base =
        |n: usize, head: &str| format!("batch * ({s}){} + {head} * ({s}){}", strides(n)[0], strides(n)[1]);
    let _ = writeln!(
        text,
        "    const {s} qs = {}, ks = {}, vs = {};",
        base(0, "head"),
        base(1, "group"),
        base(2, "group")
    );
    if staged {
        text.push_str("    SHARED_ARENA(arena);\n");
        for (n, name, length, pitch, from) in
            [(1, "k", d, pitches[0], 0), (2, "v", e, pitches[1], keys * pitches[0])]
        {
            let chunks = length / 8;
            let _ = writeln!(
                text,
                "    for (int x = TID; x < {}; x += {threads}) {{ const {s} r = x / {chunks}, p = x % {chunks}; copy_16(arena + {from} + r * {pitch} + p * 16, {name} + ({name}s + (r < {t} ? r : 0) * ({s}){} + p * 8), r < {t}); }}",
                keys * chunks,
                strides(n)[2]
            );
        }
        text.push_str("    COPIES_COMMIT();\n");
    }
    let last = z.s - 1;
    let _ = writeln!(
        text,
        "    const {s} r0 = tile + g, r1 = tile + g + 8; const {s} q0 = r0 < {last} ? r0 : {last}, q1 = r1 < {last} ? r1 : {last};"
    );
    let _ = writeln!(text, "    u32 a[{steps}][4];\n    UNROLL for (int x = 0; x < {steps}; x++) {{");
    for (reg, (row, plus)) in [("q0", 0), ("q1", 0), ("q0", 8), ("q1", 8)].into_iter().enumerate() {
        let _ = writeln!(
            text,
            "    a[x][{reg}] = *(const GLOBAL u32 *)(q + (qs + {row} * ({s}){} + x * 16 + c * 2 + {plus}));",
            strides(0)[2]
        );
    }
    let _ = writeln!(
        text,
        "    }}\n    float acc[{columns}][4];\n    UNROLL for (int n = 0; n < {columns}; n++) UNROLL for (int x = 0; x < 4; x++) acc[n][x] = 0;"
    );
    let _ = writeln!(text, "    float top0 = -{infinity}, top1 = -{infinity}, total0 = 0, total1 = 0;");
    let end = if op.causal {
        let _ = writeln!(
            text,
            "    {s} end = tile + 16 + ({s}){t} - ({s}){}; end = end < 0 ? 0 : end > {t} ? {t} : end;",
            z.s
        );
        "end".to_owned()
    } else {
        t.to_string()
    };
    if staged {
        text.push_str("    COPIES_WAIT(0); BARRIER();\n");
    }
    let _ = writeln!(
        text,
        "    for ({s} j = warp * 16; j < {end}; j += {stride}) {{\n    float p[2][4];\n    UNROLL for (int n = 0; n < 2; n++) UNROLL for (int x = 0; x < 4; x++) p[n][x] = 0;"
    );
    if staged {
        let _ = writeln!(
            text,
            "    UNROLL for (int x = 0; x < {steps}; x++) {{ u32 b[4]; fragments(b, arena + (j + (lane & 7) + (lane >> 4 << 3)) * {} + (x * 2 + (lane >> 3 & 1)) * 16); mma_16x8x16({half}(), p[0], a[x], b); mma_16x8x16({half}(), p[1], a[x], b + 2); }}",
            pitches[0]
        );
    } else {
        let _ = writeln!(
            text,
            "    UNROLL for (int n = 0; n < 2; n++) {{ {s} key = j + n * 8 + g; key = key < {t} ? key : {};",
            t - 1
        );
        let _ = writeln!(
            text,
            "    UNROLL for (int x = 0; x < {steps}; x++) {{ u32 b[2]; const {s} at = ks + key * ({s}){} + x * 16 + c * 2; b[0] = *(const GLOBAL u32 *)(k + at); b[1] = *(const GLOBAL u32 *)(k + at + 8); mma_16x8x16({half}(), p[n], a[x], b); }} }}",
            strides(1)[2]
        );
    }
    // Scale, mask, and hide what is beyond the last key.
    text.push_str("    UNROLL for (int n = 0; n < 2; n++) UNROLL for (int x = 0; x < 4; x++) {\n");
    let _ = writeln!(
        text,
        "    const {s} key = j + n * 8 + c * 2 + (x & 1), row = x < 2 ? q0 : q1; bool seen = key < {t};"
    );
    if op.causal {
        let _ = writeln!(text, "    seen = seen && key <= row + ({s}){t} - ({s}){};", z.s);
    }
    let _ = writeln!(text, "    float score = p[n][x] * {};", float(op.scale.get()));
    if op.mask {
        let _ = writeln!(text, "    if (seen) score = score + {};", mask(inputs, z, s, "row", "key"));
    }
    let _ = writeln!(text, "    (void)row; p[n][x] = seen ? score : -{infinity}; }}");
    for r in 0..2 {
        let (x, y) = (2 * r, 2 * r + 1);
        let _ = writeln!(
            text,
            "    {{ float m = f_max(f_max(p[0][{x}], p[0][{y}]), f_max(p[1][{x}], p[1][{y}])); m = f_max(m, shuffle_xor(m, 1)); m = f_max(m, shuffle_xor(m, 2)); m = f_max(m, top{r}); const float from = m == -{infinity} ? 0.0f : m; const float by = top{r} == -{infinity} ? 0.0f : m_exp(top{r} - from); top{r} = m; float sum = 0; UNROLL for (int n = 0; n < 2; n++) {{ p[n][{x}] = m_exp(p[n][{x}] - from); p[n][{y}] = m_exp(p[n][{y}] - from); sum += p[n][{x}] + p[n][{y}]; }} total{r} = total{r} * by + sum; UNROLL for (int n = 0; n < {columns}; n++) {{ acc[n][{x}] *= by; acc[n][{y}] *= by; }} }}"
        );
    }
    let pack = |a: &str, b: &str| format!("(u32){narrow}({a}).bits | (u32){narrow}({b}).bits << 16");
    let _ = writeln!(
        text,
        "    u32 w[4]; w[0] = {}; w[1] = {}; w[2] = {}; w[3] = {};",
        pack("p[0][0]", "p[0][1]"),
        pack("p[0][2]", "p[0][3]"),
        pack("p[1][0]", "p[1][1]"),
        pack("p[1][2]", "p[1][3]")
    );
    if staged {
        // Of an odd number of columns the last pair is half of use.
        let _ = writeln!(
            text,
            "    UNROLL for (int n = 0; n < {columns}; n += 2) {{ u32 b[4]; fragments_across(b, arena + {} + (j + (lane & 15)) * {} + (n + (lane >> 4)) * 16); mma_16x8x16({half}(), acc[n], w, b); if (n + 1 < {columns}) mma_16x8x16({half}(), acc[n + 1 < {columns} ? n + 1 : n], w, b + 2); }}\n    }}",
            keys * pitches[0],
            pitches[1]
        );
    } else {
        let _ = writeln!(
            text,
            "    UNROLL for (int n = 0; n < {columns}; n++) {{ u32 b[2]; UNROLL for (int x = 0; x < 2; x++) {{ const {s} key = j + x * 8 + c * 2, at = vs + n * 8 + g;"
        );
        let _ = writeln!(
            text,
            "    const u32 low = key < {t} ? v[at + key * ({s}){st}].bits : 0, high = key + 1 < {t} ? v[at + (key + 1) * ({s}){st}].bits : 0; b[x] = low | high << 16; }} mma_16x8x16({half}(), acc[n], w, b); }}\n    }}",
            st = strides(2)[2]
        );
    }
    for r in 0..2 {
        let _ =
            writeln!(text, "    total{r} += shuffle_xor(total{r}, 1); total{r} += shuffle_xor(total{r}, 2);");
    }
    // Each warp took some of the keys: join what they have.
    let _ = writeln!(
        text,
        "    SHARED float tops[{warps}][16], totals[{warps}][16], accs[{warps}][16][{e}];\n    if (c == 0) {{ tops[warp][g] = top0; tops[warp][g + 8] = top1; totals[warp][g] = total0; totals[warp][g + 8] = total1; }}"
    );
    let _ = writeln!(
        text,
        "    UNROLL for (int n = 0; n < {columns}; n++) {{ accs[warp][g][n * 8 + c * 2] = acc[n][0]; accs[warp][g][n * 8 + c * 2 + 1] = acc[n][1]; accs[warp][g + 8][n * 8 + c * 2] = acc[n][2]; accs[warp][g + 8][n * 8 + c * 2 + 1] = acc[n][3]; }}\n    BARRIER();"
    );
    let to = if op.merge_heads {
        format!("(((u64)batch * {}u + (u64)row) * {}u + (u64)head) * {e}u", z.s, z.h)
    } else {
        format!("(((u64)batch * {}u + (u64)head) * {}u + (u64)row) * {e}u", z.h, z.s)
    };
    // Once for each row and warp: what the warp's sums count.
    let _ = writeln!(
        text,
        "    SHARED float counts[{warps}][16];\n    if (TID < {}) {{ const int r = TID & 15, w = TID >> 4; float top = tops[0][r]; UNROLL for (int o = 1; o < {warps}; o++) top = f_max(top, tops[o][r]); const float from = top == -{infinity} ? 0.0f : top; float total = 0; UNROLL for (int o = 0; o < {warps}; o++) total += totals[o][r] * m_exp(tops[o][r] - from); counts[w][r] = total == 0.0f ? 0.0f : m_exp(tops[w][r] - from) / total; }}\n    BARRIER();",
        16 * warps
    );
    let _ = writeln!(
        text,
        "    for (int x = TID; x < {}; x += {threads}) {{ const int r = x / {half_e}, column = x % {half_e} * 2; const {s} row = tile + r; if (row >= {}) break; float low = 0, high = 0; UNROLL for (int w = 0; w < {warps}; w++) {{ low += accs[w][r][column] * counts[w][r]; high += accs[w][r][column + 1] * counts[w][r]; }} const u64 to = {to} + (u32)column; *(GLOBAL u32 *)(y + to) = pair_of({half}(), low, high); }}",
        8 * e,
        z.s,
        half_e = e / 2
    );
    let mut what = format!("fused attention, tensor cores, {warps} warps for 16 queries");
    let mut shared = 0;
    if staged {
        what.push_str(", keys and values in shared memory");
        // The last row's unused half pair lies beyond it.
        shared = keys * (pitches[0] + pitches[1]) + 16;
    }
    let kernel = Kernel::new(what, (z.b * z.h * tiles) as u64, threads).with_shared(shared as u32, 1);
    Some(bind(op, inputs, output, kernel).body(text))
}
