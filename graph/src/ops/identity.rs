//! Identity and what is an identity at inference.

use super::{Operator, op};

pub(super) const OPS: &[Operator] = &[op("Identity", 1, |lo, n| {
    if let Some(Some(id)) = n.inputs.first() {
        let v = lo.value(*id)?;
        return lo.set_value(n, 0, v);
    }
    let v = lo.input(n, 0)?;
    lo.set(n, 0, v)
})];
