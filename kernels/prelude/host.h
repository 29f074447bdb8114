// The host as a device: every thread of a block is a fibre, and a barrier switches to the next one. This is how machines without a GPU
// execute the very same kernels.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>

typedef int8_t i8;
typedef uint8_t u8;
typedef uint16_t u16;
typedef int32_t i32;
typedef uint32_t u32;
typedef long long i64;
typedef unsigned long long u64;

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

#define GLOBAL
#define SHARED static thread_local
#define FN static inline
#define UNROLL
#define UNROLL_8
#define HAS_DOUBLE 1

struct Block;
struct Fibre {
    ucontext_t context;
    std::vector<char> stack;
    bool done = false;
};
struct Block {
    ucontext_t scheduler;
    std::vector<Fibre> fibres;
    int current = 0;
    u64 number = 0;
    void (*body)(void **) = nullptr;
    void **args = nullptr;
    // What the lanes of a warp show each other.
    std::vector<u64> shown;
    // Barriers that a thread has reached: all of a group go on only when all have reached as many.
    std::vector<u64> warp_rounds, block_rounds;
};
static thread_local Block *the_block = nullptr;
#define TID ((i32)the_block->current)
#define BID (the_block->number)

static void next_fibre() {
    Block *b = the_block;
    int me = b->current;
    swapcontext(&b->fibres[me].context, &b->scheduler);
}
static void block_barrier() {
    Block *b = the_block;
    u64 round = ++b->block_rounds[b->current];
    for (;;) {
        bool all = true;
        for (size_t t = 0; t < b->fibres.size(); t++) all = all && (b->block_rounds[t] >= round || b->fibres[t].done);
        if (all) return;
        next_fibre();
    }
}
static void warp_barrier() {
    Block *b = the_block;
    size_t first = (size_t)b->current / 32 * 32, end = first + 32 < b->fibres.size() ? first + 32 : b->fibres.size();
    u64 round = ++b->warp_rounds[b->current];
    for (;;) {
        bool all = true;
        for (size_t t = first; t < end; t++) all = all && b->warp_rounds[t] >= round;
        if (all) return;
        next_fibre();
    }
}
#define BARRIER() block_barrier()
template <class T> static T shuffle_xor(T x, int mask) {
    Block *b = the_block;
    u64 bits = 0;
    memcpy(&bits, &x, sizeof x);
    b->shown[b->current] = bits;
    warp_barrier();
    bits = b->shown[b->current ^ mask];
    memcpy(&x, &bits, sizeof x);
    warp_barrier();
    return x;
}

static void fibre_main() {
    Block *b = the_block;
    b->body(b->args);
    b->fibres[b->current].done = true;
    next_fibre();
}
// Runs `grid` blocks of `threads` threads, one block after the other, from the last to the first: no kernel may rely on an order.
static void run_blocks(void (*body)(void **), void **args, u64 grid, int threads, bool barriers) {
    Block block;
    block.body = body;
    block.args = args;
    block.fibres.resize(threads);
    block.shown.resize(threads);
    the_block = &block;
    for (u64 n = grid; n-- > 0;) {
        block.number = n;
        if (!barriers) {
            for (int t = 0; t < threads; t++) {
                block.current = t;
                body(args);
            }
            continue;
        }
        block.warp_rounds.assign(threads, 0);
        block.block_rounds.assign(threads, 0);
        for (int t = 0; t < threads; t++) {
            Fibre &f = block.fibres[t];
            f.done = false;
            f.stack.resize(64 << 10);
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = f.stack.data();
            f.context.uc_stack.ss_size = f.stack.size();
            f.context.uc_link = nullptr;
            makecontext(&f.context, fibre_main, 0);
        }
        for (bool left = true; left;) {
            left = false;
            for (int t = threads; t-- > 0;) {
                if (block.fibres[t].done) continue;
                left = true;
                block.current = t;
                swapcontext(&block.scheduler, &block.fibres[t].context);
            }
        }
    }
    the_block = nullptr;
}

FN float float_of_bits(u32 bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
FN u32 bits_of_float(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}
FN double double_of_bits(u64 bits) {
    double x;
    memcpy(&x, &bits, 8);
    return x;
}
FN u64 bits_of_double(double x) {
    u64 bits;
    memcpy(&bits, &x, 8);
    return bits;
}
FN float widen(f16 x) {
    u32 sign = (u32)(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    if (exponent == 31) return float_of_bits(sign | 0x7f800000u | fraction << 13);
    float magnitude = exponent ? ldexpf((float)(fraction | 1024), (int)exponent - 25) : ldexpf((float)fraction, -24);
    return sign ? -magnitude : magnitude;
}
// Round to nearest, ties to even, from a double: exact for floats too.
FN f16 narrow_f16(double x) {
    u16 sign = std::signbit(x) ? 0x8000 : 0;
    double a = std::fabs(x);
    if (std::isnan(x)) return f16{(u16)(sign | 0x7e00)};
    if (a >= 65520.0) return f16{(u16)(sign | 0x7c00)};
    if (a == 0) return f16{sign};
    int exponent = 0;
    if (a > 0) std::frexp(a, &exponent);
    int unit = exponent - 11 < -24 ? -24 : exponent - 11;
    u32 n = (u32)std::nearbyint(std::ldexp(a, -unit));
    // n units of 2^unit: a carry into the next binade comes out right by itself.
    u32 bits = unit == -24 ? n : ((u32)(unit + 24) << 10) + n;
    return f16{(u16)(sign | bits)};
}
FN f16 narrow_f16(float x) { return narrow_f16((double)x); }

// Emulates the tensor core's fragments as PTX lays them out.
template <class T> static float half_value(T, u16 bits);
FN float bf16_value(u16 bits) { return float_of_bits((u32)bits << 16); }
template <> float half_value<f16>(f16, u16 bits) { return widen(f16{bits}); }
template <> float half_value<bf16>(bf16, u16 bits) { return bf16_value(bits); }
template <class T> static void mma_16x8x16(T t, float *d, const u32 *a, const u32 *b) {
    static thread_local u32 as[32][32][4], bs[32][32][2];
    Block *k = the_block;
    int warp = k->current / 32, lane = k->current % 32;
    memcpy(as[warp][lane], a, 16);
    memcpy(bs[warp][lane], b, 8);
    warp_barrier();
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + (i & 1);
        double sum = d[i];
        for (int j = 0; j < 16; j++) {
            // a: registers are (row, k), (row + 8, k), (row, k + 8), (row + 8, k + 8), two consecutive k each.
            int areg = (row >= 8 ? 1 : 0) + (j >= 8 ? 2 : 0), alane = row % 8 * 4 + j % 8 / 2;
            int breg = j >= 8 ? 1 : 0, blane = column * 4 + j % 8 / 2;
            u16 x = (u16)(as[warp][alane][areg] >> (j & 1) * 16), y = (u16)(bs[warp][blane][breg] >> (j & 1) * 16);
            sum += (double)half_value(t, x) * (double)half_value(t, y);
        }
        d[i] = (float)sum;
    }
    warp_barrier();
}

#define MATH1(name, f32name, f64name)                                                                        \
    FN float name(float x) { return f32name(x); }                                                            \
    FN double name(double x) { return f64name(x); }
#define MATH2(name, f32name, f64name)                                                                        \
    FN float name(float x, float y) { return f32name(x, y); }                                                \
    FN double name(double x, double y) { return f64name(x, y); }
FN float m_fma(float a, float b, float c) { return fmaf(a, b, c); }
FN double m_fma(double a, double b, double c) { return fma(a, b, c); }
