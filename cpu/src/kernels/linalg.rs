//! Dense linear algebra, a matrix of the batch at a time, computed in double precision by nalgebra.

use nalgebra::DMatrix;
use streampool_core::op::{DType, Linalg};
use streampool_core::{Error, Result};

use super::{SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};

/// Sweeps after which an iterative decomposition gives up; a few per row are usual.
const SWEEPS: usize = 10_000;

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
    unsafe fn read(&self, first: *const u8, entry: usize, rows: usize, columns: usize) -> DMatrix<f64> {
        DMatrix::from_fn(rows, columns, |i, j| {
            let at = (entry * rows + i) * columns + j;
            // SAFETY: passed on from the caller.
            unsafe {
                match self.dtype {
                    DType::F32 => f64::from(first.cast::<f32>().add(at).read()),
                    _ => first.cast::<f64>().add(at).read(),
                }
            }
        })
    }

    /// # Safety
    /// `first` is an operand of at least `(entry + 1)` matrices of that size.
    unsafe fn write(&self, first: *mut u8, entry: usize, matrix: &DMatrix<f64>) {
        // nalgebra stores columns one after another, operands have rows so.
        for (i, &x) in matrix.transpose().iter().enumerate() {
            let at = entry * matrix.len() + i;
            // SAFETY: passed on from the caller.
            unsafe {
                match self.dtype {
                    DType::F32 => first.cast::<f32>().add(at).write(x as f32),
                    _ => first.cast::<f64>().add(at).write(x),
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
            if a.is_empty() {
                // Every result is empty too, but for the determinant: that of no rows is 1.
                if self.op == Linalg::Det {
                    self.write(outputs[0], entry, &DMatrix::from_element(1, 1, 1.0));
                }
                return Ok(());
            }
            match self.op {
                Linalg::Cholesky => {
                    let l = a.cholesky().ok_or_else(|| self.wrong(entry, "is not positive definite"))?;
                    self.write(outputs[0], entry, &l.l());
                }
                Linalg::Qr => {
                    let qr = a.qr();
                    self.write(outputs[0], entry, &qr.q());
                    self.write(outputs[1], entry, &qr.r());
                }
                Linalg::Svd | Linalg::Eigh if !a.iter().all(|x| x.is_finite()) => {
                    return Err(self.wrong(entry, "has an entry that is infinite or NaN"));
                }
                Linalg::Svd => {
                    let svd = a.try_svd(true, true, f64::EPSILON, SWEEPS);
                    let Some((u, s, vt)) = svd.and_then(|d| Some((d.u?, d.singular_values, d.v_t?))) else {
                        return Err(self.wrong(entry, "did not converge"));
                    };
                    self.write(outputs[0], entry, &u);
                    self.write(outputs[1], entry, &DMatrix::from_column_slice(1, s.len(), s.as_slice()));
                    self.write(outputs[2], entry, &vt);
                }
                Linalg::Eigh => {
                    let eigen = a
                        .try_symmetric_eigen(f64::EPSILON, SWEEPS)
                        .ok_or_else(|| self.wrong(entry, "did not converge"))?;
                    let mut order: Vec<usize> = (0..self.rows).collect();
                    order.sort_by(|&i, &j| eigen.eigenvalues[i].total_cmp(&eigen.eigenvalues[j]));
                    let values = DMatrix::from_fn(1, self.rows, |_, j| eigen.eigenvalues[order[j]]);
                    let vectors = eigen.eigenvectors.select_columns(&order);
                    self.write(outputs[0], entry, &values);
                    self.write(outputs[1], entry, &vectors);
                }
                Linalg::Det => {
                    self.write(outputs[0], entry, &DMatrix::from_element(1, 1, a.lu().determinant()));
                }
                Linalg::Solve | Linalg::Inv => {
                    let right = match b {
                        Some(b) => self.read(b, entry, self.rows, self.right),
                        None => DMatrix::identity(self.rows, self.rows),
                    };
                    let x = a.lu().solve(&right).ok_or_else(|| self.wrong(entry, "is singular"))?;
                    self.write(outputs[0], entry, &x);
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
