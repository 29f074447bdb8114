//! The walk of a warp over a head's keys on tensor cores.

use std::fmt::Write;

use streampool_core::op::{Attention, DType, Operand};

use super::{Sizes, aligned, mask, mask_at, wide_rows};
use crate::emit::{broadcast, float, storage};

/// What a warp does for 16 queries of a head on tensor cores: lanes hold their scores and sums as `mma` lays them out.
pub(super) struct Walk<'a> {
    pub(super) op: &'a Attention,
    pub(super) inputs: &'a [Operand],
    pub(super) z: &'a Sizes,
    /// The type of indices.
    pub(super) s: &'static str,
    pub(super) half: &'static str,
    /// Where keys and values lie in shared memory; `None` for straight from memory, 16 keys at a time.
    pub(super) staged: Option<Staged<'a>>,
    /// Keys that are looked at together, and the first one's number, the end, and how many lie between the walk's steps.
    pub(super) at_once: usize,
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    pub(super) stride: usize,
    /// If there is one step, from `from` on: what comes before the values. All threads of the block do it, and [`Walk::masks`] has come first.
    pub(super) once: Option<&'a str>,
}

/// Keys and values in shared memory, rows of so many bytes.
#[derive(Clone, Copy)]
pub(super) struct Staged<'a> {
    pub(super) keys: &'a str,
    pub(super) values: &'a str,
    pub(super) pitches: [usize; 2],
}

/// What exponents of e are multiplied by to be exponents of 2.
const LOG2_E: f32 = std::f32::consts::LOG2_E;

pub(super) const INFINITY: &str = "float_of_bits(0x7f800000u)";

impl Walk<'_> {
    fn strides(&self, n: usize) -> &[isize] {
        &self.inputs[n].layout.strides
    }

    /// Whether tensor cores can do it, and from shared memory, too.
    pub(super) fn possible(inputs: &[Operand], output: &Operand, z: &Sizes) -> (bool, bool) {
        let even = |n: usize| {
            let l = &inputs[n].layout;
            l.strides[3] == 1
                && l.offset.is_multiple_of(2)
                && l.strides[..3].iter().zip(l.shape.iter()).all(|(s, &len)| s % 2 == 0 || len == 1)
        };
        let possible = matches!(output.dtype, DType::F16 | DType::BF16)
            && (1..=128).contains(&z.d)
            && (1..=128).contains(&z.e)
            && z.d.is_multiple_of(16)
            && z.e.is_multiple_of(8)
            && z.t > 0
            && even(0)
            && even(1);
        (possible, possible && [1, 2].into_iter().all(|n| wide_rows(&inputs[n])))
    }

    /// Rows `q0` and `q1` of a lane, of the queries from `tile` on, into registers.
    pub(super) fn queries(&self) -> String {
        let (s, steps, last) = (self.s, self.z.d / 16, self.z.s - 1);
        let mut text = format!(
            "    const {s} r0 = tile + g, r1 = tile + g + 8; const {s} q0 = r0 < {last} ? r0 : {last}, q1 = r1 < {last} ? r1 : {last};\n    u32 a[{steps}][4];\n    UNROLL for (int x = 0; x < {steps}; x++) {{\n"
        );
        for (reg, (row, plus)) in [("q0", 0), ("q1", 0), ("q0", 8), ("q1", 8)].into_iter().enumerate() {
            let _ = writeln!(
                text,
                "    a[x][{reg}] = *(const GLOBAL u32 *)(q + (qs + {row} * ({s}){} + x * 16 + c * 2 + {plus}));",
                self.strides(0)[2]
            );
        }
        text.push_str("    }\n");
        text
    }

    /// The element of the mask beside each score from key `j` on, two at a time if they lie so.
    pub(super) fn masks(&self, j: &str) -> String {
        let Self { s, z, inputs, at_once, .. } = self;
        let strides = broadcast(&inputs[3].layout, &[z.b, z.h, z.s, z.t]);
        let paired = matches!(inputs[3].dtype, DType::F16 | DType::BF16)
            && strides[3] == 1
            && strides[..3].iter().all(|s| s % 2 == 0)
            && inputs[3].layout.offset.is_multiple_of(2)
            && aligned(&inputs[3], 4)
            && z.t.is_multiple_of(2);
        let mut text = format!(
            "    float masks[{}][4];\n    UNROLL for (int n = 0; n < {}; n++) {{",
            at_once / 8,
            at_once / 8
        );
        let seen = if z.t.is_multiple_of(*at_once) { "true".to_owned() } else { format!("key < {}", z.t) };
        if paired {
            let half = storage(inputs[3].dtype);
            for (r, row) in ["q0", "q1"].into_iter().enumerate() {
                let at = mask_at(inputs, z, s, row, "key");
                let _ = write!(
                    text,
                    " {{ const {s} key = {j} + n * 8 + c * 2; const u32 m = {seen} ? *(const GLOBAL u32 *)(mask + ({at})) : 0; masks[n][{}] = low_of({half}(), m); masks[n][{}] = high_of({half}(), m); }}",
                    2 * r,
                    2 * r + 1
                );
            }
        } else {
            let _ = write!(
                text,
                " UNROLL for (int x = 0; x < 4; x++) {{ const {s} key = {j} + n * 8 + c * 2 + (x & 1), row = x < 2 ? q0 : q1; (void)row; masks[n][x] = {seen} ? (float)({}) : 0.0f; }}",
                mask(inputs, z, s, "row", "key")
            );
        }
        text.push_str(" }\n");
        text
    }

    /// Declares the sums, and walks over the keys: then `acc` has what the values add up to, `total0` and `total1` of `top0` and `top1` what a lane saw
    /// of its rows' weights, in units of which 2 is the base.
    pub(super) fn text(&self) -> String {
        let Self { op, z, s, half, at_once, from, to, stride, .. } = *self;
        let Sizes { d, t, e, .. } = *z;
        let (steps, columns, tiles) = (d / 16, e / 8, at_once / 8);
        let narrow = format!("narrow_{half}");
        let mut text = format!(
            "    float acc[{columns}][4];\n    UNROLL for (int n = 0; n < {columns}; n++) UNROLL for (int x = 0; x < 4; x++) acc[n][x] = 0;\n    float top0 = -{INFINITY}, top1 = -{INFINITY}, total0 = 0, total1 = 0;\n"
        );
        let end = if op.causal {
            let _ = writeln!(
                text,
                "    {s} end = tile + 16 + ({s}){t} - ({s}){}; end = end < 0 ? 0 : end > {to} ? {to} : end;",
                z.s
            );
            "end"
        } else {
            to
        };
        let begin = match self.once {
            Some(_) => format!("const {s} j = {from}; {{"),
            None => format!("for ({s} j = {from}; j < {end}; j += {stride}) {{"),
        };
        let _ = writeln!(
            text,
            "    {begin}\n    float p[{tiles}][4];\n    UNROLL for (int n = 0; n < {tiles}; n++) UNROLL for (int x = 0; x < 4; x++) p[n][x] = 0;"
        );
        if op.mask && self.once.is_none() {
            text.push_str(&self.masks("j"));
        }
        if let Some(Staged { keys, pitches, .. }) = self.staged {
            let _ = writeln!(
                text,
                "    UNROLL for (int n = 0; n < {tiles}; n += 2) UNROLL for (int x = 0; x < {steps}; x++) {{ u32 b[4]; fragments(b, {keys} + (j + n * 8 + (lane & 7) + (lane >> 4 << 3)) * {} + (x * 2 + (lane >> 3 & 1)) * 16); mma_16x8x16({half}(), p[n], a[x], b); mma_16x8x16({half}(), p[n + 1], a[x], b + 2); }}",
                pitches[0]
            );
        } else {
            let _ = writeln!(
                text,
                "    UNROLL for (int n = 0; n < {tiles}; n++) {{ {s} key = j + n * 8 + g; key = key < {t} ? key : {};",
                t - 1
            );
            let _ = writeln!(
                text,
                "    UNROLL for (int x = 0; x < {steps}; x++) {{ u32 b[2]; const {s} at = ks + key * ({s}){} + x * 16 + c * 2; b[0] = *(const GLOBAL u32 *)(k + at); b[1] = *(const GLOBAL u32 *)(k + at + 8); mma_16x8x16({half}(), p[n], a[x], b); }} }}",
                self.strides(1)[2]
            );
        }
        // Scale, mask, and hide what is beyond the last key; in units of which 2 is the base.
        let _ = writeln!(
            text,
            "    UNROLL for (int n = 0; n < {tiles}; n++) UNROLL for (int x = 0; x < 4; x++) {{\n    const {s} key = j + n * 8 + c * 2 + (x & 1), row = x < 2 ? q0 : q1; bool seen = {};",
            if t.is_multiple_of(at_once) { "true".to_owned() } else { format!("key < {t}") }
        );
        if op.causal {
            let _ = writeln!(text, "    seen = seen && key <= row + ({s}){t} - ({s}){};", z.s);
        }
        let _ = writeln!(text, "    float score = p[n][x] * {};", float(op.scale.get() * LOG2_E));
        if op.mask {
            let _ = writeln!(text, "    score = m_fma(masks[n][x], {}, score);", float(LOG2_E));
        }
        let _ = writeln!(text, "    (void)row; (void)key; p[n][x] = seen ? score : -{INFINITY}; }}");
        for r in 0..2 {
            let (x, y) = (2 * r, 2 * r + 1);
            let _ = writeln!(
                text,
                "    {{ float m = max_near(p[0][{x}], p[0][{y}]); UNROLL for (int n = 1; n < {tiles}; n++) m = max_near(m, max_near(p[n][{x}], p[n][{y}])); m = max_near(m, shuffle_xor(m, 1)); m = max_near(m, shuffle_xor(m, 2)); m = max_near(m, top{r}); const float from = m == -{INFINITY} ? 0.0f : m; const float by = top{r} == -{INFINITY} ? 0.0f : exp2_near(top{r} - from); top{r} = m; float sum = 0; UNROLL for (int n = 0; n < {tiles}; n++) {{ p[n][{x}] = exp2_near(p[n][{x}] - from); p[n][{y}] = exp2_near(p[n][{y}] - from); sum += p[n][{x}] + p[n][{y}]; }} total{r} = total{r} * by + sum; UNROLL for (int n = 0; n < {columns}; n++) {{ acc[n][{x}] *= by; acc[n][{y}] *= by; }} }}"
            );
        }
        if let Some(before) = self.once {
            text.push_str(before);
        }
        let pack = |n: &str, x: usize| {
            format!("(u32){narrow}(p[{n}][{x}]).bits | (u32){narrow}(p[{n}][{}]).bits << 16", x + 1)
        };
        let _ = writeln!(
            text,
            "    UNROLL for (int i = 0; i < {tiles}; i += 2) {{ u32 w[4]; w[0] = {}; w[1] = {}; w[2] = {}; w[3] = {};",
            pack("i", 0),
            pack("i", 2),
            pack("i + 1", 0),
            pack("i + 1", 2)
        );
        if let Some(Staged { values, pitches, .. }) = self.staged {
            // Of an odd number of columns the last pair is half of use.
            let _ = writeln!(
                text,
                "    UNROLL for (int n = 0; n < {columns}; n += 2) {{ u32 b[4]; fragments_across(b, {values} + (j + i * 8 + (lane & 15)) * {} + (n + (lane >> 4)) * 16); mma_16x8x16({half}(), acc[n], w, b); if (n + 1 < {columns}) mma_16x8x16({half}(), acc[n + 1 < {columns} ? n + 1 : n], w, b + 2); }} }}\n    }}",
                pitches[1]
            );
        } else {
            let _ = writeln!(
                text,
                "    UNROLL for (int n = 0; n < {columns}; n++) {{ u32 b[2]; UNROLL for (int x = 0; x < 2; x++) {{ const {s} key = j + i * 8 + x * 8 + c * 2, at = vs + (n * 8 + g) * ({s}){};",
                self.strides(2)[3]
            );
            let _ = writeln!(
                text,
                "    const u32 low = key < {t} ? v[at + key * ({s}){st}].bits : 0, high = key + 1 < {t} ? v[at + (key + 1) * ({s}){st}].bits : 0; b[x] = low | high << 16; }} mma_16x8x16({half}(), acc[n], w, b); }} }}\n    }}",
                st = self.strides(2)[2]
            );
        }
        for r in 0..2 {
            let _ = writeln!(
                text,
                "    total{r} += shuffle_xor(total{r}, 1); total{r} += shuffle_xor(total{r}, 2);"
            );
        }
        text
    }

    /// Joins what a walk over the other half of the keys found (`other`, `other_top0`, ...) with this one's. Which half is the other does not matter.
    pub(super) fn join(&self) -> String {
        let columns = self.z.e / 8;
        let mut text = String::new();
        for r in 0..2 {
            let (x, y) = (2 * r, 2 * r + 1);
            let _ = writeln!(
                text,
                "    {{ const float m = max_near(top{r}, other_top{r}), from = m == -{INFINITY} ? 0.0f : m, own = exp2_near(top{r} - from), its = exp2_near(other_top{r} - from); total{r} = total{r} * own + other_total{r} * its; UNROLL for (int n = 0; n < {columns}; n++) {{ acc[n][{x}] = acc[n][{x}] * own + other[n][{x}] * its; acc[n][{y}] = acc[n][{y}] * own + other[n][{y}] * its; }} }}"
            );
        }
        text
    }
}
