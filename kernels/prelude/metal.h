// What the kernels need of Metal. No float64: kernels of that dtype are not made for this device.
#include <metal_stdlib>
using namespace metal;
typedef char i8;
typedef uchar u8;
typedef ushort u16;
typedef int i32;
typedef uint u32;
typedef long i64;
typedef ulong u64;

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

#define GLOBAL device
#define SHARED threadgroup
#define FN static inline
#define BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup)
#define TID ((i32)sp_thread)
#define BID ((u64)sp_block)
#define LATER_WORK_MAY_BEGIN()
#define UNROLL _Pragma("unroll")
#define UNROLL_8 _Pragma("unroll 8")

FN float float_of_bits(u32 bits) { return as_type<float>(bits); }
FN u32 bits_of_float(float x) { return as_type<u32>(x); }
FN float widen(f16 x) { return (float)as_type<half>(x.bits); }
FN f16 narrow_f16(float x) { return f16{as_type<ushort>((half)x)}; }
FN float shuffle_xor(float x, int mask) { return simd_shuffle_xor(x, (ushort)mask); }

// Abramowitz and Stegun 7.1.26 is too coarse for float32; this is W. J. Cody's split with a Taylor sum near 0.
FN float erff(float x) {
    float a = fabs(x);
    if (a < 1.0f) {
        float s = x * x, term = x, sum = x;
        for (int n = 1; n < 14; n++) {
            term = -term * s / (float)n;
            sum += term / (float)(2 * n + 1);
        }
        return sum * 1.1283791670955126f;
    }
    if (a > 4.0f) return x < 0 ? -1.0f : 1.0f;
    // Continued fraction of erfc.
    float f = a;
    for (int n = 40; n > 0; n--) f = a + 0.5f * (float)n / f;
    float e = 1.0f - precise::exp(-a * a) * 0.5641895835477563f / f;
    return x < 0 ? -e : e;
}
// W. Kahan's compensated forms.
FN float log1pf(float x) {
    float u = 1.0f + x;
    return u == 1.0f ? x : isinf(u) ? u : precise::log(u) * x / (u - 1.0f);
}
FN float expm1f(float x) {
    float u = precise::exp(x);
    if (u == 1.0f) return x;
    float y = u - 1.0f;
    return y == -1.0f ? y : isinf(u) ? u : y * x / precise::log(u);
}
#define expf precise::exp
#define logf precise::log
#define sinf precise::sin
#define cosf precise::cos
#define tanf precise::tan
#define asinf precise::asin
#define acosf precise::acos
#define atanf precise::atan
#define sinhf precise::sinh
#define coshf precise::cosh
#define tanhf precise::tanh
#define asinhf precise::asinh
#define acoshf precise::acosh
#define atanhf precise::atanh
#define ceilf ceil
#define floorf floor
#define truncf trunc
#define rintf rint
#define sqrtf precise::sqrt
#define fabsf fabs
#define powf precise::pow
#define atan2f precise::atan2
#define fmodf fmod
#define copysignf copysign
// Of several threads' values one stays: there is no 64-bit maximum that needs no order.
FN void at_least(device u64 *p, u64 x) { *p = x; }
#define MATH1(name, f32name, f64name)                                                                        \
    FN float name(float x) { return f32name(x); }
#define MATH2(name, f32name, f64name)                                                                        \
    FN float name(float x, float y) { return f32name(x, y); }
FN float max_near(float x, float y) { return fmax(x, y); }
FN float exp2_near(float x) { return exp2(x); }
FN float reciprocal_near(float x) { return 1.0f / x; }
FN float rsqrt_near(float x) { return rsqrt(x); }
FN float m_fma(float a, float b, float c) { return fma(a, b, c); }
