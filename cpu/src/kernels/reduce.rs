//! Reductions over axes.

use std::ops::Range;

use streampool_core::op::{DType, Reduce, ReduceKind};
use streampool_core::{Error, Result};

use super::lanes::{Fold, Folding, Greatest, Least, Product, Sum, SumAbs, SumSquare, take_each};
use super::map::number::{Float, Number};
use super::nest::Nest;
use super::reader::{Buffer, read_row};
use super::storage::{Storage, with_float, with_number};
use super::{SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};

/// Columns that are reduced side by side.
const COLUMNS: usize = 256;

/// Rows after which column results are put aside, so that long sums lose no digits to their own size.
const FLUSH: usize = 64;

struct ReduceKernel {
    kind: ReduceKind,
    dtype: DType,
    /// Kept axes and reduced axes, with the input's strides. Outputs are the kept axes in row-major order.
    kept: Nest<1>,
    reduced: Nest<1>,
    /// Whether neighbouring outputs' elements are neighbours in memory and are reduced side by side.
    side_by_side: bool,
}

pub(crate) fn prepare(op: &Reduce, p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    let layout = &p.inputs[0].layout;
    let axes = |reduced: bool| {
        let chosen = (0..layout.shape.rank()).filter(|i| op.axes.contains(i) == reduced);
        let (dims, strides): (Vec<usize>, Vec<isize>) =
            chosen.map(|i| (layout.shape[i], layout.strides[i])).unzip();
        Nest::new(&dims, [&strides])
    };
    let (kept, reduced) = (axes(false), axes(true));
    if op.kind == ReduceKind::LogSumExp && !p.inputs[0].dtype.is_float() {
        return Err(Error::unsupported(format!(
            "Reduce: LogSumExp of {}; cast to float first",
            p.inputs[0].dtype
        )));
    }
    let side_by_side = op.kind != ReduceKind::LogSumExp && kept.inner_stride(0) == 1 && kept.rows().0 >= 8;
    Ok(Box::new(ReduceKernel { kind: op.kind, dtype: p.inputs[0].dtype, kept, reduced, side_by_side }))
}

impl ReduceKernel {
    /// Outputs `outputs`, each `finish` of the fold of its elements.
    ///
    /// # Safety
    /// As [`Kernel::run`], with `T` of the operands' dtype.
    unsafe fn fold<T: Storage, F: Fold<T::Compute>>(
        &self,
        from: *const u8,
        to: *mut u8,
        units: Range<usize>,
        finish: impl Fn(T::Compute) -> T::Compute,
    ) {
        let (from, to) = (from.cast::<T>(), to.cast::<T>());
        let (inner, kept_rows) = self.kept.rows();
        let (run, runs) = self.reduced.rows();
        let stride = self.reduced.inner_stride(0);
        let mut buffer = Buffer::new();
        if !self.side_by_side {
            let kept_stride = self.kept.inner_stride(0);
            for o in units {
                let at = self.kept.row_offset(0, o / inner) + (o % inner) as isize * kept_stride;
                let mut folding = Folding::start::<F>();
                if run > 0 {
                    self.reduced.walk(0..runs, |[r]| {
                        // SAFETY: the nests together walk the input's elements.
                        unsafe {
                            read_row(from.offset(at + r), stride, run, &mut buffer, |row| {
                                folding.take::<F>(row);
                            });
                        }
                    });
                }
                // SAFETY: one output per element of the kept axes.
                unsafe { to.add(o).write(T::put(finish(folding.end::<F>()))) };
            }
            return;
        }
        debug_assert!(kept_rows > 0);
        let blocks = inner.div_ceil(COLUMNS);
        for unit in units {
            let (row, column) = (unit / blocks, unit % blocks * COLUMNS);
            let n = COLUMNS.min(inner - column);
            let at = self.kept.row_offset(0, row) + column as isize;
            let mut part = [F::START; COLUMNS];
            let part = &mut part[..n];
            // Joined results of 2^k flushes, for each bit k of the number of flushes: long sums are joined pairwise.
            let mut levels: Vec<[T::Compute; COLUMNS]> = Vec::new();
            let (mut taken, mut flushes) = (0, 0u64);
            let join = |into: &mut [T::Compute], earlier: &[T::Compute]| {
                for (i, &e) in into.iter_mut().zip(earlier) {
                    *i = F::join(e, *i);
                }
            };
            if run > 0 {
                self.reduced.walk(0..runs, |[r]| {
                    for k in 0..run as isize {
                        let mut done = 0;
                        // SAFETY: as above; neighbouring outputs' elements are neighbours.
                        unsafe {
                            read_row(from.offset(at + r + k * stride), 1, n, &mut buffer, |row| {
                                take_each::<T::Compute, F>(&mut part[done..], row);
                                done += row.len();
                            });
                        }
                        taken += 1;
                        if taken == FLUSH {
                            let level = flushes.trailing_ones() as usize;
                            for earlier in &levels[..level] {
                                join(part, earlier);
                            }
                            if level == levels.len() {
                                levels.push([F::START; COLUMNS]);
                            }
                            levels[level][..n].copy_from_slice(part);
                            part.fill(F::START);
                            (taken, flushes) = (0, flushes + 1);
                        }
                    }
                });
            }
            for (level, earlier) in levels.iter().enumerate() {
                if flushes >> level & 1 == 1 {
                    join(part, earlier);
                }
            }
            for (i, &x) in part.iter().enumerate() {
                // SAFETY: one output per element of the kept axes.
                unsafe { to.add(row * inner + column + i).write(T::put(finish(x))) };
            }
        }
    }

    /// The kinds that are a float function of a fold.
    ///
    /// # Safety
    /// As [`ReduceKernel::fold`].
    unsafe fn float<T: Storage<Compute: Float>>(&self, from: *const u8, to: *mut u8, units: Range<usize>) {
        let count = <T::Compute as Float>::of(self.reduced.len() as f64);
        // SAFETY: passed on from the caller.
        unsafe {
            match self.kind {
                ReduceKind::Mean => self.fold::<T, Sum>(from, to, units, |x| x / count),
                ReduceKind::L2 => self.fold::<T, SumSquare>(from, to, units, |x| x.sqrt()),
                ReduceKind::LogSum => self.fold::<T, Sum>(from, to, units, |x| x.ln()),
                ReduceKind::LogSumExp => self.log_sum_exp::<T>(from, to, units),
                _ => unreachable!("handled by `number`"),
            }
        }
    }

    /// # Safety
    /// As [`ReduceKernel::fold`].
    unsafe fn log_sum_exp<T: Storage<Compute: Float>>(
        &self,
        from: *const u8,
        to: *mut u8,
        units: Range<usize>,
    ) {
        let (from, to) = (from.cast::<T>(), to.cast::<T>());
        let (inner, _) = self.kept.rows();
        let (run, runs) = self.reduced.rows();
        let stride = self.reduced.inner_stride(0);
        let mut exponentials = Vec::new();
        let mut buffer = Buffer::new();
        for o in units {
            let at = self.kept.row_offset(0, o / inner) + (o % inner) as isize * self.kept.inner_stride(0);
            let mut greatest = Folding::start::<Greatest>();
            let mut sum = Folding::start::<Sum>();
            let mut top = T::Compute::LOWEST;
            for pass in 0..2 {
                if run == 0 {
                    break;
                }
                self.reduced.walk(0..runs, |[r]| {
                    // SAFETY: as in `fold`.
                    unsafe {
                        read_row(from.offset(at + r), stride, run, &mut buffer, |row| {
                            if pass == 0 {
                                greatest.take::<Greatest>(row);
                            } else {
                                exponentials.clear();
                                exponentials.extend(row.iter().map(|&x| (x - top).exp()));
                                sum.take::<Sum>(&exponentials);
                            }
                        });
                    }
                });
                if pass == 0 {
                    top = std::mem::replace(&mut greatest, Folding::start::<Greatest>()).end::<Greatest>();
                    // An infinite greatest would give inf - inf.
                    if top == T::Compute::NEG_INFINITY || top == T::Compute::INFINITY {
                        break;
                    }
                }
            }
            let sum = sum.end::<Sum>();
            let infinite = top == T::Compute::NEG_INFINITY || top == T::Compute::INFINITY;
            // SAFETY: one output per element of the kept axes.
            unsafe { to.add(o).write(T::put(if infinite { top } else { top + sum.ln() })) };
        }
    }

    /// The kinds that stay within the dtype.
    ///
    /// # Safety
    /// As [`ReduceKernel::fold`].
    unsafe fn number<T: Storage>(&self, from: *const u8, to: *mut u8, units: Range<usize>) {
        let same = |x| x;
        // SAFETY: passed on from the caller.
        unsafe {
            match self.kind {
                ReduceKind::Sum => self.fold::<T, Sum>(from, to, units, same),
                ReduceKind::Prod => self.fold::<T, Product>(from, to, units, same),
                ReduceKind::Max => self.fold::<T, Greatest>(from, to, units, same),
                ReduceKind::Min => self.fold::<T, Least>(from, to, units, same),
                ReduceKind::L1 => self.fold::<T, SumAbs>(from, to, units, same),
                ReduceKind::SumSquare => self.fold::<T, SumSquare>(from, to, units, same),
                _ => unreachable!("handled by `float` or `whole`"),
            }
        }
    }

    /// The kinds that leave the dtype on the way, of integers: in i64 or f64, truncated at the end.
    ///
    /// # Safety
    /// As [`ReduceKernel::fold`].
    unsafe fn whole(&self, from: *const u8, to: *mut u8, units: Range<usize>) {
        let (inner, _) = self.kept.rows();
        let (run, runs) = self.reduced.rows();
        let size = self.dtype.size();
        for o in units {
            let at = self.kept.row_offset(0, o / inner) + (o % inner) as isize * self.kept.inner_stride(0);
            let (mut sum, mut real) = (0i64, 0f64);
            if run > 0 {
                self.reduced.walk(0..runs, |[r]| {
                    for k in 0..run as isize {
                        let at = at + r + k * self.reduced.inner_stride(0);
                        // SAFETY: as in `fold`.
                        let x = unsafe { read_whole(self.dtype, from.offset(at * size as isize)) };
                        sum = sum.wrapping_add(x);
                        real += if self.kind == ReduceKind::L2 { x as f64 * x as f64 } else { x as f64 };
                    }
                });
            }
            let result = match self.kind {
                ReduceKind::Mean => sum.checked_div(self.reduced.len() as i64).unwrap_or(0),
                ReduceKind::L2 => real.sqrt() as i64,
                _ => real.ln() as i64,
            };
            // SAFETY: one output per element of the kept axes.
            unsafe {
                match self.dtype {
                    DType::I8 => to.cast::<i8>().add(o).write(result as i8),
                    DType::I32 => to.cast::<i32>().add(o).write(result as i32),
                    DType::I64 => to.cast::<i64>().add(o).write(result),
                    _ => to.add(o).write(result as u8),
                }
            }
        }
    }
}

/// # Safety
/// An integer of this dtype is readable.
unsafe fn read_whole(dtype: DType, first: *const u8) -> i64 {
    // SAFETY: passed on from the caller.
    unsafe {
        match dtype {
            DType::I8 => i64::from(first.cast::<i8>().read()),
            DType::I32 => i64::from(first.cast::<i32>().read()),
            DType::I64 => first.cast::<i64>().read(),
            _ => i64::from(first.read()),
        }
    }
}

impl Kernel for ReduceKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let outputs = self.kept.len();
        if outputs == 0 {
            return Ok(());
        }
        let leaves = matches!(
            self.kind,
            ReduceKind::Mean | ReduceKind::L2 | ReduceKind::LogSum | ReduceKind::LogSumExp
        );
        let whole = leaves && !self.dtype.is_float();
        let units = if self.side_by_side && !whole {
            let (inner, rows) = self.kept.rows();
            rows * inner.div_ceil(COLUMNS)
        } else {
            outputs
        };
        let (from, to) = (SharedMut(args.inputs[0].cast_mut()), SharedMut(args.outputs[0]));
        split::run(args.team, units, self.work(), |range| {
            let (from, to) = (from.get().cast_const(), to.get());
            // SAFETY: passed on from the caller; each part writes outputs of its own.
            unsafe {
                if whole {
                    self.whole(from, to, range);
                } else if leaves {
                    with_float!(self.dtype, T => self.float::<T>(from, to, range));
                } else if self.dtype == DType::Bool {
                    self.bools(from, to, range);
                } else {
                    with_number!(self.dtype, T => self.number::<T>(from, to, range));
                }
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        let how = if self.side_by_side { "side by side" } else { "run by run" };
        format!("reduce {:?} of {} elements, {how}", self.kind, self.reduced.len())
    }

    fn work(&self) -> usize {
        self.kept.len() * self.reduced.len()
    }
}

impl ReduceKernel {
    /// Of bools: any byte but 0 is true, so both are folds of bytes whose result is brought back to 0 or 1.
    ///
    /// # Safety
    /// As [`ReduceKernel::fold`].
    unsafe fn bools(&self, from: *const u8, to: *mut u8, units: Range<usize>) {
        // SAFETY: passed on from the caller.
        unsafe {
            match self.kind {
                ReduceKind::All | ReduceKind::Min => {
                    self.fold::<u8, Least>(from, to, units, |x| u8::from(x != 0));
                }
                _ => self.fold::<u8, Greatest>(from, to, units, |x| u8::from(x != 0)),
            }
        }
    }
}
