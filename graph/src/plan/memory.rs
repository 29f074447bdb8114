//! Where buffers lie: lifetimes, results written over dying inputs, offsets in one arena.
//!
//! Offsets are found greedily by size over lifetimes (Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020), or by
//! a first fit in order of time for very long programs; the smaller arena is taken.

use std::collections::HashMap;

use streampool_core::driver::ALIGNMENT;
use streampool_core::op::{Op, Place};

use crate::lower::{LNode, Lir, Source};

/// Above this many groups the quadratic search is left out.
const SEARCH_LIMIT: usize = 4000;

/// The result.
#[derive(Debug)]
pub(super) struct Memory {
    /// By buffer; `None` for inputs, constants and what no node touches.
    pub(super) places: Vec<Option<Place>>,
    pub(super) arena_bytes: usize,
    pub(super) naive_bytes: usize,
    pub(super) in_place: usize,
}

/// Buffers that share one piece of memory one after the other.
#[derive(Clone, Copy, Debug)]
struct Group {
    bytes: usize,
    first: usize,
    last: usize,
    output: Option<u32>,
}

pub(super) fn lay_out(lir: &Lir, bound: &HashMap<u32, u32>) -> Memory {
    let count = lir.bufs.len();
    let mut groups: Vec<Option<Group>> = vec![None; count];
    let (mut last_read, mut writers) = (vec![0usize; count], vec![0usize; count]);
    let nodes: Vec<&LNode> = lir.live().map(|(_, n)| n).collect();
    for (at, node) in nodes.iter().enumerate() {
        for v in node.inputs.iter().chain(&node.outputs) {
            let b = v.buf as usize;
            let Source::Nodes = lir.bufs[b].source else { continue };
            last_read[b] = at;
            let bytes = lir.bufs[b].ty.bytes().next_multiple_of(ALIGNMENT);
            let group = groups[b].get_or_insert(Group { bytes, first: at, last: at, output: None });
            group.last = at;
            group.output = bound.get(&v.buf).copied();
        }
        for o in &node.outputs {
            writers[o.buf as usize] += 1;
        }
    }
    for (b, group) in groups.iter_mut().enumerate() {
        // Outputs live to the end.
        if let Some(g) = group
            && g.output.is_some()
        {
            g.last = nodes.len();
            last_read[b] = nodes.len();
        }
    }
    let naive_bytes = groups.iter().flatten().filter(|g| g.output.is_none()).map(|g| g.bytes).sum();
    // `leader[b]` is the buffer whose group `b` belongs to.
    let mut leader: Vec<usize> = (0..count).collect();
    let mut in_place = 0;
    for (at, node) in nodes.iter().enumerate() {
        if let Some(input) = reusable(lir, node, at, &last_read, &writers, &groups, &leader) {
            let (from, to) = (find(&leader, input), node.outputs[0].buf as usize);
            let (Some(a), Some(b)) = (groups[from], groups[to]) else { continue };
            groups[to] = Some(Group { first: a.first.min(b.first), last: a.last.max(b.last), ..b });
            groups[from] = None;
            leader[from] = to;
            in_place += 1;
        }
    }
    let mut arena: Vec<(usize, Group)> = groups
        .iter()
        .enumerate()
        .filter_map(|(i, g)| g.filter(|g| g.output.is_none()).map(|g| (i, g)))
        .collect();
    let (offsets, arena_bytes) = offsets(&mut arena);
    let mut places = vec![None; count];
    for b in (0..count).rev() {
        let l = find(&leader, b);
        // Shortens the way for earlier buffers of a long chain.
        leader[b] = l;
        places[b] = groups[l].map(|group| match group.output {
            Some(n) => Place::Output(n),
            None => Place::Arena(offsets[&l]),
        });
    }
    Memory { places, arena_bytes, naive_bytes, in_place }
}

/// The buffer of an input that dies at this node and whose memory its first output may take over.
fn reusable(
    lir: &Lir,
    node: &LNode,
    at: usize,
    last_read: &[usize],
    writers: &[usize],
    groups: &[Option<Group>],
    leader: &[usize],
) -> Option<usize> {
    let out = node.outputs.first()?;
    if node.outputs.len() != 1 || !lir.is_whole(out) || writers[out.buf as usize] != 1 {
        return None;
    }
    node.inputs.iter().enumerate().find_map(|(i, v)| {
        let b = v.buf as usize;
        let fits = node.op.in_place(i)
            && matches!(lir.bufs[b].source, Source::Nodes)
            && last_read[b] == at
            && lir.is_whole(v)
            && v.shape().len() == out.shape().len()
            && v.dtype.size() == out.dtype.size()
            && groups[find(leader, b)].is_some_and(|g| g.output.is_none());
        // Other operands may read the same memory only element for element.
        let alone = node.inputs.iter().enumerate().all(|(j, w)| {
            j == i
                || find(leader, w.buf as usize) != find(leader, b)
                || (matches!(node.op, Op::Map(_)) && lir.is_whole(w) && w.shape() == v.shape())
        });
        (fits && alone).then_some(b)
    })
}

/// The group of a buffer.
fn find(leader: &[usize], mut b: usize) -> usize {
    while leader[b] != b {
        b = leader[b];
    }
    b
}

fn overlap(a: &Group, b: &Group) -> bool {
    a.first <= b.last && b.first <= a.last
}

/// Offsets by group and the size of the arena.
fn offsets(groups: &mut [(usize, Group)]) -> (HashMap<usize, usize>, usize) {
    let by_time = first_fit(groups);
    if groups.len() > SEARCH_LIMIT {
        return by_time;
    }
    let by_size = by_size(groups);
    if by_size.1 <= by_time.1 { by_size } else { by_time }
}

/// Largest first, each into the tightest gap between those that live at the same time.
fn by_size(groups: &mut [(usize, Group)]) -> (HashMap<usize, usize>, usize) {
    groups.sort_by(|a, b| b.1.bytes.cmp(&a.1.bytes).then(a.1.first.cmp(&b.1.first)));
    let mut placed: Vec<(usize, Group)> = Vec::new();
    let mut out = HashMap::new();
    let mut total = 0;
    for &(id, group) in groups.iter() {
        let mut taken: Vec<(usize, usize)> =
            placed.iter().filter(|(_, g)| overlap(g, &group)).map(|(o, g)| (*o, *o + g.bytes)).collect();
        taken.sort_unstable();
        let (mut end, mut best): (usize, Option<(usize, usize)>) = (0, None);
        for (from, to) in taken {
            if from > end {
                let gap = from - end;
                if gap >= group.bytes && best.is_none_or(|(g, _)| gap < g) {
                    best = Some((gap, end));
                }
            }
            end = end.max(to);
        }
        let offset = best.map_or(end, |(_, at)| at);
        total = total.max(offset + group.bytes);
        placed.push((offset, group));
        out.insert(id, offset);
    }
    (out, total)
}

/// In order of birth, each at the lowest free offset.
fn first_fit(groups: &mut [(usize, Group)]) -> (HashMap<usize, usize>, usize) {
    groups.sort_by_key(|g| (g.1.first, std::cmp::Reverse(g.1.bytes)));
    let mut alive: Vec<(usize, usize, usize)> = Vec::new();
    let mut out = HashMap::new();
    let mut total = 0;
    for &(id, group) in groups.iter() {
        alive.retain(|a| a.2 >= group.first);
        let mut offset = 0;
        for &(from, to, _) in &alive {
            if from >= offset + group.bytes {
                break;
            }
            offset = offset.max(to);
        }
        let at = alive.partition_point(|a| a.0 < offset);
        alive.insert(at, (offset, offset + group.bytes, group.last));
        total = total.max(offset + group.bytes);
        out.insert(id, offset);
    }
    (out, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_live_together_never_overlap_and_memory_is_shared() {
        // A fixed pseudo-random walk: many lifetimes and sizes.
        let mut state = 12345u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let mut groups: Vec<(usize, Group)> = (0..300)
            .map(|id| {
                let first = next(200) as usize;
                let bytes = 64 * (1 + next(50) as usize);
                (id, Group { bytes, first, last: first + next(12) as usize, output: None })
            })
            .collect();
        for find in [by_size, first_fit] {
            let (offsets, total) = find(&mut groups);
            for (i, a) in &groups {
                assert!(offsets[i] % ALIGNMENT == 0 && offsets[i] + a.bytes <= total);
                for (j, b) in &groups {
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    assert!(i == j || !overlap(a, b) || apart);
                }
            }
            assert!(total < groups.iter().map(|g| g.1.bytes).sum::<usize>() / 4);
        }
    }
}
