//! Random numbers that any device can reproduce to the bit.
//!
//! Element `i` comes from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with the key
//! (seed low, seed high) and the counter (b low, b high, offset low, offset high), `b` being the number of its block: `i / 4` for f32, f16 and bf16, `i / 2`
//! for f64. A block's four words w0..w3 make four single-precision numbers or two double-precision ones.
//!
//! Single precision, and f16 and bf16, which are the rounded single-precision numbers:
//! - uniform: element `j` of a block is `low + (w[j] >> 8) * 2^-24 * (high - low)`, multiplied, then added, each rounded; if that is not
//!   below `high`, the number below `high`.
//! - normal: words (w0, w1) make elements 0 and 1, words (w2, w3) elements 2 and 3: with `u = ((a >> 8) + 1) * 2^-24` and
//!   `v = (b >> 8) * 2^-24` of a pair (a, b), `r = sqrt(-2 ln u)`, they are `mean + std * (r cos 2 pi v)` and `mean + std * (r sin 2 pi v)`, with [`ln`] and
//!   [`turn`] below, which use nothing but IEEE additions, multiplications and fused multiply-adds in the order written.
//!
//! Double precision: the same with `((w1:w0) >> 11) * 2^-53` and `((w3:w2) >> 11) * 2^-53` in the place of the fractions, and the platform's
//! `ln`, `sin` and `cos`, whose last bit may differ.

use std::ops::Range;

use half::{bf16, f16};
use streampool_core::Result;
use streampool_core::op::{DType, Distribution, Random};

use super::{SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};
use crate::simd::multiversion;

/// One of a block's ten rounds.
#[inline(always)]
fn philox_round(c: [u32; 4], k: [u32; 2]) -> [u32; 4] {
    let a = u64::from(c[0]) * 0xD251_1F53;
    let b = u64::from(c[2]) * 0xCD9E_8D57;
    [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32]
}

/// The next round's key.
#[inline(always)]
fn next_key(k: [u32; 2]) -> [u32; 2] {
    [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)]
}

/// One block of four words.
#[inline(always)]
fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    let mut round = 0;
    while round < 10 {
        c = philox_round(c, k);
        k = next_key(k);
        round += 1;
    }
    c
}

/// Natural logarithm of a normal number in (0, 1], within 2 units of the last place. `x = m 2^e` with `m` in [sqrt(1/2), sqrt 2), then the series
/// of `2 atanh(s)`, `s = (m - 1) / (m + 1)`.
#[inline(always)]
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let shifted = bits.wrapping_sub(0x3f35_04f3);
    let e = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let f = m - 1.0;
    let s = f / (m + 1.0);
    let z = s * s;
    let p = z.mul_add(z.mul_add(z.mul_add(z.mul_add(0.222_222_22, 0.285_714_3), 0.4), 0.666_666_7), 0.0) * s;
    // ln m = 2 s + p, and 2 s = f - s f exactly enough.
    let low = p - s * f;
    e.mul_add(std::f32::consts::LN_2, f + low)
}

/// `(cos 2 pi v, sin 2 pi v)` for `v` in [0, 1): the nearest quarter turn is taken off (exact), then Taylor's polynomials within an eighth.
#[inline(always)]
fn turn(v: f32) -> (f32, f32) {
    let quarters = (v * 4.0 + 0.5) as i32;
    let x = (v - quarters as f32 * 0.25) * std::f32::consts::TAU;
    let z = x * x;
    let c = z.mul_add(z.mul_add(z.mul_add(2.480_158_7e-5, -0.001_388_888_9), 0.041_666_668), -0.5);
    let cos = z.mul_add(c, 1.0);
    let s = z.mul_add(z.mul_add(z.mul_add(2.755_731_9e-6, -1.984_127e-4), 0.008_333_334), -0.166_666_67);
    let sin = (z * x).mul_add(s, x);
    // Without branches, so that many are turned at once: (c, s), (-s, c), (-c, -s), (s, -c).
    let (a, b) = if quarters & 1 == 0 { (cos, sin) } else { (sin, cos) };
    let sign = |x: f32, negative: i32| f32::from_bits(x.to_bits() ^ ((negative & 2) as u32) << 30);
    (sign(a, quarters + 1), sign(b, quarters))
}

const FRACTION: f32 = 1.0 / (1 << 24) as f32;

/// Key and offset.
#[derive(Clone, Copy)]
struct Key {
    seed: [u32; 2],
    offset: [u32; 2],
}

impl Key {
    #[inline(always)]
    fn block(self, b: u64) -> [u32; 4] {
        philox([b as u32, (b >> 32) as u32, self.offset[0], self.offset[1]], self.seed)
    }
}

/// What the loops below need of a distribution.
trait Draw: Copy + 'static {
    fn four(self, words: [u32; 4]) -> [f32; 4];
}

#[derive(Clone, Copy)]
struct Uniform {
    low: f32,
    width: f32,
    high: f32,
    below: f32,
}

#[derive(Clone, Copy)]
struct Normal {
    mean: f32,
    std: f32,
}

impl Draw for Uniform {
    #[inline(always)]
    fn four(self, words: [u32; 4]) -> [f32; 4] {
        words.map(|w| {
            let x = self.low + (w >> 8) as f32 * FRACTION * self.width;
            if x < self.high { x } else { self.below }
        })
    }
}

impl Draw for Normal {
    #[inline(always)]
    fn four(self, words: [u32; 4]) -> [f32; 4] {
        let pair = |a: u32, b: u32| {
            let u = ((a >> 8) + 1) as f32 * FRACTION;
            let (cos, sin) = turn((b >> 8) as f32 * FRACTION);
            let r = (-2.0 * ln(u)).sqrt();
            (self.mean + self.std * (r * cos), self.mean + self.std * (r * sin))
        };
        let (a, b) = (pair(words[0], words[1]), pair(words[2], words[3]));
        [a.0, a.1, b.0, b.1]
    }
}

/// Blocks made at once, each step for all of them: so the compiler makes vectors of it.
const LANES: usize = 16;

/// The words of the blocks `first ..`, word by word.
#[inline(always)]
fn blocks(key: Key, first: u64) -> [[u32; LANES]; 4] {
    let mut c = [[0; LANES], [0; LANES], [key.offset[0]; LANES], [key.offset[1]; LANES]];
    let mut lane = 0;
    while lane < LANES {
        let b = first.wrapping_add(lane as u64);
        (c[0][lane], c[1][lane]) = (b as u32, (b >> 32) as u32);
        lane += 1;
    }
    let mut k = key.seed;
    let mut round = 0;
    while round < 10 {
        lane = 0;
        while lane < LANES {
            let four = philox_round([c[0][lane], c[1][lane], c[2][lane], c[3][lane]], k);
            (c[0][lane], c[1][lane], c[2][lane], c[3][lane]) = (four[0], four[1], four[2], four[3]);
            lane += 1;
        }
        k = next_key(k);
        round += 1;
    }
    c
}

multiversion! {
    /// Elements `4 first ..` of a tensor.
    fn draw[D: Draw](d: D, key: Key, first: u64, to: &mut [f32]) {
        let whole = to.len() / (4 * LANES);
        let (many, rest) = to.split_at_mut(whole * 4 * LANES);
        for (i, to) in many.chunks_exact_mut(4 * LANES).enumerate() {
            let words = blocks(key, first + (i * LANES) as u64);
            let mut numbers = [[0f32; LANES]; 4];
            let mut lane = 0;
            while lane < LANES {
                let four = d.four([words[0][lane], words[1][lane], words[2][lane], words[3][lane]]);
                (numbers[0][lane], numbers[1][lane], numbers[2][lane], numbers[3][lane]) = (four[0], four[1], four[2], four[3]);
                lane += 1;
            }
            for (lane, to) in to.chunks_exact_mut(4).enumerate() {
                to.copy_from_slice(&[numbers[0][lane], numbers[1][lane], numbers[2][lane], numbers[3][lane]]);
            }
        }
        for (b, to) in (first + (whole * LANES) as u64..).zip(rest.chunks_mut(4)) {
            let four = d.four(key.block(b));
            for (t, x) in to.iter_mut().zip(four) {
                *t = x;
            }
        }
    }
}

struct RandomKernel {
    op: Random,
    len: usize,
}

pub(crate) fn prepare(op: &Random, p: &Prepare<'_>) -> Box<dyn Kernel> {
    Box::new(RandomKernel { op: op.clone(), len: p.outputs[0].layout.shape.len() })
}

/// Numbers made at a time before they are rounded to 16 bits.
const PART: usize = 256;

impl RandomKernel {
    fn singles(&self, key: Key, first: u64, to: &mut [f32]) {
        match self.op.distribution {
            Distribution::Uniform { low, high } => {
                let (low, high) = (low.get(), high.get());
                let below = if high > low { high.next_down() } else { low };
                draw(Uniform { low, width: high - low, high, below }, key, first, to);
            }
            Distribution::Normal { mean, std } => {
                draw(Normal { mean: mean.get(), std: std.get() }, key, first, to);
            }
        }
    }

    /// Elements `parts * PART ..`.
    ///
    /// # Safety
    /// `to` is the output.
    unsafe fn parts(&self, key: Key, to: *mut u8, parts: Range<usize>) {
        let mut buffer = [0f32; PART];
        // The bound that a rounded uniform number must stay below.
        let high = match self.op.distribution {
            Distribution::Uniform { low, high } if high.get() > low.get() => high.get(),
            _ => f32::INFINITY,
        };
        for part in parts {
            let start = part * PART;
            let n = PART.min(self.len - start);
            // SAFETY: `start + n` elements lie within the output.
            unsafe {
                match self.op.dtype {
                    DType::F64 => {
                        let to = std::slice::from_raw_parts_mut(to.cast::<f64>().add(start), n);
                        self.doubles(key, start, to);
                    }
                    DType::F32 => {
                        let to = std::slice::from_raw_parts_mut(to.cast::<f32>().add(start), n);
                        self.singles(key, (start / 4) as u64, to);
                    }
                    DType::F16 => {
                        self.singles(key, (start / 4) as u64, &mut buffer[..n]);
                        for (i, &x) in buffer[..n].iter().enumerate() {
                            let mut y = f16::from_f32(x);
                            if y.to_f32() >= high {
                                y = f16::from_bits(below(y.to_bits()));
                            }
                            to.cast::<f16>().add(start + i).write(y);
                        }
                    }
                    _ => {
                        self.singles(key, (start / 4) as u64, &mut buffer[..n]);
                        for (i, &x) in buffer[..n].iter().enumerate() {
                            let mut y = bf16::from_f32(x);
                            if y.to_f32() >= high {
                                y = bf16::from_bits(below(y.to_bits()));
                            }
                            to.cast::<bf16>().add(start + i).write(y);
                        }
                    }
                }
            }
        }
    }

    fn doubles(&self, key: Key, start: usize, to: &mut [f64]) {
        for (j, pair) in to.chunks_mut(2).enumerate() {
            let w = key.block((start / 2 + j) as u64).map(u64::from);
            let unit = 1.0 / (1u64 << 53) as f64;
            let (a, b) = ((w[1] << 32 | w[0]) >> 11, (w[3] << 32 | w[2]) >> 11);
            let two = match self.op.distribution {
                Distribution::Uniform { low, high } => {
                    let (low, high) = (f64::from(low.get()), f64::from(high.get()));
                    [a, b].map(|x| {
                        let x = low + x as f64 * unit * (high - low);
                        if x < high || high <= low { x } else { high.next_down() }
                    })
                }
                Distribution::Normal { mean, std } => {
                    let r = (-2.0 * ((a + 1) as f64 * unit).ln()).sqrt();
                    let angle = b as f64 * unit * std::f64::consts::TAU;
                    [r * angle.cos(), r * angle.sin()]
                        .map(|z| f64::from(mean.get()) + f64::from(std.get()) * z)
                }
            };
            for (t, x) in pair.iter_mut().zip(two) {
                *t = x;
            }
        }
    }
}

/// The next lower number of a 16-bit float.
fn below(bits: u16) -> u16 {
    match bits {
        0 | 0x8000 => 0x8001,
        b if b & 0x8000 == 0 => b - 1,
        b => b + 1,
    }
}

impl Kernel for RandomKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        // SAFETY: the key is two numbers.
        let (seed, offset) =
            unsafe { (args.inputs[0].cast::<u64>().read(), args.inputs[0].cast::<u64>().add(1).read()) };
        let halves = |x: u64| [x as u32, (x >> 32) as u32];
        let key = Key { seed: halves(seed), offset: halves(offset) };
        let to = SharedMut(args.outputs[0]);
        split::run(args.team, self.len.div_ceil(PART), self.work(), |range| {
            // SAFETY: passed on from the caller; each part writes elements of its own.
            unsafe { self.parts(key, to.get(), range) }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        "philox4x32-10".into()
    }

    fn work(&self) -> usize {
        self.len * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_words() {
        // The known answers that come with the authors' Random123.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn many_blocks_at_once_are_those_one_by_one() {
        let key = Key { seed: [0x243f_6a88, 7], offset: [3, 0x9e37_79b9] };
        // Where the number of a block outgrows 32 bits, too; with a rest that is no whole block.
        for first in [0, 5, u64::from(u32::MAX) - 9, u64::MAX >> 2] {
            for (len, normal) in
                [(0, true), (3, true), (4 * LANES - 1, false), (12 * LANES + 7, true), (9 * LANES, false)]
            {
                let (n, u) = (
                    Normal { mean: 0.5, std: 2.0 },
                    Uniform { low: -1.0, width: 3.0, high: 2.0, below: 2f32.next_down() },
                );
                let mut got = vec![f32::NAN; len];
                if normal {
                    draw(n, key, first, &mut got)
                } else {
                    draw(u, key, first, &mut got)
                };
                for (i, x) in got.iter().enumerate() {
                    let words = key.block(first + i as u64 / 4);
                    let want = if normal { n.four(words) } else { u.four(words) }[i % 4];
                    assert_eq!(x.to_bits(), want.to_bits(), "element {i} of {len} from block {first}");
                }
            }
        }
    }

    #[test]
    fn quarter_turns_have_their_signs() {
        for (v, want) in [(0.0, (1.0, 0.0)), (0.25, (0.0, 1.0)), (0.5, (-1.0, 0.0)), (0.75, (0.0, -1.0))] {
            let (c, s) = turn(v);
            assert_eq!((c, s), want, "{v}");
        }
    }

    #[test]
    fn logarithm_and_circle_are_accurate() {
        for w in (0..1u32 << 24).step_by(997) {
            let u = (w + 1) as f32 * FRACTION;
            let exact = f64::from(u).ln();
            let error = (f64::from(ln(u)) - exact).abs();
            assert!(error <= 2.5e-7 * exact.abs().max(1e-7), "{u} {} {exact}", ln(u));
            let v = w as f32 * FRACTION;
            let angle = f64::from(v) * std::f64::consts::TAU;
            let (c, s) = turn(v);
            let error = (f64::from(c) - angle.cos()).abs().max((f64::from(s) - angle.sin()).abs());
            assert!(error < 2e-7, "{v} {c} {s}");
        }
    }
}
