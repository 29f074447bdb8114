//! Pooling, any number of spatial axes.
//!
//! A row of outputs (along the last axis) is computed at once: each position of the window is one pass over the row, which the
//! compiler vectorises where windows step by one.

use std::ops::Range;

use streampool_core::Result;
use streampool_core::op::{DType, Pool, PoolKind};

use super::lanes::{Greatest, Sum, SumAbs, SumSquare, take_each};
use super::map::number::{Float, Number};
use super::reader::{Buffer, read_row};
use super::storage::{Storage, with_float, with_number};
use super::{SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};

struct PoolKernel {
    op: Pool,
    dtype: DType,
    /// Batch entries times channels.
    planes: usize,
    input: Vec<usize>,
    output: Vec<usize>,
    /// Positions on the last axis that some window has inside the input, unless `by_output`.
    positions: Range<usize>,
    /// The windows of the last axis lie so far apart that positions are better found per output.
    by_output: bool,
}

pub(crate) fn prepare(op: &Pool, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let (x, y) = (&p.inputs[0].layout.shape, &p.outputs[0].layout.shape);
    let mut op = op.clone();
    let (mut input, mut output) = (x[2..].to_vec(), y[2..].to_vec());
    if input.is_empty() {
        // Without spatial axes a window is one element: one axis of length 1 does the same.
        for v in [&mut input, &mut output, &mut op.kernel, &mut op.strides, &mut op.dilations] {
            v.push(1);
        }
        op.pads_before.push(0);
        op.pads_after.push(0);
    }
    let last = input.len() - 1;
    let outputs = output[last];
    let mut kernel = PoolKernel {
        op,
        dtype: p.inputs[0].dtype,
        planes: x[0] * x[1],
        input,
        output,
        positions: 0..0,
        by_output: false,
    };
    if outputs > 0 {
        // Later windows reach lower positions.
        kernel.positions = kernel.reach(last, outputs - 1).start..kernel.reach(last, 0).end;
        let visited = (0..outputs).map(|o| kernel.reach(last, o).len()).fold(0usize, usize::saturating_add);
        kernel.by_output = kernel.positions.len() > visited;
    }
    Box::new(kernel)
}

impl PoolKernel {
    /// Positions of the window of output `o` that lie inside the input on `axis`.
    #[inline]
    fn reach(&self, axis: usize, o: usize) -> Range<usize> {
        let (start, pad) = (o * self.op.strides[axis], self.op.pads_before[axis]);
        let (kernel, dilation) = (self.op.kernel[axis], self.op.dilations[axis]);
        let low = pad.saturating_sub(start).div_ceil(dilation).min(kernel);
        let high = (self.input[axis] + pad).saturating_sub(start).div_ceil(dilation).min(kernel);
        low..high.max(low)
    }

    /// Outputs of the last axis whose window has position `k` inside the input.
    fn inside(&self, k: usize) -> Range<usize> {
        let last = self.input.len() - 1;
        let (stride, shift) = (self.op.strides[last], k * self.op.dilations[last]);
        let pad = self.op.pads_before[last];
        // o * stride + shift - pad in 0..len
        let low = pad.saturating_sub(shift).div_ceil(stride);
        let high = (self.input[last] + pad).saturating_sub(shift).div_ceil(stride);
        low.min(self.output[last])..high.min(self.output[last])
    }

    /// Positions of the window of output `o` on `axis` that count as divisor of an average.
    fn counted(&self, axis: usize, o: usize, pad: bool) -> usize {
        if !pad {
            return self.reach(axis, o).len();
        }
        let padded = self.input[axis] + self.op.pads_before[axis] + self.op.pads_after[axis];
        let room = padded.saturating_sub(o * self.op.strides[axis]);
        room.div_ceil(self.op.dilations[axis]).min(self.op.kernel[axis])
    }

    /// Calls `f` for each position of the window of output row `row` (of one plane) that is inside the input on all axes but the last: with the
    /// offset of the input row, and the coordinates on those axes.
    fn window(&self, row: usize, mut f: impl FnMut(usize, &[usize])) {
        let outer = self.input.len() - 1;
        let mut o = vec![0; outer];
        let mut rest = row;
        for axis in (0..outer).rev() {
            o[axis] = rest % self.output[axis];
            rest /= self.output[axis];
        }
        // Only positions inside the input are visited: a window much larger than the input costs no more than the input.
        let inside: Vec<Range<usize>> = (0..outer).map(|axis| self.reach(axis, o[axis])).collect();
        if inside.iter().any(Range::is_empty) {
            return;
        }
        let mut k: Vec<usize> = inside.iter().map(|r| r.start).collect();
        let mut at = vec![0; outer];
        loop {
            let mut offset = 0;
            for axis in 0..outer {
                at[axis] = o[axis] * self.op.strides[axis] + k[axis] * self.op.dilations[axis]
                    - self.op.pads_before[axis];
                offset = offset * self.input[axis] + at[axis];
            }
            f(offset * self.input[outer], &at);
            let mut axis = outer;
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                k[axis] += 1;
                if k[axis] < inside[axis].end {
                    break;
                }
                k[axis] = inside[axis].start;
            }
        }
    }

    /// Passes over one row of outputs: `take` for each window position with the accumulators of the outputs inside and the input
    /// elements that belong to them.
    ///
    /// # Safety
    /// `x` is the plane's first element.
    unsafe fn passes<T: Storage>(
        &self,
        x: *const T,
        row: usize,
        acc: &mut [T::Compute],
        take: impl Fn(&mut [T::Compute], &[T::Compute]),
    ) {
        let last = self.input.len() - 1;
        let (stride, dilation, pad) =
            (self.op.strides[last], self.op.dilations[last], self.op.pads_before[last]);
        let mut buffer = Buffer::new();
        self.window(row, |offset, _| {
            // SAFETY: positions inside the input, by `window`, `reach` and `inside`.
            unsafe {
                if self.by_output {
                    for (o, acc) in acc.iter_mut().enumerate() {
                        for k in self.reach(last, o) {
                            let value = x.add(offset + o * stride + k * dilation - pad).read().get();
                            take(std::slice::from_mut(acc), &[value]);
                        }
                    }
                    return;
                }
                for k in self.positions.clone() {
                    let outputs = self.inside(k);
                    if outputs.is_empty() {
                        continue;
                    }
                    let first = x.add(offset + outputs.start * stride + k * dilation - pad);
                    let mut acc = &mut acc[outputs];
                    read_row(first, stride as isize, acc.len(), &mut buffer, |row| {
                        let (now, later) = std::mem::take(&mut acc).split_at_mut(row.len());
                        take(now, row);
                        acc = later;
                    });
                }
            }
        });
    }

    /// # Safety
    /// As [`Kernel::run`], with `T` of the operands' dtype.
    unsafe fn max<T: Storage>(&self, x: *const u8, y: *mut u8, indices: Option<*mut u8>, rows: Range<usize>) {
        let (x, y) = (x.cast::<T>(), y.cast::<T>());
        let plane: usize = self.input.iter().product();
        let last = self.input.len() - 1;
        let width = self.output[last];
        let per_plane: usize = self.output[..last].iter().product();
        let mut acc = vec![T::Compute::LOWEST; width];
        let mut found = vec![-1i64; if indices.is_some() { width } else { 0 }];
        let PoolKind::Max { column_major, .. } = self.op.kind else { unreachable!("max only") };
        for row in rows {
            let (n, row_in_plane) = (row / per_plane, row % per_plane);
            acc.fill(T::Compute::LOWEST);
            // SAFETY: planes and rows lie within the operands.
            unsafe {
                let x = x.add(n * plane);
                let Some(indices) = indices else {
                    self.passes(x, row_in_plane, &mut acc, take_each::<T::Compute, Greatest>);
                    for (o, &a) in acc.iter().enumerate() {
                        y.add(row * width + o).write(T::put(a));
                    }
                    continue;
                };
                found.fill(-1);
                let (stride, dilation, pad) =
                    (self.op.strides[last], self.op.dilations[last], self.op.pads_before[last]);
                self.window(row_in_plane, |offset, at| {
                    for o in 0..width {
                        for k in self.reach(last, o) {
                            let column = o * stride + k * dilation - pad;
                            let value = x.add(offset + column).read().get();
                            // The first of equals, and the first NaN, wins.
                            if found[o] < 0 || value > acc[o] || (value.is_nan() && !acc[o].is_nan()) {
                                acc[o] = value;
                                let flat = if column_major {
                                    let mut flat = column;
                                    for axis in (0..last).rev() {
                                        flat = flat * self.input[axis] + at[axis];
                                    }
                                    flat
                                } else {
                                    offset + column
                                };
                                found[o] = (n * plane + flat) as i64;
                            }
                        }
                    }
                });
                for (o, (&a, &i)) in acc.iter().zip(&found).enumerate() {
                    y.add(row * width + o).write(T::put(a));
                    indices.cast::<i64>().add(row * width + o).write(i);
                }
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`], with `T` of the operands' dtype.
    unsafe fn mean<T: Storage<Compute: Float>>(&self, x: *const u8, y: *mut u8, rows: Range<usize>) {
        let (x, y) = (x.cast::<T>(), y.cast::<T>());
        let plane: usize = self.input.iter().product();
        let last = self.input.len() - 1;
        let width = self.output[last];
        let per_plane: usize = self.output[..last].iter().product();
        let mut acc = vec![T::Compute::ZERO; width];
        let last_counts: Vec<usize> = match self.op.kind {
            PoolKind::Average { count_pad } => (0..width).map(|o| self.counted(last, o, count_pad)).collect(),
            _ => Vec::new(),
        };
        for row in rows {
            let (n, row_in_plane) = (row / per_plane, row % per_plane);
            acc.fill(T::Compute::ZERO);
            // SAFETY: planes and rows lie within the operands.
            let x = unsafe { x.add(n * plane) };
            // SAFETY: as above.
            unsafe {
                match self.op.kind {
                    PoolKind::Lp { p: 1 } => {
                        self.passes(x, row_in_plane, &mut acc, take_each::<T::Compute, SumAbs>);
                    }
                    PoolKind::Lp { p: 2 } => {
                        self.passes(x, row_in_plane, &mut acc, take_each::<T::Compute, SumSquare>);
                    }
                    PoolKind::Lp { p } => {
                        let p = <T::Compute as Float>::of(f64::from(p));
                        self.passes(x, row_in_plane, &mut acc, |acc, row| {
                            for (a, &x) in acc.iter_mut().zip(row) {
                                *a = *a + Number::abs(x).pow(p);
                            }
                        });
                    }
                    _ => self.passes(x, row_in_plane, &mut acc, take_each::<T::Compute, Sum>),
                }
            }
            let mut outer_count = 1;
            if let PoolKind::Average { count_pad } = self.op.kind {
                let mut rest = row_in_plane;
                for axis in (0..last).rev() {
                    outer_count *= self.counted(axis, rest % self.output[axis], count_pad);
                    rest /= self.output[axis];
                }
            }
            for (o, &a) in acc.iter().enumerate() {
                let result = match self.op.kind {
                    PoolKind::Lp { p: 1 } => a,
                    PoolKind::Lp { p: 2 } => a.sqrt(),
                    PoolKind::Lp { p } => a.pow(<T::Compute as Float>::of(1.0 / f64::from(p))),
                    _ => {
                        // A window of padding alone has the mean 0.
                        let count = (outer_count * last_counts[o]).max(1);
                        a / <T::Compute as Float>::of(count as f64)
                    }
                };
                // SAFETY: as above.
                unsafe { y.add(row * width + o).write(T::put(result)) };
            }
        }
    }
}

impl Kernel for PoolKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let last = self.output.len() - 1;
        let rows = self.planes * self.output[..last].iter().product::<usize>();
        if rows * self.output[last] == 0 {
            return Ok(());
        }
        let (x, y) = (SharedMut(args.inputs[0].cast_mut()), SharedMut(args.outputs[0]));
        let indices = args.outputs.get(1).map(|&p| SharedMut(p));
        split::run(args.team, rows, self.work(), |range| {
            // SAFETY: passed on from the caller; each part writes rows of its own.
            unsafe {
                match self.op.kind {
                    PoolKind::Max { .. } => with_number!(self.dtype, T => {
                        self.max::<T>(x.get(), y.get(), indices.as_ref().map(SharedMut::get), range)
                    }),
                    _ => with_float!(self.dtype, T => self.mean::<T>(x.get(), y.get(), range)),
                }
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("pool {:?} of {:?}", self.op.kind, self.op.kernel)
    }

    fn work(&self) -> usize {
        let window = self.op.kernel.iter().fold(1usize, |a, &k| a.saturating_mul(k));
        self.planes.saturating_mul(self.output.iter().product::<usize>()).saturating_mul(window)
    }
}
