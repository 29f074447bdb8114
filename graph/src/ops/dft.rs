//! DFT, STFT: products with a matrix of cosines and sines made at plan time.

use std::f64::consts::TAU;

use streampool_core::Error;
use streampool_core::op::{Binary, Layout, Op, Pad, PadMode, Scalar};

use super::matmul::product;
use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, View, axis};

pub(super) const OPS: &[Operator] = &[
    op("DFT", 17, |lo, n| {
        let at = n.attrs.int("axis", 1)?;
        dft(lo, n, at)
    }),
    op("DFT", 20, |lo, n| {
        let at = match lo.optional(n, 2)? {
            Some(a) => lo.one(&a, "axis")?.to_i64(),
            None => -2,
        };
        dft(lo, n, at)
    }),
    op("STFT", 17, stft),
];

/// The longest transform: its matrix has the square of that many entries.
const LONGEST: usize = 4096;

/// What a transform does.
#[derive(Clone, Copy)]
struct Transform {
    length: usize,
    inverse: bool,
    onesided: bool,
}

/// The transform over the last axis but one; the last has 1 (real) or 2 (complex) entries.
fn transform(lo: &mut Lower<'_>, x: &View, t: Transform) -> LResult<View> {
    let rank = x.rank();
    let parts = x.shape()[rank - 1];
    if t.length == 0 || t.length > LONGEST {
        return Err(Error::unsupported(format!(
            "a transform of {} points; there are 1 to {LONGEST}",
            t.length
        ))
        .into());
    }
    let half = t.length / 2 + 1;
    // How many input points enter, and how many come out.
    let (enter, leave) = match (t.inverse, t.onesided) {
        (true, true) => (half, t.length),
        (false, true) => (t.length, half),
        _ => (t.length, t.length),
    };
    let have = x.shape()[rank - 2];
    let mut v = x.clone();
    if have > enter {
        v = lo.slice(&v, rank - 2, 0, enter, 1);
    } else if have < enter {
        let mut after = vec![0; rank];
        after[rank - 2] = (enter - have) as isize;
        let mode = PadMode::Constant(Scalar::from_f64(x.dtype, 0.0));
        v = lo.emit1(Op::Pad(Pad { mode, before: vec![0; rank], after }), &[v])?;
    }
    let real_out = t.inverse && t.onesided;
    let out_parts = if real_out { 1 } else { 2 };
    let mut matrix = vec![0.0; enter * parts * leave * out_parts];
    let sign = if t.inverse { 1.0 } else { -1.0 };
    let norm = if t.inverse { 1.0 / t.length as f64 } else { 1.0 };
    for i in 0..enter {
        // The missing half of a one-sided spectrum mirrors the given one.
        let twice =
            if real_out && i != 0 && !(t.length.is_multiple_of(2) && i == t.length / 2) { 2.0 } else { 1.0 };
        for o in 0..leave {
            let angle = sign * TAU * ((i * o) % t.length) as f64 / t.length as f64;
            let (s, c) = angle.sin_cos();
            let w = norm * twice;
            for p in 0..parts {
                let (re, im) = if p == 0 { (c, s) } else { (-s, c) };
                let row = (i * parts + p) * leave * out_parts + o * out_parts;
                matrix[row] = w * re;
                if !real_out {
                    matrix[row + 1] = w * im;
                }
            }
        }
    }
    let matrix = lo.floats_constant(x.dtype, &matrix, vec![enter * parts, leave * out_parts]);
    let mut rows = v.shape()[..rank - 2].to_vec();
    rows.push(enter * parts);
    let flat = lo.reshape(&v, rows.clone())?;
    let flat = if rows.len() == 1 { lo.unsqueeze(&flat, &[0])? } else { flat };
    let y = product(lo, &flat, &matrix)?;
    rows.pop();
    rows.extend([leave, out_parts]);
    lo.reshape(&y, rows)
}

fn complex(x: &View) -> LResult<()> {
    if x.rank() < 2 || !matches!(x.shape().last(), Some(1 | 2)) || !x.dtype.is_float() {
        return Err(Error::invalid_argument(format!(
            "x {} should have a last axis of 1 (real) or 2 (complex)",
            x.ty()
        ))
        .into());
    }
    Ok(())
}

fn size(v: i64, what: &str) -> LResult<usize> {
    Ok(usize::try_from(v).map_err(|_| Error::invalid_argument(format!("{what} is {v}")))?)
}

fn dft(lo: &mut Lower<'_>, n: &Node, at: i64) -> LResult<()> {
    let x = lo.input(n, 0)?;
    complex(&x)?;
    let rank = x.rank();
    let at = axis(at, rank)?;
    if at + 1 == rank {
        return Err(
            Error::invalid_argument("the axis of real and imaginary parts cannot be transformed").into()
        );
    }
    let (inverse, onesided) = (n.attrs.flag("inverse", false)?, n.attrs.flag("onesided", false)?);
    let length = match lo.optional(n, 1)? {
        Some(l) => size(lo.one(&l, "dft_length")?.to_i64(), "dft_length")?,
        None if inverse && onesided => 2 * x.shape()[at].saturating_sub(1),
        None => x.shape()[at],
    };
    let mut perm: Vec<usize> = (0..rank).filter(|&a| a != at).collect();
    perm.insert(rank - 2, at);
    let v = lo.permute(&x, &perm)?;
    let y = transform(lo, &v, Transform { length, inverse, onesided })?;
    let back: Vec<usize> = (0..rank).map(|a| perm.iter().position(|&p| p == a).unwrap_or(a)).collect();
    let y = lo.permute(&y, &back)?;
    lo.set(n, 0, y)
}

/// Frames are a view whose strides overlap; each is weighted and transformed.
fn stft(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (mut x, step) = (lo.input(n, 0)?, lo.input(n, 1)?);
    if x.rank() == 2 {
        x = lo.unsqueeze(&x, &[2])?;
    }
    complex(&x)?;
    let step = size(lo.one(&step, "frame_step")?.to_i64(), "frame_step")?;
    let window = lo.optional(n, 2)?;
    let length = match lo.optional(n, 3)? {
        Some(l) => size(lo.one(&l, "frame_length")?.to_i64(), "frame_length")?,
        None => window.as_ref().map_or(x.shape()[1], |w| w.shape().len()),
    };
    let have = x.shape()[1];
    if x.rank() != 3 || step == 0 || length == 0 || length > have {
        return Err(Error::invalid_argument(format!(
            "frames of {length} every {step} do not fit x {}",
            x.ty()
        ))
        .into());
    }
    let frames = 1 + (have - length) / step;
    let s = &x.layout.strides;
    let layout = Layout {
        shape: vec![x.shape()[0], frames, length, x.shape()[2]].into(),
        strides: [s[0], s[1] * step as isize, s[1], s[2]].into_iter().collect(),
        offset: x.layout.offset,
    };
    let mut v = x.with(layout);
    if let Some(w) = window {
        let w = lo.reshape(&w, vec![length, 1])?;
        v = lo.binary(Binary::Mul, &v, &w)?;
    }
    let onesided = n.attrs.flag("onesided", true)?;
    let y = transform(lo, &v, Transform { length, inverse: false, onesided })?;
    lo.set(n, 0, y)
}
