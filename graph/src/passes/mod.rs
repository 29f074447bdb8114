//! Rewrites of the lowered graph, one a file. Each leaves the graph's meaning as it was.
//!
//! Views are folded, constants evaluated and repeated work shared while the graph is built; what is here sees several operations at once.

mod attention;
mod code;
mod dead;
mod epilogue;
mod fuse;
mod layer_norm;
mod narrow;
mod simplify;

use streampool_core::Result;

use crate::lower::Lower;

pub(crate) use dead::run as dead;

/// Runs all passes; gives one line for each rewrite, for people.
pub(crate) fn run(lower: &mut Lower<'_>) -> Result<Vec<String>> {
    dead(&mut lower.lir);
    // Before maps are fused: the parts of a normalisation are single instructions then.
    let mut report = layer_norm::run(&mut lower.lir);
    dead(&mut lower.lir);
    let narrowed = narrow::run(&mut lower.lir);
    if narrowed > 0 {
        report.push(format!("{narrowed} elementwise operations without what they repeat"));
    }
    let maps = fuse::run(&mut lower.lir);
    if maps > 0 {
        report.push(format!("{maps} elementwise operations into others"));
    }
    report.extend(simplify::run(&mut lower.lir)?);
    report.extend(attention::run(&mut lower.lir));
    report.extend(epilogue::run(lower)?);
    let sums = layer_norm::residual(&mut lower.lir);
    if sums > 0 {
        report.push(format!("{sums} sums into the normalisation after them"));
    }
    dead(&mut lower.lir);
    Ok(report)
}
