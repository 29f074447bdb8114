//! Which loop computes which instruction.

use streampool_core::op::{Binary, DType, Unary};

use super::function::*;

/// The loop for a function of one register whose elements are held as `dtype` (never a 16-bit float).
pub(super) fn unary(f: Unary, dtype: DType) -> Option<Loop> {
    macro_rules! float {
        ($t:ty) => {
            match f {
                Unary::Neg => apply1::<Neg<$t>>,
                Unary::Abs => apply1::<Abs<$t>>,
                Unary::Sign => apply1::<Sign<$t>>,
                Unary::Ceil => apply1::<Ceil<$t>>,
                Unary::Floor => apply1::<Floor<$t>>,
                Unary::Trunc => apply1::<Trunc<$t>>,
                Unary::Round => apply1::<Round<$t>>,
                Unary::Sqrt => apply1::<Sqrt<$t>>,
                Unary::Rsqrt => apply1::<Rsqrt<$t>>,
                Unary::Reciprocal => apply1::<Reciprocal<$t>>,
                Unary::Exp => apply1::<Exp<$t>>,
                Unary::Log => apply1::<Log<$t>>,
                Unary::Log1p => apply1::<Log1p<$t>>,
                Unary::Expm1 => apply1::<Expm1<$t>>,
                Unary::Sin => apply1::<Sin<$t>>,
                Unary::Cos => apply1::<Cos<$t>>,
                Unary::Tan => apply1::<Tan<$t>>,
                Unary::Asin => apply1::<Asin<$t>>,
                Unary::Acos => apply1::<Acos<$t>>,
                Unary::Atan => apply1::<Atan<$t>>,
                Unary::Sinh => apply1::<Sinh<$t>>,
                Unary::Cosh => apply1::<Cosh<$t>>,
                Unary::Tanh => apply1::<Tanh<$t>>,
                Unary::Asinh => apply1::<Asinh<$t>>,
                Unary::Acosh => apply1::<Acosh<$t>>,
                Unary::Atanh => apply1::<Atanh<$t>>,
                Unary::Erf => apply1::<Erf<$t>>,
                Unary::Sigmoid => apply1::<Sigmoid<$t>>,
                Unary::Relu => apply1::<Relu<$t>>,
                Unary::Gelu => apply1::<Gelu<$t>>,
                Unary::GeluTanh => apply1::<GeluTanh<$t>>,
                Unary::Silu => apply1::<Silu<$t>>,
                Unary::Softplus => apply1::<Softplus<$t>>,
                Unary::IsNan => apply1::<IsNan<$t>>,
                Unary::IsInf => apply1::<IsInf<$t>>,
                Unary::IsPosInf => apply1::<IsPosInf<$t>>,
                Unary::IsNegInf => apply1::<IsNegInf<$t>>,
                Unary::Not | Unary::BitNot => return None,
            }
        };
    }
    macro_rules! int {
        ($t:ty) => {
            match f {
                Unary::Neg => apply1::<Neg<$t>>,
                Unary::Abs => apply1::<Abs<$t>>,
                Unary::Sign => apply1::<Sign<$t>>,
                Unary::Relu => apply1::<Relu<$t>>,
                Unary::BitNot => apply1::<BitNot<$t>>,
                _ => return None,
            }
        };
    }
    Some(match (dtype, f) {
        (DType::F32, Unary::Exp) => apply_vector::<VectorExp>,
        (DType::F32, Unary::Tanh) => apply_vector::<VectorTanh>,
        (DType::F32, Unary::Erf) => apply_vector::<VectorErf>,
        (DType::F32, Unary::Sigmoid) => apply_vector::<VectorSigmoid>,
        (DType::F32, Unary::Silu) => apply_vector::<VectorSilu>,
        (DType::F32, Unary::Gelu) => apply_vector::<VectorGelu>,
        (DType::F32, Unary::GeluTanh) => apply_vector::<VectorGeluTanh>,
        (DType::F32, _) => float!(f32),
        (DType::F64, _) => float!(f64),
        (DType::I8, _) => int!(i8),
        (DType::U8, _) => int!(u8),
        (DType::I32, _) => int!(i32),
        (DType::I64, _) => int!(i64),
        (DType::Bool, Unary::Not) => apply1::<Not>,
        _ => return None,
    })
}

/// The loop for a function of two registers whose elements are held as `dtype`.
pub(super) fn binary(f: Binary, dtype: DType) -> Option<Loop> {
    macro_rules! number {
        ($t:ty, $($more:tt)*) => {
            match f {
                Binary::Add => apply2::<Add<$t>>,
                Binary::Sub => apply2::<Sub<$t>>,
                Binary::Mul => apply2::<Mul<$t>>,
                Binary::Div => apply2::<Div<$t>>,
                Binary::FloorDiv => apply2::<FloorDiv<$t>>,
                Binary::Rem => apply2::<Rem<$t>>,
                Binary::Mod => apply2::<Mod<$t>>,
                Binary::Pow => apply2::<Pow<$t>>,
                Binary::Min => apply2::<Min<$t>>,
                Binary::Max => apply2::<Max<$t>>,
                Binary::Eq => apply2::<Eq<$t>>,
                Binary::Ne => apply2::<Ne<$t>>,
                Binary::Lt => apply2::<Lt<$t>>,
                Binary::Le => apply2::<Le<$t>>,
                Binary::Gt => apply2::<Gt<$t>>,
                Binary::Ge => apply2::<Ge<$t>>,
                $($more)*
                _ => return None,
            }
        };
    }
    macro_rules! int {
        ($t:ty) => {
            number!($t,
                Binary::BitAnd => apply2::<BitAnd<$t>>,
                Binary::BitOr => apply2::<BitOr<$t>>,
                Binary::BitXor => apply2::<BitXor<$t>>,
                Binary::Shl => apply2::<Shl<$t>>,
                Binary::Shr => apply2::<Shr<$t>>,
            )
        };
    }
    Some(match dtype {
        DType::F32 => number!(f32, Binary::Atan2 => apply2::<Atan2<f32>>,),
        DType::F64 => number!(f64, Binary::Atan2 => apply2::<Atan2<f64>>,),
        DType::I8 => int!(i8),
        DType::U8 => int!(u8),
        DType::I32 => int!(i32),
        DType::I64 => int!(i64),
        DType::Bool => match f {
            Binary::And => apply2::<And>,
            Binary::Or => apply2::<Or>,
            Binary::Xor => apply2::<Xor>,
            Binary::Eq => apply2::<EqBool>,
            Binary::Ne => apply2::<NeBool>,
            _ => return None,
        },
        DType::F16 | DType::BF16 => return None,
    })
}

/// The loop for a selection between registers whose elements are held as `dtype`.
pub(super) fn selection(dtype: DType) -> Loop {
    match dtype.size() {
        8 => select::<i64>,
        4 => select::<i32>,
        _ => select::<u8>,
    }
}
