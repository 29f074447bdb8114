//! Attention and the product that joins its heads, in one kernel.
//!
//! A cluster of blocks splits the heads, which is the product's inner axis: each block attends with its heads for some rows, keeps what comes out in
//! shared memory, and multiplies it with its rows of the weight; the blocks then add up what they have as those of a single product do.

use streampool_core::op::{Attention, Operand};

use super::text::Text;
use super::{Aim, Cut, Extents, Product, Sums, bind, shared_for};
use crate::Kernel;
use crate::attention::{Block, IntoTile};
use crate::emit::storage;

/// The kernel of the attention `op` on `inputs` and of `p`, whose left factor is its result, if there is one for their shapes and its aim; `aligned` tells
/// whether an operand's first element is at a multiple of 16 bytes.
///
/// Bindings are `inputs`, then the inputs of `p` from its second on, then those of its norm from the second on; the one output is the last step's. The
/// output may be the very memory of the residual; it must not overlap any other input.
pub fn attended(
    op: &Attention,
    inputs: &[Operand],
    p: &Product<'_>,
    aligned: impl Fn(&Operand) -> bool,
) -> Option<Kernel> {
    let Extents { m, n, k, across } = Extents::of(p, aligned)?;
    let first = IntoTile::new(op, inputs, &p.inputs[0])?;
    let (b, h, s, e) = first.sizes();
    let rows = match (m, p.aim) {
        (..=16, Aim::Latency) => return None,
        (..=16, Aim::Throughput) | (_, Aim::Latency) => 16,
        (_, Aim::Throughput) => 32,
    };
    if !p.constant
        || p.siblings.is_some()
        || (m, k) != (b * s, h * e)
        || !(b == 1 || s.is_multiple_of(rows))
        || n > 768
    {
        return None;
    }
    let (largest, most) = (if p.target.clusters { 4 } else { 1 }, shared_for(p.target));
    let columns = n.next_multiple_of(128);
    let cut = [4usize, 2, 1].into_iter().find_map(|cluster| {
        let depth = k / cluster;
        let cut = Cut { rows, columns, warps: (1, 8), groups: 1, cluster, depth, sums: Sums::Whole, most };
        let even = cluster <= largest && h.is_multiple_of(cluster) && depth.is_multiple_of(16);
        (even && cut.stages() <= cut.slots()).then_some(cut)
    })?;
    let heads = h / cut.cluster;
    let free = cut.stages() * cut.stage_bytes();
    let block = Block { rows, heads, warps: cut.threads() / 32, stage_bytes: cut.stage_bytes(), free };
    let shared = cut.shared_bytes().max(free + first.bytes(&block));
    if shared > cut.most {
        return None;
    }
    let half = storage(p.output.dtype);
    let text = Text { p, cut: &cut, m, n, k, across, half };
    let what = format!(
        "fused attention of {heads} heads a block, joined by {m}x{n}x{k}, tensor cores, tiles of {rows} rows, clusters of {}",
        cut.cluster
    );
    let kernel = Kernel::new(what, (m.div_ceil(rows) * cut.cluster) as u64, cut.threads() as u32)
        .with_barriers()
        .with_shared(shared as u32, cut.cluster as u32);
    let (early, body) = text.write(Some(&first.text(&block)));
    Some(bind(first.bind(kernel), p, inputs.len()).early(early).body(body))
}
