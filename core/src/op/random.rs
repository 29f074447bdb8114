//! Random numbers that do not depend on threads or devices: counter-based Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011). Element `i` of a tensor depends on the seed, the stream offset and `i` alone.

use super::{DType, F32, Shape};

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

impl super::Operation for Random {
    fn name(&self) -> &'static str {
        "Random"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Random: shape inference is not written yet"))
    }
}
