//! Matrix product kernels against plain loops in f64.

use streampool_core::op::{Activation, F32, MatMulInteger};

use super::*;
use crate::gemm::testing::{Random, Tensor, Trial, activation64, indices};
use crate::team::Team;

/// Runs a MatMul and compares every element. Returns the bits.
fn check(isa: Isa, op: &MatMul, inputs: &[&Tensor], constant: bool, team: &Team) -> Vec<u64> {
    let (a, b) = (inputs[0], inputs[1]);
    let dtype = a.dtype;
    let (sa, sb) = (&a.layout.shape, &b.layout.shape);
    let (ra, rb) = (sa.rank(), sb.rank());
    let mut shape = Shape::new(&sa[..ra - 2]).broadcast(&Shape::new(&sb[..rb - 2])).unwrap().to_vec();
    shape.extend([sa[ra - 2], sb[rb - 1]]);
    // Constants of the plain dtypes are not packed.
    let packed: &[usize] = if constant && FLOATS.contains(&dtype) { &[1] } else { &[] };
    let trial = Trial { op: &Op::MatMul(op.clone()), inputs, packed, out: (dtype, &shape) };
    let out = trial.run(|p| make_with(isa, p), team);
    let k = sa[ra - 1];
    // Unit of rounding of the result, and of the sums.
    let (round, eps) = match dtype {
        DType::F16 => (5e-4, 1e-6),
        DType::BF16 => (4e-3, 1e-6),
        DType::F32 => (1e-6, 1e-6),
        DType::F64 => (0.0, 1e-12), // as exact as the reference of Gelu
        _ => (0.0, 0.0),
    };
    // The factors of one repetition, dense.
    let dense = |t: &Tensor, batch: &[usize], rows: usize, cols: usize| -> Vec<f64> {
        let at = |i: usize| [batch, &[i / cols, i % cols]].concat();
        (0..rows * cols).map(|i| t.at(&at(i))).collect()
    };
    let (m, n) = (sa[ra - 2], sb[rb - 1]);
    let (mut fa, mut fb) = (Vec::new(), Vec::new());
    for index in indices(&out.layout.shape) {
        let (batch, last) = index.split_at(index.len() - 2);
        if last == [0, 0] {
            (fa, fb) = (dense(a, batch, m, k), dense(b, batch, k, n));
        }
        let (mut sum, mut size) = (0.0, 0.0);
        for p in 0..k {
            let t = fa[last[0] * k + p] * fb[p * n + last[1]];
            sum += t;
            size += f64::abs(t);
        }
        sum *= f64::from(op.alpha.get());
        for extra in &inputs[2..] {
            sum += extra.at(&index);
            size += extra.at(&index).abs();
        }
        let want = activation64(op.activation, sum);
        let got = out.at(&index);
        assert!(
            (got - want).abs() <= round * want.abs() + eps * (size + 1.0) * 4.0,
            "{isa:?} {dtype} {sa} @ {sb} {op:?} constant {constant} at {index:?}: {got} instead of {want}"
        );
    }
    out.bits()
}

fn transposed(t: &Tensor) -> Tensor {
    t.view(|l| {
        let r = l.shape.rank();
        let mut perm: Vec<usize> = (0..r).collect();
        perm.swap(r - 1, r - 2);
        l.permute(&perm)
    })
}

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const ALL: [DType; 6] = [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I32, DType::I64];

#[test]
fn shapes_dtypes_and_transposes() {
    let mut random = Random::new(1);
    for dtype in ALL {
        for isa in Isa::available() {
            for (m, k, n) in [
                (1, 1, 1),
                (1, 64, 64),
                (2, 5, 7),
                (7, 31, 33),
                (0, 3, 4),
                (3, 0, 4),
                (3, 4, 0),
                (15, 100, 65),
                (64, 17, 32),
                (33, 2, 100),
                (1, 100, 2),
                (100, 33, 1),
            ] {
                let (a, at) = (
                    Tensor::random(dtype, &[m, k], &mut random),
                    Tensor::random(dtype, &[k, m], &mut random),
                );
                let (b, bt) = (
                    Tensor::random(dtype, &[k, n], &mut random),
                    Tensor::random(dtype, &[n, k], &mut random),
                );
                for constant in [false, true] {
                    let op = MatMul::default();
                    check(isa, &op, &[&a, &b], constant, &crate::team::ALONE);
                    check(isa, &op, &[&transposed(&at), &b], constant, &crate::team::ALONE);
                    check(isa, &op, &[&a, &transposed(&bt)], constant, &crate::team::ALONE);
                    check(isa, &op, &[&transposed(&at), &transposed(&bt)], constant, &crate::team::ALONE);
                }
            }
        }
    }
}

#[test]
fn batches_broadcast_and_views_stride() {
    let mut random = Random::new(2);
    let op = MatMul::default();
    for dtype in ALL {
        let mut t = |shape: &[usize]| Tensor::random(dtype, shape, &mut random);
        for (sa, sb) in [
            (&[3, 4, 5][..], &[5, 6][..]),
            (&[2, 3, 4, 5], &[5, 33]),
            (&[4, 5], &[3, 5, 6]),
            (&[2, 1, 4, 5], &[3, 5, 6]),
            (&[2, 3, 4, 5], &[2, 3, 5, 6]),
            (&[2, 0, 4, 5], &[1, 5, 6]),
            (&[1, 1, 4, 5], &[1, 5, 6]),
            (&[5, 1, 16], &[5, 16, 40]),
        ] {
            let (a, b) = (t(sa), t(sb));
            for constant in [false, true] {
                check(Isa::detect(), &op, &[&a, &b], constant, &crate::team::ALONE);
            }
        }
        // (b, s, h, d) read as (b, h, s, d), times its own transpose: the views of attention.
        let q = t(&[2, 7, 3, 8]).view(|l| l.permute(&[0, 2, 1, 3]));
        let k = t(&[2, 9, 3, 8]).view(|l| l.permute(&[0, 2, 3, 1]));
        check(Isa::detect(), &op, &[&q, &k], false, &crate::team::ALONE);
        // Repeated, reversed and sliced.
        let a = t(&[1, 6]).view(|l| l.broadcast_to(&Shape::new(&[4, 3, 6])).unwrap());
        let b = t(&[12, 20]).view(|l| l.slice(0, 11, 6, -2).slice(1, 3, 9, 1));
        check(Isa::detect(), &op, &[&a, &b], false, &crate::team::ALONE);
        check(
            Isa::detect(),
            &op,
            &[&a.view(|l| l.slice(2, 5, 6, -1)), &b.view(|l| l.slice(1, 8, 9, -1))],
            false,
            &crate::team::ALONE,
        );
    }
}

#[test]
fn endings() {
    let mut random = Random::new(3);
    let activations = [
        None,
        Some(Activation::Relu),
        Some(Activation::Sigmoid),
        Some(Activation::Tanh),
        Some(Activation::Gelu),
        Some(Activation::GeluTanh),
        Some(Activation::Silu),
        Some(Activation::LeakyRelu(F32::new(0.1))),
        Some(Activation::Clip(F32::new(-0.25), F32::new(0.5))),
    ];
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        for isa in Isa::available() {
            let mut t = |shape: &[usize]| Tensor::random(dtype, shape, &mut random);
            for (batch, m, n) in [(1, 3, 32), (1, 1, 70), (2, 17, 45)] {
                let (a, b) = (t(&[batch, m, 20]), t(&[20, n]));
                let residual = t(&[batch, m, n]);
                let biases = [
                    t(&[n]),
                    t(&[m, 1]),
                    t(&[]),
                    t(&[1, 1, n]),
                    t(&[batch, 1, 1]),
                    t(&[batch, m, n]),
                    t(&[m, n]),
                ];
                for activation in activations {
                    let op = MatMul { alpha: F32::new(0.5), activation, ..MatMul::default() };
                    check(isa, &op, &[&a, &b], true, &crate::team::ALONE);
                    let op = MatMul { residual: true, ..op };
                    check(isa, &op, &[&a, &b, &residual], true, &crate::team::ALONE);
                    for bias in &biases {
                        let op = MatMul { bias: true, activation, ..MatMul::default() };
                        check(isa, &op, &[&a, &b, bias], false, &crate::team::ALONE);
                        let op = MatMul { residual: true, ..op };
                        check(isa, &op, &[&a, &b, bias, &residual], true, &crate::team::ALONE);
                    }
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_cores() {
    let mut random = Random::new(4);
    let (two, four) = (Team::new(2), Team::new(4));
    for dtype in ALL {
        let mut t = |shape: &[usize]| Tensor::random(dtype, shape, &mut random);
        for (sa, sb) in [
            (&[70, 300][..], &[300, 130][..]),
            (&[40, 33, 40], &[40, 40, 50]),
            (&[2, 90, 120], &[2, 120, 110]),
        ] {
            let (a, b) = (t(sa), t(sb));
            let constant = sb.len() == 2;
            let op = MatMul::default();
            let alone = check(Isa::detect(), &op, &[&a, &b], constant, &crate::team::ALONE);
            for team in [&two, &four] {
                for _ in 0..3 {
                    assert!(
                        check(Isa::detect(), &op, &[&a, &b], constant, team) == alone,
                        "{dtype} {sa:?} {sb:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn nan_and_infinity_pass_through() {
    let mut a = vec![1.0; 40];
    (a[3], a[13]) = (f64::NAN, f64::INFINITY);
    let a = Tensor::from_fn(DType::F32, &[4, 10], |i| a[i]);
    let b = Tensor::from_fn(DType::F32, &[10, 40], |i| i as f64 + 1.0);
    for activation in [None, Some(Activation::Relu)] {
        let op = MatMul { activation, ..MatMul::default() };
        for isa in Isa::available() {
            let op = Op::MatMul(op.clone());
            let trial = Trial { op: &op, inputs: &[&a, &b], packed: &[1], out: (DType::F32, &[4, 40]) };
            let out = trial.run(|p| make_with(isa, p), &crate::team::ALONE);
            for j in 0..40 {
                assert!(out.at(&[0, j]).is_nan(), "{isa:?} {activation:?}");
                assert_eq!(out.at(&[1, j]), f64::INFINITY);
                assert!(out.at(&[2, j]).is_finite());
            }
        }
    }
}

#[test]
fn integers_with_zero_points() {
    let mut random = Random::new(5);
    for (da, db) in
        [(DType::U8, DType::I8), (DType::U8, DType::U8), (DType::I8, DType::I8), (DType::I8, DType::U8)]
    {
        for (sa, sb) in [
            (&[3, 5][..], &[5, 7][..]),
            (&[33, 64], &[64, 40]),
            (&[2, 4, 9], &[9, 3]),
            (&[2, 4, 9], &[2, 9, 3]),
            (&[200, 130], &[130, 120]),
            (&[3, 0], &[0, 4]),
            (&[0, 3], &[3, 4]),
        ] {
            let (a, b) = (Tensor::random(da, sa, &mut random), Tensor::random(db, sb, &mut random));
            let (m, n, k) = (sa[sa.len() - 2], sb[sb.len() - 1], sa[sa.len() - 1]);
            let mut per_row = sa.to_vec();
            *per_row.last_mut().unwrap() = 1;
            let a_zeros = [
                None,
                Some(vec![]),
                Some(vec![1]),
                Some(if sa.len() == 2 { vec![m] } else { vec![m, 1] }),
                Some(per_row),
            ];
            let mut per_column = sb.to_vec();
            per_column[sb.len() - 2] = 1;
            let b_zeros = [None, Some(vec![]), Some(vec![n]), Some(per_column)];
            for a_zero in &a_zeros {
                for b_zero in &b_zeros {
                    let az = a_zero.as_ref().map(|s| Tensor::random(da, s, &mut random));
                    let bz = b_zero.as_ref().map(|s| Tensor::random(db, s, &mut random));
                    let op = Op::MatMulInteger(MatMulInteger { a_zero: az.is_some(), b_zero: bz.is_some() });
                    let inputs: Vec<&Tensor> =
                        [Some(&a), Some(&b), az.as_ref(), bz.as_ref()].into_iter().flatten().collect();
                    let mut shape = sa.to_vec();
                    *shape.last_mut().unwrap() = n;
                    let trial = Trial { op: &op, inputs: &inputs, packed: &[], out: (DType::I32, &shape) };
                    let out = trial.run(make_integer, &Team::new(2));
                    for index in indices(&out.layout.shape) {
                        let r = index.len();
                        let zero_a = az.as_ref().map_or(0.0, |z| {
                            if z.layout.shape.rank() == 1 { z.at(&[index[r - 2]]) } else { z.at(&index[..]) }
                        });
                        let zero_b = bz.as_ref().map_or(0.0, |z| {
                            if z.layout.shape.rank() == 1 { z.at(&[index[r - 1]]) } else { z.at(&index) }
                        });
                        let want: f64 = (0..k)
                            .map(|p| {
                                let (mut ia, mut ib) = (index.clone(), index.clone());
                                ia[r - 1] = p;
                                ib[r - 2] = p;
                                (a.at(&ia) - zero_a) * (b.at(&ib) - zero_b)
                            })
                            .sum();
                        assert_eq!(
                            out.at(&index),
                            want,
                            "{da} {db} {sa:?} {sb:?} {a_zero:?} {b_zero:?} at {index:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_constant_is_packed_once_for_all_programs() {
    let packs = crate::kernels::Packs::default();
    let (a, b) =
        (packs.get_or_pack(1, 2, || 5u32), packs.get_or_pack(1, 2, || -> u32 { panic!("packed again") }));
    assert!(std::sync::Arc::ptr_eq(&a, &b));
}
