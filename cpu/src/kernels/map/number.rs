//! What the elementwise functions need of their elements.

use std::ops::{Add, Div, Mul, Sub};

/// Anything that can be compared and selected.
pub(crate) trait Bits: Copy + Default + PartialEq + Send + Sync + 'static {}

/// Floats and integers. Arithmetic on integers wraps.
pub(crate) trait Number: Bits + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    const LOWEST: Self;
    const HIGHEST: Self;
    fn neg(self) -> Self;
    fn abs(self) -> Self;
    fn sign(self) -> Self;
    fn relu(self) -> Self;
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    /// Integers truncate; by 0 gives 0.
    fn div(self, b: Self) -> Self;
    fn floor_div(self, b: Self) -> Self;
    /// Sign of the dividend.
    fn rem(self, b: Self) -> Self;
    /// Sign of the divisor.
    fn modulo(self, b: Self) -> Self;
    fn pow(self, b: Self) -> Self;
    /// NaN if either is.
    fn min(self, b: Self) -> Self;
    /// NaN if either is.
    fn max(self, b: Self) -> Self;
    fn is_nan(self) -> bool;
}

/// Integers.
pub(crate) trait Int: Number {
    fn not(self) -> Self;
    fn and(self, b: Self) -> Self;
    fn or(self, b: Self) -> Self;
    fn xor(self, b: Self) -> Self;
    fn shl(self, b: Self) -> Self;
    fn shr(self, b: Self) -> Self;
}

/// `f32` and `f64`, in which all floats are computed.
pub(crate) trait Float:
    Number + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    const INFINITY: Self;
    const NEG_INFINITY: Self;
    fn of(x: f64) -> Self;
    fn to_f64(self) -> f64;
    fn ceil(self) -> Self;
    fn floor(self) -> Self;
    fn trunc(self) -> Self;
    fn round(self) -> Self;
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn ln_1p(self) -> Self;
    fn exp_m1(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn tan(self) -> Self;
    fn asin(self) -> Self;
    fn acos(self) -> Self;
    fn atan(self) -> Self;
    fn atan2(self, b: Self) -> Self;
    fn sinh(self) -> Self;
    fn cosh(self) -> Self;
    fn tanh(self) -> Self;
    fn asinh(self) -> Self;
    fn acosh(self) -> Self;
    fn atanh(self) -> Self;
    fn erf(self) -> Self;

    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::ONE / (Self::ONE + self.neg().exp())
    }
    #[inline(always)]
    fn gelu(self) -> Self {
        let scaled = self * Self::of(std::f64::consts::FRAC_1_SQRT_2);
        self * Self::of(0.5) * (Self::ONE + scaled.erf())
    }
    #[inline(always)]
    fn gelu_tanh(self) -> Self {
        let inner = self + Self::of(0.044_715) * self * self * self;
        self * Self::of(0.5) * (Self::ONE + (inner * Self::of(0.797_884_560_802_865_4)).tanh())
    }
    #[inline(always)]
    fn softplus(self) -> Self {
        // log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), which overflows nowhere.
        self.relu() + self.abs().neg().exp().ln_1p()
    }
}

macro_rules! float {
    ($t:ident, $erf:path) => {
        impl Bits for $t {}
        impl Number for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = $t::NEG_INFINITY;
            const HIGHEST: Self = $t::INFINITY;
            #[inline(always)]
            fn neg(self) -> Self {
                -self
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $t::abs(self)
            }
            #[inline(always)]
            fn sign(self) -> Self {
                // NaN compares with nothing, so it is returned as it is; so is a zero.
                if self > 0.0 {
                    1.0
                } else if self < 0.0 {
                    -1.0
                } else {
                    self
                }
            }
            #[inline(always)]
            fn relu(self) -> Self {
                // In this order NaN stays NaN; -0 becomes 0.
                if self <= 0.0 { 0.0 } else { self }
            }
            #[inline(always)]
            fn add(self, b: Self) -> Self {
                self + b
            }
            #[inline(always)]
            fn sub(self, b: Self) -> Self {
                self - b
            }
            #[inline(always)]
            fn mul(self, b: Self) -> Self {
                self * b
            }
            #[inline(always)]
            fn div(self, b: Self) -> Self {
                self / b
            }
            #[inline(always)]
            fn floor_div(self, b: Self) -> Self {
                $t::floor(self / b)
            }
            #[inline(always)]
            fn rem(self, b: Self) -> Self {
                self % b
            }
            #[inline(always)]
            fn modulo(self, b: Self) -> Self {
                let r = self % b;
                if r == 0.0 {
                    // Python gives a zero the divisor's sign.
                    r.copysign(b)
                } else if (r < 0.0) != (b < 0.0) {
                    r + b
                } else {
                    r
                }
            }
            #[inline(always)]
            fn pow(self, b: Self) -> Self {
                $t::powf(self, b)
            }
            #[inline(always)]
            fn min(self, b: Self) -> Self {
                if self < b || self != self { self } else { b }
            }
            #[inline(always)]
            fn max(self, b: Self) -> Self {
                if self > b || self != self { self } else { b }
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                self != self
            }
        }
        impl Float for $t {
            const INFINITY: Self = $t::INFINITY;
            const NEG_INFINITY: Self = $t::NEG_INFINITY;
            #[inline(always)]
            fn of(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn round(self) -> Self {
                self.round_ties_even()
            }
            #[inline(always)]
            fn atan2(self, b: Self) -> Self {
                $t::atan2(self, b)
            }
            #[inline(always)]
            fn erf(self) -> Self {
                $erf(self)
            }
            forward!($t: ceil floor trunc sqrt exp ln ln_1p exp_m1 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh);
        }
    };
}
macro_rules! forward {
    ($t:ident: $($f:ident)*) => {$(
        #[inline(always)]
        fn $f(self) -> Self { $t::$f(self) }
    )*};
}
#[allow(clippy::eq_op)]
mod floats {
    use super::*;
    float!(f32, libm::erff);
    float!(f64, libm::erf);
}

macro_rules! int {
    ($($t:ident $signed:literal;)*) => {$(
        impl Bits for $t {}
        #[allow(unused_comparisons, clippy::absurd_extreme_comparisons)]
        impl Number for $t {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LOWEST: Self = $t::MIN;
            const HIGHEST: Self = $t::MAX;
            #[inline(always)]
            fn neg(self) -> Self { self.wrapping_neg() }
            #[inline(always)]
            fn abs(self) -> Self { if self < 0 { self.wrapping_neg() } else { self } }
            #[inline(always)]
            fn sign(self) -> Self { if self > 0 { 1 } else if self < 0 { (0 as $t).wrapping_sub(1) } else { 0 } }
            #[inline(always)]
            fn relu(self) -> Self { if self < 0 { 0 } else { self } }
            #[inline(always)]
            fn add(self, b: Self) -> Self { self.wrapping_add(b) }
            #[inline(always)]
            fn sub(self, b: Self) -> Self { self.wrapping_sub(b) }
            #[inline(always)]
            fn mul(self, b: Self) -> Self { self.wrapping_mul(b) }
            #[inline(always)]
            fn div(self, b: Self) -> Self { if b == 0 { 0 } else { self.wrapping_div(b) } }
            #[inline(always)]
            fn floor_div(self, b: Self) -> Self {
                if b == 0 { return 0; }
                let (q, r) = (self.wrapping_div(b), self.wrapping_rem(b));
                if r != 0 && (r < 0) != (b < 0) { q - 1 } else { q }
            }
            #[inline(always)]
            fn rem(self, b: Self) -> Self { if b == 0 { 0 } else { self.wrapping_rem(b) } }
            #[inline(always)]
            fn modulo(self, b: Self) -> Self {
                if b == 0 { return 0; }
                let r = self.wrapping_rem(b);
                if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
            }
            #[inline(always)]
            fn pow(self, b: Self) -> Self {
                if b < 0 {
                    return match self {
                        1 => 1,
                        // -1: the sign of an odd power.
                        x if $signed && x == (0 as $t).wrapping_sub(1) => if b & 1 == 0 { 1 } else { x },
                        _ => 0,
                    };
                }
                let (mut base, mut exponent, mut result) = (self, b, 1 as $t);
                while exponent > 0 {
                    if exponent & 1 == 1 { result = result.wrapping_mul(base); }
                    base = base.wrapping_mul(base);
                    exponent >>= 1;
                }
                result
            }
            #[inline(always)]
            fn min(self, b: Self) -> Self { Ord::min(self, b) }
            #[inline(always)]
            fn max(self, b: Self) -> Self { Ord::max(self, b) }
            #[inline(always)]
            fn is_nan(self) -> bool { false }
        }
        #[allow(unused_comparisons)]
        impl Int for $t {
            #[inline(always)]
            fn not(self) -> Self { !self }
            #[inline(always)]
            fn and(self, b: Self) -> Self { self & b }
            #[inline(always)]
            fn or(self, b: Self) -> Self { self | b }
            #[inline(always)]
            fn xor(self, b: Self) -> Self { self ^ b }
            // A negative distance, seen as unsigned, is more than the width.
            #[inline(always)]
            fn shl(self, b: Self) -> Self { if (b as u64) < u64::from($t::BITS) { self << b } else { 0 } }
            #[inline(always)]
            fn shr(self, b: Self) -> Self { if (b as u64) < u64::from($t::BITS) { self >> b } else { 0 } }
        }
    )*};
}
int! {
    i8 true;
    u8 false;
    i32 true;
    i64 true;
}
