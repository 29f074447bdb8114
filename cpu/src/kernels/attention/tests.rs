//! The attention kernel against the definition in f64.

use streampool_core::op::{F32, Shape};

use super::*;
use crate::gemm::testing::{Random, Tensor, Trial, indices};
use crate::team::Team;

struct Case<'a> {
    op: Attention,
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    mask: Option<&'a Tensor>,
}

fn op(scale: f32, causal: bool, mask: bool, merge_heads: bool) -> Attention {
    Attention { scale: F32::new(scale), causal, mask, merge_heads }
}

/// Runs it and compares every element; returns the bits.
fn check(isa: Isa, c: &Case<'_>, team: &Team) -> Vec<u64> {
    let (sq, sk) = (&c.q.layout.shape, &c.k.layout.shape);
    let (b, h, s, d) = (sq[0], sq[1], sq[2], sq[3]);
    let (g, t, e) = (sk[1], sk[2], c.v.layout.shape[3]);
    let shape = if c.op.merge_heads { [b, s, h, e] } else { [b, h, s, e] };
    let inputs: Vec<&Tensor> = [Some(c.q), Some(c.k), Some(c.v), c.mask].into_iter().flatten().collect();
    let the_op = Op::Attention(c.op.clone());
    let out = Trial { op: &the_op, inputs: &inputs, packed: &[], out: (c.q.dtype, &shape) }
        .run(|p| make_with(isa, p), team);
    let tolerance = match c.q.dtype {
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        _ => 5e-6,
    };
    for index in indices(&Shape::new(&[b, h, s])) {
        let (ib, ih, is) = (index[0], index[1], index[2]);
        let ig = ih / (h / g);
        let scores: Vec<f64> = (0..t)
            .map(|it| {
                if c.op.causal && it + s > is + t {
                    return f64::NEG_INFINITY;
                }
                let dot: f64 = (0..d).map(|x| c.q.at(&[ib, ih, is, x]) * c.k.at(&[ib, ig, it, x])).sum();
                dot * f64::from(c.op.scale.get()) + c.mask.map_or(0.0, |m| m.at(&[ib, ih, is, it]))
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|x| (x - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        for x in 0..e {
            let want: f64 = if max == f64::NEG_INFINITY {
                0.0
            } else {
                (0..t).map(|it| weights[it] / total * c.v.at(&[ib, ig, it, x])).sum()
            };
            let at = if c.op.merge_heads { [ib, is, ih, x] } else { [ib, ih, is, x] };
            let got = out.at(&at);
            assert!(
                (got - want).abs() <= tolerance,
                "{isa:?} {} {sq} {sk} {e} {:?} at {at:?}: {got} instead of {want}",
                c.q.dtype,
                c.op
            );
        }
    }
    out.bits()
}

#[test]
fn shapes_dtypes_and_masks() {
    let mut random = Random::new(1);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for isa in Isa::available() {
            let mut tensor = |shape: &[usize]| Tensor::random(dtype, shape, &mut random);
            for (b, h, g, s, t, d, e) in [
                (1, 1, 1, 1, 1, 1, 1),
                (2, 3, 3, 5, 7, 8, 8),
                (1, 4, 2, 16, 16, 32, 32),
                (2, 6, 1, 3, 40, 5, 33),
                (1, 2, 2, 70, 33, 32, 64),
                (1, 2, 2, 1, 100, 64, 20),
                (0, 2, 2, 3, 4, 5, 6),
                (1, 2, 2, 3, 0, 5, 6),
                (1, 2, 2, 3, 4, 0, 6),
                (1, 2, 1, 9, 4, 16, 6),
            ] {
                let (q, k, v) = (tensor(&[b, h, s, d]), tensor(&[b, g, t, d]), tensor(&[b, g, t, e]));
                for merge in [false, true] {
                    check(
                        isa,
                        &Case { op: op(0.7, false, false, merge), q: &q, k: &k, v: &v, mask: None },
                        &crate::team::ALONE,
                    );
                    for shape in [&[s, t][..], &[t], &[b, 1, 1, t], &[h, s, t], &[b, h, s, 1], &[]] {
                        let mask = tensor(shape);
                        let case =
                            Case { op: op(3.0, false, true, merge), q: &q, k: &k, v: &v, mask: Some(&mask) };
                        check(isa, &case, &crate::team::ALONE);
                    }
                }
                if t >= s {
                    let case = Case { op: op(1.5, true, false, true), q: &q, k: &k, v: &v, mask: None };
                    check(isa, &case, &crate::team::ALONE);
                }
            }
        }
    }
}

#[test]
fn views_of_merged_heads_are_read_in_place() {
    let mut random = Random::new(2);
    for dtype in [DType::F32, DType::F16] {
        let (b, s, t, h, d) = (2, 19, 23, 4, 32);
        // As a linear layer leaves them: (b, s, 3, h, d) for q, k, v at once; here one array each.
        let mut view = |len: usize| {
            Tensor::random(dtype, &[b, len, h, d], &mut random).view(|l| l.permute(&[0, 2, 1, 3]))
        };
        let (q, k, v) = (view(s), view(t), view(t));
        check(
            Isa::detect(),
            &Case { op: op(0.2, false, false, true), q: &q, k: &k, v: &v, mask: None },
            &crate::team::ALONE,
        );
        let reversed = k.view(|l| l.slice(2, t - 1, t, -1));
        check(
            Isa::detect(),
            &Case { op: op(0.2, true, false, false), q: &q, k: &reversed, v: &v, mask: None },
            &crate::team::ALONE,
        );
        let mask = Tensor::random(dtype, &[t, s], &mut random).view(|l| l.permute(&[1, 0]));
        check(
            Isa::detect(),
            &Case { op: op(0.2, false, true, true), q: &q, k: &k, v: &v, mask: Some(&mask) },
            &crate::team::ALONE,
        );
    }
}

#[test]
fn long_sequences_go_block_by_block() {
    let mut random = Random::new(3);
    for isa in Isa::available() {
        let (q, k) = (
            Tensor::random(DType::F32, &[1, 2, 600, 16], &mut random),
            Tensor::random(DType::F32, &[1, 2, 1100, 16], &mut random),
        );
        let v = Tensor::random(DType::F32, &[1, 2, 1100, 24], &mut random);
        for causal in [false, true] {
            check(
                isa,
                &Case { op: op(5.0, causal, false, true), q: &q, k: &k, v: &v, mask: None },
                &crate::team::ALONE,
            );
        }
        // The greatest score comes last, so that all sums are rescaled.
        let rising = Tensor::from_fn(DType::F32, &[1100], |i| i as f64 * 0.05);
        check(
            isa,
            &Case { op: op(1.0, false, true, true), q: &q, k: &k, v: &v, mask: Some(&rising) },
            &crate::team::ALONE,
        );
    }
}

#[test]
fn masked_queries() {
    let mut random = Random::new(4);
    let mut tensor = |shape: &[usize]| Tensor::random(DType::F32, shape, &mut random);
    let (q, k, v) = (tensor(&[1, 1, 4, 8]), tensor(&[1, 1, 700, 8]), tensor(&[1, 1, 700, 8]));
    // Row 0 sees nothing (0), row 1 only keys of the second block, row 2 is masked by the least finite number (uniform), row 3 by nothing.
    let mask = Tensor::from_fn(DType::F32, &[4, 700], |i| match (i / 700, i % 700) {
        (0, _) => f64::NEG_INFINITY,
        (1, j) if j < 600 => f64::NEG_INFINITY,
        (2, _) => f64::from(f32::MIN),
        _ => 0.0,
    });
    for isa in Isa::available() {
        let op = Op::Attention(op(1.0, false, true, false));
        let inputs = [&q, &k, &v, &mask];
        let trial = Trial { op: &op, inputs: &inputs, packed: &[], out: (DType::F32, &[1, 1, 4, 8]) };
        let out = trial.run(|p| make_with(isa, p), &crate::team::ALONE);
        for x in 0..8 {
            assert_eq!(out.at(&[0, 0, 0, x]), 0.0);
            assert!(out.at(&[0, 0, 1, x]).is_finite());
            let mean: f64 = (0..700).map(|t| v.at(&[0, 0, t, x])).sum::<f64>() / 700.0;
            assert!((out.at(&[0, 0, 2, x]) - mean).abs() < 1e-5);
            assert!(out.at(&[0, 0, 3, x]).is_finite());
        }
    }
    let (q, k) = (tensor(&[1, 1, 5, 8]), tensor(&[1, 1, 2, 8]));
    let v = tensor(&[1, 1, 2, 8]);
    // More queries than keys: the first three see none.
    check(
        Isa::detect(),
        &Case { op: super::tests::op(1.0, true, false, false), q: &q, k: &k, v: &v, mask: None },
        &crate::team::ALONE,
    );
}

#[test]
fn bits_do_not_depend_on_cores() {
    let mut random = Random::new(5);
    let mut tensor = |shape: &[usize]| Tensor::random(DType::F32, shape, &mut random);
    for (b, h, s, t) in [(2, 12, 64, 64), (1, 2, 600, 600)] {
        let (q, k, v) = (tensor(&[b, h, s, 32]), tensor(&[b, h, t, 32]), tensor(&[b, h, t, 32]));
        let case = Case { op: op(0.2, false, false, true), q: &q, k: &k, v: &v, mask: None };
        let alone = check(Isa::detect(), &case, &crate::team::ALONE);
        for cores in [2, 4] {
            assert!(check(Isa::detect(), &case, &Team::new(cores)) == alone);
        }
    }
}
