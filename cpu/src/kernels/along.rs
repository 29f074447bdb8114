//! Work along one axis: index of the greatest, running totals, the k greatest, distinct elements.

use std::cmp::Ordering;
use std::ops::Range;

use streampool_core::op::{ArgReduce, Cumulative, CumulativeKind, DType, TopK, Unique};
use streampool_core::{Error, Result};

use super::map::number::Number;
use super::storage::{Storage, with_number};
use super::{SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};

/// A row-major tensor seen along one axis: `outer` blocks of `len` slices of `inner` elements.
#[derive(Clone, Copy)]
struct Axis {
    outer: usize,
    len: usize,
    inner: usize,
}

impl Axis {
    fn of(shape: &[usize], axis: usize) -> Self {
        Self {
            outer: shape[..axis].iter().product(),
            len: shape[axis],
            inner: shape[axis + 1..].iter().product(),
        }
    }

    /// Lines along the axis.
    fn lines(self) -> usize {
        self.outer * self.inner
    }

    /// First element of line `line` of a tensor whose axis has `len` elements.
    fn start(self, line: usize, len: usize) -> usize {
        line / self.inner * len * self.inner + line % self.inner
    }
}

/// Order with NaN above everything.
fn order<C: Number>(a: C, b: C) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

struct ArgKernel {
    op: ArgReduce,
    axis: Axis,
    dtype: DType,
}

pub(crate) fn prepare_arg(op: &ArgReduce, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let axis = Axis::of(&p.inputs[0].layout.shape, op.axis);
    Box::new(ArgKernel { op: op.clone(), axis, dtype: p.inputs[0].dtype })
}

impl ArgKernel {
    /// # Safety
    /// As [`Kernel::run`], with `T` of the input's dtype.
    unsafe fn lines<T: Storage>(&self, from: *const u8, to: *mut u8, lines: Range<usize>) {
        let (from, to) = (from.cast::<T>(), to.cast::<i64>());
        for line in lines {
            // SAFETY: the line lies within the input.
            let at = |i: usize| unsafe {
                from.add(self.axis.start(line, self.axis.len) + i * self.axis.inner).read().get()
            };
            let (mut best, mut index) = (at(0), 0);
            for i in 1..self.axis.len {
                let x = at(i);
                // NaN wins: of both kinds, as in NumPy.
                let order = match (x.is_nan(), best.is_nan()) {
                    (false, false) if self.op.max => order(x, best),
                    (false, false) => order(best, x),
                    (x, best) => x.cmp(&best),
                };
                if order == Ordering::Greater || (order == Ordering::Equal && self.op.last) {
                    (best, index) = (x, i);
                }
            }
            // SAFETY: one output per line.
            unsafe { to.add(line).write(index as i64) };
        }
    }
}

impl Kernel for ArgKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let (from, to) = (SharedMut(args.inputs[0].cast_mut()), SharedMut(args.outputs[0]));
        split::run(args.team, self.axis.lines(), self.work(), |range| {
            // SAFETY: passed on from the caller; each part writes outputs of its own.
            with_number!(self.dtype, T => unsafe { self.lines::<T>(from.get(), to.get(), range) })
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("arg {} of {}", if self.op.max { "max" } else { "min" }, self.axis.len)
    }

    fn work(&self) -> usize {
        self.axis.lines() * self.axis.len
    }
}

struct CumulativeKernel {
    op: Cumulative,
    axis: Axis,
    dtype: DType,
}

pub(crate) fn prepare_cumulative(op: &Cumulative, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let axis = Axis::of(&p.inputs[0].layout.shape, op.axis);
    Box::new(CumulativeKernel { op: op.clone(), axis, dtype: p.inputs[0].dtype })
}

impl CumulativeKernel {
    /// # Safety
    /// As [`Kernel::run`], with `T` of the operands' dtype.
    unsafe fn lines<T: Storage>(&self, from: *const u8, to: *mut u8, lines: Range<usize>) {
        let (from, to) = (from.cast::<T>(), to.cast::<T>());
        let n = self.axis.len;
        for line in lines {
            let start = self.axis.start(line, n);
            let mut total = match self.op.kind {
                CumulativeKind::Sum => T::Compute::ZERO,
                CumulativeKind::Prod => T::Compute::ONE,
            };
            for i in 0..n {
                let at = start + if self.op.reverse { n - 1 - i } else { i } * self.axis.inner;
                // SAFETY: the line lies within both. Each element is read before it is written, so in place works.
                unsafe {
                    let x = from.add(at).read().get();
                    let next = match self.op.kind {
                        CumulativeKind::Sum => total.add(x),
                        CumulativeKind::Prod => total.mul(x),
                    };
                    to.add(at).write(T::put(if self.op.exclusive { total } else { next }));
                    total = next;
                }
            }
        }
    }
}

impl Kernel for CumulativeKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let (from, to) = (SharedMut(args.inputs[0].cast_mut()), SharedMut(args.outputs[0]));
        split::run(args.team, self.axis.lines(), self.work(), |range| {
            // SAFETY: passed on from the caller; each part writes lines of its own.
            with_number!(self.dtype, T => unsafe { self.lines::<T>(from.get(), to.get(), range) })
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("cumulative {:?} over {}", self.op.kind, self.axis.len)
    }

    fn work(&self) -> usize {
        self.axis.lines() * self.axis.len
    }
}

struct TopKernel {
    op: TopK,
    axis: Axis,
    dtype: DType,
}

pub(crate) fn prepare_top(op: &TopK, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let axis = Axis::of(&p.inputs[0].layout.shape, op.axis);
    Box::new(TopKernel { op: op.clone(), axis, dtype: p.inputs[0].dtype })
}

impl TopKernel {
    /// # Safety
    /// As [`Kernel::run`], with `T` of the input's dtype.
    unsafe fn lines<T: Storage>(
        &self,
        from: *const u8,
        values: *mut u8,
        indices: *mut u8,
        lines: Range<usize>,
    ) {
        let (from, values, indices) = (from.cast::<T>(), values.cast::<T>(), indices.cast::<i64>());
        let k = self.op.k;
        let mut line_of: Vec<(T::Compute, usize)> = Vec::with_capacity(self.axis.len);
        for line in lines {
            let start = self.axis.start(line, self.axis.len);
            line_of.clear();
            line_of.extend((0..self.axis.len).map(|i| {
                // SAFETY: the line lies within the input.
                (unsafe { from.add(start + i * self.axis.inner).read().get() }, i)
            }));
            let by = |a: &(T::Compute, usize), b: &(T::Compute, usize)| {
                let by_value = if self.op.largest { order(b.0, a.0) } else { order(a.0, b.0) };
                by_value.then(a.1.cmp(&b.1))
            };
            if k < line_of.len() {
                line_of.select_nth_unstable_by(k - 1, by);
            }
            line_of[..k].sort_unstable_by(by);
            let start = self.axis.start(line, k);
            for (j, &(_, i)) in line_of[..k].iter().enumerate() {
                let to = start + j * self.axis.inner;
                // SAFETY: both outputs have `k` elements a line. The value is copied, not rounded again.
                unsafe {
                    let at = self.axis.start(line, self.axis.len) + i * self.axis.inner;
                    values.add(to).write(from.add(at).read());
                    indices.add(to).write(i as i64);
                }
            }
        }
    }
}

impl Kernel for TopKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        if self.op.k == 0 {
            return Ok(());
        }
        let from = SharedMut(args.inputs[0].cast_mut());
        let (values, indices) = (SharedMut(args.outputs[0]), SharedMut(args.outputs[1]));
        split::run(args.team, self.axis.lines(), self.work(), |range| {
            // SAFETY: passed on from the caller; each part writes lines of its own.
            with_number!(self.dtype, T => unsafe {
                self.lines::<T>(from.get(), values.get(), indices.get(), range)
            })
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("top {} of {}", self.op.k, self.axis.len)
    }

    fn work(&self) -> usize {
        self.axis.lines() * self.axis.len * 4
    }
}

struct UniqueKernel {
    op: Unique,
    len: usize,
    dtype: DType,
}

pub(crate) fn prepare_unique(op: &Unique, p: &Prepare<'_>) -> Box<dyn Kernel> {
    Box::new(UniqueKernel { op: op.clone(), len: p.inputs[0].layout.shape[0], dtype: p.inputs[0].dtype })
}

impl UniqueKernel {
    /// # Safety
    /// As [`Kernel::run`], with `T` of the input's dtype.
    unsafe fn find<T: Storage>(&self, args: &Args<'_>) -> Result<()> {
        let from = args.inputs[0].cast::<T>();
        // SAFETY: the input has `len` elements.
        let at = |i: usize| unsafe { from.add(i).read() };
        let mut sorted: Vec<usize> = (0..self.len).collect();
        sorted.sort_by(|&a, &b| order(at(a).get(), at(b).get()));
        // Groups of equal elements (NaN equals NaN), as ranges of `sorted`; the first of a group occurs first, as the sort is stable.
        let mut groups: Vec<Range<usize>> = Vec::new();
        for i in 0..self.len {
            match groups.last_mut() {
                Some(g) if order(at(sorted[g.start]).get(), at(sorted[i]).get()) == Ordering::Equal => {
                    g.end = i + 1;
                }
                _ => groups.push(i..i + 1),
            }
        }
        if groups.len() != self.op.count {
            return Err(Error::invalid_argument(format!(
                "Unique: {} distinct values were expected, the input has {}",
                self.op.count,
                groups.len()
            )));
        }
        if !self.op.sorted {
            groups.sort_by_key(|g| sorted[g.start]);
        }
        let values = args.outputs[0].cast::<T>();
        let [first, inverse, counts] = [1, 2, 3].map(|o| args.outputs[o].cast::<i64>());
        for (n, group) in groups.into_iter().enumerate() {
            // SAFETY: `count` values, first indices and counts; `len` inverse indices.
            unsafe {
                values.add(n).write(at(sorted[group.start]));
                first.add(n).write(sorted[group.start] as i64);
                counts.add(n).write(group.len() as i64);
                for i in group {
                    inverse.add(sorted[i]).write(n as i64);
                }
            }
        }
        Ok(())
    }
}

impl Kernel for UniqueKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        // SAFETY: passed on from the caller.
        with_number!(self.dtype, T => unsafe { self.find::<T>(args) })
    }

    fn describe(&self) -> String {
        format!("unique of {}", self.len)
    }

    fn work(&self) -> usize {
        self.len * 16
    }
}
