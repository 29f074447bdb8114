//! ONNX's Resize, one axis after the other: every mode weighs the elements of a few neighbours per axis, and weights of several axes multiply.
//!
//! Cubic weights are Keys' ("Cubic convolution interpolation for digital image processing", 1981). All is computed in double precision, which the memory
//! traffic hides; integers are rounded to nearest.

use streampool_core::Result;
use streampool_core::op::{CoordinateMode, DType, NearestMode, Resize, ResizeMode};

use super::copy::Size;
use super::storage::with_size;
use super::{SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};

/// The weighted elements of the input's axis that make each element of the output's.
struct Taps {
    /// Where the taps of an output start in `taps`; one more than there are outputs.
    starts: Vec<usize>,
    taps: Vec<(usize, f64)>,
    /// Outputs that lie outside the input, if those are extrapolated.
    outside: Vec<bool>,
}

struct ResizeKernel {
    dtype: DType,
    input: Vec<usize>,
    output: Vec<usize>,
    axes: Vec<Taps>,
    nearest: bool,
    extrapolation: Option<f32>,
}

pub(crate) fn prepare(op: &Resize, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let (input, output) = (p.inputs[0].layout.shape.to_vec(), p.outputs[0].layout.shape.to_vec());
    let empty = output.contains(&0) || input.contains(&0);
    let axes = (0..input.len())
        .map(|axis| if empty { Taps::none() } else { Taps::new(op, axis, input[axis], output[axis]) })
        .collect();
    let extrapolation = match op.coordinates {
        CoordinateMode::TfCropAndResize { extrapolation } => Some(extrapolation.get()),
        _ => None,
    };
    let nearest = matches!(op.mode, ResizeMode::Nearest(_));
    Box::new(ResizeKernel { dtype: p.outputs[0].dtype, input, output, axes, nearest, extrapolation })
}

/// A scale that is the rounded ratio of the lengths stands for the ratio: else coordinates that should fall on elements would miss them.
fn exact_scale(scale: f32, input: f64, output: f64) -> f64 {
    if (output / input) as f32 == scale { output / input } else { f64::from(scale) }
}

/// The input coordinate of output `o`.
fn coordinate(op: &Resize, axis: usize, o: usize, input: usize, output: usize) -> f64 {
    let (o, input, output) = (o as f64, input as f64, output as f64);
    let scale = exact_scale(op.scales[axis].get(), input, output);
    match op.coordinates {
        CoordinateMode::HalfPixel => (o + 0.5) / scale - 0.5,
        CoordinateMode::HalfPixelSymmetric => {
            // The output may be shorter than scale times the input: centre it.
            let adjustment = output / (scale * input);
            let offset = input / 2.0 * (1.0 - adjustment);
            offset + (o + 0.5) / scale - 0.5
        }
        CoordinateMode::PytorchHalfPixel if output > 1.0 => (o + 0.5) / scale - 0.5,
        CoordinateMode::PytorchHalfPixel => 0.0,
        // The unrounded output length is what ONNX divides by.
        CoordinateMode::AlignCorners => {
            let length = scale * input;
            if output <= 1.0 || length <= 1.0 { 0.0 } else { o * (input - 1.0) / (length - 1.0) }
        }
        CoordinateMode::Asymmetric => o / scale,
        CoordinateMode::TfCropAndResize { .. } => {
            let (start, end) = (f64::from(op.roi[axis].0.get()), f64::from(op.roi[axis].1.get()));
            if output > 1.0 {
                start * (input - 1.0) + o * (end - start) * (input - 1.0) / (output - 1.0)
            } else {
                0.5 * (start + end) * (input - 1.0)
            }
        }
    }
}

/// Keys' kernel.
fn keys(a: f64, x: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

impl Taps {
    fn none() -> Self {
        Self { starts: vec![0], taps: Vec::new(), outside: Vec::new() }
    }

    fn new(op: &Resize, axis: usize, input: usize, output: usize) -> Self {
        let mut taps = Self { starts: vec![0], taps: Vec::new(), outside: Vec::new() };
        let scale = exact_scale(op.scales[axis].get(), input as f64, output as f64);
        let last = input as isize - 1;
        for o in 0..output {
            let x = coordinate(op, axis, o, input, output);
            taps.outside.push(
                matches!(op.coordinates, CoordinateMode::TfCropAndResize { .. })
                    && !(0.0..=last as f64).contains(&x),
            );
            // Far outside the input the edge is all there is; this keeps positions small.
            let x = x.clamp(-4.0 - input as f64, 4.0 + 2.0 * input as f64);
            match op.mode {
                ResizeMode::Nearest(mode) => {
                    let at = match mode {
                        NearestMode::RoundPreferFloor => (x - 0.5).ceil(),
                        NearestMode::RoundPreferCeil => (x + 0.5).floor(),
                        NearestMode::Floor => x.floor(),
                        NearestMode::Ceil => x.ceil(),
                    };
                    taps.taps.push(((at as isize).clamp(0, last) as usize, 1.0));
                }
                ResizeMode::Linear { antialias } => {
                    taps.filter(x, 1.0, scale, antialias, false, last, |d| (1.0 - d.abs()).max(0.0));
                }
                ResizeMode::Cubic { a, exclude_outside, antialias } => {
                    let a = f64::from(a.get());
                    taps.filter(x, 2.0, scale, antialias, exclude_outside, last, |d| keys(a, d));
                }
            }
            taps.starts.push(taps.taps.len());
        }
        taps
    }

    /// The taps of a filter that reaches `radius` from `x`, stretched by `1 / scale` where an antialiased resize shrinks.
    #[allow(clippy::too_many_arguments)]
    fn filter(
        &mut self,
        x: f64,
        radius: f64,
        scale: f64,
        antialias: bool,
        exclude_outside: bool,
        last: isize,
        weight: impl Fn(f64) -> f64,
    ) {
        let squeeze = if antialias { scale.min(1.0) } else { 1.0 };
        // A filter much wider than the input sees each element once and its own edges at most once more: bounded.
        let reach = (radius / squeeze).min(2.0 * (last + 1) as f64 + 4.0);
        let (low, high) = ((x - reach).floor() as isize, (x + reach).ceil() as isize);
        let start = self.taps.len();
        let mut sum = 0.0;
        for i in low..=high {
            let w = weight((i as f64 - x) * squeeze);
            if w == 0.0 || (exclude_outside && !(0..=last).contains(&i)) {
                continue;
            }
            let at = i.clamp(0, last) as usize;
            sum += w;
            match self.taps[start..].iter_mut().find(|t| t.0 == at) {
                Some(tap) => tap.1 += w,
                None => self.taps.push((at, w)),
            }
        }
        if (antialias || exclude_outside) && sum != 0.0 {
            for tap in &mut self.taps[start..] {
                tap.1 /= sum;
            }
        }
    }

    /// Whether every output is the input element of the same position.
    fn is_identity(&self, input: usize) -> bool {
        self.starts.len() == input + 1
            && self.taps.len() == input
            && self.taps.iter().enumerate().all(|(i, &t)| t == (i, 1.0))
    }
}

impl ResizeKernel {
    /// # Safety
    /// As [`Kernel::run`], with `T` of the elements' size.
    unsafe fn pick<T: Copy>(&self, x: *const T, y: *mut T, rows: std::ops::Range<usize>) {
        let Some(last) = self.output.len().checked_sub(1) else {
            // SAFETY: a scalar is itself.
            unsafe { y.write(x.read()) };
            return;
        };
        let taps = &self.axes[last].taps;
        for row in rows {
            let (mut rest, mut offset, mut stride) = (row, 0, self.input[last]);
            for axis in (0..last).rev() {
                offset += self.axes[axis].taps[rest % self.output[axis]].0 * stride;
                rest /= self.output[axis];
                stride *= self.input[axis];
            }
            for (o, tap) in taps.iter().enumerate() {
                // SAFETY: taps are positions of the input.
                unsafe { y.add(row * self.output[last] + o).write(x.add(offset + tap.0).read()) };
            }
        }
    }

    /// Whether any axis of output element `i` lies outside the input.
    fn is_outside(&self, mut i: usize) -> bool {
        for axis in (0..self.output.len()).rev() {
            if self.axes[axis].outside[i % self.output[axis]] {
                return true;
            }
            i /= self.output[axis];
        }
        false
    }
}

/// # Safety
/// Element `i` of `dtype` is readable.
unsafe fn read(dtype: DType, first: *const u8, i: usize) -> f64 {
    // SAFETY: passed on from the caller.
    unsafe {
        match dtype {
            DType::F32 => f64::from(first.cast::<f32>().add(i).read()),
            DType::F64 => first.cast::<f64>().add(i).read(),
            DType::F16 => first.cast::<half::f16>().add(i).read().to_f64(),
            DType::BF16 => first.cast::<half::bf16>().add(i).read().to_f64(),
            DType::I8 => f64::from(first.cast::<i8>().add(i).read()),
            DType::I32 => f64::from(first.cast::<i32>().add(i).read()),
            DType::I64 => first.cast::<i64>().add(i).read() as f64,
            DType::U8 | DType::Bool => f64::from(first.add(i).read()),
        }
    }
}

/// # Safety
/// Element `i` of `dtype` is writable.
unsafe fn write(dtype: DType, first: *mut u8, i: usize, x: f64) {
    // SAFETY: passed on from the caller.
    unsafe {
        match dtype {
            DType::F32 => first.cast::<f32>().add(i).write(x as f32),
            DType::F64 => first.cast::<f64>().add(i).write(x),
            DType::F16 => first.cast::<half::f16>().add(i).write(half::f16::from_f64(x)),
            DType::BF16 => first.cast::<half::bf16>().add(i).write(half::bf16::from_f64(x)),
            DType::I8 => first.cast::<i8>().add(i).write(x.round_ties_even() as i8),
            DType::I32 => first.cast::<i32>().add(i).write(x.round_ties_even() as i32),
            DType::I64 => first.cast::<i64>().add(i).write(x.round_ties_even() as i64),
            DType::U8 | DType::Bool => first.add(i).write(x.round_ties_even() as u8),
        }
    }
}

impl Kernel for ResizeKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let total: usize = self.output.iter().product();
        if total == 0 {
            return Ok(());
        }
        let (x, y) = (SharedMut(args.inputs[0].cast_mut()), SharedMut(args.outputs[0]));
        if self.nearest {
            let rows = self.output[..self.output.len().saturating_sub(1)].iter().product();
            split::run(args.team, rows, total, |range| {
                // SAFETY: passed on from the caller; each part writes rows of its own.
                with_size!(Size(self.dtype.size()), T => unsafe {
                    self.pick::<T>(x.get().cast(), y.get().cast(), range)
                })
            });
        } else {
            // Leading axes that stay as they are (batch and channels) are done one plane after the other, on all cores.
            let kept =
                self.axes.iter().zip(&self.input).take_while(|(taps, n)| taps.is_identity(**n)).count();
            let planes: usize = self.input[..kept].iter().product();
            let inner = ResizePlane { kernel: self, kept };
            split::run(args.team, planes, self.work(), |range| {
                // SAFETY: passed on from the caller; each part writes planes of its own.
                unsafe { inner.run(x.get(), y.get(), range) }
            });
        }
        if let Some(value) = self.extrapolation {
            for i in (0..total).filter(|&i| self.is_outside(i)) {
                // SAFETY: an element of the output.
                unsafe { write(self.dtype, y.get(), i, f64::from(value)) };
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let how = if self.nearest { "nearest" } else { "interpolated" };
        format!("resize {:?} to {:?}, {how}", self.input, self.output)
    }

    fn work(&self) -> usize {
        let taps: usize = self.axes.iter().map(|a| a.taps.len() / (a.starts.len() - 1).max(1)).sum();
        self.output.iter().product::<usize>() * taps.max(1)
    }
}

/// The axes after the leading ones that stay as they are.
struct ResizePlane<'a> {
    kernel: &'a ResizeKernel,
    kept: usize,
}

impl ResizePlane<'_> {
    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn run(&self, x: *const u8, y: *mut u8, planes: std::ops::Range<usize>) {
        let k = self.kernel;
        let from: usize = k.input[self.kept..].iter().product();
        let to: usize = k.output[self.kept..].iter().product();
        for plane in planes {
            // SAFETY: planes lie within the operands.
            let values = (0..from).map(|i| unsafe { read(k.dtype, x, plane * from + i) }).collect();
            let result = self.interpolate(values);
            for (i, v) in result.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { write(k.dtype, y, plane * to + i, v) };
            }
        }
    }

    /// One axis of a plane after the other.
    fn interpolate(&self, mut x: Vec<f64>) -> Vec<f64> {
        let k = self.kernel;
        let mut shape = k.input.clone();
        // The axes that shrink most first: less to do for the others.
        let mut order: Vec<usize> = (self.kept..shape.len()).collect();
        let factor = |a: usize| k.output[a] as f64 / k.input[a] as f64;
        order.sort_by(|&a, &b| factor(a).total_cmp(&factor(b)));
        for axis in order {
            let taps = &k.axes[axis];
            if taps.is_identity(shape[axis]) {
                continue;
            }
            let outer: usize = shape[self.kept..axis].iter().product();
            let inner: usize = shape[axis + 1..].iter().product();
            let (from, to) = (shape[axis], k.output[axis]);
            let mut y = vec![0.0; outer * to * inner];
            for o in 0..outer {
                let x = &x[o * from * inner..][..from * inner];
                let y = &mut y[o * to * inner..][..to * inner];
                for (j, y) in y.chunks_exact_mut(inner).enumerate() {
                    for &(at, w) in &taps.taps[taps.starts[j]..taps.starts[j + 1]] {
                        for (y, &x) in y.iter_mut().zip(&x[at * inner..][..inner]) {
                            *y += w * x;
                        }
                    }
                }
            }
            shape[axis] = to;
            x = y;
        }
        x
    }
}
