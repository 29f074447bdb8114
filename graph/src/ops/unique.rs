//! Unique: the number of results depends on values, which are read at plan time.

use std::cmp::Ordering;
use std::collections::HashMap;

use streampool_core::op::{Gather, Op, Scalar};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[op("Unique", 11, unique)];

fn compare(a: &Scalar, b: &Scalar) -> Ordering {
    if a.dtype().is_float() { a.to_f64().total_cmp(&b.to_f64()) } else { a.to_i64().cmp(&b.to_i64()) }
}

fn unique(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let mut x = lo.input(n, 0)?;
    let along = match n.attrs.int_opt("axis")? {
        Some(&a) => axis(a, x.rank())?,
        None => {
            x = lo.reshape(&x, vec![x.shape().len()])?;
            0
        }
    };
    // Each slice along the axis is one row to compare.
    let mut perm: Vec<usize> = (0..x.rank()).collect();
    perm.remove(along);
    perm.insert(0, along);
    let rows = lo.permute(&x, &perm)?;
    let host = lo.host(&rows)?;
    let values = host.scalars();
    let count = x.shape()[along];
    let width = values.len().checked_div(count).unwrap_or(0);
    let row = |i: usize| &values[i * width..(i + 1) * width];
    let mut seen: HashMap<&[Scalar], usize> = HashMap::new();
    let (mut first, mut times, mut group) = (Vec::new(), Vec::new(), Vec::with_capacity(count));
    for i in 0..count {
        let next = first.len();
        let g = *seen.entry(row(i)).or_insert(next);
        if g == next {
            first.push(i);
            times.push(0i64);
        }
        times[g] += 1;
        group.push(g);
    }
    let mut order: Vec<usize> = (0..first.len()).collect();
    if n.attrs.flag("sorted", true)? {
        order.sort_by(|&a, &b| {
            row(first[a])
                .iter()
                .zip(row(first[b]))
                .map(|(x, y)| compare(x, y))
                .find(|o| o.is_ne())
                .unwrap_or(Ordering::Equal)
        });
    }
    let mut rank = vec![0i64; order.len()];
    for (i, &g) in order.iter().enumerate() {
        rank[g] = i as i64;
    }
    let firsts: Vec<i64> = order.iter().map(|&g| first[g] as i64).collect();
    let counts: Vec<i64> = order.iter().map(|&g| times[g]).collect();
    let inverse: Vec<i64> = group.iter().map(|&g| rank[g]).collect();
    let firsts = lo.ints_constant(&firsts, vec![order.len()]);
    let y = lo.emit1(Op::Gather(Gather { axis: along }), &[x, firsts.clone()])?;
    let inverse = lo.ints_constant(&inverse, vec![count]);
    let counts = lo.ints_constant(&counts, vec![order.len()]);
    for (i, v) in [y, firsts, inverse, counts].into_iter().enumerate() {
        lo.set(n, i, v)?;
    }
    Ok(())
}
