//! Random numbers that do not depend on threads or devices: counter-based Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011). Element `i` of a tensor depends on the seed, the stream offset and `i` alone.

use super::{DType, F32, Operation, Shape, TensorType, check};
use crate::error::Result;

/// Which distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Distribution {
    /// In `[low, high)`.
    Uniform {
        /// Least value.
        low: F32,
        /// Bound.
        high: F32,
    },
    /// By Box and Muller.
    Normal {
        /// Mean.
        mean: F32,
        /// Standard deviation.
        std: F32,
    },
}

/// Random numbers. Input: the key, i64 (2,): seed and offset, so that one compiled program serves all seeds. Output: floats.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Random {
    /// Which.
    pub distribution: Distribution,
    /// Element type: a float.
    pub dtype: DType,
    /// Output shape.
    pub shape: Shape,
}

impl Operation for Random {
    fn name(&self) -> &'static str {
        "Random"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["key"])?;
        check::dtype(op, "key", &inputs[0], |d| d == DType::I64, "int64")?;
        check::shape_is(op, "key", &inputs[0], &[2])?;
        if !self.dtype.is_float() {
            return Err(check::invalid(
                op,
                format_args!("numbers of dtype {} were asked for, needs {}", self.dtype, check::FLOATS),
            ));
        }
        Ok(vec![TensorType { dtype: self.dtype, shape: self.shape.clone() }])
    }
}
