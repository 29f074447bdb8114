//! Reading by index.

use streampool_core::op::{DType, Gather, GatherElements, GatherNd};
use streampool_core::{Error, Result};

use super::copy::Size;
use super::nest::Nest;
use super::storage::{Indices, with_size};
use super::{SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};

/// The error for an index that is not there.
pub(crate) fn out_of_range(op: &str, index: i64, axis: usize, len: usize) -> Error {
    Error::invalid_argument(format!(
        "{op}: index {index} is out of range for axis {axis} of length {len} (valid: -{len} to {})",
        len as i64 - 1
    ))
}

struct GatherKernel {
    axis: usize,
    len: usize,
    outer: usize,
    /// Elements of one slice.
    inner: usize,
    indices: usize,
    index: DType,
    size: usize,
}

pub(crate) fn prepare(op: &Gather, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let data = &p.inputs[0].layout.shape;
    Box::new(GatherKernel {
        axis: op.axis,
        len: data[op.axis],
        outer: data[..op.axis].iter().product(),
        inner: data[op.axis + 1..].iter().product(),
        indices: p.inputs[1].layout.shape.len(),
        index: p.inputs[1].dtype,
        size: p.outputs[0].dtype.size(),
    })
}

impl GatherKernel {
    /// # Safety
    /// As [`Kernel::run`], with `T` of the elements' size.
    unsafe fn rows<T: Copy>(
        &self,
        from: *const u8,
        to: *mut u8,
        indices: Indices,
        rows: std::ops::Range<usize>,
    ) {
        let (from, to, inner) = (from.cast::<T>(), to.cast::<T>(), self.inner);
        for row in rows {
            let (outer, i) = (row / self.indices, row % self.indices);
            // SAFETY: indices were checked: a slice of the data is copied to a slice of the output.
            unsafe {
                let at = indices.get(i, self.len).unwrap_or(0);
                let f = from.add((outer * self.len + at) * inner);
                let t = to.add(row * inner);
                if inner == 1 {
                    t.write(f.read());
                } else {
                    std::ptr::copy_nonoverlapping(f, t, inner);
                }
            }
        }
    }
}

impl Kernel for GatherKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let indices = Indices::new(args.inputs[1], self.index);
        for i in 0..self.indices {
            // SAFETY: the operand has this many indices.
            unsafe { indices.get(i, self.len) }
                .map_err(|bad| out_of_range("Gather", bad, self.axis, self.len))?;
        }
        if self.inner == 0 {
            return Ok(());
        }
        let (from, to) = (SharedMut(args.inputs[0].cast_mut()), SharedMut(args.outputs[0]));
        split::run(args.team, self.outer * self.indices, self.work(), |range| {
            // SAFETY: passed on from the caller; each part writes rows of its own.
            with_size!(Size(self.size), T => unsafe {
                self.rows::<T>(from.get(), to.get(), indices, range)
            })
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("gather slices of {}", self.inner)
    }

    fn work(&self) -> usize {
        self.outer * self.indices * self.inner
    }
}

struct ElementsKernel {
    axis: usize,
    len: usize,
    /// Views: the indices (and the output), and the data with the gathered axis held at 0.
    nest: Nest<2>,
    stride: isize,
    index: DType,
    size: usize,
}

/// The nest of an operation along an axis: the indices and the data with that axis held at 0, and the data's stride along it.
pub(crate) fn along(axis: usize, p: &Prepare<'_>) -> (Nest<2>, isize) {
    let (data, indices) = (&p.inputs[0].layout, &p.inputs[1].layout);
    let natural = data.shape.strides();
    let mut held = natural.clone();
    held[axis] = 0;
    (Nest::new(&indices.shape, [&indices.shape.strides(), &held]), natural[axis])
}

pub(crate) fn prepare_elements(op: &GatherElements, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let (nest, stride) = along(op.axis, p);
    Box::new(ElementsKernel {
        axis: op.axis,
        len: p.inputs[0].layout.shape[op.axis],
        nest,
        stride,
        index: p.inputs[1].dtype,
        size: p.outputs[0].dtype.size(),
    })
}

impl Kernel for ElementsKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let total = self.nest.len();
        if total == 0 {
            return Ok(());
        }
        let indices = Indices::new(args.inputs[1], self.index);
        let (from, to) = (SharedMut(args.inputs[0].cast_mut()), SharedMut(args.outputs[0]));
        let (inner, rows) = self.nest.rows();
        let step = self.nest.inner_stride(1);
        split::try_run(args.team, rows, self.work(), |range| {
            let mut bad = None;
            self.nest.walk(range, |[i, d]| {
                for k in 0..inner {
                    let n = i as usize + k;
                    // SAFETY: the nest walks the indices, and the data within its shape; the index is checked.
                    unsafe {
                        match indices.get(n, self.len) {
                            Ok(at) => {
                                let from_at = d + k as isize * step + at as isize * self.stride;
                                with_size!(Size(self.size), T => {
                                    let x = from.get().cast::<T>().offset(from_at).read();
                                    to.get().cast::<T>().add(n).write(x);
                                });
                            }
                            Err(index) => bad = bad.or(Some(index)),
                        }
                    }
                }
            });
            bad.map_or(Ok(()), |index| Err(out_of_range("GatherElements", index, self.axis, self.len)))
        })
    }

    fn describe(&self) -> String {
        "gather elements".into()
    }

    fn work(&self) -> usize {
        self.nest.len()
    }
}

/// Tuples of indices into the leading axes of some data.
pub(crate) struct Tuples {
    /// Axis of the first index of a tuple, for errors.
    first_axis: usize,
    /// Lengths and strides of the indexed axes.
    axes: Vec<(usize, usize)>,
    /// How many tuples share one batch entry, and the data elements of an entry.
    per_batch: usize,
    batch_stride: usize,
    /// How many there are.
    pub(crate) count: usize,
    /// Elements of the slice that a tuple names.
    pub(crate) slice: usize,
    index: DType,
}

impl Tuples {
    pub(crate) fn new(batch_dims: usize, p: &Prepare<'_>) -> Self {
        let (data, indices) = (&p.inputs[0].layout.shape, &p.inputs[1].layout.shape);
        let last = indices.rank() - 1;
        let tuple = indices[last];
        let strides = data.strides();
        let axes = (batch_dims..batch_dims + tuple).map(|a| (data[a], strides[a] as usize)).collect();
        Self {
            first_axis: batch_dims,
            axes,
            per_batch: indices[batch_dims..last].iter().product(),
            batch_stride: data[batch_dims..].iter().product(),
            count: indices[..last].iter().product(),
            slice: data[batch_dims + tuple..].iter().product(),
            index: p.inputs[1].dtype,
        }
    }

    /// The data element where the slice of tuple `t` starts.
    ///
    /// # Safety
    /// `indices` is the index operand's first byte, `t` is below `count`.
    pub(crate) unsafe fn start(&self, op: &str, indices: *const u8, t: usize) -> Result<usize> {
        let indices = Indices::new(indices, self.index);
        let mut at = t / self.per_batch * self.batch_stride;
        for (k, &(len, stride)) in self.axes.iter().enumerate() {
            // SAFETY: passed on from the caller.
            let i = unsafe { indices.get(t * self.axes.len() + k, len) }
                .map_err(|bad| out_of_range(op, bad, self.first_axis + k, len))?;
            at += i * stride;
        }
        Ok(at)
    }
}

struct NdKernel {
    tuples: Tuples,
    size: usize,
}

pub(crate) fn prepare_nd(op: &GatherNd, p: &Prepare<'_>) -> Box<dyn Kernel> {
    Box::new(NdKernel { tuples: Tuples::new(op.batch_dims, p), size: p.outputs[0].dtype.size() })
}

impl Kernel for NdKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let (from, to) = (SharedMut(args.inputs[0].cast_mut()), SharedMut(args.outputs[0]));
        let indices = SharedMut(args.inputs[1].cast_mut());
        let bytes = self.tuples.slice * self.size;
        split::try_run(args.team, self.tuples.count, self.work(), |range| {
            for t in range {
                // SAFETY: the start of a slice lies within the data, as its indices were checked.
                unsafe {
                    let at = self.tuples.start("GatherNd", indices.get(), t)?;
                    std::ptr::copy_nonoverlapping(
                        from.get().add(at * self.size),
                        to.get().add(t * bytes),
                        bytes,
                    );
                }
            }
            Ok(())
        })
    }

    fn describe(&self) -> String {
        format!("gather nd slices of {}", self.tuples.slice)
    }

    fn work(&self) -> usize {
        self.tuples.count * (self.tuples.slice + self.tuples.axes.len())
    }
}
