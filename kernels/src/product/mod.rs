//! Small matrix products on tensor cores, with what follows them in the same kernel: bias, residual, activation, an elementwise expression, layer norm.
//!
//! A library's product is hard to beat where there is much to compute. Where there is little, what counts is how many kernels follow each other
//! and how long each takes from its first to its last instruction. So a block asks for all of its weights before earlier work has ended, for its
//! rows as soon as it has, and what would be a kernel of its own is done to the sums while they are at hand. Layer norm needs whole rows: a
//! *cluster* of blocks then splits the inner axis, and each block adds up some of the rows from the partial sums of all, in the order of their
//! ranks (INV-14), so that it has them whole.
//!
//! Tiles go through shared memory by asynchronous copies, swizzled so that eight rows of 16 bytes lie in different banks, and to `mma` by
//! `ldmatrix`: the way of NVIDIA's CUTLASS for Ampere ("CUTLASS: efficient GEMM in CUDA", docs/media/docs/efficient_gemm.md).

mod attended;
mod text;
mod tile;

use std::fmt::Write;

use streampool_core::op::{DType, LayerNorm, Map, MatMul, Operand};

use crate::emit::storage;
use crate::map::single_input;
use crate::{Binding, Kernel, Target};
pub use attended::attended;
use text::Text;

/// Elements of the inner axis that one stage of the pipeline holds: 128 bytes.
const STAGE: usize = 64;

/// Stages under way at most, and bytes of shared memory that a block takes at most: some are left for kernels of other streams.
const STAGES: usize = 8;
const SHARED: usize = 200 << 10;

/// Bytes of shared memory that the kernels declare besides, rounded up: the barrier of an inbox.
const DECLARED: usize = 1 << 10;

/// Rows up to which, and elements of the weight up to which, such a kernel is made.
const MOST_ROWS: usize = 256;
const MOST_WEIGHTS: usize = 1 << 20;

/// What a kernel is to be good at. Both give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Leave much of the device to the kernels of other streams.
    Throughput,
    /// Be done soon, with the device to itself.
    Latency,
}

/// A product and what is done to it. Operands are those of checked steps.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// The product.
    pub op: &'a MatMul,
    /// Its operands: of siblings, the first one's.
    pub inputs: &'a [Operand],
    /// Its result, which need not exist in memory if something follows.
    pub output: &'a Operand,
    /// Whether the weight, the bias and the norm's operands never change: then they are read before earlier work has ended.
    pub constant: bool,
    /// The device.
    pub target: Target,
    /// So many products of one left factor at once, whose weights and biases lie one behind the other, and elements from one result to the next.
    pub siblings: Option<(usize, usize)>,
    /// An expression of the result alone.
    pub then: Option<&'a Map>,
    /// A layer norm of the result's rows, with its operands, of which the first is the result.
    pub norm: Option<(&'a LayerNorm, &'a [Operand])>,
    /// What it is for.
    pub aim: Aim,
}

/// How the sums of a block's part of the inner axis come about, so that twice as many blocks, of half as much each, give the same bits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sums {
    /// From one end to the other.
    Whole,
    /// Each half by itself, and the two added.
    Halves,
    /// From one end to the other, and those of two neighbours are added before others: what [`Sums::Halves`] does in one block.
    Pairs,
}

/// How the work is cut.
struct Cut {
    /// Rows and columns of a block's tile.
    rows: usize,
    columns: usize,
    /// Warps along both.
    warps: (usize, usize),
    /// Groups of warps that take turns at the stages, each with sums of its own: half the steps that must follow each other.
    groups: usize,
    /// Blocks that share the inner axis, and how much of it each takes.
    cluster: usize,
    depth: usize,
    sums: Sums,
    /// Bytes of shared memory that there are for a block.
    most: usize,
}

impl Cut {
    fn threads(&self) -> usize {
        self.warps.0 * self.warps.1 * self.groups * 32
    }

    /// Stages that a block goes through.
    fn stages(&self) -> usize {
        self.depth.div_ceil(STAGE)
    }

    fn stage_bytes(&self) -> usize {
        (self.rows + tile::room(self.columns)) * STAGE * 2
    }

    /// Floats from one row of partial sums to the next: such that the rows of a fragment lie in different banks.
    fn pitch(&self) -> usize {
        self.columns + 8
    }

    /// Stages that fit.
    fn slots(&self) -> usize {
        self.stages().min(STAGES).min(self.most / self.stage_bytes())
    }

    /// Bytes of partial sums.
    fn sum_bytes(&self) -> usize {
        self.groups * self.rows * self.pitch() * 4
    }

    /// Rows that a block adds up and finishes, of those of its cluster.
    fn share(&self) -> usize {
        self.rows / self.cluster
    }

    fn shared_bytes(&self) -> usize {
        usize::max(self.slots() * self.stage_bytes(), self.inbox().unwrap_or(0) + self.added_bytes())
    }

    fn fits(&self) -> bool {
        self.shared_bytes() <= self.most
    }

    /// Where the sums arrive that a block is to add up: behind those that it sends, where tiles were before. `None` for a single block.
    fn inbox(&self) -> Option<usize> {
        (self.cluster > 1).then(|| self.sum_bytes().next_multiple_of(128))
    }

    /// Bytes of partial sums and, behind them, of the block's share added up.
    fn added_bytes(&self) -> usize {
        self.sum_bytes() + self.share() * self.pitch() * 4
    }

    fn new((m, n, k): (usize, usize, usize), norm: bool, target: Target) -> Option<Self> {
        // Measured with MiniLM on an H100: larger tiles and smaller clusters take one caller longer, and leave more of the card to others.
        let rows = match (m, norm) {
            (..=16, _) => 16,
            (..=64, _) | (_, true) => 32,
            _ => 64,
        };
        let (columns, warps) = match (norm, rows) {
            (true, _) => (n.next_multiple_of(128), (1, 8)),
            (false, 64) => (64, (2, 2)),
            (false, _) => (64, (1, 4)),
        };
        let largest = match (target.clusters, norm) {
            (false, _) => 1,
            (true, true) if m <= 16 => 8,
            (true, true) => 4,
            (true, false) if k >= 1024 => 4,
            (true, false) => 1,
        };
        // Every block of a cluster has a part of the inner axis, and two stages at least are under way unless one is all.
        [8usize, 4, 2, 1].into_iter().filter(|&cluster| cluster <= largest).find_map(|cluster| {
            let depth = k.div_ceil(cluster).next_multiple_of(16);
            let sums = Sums::Whole;
            let cut =
                Self { rows, columns, warps, groups: 1, cluster, depth, sums, most: shared_for(target) };
            let all = cut.stages() <= cut.slots();
            let groups = if !norm && all && depth.is_multiple_of(STAGE) && cut.stages() > 1 { 2 } else { 1 };
            let halves = norm && cluster == 4 && depth * cluster == k && depth.is_multiple_of(2 * STAGE);
            let cut = Self { groups, sums: if halves { Sums::Halves } else { Sums::Whole }, ..cut };
            let fits = cut.fits() && (cut.slots() > 1 || cut.stages() == 1);
            (fits && depth * (cluster - 1) < k).then_some(cut)
        })
    }

    /// The same sums by more and smaller blocks, if there is a way to have them; `many` for several weights at once whose columns 96 divides.
    fn quick(self, norm: bool, many: bool) -> Option<Self> {
        let Self { rows, columns, warps, cluster, depth, .. } = self;
        let cut = match (norm, self.sums) {
            (true, Sums::Halves) => {
                Self { rows: 16, cluster: 2 * cluster, depth: depth / 2, sums: Sums::Pairs, ..self }
            }
            (true, _) if rows == 32 => Self { rows: 16, ..self },
            // Of several weights there would be more blocks than have a multiprocessor each beside a kernel with clusters, and two on one take longer.
            (false, _) if rows == 64 && many => Self { rows: 32, columns: 96, warps: (2, 2), ..self },
            (false, _) if rows == 64 => Self { rows: 32, columns, warps: (1, warps.0 * warps.1), ..self },
            _ => return None,
        };
        // A block adds up as many rows as any other.
        (cut.rows.is_multiple_of(cut.cluster) && cut.fits()).then_some(cut)
    }

    /// For what the kernel is made.
    fn aimed(self, p: &Product<'_>, n: usize) -> Option<Self> {
        match p.aim {
            Aim::Throughput => Some(self),
            Aim::Latency => self.quick(p.norm.is_some(), p.siblings.is_some() && n.is_multiple_of(96)),
        }
    }
}

/// Bytes of shared memory that a block may ask for.
fn shared_for(target: Target) -> usize {
    SHARED.min(target.shared - DECLARED)
}

/// Rows, columns and inner length, if the left factor is rows one behind the other.
fn extents(p: &Product<'_>) -> Option<(usize, usize, usize)> {
    let (a, b, y) = (&p.inputs[0].layout, &p.inputs[1].layout, &p.output.layout);
    let n = *y.shape.last()?;
    let (k, rb) = (*a.shape.last()?, b.shape.rank());
    let m = y.shape.len() / n.max(1);
    let single = b.shape[..rb - 2].iter().all(|&d| d == 1);
    (m > 0 && k > 0 && single && a.is_contiguous() && a.shape.len() == m * k && y.is_contiguous())
        .then_some((m, n, k))
}

/// What a product needs to be one of these kernels, and its extents.
struct Extents {
    m: usize,
    n: usize,
    k: usize,
    /// Whether the weight's rows are its columns' elements.
    across: bool,
}

impl Extents {
    /// Those of `p`, if such a kernel can do it; `aligned` tells whether an operand's first element is at a multiple of 16 bytes.
    fn of(p: &Product<'_>, aligned: impl Fn(&Operand) -> bool) -> Option<Self> {
        let dtype = p.output.dtype;
        let (m, n, k) = extents(p)?;
        let b = &p.inputs[1].layout;
        let strides = (b.strides[b.strides.len() - 2], b.strides[b.strides.len() - 1]);
        let across = strides == (1, k as isize);
        let norms = norm_operands(p);
        let row = |o: &Operand| {
            o.layout.is_contiguous() && o.layout.shape.len() == n && o.layout.shape.last() == Some(&n)
        };
        let residual = residual(p);
        let follows = p.then.is_none_or(|map| single_input(map, dtype));
        let normed = p.norm.is_none_or(|(op, inputs)| {
            p.siblings.is_none()
                && p.then.is_none()
                && !op.residual
                && op.axis + 1 == inputs[0].layout.shape.rank()
                && inputs[0].layout.shape.last() == Some(&n)
                && norms.iter().all(row)
        });
        let suits = matches!(dtype, DType::F16 | DType::BF16)
            && m <= MOST_ROWS
            && n * k <= MOST_WEIGHTS
            && n.is_multiple_of(8)
            && k.is_multiple_of(8)
            && (across || strides == (n as isize, 1))
            && (!p.op.bias || row(&p.inputs[2]))
            && residual.is_none_or(|r| p.inputs[r].layout.is_contiguous())
            && p.siblings.is_none_or(|s| residual.is_none() && s.1 % 8 == 0)
            && follows
            && normed
            && p.inputs.iter().chain(norms).chain([p.output]).all(aligned);
        suits.then_some(Self { m, n, k, across })
    }
}

/// The number of the residual.
fn residual(p: &Product<'_>) -> Option<usize> {
    p.op.residual.then(|| p.inputs.len() - 1)
}

/// What the norm reads beside the result.
fn norm_operands<'a>(p: &Product<'a>) -> &'a [Operand] {
    p.norm.map_or(&[], |(_, inputs)| &inputs[1..])
}

/// Adds to `kernel` the parameters of `p` but its left factor, the weight being input `first`, and says in `what` what the kernel does.
fn bind(mut kernel: Kernel, p: &Product<'_>, first: usize) -> Kernel {
    let half = storage(p.output.dtype);
    kernel = kernel.param(Binding::Input(first), "b", half);
    if p.op.bias {
        kernel = kernel.param(Binding::Input(first + 1), "bias", half);
    }
    let mut next = first + p.inputs.len() - 1;
    if p.op.residual {
        kernel = kernel.param(Binding::Input(next - 1), "more", half);
    }
    for (there, name) in p.norm.map_or([(false, ""); 2], |(o, _)| [(o.scale, "scale"), (o.bias, "shift")]) {
        if there {
            kernel = kernel.param(Binding::Input(next), name, half);
            next += 1;
        }
    }
    for (there, name) in [
        (p.op.bias, "bias"),
        (p.op.residual, "residual"),
        (p.op.activation.is_some(), "activation"),
        (p.then.is_some(), "elementwise"),
        (p.norm.is_some(), "layer norm"),
    ] {
        if there {
            let _ = write!(kernel.what, " + {name}");
        }
    }
    kernel.param(Binding::Output(0), "y", half)
}

/// The kernel of `p`, if there is one for its shapes and its aim; `aligned` tells whether an operand's first element is at a multiple of 16 bytes.
///
/// Bindings are inputs 0, 1, ... of the product, then those of the norm from its second on; the one output is the last step's. The output may be
/// the very memory of the residual; it must not overlap any other input.
pub fn product(p: &Product<'_>, aligned: impl Fn(&Operand) -> bool) -> Option<Kernel> {
    let Extents { m, n, k, across } = Extents::of(p, aligned)?;
    let cut = Cut::new((m, n, k), p.norm.is_some(), p.target)?.aimed(p, n)?;
    let text = Text { p, cut: &cut, m, n, k, across, half: storage(p.output.dtype) };
    let count = p.siblings.map_or(1, |s| s.0);
    let tiles = m.div_ceil(cut.rows) * n.div_ceil(cut.columns) * count;
    let mut what = format!("tensor cores, {m}x{n}x{k}, tiles of {}x{}", cut.rows, cut.columns);
    if cut.cluster > 1 {
        let _ = write!(what, ", clusters of {}", cut.cluster);
    }
    if count > 1 {
        let _ = write!(what, ", {count} weights at once");
    }
    let kernel = Kernel::new(what, (tiles * cut.cluster) as u64, cut.threads() as u32)
        .with_barriers()
        .with_shared(cut.shared_bytes() as u32, cut.cluster as u32)
        .param(Binding::Input(0), "a", text.half);
    let (early, body) = text.write(None);
    Some(bind(kernel, p, 1).early(early).body(body))
}
