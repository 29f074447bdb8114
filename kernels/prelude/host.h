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
    void *known = nullptr;
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
// Barriers of some threads: how many each has reached. Two lines, by turns, tell who saw what, as some may reach the next one while others leave the last.
struct Meetings {
    std::vector<u64> reached, waited;
    u64 line[2];
};
struct Block {
    ucontext_t scheduler;
    void *known = nullptr;
    // All threads of a cluster of blocks, so many of each; and the number of its first block.
    std::vector<Fibre> fibres;
    int current = 0, threads = 0;
    u64 number = 0;
    std::vector<std::vector<u8>> arenas;
    void (*body)(void **) = nullptr;
    void **args = nullptr;
    // What the lanes of a warp show each other, and how often they did.
    std::vector<u64> shown, warp_rounds;
    // Bytes that each block of the cluster was sent, and that each expects.
    std::vector<u64> received;
    u64 expected = 0;
    // Of each block, and of the cluster.
    std::vector<Meetings> meetings;
    Meetings cluster;
    // Whether blocks declare shared memory, which here is the same for all: then each sees what those before it did.
    bool fixed = false;
    u64 finished = 0;
};
static thread_local Block *the_block = nullptr;
UNSEEN_FN static i32 thread_now() { return (i32)(the_block->current % the_block->threads); }
UNSEEN_FN static int block_now() { return the_block->current / the_block->threads; }
UNSEEN_FN static u64 block_number() { return the_block->number + (u64)block_now(); }
UNSEEN_FN static u8 *arena_of(int block) { return the_block->arenas[block].data(); }
static u8 *arena_now() { return arena_of(block_now()); }
#define TID thread_now()
#define BID block_number()
#define SHARED_ARENA(name) u8 *const name = arena_now()

// What a kernel did that a device would answer with an error or by waiting for ever.
static thread_local u64 complaints = 0;
static void complain(const char *what, u64 number, u64 of) {
    if (complaints++ == 0) fprintf(stderr, "%s: %llu, %llu\n", what, number, of);
}
// How often since it was last asked.
extern "C" u64 complaints_of_kernels() {
    u64 n = complaints;
    complaints = 0;
    return n;
}

UNSEEN_FN static void next_fibre() {
    Block *b = the_block;
    int me = b->current;
    fibre_next(b->known);
    swapcontext(&b->fibres[me].context, &b->scheduler);
}
static void arrive(Meetings &m) {
    Unseen machinery;
    int me = the_block->current;
    if (m.waited[me] != m.reached[me]) complain("a thread arrives again before it has waited", m.waited[me], m.reached[me]);
    u64 round = ++m.reached[me];
    shows(&m.line[round & 1]);
}
static void meet(Meetings &m, size_t first, size_t end) {
    Unseen machinery;
    Block *b = the_block;
    u64 round = m.waited[b->current] = m.reached[b->current];
    for (bool all = false; !all;) {
        all = true;
        for (size_t t = first; t < end; t++) all = all && (m.reached[t] >= round || b->fibres[t].done);
        if (!all) next_fibre();
    }
    looks(&m.line[round & 1]);
}
static void block_barrier() {
    Block *b = the_block;
    size_t first = (size_t)(block_now() * b->threads);
    Meetings &m = b->meetings[block_now()];
    arrive(m);
    meet(m, first, first + (size_t)b->threads);
}
#define BARRIER() block_barrier()
#define CLUSTER_ARRIVE() arrive(the_block->cluster)
#define CLUSTER_WAIT() meet(the_block->cluster, 0, the_block->fibres.size())
static void inbox_open(u64 bytes) {
    Unseen machinery;
    the_block->expected = bytes, the_block->received[block_now()] = 0;
}
#define INBOX_OPEN(bytes) inbox_open(bytes)
// With fewer bytes than are expected the device would wait for ever.
static void inbox_wait() {
    Unseen machinery;
    u64 &received = the_block->received[block_now()];
    for (int rounds = 0; received != the_block->expected; rounds++) {
        if (received > the_block->expected || rounds == 1000) {
            complain("an inbox does not get what it expects", received, the_block->expected);
            break;
        }
        next_fibre();
    }
    looks(&received);
}
#define INBOX_WAIT() inbox_wait()
// Execution goes on when all lanes are here; they see nothing of each other's memory by that.
static void warp_barrier() {
    Block *b = the_block;
    size_t own = (size_t)(block_now() + 1) * (size_t)b->threads;
    size_t first = (size_t)b->current / 32 * 32, end = first + 32 < own ? first + 32 : own;
    u64 round = ++b->warp_rounds[b->current];
    for (bool all = false; !all;) {
        all = true;
        for (size_t t = first; t < end; t++) all = all && b->warp_rounds[t] >= round;
        if (!all) next_fibre();
    }
}
template <class T> static T shuffle_xor(T x, int mask) {
    Unseen machinery;
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

UNSEEN_FN static void fibre_main() {
    Block *b = the_block;
    if (b->fixed) looks(&b->finished);
    b->body(b->args);
    {
        Unseen machinery;
        b->fibres[b->current].done = true;
        shows(&b->finished);
    }
    next_fibre();
}
// Runs `grid` blocks of `threads` threads, one block after the other, from the last to the first: no kernel may rely on an order.
static void run_blocks(void (*body)(void **), void **args, u64 grid, int threads, bool barriers, int cluster, int shared, bool fixed) {
    Unseen machinery;
    Block block;
    int all = threads * cluster;
    block.body = body;
    block.args = args;
    block.threads = threads;
    block.fixed = fixed;
    block.known = fibre_here();
    block.fibres.resize(all);
    block.shown.resize(all);
    block.received.assign(cluster, 0);
    the_block = &block;
    bool fibres = barriers || RACES;
    if (fibres)
        for (Fibre &f : block.fibres) f.stack.resize(64 << 10), f.known = fibre_made();
    for (u64 n = grid / cluster; n-- > 0;) {
        block.number = n * (u64)cluster;
        if (!fibres) {
            for (int t = 0; t < threads; t++) {
                block.current = t;
                body(args);
            }
            continue;
        }
        // New memory for each block. Not zeros: kernels find anything there.
        block.arenas.clear();
        block.arenas.resize(cluster, std::vector<u8>(shared, 0x7e));
        block.warp_rounds.assign(all, 0);
        block.cluster.reached.assign(all, 0);
        block.cluster.waited.assign(all, 0);
        block.meetings.assign(cluster, block.cluster);
        for (Fibre &f : block.fibres) {
            f.done = false;
            f.copies.clear();
            f.groups = 0;
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = f.stack.data();
            f.context.uc_stack.ss_size = f.stack.size();
            f.context.uc_link = nullptr;
            makecontext(&f.context, fibre_main, 0);
        }
        for (bool left = true; left;) {
            left = false;
            for (int t = all; t-- > 0;) {
                Fibre &f = block.fibres[t];
                if (f.done) continue;
                left = true;
                block.current = t;
                fibre_next(f.known);
                swapcontext(&block.scheduler, &f.context);
            }
        }
    }
    looks(&block.finished);
    if (fibres)
        for (Fibre &f : block.fibres) fibre_gone(f.known);
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
    Unseen machinery;
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
    if (there) reads_16(from);
    writes_16(to);
    Unseen machinery;
    Fibre &f = the_block->fibres[the_block->current];
    f.copies.push_back({to, there ? from : nullptr, f.groups});
}
static void copies_wait(u64 left) {
    std::vector<Fibre::Copy> later, made;
    {
        Unseen machinery;
        Fibre &f = the_block->fibres[the_block->current];
        for (const Fibre::Copy &c : f.copies) (c.group + left >= f.groups ? later : made).push_back(c);
        for (const Fibre::Copy &c : made) c.from ? memcpy(c.to, c.from, 16) : memset(c.to, 0, 16);
        f.copies.swap(later);
    }
    for (const Fibre::Copy &c : made) writes_16(c.to);
}
static void copies_commit() {
    Unseen machinery;
    the_block->fibres[the_block->current].groups++;
}
#define COPIES_COMMIT() copies_commit()
#define COPIES_WAIT(n) copies_wait(n)
#define LATER_WORK_MAY_BEGIN()
// Four 8x8 matrices, of whose rows each lane names one; as they are, and transposed.
static void elements(const u16 **from, const u8 *row, bool across) {
    Unseen machinery;
    static thread_local const u8 *rows[128][32];
    static const u8 zeros[16] = {};
    int warp = the_block->current / 32, lane = the_block->current % 32;
    rows[warp][lane] = row;
    // A device would read beyond, or fail.
    const std::vector<u8> &arena = the_block->arenas[the_block->current / the_block->threads];
    if (row < arena.data() || row + 16 > arena.data() + arena.size()) {
        complain("a fragment is read beyond shared memory", (u64)(row - arena.data()), arena.size());
        rows[warp][lane] = zeros;
    }
    warp_barrier();
    for (int e = 0; e < 8; e++) {
        int m = e / 2, x = e % 2, i = across ? lane % 4 * 2 + x : lane / 4, j = across ? lane / 4 : lane % 4 * 2 + x;
        from[e] = (const u16 *)rows[warp][m * 8 + i] + j;
    }
    warp_barrier();
}
static void matrices(u32 *r, const u8 *row, bool across) {
    const u16 *from[8];
    elements(from, row, across);
    for (int m = 0; m < 4; m++) r[m] = (u32)*from[2 * m] | (u32)*from[2 * m + 1] << 16;
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
    memcpy(arena_of(rank) + ((const u8 *)p - arena_now()), v, 16);
    Unseen machinery;
    u64 &received = the_block->received[rank];
    received += 16;
    shows(&received);
}

// Of several threads' values the largest stays.
FN void at_least(u64 *p, u64 x) {
    Unseen one_instruction;
    *p = *p < x ? x : *p;
}
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
