use streampool_core::op::*;

use crate::common::*;

type M = Vec<Vec<f64>>;

/// Matrix `b` of a batch.
fn matrix(t: &HostTensor, b: usize) -> M {
    let rank = t.ty().shape.rank();
    let (m, n) = (t.ty().shape[rank - 2], t.ty().shape[rank - 1]);
    (0..m).map(|i| (0..n).map(|j| t.get((b * m + i) * n + j).to_f64()).collect()).collect()
}

fn mul(a: &M, b: &M) -> M {
    a.iter()
        .map(|row| {
            (0..b.first().map_or(0, Vec::len))
                .map(|j| row.iter().zip(b).map(|(x, r)| x * r[j]).sum())
                .collect()
        })
        .collect()
}

fn transposed(a: &M) -> M {
    (0..a.first().map_or(0, Vec::len)).map(|j| a.iter().map(|r| r[j]).collect()).collect()
}

#[track_caller]
fn near(a: &M, b: &M, tolerance: f64, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let size = b.iter().flatten().fold(1.0f64, |t, x| t.max(x.abs()));
    for (x, y) in a.iter().flatten().zip(b.iter().flatten()) {
        assert!((x - y).abs() <= tolerance * size, "{what}: {x} {y}");
    }
}

#[track_caller]
fn orthonormal_columns(q: &M, tolerance: f64, what: &str) {
    let gram = mul(&transposed(q), q);
    for (i, row) in gram.iter().enumerate() {
        for (j, &x) in row.iter().enumerate() {
            let want = f64::from(i == j);
            assert!((x - want).abs() <= tolerance, "{what}: {i} {j} {x}");
        }
    }
}

fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F32 { 2e-6 } else { 1e-13 }
}

#[test]
fn decompositions_rebuild_their_matrix() {
    let mut rng = Rng::new(51);
    for dtype in [DType::F32, DType::F64] {
        let t = tolerance(dtype);
        for (m, n) in [(1, 1), (2, 2), (5, 3), (3, 5), (17, 17), (64, 64), (40, 9), (0, 0), (3, 0), (0, 3)] {
            let batch = 3;
            let a = rng.tensor(dtype, &[batch, m, n], 2.0);
            let k = m.min(n);
            let (q, s) = (eval(Linalg::Qr, &[&a]), eval(Linalg::Svd, &[&a]));
            for b in 0..batch {
                let original = matrix(&a, b);
                if k == 0 {
                    continue;
                }
                let (qq, r) = (matrix(&q[0], b), matrix(&q[1], b));
                near(&mul(&qq, &r), &original, t * 10.0, "qr");
                orthonormal_columns(&qq, t * 10.0, "q");
                for (i, row) in r.iter().enumerate() {
                    assert!(row[..i.min(n)].iter().all(|&x| x == 0.0), "r is not triangular");
                }
                let (u, vt) = (matrix(&s[0], b), matrix(&s[2], b));
                let values: Vec<f64> = (0..k).map(|i| s[1].get(b * k + i).to_f64()).collect();
                assert!(values.is_sorted_by(|a, b| a >= b) && values.iter().all(|&x| x >= 0.0));
                let scaled: M =
                    u.iter().map(|r| r.iter().zip(&values).map(|(x, s)| x * s).collect()).collect();
                near(&mul(&scaled, &vt), &original, t * 10.0, "svd");
                orthonormal_columns(&u, t * 10.0, "u");
                orthonormal_columns(&transposed(&vt), t * 10.0, "v");
            }
            if m != n || m == 0 {
                continue;
            }
            // Symmetric, and positive definite.
            let square = matrix(&a, 0);
            let gram = mul(&square, &transposed(&square));
            let flat: Vec<f64> = gram
                .iter()
                .enumerate()
                .flat_map(|(i, r)| r.iter().enumerate().map(move |(j, x)| x + f64::from(i == j)))
                .collect();
            let spd = HostTensor::from_vec([n, n], flat).unwrap();
            let spd = eval(Map::cast(dtype), &[&spd]).remove(0);
            let original = matrix(&spd, 0);
            let l = matrix(&eval(Linalg::Cholesky, &[&spd])[0], 0);
            near(&mul(&l, &transposed(&l)), &original, t * 10.0, "cholesky");
            for (i, row) in l.iter().enumerate() {
                assert!(row[i + 1..].iter().all(|&x| x == 0.0), "l is not triangular");
            }
            let e = eval(Linalg::Eigh, &[&spd]);
            let values = reals(&e[0]);
            assert!(values.is_sorted());
            let v = matrix(&e[1], 0);
            orthonormal_columns(&v, t * 10.0, "eigenvectors");
            let scaled: M = v.iter().map(|r| r.iter().zip(&values).map(|(x, s)| x * s).collect()).collect();
            near(&mul(&scaled, &transposed(&v)), &original, t * 10.0, "eigh");
        }
    }
}

#[test]
fn solutions_solve_and_inverses_invert() {
    let mut rng = Rng::new(52);
    for dtype in [DType::F32, DType::F64] {
        for n in [1, 2, 7, 64] {
            let mut a = rng.tensor(dtype, &[2, n, n], 1.0);
            // Away from singular, with pivoting still needed.
            let shift = HostTensor::from_vec(
                [n, n],
                (0..n * n).map(|i| f64::from((i % n + 1) % n == i / n) * (n as f64)).collect(),
            )
            .unwrap();
            let shift = eval(Map::cast(dtype), &[&shift]).remove(0);
            a = eval(Map::binary(Binary::Add), &[&a, &shift]).remove(0);
            let b = rng.tensor(dtype, &[2, n, 3], 1.0);
            let x = &eval(Linalg::Solve, &[&a, &b])[0];
            let inverse = &eval(Linalg::Inv, &[&a])[0];
            for i in 0..2 {
                let t = 50.0 * tolerance(dtype);
                near(&mul(&matrix(&a, i), &matrix(x, i)), &matrix(&b, i), t, "solve");
                let unit: M = (0..n).map(|r| (0..n).map(|c| f64::from(r == c)).collect()).collect();
                near(&mul(&matrix(&a, i), &matrix(inverse, i)), &unit, t, "inv");
            }
        }
    }
}

/// By expansion: independent of any elimination.
fn determinant(a: &M) -> f64 {
    if a.is_empty() {
        return 1.0;
    }
    (0..a.len())
        .map(|j| {
            let minor: M = a[1..]
                .iter()
                .map(|r| r.iter().enumerate().filter(|&(k, _)| k != j).map(|(_, &x)| x).collect())
                .collect();
            (if j % 2 == 0 { 1.0 } else { -1.0 }) * a[0][j] * determinant(&minor)
        })
        .sum()
}

#[test]
fn determinants_match_the_expansion() {
    let mut rng = Rng::new(53);
    for n in 0..7 {
        let a = rng.tensor(DType::F64, &[4, n, n], 2.0);
        let got = &eval(Linalg::Det, &[&a])[0];
        let want: Vec<f64> = (0..4).map(|b| determinant(&matrix(&a, b))).collect();
        close(got, &want, 1e-11, n);
    }
    let singular = HostTensor::from_vec([2, 2], vec![1f64, 2.0, 2.0, 4.0]).unwrap();
    assert_eq!(reals(&eval(Linalg::Det, &[&singular])[0]), [0.0]);
}

#[test]
fn matrices_without_a_solution_are_errors_that_name_the_batch_entry() {
    let two =
        |m: [f32; 4]| HostTensor::from_vec([2, 2, 2], [[2.0, 1.0, 1.0, 2.0], m].concat().to_vec()).unwrap();
    let b = HostTensor::from_vec([2, 2, 1], vec![1f32; 4]).unwrap();
    let singular = two([1.0, 2.0, 2.0, 4.0]);
    for e in [
        fails(Linalg::Inv, &[&singular]),
        fails(Linalg::Solve, &[&singular, &b]),
        fails(Linalg::Cholesky, &[&two([1.0, 2.0, 2.0, 1.0])]),
        fails(Linalg::Cholesky, &[&two([f32::NAN, 0.0, 0.0, 1.0])]),
        fails(Linalg::Svd, &[&two([f32::INFINITY, 0.0, 0.0, 1.0])]),
        fails(Linalg::Eigh, &[&two([f32::NAN, 0.0, 0.0, 1.0])]),
    ] {
        assert!(e.is_invalid_argument() && e.to_string().contains("matrix 1"), "{e}");
    }
}

#[test]
fn awkward_spectra_are_handled() {
    for v in [
        vec![0.0f64; 9],
        vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        vec![1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        vec![1e200, 0.0, 0.0, 0.0, 1e-200, 0.0, 0.0, 0.0, 1.0],
        vec![0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ] {
        let a = HostTensor::from_vec([3, 3], v).unwrap();
        let s = eval(Linalg::Svd, &[&a]);
        let e = eval(Linalg::Eigh, &[&a]);
        let original = matrix(&a, 0);
        let scale = |m: &M, s: &HostTensor| -> M {
            m.iter().map(|r| r.iter().zip(reals(s)).map(|(x, s)| x * s).collect()).collect()
        };
        near(&mul(&scale(&matrix(&s[0], 0), &s[1]), &matrix(&s[2], 0)), &original, 1e-13, "svd");
        orthonormal_columns(&matrix(&s[0], 0), 1e-13, "u");
        let v = matrix(&e[1], 0);
        near(&mul(&scale(&v, &e[0]), &transposed(&v)), &original, 1e-13, "eigh");
        orthonormal_columns(&v, 1e-13, "eigenvectors");
    }
}
