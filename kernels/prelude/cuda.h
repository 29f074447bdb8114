// What the kernels need of CUDA. Compiled by NVRTC, which has no headers, so the half-width conversions are PTX.
typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

#define GLOBAL
#define SHARED __shared__
#define FN static __device__ __forceinline__
#define BARRIER() __syncthreads()
#define TID ((i32)threadIdx.x)
#define BID ((u64)blockIdx.x)
// Where launches may overlap: nothing is read or written before all earlier work of the stream is done.
#if __CUDA_ARCH__ >= 900
#define AFTER_EARLIER_WORK() asm volatile("griddepcontrol.wait;" ::: "memory")
#define LATER_WORK_MAY_BEGIN() asm volatile("griddepcontrol.launch_dependents;")
#else
#define AFTER_EARLIER_WORK()
#define LATER_WORK_MAY_BEGIN()
#endif
#define UNROLL _Pragma("unroll")
#define UNROLL_8 _Pragma("unroll 8")

FN float float_of_bits(u32 bits) { return __int_as_float((int)bits); }
FN u32 bits_of_float(float x) { return (u32)__float_as_int(x); }
FN double double_of_bits(u64 bits) { return __longlong_as_double((long long)bits); }
FN u64 bits_of_double(double x) { return (u64)__double_as_longlong(x); }

FN float widen(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
FN f16 narrow_f16(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
FN f16 narrow_f16(double x) {
    f16 y;
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(y.bits) : "d"(x));
    return y;
}

FN float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
FN double shuffle_xor(double x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

// d += a * b on a warp's 16x16 and 16x8 fragments, as PTX lays them out.
FN void mma_16x8x16(f16, float *d, const u32 *a, const u32 *b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FN void mma_16x8x16(bf16, float *d, const u32 *a, const u32 *b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The shared memory that a launch asks for.
#define SHARED_ARENA(name) extern __shared__ __align__(128) u8 name[]
FN u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }
// 16 bytes into shared memory, whenever they come; zeros if there are none.
FN void copy_16(u8 *to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}
#define COPIES_COMMIT() asm volatile("cp.async.commit_group;" ::: "memory")
#define COPIES_WAIT(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")
// Four 8x8 matrices, of whose rows each lane names one; as they are, and transposed.
FN void fragments(u32 *r, const u8 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
FN void fragments_across(u32 *r, const u8 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
FN void load_16(u32 *w, const void *p) {
    const uint4 v = *(const uint4 *)p;
    w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
}
FN void load_8(u32 *w, const void *p) {
    const uint2 v = *(const uint2 *)p;
    w[0] = v.x, w[1] = v.y;
}
FN void store_16(void *p, const u32 *w) { *(uint4 *)p = make_uint4(w[0], w[1], w[2], w[3]); }
FN void store_8(void *p, const u32 *w) { *(uint2 *)p = make_uint2(w[0], w[1]); }
FN void keep_8(float *p, const float *v) { *(float2 *)p = make_float2(v[0], v[1]); }
FN void keep_16(float *p, const float *v) { *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]); }
FN void local_16(float *v, const float *p) {
    const float4 x = *(const float4 *)p;
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
}
#if __CUDA_ARCH__ >= 900
// What other blocks send arrives in shared memory, so many bytes once in a kernel: whoever has waited sees all of it. Blocks meet twice before: when all
// inboxes are open, and when what lay in their place has been read (by loads whose results were used, so that nothing has to be released).
#define CLUSTER_ARRIVE() asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory")
#define CLUSTER_WAIT() asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory")
#define INBOX_OPEN(bytes)                                                                                    \
    __shared__ u64 inbox;                                                                                    \
    if (TID == 0)                                                                                            \
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n\tfence.mbarrier_init.release.cluster;\n\t"     \
                     "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&inbox)), \
                     "r"(bytes)                                                                              \
                     : "memory");                                                                            \
    __syncwarp()
#define INBOX_WAIT()                                                                                         \
    for (u32 full = 0; full == 0;)                                                                           \
    asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;" \
                 "\n\tselp.u32 %0, 1, 0, p;\n\t}"                                                            \
                 : "=r"(full)                                                                                \
                 : "r"(shared_address(&inbox))                                                               \
                 : "memory")
#define push_16(p, rank, v) send_16(p, &inbox, rank, v)
FN void send_16(float *p, u64 *inbox, int rank, const float *v) {
    u32 at, bell;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(shared_address(p)), "r"(rank));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(bell) : "r"(shared_address(inbox)), "r"(rank));
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1,%2,%3,%4}, [%5];" ::"r"(at),
                 "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), "r"(bell)
                 : "memory");
}
#endif

// Of several threads' values the largest stays.
FN void at_least(u64 *p, u64 x) { atomicMax(p, x); }
#define MATH1(name, f32name, f64name)                                                                        \
    FN float name(float x) { return f32name(x); }                                                            \
    FN double name(double x) { return f64name(x); }
#define MATH2(name, f32name, f64name)                                                                        \
    FN float name(float x, float y) { return f32name(x, y); }                                                \
    FN double name(double x, double y) { return f64name(x, y); }
// Good to six digits or so: what is rounded to a half width next needs no more. A maximum may take the other one for NaN.
FN float max_near(float x, float y) { return fmaxf(x, y); }
FN float exp2_near(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
FN float reciprocal_near(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
FN float rsqrt_near(float x) {
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
FN float m_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FN double m_fma(double a, double b, double c) { return __fma_rn(a, b, c); }
#define HAS_DOUBLE 1
