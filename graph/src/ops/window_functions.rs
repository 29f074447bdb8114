//! HannWindow, HammingWindow, BlackmanWindow, MelWeightMatrix: tables computed at plan time.

use std::f64::consts::PI;

use streampool_core::Error;

use super::{Operator, op};
use crate::ir::{Node, dtype_of};
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[
    op("HannWindow", 17, |lo, n| window(lo, n, &[0.5, 0.5])),
    op("HammingWindow", 17, |lo, n| window(lo, n, &[25.0 / 46.0, 21.0 / 46.0])),
    op("BlackmanWindow", 17, |lo, n| window(lo, n, &[0.42, 0.5, 0.08])),
    op("MelWeightMatrix", 17, mel),
];

/// `sum of (-1)^k a_k cos(2 pi k i / period)`.
fn window(lo: &mut Lower<'_>, n: &Node, terms: &[f64]) -> LResult<()> {
    let size = lo.input(n, 0)?;
    let size = lo.one(&size, "size")?.to_i64();
    let len = usize::try_from(size)
        .ok()
        .filter(|&s| s < 1 << 28)
        .ok_or_else(|| Error::invalid_argument(format!("a window of {size} is impossible")))?;
    let dtype = dtype_of(i32::try_from(n.attrs.int("output_datatype", 1)?).unwrap_or(0))?;
    let period = if n.attrs.flag("periodic", true)? { size } else { size - 1 } as f64;
    let values: Vec<f64> = (0..len)
        .map(|i| {
            terms
                .iter()
                .enumerate()
                .map(|(k, a)| {
                    let sign = if k % 2 == 0 { 1.0 } else { -1.0 };
                    sign * a * (2.0 * PI * k as f64 * i as f64 / period).cos()
                })
                .sum()
        })
        .collect();
    let y = lo.floats_constant(dtype, &values, vec![len]);
    lo.set(n, 0, y)
}

/// Triangular filters, evenly spaced on the mel scale.
fn mel(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let mut values = [0.0; 5];
    for (i, v) in values.iter_mut().enumerate() {
        let view = lo.input(n, i)?;
        *v = lo.one(&view, "an input")?.to_f64();
    }
    let [bins, dft, rate, low, high] = values;
    if !(1.0..65536.0).contains(&bins) || !(1.0..16_777_216.0).contains(&dft) || rate <= 0.0 {
        return Err(Error::invalid_argument(format!(
            "{bins} mel bins of a DFT of {dft} at {rate} Hz are impossible"
        ))
        .into());
    }
    let (bins, spectrum) = (bins as usize, dft as usize / 2 + 1);
    let to_mel = |f: f64| 2595.0 * (1.0 + f / 700.0).log10();
    let (low, high) = (to_mel(low), to_mel(high));
    let step = (high - low) / (bins + 2) as f64;
    let edges: Vec<usize> = (0..bins + 2)
        .map(|i| {
            let hz = 700.0 * (10f64.powf((i as f64 * step + low) / 2595.0) - 1.0);
            (((dft + 1.0) * hz) / rate).floor().max(0.0) as usize
        })
        .collect();
    let mut out = vec![0.0; spectrum * bins];
    for m in 0..bins {
        let (a, b, c) = (edges[m], edges[m + 1], edges[m + 2]);
        if a == b && b < spectrum {
            out[b * bins + m] = 1.0;
        }
        for j in a..=b.min(spectrum - 1) {
            if b > a {
                out[j * bins + m] = (j - a) as f64 / (b - a) as f64;
            }
        }
        for j in b..c.min(spectrum) {
            if c > b {
                out[j * bins + m] = (c - j) as f64 / (c - b) as f64;
            }
        }
    }
    let dtype = dtype_of(i32::try_from(n.attrs.int("output_datatype", 1)?).unwrap_or(0))?;
    let y = lo.floats_constant(dtype, &out, vec![spectrum, bins]);
    lo.set(n, 0, y)
}
