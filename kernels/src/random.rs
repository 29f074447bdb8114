//! Random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), by the recipe that the CPU device
//! documents, so that single-precision numbers are the same to the bit on every device.

use std::fmt::Write;

use streampool_core::op::{DType, Distribution, Operand, Random};

use crate::emit::{Index, THREADS, blocks, float, storage};
use crate::{Binding, Kernel};

/// The four words of block `b`, from the key and the offset.
const BLOCK: &str = "    u32 c0 = (u32)b, c1 = (u32)((u64)b >> 32), c2 = (u32)(u64)key[1], c3 = (u32)((u64)key[1] >> 32), s0 = (u32)(u64)key[0], s1 = (u32)((u64)key[0] >> 32);
    UNROLL for (int round = 0; round < 10; round++) {
        const u64 x = (u64)c0 * 0xD2511F53u, y = (u64)c2 * 0xCD9E8D57u;
        const u32 n0 = (u32)(y >> 32) ^ c1 ^ s0, n2 = (u32)(x >> 32) ^ c3 ^ s1;
        c1 = (u32)y; c3 = (u32)x; c0 = n0; c2 = n2;
        s0 += 0x9E3779B9u; s1 += 0xBB67AE85u;
    }
";

/// A pair of normal numbers `n0`, `n1` of the words `wa`, `wb`.
fn normal_pair(text: &mut String, at: usize, mean: f32, std: f32) {
    let _ = writeln!(
        text,
        "    {{ const float u = (float)((w[{at}] >> 8) + 1u) * {unit}, v = (float)(w[{at} + 1] >> 8) * {unit};",
        unit = float(1.0 / (1 << 24) as f32)
    );
    // The logarithm: x = m 2^e, then the series of 2 atanh((m - 1) / (m + 1)).
    let _ = writeln!(
        text,
        "    const u32 shifted = bits_of_float(u) - 0x3f3504f3u; const float e = (float)((i32)shifted >> 23), m = float_of_bits((shifted & 0x007fffffu) + 0x3f3504f3u), f = m - 1.0f, s = f / (m + 1.0f), z = s * s;\n    const float p = m_fma(z, m_fma(z, m_fma(z, m_fma({}, z, {}), {}), {}), 0.0f) * s, low = p - s * f, ln = m_fma(e, {}, f + low);",
        float(0.222_222_22),
        float(0.285_714_3),
        float(0.4),
        float(0.666_666_7),
        float(std::f32::consts::LN_2)
    );
    // Cosine and sine: the nearest quarter turn is taken off, then Taylor's polynomials.
    let _ = writeln!(
        text,
        "    const i32 quarters = (i32)(v * 4.0f + 0.5f); const float x = (v - (float)quarters * 0.25f) * {}, q = x * x;\n    const float cosine = m_fma(q, m_fma(q, m_fma(q, m_fma(q, {}, {}), {}), -0.5f), 1.0f), sine = m_fma(q * x, m_fma(q, m_fma(q, m_fma(q, {}, {}), {}), {}), x);",
        float(std::f32::consts::TAU),
        float(2.480_158_7e-5),
        float(-0.001_388_888_9),
        float(0.041_666_668),
        float(2.755_731_9e-6),
        float(-1.984_127e-4),
        float(0.008_333_334),
        float(-0.166_666_67)
    );
    let _ = writeln!(
        text,
        "    const i32 turn = quarters & 3; const float r = m_sqrt(-2.0f * ln), c = turn == 0 ? cosine : turn == 1 ? -sine : turn == 2 ? -cosine : sine, t = turn == 0 ? sine : turn == 1 ? cosine : turn == 2 ? -sine : -cosine;\n    n[{at}] = {mean} + {std} * (r * c); n[{at} + 1] = {mean} + {std} * (r * t); }}",
        mean = float(mean),
        std = float(std)
    );
}

pub(crate) fn random(op: &Random, output: &Operand) -> Vec<Kernel> {
    let n = output.layout.shape.len();
    let index = Index::new(&[n]);
    let u = index.u();
    let dtype = op.dtype;
    let wide = dtype == DType::F64;
    let each = if wide { 2 } else { 4 };
    let count = n.div_ceil(each);
    let mut text = format!(
        "    const {u} b = ({u})(BID * {THREADS}u + (u32)TID);\n    if (b >= {count}u) return;\n{BLOCK}    const u32 w[4] = {{c0, c1, c2, c3}}; (void)w;\n"
    );
    if wide {
        text.push_str("    const double unit = 1.0 / 9007199254740992.0; const u64 wa = ((u64)w[1] << 32 | w[0]) >> 11, wb = ((u64)w[3] << 32 | w[2]) >> 11; double n[2];\n");
        let number = |x: f32| format!("double_of_bits({:#x}ull)", f64::from(x).to_bits());
        match op.distribution {
            Distribution::Uniform { low, high } => {
                let (low, high) = (low.get(), high.get());
                let below = if high > low { f64::from(high).next_down() } else { f64::INFINITY };
                for (i, x) in ["wa", "wb"].into_iter().enumerate() {
                    let _ = writeln!(
                        text,
                        "    n[{i}] = {low_} + (double){x} * unit * ({high_} - {low_}); if ({bounded} && !(n[{i}] < {high_})) n[{i}] = double_of_bits({:#x}ull);",
                        below.to_bits(),
                        low_ = number(low),
                        high_ = number(high),
                        bounded = high > low
                    );
                }
            }
            Distribution::Normal { mean, std } => {
                let _ = writeln!(
                    text,
                    "    const double r = m_sqrt(-2.0 * m_log((double)(wa + 1) * unit)), angle = (double)wb * unit * double_of_bits({:#x}ull); n[0] = {mean} + {std} * (r * m_cos(angle)); n[1] = {mean} + {std} * (r * m_sin(angle));",
                    std::f64::consts::TAU.to_bits(),
                    mean = number(mean.get()),
                    std = number(std.get())
                );
            }
        }
    } else {
        text.push_str("    float n[4];\n");
        match op.distribution {
            Distribution::Uniform { low, high } => {
                let (low, high) = (low.get(), high.get());
                let below = if high > low { high.next_down() } else { low };
                let _ = writeln!(
                    text,
                    "    UNROLL for (int j = 0; j < 4; j++) {{ const float x = {} + (float)(w[j] >> 8) * {} * {}; n[j] = x < {} ? x : {}; }}",
                    float(low),
                    float(1.0 / (1 << 24) as f32),
                    float(high - low),
                    float(high),
                    float(below)
                );
            }
            Distribution::Normal { mean, std } => {
                normal_pair(&mut text, 0, mean.get(), std.get());
                normal_pair(&mut text, 2, mean.get(), std.get());
            }
        }
    }
    // A uniform number that rounding to 16 bits lifts to the bound is the next lower one.
    let bounded = match op.distribution {
        Distribution::Uniform { low, high } if high.get() > low.get() => Some(high.get()),
        _ => None,
    };
    let write = match (dtype, bounded) {
        (DType::F16 | DType::BF16, Some(high)) => format!(
            "{half} h = narrow_{half}(n[j]); if (widen(h) >= {}) h.bits = (h.bits & 0x7fff) == 0 ? 0x8001 : h.bits & 0x8000 ? h.bits + 1 : h.bits - 1; y[at] = h;",
            float(high),
            half = storage(dtype)
        ),
        _ => "store(y, at, n[j]);".to_owned(),
    };
    let _ = writeln!(
        text,
        "    UNROLL for (int j = 0; j < {each}; j++) {{ const {u} at = b * {each}u + (u32)j; if (at < {n}u) {{ {write} }} }}"
    );
    vec![
        Kernel::new("philox4x32-10", blocks(count), THREADS)
            .param(Binding::Input(0), "key", "i64")
            .param(Binding::Output(0), "y", storage(dtype))
            .body(text),
    ]
}
