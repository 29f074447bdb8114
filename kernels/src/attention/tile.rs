//! Attention into shared memory: a block's rows of it, of some of the heads, as the left factor of a product.

use std::fmt::Write;

use streampool_core::op::{Attention, Operand};

use super::walk::{INFINITY, Staged, Walk};
use super::{Sizes, base, bind, pitches};
use crate::Kernel;
use crate::emit::{Index, storage};

/// What a block of a product's kernel does first. The kernel's `row0` is its first row, `rank` tells its heads, `arena` is its shared memory.
pub(crate) struct IntoTile<'a> {
    op: &'a Attention,
    inputs: &'a [Operand],
    z: Sizes,
    s: &'static str,
    half: &'static str,
}

/// The block's part, and where it goes.
pub(crate) struct Block {
    /// Rows and heads, by so many warps.
    pub(crate) rows: usize,
    pub(crate) heads: usize,
    pub(crate) warps: usize,
    /// Bytes from one stage of 64 columns to the next, from the arena's first byte on.
    pub(crate) stage_bytes: usize,
    /// Where keys and values may go meanwhile.
    pub(crate) free: usize,
}

impl<'a> IntoTile<'a> {
    /// Of an attention whose heads lie side by side, if tensor cores can do it from shared memory.
    pub(crate) fn new(op: &'a Attention, inputs: &'a [Operand], output: &Operand) -> Option<Self> {
        let z = Sizes::of(inputs);
        let (_, wide) = Walk::possible(inputs, output, &z);
        let index = Index::of(&inputs.iter().map(|o| &o.layout).collect::<Vec<_>>());
        (wide && op.merge_heads).then_some(Self { op, inputs, z, s: index.s(), half: storage(output.dtype) })
    }

    /// Batches, heads, queries, and length of a value.
    pub(crate) fn sizes(&self) -> (usize, usize, usize, usize) {
        (self.z.b, self.z.h, self.z.s, self.z.e)
    }

    /// Bytes of a head's keys and of its values.
    fn head_bytes(&self) -> [usize; 2] {
        pitches(&self.z).map(|pitch| self.z.t.next_multiple_of(16) * pitch)
    }

    /// Warps that share the keys of 16 queries of a head.
    fn parts(&self, block: &Block) -> usize {
        let keys = self.z.t.next_multiple_of(16);
        let fits = |p: usize| block.heads * block.rows / 16 * p <= block.warps && keys.is_multiple_of(p * 16);
        [4, 2].into_iter().find(|&p| fits(p)).unwrap_or(1)
    }

    /// Bytes that the block needs beyond its tile.
    pub(crate) fn bytes(&self, block: &Block) -> usize {
        let parts = self.parts(block);
        let sums = if parts > 1 { block.heads * block.rows * parts * (self.z.e + 2) * 4 } else { 0 };
        // The last row's unused half pair lies beyond it.
        self.head_bytes().iter().sum::<usize>() * block.heads + 16 + sums
    }

    /// Adds the parameters.
    pub(crate) fn bind(&self, kernel: Kernel) -> Kernel {
        bind(self.op, self.inputs, kernel)
    }

    /// What the block does; all copies are done afterwards, and the block's threads have met.
    pub(crate) fn text(&self, block: &Block) -> String {
        let Self { op, inputs, z, s, half } = self;
        let Block { rows, heads, warps, stage_bytes, free } = *block;
        let Sizes { d, t, e, .. } = *z;
        let (keys, columns, threads) = (t.next_multiple_of(16), e / 8, warps * 32);
        let [key_bytes, value_bytes] = self.head_bytes();
        let parts = self.parts(block);
        let tasks = heads * rows / 16 * parts;
        let mut text = format!("    {{ const {s} batch = row0 / {};\n", z.s);
        for (n, name, length, from) in [(1, "k", d, 0), (2, "v", e, key_bytes)] {
            let chunks = length / 8;
            let all = keys * heads * chunks;
            let guard = if all.is_multiple_of(threads) { String::new() } else { format!("if (x < {all}) ") };
            let _ = writeln!(
                text,
                "    UNROLL for (int i = 0; i < {}; i++) {{ const {s} x = TID + i * {threads}, p = x % {chunks}, h = x / {chunks} % {heads}, r = x / {}, group = (rank * {heads} + h) / {}; {guard}copy_16(arena + {} + h * {} + r * {} + p * 16, {name} + ({} + (r < {t} ? r : 0) * ({s}){} + p * 8), r < {t}); }}",
                all.div_ceil(threads),
                chunks * heads,
                z.per_group,
                free + from,
                key_bytes + value_bytes,
                pitches(z)[n - 1],
                base(inputs, s, n, "group"),
                inputs[n].layout.strides[2]
            );
        }
        let task = format!(
            "const {s} g = lane >> 2, c = lane & 3, part = task % {parts}, mine = task / {parts} % {heads}, local = task / {} * 16, tile = row0 % {} + local, head = rank * {heads} + mine; const {s} qs = {};\n    const u8 *const head_keys = arena + {free} + mine * {}, *const head_values = head_keys + {key_bytes}; (void)part;\n",
            heads * parts,
            z.s,
            base(inputs, s, 0, "head"),
            key_bytes + value_bytes
        );
        let each = keys / parts;
        let until = format!("(part + 1) * {each}");
        let at_once = [64, 32].into_iter().find(|n| each.is_multiple_of(*n) && e <= 64).unwrap_or(16);
        let walk = Walk {
            op,
            inputs,
            z,
            s,
            half,
            staged: Some(Staged { keys: "head_keys", values: "head_values", pitches: pitches(z) }),
            at_once,
            from: &format!("part * {each}"),
            stride: at_once,
            until: (parts > 1).then_some(&until),
        };
        let arrived = "    COPIES_COMMIT(); COPIES_WAIT(0); BARRIER();\n";
        if tasks <= warps {
            // The queries are under way with the keys.
            let _ = writeln!(text, "    const i32 task = (TID >> 5) < {tasks} ? TID >> 5 : 0; {task}");
            text.push_str(&walk.queries());
            text.push_str(arrived);
            let _ = writeln!(text, "    if ((TID >> 5) < {tasks}) {{");
        } else {
            text.push_str(arrived);
            let _ =
                writeln!(text, "    for (i32 task = TID >> 5; task < {tasks}; task += {warps}) {{ {task}");
            text.push_str(&walk.queries());
        }
        text.push_str(&walk.text());
        if parts == 1 {
            let _ = writeln!(
                text,
                "    const float by0 = total0 == 0.0f ? 0.0f : 1.0f / total0, by1 = total1 == 0.0f ? 0.0f : 1.0f / total1;\n    UNROLL for (int n = 0; n < {columns}; n++) {{ const i32 x = (i32)mine * {e} + n * 8; u8 *const to = arena + (x >> 6) * {stage_bytes} + c * 4; const i32 l0 = (i32)(local + g), l1 = l0 + 8, chunk = (x & 63) >> 3; *(u32 *)(to + l0 * 128 + ((chunk ^ (l0 & 7)) << 4)) = pair_of({half}(), acc[n][0] * by0, acc[n][1] * by0); *(u32 *)(to + l1 * 128 + ((chunk ^ (l1 & 7)) << 4)) = pair_of({half}(), acc[n][2] * by1, acc[n][3] * by1); }} }}\n    BARRIER(); }}"
            );
            return text;
        }
        // Rows of sums, then the greatest score and the total of weights.
        let (pitch, pairs) = (e + 2, e / 2);
        let _ = writeln!(
            text,
            "    float *const to = (float *)(arena + {}) + task * {} + g * {pitch};\n    UNROLL for (int n = 0; n < {columns}; n++) {{ to[n * 8 + c * 2] = acc[n][0]; to[n * 8 + c * 2 + 1] = acc[n][1]; to[8 * {pitch} + n * 8 + c * 2] = acc[n][2]; to[8 * {pitch} + n * 8 + c * 2 + 1] = acc[n][3]; }}\n    if (c == 0) {{ to[{e}] = top0; to[{e} + 1] = total0; to[8 * {pitch} + {e}] = top1; to[8 * {pitch} + {e} + 1] = total1; }} }}\n    BARRIER();",
            free + (key_bytes + value_bytes) * heads + 16,
            16 * pitch
        );
        let _ = writeln!(
            text,
            "    for (i32 x = TID; x < {}; x += {threads}) {{ const i32 column = x % {pairs} * 2, mine = x / {pairs} % {heads}, lr = x / {}; const float *const from = (const float *)(arena + {}) + ((lr >> 4) * {heads} + mine) * {} + (lr & 15) * {pitch};",
            heads * rows * pairs,
            pairs * heads,
            free + (key_bytes + value_bytes) * heads + 16,
            parts * 16 * pitch
        );
        let _ = writeln!(
            text,
            "    float top = from[{e}]; UNROLL for (int p = 1; p < {parts}; p++) top = max_near(top, from[p * {} + {e}]); const float base = top == -{INFINITY} ? 0.0f : top; float total = 0, low = 0, high = 0;",
            16 * pitch
        );
        let _ = writeln!(
            text,
            "    UNROLL for (int p = 0; p < {parts}; p++) {{ const float *const its = from + p * {}; const float by = exp2_near(its[{e}] - base); total += its[{e} + 1] * by; low += its[column] * by; high += its[column + 1] * by; }}\n    const float by = total == 0.0f ? 0.0f : 1.0f / total; const i32 at = mine * {e} + column; *(u32 *)(arena + (at >> 6) * {stage_bytes} + lr * 128 + (((at & 63) >> 3 ^ (lr & 7)) << 4) + (at & 7) * 2) = pair_of({half}(), low * by, high * by); }}\n    BARRIER(); }}",
            16 * pitch
        );
        text
    }
}
