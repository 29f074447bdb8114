//! Products of i8 and u8 in i32, with zero points.

use streampool_core::Result;
use streampool_core::op::{DType, MatMulInteger};

use super::plain::add_rows;
use super::{Batch, Views, steps};
use crate::kernel::{Args, Kernel, Prepare};

/// A MatMulInteger. Zero points are taken off first, so that all is one product of i32.
pub(super) struct IntegerMatMul {
    m: usize,
    n: usize,
    k: usize,
    a_dtype: DType,
    b_dtype: DType,
    a: (isize, isize),
    b: (isize, isize),
    /// Input and step per row.
    a_zero: Option<(usize, isize)>,
    /// Input and step per column.
    b_zero: Option<(usize, isize)>,
    /// Offsets of A, B, and their zero points.
    batch: Batch<4>,
}

/// Element `at` of an i8 or u8 array.
///
/// # Safety
/// The array has that element.
#[inline(always)]
unsafe fn read(dtype: DType, data: *const u8, at: isize) -> i32 {
    // SAFETY: passed on from the caller; i8 and u8 share their layout.
    let x = unsafe { *data.offset(at) };
    if dtype == DType::I8 { i32::from(x.cast_signed()) } else { i32::from(x) }
}

impl IntegerMatMul {
    pub(super) fn new(op: &MatMulInteger, p: &Prepare<'_>) -> Result<Self> {
        let views = Views::new(p, None)?;
        let axes = views.batch.len();
        let a_zero = op.a_zero.then_some(2);
        let b_zero = op.b_zero.then_some(2 + usize::from(op.a_zero));
        // Steps of zero points over the output's axes: one, one per row (m,) or column (n,), or with leading axes.
        let zero_steps = |i: Option<usize>, axis: usize| {
            let mut steps = vec![0; axes + 2];
            if let Some(l) = i.map(|i| &p.inputs[i].layout).filter(|l| l.shape.len() > 1) {
                let r = l.shape.rank();
                if r == 1 {
                    steps[axes + axis] = l.strides[0];
                } else {
                    for a in (0..r).filter(|&a| l.shape[a] > 1) {
                        steps[axes + 2 - r + a] = l.strides[a];
                    }
                }
            }
            steps
        };
        let (za, zb) = (zero_steps(a_zero, 0), zero_steps(b_zero, 1));
        Ok(Self {
            m: views.m,
            n: views.n,
            k: views.k,
            a_dtype: p.inputs[0].dtype,
            b_dtype: p.inputs[1].dtype,
            a: steps(&views.a),
            b: steps(&views.b),
            a_zero: a_zero.map(|i| (i, za[axes])),
            b_zero: b_zero.map(|i| (i, zb[axes + 1])),
            batch: Batch::new(
                &views.batch,
                [&views.a.strides[..axes], &views.b.strides[..axes], &za[..axes], &zb[..axes]],
            ),
        })
    }
}

/// Pointers that tasks share.
struct Shared {
    a: *const u8,
    a_zero: Option<*const u8>,
    b: *const i32,
    c: *mut i32,
}

// SAFETY: tasks write disjoint rows of the result and read all else.
unsafe impl Sync for Shared {}

impl Kernel for IntegerMatMul {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let (m, n, k) = (self.m, self.n, self.k);
        for g in 0..self.batch.len() {
            let [a_at, b_at, za_at, zb_at] = self.batch.offsets(g);
            // SAFETY: offsets are inside the operands, for which the caller vouches; scratch holds `k * n` i32.
            let shared = unsafe {
                let to = args.scratch.cast::<i32>();
                let from = args.inputs[1].offset(b_at);
                for p in 0..k {
                    for j in 0..n {
                        let zero = self.b_zero.map_or(0, |(i, step)| {
                            read(self.b_dtype, args.inputs[i], zb_at + j as isize * step)
                        });
                        let at = p as isize * self.b.0 + j as isize * self.b.1;
                        *to.add(p * n + j) = read(self.b_dtype, from, at) - zero;
                    }
                }
                Shared {
                    a: args.inputs[0].offset(a_at),
                    a_zero: self.a_zero.map(|(i, _)| args.inputs[i].offset(za_at)),
                    b: to,
                    c: args.outputs[0].cast::<i32>().add(g * m * n),
                }
            };
            let step = m.div_ceil(32).max(1);
            let shared = &shared;
            args.team.run(m.div_ceil(step), m * n * k, &|t| {
                let s: &Shared = shared;
                let mut row = vec![0i32; k];
                for i in t * step..((t + 1) * step).min(m) {
                    // SAFETY: positions are inside the operands; these rows are this task's alone.
                    unsafe {
                        let zero = s.a_zero.map_or(0, |z| {
                            read(self.a_dtype, z, i as isize * self.a_zero.map_or(0, |(_, step)| step))
                        });
                        for (p, x) in row.iter_mut().enumerate() {
                            let at = i as isize * self.a.0 + p as isize * self.a.1;
                            *x = read(self.a_dtype, s.a, at) - zero;
                        }
                        let c = std::slice::from_raw_parts_mut(s.c.add(i * n), n);
                        c.fill(0);
                        add_rows(&row, std::slice::from_raw_parts(s.b, k * n), n, c);
                    }
                }
            });
        }
        Ok(())
    }

    fn scratch_bytes(&self) -> usize {
        self.k * self.n * 4
    }

    fn describe(&self) -> String {
        format!(
            "{} x {}x{}x{} {} by {} in int32",
            self.batch.len(),
            self.m,
            self.n,
            self.k,
            self.a_dtype,
            self.b_dtype
        )
    }

    fn work(&self) -> usize {
        self.batch.len().saturating_mul(self.m).saturating_mul(self.n).saturating_mul(self.k)
    }
}
