//! Copies between views: transposes, slices, broadcasts, concatenation.

use streampool_core::Result;

use super::nest::Nest;
use super::storage::with_size;
use super::{SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};

/// Side of the square that a transpose moves at once: a square of either side lies in the first-level cache.
const TILE: usize = 16;

/// How a copy is done.
#[derive(Clone, Copy, Debug)]
enum Plan {
    /// Both sides step by one along the innermost axis: whole runs.
    Runs,
    /// The output steps by one along the innermost axis, the input along `axis`: squares of both.
    Transpose { axis: usize },
    /// Element by element.
    Elements,
}

struct CopyKernel {
    nest: Nest<2>,
    size: usize,
    plan: Plan,
}

pub(crate) fn prepare(p: &Prepare<'_>) -> Box<dyn Kernel> {
    let (from, to) = (&p.inputs[0].layout, &p.outputs[0].layout);
    let nest = Nest::new(&to.shape, [&from.strides, &to.strides]);
    let last = nest.dims.len().wrapping_sub(1);
    let plan = match (nest.dims.len(), nest.inner_stride(0), nest.inner_stride(1)) {
        (0, ..) | (_, 1, 1) => Plan::Runs,
        (_, _, 1) => match (0..last).find(|&a| nest.strides[0][a] == 1 && nest.dims[a] > 1) {
            Some(axis) => Plan::Transpose { axis },
            None => Plan::Elements,
        },
        _ => Plan::Elements,
    };
    Box::new(CopyKernel { nest, size: p.outputs[0].dtype.size(), plan })
}

impl CopyKernel {
    /// Rows of the nest, the transposed axis taken out of them if there is one.
    fn rows(&self) -> usize {
        let (_, rows) = self.nest.rows();
        match self.plan {
            Plan::Transpose { axis } => rows / self.nest.dims[axis],
            _ => rows,
        }
    }

    /// # Safety
    /// As [`Kernel::run`], with `T` of the elements' size.
    unsafe fn part<T: Copy>(&self, from: *const u8, to: *mut u8, units: std::ops::Range<usize>) {
        let (from, to) = (from.cast::<T>(), to.cast::<T>());
        let (inner, _) = self.nest.rows();
        // SAFETY: all offsets are the nest's own, made from the views' layouts.
        unsafe {
            match self.plan {
                Plan::Runs => self.nest.walk(units, |[f, t]| {
                    let (f, t) = (from.offset(f), to.offset(t));
                    if inner * size_of::<T>() < 64 {
                        for i in 0..inner {
                            t.add(i).write(f.add(i).read());
                        }
                    } else {
                        std::ptr::copy(f, t, inner);
                    }
                }),
                Plan::Elements => {
                    let (fs, ts) = (self.nest.inner_stride(0), self.nest.inner_stride(1));
                    self.nest.walk(units, |[f, t]| {
                        let (f, t) = (from.offset(f), to.offset(t));
                        for i in 0..inner as isize {
                            t.offset(i * ts).write(f.offset(i * fs).read());
                        }
                    });
                }
                Plan::Transpose { axis } => {
                    let strips = self.nest.dims[axis].div_ceil(TILE);
                    let mut rest = self.nest.clone();
                    rest.dims.remove(axis);
                    for s in &mut rest.strides {
                        s.remove(axis);
                    }
                    let step = self.nest.strides[1][axis];
                    let stride = self.nest.inner_stride(0);
                    for unit in units {
                        let (row, strip) = (unit / strips, unit % strips * TILE);
                        let high = TILE.min(self.nest.dims[axis] - strip);
                        let f = from.offset(rest.row_offset(0, row) + strip as isize);
                        let t = to.offset(rest.row_offset(1, row) + strip as isize * step);
                        for column in (0..inner).step_by(TILE) {
                            let wide = TILE.min(inner - column);
                            let f = f.offset(column as isize * stride);
                            square(f, stride, t.add(column), step, high, wide);
                        }
                    }
                }
            }
        }
    }
}

/// `t[j][i] = f[i][j]` for `j < high`, `i < wide`; `f` has rows of stride `stride`, `t` of stride `step`.
///
/// # Safety
/// All elements are valid.
#[inline(always)]
unsafe fn square<T: Copy>(f: *const T, stride: isize, t: *mut T, step: isize, high: usize, wide: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        if high == TILE && wide == TILE {
            // Through registers or the stack, so that each cache line of either side is touched once: lines of a power-of-two
            // stride all compete for the same few places of the cache.
            let mut rows = [f.cast::<[T; TILE]>().read(); TILE];
            for (i, row) in rows.iter_mut().enumerate().skip(1) {
                *row = f.offset(i as isize * stride).cast::<[T; TILE]>().read();
            }
            for j in 0..TILE {
                let mut column = rows[0];
                for i in 0..TILE {
                    column[i] = rows[i][j];
                }
                t.offset(j as isize * step).cast::<[T; TILE]>().write(column);
            }
        } else {
            for j in 0..high as isize {
                for i in 0..wide as isize {
                    t.offset(j * step + i).write(f.offset(i * stride + j).read());
                }
            }
        }
    }
}

impl Kernel for CopyKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        if self.nest.len() == 0 {
            return Ok(());
        }
        let mut units = self.rows();
        if let Plan::Transpose { axis } = self.plan {
            units *= self.nest.dims[axis].div_ceil(TILE);
        }
        let (from, to) = (SharedMut(args.inputs[0].cast_mut()), SharedMut(args.outputs[0]));
        split::run(args.team, units, self.work(), |range| {
            // SAFETY: passed on from the caller; each part writes rows of its own.
            with_size!(Size(self.size), T => unsafe { self.part::<T>(from.get(), to.get(), range) })
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("copy {:?} over {:?}", self.plan, &self.nest.dims[..])
    }

    fn work(&self) -> usize {
        self.nest.len()
    }
}

/// An element size in the place of a dtype.
pub(crate) struct Size(pub(crate) usize);

impl Size {
    pub(crate) fn size(&self) -> usize {
        self.0
    }
}
