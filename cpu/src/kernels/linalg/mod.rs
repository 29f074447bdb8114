//! Dense linear algebra, a matrix of the batch at a time, computed in double precision.

mod decompose;
mod eigen;

use streampool_core::op::{DType, Linalg};
use streampool_core::{Error, Result};

use super::{SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};
use decompose::{Lu, cholesky, qr};
use eigen::{eigh, svd};

/// A row-major matrix.
#[derive(Clone)]
struct Matrix {
    rows: usize,
    columns: usize,
    data: Vec<f64>,
}

impl Matrix {
    fn zeros(rows: usize, columns: usize) -> Self {
        Self { rows, columns, data: vec![0.0; rows * columns] }
    }

    fn identity(n: usize) -> Self {
        let mut m = Self::zeros(n, n);
        for i in 0..n {
            m[(i, i)] = 1.0;
        }
        m
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.columns..][..self.columns]
    }

    fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.data[i * self.columns..][..self.columns]
    }

    /// Rows `i < j` at once.
    fn two_rows(&mut self, i: usize, j: usize) -> (&mut [f64], &mut [f64]) {
        let (head, tail) = self.data.split_at_mut(j * self.columns);
        (&mut head[i * self.columns..][..self.columns], &mut tail[..self.columns])
    }

    fn transposed(&self) -> Self {
        let mut t = Self::zeros(self.columns, self.rows);
        for i in 0..self.rows {
            for j in 0..self.columns {
                t[(j, i)] = self[(i, j)];
            }
        }
        t
    }

    fn is_finite(&self) -> bool {
        self.data.iter().all(|x| x.is_finite())
    }
}

impl std::ops::Index<(usize, usize)> for Matrix {
    type Output = f64;
    fn index(&self, (i, j): (usize, usize)) -> &f64 {
        &self.data[i * self.columns + j]
    }
}

impl std::ops::IndexMut<(usize, usize)> for Matrix {
    fn index_mut(&mut self, (i, j): (usize, usize)) -> &mut f64 {
        &mut self.data[i * self.columns + j]
    }
}

struct LinalgKernel {
    op: Linalg,
    dtype: DType,
    batch: usize,
    rows: usize,
    columns: usize,
    /// Columns of the right-hand side.
    right: usize,
}

pub(crate) fn prepare(op: Linalg, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let a = &p.inputs[0].layout.shape;
    let rank = a.rank();
    Box::new(LinalgKernel {
        op,
        dtype: p.inputs[0].dtype,
        batch: a[..rank - 2].iter().product(),
        rows: a[rank - 2],
        columns: a[rank - 1],
        right: p.inputs.get(1).map_or(0, |b| b.layout.shape[rank - 1]),
    })
}

impl LinalgKernel {
    /// # Safety
    /// `first` is an operand of at least `(entry + 1) * rows * columns` elements.
    unsafe fn read(&self, first: *const u8, entry: usize, rows: usize, columns: usize) -> Matrix {
        let n = rows * columns;
        // SAFETY: passed on from the caller.
        let data = unsafe {
            match self.dtype {
                DType::F32 => {
                    (0..n).map(|i| f64::from(first.cast::<f32>().add(entry * n + i).read())).collect()
                }
                _ => (0..n).map(|i| first.cast::<f64>().add(entry * n + i).read()).collect(),
            }
        };
        Matrix { rows, columns, data }
    }

    /// # Safety
    /// `first` is an operand of at least `(entry + 1) * data.len()` elements.
    unsafe fn write(&self, first: *mut u8, entry: usize, data: &[f64]) {
        for (i, &x) in data.iter().enumerate() {
            // SAFETY: passed on from the caller.
            unsafe {
                match self.dtype {
                    DType::F32 => first.cast::<f32>().add(entry * data.len() + i).write(x as f32),
                    _ => first.cast::<f64>().add(entry * data.len() + i).write(x),
                }
            }
        }
    }

    fn wrong(&self, entry: usize, what: &str) -> Error {
        use streampool_core::op::Op;
        let name = Op::Linalg(self.op).name();
        Error::invalid_argument(format!("{name}: matrix {entry} of the batch {what}"))
    }

    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn one(
        &self,
        a: *const u8,
        b: Option<*const u8>,
        outputs: [*mut u8; 3],
        entry: usize,
    ) -> Result<()> {
        // SAFETY: operands have `batch` matrices of the shapes that inference gave.
        unsafe {
            let a = self.read(a, entry, self.rows, self.columns);
            match self.op {
                Linalg::Cholesky => {
                    let l = cholesky(a).ok_or_else(|| self.wrong(entry, "is not positive definite"))?;
                    self.write(outputs[0], entry, &l.data);
                }
                Linalg::Qr => {
                    let (q, r) = qr(a);
                    self.write(outputs[0], entry, &q.data);
                    self.write(outputs[1], entry, &r.data);
                }
                Linalg::Svd | Linalg::Eigh if !a.is_finite() => {
                    return Err(self.wrong(entry, "has an entry that is infinite or NaN"));
                }
                Linalg::Svd => {
                    let (u, s, vt) = svd(a).ok_or_else(|| self.wrong(entry, "did not converge"))?;
                    self.write(outputs[0], entry, &u.data);
                    self.write(outputs[1], entry, &s);
                    self.write(outputs[2], entry, &vt.data);
                }
                Linalg::Eigh => {
                    let (values, vectors) = eigh(a).ok_or_else(|| self.wrong(entry, "did not converge"))?;
                    self.write(outputs[0], entry, &values);
                    self.write(outputs[1], entry, &vectors.data);
                }
                Linalg::Det => {
                    let determinant = Lu::new(a).determinant();
                    self.write(outputs[0], entry, &[determinant]);
                }
                Linalg::Solve | Linalg::Inv => {
                    let right = match b {
                        Some(b) => self.read(b, entry, self.rows, self.right),
                        None => Matrix::identity(self.rows),
                    };
                    let lu = Lu::new(a);
                    if lu.is_singular() {
                        return Err(self.wrong(entry, "is singular"));
                    }
                    self.write(outputs[0], entry, &lu.solve(right).data);
                }
            }
        }
        Ok(())
    }
}

impl Kernel for LinalgKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let a = SharedMut(args.inputs[0].cast_mut());
        let b = args.inputs.get(1).map(|p| SharedMut(p.cast_mut()));
        let out = |i: usize| SharedMut(args.outputs.get(i).copied().unwrap_or(std::ptr::null_mut()));
        let outputs = [out(0), out(1), out(2)];
        split::try_run(args.team, self.batch, self.work(), |entries| {
            for entry in entries {
                let outputs = [outputs[0].get(), outputs[1].get(), outputs[2].get()];
                let b = b.as_ref().map(|b| b.get().cast_const());
                // SAFETY: passed on from the caller; each part writes matrices of its own.
                unsafe { self.one(a.get(), b, outputs, entry)? };
            }
            Ok(())
        })
    }

    fn describe(&self) -> String {
        format!(
            "{:?} of {} matrices {} x {}, in double precision",
            self.op, self.batch, self.rows, self.columns
        )
    }

    fn work(&self) -> usize {
        self.batch * self.rows * self.columns * self.rows.min(self.columns).max(1)
    }
}
