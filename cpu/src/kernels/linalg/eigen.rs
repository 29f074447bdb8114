//! Eigenvalues of symmetric matrices and singular values.
//!
//! Eigenvalues: Householder reduction to tridiagonal form, then QL with implicit shifts (Golub and Van Loan, "Matrix Computations", 8.3).
//! Singular values: QR, then one-sided Jacobi rotations (Hestenes, 1958; Demmel and Veselic, "Jacobi's method is more accurate than QR", 1992).

use super::Matrix;
use super::decompose::{axpy, dot, qr, scaled_norm};
use crate::simd::multiversion;

multiversion! {
    /// `(x, y) = (c x - s y, s x + c y)`.
    fn rotate(c: f64, s: f64, x: &mut [f64], y: &mut [f64]) {
        for (x, y) in x.iter_mut().zip(y) {
            let (a, b) = (*x, *y);
            *x = c * a - s * b;
            *y = s * a + c * b;
        }
    }
}

/// Eigenvalues, ascending, and eigenvectors as columns, from the lower triangle. `None` if it does not converge.
pub(super) fn eigh(mut a: Matrix) -> Option<(Vec<f64>, Matrix)> {
    let n = a.rows;
    if n == 0 {
        return Some((Vec::new(), a));
    }
    for i in 0..n {
        for j in i + 1..n {
            a[(i, j)] = a[(j, i)];
        }
    }
    // Into a range where squares neither overflow nor vanish.
    let top = a.data.iter().fold(0.0f64, |t, v| t.max(v.abs()));
    if top == 0.0 {
        return Some((vec![0.0; n], Matrix::identity(n)));
    }
    for v in &mut a.data {
        *v /= top;
    }
    let (mut diagonal, mut off, mut vectors) = tridiagonal(a);
    ql(&mut diagonal, &mut off, &mut vectors)?;
    // `vectors` holds them as rows.
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| diagonal[i].total_cmp(&diagonal[j]));
    let mut sorted = Matrix::zeros(n, n);
    for (to, &from) in order.iter().enumerate() {
        for k in 0..n {
            sorted[(k, to)] = vectors[(from, k)];
        }
    }
    Some((order.iter().map(|&i| diagonal[i] * top).collect(), sorted))
}

/// `a = q t q^T` with `t` tridiagonal: its diagonal, its off-diagonal, and `q^T`.
fn tridiagonal(mut a: Matrix) -> (Vec<f64>, Vec<f64>, Matrix) {
    let n = a.rows;
    let mut off = vec![0.0; n];
    let mut reflections: Vec<(Vec<f64>, f64)> = Vec::with_capacity(n);
    for k in 0..n.saturating_sub(2) {
        // Reflect column k below the diagonal onto its first entry.
        let mut v: Vec<f64> = (k + 1..n).map(|i| a[(i, k)]).collect();
        let tail = scaled_norm(&v[1..]);
        if tail == 0.0 {
            off[k] = v[0];
            reflections.push((v, 0.0));
            continue;
        }
        let norm = v[0].hypot(tail);
        let beta = if v[0] > 0.0 { -norm } else { norm };
        let factor = (beta - v[0]) / beta;
        let scale = v[0] - beta;
        for x in &mut v[1..] {
            *x /= scale;
        }
        v[0] = 1.0;
        off[k] = beta;
        // a = (1 - f v v^T) a (1 - f v v^T) on the rest: p = f a v, w = p - (f p.v / 2) v, a -= v w^T + w v^T.
        let mut w: Vec<f64> = (k + 1..n).map(|i| factor * dot(&a.row(i)[k + 1..], &v)).collect();
        let half = -0.5 * factor * dot(&w, &v);
        axpy(half, &v, &mut w);
        for i in k + 1..n {
            let (vi, wi) = (v[i - k - 1], w[i - k - 1]);
            let row = &mut a.row_mut(i)[k + 1..];
            axpy(-vi, &w, row);
            axpy(-wi, &v, row);
        }
        reflections.push((v, factor));
    }
    if n >= 2 {
        off[n - 2] = a[(n - 1, n - 2)];
    }
    let diagonal = (0..n).map(|i| a[(i, i)]).collect();
    // q = h_0 h_1 ...; rows of q^T are columns of q.
    let mut qt = Matrix::identity(n);
    for (k, (v, factor)) in reflections.iter().enumerate().rev().filter(|(_, r)| r.1 != 0.0) {
        for i in k + 1..n {
            let row = &mut qt.row_mut(i)[k + 1..];
            let w = factor * dot(row, v);
            axpy(-w, v, row);
        }
    }
    (diagonal, off, qt)
}

/// QL with implicit shifts; rotates the rows of `vectors` along.
fn ql(d: &mut [f64], e: &mut [f64], vectors: &mut Matrix) -> Option<()> {
    let n = d.len();
    for l in 0..n {
        for iteration in 0.. {
            // The first negligible off-diagonal entry from l on.
            let m = (l..n - 1)
                .find(|&m| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs()))
                .unwrap_or(n - 1);
            if m == l {
                break;
            }
            if iteration == 60 {
                return None;
            }
            // Wilkinson's shift.
            let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut r = g.hypot(1.0);
            g = d[m] - d[l] + e[l] / (g + r.copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut early = false;
            for i in (l..m).rev() {
                let f = s * e[i];
                let b = c * e[i];
                r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    early = true;
                    break;
                }
                s = f / r;
                c = g / r;
                g = d[i + 1] - p;
                r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                let (lower, upper) = vectors.two_rows(i, i + 1);
                rotate(c, s, lower, upper);
            }
            if early {
                continue;
            }
            d[l] -= p;
            e[l] = g;
            e[m] = 0.0;
        }
    }
    Some(())
}

/// Thin `u` (m, k), `s` descending, `vt` (k, n) with `a = u diag(s) vt`. `None` if it does not converge.
pub(super) fn svd(a: Matrix) -> Option<(Matrix, Vec<f64>, Matrix)> {
    if a.rows < a.columns {
        let (u, s, vt) = svd(a.transposed())?;
        return Some((vt.transposed(), s, u.transposed()));
    }
    let n = a.columns;
    if n == 0 {
        return Some((Matrix::zeros(a.rows, 0), Vec::new(), Matrix::zeros(0, 0)));
    }
    let mut a = a;
    let top = a.data.iter().fold(0.0f64, |t, v| t.max(v.abs()));
    if top > 0.0 {
        for v in &mut a.data {
            *v /= top;
        }
    }
    let (q, r) = qr(a);
    // Rotate the columns of r (rows of its transpose) until all are orthogonal: r v = w, w's columns are u times s.
    let mut w = r.transposed();
    let mut v = Matrix::identity(n);
    let mut done = false;
    for _sweep in 0..60 {
        let mut rotated = false;
        for i in 0..n - 1 {
            for j in i + 1..n {
                let (x, y) = w.two_rows(i, j);
                let (xx, yy, xy) = (dot(x, x), dot(y, y), dot(x, y));
                if xy == 0.0 || xy.abs() <= f64::EPSILON * (xx * yy).sqrt() {
                    continue;
                }
                rotated = true;
                let zeta = (yy - xx) / (2.0 * xy);
                let t = 1.0f64.copysign(zeta) / (zeta.abs() + zeta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                rotate(c, c * t, x, y);
                let (x, y) = v.two_rows(i, j);
                rotate(c, c * t, x, y);
            }
        }
        if !rotated {
            done = true;
            break;
        }
    }
    if !done {
        return None;
    }
    let norms: Vec<f64> = (0..n).map(|i| scaled_norm(w.row(i))).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| norms[j].total_cmp(&norms[i]));
    let mut vt = Matrix::zeros(n, n);
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(n);
    let greatest = norms[order[0]];
    for (to, &from) in order.iter().enumerate() {
        vt.row_mut(to).copy_from_slice(v.row(from));
        let column = if norms[from] > greatest * f64::EPSILON * n as f64 {
            w.row(from).iter().map(|x| x / norms[from]).collect()
        } else {
            // A null direction: any unit vector orthogonal to the others.
            complement(&basis, n)
        };
        basis.push(column);
    }
    // u = q times the basis.
    let mut u = Matrix::zeros(q.rows, n);
    for i in 0..q.rows {
        for (j, column) in basis.iter().enumerate() {
            u[(i, j)] = dot(q.row(i), column);
        }
    }
    Some((u, order.iter().map(|&i| norms[i] * top).collect(), vt))
}

/// A unit vector orthogonal to `basis` (orthonormal, fewer than `n` vectors): the unit vector that keeps most when the basis is taken off, twice.
fn complement(basis: &[Vec<f64>], n: usize) -> Vec<f64> {
    let taken = |axis: usize| basis.iter().map(|b| b[axis] * b[axis]).sum::<f64>();
    let axis = (0..n).min_by(|&a, &b| taken(a).total_cmp(&taken(b))).unwrap_or(0);
    let mut x = vec![0.0; n];
    x[axis] = 1.0;
    for _ in 0..2 {
        for b in basis {
            let along = dot(&x, b);
            axpy(-along, b, &mut x);
        }
    }
    let norm = scaled_norm(&x);
    for v in &mut x {
        *v /= norm;
    }
    x
}
