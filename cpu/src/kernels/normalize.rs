//! Softmax and layer normalisation.

use std::any::TypeId;
use std::ops::Range;

use streampool_core::Result;
use streampool_core::op::{DType, LayerNorm, Softmax};

use super::lanes::{Greatest, Sum, SumSquare, fold, take_each};
use super::map::number::{Float, Number};
use super::nest::broadcast_strides;
use super::reader::{load, scratch, store};
use super::storage::{Storage, with_float};
use super::{Shared, SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};
use crate::simd::{multiversion, slice};

/// Columns that are normalised side by side when the axis is not the innermost.
const COLUMNS: usize = 64;

/// `x = e^(x - shift)`; gives the sum.
#[inline(always)]
fn exponentials<C: Float>(x: &mut [C], shift: C) -> C {
    if TypeId::of::<C>() == TypeId::of::<f32>() {
        // SAFETY: the types are the same.
        let x = unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast::<f32>(), x.len()) };
        return C::of(f64::from(slice::exp_minus_and_sum(x, shift.to_f64() as f32)));
    }
    for x in &mut *x {
        *x = (*x - shift).exp();
    }
    fold::<C, Sum>(x)
}

multiversion! {
    fn scale[C: Float](x: &mut [C], by: C) {
        for x in x {
            *x = *x * by;
        }
    }

    fn shift[C: Float](x: &mut [C], by: C) {
        for x in x {
            *x = *x - by;
        }
    }

    fn add[C: Float](x: &mut [C], y: &[C]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x = *x + y;
        }
    }

    fn normalise[C: Float](x: &mut [C], factor: C, scale: &[C], bias: &[C]) {
        for ((x, &s), &b) in x.iter_mut().zip(scale).zip(bias) {
            *x = *x * factor * s + b;
        }
    }
}

struct SoftmaxKernel {
    log: bool,
    dtype: DType,
    outer: usize,
    len: usize,
    inner: usize,
    tasks: usize,
}

pub(crate) fn prepare_softmax(op: &Softmax, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let shape = &p.outputs[0].layout.shape;
    let (a, b) = (op.axis, op.axis + op.axes);
    let [outer, len, inner] =
        [&shape[..a], &shape[a..b], &shape[b..]].map(|dims| dims.iter().product::<usize>());
    let tasks = split::tasks(outer * len * inner * 4);
    Box::new(SoftmaxKernel { log: op.log, dtype: p.outputs[0].dtype, outer, len, inner, tasks })
}

impl SoftmaxKernel {
    /// Bytes of scratch memory of a task: a row (or a few columns) in the dtype of the computation.
    fn task_bytes(&self) -> usize {
        let size = if self.dtype == DType::F64 { 8 } else { 4 };
        let wide = if self.inner == 1 { 1 } else { COLUMNS };
        (self.len * wide * size).next_multiple_of(64)
    }

    /// Whether rows are computed where they are written.
    fn direct(&self) -> bool {
        self.inner == 1 && matches!(self.dtype, DType::F32 | DType::F64)
    }

    fn units(&self) -> usize {
        self.outer * self.inner.div_ceil(COLUMNS)
    }

    /// # Safety
    /// As [`Kernel::run`], with `T` of the operands' dtype; `memory` is this task's own.
    unsafe fn rows<T: Storage<Compute: Float>>(
        &self,
        from: *const u8,
        to: *mut u8,
        memory: *mut u8,
        rows: Range<usize>,
    ) {
        let (from, to, n) = (from.cast::<T>(), to.cast::<T>(), self.len);
        for row in rows {
            // SAFETY: rows of `n` elements lie within both operands; in place, each is read before it is written.
            unsafe {
                let to = to.add(row * n);
                let x: &mut [T::Compute] = if self.direct() {
                    let from = from.add(row * n);
                    if from != to.cast_const() {
                        std::ptr::copy_nonoverlapping(from, to, n);
                    }
                    std::slice::from_raw_parts_mut(to.cast(), n)
                } else {
                    let x = std::slice::from_raw_parts_mut(memory.cast(), n);
                    load(from.add(row * n), 1, x);
                    x
                };
                self.one(x);
                if !self.direct() {
                    store(to, x);
                }
            }
        }
    }

    /// Softmax of one row.
    fn one<C: Float>(&self, x: &mut [C]) {
        let top = fold::<C, Greatest>(x);
        if self.log {
            shift(x, top);
            let mut sum = C::ZERO;
            let mut buffer = [C::ZERO; 256];
            for part in x.chunks(256) {
                let buffer = &mut buffer[..part.len()];
                buffer.copy_from_slice(part);
                sum = sum + exponentials(buffer, C::ZERO);
            }
            shift(x, sum.ln());
        } else {
            let sum = exponentials(x, top);
            scale(x, C::ONE / sum);
        }
    }

    /// Columns side by side.
    ///
    /// # Safety
    /// As [`SoftmaxKernel::rows`].
    unsafe fn columns<T: Storage<Compute: Float>>(
        &self,
        from: *const u8,
        to: *mut u8,
        memory: *mut u8,
        units: Range<usize>,
    ) {
        let (from, to) = (from.cast::<T>(), to.cast::<T>());
        let blocks = self.inner.div_ceil(COLUMNS);
        for unit in units {
            let (outer, column) = (unit / blocks, unit % blocks * COLUMNS);
            let wide = COLUMNS.min(self.inner - column);
            let first = outer * self.len * self.inner + column;
            // SAFETY: the block's rows lie within both operands; all are read before one is written. `memory` holds `len * COLUMNS` numbers.
            unsafe {
                let x: &mut [T::Compute] = scratch(memory, self.len * wide);
                let mut top = [T::Compute::NEG_INFINITY; COLUMNS];
                for (i, row) in x.chunks_exact_mut(wide).enumerate() {
                    load(from.add(first + i * self.inner), 1, row);
                    take_each::<T::Compute, Greatest>(&mut top, row);
                }
                let mut sum = [T::Compute::ZERO; COLUMNS];
                let mut copy = [T::Compute::ZERO; COLUMNS];
                for row in x.chunks_exact_mut(wide) {
                    for (x, &t) in row.iter_mut().zip(&top) {
                        *x = *x - t;
                    }
                    if self.log {
                        copy[..wide].copy_from_slice(row);
                        exponentials(&mut copy[..wide], T::Compute::ZERO);
                        take_each::<T::Compute, Sum>(&mut sum, &copy[..wide]);
                    } else {
                        exponentials(row, T::Compute::ZERO);
                        take_each::<T::Compute, Sum>(&mut sum, row);
                    }
                }
                for s in &mut sum {
                    *s = if self.log { s.ln() } else { T::Compute::ONE / *s };
                }
                for (i, row) in x.chunks_exact_mut(wide).enumerate() {
                    for (x, &s) in row.iter_mut().zip(&sum) {
                        *x = if self.log { *x - s } else { *x * s };
                    }
                    store(to.add(first + i * self.inner), row);
                }
            }
        }
    }
}

impl Kernel for SoftmaxKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        if self.outer * self.len * self.inner == 0 {
            return Ok(());
        }
        let (from, to) = (SharedMut(args.inputs[0].cast_mut()), SharedMut(args.outputs[0]));
        let memory = SharedMut(args.scratch);
        let tasks = self.tasks.min(self.units());
        let task = |i: usize| {
            let units = split::part(self.units(), tasks, i);
            // SAFETY: passed on from the caller; each task writes rows of its own and has its own scratch memory.
            unsafe {
                let memory = memory.get().add(i * self.task_bytes());
                with_float!(self.dtype, T => if self.inner == 1 {
                    self.rows::<T>(from.get(), to.get(), memory, units);
                } else {
                    self.columns::<T>(from.get(), to.get(), memory, units);
                });
            }
        };
        if tasks == 1 {
            task(0)
        } else {
            args.team.run(tasks, split::team_work(self.work()), &task)
        }
        Ok(())
    }

    fn scratch_bytes(&self) -> usize {
        self.task_bytes() * self.tasks
    }

    fn describe(&self) -> String {
        let log = if self.log { "log " } else { "" };
        format!("{log}softmax of {}, {} apart", self.len, self.inner)
    }

    fn work(&self) -> usize {
        self.outer * self.len * self.inner * 4
    }
}

struct NormKernel {
    op: LayerNorm,
    dtype: DType,
    rows: usize,
    len: usize,
    /// Strides of scale and bias along the normalised axes, if they are there.
    scale: Option<Vec<isize>>,
    bias: Option<Vec<isize>>,
    dims: Vec<usize>,
    tasks: usize,
}

pub(crate) fn prepare_norm(op: &LayerNorm, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let shape = &p.outputs[0].layout.shape;
    let dims = shape[op.axis..].to_vec();
    let strides = |i: usize| {
        let layout = &p.inputs[i].layout;
        broadcast_strides(&layout.shape, &layout.shape.strides(), &dims)
    };
    let (rows, len) = (shape[..op.axis].iter().product(), dims.iter().product::<usize>());
    Box::new(NormKernel {
        scale: op.scale.then(|| strides(1)),
        bias: op.bias.then(|| strides(1 + usize::from(op.scale))),
        op: op.clone(),
        dtype: p.outputs[0].dtype,
        rows,
        len,
        tasks: split::tasks(rows * len * 4),
        dims,
    })
}

impl NormKernel {
    /// Numbers of a scratch row, a multiple of a cache line.
    fn row(&self) -> usize {
        self.len.next_multiple_of(16)
    }

    fn number_bytes(&self) -> usize {
        if self.dtype == DType::F64 { 8 } else { 4 }
    }

    /// # Safety
    /// As [`Kernel::run`], with `T` of the operands' dtype; `memory` is this task's own, of two rows.
    unsafe fn rows<T: Storage<Compute: Float>>(
        &self,
        inputs: &[*const u8],
        to: *mut u8,
        scale: &[T::Compute],
        bias: &[T::Compute],
        memory: *mut u8,
        rows: Range<usize>,
    ) {
        let (n, to) = (self.len, to.cast::<T>());
        let x = inputs[0].cast::<T>();
        let residual = self.op.residual.then(|| inputs[inputs.len() - 1].cast::<T>());
        let count = <T::Compute as Float>::of(n as f64);
        let epsilon = <T::Compute as Float>::of(f64::from(self.op.epsilon.get()));
        // SAFETY: the scratch memory holds two rows; rows of operands lie within them and are read before they are written.
        unsafe {
            let row: &mut [T::Compute] = scratch(memory, n);
            let other: &mut [T::Compute] =
                scratch(memory.add(self.row() * self.number_bytes()), if residual.is_some() { n } else { 0 });
            for r in rows {
                load_row(x.add(r * n), row);
                if let Some(residual) = residual {
                    load_row(residual.add(r * n), other);
                    add(row, other);
                }
                if !self.op.rms {
                    let mean = fold::<_, Sum>(row) / count;
                    shift(row, mean);
                }
                let variance = fold::<_, SumSquare>(row) / count;
                let factor = T::Compute::ONE / (variance + epsilon).sqrt();
                normalise(row, factor, scale, bias);
                store(to.add(r * n), row);
            }
        }
    }

    /// Scale or bias, one number per normalised element.
    ///
    /// # Safety
    /// `from` is that operand; `memory` holds a row.
    unsafe fn expand<'a, T: Storage>(
        &self,
        from: Option<(*const u8, &[isize])>,
        missing: T::Compute,
        memory: *mut u8,
    ) -> &'a [T::Compute] {
        // SAFETY: passed on from the caller; strides are those of the operand broadcast to the normalised axes.
        unsafe {
            let Some((from, strides)) = from else {
                let row: &mut [T::Compute] = scratch(memory, self.len);
                row.fill(missing);
                return row;
            };
            let from = from.cast::<T>();
            let nest = super::nest::Nest::new(&self.dims, [strides]);
            if nest.dims.len() <= 1
                && nest.inner_stride(0) == 1
                && TypeId::of::<T>() == TypeId::of::<T::Compute>()
            {
                return std::slice::from_raw_parts(from.cast(), self.len);
            }
            let row: &mut [T::Compute] = scratch(memory, self.len);
            let (inner, rows) = nest.rows();
            let mut at = 0;
            nest.walk(0..rows, |[f]| {
                load(from.offset(f), nest.inner_stride(0), &mut row[at..at + inner]);
                at += inner;
            });
            row
        }
    }
}

/// Reads a row of neighbours.
///
/// # Safety
/// `to.len()` elements are readable.
unsafe fn load_row<T: Storage>(from: *const T, to: &mut [T::Compute]) {
    // SAFETY: passed on from the caller; equal types have equal layouts.
    unsafe {
        if TypeId::of::<T>() == TypeId::of::<T::Compute>() {
            std::ptr::copy_nonoverlapping(from.cast(), to.as_mut_ptr(), to.len());
        } else {
            load(from, 1, to);
        }
    }
}

impl Kernel for NormKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        if self.rows * self.len == 0 {
            return Ok(());
        }
        let bytes = self.row() * self.number_bytes();
        let tasks = self.tasks.min(self.rows);
        with_float!(self.dtype, T => {
            type C = <T as Storage>::Compute;
            let bias_at = 1 + usize::from(self.op.scale);
            // SAFETY: passed on from the caller; the first two rows of scratch memory are for scale and bias.
            let (scale, bias): (&[C], &[C]) = unsafe {
                (
                    self.expand::<T>(self.scale.as_deref().map(|s| (args.inputs[1], s)), C::ONE, args.scratch),
                    self.expand::<T>(
                        self.bias.as_deref().map(|s| (args.inputs[bias_at], s)),
                        C::ZERO,
                        args.scratch.add(bytes),
                    ),
                )
            };
            let inputs = Shared::all(args.inputs);
            let (to, memory) = (SharedMut(args.outputs[0]), SharedMut(args.scratch));
            let task = |i: usize| {
                // SAFETY: as above; each task writes rows of its own and has two rows of scratch memory.
                unsafe {
                    let memory = memory.get().add((2 + 2 * i) * bytes);
                    let rows = split::part(self.rows, tasks, i);
                    self.rows::<T>(inputs.get(), to.get(), scale, bias, memory, rows);
                }
            };
            if tasks == 1 { task(0) } else { args.team.run(tasks, split::team_work(self.work()), &task) }
        });
        Ok(())
    }

    fn scratch_bytes(&self) -> usize {
        (2 + 2 * self.tasks) * self.row() * self.number_bytes()
    }

    fn describe(&self) -> String {
        let name = if self.op.rms { "rms norm" } else { "layer norm" };
        format!(
            "{name} of {} rows of {}{}",
            self.rows,
            self.len,
            if self.op.residual { " plus residual" } else { "" }
        )
    }

    fn work(&self) -> usize {
        self.rows * self.len * 4
    }
}
