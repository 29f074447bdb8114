//! Range.

use streampool_core::Error;
use streampool_core::op::{Op, Range};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("Range", 11, range)];

fn range(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (start, limit, step) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.input(n, 2)?);
    let start = lo.one(&start, "start")?;
    let limit = lo.one(&limit, "limit")?;
    let step = lo.one(&step, "delta")?;
    let (a, b, d) = (start.to_f64(), limit.to_f64(), step.to_f64());
    let count = if start.dtype().is_float() {
        ((b - a) / d).ceil()
    } else {
        // Exact for 64 bit integers.
        let (a, b, d) = (i128::from(start.to_i64()), i128::from(limit.to_i64()), i128::from(step.to_i64()));
        if d == 0 { f64::NAN } else { (((b - a) + d - d.signum()) / d) as f64 }
    };
    if !count.is_finite() || d == 0.0 || count > 2f64.powi(40) {
        return Err(Error::invalid_argument(format!("a range from {a} to {b} by {d} is impossible")).into());
    }
    let y = lo.emit1(Op::Range(Range { start, step, len: count.max(0.0) as usize }), &[])?;
    lo.set(n, 0, y)
}
