//! Cholesky, LU and QR. Algorithms as in Golub and Van Loan, "Matrix Computations", 4th edition: 4.2 (Cholesky), 3.4 (LU with partial pivoting),
//! 5.2 (QR by Householder reflections).

use super::Matrix;
use crate::simd::multiversion;

multiversion! {
    /// `y += a x`.
    pub(super) fn axpy(a: f64, x: &[f64], y: &mut [f64]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += a * x;
        }
    }

    /// The scalar product, in one fixed order.
    pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
        let mut acc = [0.0f64; 8];
        let (mut xs, mut ys) = (x.chunks_exact(8), y.chunks_exact(8));
        for (x, y) in (&mut xs).zip(&mut ys) {
            let mut i = 0;
            while i < 8 {
                acc[i] += x[i] * y[i];
                i += 1;
            }
        }
        for ((a, &x), &y) in acc.iter_mut().zip(xs.remainder()).zip(ys.remainder()) {
            *a += x * y;
        }
        (acc[0] + acc[4]) + (acc[1] + acc[5]) + ((acc[2] + acc[6]) + (acc[3] + acc[7]))
    }
}

/// The lower triangle `l` with `a = l l^T`, from `a`'s lower triangle; `None` if `a` is not positive definite.
pub(super) fn cholesky(mut a: Matrix) -> Option<Matrix> {
    let n = a.rows;
    for i in 0..n {
        for j in 0..i {
            let (rj, ri) = a.two_rows(j, i);
            ri[j] = (ri[j] - dot(&ri[..j], &rj[..j])) / rj[j];
        }
        let ri = a.row_mut(i);
        let pivot = ri[i] - dot(&ri[..i], &ri[..i]);
        // Written so that NaN fails too.
        if !(pivot > 0.0 && pivot < f64::INFINITY) {
            return None;
        }
        ri[i] = pivot.sqrt();
        ri[i + 1..].fill(0.0);
    }
    Some(a)
}

/// `p a = l u`, the triangles in one matrix.
pub(super) struct Lu {
    lu: Matrix,
    order: Vec<usize>,
    odd: bool,
}

impl Lu {
    pub(super) fn new(mut a: Matrix) -> Self {
        let n = a.rows;
        let mut order: Vec<usize> = (0..n).collect();
        let mut odd = false;
        for k in 0..n {
            let mut pivot = k;
            for i in k + 1..n {
                if a[(i, k)].abs() > a[(pivot, k)].abs() {
                    pivot = i;
                }
            }
            if pivot != k {
                let (x, y) = a.two_rows(k, pivot);
                x.swap_with_slice(y);
                order.swap(k, pivot);
                odd = !odd;
            }
            if a[(k, k)] == 0.0 {
                continue;
            }
            for i in k + 1..n {
                let (rk, ri) = a.two_rows(k, i);
                let factor = ri[k] / rk[k];
                ri[k] = factor;
                if factor != 0.0 {
                    axpy(-factor, &rk[k + 1..], &mut ri[k + 1..]);
                }
            }
        }
        Self { lu: a, order, odd }
    }

    pub(super) fn is_singular(&self) -> bool {
        (0..self.lu.rows).any(|i| self.lu[(i, i)] == 0.0)
    }

    pub(super) fn determinant(&self) -> f64 {
        let product: f64 = (0..self.lu.rows).map(|i| self.lu[(i, i)]).product();
        if self.odd { -product } else { product }
    }

    /// `x` with `a x = b`; `a` is not singular.
    pub(super) fn solve(&self, b: Matrix) -> Matrix {
        let n = self.lu.rows;
        let mut x = Matrix::zeros(n, b.columns);
        for (i, &from) in self.order.iter().enumerate() {
            x.row_mut(i).copy_from_slice(b.row(from));
        }
        for i in 0..n {
            for k in 0..i {
                let (xk, xi) = x.two_rows(k, i);
                axpy(-self.lu[(i, k)], xk, xi);
            }
        }
        for i in (0..n).rev() {
            for k in i + 1..n {
                let (xi, xk) = x.two_rows(i, k);
                axpy(-self.lu[(i, k)], xk, xi);
            }
            let pivot = self.lu[(i, i)];
            for v in x.row_mut(i) {
                *v /= pivot;
            }
        }
        x
    }
}

/// Thin `q` (m, k) and `r` (k, n) with `a = q r`, `k = min(m, n)`. Signs as LAPACK's: the diagonal of `r` has the opposite sign of the column's first entry.
pub(super) fn qr(a: Matrix) -> (Matrix, Matrix) {
    let (m, n) = (a.rows, a.columns);
    let k = m.min(n);
    // Columns as rows, so that reflections run along memory.
    let mut c = a.transposed();
    let mut factors = vec![0.0; k];
    let mut diagonal = vec![0.0; k];
    for j in 0..k {
        let x = &mut c.row_mut(j)[j..];
        let tail = scaled_norm(&x[1..]);
        diagonal[j] = x[0];
        if tail == 0.0 {
            continue;
        }
        let norm = x[0].hypot(tail);
        let beta = if x[0] > 0.0 { -norm } else { norm };
        factors[j] = (beta - x[0]) / beta;
        let scale = x[0] - beta;
        for v in &mut x[1..] {
            *v /= scale;
        }
        x[0] = 1.0;
        diagonal[j] = beta;
        for l in j + 1..n {
            let (v, y) = c.two_rows(j, l);
            let w = factors[j] * dot(&v[j..], &y[j..]);
            axpy(-w, &v[j..], &mut y[j..]);
        }
    }
    let mut r = Matrix::zeros(k, n);
    for j in 0..n {
        for i in 0..k.min(j + 1) {
            r[(i, j)] = if i == j { diagonal[i] } else { c[(j, i)] };
        }
    }
    // Columns of q as rows: the reflections applied to unit vectors, last first.
    let mut q = Matrix::zeros(k, m);
    for j in 0..k {
        q[(j, j)] = 1.0;
    }
    for j in (0..k).rev().filter(|&j| factors[j] != 0.0) {
        for l in j..k {
            let v = &c.row(j)[j..];
            let y = &mut q.row_mut(l)[j..];
            let w = factors[j] * dot(v, y);
            axpy(-w, v, y);
        }
    }
    (q.transposed(), r)
}

/// The Euclidean norm without overflow.
pub(super) fn scaled_norm(x: &[f64]) -> f64 {
    let top = x.iter().fold(0.0f64, |a, &v| a.max(v.abs()));
    if top == 0.0 || !top.is_finite() {
        return top;
    }
    if (1e-100..1e100).contains(&top) {
        return dot(x, x).sqrt();
    }
    x.iter().map(|v| (v / top) * (v / top)).sum::<f64>().sqrt() * top
}
