use streampool_core::op::*;

use crate::common::*;

const KINDS: [ReduceKind; 12] = {
    use ReduceKind::*;
    [Sum, Mean, Prod, Max, Min, L1, L2, SumSquare, LogSum, LogSumExp, All, Any]
};

fn reference(kind: ReduceKind, line: &[f64], dtype: DType) -> f64 {
    let sum: f64 = line.iter().sum();
    let n = line.len() as f64;
    let lowest = |best: f64| if dtype.is_float() { best } else { Scalar::from_f64(dtype, best).to_f64() };
    let nan = line.iter().any(|x| x.is_nan());
    let result = match kind {
        ReduceKind::Sum => sum,
        ReduceKind::Mean if line.is_empty() && !dtype.is_float() => 0.0,
        ReduceKind::Mean => sum / n,
        ReduceKind::Prod => line.iter().product(),
        ReduceKind::Max | ReduceKind::Min if nan => f64::NAN,
        ReduceKind::Max => lowest(line.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        ReduceKind::Min => lowest(line.iter().copied().fold(f64::INFINITY, f64::min)),
        ReduceKind::L1 => line.iter().map(|x| x.abs()).sum(),
        ReduceKind::L2 => line.iter().map(|x| x * x).sum::<f64>().sqrt(),
        ReduceKind::SumSquare => line.iter().map(|x| x * x).sum(),
        ReduceKind::LogSum => sum.ln(),
        ReduceKind::LogSumExp => line.iter().map(|x| x.exp()).sum::<f64>().ln(),
        ReduceKind::All => f64::from(line.iter().all(|&x| x != 0.0)),
        ReduceKind::Any => f64::from(line.iter().any(|&x| x != 0.0)),
    };
    if dtype.is_int() { result.trunc() } else { result }
}

#[test]
fn every_kind_over_random_axes_of_random_views_matches() {
    let mut rng = Rng::new(31);
    for case in 0..900 {
        let kind = KINDS[case % 12];
        let dtype = match kind {
            ReduceKind::All | ReduceKind::Any => DType::Bool,
            ReduceKind::LogSumExp => [DType::F32, DType::F64, DType::F16, DType::BF16][rng.below(4)],
            ReduceKind::Max | ReduceKind::Min => DType::ALL[rng.below(9)],
            _ => DType::ALL[rng.below(8)],
        };
        let rank = rng.below(5);
        let mut shape = rng.shape(rank);
        let product = matches!(kind, ReduceKind::Prod | ReduceKind::LogSum);
        if !dtype.is_float() || product {
            shape.iter_mut().for_each(|d| *d = (*d).min(4));
        }
        let axes: Vec<usize> = (0..rank).filter(|_| rng.below(2) == 0).collect();
        let span = if dtype.is_float() { 1.5 } else { 2.0 };
        let view = View::random(&mut rng, dtype, &shape, span);
        let op = Op::Reduce(Reduce { kind, axes: axes.clone(), keep_dims: true });
        let got = &run_views(&op, &[&view], None).unwrap()[0];
        let flat = view.contiguous();
        let out = got.ty().shape.clone();
        let mut lines: Vec<Vec<f64>> = vec![Vec::new(); out.len()];
        for i in 0..flat.ty().shape.len() {
            let mut at = coordinates(&shape, i);
            axes.iter().for_each(|&a| at[a] = 0);
            lines[index(&out, &at)].push(flat.get(i).to_f64());
        }
        for (i, line) in lines.iter().enumerate() {
            let (g, w) = (got.get(i).to_f64(), reference(kind, line, dtype));
            let w = if dtype.is_int() {
                Scalar::from_i64(dtype, w as i64).to_f64()
            } else {
                Scalar::from_f64(dtype, w).to_f64()
            };
            if dtype.is_int() && matches!(kind, ReduceKind::LogSum) {
                continue; // the logarithm of a sum that may be negative: checked below
            }
            // Errors of sums are relative to the sum of the magnitudes.
            let size = line.iter().map(|x| x.abs().max(x * x)).sum::<f64>().max(1.0);
            let scale = if kind == ReduceKind::LogSum { size / line.iter().sum::<f64>().abs() } else { size };
            let fine = (g.is_nan() && w.is_nan())
                || g == w
                || (g - w).abs() <= 4.0 * epsilon(dtype) * scale.max(1.0);
            assert!(fine, "case {case}: {op:?} of {:?}: {g}, should be {w}, of {line:?}", view.layout);
        }
    }
}

#[test]
fn nan_wins_and_long_sums_are_accurate() {
    for n in [5, 40, 3000] {
        let mut v = vec![1f32; n];
        v[n / 2] = f32::NAN;
        let x = HostTensor::from_vec([n, 1], v.clone()).unwrap();
        let wide = HostTensor::from_vec([n, 16], v.iter().flat_map(|&v| [v; 16]).collect()).unwrap();
        for kind in [ReduceKind::Max, ReduceKind::Min, ReduceKind::Sum] {
            for x in [&x, &wide] {
                let op = Reduce { kind, axes: vec![0], keep_dims: false };
                assert!(reals(&eval(op, &[x])[0]).iter().all(|x| x.is_nan()), "{kind:?} {n}");
            }
        }
    }
    // A million equal terms, both ways round: naive single precision is off by a thousandth.
    let n = 1_000_000;
    let x = HostTensor::from_vec([n, 8], vec![0.1f32; 8 * n]).unwrap();
    let op = |axes| Reduce { kind: ReduceKind::Sum, axes, keep_dims: false };
    let exact = f64::from(0.1f32) * n as f64;
    for sum in reals(&eval(op(vec![0]), &[&x])[0]) {
        assert!((sum / exact - 1.0).abs() < 1e-6, "{sum}");
    }
    let sum = reals(&eval(op(vec![0, 1]), &[&x])[0])[0];
    assert!((sum / (8.0 * exact) - 1.0).abs() < 1e-6, "{sum}");
}

#[test]
fn log_sum_exp_does_not_overflow() {
    let op = || Reduce { kind: ReduceKind::LogSumExp, axes: vec![0], keep_dims: false };
    let one = |v: Vec<f32>| reals(&eval(op(), &[&HostTensor::from_vec([v.len()], v).unwrap()])[0])[0];
    assert!((one(vec![1000.0, 1000.0]) - 1_000.693_147).abs() < 1e-3);
    assert!((one(vec![-1000.0, -1000.0]) + 999.306_85).abs() < 1e-3);
    assert_eq!(one(vec![f32::NEG_INFINITY; 3]), f64::NEG_INFINITY);
    assert_eq!(one(vec![f32::INFINITY, 1.0]), f64::INFINITY);
    assert!(one(vec![f32::NAN, 1.0]).is_nan());
    assert_eq!(one(vec![]), f64::NEG_INFINITY);
}

#[test]
fn results_of_nothing_are_as_documented() {
    let of = |kind, dtype| {
        let x = HostTensor::zeros(TensorType::new(dtype, [2, 0])).unwrap();
        reals(&eval(Reduce { kind, axes: vec![1], keep_dims: false }, &[&x])[0])[0]
    };
    assert_eq!(of(ReduceKind::Max, DType::F32), f64::NEG_INFINITY);
    assert_eq!(of(ReduceKind::Min, DType::I8), 127.0);
    assert_eq!(of(ReduceKind::Max, DType::Bool), 0.0);
    assert_eq!(of(ReduceKind::Prod, DType::F16), 1.0);
    assert!(of(ReduceKind::Mean, DType::F32).is_nan());
    assert_eq!(of(ReduceKind::All, DType::Bool), 1.0);
    assert_eq!(of(ReduceKind::Any, DType::Bool), 0.0);
}

#[test]
fn the_index_of_the_greatest_and_least_match() {
    let mut rng = Rng::new(32);
    for _ in 0..300 {
        let rank = 1 + rng.below(3);
        let axis = rng.below(rank);
        let mut shape = rng.shape(rank);
        shape[axis] = 1 + rng.below(20);
        let dtype = DType::ALL[rng.below(8)];
        // Few distinct values, so that equals occur.
        let mut x = rng.tensor(dtype, &shape, 2.0);
        if dtype == DType::F32 {
            for v in x.as_mut_slice::<f32>().unwrap() {
                *v = v.round();
                if rng.below(30) == 0 {
                    *v = f32::NAN;
                }
            }
        }
        for (max, last) in [(true, false), (true, true), (false, false), (false, true)] {
            let got = &eval(ArgReduce { max, axis, keep_dims: true, last }, &[&x])[0];
            for i in 0..got.ty().shape.len() {
                let mut at = coordinates(&got.ty().shape, i);
                let mut best: Option<(f64, usize)> = None;
                for j in 0..shape[axis] {
                    at[axis] = j;
                    let v = x.get(index(&shape, &at)).to_f64();
                    let key = |v: f64| match (v.is_nan(), max) {
                        (true, _) => f64::INFINITY,
                        (_, true) => v,
                        _ => -v,
                    };
                    let better = best.is_none_or(|b| key(v) > key(b.0) || (last && key(v) == key(b.0)));
                    if better {
                        best = Some((v, j));
                    }
                }
                assert_eq!(got.get(i).to_i64(), best.unwrap().1 as i64, "{dtype} max {max} last {last}");
            }
        }
    }
}

#[test]
fn running_totals_match_and_work_in_place() {
    let mut rng = Rng::new(33);
    for case in 0..200 {
        let rank = 1 + rng.below(3);
        let shape = rng.shape(rank);
        let axis = rng.below(rank);
        let dtype = DType::ALL[rng.below(8)];
        let kind = [CumulativeKind::Sum, CumulativeKind::Prod][case % 2];
        let (exclusive, reverse) = (rng.below(2) == 0, rng.below(2) == 0);
        let span = if kind == CumulativeKind::Prod { 1.0 } else { 2.0 };
        let x = View { base: rng.tensor(dtype, &shape, span), layout: Layout::contiguous(shape.clone()) };
        let op = Op::Cumulative(Cumulative { kind, axis, exclusive, reverse });
        let mut want = vec![0.0; x.base.ty().shape.len()];
        for i in 0..want.len() {
            let mut at = coordinates(&shape, i);
            let here = at[axis];
            let range = match (exclusive, reverse) {
                (false, false) => 0..here + 1,
                (true, false) => 0..here,
                (false, true) => here..shape[axis],
                (true, true) => here + 1..shape[axis],
            };
            let line = range.map(|j| {
                at[axis] = j;
                x.base.get(index(&shape, &at)).to_f64()
            });
            let total = if kind == CumulativeKind::Sum { line.sum() } else { line.product::<f64>() };
            want[i] = if dtype.is_int() { Scalar::from_i64(dtype, total as i64).to_f64() } else { total };
        }
        for place in [None, Some(0)] {
            let got = run_views(&op, &[&x], place).unwrap();
            let length = shape[axis] as f64 * 2.0;
            close(&got[0], &want, epsilon(dtype) * (4.0 + length), (&op, place));
        }
    }
}
