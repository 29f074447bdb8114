//! Attention into shared memory: a block's rows of it, of some of the heads, as the left factor of a product.

use std::fmt::Write;

use streampool_core::op::{Attention, Operand};

use super::walk::{Staged, Walk};
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

impl Block {
    /// Of 16 rows and a head each.
    fn tasks(&self) -> usize {
        self.heads * self.rows / 16
    }
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

    /// Bytes of keys and values of `heads` heads.
    fn staged_bytes(&self, heads: usize) -> usize {
        // The last row's unused half pair lies beyond it.
        self.head_bytes().iter().sum::<usize>() * heads + 16
    }

    /// Bytes of what `block` needs beside its place in the tile.
    pub(crate) fn bytes(&self, block: &Block) -> usize {
        let joined = if self.apart(block) { block.tasks() * self.joined_floats() * 4 } else { 0 };
        self.staged_bytes(block.heads) + joined
    }

    /// Keys that are looked at together.
    fn at_once(&self) -> usize {
        let keys = self.z.t.next_multiple_of(16);
        [64, 32].into_iter().find(|n| keys.is_multiple_of(*n) && self.z.e <= 64).unwrap_or(16)
    }

    /// Where the second half of the keys begins, if they are walked over in two halves: from the shape alone (INV-14).
    fn middle(&self) -> Option<usize> {
        let keys = self.z.t.next_multiple_of(16);
        (keys >= 2 * self.at_once() && keys >= 64).then(|| (keys / 2).next_multiple_of(self.at_once()))
    }

    /// Whether there are enough warps to walk over both halves at once.
    fn apart(&self, block: &Block) -> bool {
        self.middle().is_some() && 2 * block.tasks() <= block.warps
    }

    /// Floats that one warp tells another of a half of the keys.
    fn joined_floats(&self) -> usize {
        (self.z.e / 2 + 4) * 32
    }

    /// Adds the parameters.
    pub(crate) fn bind(&self, kernel: Kernel) -> Kernel {
        bind(self.op, self.inputs, kernel)
    }

    /// What the block does; all copies are done afterwards, and the block's threads have met.
    pub(crate) fn text(&self, block: &Block) -> String {
        let Self { op, inputs, z, s, half } = self;
        let Block { heads, warps, stage_bytes, free, .. } = *block;
        let Sizes { d, t, e, .. } = *z;
        let (keys, columns, threads) = (t.next_multiple_of(16), e / 8, warps * 32);
        let [key_bytes, value_bytes] = self.head_bytes();
        let tasks = block.tasks();
        let mut text = format!("    {{ const {s} batch = row0 / {};\n", z.s);
        for (n, name, length, from) in [(1, "k", d, 0), (2, "v", e, key_bytes)] {
            let chunks = length / 8;
            let all = keys * heads * chunks;
            let guard = if all.is_multiple_of(threads) { String::new() } else { format!("if (x < {all}) ") };
            let _ = writeln!(
                text,
                "    UNROLL for (int i = 0; i < {}; i++) {{ const {s} x = TID + i * {threads}, p = x % {chunks}, h = x / {chunks} % {heads}, r = x / {}, group = (rank * {heads} + h) / {}; {guard}copy_16(arena + {} + h * {} + r * {} + p * 16, {name} + ({} + (r < {t} ? r : 0) * ({s}){} + p * 8), r < {t}); }}\n    COPIES_COMMIT();",
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
            "const {s} g = lane >> 2, c = lane & 3, mine = task % {heads}, local = task / {heads} * 16, tile = row0 % {} + local, head = rank * {heads} + mine; const {s} qs = {};\n    const u8 *const head_keys = arena + {free} + mine * {}, *const head_values = head_keys + {key_bytes};\n",
            z.s,
            base(inputs, s, 0, "head"),
            key_bytes + value_bytes
        );
        let last = t.to_string();
        let walk = |from, to, once| Walk {
            op,
            inputs,
            z,
            s,
            half,
            staged: Some(Staged { keys: "head_keys", values: "head_values", pitches: pitches(z) }),
            at_once: self.at_once(),
            from,
            to,
            stride: self.at_once(),
            once,
        };
        let whole = walk("0", &last, None);
        let arrived = "    COPIES_WAIT(0); BARRIER();\n";
        let middle = self.middle();
        if let (Some(middle), true) = (middle, self.apart(block)) {
            // Each half of a head's keys has its warp; the queries, and a mask that is looked at once, are under way with the keys, the values with all that
            // is done to keys that are looked at once.
            let step = middle <= self.at_once() && t - middle <= self.at_once() && !op.causal;
            let _ = writeln!(
                text,
                "    const bool busy = (TID >> 5) < {}; const i32 unit = busy ? TID >> 5 : 0, part = unit / {tasks}, task = unit % {tasks}; {task}    const {s} begin = part * {middle}, from = busy ? begin : {t}, to = part != 0 ? {t} : {middle}; (void)from; (void)to;",
                2 * tasks
            );
            let walk = if step { walk("begin", "to", Some(arrived)) } else { walk("from", "to", None) };
            text.push_str(&walk.queries());
            if step && op.mask {
                text.push_str(&walk.masks("begin"));
            }
            text.push_str(if step { "    COPIES_WAIT(1); BARRIER();\n" } else { arrived });
            text.push_str(&walk.text());
            let joined = free + self.staged_bytes(heads);
            let _ = writeln!(
                text,
                "    float *const joined = (float *)(arena + {joined}) + task * {} + lane;\n    if (busy && part != 0) {{ UNROLL for (int n = 0; n < {columns}; n++) UNROLL for (int x = 0; x < 4; x++) joined[(n * 4 + x) * 32] = acc[n][x]; joined[{e0} * 32] = top0; joined[{e1} * 32] = top1; joined[{e2} * 32] = total0; joined[{e3} * 32] = total1; }}\n    BARRIER();\n    if (busy && part == 0) {{ float other[{columns}][4]; UNROLL for (int n = 0; n < {columns}; n++) UNROLL for (int x = 0; x < 4; x++) other[n][x] = joined[(n * 4 + x) * 32]; const float other_top0 = joined[{e0} * 32], other_top1 = joined[{e1} * 32], other_total0 = joined[{e2} * 32], other_total1 = joined[{e3} * 32];",
                self.joined_floats(),
                e0 = columns * 4,
                e1 = columns * 4 + 1,
                e2 = columns * 4 + 2,
                e3 = columns * 4 + 3,
            );
            text.push_str(&walk.join());
        } else {
            if tasks <= warps {
                // The queries are under way with the keys.
                let _ = writeln!(text, "    const i32 task = (TID >> 5) < {tasks} ? TID >> 5 : 0; {task}");
                text.push_str(&whole.queries());
                text.push_str(arrived);
                let _ = writeln!(text, "    if ((TID >> 5) < {tasks}) {{");
            } else {
                text.push_str(arrived);
                let _ = writeln!(
                    text,
                    "    for (i32 task = TID >> 5; task < {tasks}; task += {warps}) {{ {task}"
                );
                text.push_str(&whole.queries());
            }
            if let Some(middle) = middle {
                // As two warps do it.
                let middle = middle.to_string();
                let _ = writeln!(
                    text,
                    "    float other[{columns}][4], other_top0, other_top1, other_total0, other_total1; {{\n{}    other_top0 = top0; other_top1 = top1; other_total0 = total0; other_total1 = total1; UNROLL for (int n = 0; n < {columns}; n++) UNROLL for (int x = 0; x < 4; x++) other[n][x] = acc[n][x]; }}",
                    walk("0", &middle, None).text()
                );
                let second = walk(&middle, &last, None);
                text.push_str(&second.text());
                text.push_str(&second.join());
            } else {
                text.push_str(&whole.text());
            }
        }
        let _ = writeln!(
            text,
            "    const float by0 = total0 == 0.0f ? 0.0f : 1.0f / total0, by1 = total1 == 0.0f ? 0.0f : 1.0f / total1;\n    UNROLL for (int n = 0; n < {columns}; n++) {{ const i32 x = (i32)mine * {e} + n * 8; u8 *const to = arena + (x >> 6) * {stage_bytes} + c * 4; const i32 l0 = (i32)(local + g), l1 = l0 + 8, chunk = (x & 63) >> 3; *(u32 *)(to + l0 * 128 + ((chunk ^ (l0 & 7)) << 4)) = pair_of({half}(), acc[n][0] * by0, acc[n][1] * by0); *(u32 *)(to + l1 * 128 + ((chunk ^ (l1 & 7)) << 4)) = pair_of({half}(), acc[n][2] * by1, acc[n][3] * by1); }} }}\n    BARRIER(); }}"
        );
        text
    }
}
