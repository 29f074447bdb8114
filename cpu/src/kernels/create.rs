//! Making elements: fill, range.

use half::{bf16, f16};
use streampool_core::Result;
use streampool_core::op::{DType, Range};

use super::copy::Size;
use super::map::{fill, number::Number};
use super::nest::Nest;
use super::storage::with_size;
use super::{SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};

struct FillKernel {
    nest: Nest<1>,
    bits: [u8; 8],
    size: usize,
}

pub(crate) fn prepare_fill(value: streampool_core::op::Scalar, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let layout = &p.outputs[0].layout;
    Box::new(FillKernel {
        nest: Nest::new(&layout.shape, [&layout.strides]),
        bits: value.bits().to_le_bytes(),
        size: value.dtype().size(),
    })
}

impl Kernel for FillKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        if self.nest.len() == 0 {
            return Ok(());
        }
        let (inner, rows) = self.nest.rows();
        let (stride, size) = (self.nest.inner_stride(0), self.size);
        let to = SharedMut(args.outputs[0]);
        split::run(args.team, rows, self.work(), |range| {
            self.nest.walk(range, |[t]| {
                // SAFETY: the nest was made from the output's layout; each part writes rows of its own.
                unsafe {
                    let first = to.get().offset(t * size as isize);
                    if stride == 1 {
                        fill(first, &self.bits[..size], inner);
                    } else {
                        for i in 0..inner as isize {
                            fill(first.offset(i * stride * size as isize), &self.bits[..size], 1);
                        }
                    }
                }
            });
        });
        Ok(())
    }

    fn describe(&self) -> String {
        "fill".into()
    }

    fn work(&self) -> usize {
        self.nest.len()
    }
}

struct RangeKernel(Range);

pub(crate) fn prepare_range(op: &Range) -> Box<dyn Kernel> {
    Box::new(RangeKernel(op.clone()))
}

impl Kernel for RangeKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let Range { start, step, len } = self.0;
        let to = args.outputs[0];
        let (float, int) = ((start.to_f64(), step.to_f64()), (start.to_i64(), step.to_i64()));
        let real = |i: usize| float.0 + i as f64 * float.1;
        let whole = |i: usize| int.0.add(int.1.mul(i as i64));
        macro_rules! write {
            ($t:ty, $i:ident => $e:expr) => {
                for $i in 0..len {
                    // SAFETY: the output has `len` elements of this type.
                    unsafe { to.cast::<$t>().add($i).write($e) }
                }
            };
        }
        match start.dtype() {
            DType::F32 => write!(f32, i => real(i) as f32),
            DType::F64 => write!(f64, i => real(i)),
            DType::F16 => write!(f16, i => f16::from_f64(real(i))),
            DType::BF16 => write!(bf16, i => bf16::from_f64(real(i))),
            DType::I8 => write!(i8, i => whole(i) as i8),
            DType::U8 | DType::Bool => write!(u8, i => whole(i) as u8),
            DType::I32 => write!(i32, i => whole(i) as i32),
            DType::I64 => write!(i64, i => whole(i)),
        }
        Ok(())
    }

    fn describe(&self) -> String {
        "range".into()
    }

    fn work(&self) -> usize {
        self.0.len
    }
}

struct TriluKernel {
    upper: bool,
    k: i64,
    rows: usize,
    columns: usize,
    matrices: usize,
    size: usize,
}

pub(crate) fn prepare_trilu(op: &streampool_core::op::Trilu, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let shape = &p.outputs[0].layout.shape;
    let rank = shape.rank();
    Box::new(TriluKernel {
        upper: op.upper,
        k: op.k,
        rows: shape[rank - 2],
        columns: shape[rank - 1],
        matrices: shape[..rank - 2].iter().product(),
        size: p.outputs[0].dtype.size(),
    })
}

impl Kernel for TriluKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let (from, to) = (SharedMut(args.inputs[0].cast_mut()), SharedMut(args.outputs[0]));
        split::run(args.team, self.matrices * self.rows, self.work(), |range| {
            for row in range {
                // Column `j` of row `i` is on diagonal `j - i`: the kept triangle starts or ends at `i + k`.
                let edge = (row % self.rows) as i128 + i128::from(self.k) + i128::from(!self.upper);
                let edge = edge.clamp(0, self.columns as i128) as usize;
                let (keep, zero) =
                    if self.upper { (edge..self.columns, 0..edge) } else { (0..edge, edge..self.columns) };
                let size = self.size;
                // SAFETY: ranges lie within the row; `copy` allows the in-place case.
                unsafe {
                    let at = (row * self.columns + keep.start) * size;
                    std::ptr::copy(from.get().add(at), to.get().add(at), keep.len() * size);
                    let at = (row * self.columns + zero.start) * size;
                    to.get().add(at).write_bytes(0, zero.len() * size);
                }
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        "trilu".into()
    }

    fn work(&self) -> usize {
        self.matrices * self.rows * self.columns
    }
}

struct PadKernel {
    mode: streampool_core::op::PadMode,
    axes: Vec<PadAxis>,
    out: Vec<usize>,
    strides: Vec<isize>,
    size: usize,
}

/// One axis: where its elements come from.
#[derive(Clone, Copy)]
struct PadAxis {
    /// First kept element of the input.
    first: usize,
    /// Elements kept.
    kept: usize,
    /// Border before them.
    before: usize,
}

pub(crate) fn prepare_pad(op: &streampool_core::op::Pad, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let layout = &p.inputs[0].layout;
    let taken = |b: isize| if b < 0 { b.unsigned_abs() } else { 0 };
    let axes = (0..layout.shape.rank())
        .map(|i| PadAxis {
            first: taken(op.before[i]),
            kept: layout.shape[i] - taken(op.before[i]) - taken(op.after[i]),
            before: op.before[i].max(0) as usize,
        })
        .collect();
    Box::new(PadKernel {
        mode: op.mode,
        axes,
        out: p.outputs[0].layout.shape.to_vec(),
        strides: layout.strides.to_vec(),
        size: p.outputs[0].dtype.size(),
    })
}

impl PadKernel {
    /// Which element of the input's axis is at position `o` of the output's, if any.
    #[inline]
    fn source(&self, axis: usize, o: usize) -> Option<usize> {
        use streampool_core::op::PadMode;
        let a = self.axes[axis];
        let i = o as isize - a.before as isize;
        let n = a.kept as isize;
        if (0..n).contains(&i) {
            return Some(a.first + i as usize);
        }
        let inside = match self.mode {
            PadMode::Constant(_) => return None,
            PadMode::Edge => i.clamp(0, n - 1),
            PadMode::Wrap => i.rem_euclid(n),
            PadMode::Reflect if n == 1 => 0,
            PadMode::Reflect => {
                let period = 2 * (n - 1);
                let j = i.rem_euclid(period);
                if j < n { j } else { period - j }
            }
        };
        Some(a.first + inside as usize)
    }

    /// # Safety
    /// As [`Kernel::run`], with `T` of the elements' size.
    unsafe fn rows<T: Copy>(&self, from: *const u8, to: *mut u8, rows: std::ops::Range<usize>, border: T) {
        let (from, to) = (from.cast::<T>(), to.cast::<T>());
        let rank = self.out.len();
        let Some(last) = rank.checked_sub(1) else {
            // SAFETY: a scalar has no border.
            unsafe { to.write(from.read()) };
            return;
        };
        let width = self.out[last];
        let a = self.axes[last];
        for row in rows {
            let mut offset = Some(0isize);
            let mut rest = row;
            for axis in (0..last).rev() {
                let o = rest % self.out[axis];
                rest /= self.out[axis];
                offset = match (offset, self.source(axis, o)) {
                    (Some(f), Some(i)) => Some(f + i as isize * self.strides[axis]),
                    _ => None,
                };
            }
            // SAFETY: `source` gives positions of the input, and `to` has `width` elements a row.
            unsafe {
                let t = to.add(row * width);
                let Some(offset) = offset else {
                    for o in 0..width {
                        t.add(o).write(border);
                    }
                    continue;
                };
                let f = from.offset(offset);
                let stride = self.strides[last];
                let edge =
                    |o: usize| self.source(last, o).map_or(border, |i| f.offset(i as isize * stride).read());
                for o in 0..a.before.min(width) {
                    t.add(o).write(edge(o));
                }
                if stride == 1 {
                    std::ptr::copy_nonoverlapping(f.add(a.first), t.add(a.before), a.kept);
                } else {
                    for i in 0..a.kept {
                        t.add(a.before + i).write(f.offset((a.first + i) as isize * stride).read());
                    }
                }
                for o in a.before + a.kept..width {
                    t.add(o).write(edge(o));
                }
            }
        }
    }
}

impl Kernel for PadKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        if self.work() == 0 {
            return Ok(());
        }
        let bits = match self.mode {
            streampool_core::op::PadMode::Constant(s) => s.bits(),
            _ => 0,
        };
        let rows = self.out[..self.out.len().saturating_sub(1)].iter().product();
        let (from, to) = (SharedMut(args.inputs[0].cast_mut()), SharedMut(args.outputs[0]));
        split::run(args.team, rows, self.work(), |range| {
            // SAFETY: passed on from the caller; each part writes rows of its own.
            with_size!(Size(self.size), T => unsafe {
                self.rows::<T>(from.get(), to.get(), range, bits as T)
            })
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("pad {:?}", self.mode)
    }

    fn work(&self) -> usize {
        self.out.iter().product()
    }
}
