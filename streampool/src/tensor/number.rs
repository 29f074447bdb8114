//! Elementwise operations by name, and with numbers that keep their kind: what bindings of other languages build on.

use streampool_core::op::{Binary, DType, Fill, Instr, Map, Op, Scalar, Shape, Unary};

use super::Tensor;
use super::elementwise::cast_if;
use crate::{Device, Error, Result};

/// A number as a dynamic language has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
}

impl Number {
    /// The dtype that a tensor of such numbers has unless one is asked for, as in PyTorch.
    pub fn default_dtype(self) -> DType {
        match self {
            Number::Bool(_) => DType::Bool,
            Number::Int(_) => DType::I64,
            Number::Float(_) => DType::F32,
        }
    }

    /// As an element of `dtype`.
    pub fn scalar(self, dtype: DType) -> Scalar {
        match self {
            Number::Bool(b) => Scalar::from_i64(dtype, i64::from(b)),
            Number::Int(i) => Scalar::from_i64(dtype, i),
            Number::Float(x) => Scalar::from_f64(dtype, x),
        }
    }

    /// The dtype in which PyTorch computes on this number and a tensor of `dtype`: a number only raises the kind.
    fn promoted(self, dtype: DType) -> DType {
        match self {
            Number::Float(_) if !dtype.is_float() => DType::F32,
            Number::Int(_) if dtype == DType::Bool => DType::I64,
            _ => dtype,
        }
    }
}

impl Tensor {
    /// `value` everywhere, exactly.
    ///
    /// # Errors
    /// `is_invalid_argument` if the shape cannot be addressed; `is_out_of_memory`.
    pub fn full_number(
        device: &Device,
        shape: impl Into<Shape>,
        value: Number,
        dtype: DType,
    ) -> Result<Tensor> {
        let shape = shape.into();
        shape.checked_len()?;
        device.handle().apply1("full", Op::Fill(Fill { value: value.scalar(dtype), shape }), &[])
    }

    /// A function of each element. Integers are converted to float32 where the function needs floats.
    ///
    /// # Errors
    /// `is_invalid_argument` if the function has no meaning for the dtype.
    pub fn unary_op(&self, f: Unary, name: &str) -> Result<Tensor> {
        self.unary(f, name)
    }

    /// A function of two tensors, broadcast and promoted.
    ///
    /// # Errors
    /// `is_invalid_argument` if the shapes do not go together, or the function has no meaning for the dtypes.
    pub fn binary_op(&self, f: Binary, other: &Tensor, name: &str) -> Result<Tensor> {
        self.binary(f, other, name)
    }

    /// A function of a tensor and a number; of the number and the tensor if `reversed`.
    ///
    /// # Errors
    /// As [`Tensor::binary_op`].
    pub fn binary_number(&self, f: Binary, other: Number, reversed: bool, name: &str) -> Result<Tensor> {
        let dtype = Self::compute_dtype(f, other.promoted(self.dtype()));
        if let Number::Int(i) = other
            && dtype.is_int()
            && other.scalar(dtype).to_i64() != i
        {
            return Err(Error::invalid_argument(format!(
                "{name}: {i} does not fit {dtype}; convert the tensor to a wider dtype first"
            )));
        }
        let mut code = vec![Instr::Input(0)];
        let tensor = cast_if(&mut code, 0, self.dtype(), dtype);
        code.push(Instr::Const(other.scalar(dtype)));
        let number = (code.len() - 1) as u16;
        let (a, b) = if reversed { (number, tensor) } else { (tensor, number) };
        code.push(Instr::Binary(f, a, b));
        self.device_handle().apply1(name, Op::Map(Map { code }), &[self])
    }
}
