//! Attention on tensor cores as a kernel of its own.

use std::fmt::Write;

use streampool_core::op::{Attention, Operand};

use super::walk::{INFINITY, Staged, Walk};
use super::{Sizes, base, bind, pitches};
use crate::emit::{Index, storage};
use crate::{Binding, Kernel, Target};

/// Bytes of shared memory that keys and values may take.
const STAGED: usize = 96 << 10;

/// Bytes in which warps tell each other their sums (`tops`, `totals`, `counts`, `accs`).
fn joined_bytes(warps: usize, e: usize) -> usize {
    warps * 16 * (3 + e) * 4
}

/// A block for 16 queries of a head: its warps take turns at keys, and join at the end.
pub(super) fn tensor_cores(
    op: &Attention,
    inputs: &[Operand],
    output: &Operand,
    z: &Sizes,
    target: Target,
) -> Option<Kernel> {
    let (possible, wide) = Walk::possible(inputs, output, z);
    if !possible || !output.layout.offset.is_multiple_of(2) {
        return None;
    }
    let Sizes { d, t, e, .. } = *z;
    let index = Index::of(&inputs.iter().chain([output]).map(|o| &o.layout).collect::<Vec<_>>());
    let s = index.s();
    let tiles = z.s.div_ceil(16);
    let columns = e / 8;
    let half = storage(output.dtype);
    // From the shape alone (INV-14).
    let warps = z.t.div_ceil(16).min(4);
    let threads = 32 * warps as u32;
    // Keys and values through shared memory, if they fit: each row is then read once, 16 bytes at a time, and all of them at once.
    let keys = t.next_multiple_of(16);
    let pitches = pitches(z);
    // The last row's unused half pair lies beyond it.
    let bytes = keys * (pitches[0] + pitches[1]) + 16;
    let staged = wide && bytes <= STAGED && bytes + joined_bytes(warps, e) <= target.shared;
    let at_once = if staged {
        [64, 32].into_iter().find(|n| keys.is_multiple_of(*n) && n * warps <= keys && e <= 64).unwrap_or(16)
    } else {
        16
    };
    let mut text = format!("    const {s} warp = TID >> 5, lane = TID & 31, g = lane >> 2, c = lane & 3;\n");
    let _ = writeln!(
        text,
        "    const {s} tile = ({s})(BID % {tiles}u) * 16, head = ({s})(BID / {tiles}u % {h}u), batch = ({s})(BID / {all}u), group = head / {pg};",
        h = z.h,
        all = tiles * z.h,
        pg = z.per_group
    );
    for (n, name, of) in [(0, "qs", "head"), (1, "ks", "group"), (2, "vs", "group")] {
        let _ = writeln!(text, "    const {s} {name} = {};", base(inputs, s, n, of));
    }
    let values = format!("arena + {}", keys * pitches[0]);
    if staged {
        text.push_str("    SHARED_ARENA(arena);\n");
        for (n, name, length, to) in [(1, "k", d, "arena"), (2, "v", e, &*values)] {
            let chunks = length / 8;
            let _ = writeln!(
                text,
                "    for (int x = TID; x < {}; x += {threads}) {{ const {s} r = x / {chunks}, p = x % {chunks}; copy_16({to} + r * {} + p * 16, {name} + ({name}s + (r < {t} ? r : 0) * ({s}){} + p * 8), r < {t}); }}",
                keys * chunks,
                pitches[n - 1],
                inputs[n].layout.strides[2]
            );
        }
        text.push_str("    COPIES_COMMIT();\n");
    }
    let walk = Walk {
        op,
        inputs,
        z,
        s,
        half,
        staged: staged.then_some(Staged { keys: "arena", values: &values, pitches }),
        at_once,
        from: &format!("warp * {at_once}"),
        to: &t.to_string(),
        stride: at_once * warps,
        once: None,
    };
    text.push_str(&walk.queries());
    if staged {
        text.push_str("    COPIES_WAIT(0); BARRIER();\n");
    }
    text.push_str(&walk.text());
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
        "    SHARED float counts[{warps}][16];\n    if (TID < {}) {{ const int r = TID & 15, w = TID >> 4; float top = tops[0][r]; UNROLL for (int o = 1; o < {warps}; o++) top = max_near(top, tops[o][r]); const float from = top == -{INFINITY} ? 0.0f : top; float total = 0; UNROLL for (int o = 0; o < {warps}; o++) total += totals[o][r] * exp2_near(tops[o][r] - from); counts[w][r] = total == 0.0f ? 0.0f : exp2_near(tops[w][r] - from) / total; }}\n    BARRIER();",
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
        shared = bytes;
    }
    let kernel = Kernel::new(what, (z.b * z.h * tiles) as u64, threads).with_shared(shared as u32, 1);
    Some(bind(op, inputs, kernel).param(Binding::Output(0), "y", half).with_barriers().apart().body(text))
}
