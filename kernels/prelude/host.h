// The host as a device: every thread of a block is a fibre, and a barrier switches to the next one. This is how machines without a GPU
// execute the very same kernels.
#include <cmath>
#include <cstdint>
#include <cstdio>
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
    // Copies asked for and not made yet, and the group of each; groups committed so far.
    struct Copy {
        u8 *to;
        const void *from;
        u64 group;
    };
    std::vector<Copy> copies;
    u64 groups = 0;
};
struct Block {
    ucontext_t scheduler;
    std::vector<Fibre> fibres;
    // All threads of a cluster of blocks, so many of each; and the number of its first block.
    int current = 0, threads = 0;
    u64 number = 0;
    std::vector<std::vector<u8>> arenas;
    void (*body)(void **) = nullptr;
    void **args = nullptr;
    // What the lanes of a warp show each other.
    std::vector<u64> shown;
    // Bytes that each block of the cluster was sent, and that each expects.
    std::vector<u64> received;
    u64 expected = 0;
    // Barriers that a thread has reached: all of a group go on only when all have reached as many.
    std::vector<u64> warp_rounds, block_rounds, cluster_rounds;
};
static thread_local Block *the_block = nullptr;
#define TID ((i32)(the_block->current % the_block->threads))
#define BID (the_block->number + (u64)(the_block->current / the_block->threads))
#define BLOCK_OF_CLUSTER (the_block->current / the_block->threads)
#define SHARED_ARENA(name) u8 *const name = the_block->arenas[the_block->current / the_block->threads].data()

static void next_fibre() {
    Block *b = the_block;
    int me = b->current;
    swapcontext(&b->fibres[me].context, &b->scheduler);
}
static void barrier(std::vector<u64> &rounds, size_t first, size_t end) {
    Block *b = the_block;
    u64 round = ++rounds[b->current];
    for (;;) {
        bool all = true;
        for (size_t t = first; t < end; t++) all = all && (rounds[t] >= round || b->fibres[t].done);
        if (all) return;
        next_fibre();
    }
}
static void block_barrier() {
    size_t first = (size_t)(the_block->current / the_block->threads * the_block->threads);
    barrier(the_block->block_rounds, first, first + (size_t)the_block->threads);
}
#define INBOX_OPEN(bytes) the_block->expected = (bytes), the_block->received[BLOCK_OF_CLUSTER] = 0
#define CLUSTER_ARRIVE()
#define CLUSTER_WAIT() barrier(the_block->cluster_rounds, 0, the_block->fibres.size())
// With fewer bytes than were expected the device would wait for ever.
#define INBOX_WAIT()                                                                                         \
    do {                                                                                                     \
        CLUSTER_WAIT();                                                                                      \
        if (the_block->received[BLOCK_OF_CLUSTER] != the_block->expected) abort();                           \
    } while (0)
static void warp_barrier() {
    Block *b = the_block;
    size_t own = (size_t)(b->current / b->threads + 1) * (size_t)b->threads;
    size_t first = (size_t)b->current / 32 * 32, end = first + 32 < own ? first + 32 : own;
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
static void run_blocks(void (*body)(void **), void **args, u64 grid, int threads, bool barriers, int cluster, int shared) {
    Block block;
    block.body = body;
    block.args = args;
    block.threads = threads;
    block.fibres.resize(threads * cluster);
    block.shown.resize(threads * cluster);
    // Not zeros: kernels find anything there.
    block.received.assign(cluster, 0);
    block.arenas.assign(cluster, std::vector<u8>(shared, 0x7e));
    the_block = &block;
    for (u64 n = grid / cluster; n-- > 0;) {
        block.number = n * (u64)cluster;
        if (!barriers) {
            for (int t = 0; t < threads; t++) {
                block.current = t;
                body(args);
            }
            continue;
        }
        int all = threads * cluster;
        block.warp_rounds.assign(all, 0);
        block.block_rounds.assign(all, 0);
        block.cluster_rounds.assign(all, 0);
        for (int t = 0; t < all; t++) {
            Fibre &f = block.fibres[t];
            f.done = false;
            f.copies.clear();
            f.groups = 0;
            f.stack.resize(64 << 10);
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = f.stack.data();
            f.context.uc_stack.ss_size = f.stack.size();
            f.context.uc_link = nullptr;
            makecontext(&f.context, fibre_main, 0);
        }
        for (bool left = true; left;) {
            left = false;
            for (int t = all; t-- > 0;) {
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
    static thread_local u32 as[128][32][4], bs[128][32][2];
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

// Copies come as late as they may: a kernel that does not wait reads what was there before.
static void copy_16(u8 *to, const void *from, bool there) {
    Fibre &f = the_block->fibres[the_block->current];
    f.copies.push_back({to, there ? from : nullptr, f.groups});
}
static void copies_wait(u64 left) {
    Fibre &f = the_block->fibres[the_block->current];
    std::vector<Fibre::Copy> later;
    for (const Fibre::Copy &c : f.copies) {
        if (c.group + left >= f.groups)
            later.push_back(c);
        else if (c.from)
            memcpy(c.to, c.from, 16);
        else
            memset(c.to, 0, 16);
    }
    f.copies.swap(later);
}
#define COPIES_COMMIT() (the_block->fibres[the_block->current].groups++)
#define COPIES_WAIT(n) copies_wait(n)
#define LATER_WORK_MAY_BEGIN()
// Four 8x8 matrices, of whose rows each lane names one; as they are, and transposed.
static void matrices(u32 *r, const u8 *row, bool across) {
    static thread_local const u8 *rows[128][32];
    int warp = the_block->current / 32, lane = the_block->current % 32;
    rows[warp][lane] = row;
    // A device would read beyond, or fail.
    const std::vector<u8> &arena = the_block->arenas[the_block->current / the_block->threads];
    if (row < arena.data() || row + 16 > arena.data() + arena.size()) {
        fprintf(stderr, "a fragment is read %td bytes into %zu of shared memory\n", row - arena.data(), arena.size());
        abort();
    }
    warp_barrier();
    for (int m = 0; m < 4; m++) {
        u16 e[2];
        for (int x = 0; x < 2; x++) {
            int i = across ? lane % 4 * 2 + x : lane / 4, j = across ? lane / 4 : lane % 4 * 2 + x;
            memcpy(&e[x], rows[warp][m * 8 + i] + j * 2, 2);
        }
        r[m] = (u32)e[0] | (u32)e[1] << 16;
    }
    warp_barrier();
}
FN void fragments(u32 *r, const u8 *row) { matrices(r, row, false); }
FN void fragments_across(u32 *r, const u8 *row) { matrices(r, row, true); }
FN void load_16(u32 *w, const void *p) { memcpy(w, p, 16); }
FN void load_8(u32 *w, const void *p) { memcpy(w, p, 8); }
FN void store_16(void *p, const u32 *w) { memcpy(p, w, 16); }
FN void store_8(void *p, const u32 *w) { memcpy(p, w, 8); }
FN void keep_8(float *p, const float *v) { memcpy(p, v, 8); }
FN void keep_16(float *p, const float *v) { memcpy(p, v, 16); }
FN void local_16(float *v, const float *p) { memcpy(v, p, 16); }
// To the same place of another block of the cluster.
FN void push_16(float *p, int rank, const float *v) {
    Block *b = the_block;
    memcpy(b->arenas[rank].data() + ((const u8 *)p - b->arenas[b->current / b->threads].data()), v, 16);
    b->received[rank] += 16;
}

// Of several threads' values the largest stays.
FN void at_least(u64 *p, u64 x) { *p = *p < x ? x : *p; }
#define MATH1(name, f32name, f64name)                                                                        \
    FN float name(float x) { return f32name(x); }                                                            \
    FN double name(double x) { return f64name(x); }
#define MATH2(name, f32name, f64name)                                                                        \
    FN float name(float x, float y) { return f32name(x, y); }                                                \
    FN double name(double x, double y) { return f64name(x, y); }
FN float max_near(float x, float y) { return fmaxf(x, y); }
FN float exp2_near(float x) { return exp2f(x); }
FN float reciprocal_near(float x) { return 1.0f / x; }
FN float rsqrt_near(float x) { return 1.0f / sqrtf(x); }
FN float m_fma(float a, float b, float c) { return fmaf(a, b, c); }
FN double m_fma(double a, double b, double c) { return fma(a, b, c); }
