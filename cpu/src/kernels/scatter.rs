//! Writing by index. All indices are checked before anything is written; updates are applied one after the other in index order, so that
//! sums have one order and the last of equal indices wins.

use streampool_core::Result;
use streampool_core::op::{DType, OnScatter, ScatterElements, ScatterNd};

use super::copy::Size;
use super::gather::{Tuples, along, out_of_range};
use super::map::number::Number;
use super::nest::Nest;
use super::storage::{Indices, Storage, with_number, with_size};
use crate::kernel::{Args, Kernel, Prepare};

/// Combines `n` updates with what is there.
///
/// # Safety
/// Both are valid for `n` elements of `T`.
unsafe fn combine<T: Storage>(reduction: OnScatter, to: *mut u8, updates: *const u8, n: usize) {
    let (to, updates) = (to.cast::<T>(), updates.cast::<T>());
    // SAFETY: passed on from the caller.
    unsafe {
        for i in 0..n {
            let (old, new) = (to.add(i).read().get(), updates.add(i).read().get());
            let result = match reduction {
                OnScatter::Replace => new,
                OnScatter::Add => old.add(new),
                OnScatter::Mul => old.mul(new),
                OnScatter::Min => old.min(new),
                OnScatter::Max => old.max(new),
            };
            to.add(i).write(T::put(result));
        }
    }
}

/// Copies the data to the output, unless it is there already.
///
/// # Safety
/// Both are valid for `bytes`.
unsafe fn start_from(data: *const u8, output: *mut u8, bytes: usize) {
    if data != output.cast_const() {
        // SAFETY: passed on from the caller; different operands do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(data, output, bytes) }
    }
}

struct ElementsKernel {
    axis: usize,
    len: usize,
    nest: Nest<2>,
    stride: isize,
    index: DType,
    dtype: DType,
    bytes: usize,
    reduction: OnScatter,
}

pub(crate) fn prepare_elements(op: &ScatterElements, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let (nest, stride) = along(op.axis, p);
    Box::new(ElementsKernel {
        axis: op.axis,
        len: p.inputs[0].layout.shape[op.axis],
        nest,
        stride,
        index: p.inputs[1].dtype,
        dtype: p.outputs[0].dtype,
        bytes: p.outputs[0].ty().bytes(),
        reduction: op.reduction,
    })
}

impl Kernel for ElementsKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let indices = Indices::new(args.inputs[1], self.index);
        let (updates, to) = (args.inputs[2], args.outputs[0]);
        let total = self.nest.len();
        for i in 0..total {
            // SAFETY: the operand has this many indices.
            unsafe { indices.get(i, self.len) }
                .map_err(|bad| out_of_range("ScatterElements", bad, self.axis, self.len))?;
        }
        // SAFETY: both have the output's type.
        unsafe { start_from(args.inputs[0], to, self.bytes) };
        if total == 0 {
            return Ok(());
        }
        let (inner, rows) = self.nest.rows();
        let step = self.nest.inner_stride(1);
        let size = self.dtype.size();
        self.nest.walk(0..rows, |[i, d]| {
            for k in 0..inner {
                let n = i as usize + k;
                // SAFETY: the nest walks indices and updates, and the data within its shape; indices were checked.
                unsafe {
                    let at = indices.get(n, self.len).unwrap_or(0) as isize;
                    let to_at = (d + k as isize * step + at * self.stride) * size as isize;
                    let (to, update) = (to.offset(to_at), updates.add(n * size));
                    if self.reduction == OnScatter::Replace {
                        with_size!(Size(size), T => to.cast::<T>().write(update.cast::<T>().read()));
                    } else {
                        with_number!(self.dtype, T => combine::<T>(self.reduction, to, update, 1));
                    }
                }
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("scatter elements, {:?}", self.reduction)
    }

    fn work(&self) -> usize {
        self.nest.len() + self.bytes / self.dtype.size()
    }
}

struct NdKernel {
    tuples: Tuples,
    dtype: DType,
    bytes: usize,
    reduction: OnScatter,
}

pub(crate) fn prepare_nd(op: &ScatterNd, p: &Prepare<'_>) -> Box<dyn Kernel> {
    Box::new(NdKernel {
        tuples: Tuples::new(0, p),
        dtype: p.outputs[0].dtype,
        bytes: p.outputs[0].ty().bytes(),
        reduction: op.reduction,
    })
}

impl Kernel for NdKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let (indices, updates, to) = (args.inputs[1], args.inputs[2], args.outputs[0]);
        // SAFETY: every tuple is read within the index operand; slices start where checked indices say and lie within the data.
        unsafe {
            for t in 0..self.tuples.count {
                self.tuples.start("ScatterNd", indices, t)?;
            }
            start_from(args.inputs[0], to, self.bytes);
            let (n, size) = (self.tuples.slice, self.dtype.size());
            for t in 0..self.tuples.count {
                let at = self.tuples.start("ScatterNd", indices, t)?;
                let (to, update) = (to.add(at * size), updates.add(t * n * size));
                if self.reduction == OnScatter::Replace {
                    std::ptr::copy_nonoverlapping(update, to, n * size);
                } else {
                    with_number!(self.dtype, T => combine::<T>(self.reduction, to, update, n));
                }
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("scatter nd slices of {}, {:?}", self.tuples.slice, self.reduction)
    }

    fn work(&self) -> usize {
        self.tuples.count * self.tuples.slice + self.bytes / self.dtype.size()
    }
}
