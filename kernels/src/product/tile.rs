//! How tiles get to shared memory and from there to the tensor cores.
//!
//! A stage holds up to [`STAGE`] elements of the inner axis. Rows of the left factor, and columns of a weight that is stored by columns, take 128 bytes
//! each; a weight that is stored by rows keeps its rows. Groups of 16 bytes are swizzled by the row's number.

use std::fmt::Write;

/// How often `at_once` threads go to do `n` things, and the guard of the last time if they do not divide.
fn passes(n: usize, at_once: usize, guard: &str) -> (usize, String) {
    let guard = if n.is_multiple_of(at_once) { String::new() } else { format!("if ({guard}) ") };
    (n.div_ceil(at_once), guard)
}

/// Columns for which a row of a weight's part has room, if it holds `columns`: what is swizzled stays among eight groups of 16 bytes.
pub(super) fn room(columns: usize) -> usize {
    columns.next_multiple_of(64)
}

fn condition(terms: &[String]) -> String {
    if terms.is_empty() { "true".to_owned() } else { terms.join(" && ") }
}

/// A part of a matrix on its way to shared memory.
pub(super) struct Part<'a> {
    /// The matrix, and elements from one of its rows to the next.
    pub(super) name: &'a str,
    pub(super) pitch: usize,
    /// Where it goes.
    pub(super) to: &'a str,
    /// The part's extent across the inner axis, where it begins, and what is beyond the matrix: zeros are taken instead.
    pub(super) length: usize,
    pub(super) first: &'a str,
    pub(super) most: usize,
    /// Its extent along the inner axis, where it begins, and, if it may reach beyond, the end.
    pub(super) width: usize,
    pub(super) k: &'a str,
    pub(super) end: Option<&'a str>,
    pub(super) threads: usize,
}

impl Part<'_> {
    fn within(&self, across: String) -> String {
        let mut terms = Vec::new();
        if !self.most.is_multiple_of(self.length) {
            terms.push(format!("{across} < {}", self.most));
        }
        terms.extend(self.end.map(|end| format!("k < {end}")));
        condition(&terms)
    }

    /// Of a matrix whose rows run along the inner axis.
    pub(super) fn along(&self) -> String {
        let Part { name, pitch, to, length, first, width, k, threads, .. } = *self;
        let chunks = width / 8;
        let there = self.within(format!("{first} + r"));
        // Where they divide, a thread's rows differ by multiples of 8, and so does nothing else of its addresses.
        let at = if threads.is_multiple_of(chunks * 8) {
            format!("r = TID / {chunks} + e * {}, c = TID % {chunks}", threads / chunks)
        } else {
            format!("x = TID + e * {threads}, r = x / {chunks}, c = x % {chunks}")
        };
        let (passes, guard) = passes(length * chunks, threads, &format!("r < {length}"));
        format!(
            "    UNROLL for (int e = 0; e < {passes}; e++) {{ const i32 {at}, k = {k} + c * 8; const bool there = {there}; {guard}copy_16({to} + r * 128 + ((c ^ (r & 7)) << 4), {name} + (there ? (i64)({first} + r) * {pitch} + k : 0), there); }}\n"
        )
    }

    /// Of a matrix whose rows run across the inner axis.
    pub(super) fn across(&self) -> String {
        let Part { name, pitch, to, length, first, width, k, threads, .. } = *self;
        let there = self.within(format!("{first} + c * 8"));
        // So many threads side by side that a thread's rows differ by multiples of 8, and so does nothing else of its addresses.
        let side = (1..=16)
            .rev()
            .find(|s| (length / 8).is_multiple_of(*s) && threads.is_multiple_of(*s))
            .unwrap_or(1);
        let step = threads / side;
        let (rounds, guard) = passes(width, step, &format!("r < {width}"));
        format!(
            "    UNROLL for (int e = 0; e < {rounds}; e++) UNROLL for (int f = 0; f < {}; f++) {{ const i32 r = TID / {side} + e * {step}, c = TID % {side} + f * {side}, k = {k} + r; const bool there = {there}; {guard}copy_16({to} + r * {} + ((c ^ (r & 7)) << 4), {name} + (there ? (i64)k * {pitch} + {first} + c * 8 : 0), there); }}\n",
            length / 8 / side,
            room(length) * 2
        )
    }
}

/// Products of a stage: what a warp does.
pub(super) struct Steps<'a> {
    pub(super) half: &'a str,
    /// Tiles of 16 rows and of 8 columns that the warp has, the latter even; its first row and column are `wr` and `wc`, its sums `acc`.
    pub(super) mi: usize,
    pub(super) ni: usize,
    /// Columns of the weight's part, if it is stored by rows.
    pub(super) by_rows: Option<usize>,
    /// Bytes of the left factor's part of a stage, behind which the weight's lies.
    pub(super) left: usize,
}

impl Steps<'_> {
    /// What of a lane's addresses is the same in all stages: of the left factor for each step, of the weight for each step or pair of column tiles.
    pub(super) fn places(&self) -> String {
        let left = "const i32 la = (wr + (lane & 15)) * 128 + (((lane >> 4) ^ (lane & 7)) << 4);";
        let right = match self.by_rows {
            None => format!(
                "const i32 lb = {} + (wc + (lane & 7) + (lane >> 4 << 3)) * 128 + (((lane >> 3 & 1) ^ (lane & 7)) << 4);",
                self.left
            ),
            Some(columns) => format!(
                "i32 lb[{pairs}]; UNROLL for (int j = 0; j < {pairs}; j++) lb[j] = {} + (lane & 15) * {} + ((((wc >> 3) + j * 2 + (lane >> 4)) ^ (lane & 7)) << 4);",
                self.left,
                columns * 2,
                pairs = self.ni / 2
            ),
        };
        format!("    {left} {right}\n")
    }

    /// The steps of 16 that `list` names by their stage's place and their number in it. The fragments of the next `ahead` steps are under way while those
    /// of one are multiplied.
    pub(super) fn text(&self, list: &[(String, usize)], ahead: usize) -> String {
        let Steps { half, mi, ni, by_rows, .. } = *self;
        let (pairs, sets) = (ni / 2, ahead + 1);
        let load = |step: usize| {
            let ((stage, at), set) = (&list[step], step % sets);
            // Rows differ by multiples of 8, so a step's number changes the same bits of all.
            let fetch = match by_rows {
                None => {
                    format!("fragments(fb[{set}][j], {stage} + (lb ^ {}) + j * 2048)", at << 5)
                }
                Some(columns) => {
                    format!("fragments_across(fb[{set}][j], {stage} + lb[j] + {})", at * columns * 32)
                }
            };
            format!(
                "    UNROLL for (int i = 0; i < {mi}; i++) fragments(fa[{set}][i], {stage} + (la ^ {}) + i * 2048); UNROLL for (int j = 0; j < {pairs}; j++) {fetch};\n",
                at << 5
            )
        };
        let mut text = format!("    {{ u32 fa[{sets}][{mi}][4], fb[{sets}][{pairs}][4];\n");
        (0..ahead.min(list.len())).for_each(|step| text.push_str(&load(step)));
        for step in 0..list.len() {
            if step + ahead < list.len() {
                text.push_str(&load(step + ahead));
            }
            let set = step % sets;
            let _ = writeln!(
                text,
                "    UNROLL for (int j = 0; j < {pairs}; j++) UNROLL for (int i = 0; i < {mi}; i++) {{ mma_16x8x16({half}(), acc[i][j * 2], fa[{set}][i], fb[{set}][j]); mma_16x8x16({half}(), acc[i][j * 2 + 1], fa[{set}][i], fb[{set}][j] + 2); }}"
            );
        }
        text + "    }\n"
    }
}
