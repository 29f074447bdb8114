//! Values known at plan time: reading them through views, and evaluating operations on them.

use bytes::Bytes;
use streampool_core::op::{DType, Layout, Op, Scalar, TensorType};
use streampool_core::{Error, Result};

/// A row-major tensor on the host.
#[derive(Clone, Debug)]
pub(crate) struct HostTensor {
    pub(crate) ty: TensorType,
    pub(crate) data: Bytes,
}

impl HostTensor {
    fn element(&self, i: usize) -> Scalar {
        let size = self.ty.dtype.size();
        let mut bits = [0u8; 8];
        bits[..size].copy_from_slice(&self.data[i * size..(i + 1) * size]);
        Scalar::from_bits(self.ty.dtype, u64::from_le_bytes(bits))
    }

    /// Elements as `i64`; an error for floats.
    pub(crate) fn ints(&self) -> Result<Vec<i64>> {
        if self.ty.dtype.is_float() {
            return Err(Error::invalid_model(format!("integers are needed here, the value is {}", self.ty)));
        }
        Ok((0..self.ty.shape.len()).map(|i| self.element(i).to_i64()).collect())
    }

    /// Elements as `f64`.
    pub(crate) fn floats(&self) -> Vec<f64> {
        (0..self.ty.shape.len()).map(|i| self.element(i).to_f64()).collect()
    }

    /// Elements as scalars.
    pub(crate) fn scalars(&self) -> Vec<Scalar> {
        (0..self.ty.shape.len()).map(|i| self.element(i)).collect()
    }
}

/// The elements of `layout` in `data`, row-major.
pub(crate) fn gather(data: &Bytes, dtype: DType, layout: &Layout) -> Bytes {
    let size = dtype.size();
    let count = layout.shape.len();
    if layout.is_contiguous() {
        let start = if count == 0 { 0 } else { layout.offset * size };
        return data.slice(start..start + count * size);
    }
    let mut out = Vec::with_capacity(count * size);
    let rank = layout.shape.rank();
    let (inner, step) = (layout.shape[rank - 1], layout.strides[rank - 1]);
    let mut index = vec![0usize; rank - 1];
    let mut at = layout.offset as isize;
    loop {
        let mut p = at;
        for _ in 0..inner {
            out.extend_from_slice(&data[p as usize * size..p as usize * size + size]);
            p += step;
        }
        let mut axis = rank - 1;
        loop {
            if axis == 0 {
                return out.into();
            }
            axis -= 1;
            index[axis] += 1;
            at += layout.strides[axis];
            if index[axis] < layout.shape[axis] {
                break;
            }
            at -= layout.strides[axis] * layout.shape[axis] as isize;
            index[axis] = 0;
        }
    }
}

/// Bytes of a result, kept as they are.
struct Owned(streampool_core::op::HostTensor);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// Runs one operation on the host.
pub(crate) fn evaluate(op: &Op, inputs: &[HostTensor]) -> Result<Vec<Bytes>> {
    let inputs = inputs
        .iter()
        .map(|t| streampool_core::op::HostTensor::from_bytes(t.ty.clone(), &t.data))
        .collect::<Result<Vec<_>>>()?;
    let inputs: Vec<&streampool_core::op::HostTensor> = inputs.iter().collect();
    Ok(streampool_cpu::evaluate(op, &inputs)?.into_iter().map(|t| Bytes::from_owner(Owned(t))).collect())
}
