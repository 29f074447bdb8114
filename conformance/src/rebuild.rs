//! Decompositions whose factors are not unique: judged by what defines them.

use streampool_core::op::{HostTensor, Linalg};

/// A matrix of a batch, in rows.
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f64>,
}

impl Matrix {
    fn of(t: &HostTensor, from: usize, rows: usize, columns: usize) -> Self {
        Self { rows, columns, values: (from..from + rows * columns).map(|i| t.get(i).to_f64()).collect() }
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.columns + j]
    }

    /// Whether columns are of length 1 and at right angles to each other.
    fn is_orthonormal(&self, tolerance: f64, what: &str) -> Result<(), String> {
        for a in 0..self.columns {
            for b in 0..=a {
                let dot: f64 = (0..self.rows).map(|i| self.at(i, a) * self.at(i, b)).sum();
                let want = f64::from(a == b);
                if (dot - want).abs().partial_cmp(&tolerance) != Some(std::cmp::Ordering::Less) {
                    return Err(format!("{what}: columns {a} and {b} have the product {dot}"));
                }
            }
        }
        Ok(())
    }
}

/// Judges each matrix of a batch. `expected` only counts where results are unique: singular values, eigenvalues.
pub(crate) fn judge(
    op: Linalg,
    a: &HostTensor,
    expected: &[HostTensor],
    got: &[HostTensor],
    tolerance: f64,
) -> Result<(), String> {
    let shape = &a.ty().shape;
    let rank = shape.rank();
    let (m, n) = (shape[rank - 2], shape[rank - 1]);
    let (batch, k) = (shape[..rank - 2].iter().product::<usize>(), m.min(n));
    // Errors of a product grow with its terms.
    let tolerance = tolerance * (m.max(n).max(1) as f64).sqrt() * 4.0;
    for b in 0..batch {
        let original = Matrix::of(a, b * m * n, m, n);
        let size = original.values.iter().map(|x| x * x).sum::<f64>().sqrt();
        let (left, right) = match op {
            Linalg::Qr => {
                let r = Matrix::of(&got[1], b * k * n, k, n);
                for i in 0..k {
                    if (0..i).any(|j| r.at(i, j) != 0.0) || r.at(i, i) < 0.0 {
                        return Err(format!("row {i} of r is {:?}", &r.values[i * n..][..n]));
                    }
                }
                (Matrix::of(&got[0], b * m * k, m, k), r)
            }
            Linalg::Svd => {
                let (u, mut vt) =
                    (Matrix::of(&got[0], b * m * k, m, k), Matrix::of(&got[2], b * k * n, k, n));
                let v = Matrix {
                    rows: n,
                    columns: k,
                    values: (0..n * k).map(|e| vt.at(e % k.max(1), e / k.max(1))).collect(),
                };
                v.is_orthonormal(tolerance, "v")?;
                values(&got[1], &expected[1], b * k, k, size * tolerance, true)?;
                for i in 0..k {
                    let s = got[1].get(b * k + i).to_f64();
                    vt.values[i * n..][..n].iter_mut().for_each(|x| *x *= s);
                }
                (u, vt)
            }
            _ => {
                let vectors = Matrix::of(&got[1], b * n * n, n, n);
                values(&got[0], &expected[0], b * n, n, size * tolerance, false)?;
                let scaled = (0..n * n)
                    .map(|e| got[0].get(b * n + e / n).to_f64() * vectors.at(e % n, e / n))
                    .collect();
                (vectors, Matrix { rows: n, columns: n, values: scaled })
            }
        };
        left.is_orthonormal(tolerance, "the left factor")?;
        let mut error = 0.0;
        for i in 0..m {
            for j in 0..n {
                // Of a symmetric matrix the lower triangle speaks for both.
                let want = if op == Linalg::Eigh && j > i { original.at(j, i) } else { original.at(i, j) };
                let product: f64 = (0..k).map(|l| left.at(i, l) * right.at(l, j)).sum();
                error += (product - want) * (product - want);
            }
        }
        let error: f64 = error.sqrt();
        if error.is_nan() || error > size.max(f64::MIN_POSITIVE) * tolerance {
            return Err(format!(
                "matrix {b} is rebuilt with an error of {error:.2e}, its size is {size:.2e}"
            ));
        }
    }
    Ok(())
}

fn values(
    got: &HostTensor,
    expected: &HostTensor,
    from: usize,
    count: usize,
    tolerance: f64,
    descending: bool,
) -> Result<(), String> {
    let mut last = None;
    for i in from..from + count {
        let (x, y) = (expected.get(i).to_f64(), got.get(i).to_f64());
        if (x - y).abs() > tolerance || y.is_nan() {
            return Err(format!("value {} is {y}, should be {x}", i - from));
        }
        let ordered = last.is_none_or(|l| if descending { y <= l && y >= 0.0 } else { y >= l });
        if !ordered {
            return Err(format!("value {} is {y} after {last:?}", i - from));
        }
        last = Some(y);
    }
    Ok(())
}
