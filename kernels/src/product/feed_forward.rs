//! Two products with an activation between them in one kernel: the feed-forward part of a transformer.
//!
//! A cluster of blocks splits the axis between the products. Each block computes its columns of the first product for some rows, keeps them in shared
//! memory, and multiplies them with its rows of the second weight; the blocks then add up what they have as those of a single product do. So
//! what lies between never reaches memory, and both weights stream through one ring of stages, the first of them asked for before earlier work has
//! ended.

use std::fmt::Write;

use streampool_core::op::Operand;

use super::text::{Text, sums};
use super::tile::{Part, Steps};
use super::{Cut, Extents, Product, STAGE, bind};
use crate::emit::storage;
use crate::{Binding, Kernel};

/// Bytes of shared memory that a block may take, and of a stage of the ring where the weights' shapes allow it.
const SHARED: usize = 224 << 10;
const CHUNK: usize = 24 << 10;

/// Rows of a block, its warps, and blocks of a cluster.
const ROWS: usize = 32;
const WARPS: usize = 16;
const CLUSTER: usize = 8;

/// Warps that have the same rows of the first product.
const SIDE: usize = WARPS / (ROWS / 16);

/// Rows below which two kernels, which then have more blocks, are quicker.
const FEWEST_ROWS: usize = 33;

/// How a weight goes through the ring.
struct Weight {
    across: bool,
    /// Elements of the inner axis at a time, bytes that they take, and how often.
    width: usize,
    bytes: usize,
    count: usize,
}

impl Weight {
    fn new(across: bool, inner: usize, length: usize) -> Self {
        let width =
            if across { STAGE } else { [64, 32].into_iter().find(|w| w * length * 2 <= CHUNK).unwrap_or(16) };
        let bytes = if across { length * 128 } else { width * length * 2 };
        Self { across, width, bytes, count: inner.div_ceil(width) }
    }
}

/// The kernel of `first` and `second`, whose left factor is the result of the former, if there is one for their shapes; `aligned` tells whether an
/// operand's first element is at a multiple of 16 bytes.
///
/// Bindings are the inputs of `first`, then those of `second` from its second on, then those of its norm from the second on; the one output is the
/// last step's. The output may be the very memory of the residual; it must not overlap any other input.
pub fn feed_forward(
    first: &Product<'_>,
    second: &Product<'_>,
    aligned: impl Fn(&Operand) -> bool,
) -> Option<Kernel> {
    let (one, two) = (Extents::of(first, &aligned)?, Extents::of(second, &aligned)?);
    let simple = first.siblings.is_none() && second.siblings.is_none() && first.norm.is_none();
    if !simple
        || first.op.residual
        || !first.constant
        || !second.constant
        || !second.clusters
        || (one.m, one.n) != (two.m, two.k)
        || one.m < FEWEST_ROWS
        || !one.n.is_multiple_of(CLUSTER * STAGE)
        || two.n > 768
        || first.output.dtype != second.output.dtype
    {
        return None;
    }
    let half = storage(second.output.dtype);
    let depth = one.n / CLUSTER;
    let columns = two.n.next_multiple_of(128);
    let cut = Cut { rows: ROWS, columns, warps: (WARPS / SIDE, SIDE), groups: 1, cluster: CLUSTER, depth };
    let weights = [Weight::new(one.across, one.k, depth), Weight::new(two.across, depth, columns)];
    let chunk = weights[0].bytes.max(weights[1].bytes);
    let chunks = weights[0].count + weights[1].count;
    let tiles = [one.k.div_ceil(STAGE) * ROWS * 128, depth.div_ceil(STAGE) * ROWS * 128];
    let slots = chunks.min(SHARED.checked_sub(tiles[0] + tiles[1])? / chunk);
    let sums_bytes = ROWS * cut.pitch() * 4;
    if slots < 2 || sums_bytes > SHARED {
        return None;
    }
    let shared = sums_bytes.max(tiles[0] + tiles[1] + slots * chunk);
    let of = |p, e: &Extents| Text { p, cut: &cut, m: e.m, n: e.n, k: e.k, across: e.across, half };
    let writer =
        Writer { first: of(first, &one), second: of(second, &two), weights, chunk, slots, chunks, tiles };
    let what = format!(
        "tensor cores, {}x{}x{} and {}x{} at once, tiles of {ROWS} rows, clusters of {CLUSTER}",
        one.m, one.n, one.k, two.n, two.k
    );
    let mut kernel = Kernel::new(what, (one.m.div_ceil(ROWS) * CLUSTER) as u64, cut.threads() as u32)
        .with_barriers()
        .with_shared(shared as u32, CLUSTER as u32)
        .param(Binding::Input(0), "x", half)
        .param(Binding::Input(1), "w", half);
    if first.op.bias {
        kernel = kernel.param(Binding::Input(2), "start", half);
    }
    let (early, body) = writer.write();
    Some(bind(kernel, second, first.inputs.len()).early(early).body(body))
}

struct Writer<'a> {
    first: Text<'a>,
    second: Text<'a>,
    weights: [Weight; 2],
    /// Bytes of a stage of the ring, stages in it, and how many go through it.
    chunk: usize,
    slots: usize,
    chunks: usize,
    /// Bytes of the left factors' rows.
    tiles: [usize; 2],
}

impl Writer<'_> {
    fn write(&self) -> (String, String) {
        let (threads, depth, half) = (self.second.cut.threads(), self.second.cut.depth, self.second.half);
        let (m, k) = (self.first.m, self.first.k);
        // Asked for before the first is used.
        let ahead = if self.chunks <= self.slots { self.chunks } else { self.slots - 1 };
        let (mi, ni) = (1, depth / SIDE / 8);
        let mut early = self.second.head();
        let _ = writeln!(
            early,
            "    u8 *const between = arena + {}, *const ring = between + {}; (void)k1;",
            self.tiles[0], self.tiles[1]
        );
        for c in 0..ahead {
            early.push_str(&self.load(c >= self.weights[0].count, &c.to_string(), &c.to_string()));
        }
        early.push_str(&self.second.constants());
        if self.first.p.op.bias {
            let _ = writeln!(
                early,
                "    u32 vs1[{ni}]; UNROLL for (int j = 0; j < {ni}; j++) vs1[j] = *(const GLOBAL u32 *)(start + k0 + warp % {SIDE} * {} + j * 8 + (lane & 3) * 2);",
                ni * 8
            );
        }
        let mut body = String::new();
        let (rows, end) = (k.div_ceil(STAGE), k.to_string());
        for s in 0..ahead.max(rows) {
            if s < rows {
                let part = Part {
                    name: "x",
                    pitch: k,
                    to: &format!("arena + {}", s * ROWS * 128),
                    length: ROWS,
                    first: "row0",
                    most: m,
                    width: STAGE,
                    k: &(s * STAGE).to_string(),
                    end: (s + 1 == rows && !k.is_multiple_of(STAGE)).then_some(&end),
                    threads,
                };
                body.push_str(&part.along());
            }
            // So many groups as there are stages under way: the last has what is left.
            if s + 1 < ahead || s + 1 == ahead.max(rows) {
                body.push_str("    COPIES_COMMIT();\n");
            }
        }
        body.push_str(&self.second.residual());
        body.push_str("    {\n");
        body.push_str(&sums(mi, ni, SIDE));
        self.multiply(&mut body, false, ahead, (mi, ni));
        let bias = format!("(z & 1 ? high_of({half}(), vs1[j]) : low_of({half}(), vs1[j]))");
        let _ = writeln!(
            body,
            "    UNROLL for (int j = 0; j < {ni}; j++) {{ UNROLL for (int z = 0; z < 4; z++) {{ float v = acc[0][j][z]; {}acc[0][j][z] = v; }}\n    UNROLL for (int z = 0; z < 2; z++) {{ const i32 r = wr + (lane >> 2) + z * 8, c = wc + j * 8; *(u32 *)(between + (c >> 6) * {} + r * 128 + (((c & 63) >> 3 ^ (r & 7)) << 4) + (lane & 3) * 4) = pair_of({half}(), acc[0][j][z * 2], acc[0][j][z * 2 + 1]); }} }} }}",
            self.first.finished(&bias, ""),
            ROWS * 128
        );
        body.push_str(&self.second.sums());
        self.multiply(&mut body, true, ahead, self.second.warp_tiles());
        self.second.end(&mut body);
        (early, body)
    }

    /// Copies of stage `which` of the ring's, of the second weight or of the first.
    fn load(&self, second: bool, which: &str, slot: &str) -> String {
        let before = self.weights[0].count;
        let text = if second { &self.second } else { &self.first };
        let weight = &self.weights[usize::from(second)];
        let (length, columns) =
            if second { (self.second.cut.columns, "0") } else { (self.second.cut.depth, "k0") };
        let k = if second {
            format!("k0 + ({which} - {before}) * {}", weight.width)
        } else {
            format!("{which} * {}", weight.width)
        };
        let inner = if second { self.second.cut.depth } else { text.k };
        let end = text.k.to_string();
        let part = Part {
            name: if second { "b" } else { "w" },
            pitch: if weight.across { text.k } else { text.n },
            to: &format!("ring + {slot} * {}", self.chunk),
            length,
            first: columns,
            most: text.n,
            width: weight.width,
            k: &k,
            end: (!inner.is_multiple_of(weight.width)).then_some(&end),
            threads: self.second.cut.threads(),
        };
        if weight.across { part.along() } else { part.across() }
    }

    /// The steps of one of the products.
    fn multiply(&self, body: &mut String, second: bool, ahead: usize, (mi, ni): (usize, usize)) {
        let [one, two] = &self.weights;
        let (from, to) = if second { (one.count, self.chunks) } else { (0, one.count) };
        let weight = if second { two } else { one };
        let (slots, chunks, width) = (self.slots, self.chunks, weight.width);
        // A group is committed each time, empty or not, so that so many stay under way.
        let _ = writeln!(
            body,
            "    for (i32 s = {from}; s < {to}; s++) {{\n    COPIES_WAIT({}); BARRIER();",
            ahead - 1
        );
        if ahead < chunks {
            let _ = writeln!(body, "    const i32 next = s + {ahead}, slot = next % {slots};");
            if !second {
                let _ = writeln!(
                    body,
                    "    if (next < {}) {{\n{}    }} else",
                    one.count,
                    self.load(false, "next", "slot")
                );
            }
            let _ = writeln!(body, "    if (next < {chunks}) {{\n{}    }}", self.load(true, "next", "slot"));
        }
        let _ = writeln!(body, "    COPIES_COMMIT();\n    const i32 k = (s - {from}) * {width};");
        let columns = if second { self.second.cut.columns } else { self.second.cut.depth };
        let steps = Steps {
            half: self.second.half,
            left: &format!("{} + k / {STAGE} * {}", if second { "between" } else { "arena" }, ROWS * 128),
            right: &format!("ring + s % {slots} * {}", self.chunk),
            count: width / 16,
            from: &format!("k % {STAGE} / 16"),
            mi,
            ni,
            by_rows: (!weight.across).then_some(columns),
        };
        body.push_str(&steps.text());
        body.push_str("    }\n");
    }
}
