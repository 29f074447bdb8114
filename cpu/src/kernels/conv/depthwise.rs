//! Convolution where each output channel reads one input channel: too thin for a matrix product, so sums slide over the plane directly.
//!
//! A padded copy of the plane, its columns sorted by their remainder modulo the stride, makes every tap of every output row a run
//! of neighbours, without a test for the border.

use half::{bf16, f16};
use smallvec::SmallVec;
use streampool_core::Result;
use streampool_core::op::DType;

use super::{Common, Pointers, Rows, Window, packed_rows};
use crate::gemm::pack::{Narrow, row_stride};
use crate::gemm::{Rect, Repeat, tile::Kernels};
use crate::kernel::{Args, Kernel, Prepare};
use crate::simd::{Isa, Portable, Vector};

/// A depthwise convolution. One repetition per image and input channel.
pub(super) struct Depthwise {
    kernels: &'static Kernels,
    window: Window,
    common: Common,
    /// Output channels per input channel.
    times: usize,
    repeat: Repeat,
    weights: Option<Rows>,
    /// Lengths of the padded axes but the last.
    padded: Vec<usize>,
    /// Elements of one remainder's columns, and of a whole padded row.
    part: usize,
    row: usize,
    /// Where each tap reads, from the first element that an output row reads.
    taps: Vec<usize>,
    /// Elements of the padded copy.
    copy: usize,
}

impl Depthwise {
    pub(super) fn new(isa: Isa, p: &Prepare<'_>, window: Window, common: Common) -> Result<Self> {
        let kernels = Kernels::of(isa);
        let taps = window.taps();
        let times = common.channels_out / common.groups;
        let weights = packed_rows(
            p,
            "depthwise",
            common.channels_out,
            taps,
            &[(common.channels_out, taps as isize)],
            1,
        )?;
        let last = window.axes() - 1;
        let stride = window.strides[last];
        let reach = (window.kernel[last] - 1) * window.dilations[last];
        // Output rows are computed in whole registers, which read a little beyond.
        let part =
            (reach / stride + window.output[last].next_multiple_of(kernels.lanes)).next_multiple_of(16);
        let row = part * stride;
        let padded: Vec<usize> = (0..last)
            .map(|a| {
                (window.output[a] - 1) * window.strides[a] + (window.kernel[a] - 1) * window.dilations[a] + 1
            })
            .collect();
        let offsets = window
            .tap_steps()
            .iter()
            .map(|steps| {
                let x = steps[last] as usize;
                let mut at = 0;
                for axis in 0..last {
                    at = at * padded[axis] + steps[axis] as usize;
                }
                at * row + x % stride * part + x / stride
            })
            .collect();
        let copy = padded.iter().product::<usize>() * row;
        let sums = if common.dtype == DType::F32 { 0 } else { window.out_len().next_multiple_of(16) };
        let work = (times * window.out_len()).saturating_mul(taps).saturating_mul(4);
        let items = common.images * common.channels_in;
        let repeat = Repeat::of_whole(items, work, (copy + sums) * 4);
        Ok(Self { kernels, repeat, window, common, times, weights, padded, part, row, taps: offsets, copy })
    }

    /// The padded copy of the plane `x`.
    ///
    /// # Safety
    /// `x` is valid for the plane, `to` for the copy.
    unsafe fn pad<T: Narrow>(&self, x: *const T, to: *mut f32) {
        let w = &self.window;
        let last = w.axes() - 1;
        let (stride, len, before) = (w.strides[last], w.input[last], w.before[last] as usize);
        let mut index: SmallVec<[usize; 4]> = SmallVec::from_elem(0, last);
        for r in 0..self.copy / self.row {
            // SAFETY: rows of the copy, and those rows of the plane that are inside it.
            unsafe {
                let to = std::slice::from_raw_parts_mut(to.add(r * self.row), self.row);
                let mut from = Some(0);
                for (axis, &i) in index.iter().enumerate() {
                    let i = i.wrapping_sub(w.before[axis] as usize);
                    from = from.filter(|_| i < w.input[axis]).map(|at| at * w.input[axis] + i);
                }
                to.fill(0.0);
                if let Some(from) = from {
                    let from = std::slice::from_raw_parts(x.add(from * len), len);
                    if stride == 1 {
                        let n = len.min(self.part.saturating_sub(before));
                        T::widen(&from[..n], &mut to[before.min(self.part)..][..n]);
                    } else {
                        // One remainder after the other: element `q * stride + r - before` of the row at `r * part + q`.
                        for r in 0..stride {
                            let first = before.saturating_sub(r).div_ceil(stride);
                            let end = (len + before).saturating_sub(r).div_ceil(stride).min(self.part);
                            if first < end {
                                let from = from[first * stride + r - before..].iter().step_by(stride);
                                let to = &mut to[r * self.part + first..r * self.part + end];
                                to.iter_mut().zip(from).for_each(|(t, x)| *t = x.wide());
                            }
                        }
                    }
                }
            }
            for axis in (0..last).rev() {
                index[axis] += 1;
                if index[axis] < self.padded[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`]; `scratch` is this repetition's alone.
    unsafe fn one(&self, args: &Pointers<'_>, item: usize, scratch: *mut f32) {
        let w = &self.window;
        let (image, channel) = (item / self.common.channels_in, item % self.common.channels_in);
        let (plane, size, dtype) = (w.out_len(), self.common.size(), self.common.dtype);
        let last = w.axes() - 1;
        let len = w.output[last];
        // SAFETY: positions are inside the operands, for which the caller vouches, and inside the scratch memory.
        unsafe {
            let x = args.inputs[0].add(item * w.in_len() * size);
            match dtype {
                DType::F16 => self.pad::<f16>(x.cast(), scratch),
                DType::BF16 => self.pad::<bf16>(x.cast(), scratch),
                _ => self.pad::<f32>(x.cast(), scratch),
            }
            let mut own: SmallVec<[f32; 32]> = SmallVec::new();
            for t in 0..self.times {
                let out = channel * self.times + t;
                let weights = match &self.weights {
                    Some(packed) => {
                        let row = row_stride(self.taps.len());
                        std::slice::from_raw_parts(packed.as_ptr().add(out * row), self.taps.len())
                    }
                    None => {
                        let at = args.inputs[1].add(out * self.taps.len() * size);
                        own.resize(self.taps.len(), 0.0);
                        read_all(dtype, at, &mut own);
                        &own
                    }
                };
                let y = args.outputs[0].add((image * self.common.channels_out + out) * plane * size);
                let sums = if dtype == DType::F32 { y.cast() } else { scratch.add(self.copy) };
                for row in 0..plane / len {
                    let (mut rest, mut at, mut scale) = (row, 0, 1);
                    for axis in (0..last).rev() {
                        at += rest % w.output[axis] * w.strides[axis] * scale;
                        rest /= w.output[axis];
                        scale *= self.padded[axis];
                    }
                    let from = scratch.add(at * self.row);
                    slide(self.kernels.isa, from, &self.taps, weights, sums.add(row * len), len);
                }
                let whole = Rect { data: sums, row: plane };
                if dtype == DType::F32 {
                    let end = self.common.end(args.inputs, image, out, plane);
                    if !end.is_none() {
                        (self.kernels.finish)(whole, whole, 1, plane, &end);
                    }
                } else {
                    self.common.finish_narrow(args.inputs, image, out, plane, y, [0, 0], whole, [1, plane]);
                }
            }
        }
    }
}

/// Reads a row of weights as f32.
///
/// # Safety
/// `from` is valid for `to.len()` elements of `dtype`.
unsafe fn read_all(dtype: DType, from: *const u8, to: &mut [f32]) {
    let n = to.len();
    // SAFETY: passed on from the caller.
    unsafe {
        match dtype {
            DType::F16 => f16::widen(std::slice::from_raw_parts(from.cast(), n), to),
            DType::BF16 => bf16::widen(std::slice::from_raw_parts(from.cast(), n), to),
            _ => f32::widen(std::slice::from_raw_parts(from.cast(), n), to),
        }
    }
}

/// `to[j] = sum of weights[t] * from[taps[t] + j]` for `j` below `len`; reads on to whole registers.
///
/// # Safety
/// The pointers are valid for that.
unsafe fn slide(isa: Isa, from: *const f32, taps: &[usize], weights: &[f32], to: *mut f32, len: usize) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn avx512(from: *const f32, taps: &[usize], weights: &[f32], to: *mut f32, len: usize) {
        // SAFETY: passed on from the caller.
        unsafe { slide_with::<crate::simd::F32x16>(from, taps, weights, to, len) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(from: *const f32, taps: &[usize], weights: &[f32], to: *mut f32, len: usize) {
        // SAFETY: passed on from the caller.
        unsafe { slide_with::<crate::simd::F32x8>(from, taps, weights, to, len) }
    }
    // SAFETY: `Isa` values prove that this processor has the instructions; the rest is passed on from the caller.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512(from, taps, weights, to, len),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(from, taps, weights, to, len),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => slide_with::<crate::simd::F32x4>(from, taps, weights, to, len),
            Isa::Portable => slide_with::<Portable>(from, taps, weights, to, len),
        }
    }
}

/// # Safety
/// As [`slide`], and the processor has the instructions of `V`.
#[allow(clippy::needless_range_loop)] // counting loops are unrolled, iterators may not be
#[inline(always)]
unsafe fn slide_with<V: Vector>(from: *const f32, taps: &[usize], weights: &[f32], to: *mut f32, len: usize) {
    let mut j = 0;
    // SAFETY: `j` and whole registers after it are inside what the caller vouches for; the last store is partial.
    unsafe {
        while len - j > 3 * V::LANES {
            let mut sums = [V::splat(0.0); 4];
            for (&tap, &w) in taps.iter().zip(weights) {
                let (w, from) = (V::splat(w), from.add(tap + j));
                for v in 0..4 {
                    sums[v] = w.fma(V::load(from.add(v * V::LANES)), sums[v]);
                }
            }
            for v in 0..4 {
                let left = len - j - v * V::LANES;
                if left >= V::LANES {
                    sums[v].store(to.add(j + v * V::LANES));
                } else {
                    sums[v].store_first(to.add(j + v * V::LANES), left);
                }
            }
            j = (j + 4 * V::LANES).min(len);
        }
        while j < len {
            let mut sum = V::splat(0.0);
            for (&tap, &w) in taps.iter().zip(weights) {
                sum = V::splat(w).fma(V::load(from.add(tap + j)), sum);
            }
            if len - j >= V::LANES {
                sum.store(to.add(j));
            } else {
                sum.store_first(to.add(j), len - j);
            }
            j = (j + V::LANES).min(len);
        }
    }
}

impl Kernel for Depthwise {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let pointers = Pointers { inputs: args.inputs, outputs: args.outputs };
        self.repeat.run(args.team, args.scratch.cast(), &|item, scratch, _| {
            // SAFETY: the caller's contract; the scratch memory is this repetition's alone.
            unsafe { self.one(&pointers, item, scratch) };
        });
        Ok(())
    }

    fn scratch_bytes(&self) -> usize {
        self.repeat.scratch_bytes()
    }

    fn holds_input(&self, i: usize) -> bool {
        i == 1 && self.weights.is_some()
    }

    fn describe(&self) -> String {
        format!(
            "conv {} {} images, {} channels depthwise x {}, kernel {:?}, {}",
            self.common.dtype,
            self.common.images,
            self.common.channels_in,
            self.times,
            self.window.kernel,
            self.kernels.isa.name()
        )
    }

    fn work(&self) -> usize {
        self.repeat.work()
    }
}
