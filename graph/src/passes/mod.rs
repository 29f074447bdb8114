//! Rewrites of the lowered graph, one a file. Each leaves the graph's meaning as it was.

mod dead;

pub(crate) use dead::run as dead;
use streampool_core::Result;

use crate::lower::Lower;

/// Runs all passes; gives one line for each rewrite, for people.
pub(crate) fn run(lower: &mut Lower<'_>) -> Result<Vec<String>> {
    let report = Vec::new();
    dead::run(&mut lower.lir);
    Ok(report)
}
