//! Tensors in host memory, owned: what constant folding, files and host calls work on.

use std::fmt;

use super::{Element, Scalar, TensorType};
use crate::driver::ALIGNMENT;
use crate::error::{Error, Result};

/// Host bytes aligned to [`ALIGNMENT`], fallibly allocated.
struct AlignedBytes {
    /// Room for the bytes and for shifting them to an aligned address.
    words: Vec<u128>,
    /// Words before the first aligned one.
    skip: usize,
    bytes: usize,
}

const WORD: usize = size_of::<u128>();

impl AlignedBytes {
    fn zeroed(bytes: usize) -> Result<Self> {
        let refused = || {
            Error::out_of_memory(format!(
                "host memory: asked {bytes} bytes for a tensor, the system has no room; use smaller tensors"
            ))
        };
        let count = bytes.div_ceil(WORD).checked_add(ALIGNMENT / WORD).ok_or_else(refused)?;
        let mut words: Vec<u128> = Vec::new();
        words.try_reserve_exact(count).map_err(|_| refused())?;
        words.resize(count, 0);
        let skip = words.as_ptr().addr().wrapping_neg() % ALIGNMENT / WORD;
        Ok(Self { words, skip, bytes })
    }

    fn get(&self) -> &[u8] {
        &bytemuck::cast_slice::<u128, u8>(&self.words[self.skip..])[..self.bytes]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut::<u128, u8>(&mut self.words[self.skip..])[..self.bytes]
    }
}

/// A tensor in host memory: a type and its elements, row-major, little endian, aligned to [`ALIGNMENT`].
pub struct HostTensor {
    ty: TensorType,
    data: AlignedBytes,
}

impl HostTensor {
    /// All zero (false).
    ///
    /// # Errors
    /// `is_invalid_argument` if the shape cannot be addressed, `is_out_of_memory` if there is no room.
    pub fn zeros(ty: TensorType) -> Result<Self> {
        ty.shape.checked_len()?;
        let data = AlignedBytes::zeroed(ty.bytes())?;
        Ok(Self { ty, data })
    }

    /// From row-major little-endian bytes, which may be unaligned.
    ///
    /// # Errors
    /// As [`HostTensor::zeros`], and `is_invalid_argument` if the number of bytes does not fit the type or a bool is neither 0 nor 1.
    pub fn from_bytes(ty: TensorType, bytes: &[u8]) -> Result<Self> {
        ty.shape.checked_len()?;
        if bytes.len() != ty.bytes() {
            return Err(Error::invalid_argument(format!(
                "a tensor of type {ty} has {} bytes, got {}",
                ty.bytes(),
                bytes.len()
            )));
        }
        if ty.dtype == super::DType::Bool
            && let Some(bad) = bytes.iter().find(|&&b| b > 1)
        {
            return Err(Error::invalid_argument(format!("a bool is one byte of 0 or 1, got {bad}")));
        }
        let mut tensor = Self::zeros(ty)?;
        tensor.data.get_mut().copy_from_slice(bytes);
        Ok(tensor)
    }

    /// From a shape and its elements, row-major.
    ///
    /// # Errors
    /// As [`HostTensor::from_bytes`].
    pub fn from_slice<T: Element>(shape: impl Into<super::Shape>, elements: &[T]) -> Result<Self> {
        let ty = TensorType { dtype: T::DTYPE, shape: shape.into() };
        if ty.shape.checked_len()? != elements.len() {
            return Err(Error::invalid_argument(format!(
                "a tensor of type {ty} has {} elements, got {}",
                ty.shape.len(),
                elements.len()
            )));
        }
        Self::from_bytes(ty, bytemuck::cast_slice(elements))
    }

    /// From a shape and its elements, row-major.
    ///
    /// # Errors
    /// As [`HostTensor::from_bytes`].
    pub fn from_vec<T: Element>(shape: impl Into<super::Shape>, elements: Vec<T>) -> Result<Self> {
        Self::from_slice(shape, &elements)
    }

    /// A rank 0 tensor.
    pub fn scalar(value: Scalar) -> Self {
        let ty = TensorType::new(value.dtype(), []);
        let size = value.dtype().size();
        Self::from_bytes(ty, &value.bits().to_le_bytes()[..size]).expect("a scalar is small and valid")
    }

    /// Dtype and shape.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// The bytes, row-major, little endian.
    pub fn bytes(&self) -> &[u8] {
        self.data.get()
    }

    /// The bytes, to be written. A bool must stay 0 or 1; [`HostTensor::as_slice`] refuses others.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.data.get_mut()
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// `is_invalid_argument` if they are not `T`s.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.expect_dtype::<T>()?;
        bytemuck::checked::try_cast_slice(self.data.get()).map_err(|e| self.damaged(e))
    }

    /// The elements, row-major, to be written.
    ///
    /// # Errors
    /// `is_invalid_argument` if they are not `T`s.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.expect_dtype::<T>()?;
        // Looked at first, so that the error can name the type: the mutable borrow lives as long as the result.
        self.as_slice::<T>()?;
        Ok(bytemuck::checked::cast_slice_mut(self.data.get_mut()))
    }

    /// Element `i` in row-major order.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, i: usize) -> Scalar {
        let size = self.ty.dtype.size();
        let mut bits = [0; 8];
        bits[..size].copy_from_slice(&self.data.get()[i * size..][..size]);
        Scalar::from_bits(self.ty.dtype, u64::from_le_bytes(bits))
    }

    /// The same elements under another shape of as many.
    ///
    /// # Errors
    /// `is_invalid_argument` if the number of elements differs.
    pub fn reshaped(mut self, shape: impl Into<super::Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.checked_len()? != self.ty.shape.len() {
            return Err(Error::invalid_argument(format!("{} cannot be reshaped to {shape}", self.ty)));
        }
        self.ty.shape = shape;
        Ok(self)
    }

    fn expect_dtype<T: Element>(&self) -> Result<()> {
        if self.ty.dtype == T::DTYPE {
            return Ok(());
        }
        Err(Error::invalid_argument(format!("the tensor is {}, asked for elements of {}", self.ty, T::DTYPE)))
    }

    fn damaged(&self, why: bytemuck::checked::CheckedCastError) -> Error {
        Error::invalid_argument(format!("the bytes of a {} tensor are not valid elements: {why}", self.ty))
    }
}

impl Clone for HostTensor {
    /// # Panics
    /// If there is no room for a copy.
    fn clone(&self) -> Self {
        Self::from_bytes(self.ty.clone(), self.bytes()).expect("room for a copy of a tensor")
    }
}

impl PartialEq for HostTensor {
    /// Same type and same bits: NaN equals NaN, `-0.0` differs from `0.0`.
    fn eq(&self, other: &Self) -> bool {
        self.ty == other.ty && self.bytes() == other.bytes()
    }
}

impl fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [", self.ty)?;
        let len = self.ty.shape.len();
        for i in 0..len.min(16) {
            let s = self.get(i);
            let sep = if i > 0 { ", " } else { "" };
            if s.dtype().is_float() {
                write!(f, "{sep}{}", s.to_f64())
            } else {
                write!(f, "{sep}{}", s.to_i64())
            }?;
        }
        f.write_str(if len > 16 { ", ...]" } else { "]" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DType, Shape};

    #[test]
    fn elements_survive_and_stay_aligned_through_clones() {
        let t = HostTensor::from_vec([2, 3], vec![1.5f32, -2.0, 3.0, 4.0, f32::NAN, 6.0]).unwrap();
        for t in [t.clone(), t.clone(), t] {
            assert_eq!(t.bytes().as_ptr().addr() % ALIGNMENT, 0);
            assert_eq!(t.as_slice::<f32>().unwrap()[..4], [1.5, -2.0, 3.0, 4.0]);
            assert!(t.get(4).to_f64().is_nan());
            assert!(t.as_slice::<i32>().unwrap_err().is_invalid_argument());
        }
    }

    #[test]
    fn bools_are_checked() {
        let ty = TensorType::new(DType::Bool, [2]);
        assert!(HostTensor::from_bytes(ty.clone(), &[1, 2]).unwrap_err().is_invalid_argument());
        let mut t = HostTensor::from_bytes(ty, &[1, 0]).unwrap();
        assert_eq!(t.as_slice::<bool>().unwrap(), [true, false]);
        t.as_mut_slice::<bool>().unwrap()[1] = true;
        assert_eq!(t.bytes(), [1, 1]);
        t.bytes_mut()[0] = 7;
        assert!(t.as_slice::<bool>().unwrap_err().is_invalid_argument());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        let e = HostTensor::zeros(TensorType::new(DType::F64, [1 << 55])).unwrap_err();
        assert!(e.is_out_of_memory(), "{e}");
        let e = HostTensor::zeros(TensorType::new(DType::F64, [1 << 62])).unwrap_err();
        assert!(e.is_invalid_argument(), "{e}");
        assert!(HostTensor::from_slice([3], &[1i64]).unwrap_err().is_invalid_argument());
    }

    #[test]
    fn empty_and_rank_0_tensors_work() {
        let e = HostTensor::zeros(TensorType::new(DType::F16, [0, 4])).unwrap();
        assert_eq!(e.as_slice::<half::f16>().unwrap(), []);
        let s = HostTensor::scalar(Scalar::from_i64(DType::I8, -3));
        assert_eq!((s.as_slice::<i8>().unwrap(), s.ty().shape.clone()), (&[-3i8][..], Shape::default()));
        assert_eq!(s.reshaped([1, 1]).unwrap().ty().shape, Shape::new(&[1, 1]));
    }
}
