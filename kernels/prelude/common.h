// What all kernels share, whatever the device: conversions, elementwise functions with the semantics of the primitive operations, and
// reductions over a block.

FN float widen(bf16 x) { return float_of_bits((u32)x.bits << 16); }
// Round to nearest, ties to even; a NaN stays one.
FN bf16 narrow_bf16(float x) {
    u32 b = bits_of_float(x);
    bf16 y;
    y.bits = x != x ? (u16)(b >> 16 | 64) : (u16)((b + 0x7fffu + (b >> 16 & 1)) >> 16);
    return y;
}

MATH1(m_exp, expf, exp)
MATH1(m_log, logf, log)
MATH1(m_log1p, log1pf, log1p)
MATH1(m_expm1, expm1f, expm1)
MATH1(m_sin, sinf, sin)
MATH1(m_cos, cosf, cos)
MATH1(m_tan, tanf, tan)
MATH1(m_asin, asinf, asin)
MATH1(m_acos, acosf, acos)
MATH1(m_atan, atanf, atan)
MATH1(m_sinh, sinhf, sinh)
MATH1(m_cosh, coshf, cosh)
MATH1(m_tanh, tanhf, tanh)
MATH1(m_asinh, asinhf, asinh)
MATH1(m_acosh, acoshf, acosh)
MATH1(m_atanh, atanhf, atanh)
MATH1(m_erf, erff, erf)
MATH1(m_ceil, ceilf, ceil)
MATH1(m_floor, floorf, floor)
MATH1(m_trunc, truncf, trunc)
MATH1(m_round, rintf, rint)
MATH1(m_sqrt, sqrtf, sqrt)
MATH1(m_fabs, fabsf, fabs)
MATH2(m_powf, powf, pow)
MATH2(m_atan2, atan2f, atan2)
MATH2(m_fmod, fmodf, fmod)
MATH2(m_copysign, copysignf, copysign)

// As exact as a half width needs. The error function is Abramowitz and Stegun's 7.1.26 ("Handbook of Mathematical Functions", 1964): off by 1.5e-7 at most.
FN float exp_near(float x) { return exp2_near(x * 1.4426950408889634f); }
FN float div_near(float x, float y) { return x * reciprocal_near(y); }
FN float erf_near(float x) {
    const float a = m_fabs(x), t = reciprocal_near(m_fma(0.3275911f, a, 1.0f));
    float y = m_fma(1.061405429f, t, -1.453152027f);
    y = m_fma(y, t, 1.421413741f);
    y = m_fma(y, t, -0.284496736f);
    y = m_fma(y, t, 0.254829592f);
    return m_copysign(m_fma(-y * t, exp_near(-a * a), 1.0f), x);
}
FN float gelu_near(float x) {
    const float half_x = x * 0.5f;
    return m_fma(half_x, erf_near(x * 0.70710678118654752440f), half_x);
}

// Loads and stores: half widths are computed in float, bools are one byte.
FN float load(const GLOBAL float *p, i64 i) { return p[i]; }
FN float load(const GLOBAL f16 *p, i64 i) { return widen(p[i]); }
FN float load(const GLOBAL bf16 *p, i64 i) { return widen(p[i]); }
FN i8 load(const GLOBAL i8 *p, i64 i) { return p[i]; }
FN u8 load(const GLOBAL u8 *p, i64 i) { return p[i]; }
FN i32 load(const GLOBAL i32 *p, i64 i) { return p[i]; }
FN i64 load(const GLOBAL i64 *p, i64 i) { return p[i]; }
FN void store(GLOBAL float *p, i64 i, float x) { p[i] = x; }
FN void store(GLOBAL f16 *p, i64 i, float x) { p[i] = narrow_f16(x); }
FN void store(GLOBAL bf16 *p, i64 i, float x) { p[i] = narrow_bf16(x); }
FN void store(GLOBAL i8 *p, i64 i, i8 x) { p[i] = x; }
FN void store(GLOBAL u8 *p, i64 i, u8 x) { p[i] = x; }
FN void store(GLOBAL i32 *p, i64 i, i32 x) { p[i] = x; }
FN void store(GLOBAL i64 *p, i64 i, i64 x) { p[i] = x; }
#ifdef HAS_DOUBLE
FN double load(const GLOBAL double *p, i64 i) { return p[i]; }
FN void store(GLOBAL double *p, i64 i, double x) { p[i] = x; }
#endif

// Two of a half width in one word, the first in its lower half.
FN float low_of(f16, u32 w) {
    f16 x;
    x.bits = (u16)w;
    return widen(x);
}
FN float low_of(bf16, u32 w) { return float_of_bits(w << 16); }
FN float high_of(f16 t, u32 w) { return low_of(t, w >> 16); }
FN float high_of(bf16, u32 w) { return float_of_bits(w & 0xffff0000u); }
FN u32 pair_of(f16, float a, float b) { return (u32)narrow_f16(a).bits | (u32)narrow_f16(b).bits << 16; }
FN u32 pair_of(bf16, float a, float b) { return (u32)narrow_bf16(a).bits | (u32)narrow_bf16(b).bits << 16; }

// Rounds to the narrower float.
FN float as_f16(float x) { return widen(narrow_f16(x)); }
FN float as_bf16(float x) { return widen(narrow_bf16(x)); }
#ifdef HAS_DOUBLE
FN float as_f16(double x) { return widen(narrow_f16(x)); }
// Through float, with the sticky bit that makes rounding twice right.
FN float as_bf16(double x) {
    float y = (float)x;
    if (x == x && (double)y != x && (bits_of_float(y) & 0xffffu) == 0x8000u) {
        bool away = m_fabs((double)y) > m_fabs(x);
        y = float_of_bits(bits_of_float(y) + (away ? 0xffffffffu : 1u));
    }
    return as_bf16(y);
}
#endif

// Float to integer as Rust and saturating hardware do: truncates, saturates, NaN gives 0.
#define TO_INT(name, T, F, LOW, HIGH, MIN, MAX)                                                              \
    FN T name(F x) { return x != x ? (T)0 : x <= (F)LOW ? (T)(MIN) : x >= (F)HIGH ? (T)(MAX) : (T)x; }
TO_INT(to_i8, i8, float, -128.0, 127.0, -128, 127)
TO_INT(to_u8, u8, float, 0.0, 255.0, 0, 255)
TO_INT(to_i32, i32, float, -2147483648.0, 2147483648.0, (-2147483647 - 1), 2147483647)
TO_INT(to_i64, i64, float, -9223372036854775808.0, 9223372036854775808.0, (-9223372036854775807 - 1), 9223372036854775807)
#ifdef HAS_DOUBLE
TO_INT(to_i8, i8, double, -128.0, 127.0, -128, 127)
TO_INT(to_u8, u8, double, 0.0, 255.0, 0, 255)
TO_INT(to_i32, i32, double, -2147483648.0, 2147483647.0, (-2147483647 - 1), 2147483647)
TO_INT(to_i64, i64, double, -9223372036854775808.0, 9223372036854775808.0, (-9223372036854775807 - 1), 9223372036854775807)
#endif

#define FLOAT_FUNCTIONS(T)                                                                                   \
    FN T f_neg(T x) { return -x; }                                                                           \
    FN T f_abs(T x) { return m_fabs(x); }                                                                    \
    FN T f_sign(T x) { return x > (T)0 ? (T)1 : x < (T)0 ? (T)-1 : x; }                                      \
    FN T f_relu(T x) { return x <= (T)0 ? (T)0 : x; }                                                        \
    FN T f_rsqrt(T x) { return (T)1 / m_sqrt(x); }                                                           \
    FN T f_reciprocal(T x) { return (T)1 / x; }                                                              \
    FN T f_sigmoid(T x) { return (T)1 / ((T)1 + m_exp(-x)); }                                                \
    FN T f_gelu(T x) { return x * (T)0.5 * ((T)1 + m_erf(x * (T)0.70710678118654752440)); }                  \
    FN T f_gelu_tanh(T x) {                                                                                  \
        return x * (T)0.5 * ((T)1 + m_tanh((x + (T)0.044715 * x * x * x) * (T)0.7978845608028654));          \
    }                                                                                                        \
    FN T f_silu(T x) { return x / ((T)1 + m_exp(-x)); }                                                      \
    FN T f_softplus(T x) { return f_relu(x) + m_log1p(m_exp(-m_fabs(x))); }                                  \
    FN bool f_is_inf(T x) { return m_fabs(x) > (T)3.0e38 && x - x != (T)0; }                                 \
    FN T f_add(T x, T y) { return x + y; }                                                                   \
    FN T f_sub(T x, T y) { return x - y; }                                                                   \
    FN T f_mul(T x, T y) { return x * y; }                                                                   \
    FN T f_div(T x, T y) { return x / y; }                                                                   \
    FN T f_floor_div(T x, T y) { return m_floor(x / y); }                                                    \
    FN T f_rem(T x, T y) { return m_fmod(x, y); }                                                            \
    FN T f_mod(T x, T y) {                                                                                   \
        T r = m_fmod(x, y);                                                                                  \
        return r == (T)0 ? m_copysign(r, y) : (r < (T)0) != (y < (T)0) ? r + y : r;                          \
    }                                                                                                        \
    FN T f_pow(T x, T y) { return m_powf(x, y); }                                                            \
    FN T f_min(T x, T y) { return x < y || x != x ? x : y; }                                                 \
    FN T f_max(T x, T y) { return x > y || x != x ? x : y; }
FLOAT_FUNCTIONS(float)
#ifdef HAS_DOUBLE
FLOAT_FUNCTIONS(double)
#endif

// Integers wrap: arithmetic goes through the unsigned type.
#define INT_FUNCTIONS(T, U, WIDTH, SIGNED)                                                                   \
    FN T f_neg(T x) { return (T)((U)0 - (U)x); }                                                             \
    FN T f_abs(T x) { return x < 0 ? (T)((U)0 - (U)x) : x; }                                                 \
    FN T f_sign(T x) { return x > 0 ? (T)1 : x < 0 ? (T)-1 : (T)0; }                                         \
    FN T f_relu(T x) { return x < 0 ? (T)0 : x; }                                                            \
    FN T f_add(T x, T y) { return (T)(U)((U)x + (U)y); }                                                     \
    FN T f_sub(T x, T y) { return (T)(U)((U)x - (U)y); }                                                     \
    FN T f_mul(T x, T y) { return (T)(U)((U)x * (U)y); }                                                     \
    FN T f_div(T x, T y) { return y == 0 ? (T)0 : SIGNED && y == (T)-1 ? f_neg(x) : (T)(x / y); }            \
    FN T f_rem(T x, T y) { return y == 0 || (SIGNED && y == (T)-1) ? (T)0 : (T)(x % y); }                    \
    FN T f_floor_div(T x, T y) {                                                                             \
        T q = f_div(x, y), r = f_rem(x, y);                                                                  \
        return r != 0 && (r < 0) != (y < 0) ? (T)(q - 1) : q;                                                \
    }                                                                                                        \
    FN T f_mod(T x, T y) {                                                                                   \
        T r = f_rem(x, y);                                                                                   \
        return r != 0 && (r < 0) != (y < 0) ? (T)(r + y) : r;                                                \
    }                                                                                                        \
    FN T f_pow(T x, T y) {                                                                                   \
        if (y < 0) return x == 1 ? (T)1 : SIGNED && x == (T)-1 ? (y & 1 ? x : (T)1) : (T)0;                  \
        T result = 1;                                                                                        \
        for (; y > 0; y = (T)(y >> 1)) {                                                                     \
            if (y & 1) result = f_mul(result, x);                                                            \
            x = f_mul(x, x);                                                                                 \
        }                                                                                                    \
        return result;                                                                                       \
    }                                                                                                        \
    FN T f_min(T x, T y) { return x < y ? x : y; }                                                           \
    FN T f_max(T x, T y) { return x > y ? x : y; }                                                           \
    FN T f_shl(T x, T y) { return (u64)(i64)y < WIDTH ? (T)(U)((U)x << (int)y) : (T)0; }                     \
    FN T f_shr(T x, T y) { return (u64)(i64)y < WIDTH ? (T)(x >> (int)y) : (T)0; }
INT_FUNCTIONS(i8, u8, 8, true)
INT_FUNCTIONS(u8, u8, 8, false)
INT_FUNCTIONS(i32, u32, 32, true)
INT_FUNCTIONS(i64, u64, 64, true)
FN bool f_min(bool x, bool y) { return x && y; }
FN bool f_max(bool x, bool y) { return x || y; }

// An index out of range: of several one is told, always the same. Its low 63 bits, and the highest bit set.
FN void fail(GLOBAL u64 *status, i64 index) { at_least(status, (u64)index | 1ull << 63); }
