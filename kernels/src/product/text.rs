//! The text of such a kernel.

use std::fmt::Write;

use streampool_core::op::{Binary, Instr};

use super::tile::{Part, Steps, room};
use super::{Aim, Cut, Product, STAGE, Sums};
use crate::emit::{activate, float};
use crate::map::expression;

/// The same with functions that are as exact as the half width of the result needs.
fn near(text: &str) -> String {
    [("m_erf(", "erf_near("), ("f_gelu(", "gelu_near("), ("m_exp(", "exp_near(")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Sums of `mi` by `ni` tiles of each warp, of which `across` are side by side.
pub(super) fn sums(mi: usize, ni: usize, across: usize) -> String {
    format!(
        "    const i32 wr = warp / {across} * {}, wc = warp % {across} * {};\n    float acc[{mi}][{ni}][4];\n    UNROLL for (int i = 0; i < {mi}; i++) UNROLL for (int j = 0; j < {ni}; j++) UNROLL for (int x = 0; x < 4; x++) acc[i][j][x] = 0;\n",
        mi * 16,
        ni * 8
    )
}

/// Writes the kernel.
pub(super) struct Text<'a> {
    pub(super) p: &'a Product<'a>,
    pub(super) cut: &'a Cut,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Whether the weight's rows are its columns' elements.
    pub(super) across: bool,
    /// The element type's name.
    pub(super) half: &'static str,
}

impl Text<'_> {
    /// What may run before earlier work has ended, and the rest. `producer` writes the block's rows of the left factor to shared memory, and waits for
    /// all copies under way, where the factor is not in memory.
    pub(super) fn write(&self, producer: Option<&str>) -> (String, String) {
        let (slots, stages) = (self.cut.slots(), self.cut.stages());
        // Of the pipeline: stages that are asked for before the first is used.
        let ahead = if stages <= slots { stages } else { slots - 1 };
        let mut early = self.head();
        let weights: String =
            (0..ahead).map(|s| self.load_b(&s.to_string(), &s.to_string(), self.width(s))).collect();
        let mut body = String::new();
        let constants = self.constants();
        if self.p.aim == Aim::Latency {
            // What comes next reads its weights meanwhile.
            body.push_str("    LATER_WORK_MAY_BEGIN();\n");
        }
        for text in [&weights, &constants] {
            if self.p.constant { &mut early } else { &mut body }.push_str(text);
        }
        if let Some(producer) = producer {
            body.push_str(&self.residual());
            body.push_str(producer);
        } else {
            for s in 0..ahead {
                body.push_str(&self.load_a(&s.to_string(), &s.to_string(), self.width(s)));
                body.push_str("    COPIES_COMMIT();\n");
            }
            body.push_str(&self.residual());
        }
        if self.cut.inbox().is_some() {
            // All blocks' inboxes are open.
            body.push_str("    CLUSTER_WAIT();\n");
        }
        body.push_str(&self.sums());
        let steps = self.steps();
        body.push_str(&steps.places());
        let bytes = self.cut.stage_bytes();
        if stages <= slots {
            if producer.is_none() {
                // All at once: a wait for each stage takes longer than the last one's copies.
                body.push_str("    COPIES_WAIT(0); BARRIER();\n");
            }
            let groups = self.cut.groups;
            let _ = writeln!(body, "    const u8 *const mine = arena + group * {bytes};");
            // Lists of steps that follow one another: between the two halves of the inner axis there is something to do, and a last stage may be one group's
            // alone.
            let (mut lists, mut last) = (vec![Vec::new()], Vec::new());
            for s in (0..stages).step_by(groups) {
                if s * 2 == stages && self.cut.sums == Sums::Halves {
                    lists.push(Vec::new());
                }
                let count = if groups == 1 { self.width(s) / 16 } else { STAGE / 16 };
                let all = s + groups <= stages;
                let list = if all { lists.last_mut().expect("one at least") } else { &mut last };
                list.extend((0..count).map(|at| (format!("mine + {}", s * bytes), at)));
            }
            let texts: Vec<String> = lists.iter().map(|list| steps.text(list, self.ahead())).collect();
            body.push_str(&texts.join(&self.half()));
            if !last.is_empty() {
                let _ = writeln!(body, "    if (group < {})", stages % groups);
                body.push_str(&steps.text(&last, 1));
            }
        } else {
            // A group is committed each time, empty or not, so that so many stay under way.
            let _ = writeln!(
                body,
                "    for (i32 s = 0; s < {stages}; s++) {{\n    COPIES_WAIT({}); BARRIER();\n    if (s + {ahead} < {stages}) {{ const i32 next = s + {ahead}, slot = next % {slots};",
                ahead - 1
            );
            body.push_str(&self.load_b("next", "slot", STAGE));
            body.push_str(&self.load_a("next", "slot", STAGE));
            let _ = writeln!(body, "    }}\n    COPIES_COMMIT();\n    const i32 at = s % {slots};");
            if !self.half().is_empty() {
                let _ = writeln!(body, "    if (s == {}) {{ {} }}", stages / 2, self.half());
            }
            let list: Vec<_> = (0..STAGE / 16).map(|step| (format!("arena + at * {bytes}"), step)).collect();
            body.push_str(&steps.text(&list, 1));
            body.push_str("    }\n");
        }
        self.end(&mut body);
        (early, body)
    }

    /// Statements between the halves of the inner axis.
    fn half(&self) -> String {
        match self.cut.sums {
            Sums::Halves => self.each_sum("{ kept[i][j][x] = acc[i][j][x]; acc[i][j][x] = 0; }"),
            Sums::Whole | Sums::Pairs => String::new(),
        }
    }

    /// `f` for each of a warp's sums.
    fn each_sum(&self, f: &str) -> String {
        let (mi, ni) = self.warp_tiles();
        format!(
            "    UNROLL for (int i = 0; i < {mi}; i++) UNROLL for (int j = 0; j < {ni}; j++) UNROLL for (int x = 0; x < 4; x++) {f}\n"
        )
    }

    /// Which part of the work is the block's and the thread's.
    pub(super) fn head(&self) -> String {
        let Cut { rows, columns, warps, cluster, depth, .. } = *self.cut;
        let (m, n, k) = (self.m, self.n, self.k);
        let (row_tiles, column_tiles) = (m.div_ceil(rows), n.div_ceil(columns));
        let mut text = format!(
            "    SHARED_ARENA(arena);\n    const i32 group = TID / {}, warp = TID % {} >> 5, lane = TID & 31; (void)group; const i32 rank = (i32)(BID % {cluster}u), tile = (i32)(BID / {cluster}u);\n    const i32 row0 = tile % {row_tiles} * {rows}, column0 = tile / {row_tiles} % {column_tiles} * {columns}, which = tile / {}; (void)which;\n    const i32 k0 = rank * {depth}, k1 = k0 + {depth} < {k} ? k0 + {depth} : {k};\n",
            warps.0 * warps.1 * 32,
            warps.0 * warps.1 * 32,
            row_tiles * column_tiles
        );
        if self.cut.inbox().is_some() {
            let bytes = (self.parts() - self.cut.groups) * self.cut.share() * self.filled() * 4;
            let _ = writeln!(text, "    INBOX_OPEN({bytes}); CLUSTER_ARRIVE();");
        }
        if let Some((_, step)) = self.p.siblings {
            let _ = writeln!(text, "    b += (i64)which * {}; y += (i64)which * {step};", n * k);
            if self.p.op.bias {
                let _ = writeln!(text, "    bias += which * {n};");
            }
        }
        text
    }

    /// Tiles of 16 rows and of 8 columns that a warp has.
    pub(super) fn warp_tiles(&self) -> (usize, usize) {
        let Cut { rows, columns, warps, .. } = *self.cut;
        (rows / warps.0 / 16, columns / warps.1 / 8)
    }

    /// A warp's sums.
    pub(super) fn sums(&self) -> String {
        let (mi, ni) = self.warp_tiles();
        let mut text = sums(mi, ni, self.cut.warps.1);
        if self.cut.sums == Sums::Halves {
            let _ = writeln!(text, "    float kept[{mi}][{ni}][4];");
            text.push_str(&self.each_sum("kept[i][j][x] = 0;"));
        }
        text
    }

    /// Adds up the partial sums of all groups and blocks, and finishes and stores them.
    pub(super) fn end(&self, body: &mut String) {
        let Cut { rows, groups, .. } = *self.cut;
        let inbox = self.cut.inbox();
        let (mi, ni) = self.warp_tiles();
        let (pitch, share, threads) = (self.cut.pitch(), self.cut.share(), self.cut.threads());
        if self.cut.sums == Sums::Halves {
            body.push_str(&self.each_sum("acc[i][j][x] = kept[i][j][x] + acc[i][j][x];"));
        }
        if self.p.aim == Aim::Throughput {
            body.push_str("    LATER_WORK_MAY_BEGIN();");
        }
        // What was multiplied is read: its place is free, also for what others send.
        let (free, met) = match inbox {
            Some(_) => ("BARRIER(); CLUSTER_ARRIVE();", "BARRIER(); CLUSTER_WAIT();"),
            None => ("BARRIER();", "BARRIER();"),
        };
        let _ = writeln!(
            body,
            "    float *const own = (float *)arena;\n    {free}\n    UNROLL for (int i = 0; i < {mi}; i++) UNROLL for (int j = 0; j < {ni}; j++) {{ float *const to = own + (group * {rows} + wr + i * 16 + (lane >> 2)) * {pitch} + wc + j * 8 + (lane & 3) * 2; keep_8(to, acc[i][j]); keep_8(to + 8 * {pitch}, acc[i][j] + 2); }}\n    {met}"
        );
        if let Some(at) = inbox {
            // To the blocks that add it up, a row to one of them; each block begins with the next one.
            let (side, sent) = (self.filled() / 4, rows - share);
            let all = groups * sent * side;
            let guard = if all.is_multiple_of(threads) { String::new() } else { format!("if (x < {all}) ") };
            let _ = writeln!(
                body,
                "    float *const sums = (float *)(arena + {at});\n    UNROLL for (int f = 0; f < {}; f++) {{ const i32 x = TID + f * {threads}; {guard}{{ const i32 q = x % {side} * 4, g = x / {}, r = (x / {side} % {sent} + (rank + 1) * {share}) % {rows}; float v[4]; local_16(v, own + (g * {rows} + r) * {pitch} + q); push_16(sums + ((rank * {groups} + g) * {share} + r % {share}) * {pitch} + q, r / {share}, v); }} }}\n    INBOX_WAIT();",
                all.div_ceil(threads),
                side * sent,
            );
        }
        if self.p.norm.is_some() { self.finish_rows(body) } else { self.finish(body) }
    }

    /// Elements of the inner axis that stage `s` has for sure no more than.
    fn width(&self, s: usize) -> usize {
        STAGE.min(self.cut.depth - s * STAGE)
    }

    /// Of a stage's copies, what both factors have in common.
    fn part<'b>(&self, name: &'b str, to: &'b str, k: &'b str, width: usize) -> Part<'b> {
        let end = (self.cut.depth * self.cut.cluster != self.k).then_some("k1");
        let threads = self.cut.threads();
        Part { name, pitch: self.k, to, length: 0, first: "", most: 0, width, k, end, threads }
    }

    /// Copies of the left factor's part of a stage.
    fn load_a(&self, stage: &str, slot: &str, width: usize) -> String {
        let to = format!("arena + {slot} * {}", self.cut.stage_bytes());
        let k = format!("k0 + {stage} * {STAGE}");
        Part { length: self.cut.rows, first: "row0", most: self.m, ..self.part("a", &to, &k, width) }.along()
    }

    /// Copies of the weight's part of a stage.
    fn load_b(&self, stage: &str, slot: &str, width: usize) -> String {
        let Cut { rows, columns, .. } = *self.cut;
        let to = format!("arena + {slot} * {} + {}", self.cut.stage_bytes(), rows * 128);
        let k = format!("k0 + {stage} * {STAGE}");
        let part = Part { length: columns, first: "column0", most: self.n, ..self.part("b", &to, &k, width) };
        if self.across { part.along() } else { Part { pitch: self.n, ..part }.across() }
    }

    /// Steps whose fragments are under way: more take registers, of which a few blocks a multiprocessor have enough.
    fn ahead(&self) -> usize {
        match self.p.aim {
            Aim::Throughput => 1,
            Aim::Latency => 3,
        }
    }

    /// What a warp does with a stage.
    fn steps(&self) -> Steps<'_> {
        let (mi, ni) = self.warp_tiles();
        let by_rows = (!self.across).then(|| room(self.cut.columns));
        Steps { half: self.half, mi, ni, by_rows, left: self.cut.rows * 128 }
    }

    /// Groups of 8 columns of a row, and how many of them a thread finishes.
    fn groups(&self) -> (usize, usize) {
        let groups = self.cut.columns / 8;
        (groups, (self.cut.share() * groups).div_ceil(self.cut.threads()))
    }

    /// In a layer norm a warp takes a row, a lane 4 columns of every 128.
    fn quads(&self) -> usize {
        self.cut.columns / 128
    }

    /// What of the finish never changes, into registers.
    pub(super) fn constants(&self) -> String {
        let n = self.n;
        let mut text = String::new();
        if let Some((op, _)) = self.p.norm {
            let quads = self.quads();
            for (there, name, to) in
                [(self.p.op.bias, "bias", "vb"), (op.scale, "scale", "vs"), (op.bias, "shift", "vz")]
            {
                if there {
                    let _ = writeln!(
                        text,
                        "    u32 {to}[{quads}][2]; UNROLL for (int q = 0; q < {quads}; q++) {{ const i32 c = q * 128 + lane * 4; {to}[q][0] = {to}[q][1] = 0; if (c < {n}) load_8({to}[q], {name} + c); }}"
                    );
                }
            }
        } else if self.p.op.bias {
            let (groups, each) = self.groups();
            let _ = writeln!(
                text,
                "    u32 vb[{each}][4]; UNROLL for (int q = 0; q < {each}; q++) {{ const i32 x = TID + q * {}, c = column0 + x % {groups} * 8; vb[q][0] = vb[q][1] = vb[q][2] = vb[q][3] = 0; if (c < {n}) load_16(vb[q], bias + c); }}",
                self.cut.threads()
            );
        }
        text
    }

    /// The residual, into registers while the copies are under way.
    pub(super) fn residual(&self) -> String {
        if !self.p.op.residual {
            return String::new();
        }
        let (m, n) = (self.m, self.n);
        if self.p.norm.is_some() {
            let (quads, share, warps) = (self.quads(), self.cut.share(), self.cut.warps.0 * self.cut.warps.1);
            let each = share.div_ceil(warps);
            return format!(
                "    u32 vr[{each}][{quads}][2]; UNROLL for (int e = 0; e < {each}; e++) UNROLL for (int q = 0; q < {quads}; q++) {{ const i32 r = row0 + rank * {share} + e * {warps} + warp, c = q * 128 + lane * 4; vr[e][q][0] = vr[e][q][1] = 0; if (e * {warps} + warp < {share} && r < {m} && c < {n}) load_8(vr[e][q], more + ((i64)r * {n} + c)); }}\n"
            );
        }
        let (groups, each) = self.groups();
        let share = self.cut.share();
        format!(
            "    u32 vr[{each}][4]; UNROLL for (int q = 0; q < {each}; q++) {{ const i32 x = TID + q * {}, lr = x / {groups}, r = row0 + rank * {share} + lr, c = column0 + x % {groups} * 8; vr[q][0] = vr[q][1] = vr[q][2] = vr[q][3] = 0; if (lr < {share} && r < {m} && c < {n}) load_16(vr[q], more + ((i64)r * {n} + c)); }}\n",
            self.cut.threads()
        )
    }

    /// Statements that load what all groups and blocks have of `wide` sums from offset `at` on into `part`, all before the first is used; and that add
    /// them up into `s`, in order.
    fn gather(&self, wide: usize, part: &str) -> (String, String) {
        let (parts, pitch) = (self.parts(), self.cut.pitch());
        let (groups, rows, share) = (self.cut.groups, self.cut.rows, self.cut.share());
        let own = format!("own + (p % {groups} * {rows} + rank * {share}) * {pitch}");
        let from = match self.cut.inbox() {
            Some(_) => format!("(p / {groups} == rank ? {own} : sums + p * {})", share * pitch),
            None => own,
        };
        let fetch = format!("local_16({part}[p] + z, {from} + at + z)");
        (
            format!(
                "UNROLL for (int p = 0; p < {parts}; p++) UNROLL for (int z = 0; z < {wide}; z += 4) {fetch};"
            ),
            match self.cut.sums {
                Sums::Pairs => format!(
                    "float s[{wide}]; UNROLL for (int z = 0; z < {wide}; z++) {{ s[z] = {part}[0][z] + {part}[1][z]; UNROLL for (int p = 2; p < {parts}; p += 2) {{ const float two = {part}[p][z] + {part}[p + 1][z]; s[z] += two; }} }}"
                ),
                Sums::Whole | Sums::Halves => format!(
                    "float s[{wide}]; UNROLL for (int z = 0; z < {wide}; z++) {{ s[z] = {part}[0][z]; UNROLL for (int p = 1; p < {parts}; p++) s[z] += {part}[p][z]; }}"
                ),
            },
        )
    }

    /// Columns of a block's tile that there are.
    fn filled(&self) -> usize {
        if self.p.norm.is_some() { self.n } else { self.cut.columns }
    }

    /// Partial sums of one place.
    fn parts(&self) -> usize {
        self.cut.cluster * self.cut.groups
    }

    /// Statements that finish `v` (a float): scale, `bias`, `residual`, activation and the expression that follows.
    pub(super) fn finished(&self, bias: &str, residual: &str) -> String {
        let op = self.p.op;
        let mut text = String::new();
        if op.alpha.get() != 1.0 {
            let _ = write!(text, "v = v * {}; ", float(op.alpha.get()));
        }
        if op.bias {
            let _ = write!(text, "v = v + {bias}; ");
        }
        if op.residual {
            let _ = write!(text, "v = v + {residual}; ");
        }
        if op.activation.is_some() {
            let _ = write!(text, "v = {}; ", near(&activate(op.activation, "v", "float")));
        }
        if let Some(map) = self.p.then {
            // What follows sees what would have been stored.
            let dtype = self.p.output.dtype;
            let registers = map.check(&[dtype]).expect("a checked step");
            let _ = write!(text, "float x0[1]; x0[0] = as_{}(v); const int k = 0; ", self.half);
            for (i, instr) in map.code.iter().enumerate() {
                let value = match *instr {
                    Instr::Binary(Binary::Div, a, b) if registers[usize::from(a)].is_float() => {
                        format!("div_near(v{a}, v{b})")
                    }
                    _ => near(&expression(instr, &registers)),
                };
                let _ = write!(text, "const {} v{i} = {value}; ", crate::emit::register(registers[i]));
            }
            let _ = write!(text, "v = v{}; ", map.code.len() - 1);
        }
        text
    }

    /// Each thread finishes groups of 8 columns.
    fn finish(&self, body: &mut String) {
        let (groups, each) = self.groups();
        let (share, pitch, half) = (self.cut.share(), self.cut.pitch(), self.half);
        let (m, n) = (self.m, self.n);
        let (load, add) = self.gather(8, "part");
        let _ = writeln!(
            body,
            "    UNROLL for (int q = 0; q < {each}; q++) {{ const i32 x = TID + q * {}, lr = x / {groups}, c = x % {groups} * 8; const i32 at = lr * {pitch} + c, r = row0 + rank * {share} + lr;\n    if (lr < {share} && r < {m} && column0 + c < {n}) {{ float part[{}][8]; {load}\n    {add}",
            self.cut.threads(),
            self.parts()
        );
        let part = |name: &str| {
            format!("(z & 1 ? high_of({half}(), {name}[q][z >> 1]) : low_of({half}(), {name}[q][z >> 1]))")
        };
        let _ = writeln!(
            body,
            "    UNROLL for (int z = 0; z < 8; z++) {{ float v = s[z]; {}s[z] = v; }}",
            self.finished(&part("vb"), &part("vr"))
        );
        let _ = writeln!(
            body,
            "    u32 w[4]; UNROLL for (int z = 0; z < 4; z++) w[z] = pair_of({half}(), s[2 * z], s[2 * z + 1]);\n    store_16(y + ((i64)r * {n} + column0 + c), w); }} }}"
        );
    }

    /// A warp finishes and normalises a row.
    fn finish_rows(&self, body: &mut String) {
        let (norm, _) = self.p.norm.expect("asked for rows");
        let (share, pitch, half, quads) = (self.cut.share(), self.cut.pitch(), self.half, self.quads());
        let (m, n, warps) = (self.m, self.n, self.cut.warps.0 * self.cut.warps.1);
        let each = share.div_ceil(warps);
        let sum = |name: &str| {
            format!("    UNROLL for (int o = 16; o > 0; o >>= 1) {name} += shuffle_xor({name}, o);\n")
        };
        let part = |name: &str| {
            format!("(z & 1 ? high_of({half}(), {name}[z >> 1]) : low_of({half}(), {name}[z >> 1]))")
        };
        // Where warps are more than rows, all of them add up first.
        let together = share < warps;
        if together {
            let (load, add) = self.gather(4, "part");
            let (side, threads) = (n.div_ceil(4), self.cut.threads());
            let _ = writeln!(
                body,
                "    float *const whole = {} + {};\n    UNROLL for (int f = 0; f < {}; f++) {{ const i32 x = TID + f * {threads}; if (x < {}) {{ const i32 lr = x / {side}, c = x % {side} * 4, at = lr * {pitch} + c; float part[{}][4]; {load}\n    {add} keep_16(whole + lr * {pitch} + c, s); }} }}\n    BARRIER();",
                if self.cut.inbox().is_some() { "sums" } else { "own" },
                self.cut.sum_bytes() / 4,
                (share * side).div_ceil(threads),
                share * side,
                self.parts()
            );
        }
        let (load, add) = if together {
            (
                format!("local_16(part[q], whole + lr * {pitch} + q * 128 + lane * 4);"),
                "const float *const s = part[q];".to_owned(),
            )
        } else {
            let (load, add) = self.gather(4, "part[q]");
            (format!("const i32 at = lr * {pitch} + q * 128 + lane * 4; {load}"), add)
        };
        let depth = if together { String::new() } else { format!("[{}]", self.parts()) };
        let _ = writeln!(
            body,
            "    UNROLL for (int e = 0; e < {each}; e++) {{ const i32 lr = e * {warps} + warp, r = row0 + rank * {share} + lr; if (lr < {share} && r < {m}) {{ float v_[{quads}][4]; float total = 0, spread = 0;"
        );
        let _ = writeln!(
            body,
            "    float part[{quads}]{depth}[4];\n    UNROLL for (int q = 0; q < {quads}; q++) {{ {load} }}\n    UNROLL for (int q = 0; q < {quads}; q++) {{ const i32 c = q * 128 + lane * 4; {add}    UNROLL for (int z = 0; z < 4; z++) {{ float v = s[z]; {}v_[q][z] = c < {n} ? as_{half}(v) : 0.0f; total += v_[q][z]; }} }}",
            self.finished(&part("vb[q]"), &part("vr[e][q]"))
        );
        if norm.rms {
            body.push_str("    const float mean = 0; (void)total;\n");
        } else {
            body.push_str(&sum("total"));
            let _ = writeln!(body, "    const float mean = total * {};", float(1.0 / n as f32));
        }
        let _ = writeln!(
            body,
            "    UNROLL for (int q = 0; q < {quads}; q++) UNROLL for (int z = 0; z < 4; z++) {{ const float d = v_[q][z] - mean; spread += q * 128 + lane * 4 < {n} ? d * d : 0.0f; }}"
        );
        body.push_str(&sum("spread"));
        let mut tail = String::from("t = (v_[q][z] - mean) * by; ");
        if norm.scale {
            let _ = write!(tail, "t = t * {}; ", part("vs[q]"));
        }
        if norm.bias {
            let _ = write!(tail, "t = t + {}; ", part("vz[q]"));
        }
        let _ = writeln!(
            body,
            "    const float by = rsqrt_near(m_fma(spread, {}, {}));\n    UNROLL for (int q = 0; q < {quads}; q++) {{ const i32 c = q * 128 + lane * 4; UNROLL for (int z = 0; z < 4; z++) {{ float t; {tail}v_[q][z] = t; }}\n    u32 w[2]; w[0] = pair_of({half}(), v_[q][0], v_[q][1]); w[1] = pair_of({half}(), v_[q][2], v_[q][3]); if (c < {n}) store_8(y + ((i64)r * {n} + c), w); }} }} }}",
            float(1.0 / n as f32),
            float(norm.epsilon.get())
        );
    }
}
