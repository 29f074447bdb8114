use streampool_core::op::*;

use crate::common::*;

#[test]
fn copies_of_random_views_match() {
    let mut rng = Rng::new(11);
    for case in 0..400 {
        let rank = rng.below(6);
        let shape = rng.shape(rank);
        let dtype = DType::ALL[rng.below(9)];
        let view = View::random(&mut rng, dtype, &shape, 100.0);
        let got = run_views(&Op::Copy(Copy), &[&view], None).unwrap();
        assert_eq!(got[0], view.contiguous(), "case {case}: {:?}", view.layout);
    }
}

#[test]
fn large_transposes_match() {
    let mut rng = Rng::new(12);
    for (shape, perm) in [
        (vec![300, 500], vec![1, 0]),
        (vec![7, 65, 33], vec![0, 2, 1]),
        (vec![4, 128, 12, 32], vec![0, 2, 1, 3]),
        (vec![3, 40, 50, 6], vec![3, 1, 2, 0]),
    ] {
        for dtype in [DType::U8, DType::F16, DType::F32, DType::F64] {
            let base = rng.tensor(dtype, &shape, 100.0);
            let view = View { base, layout: Layout::contiguous(shape.clone()).permute(&perm) };
            let got = run_views(&Op::Copy(Copy), &[&view], None).unwrap();
            assert!(got[0] == view.contiguous(), "{shape:?} {perm:?} {dtype}");
        }
    }
}

#[test]
fn fill_range_and_triangles() {
    for dtype in DType::ALL {
        let value = Scalar::from_i64(dtype, 1);
        let got = &eval(Fill { value, shape: [3, 5].into() }, &[])[0];
        assert_eq!(reals(got), [1.0; 15]);
        if dtype != DType::Bool {
            let range =
                Range { start: Scalar::from_i64(dtype, 3), step: Scalar::from_i64(dtype, 2), len: 20 };
            let want: Vec<f64> = (0..20).map(|i| 3.0 + 2.0 * f64::from(i)).collect();
            assert_eq!(reals(&eval(range, &[])[0]), want);
        }
    }
    let down =
        Range { start: Scalar::from_i64(DType::I32, 5), step: Scalar::from_i64(DType::I32, -2), len: 4 };
    assert_eq!(wholes(&eval(down, &[])[0]), [5, 3, 1, -1]);

    let mut rng = Rng::new(13);
    for _ in 0..60 {
        let shape = rng.shape(3);
        let x = rng.tensor(DType::F32, &shape, 9.0);
        let k = rng.below(13) as i64 - 6;
        for upper in [false, true] {
            let want: Vec<f64> = (0..x.ty().shape.len())
                .map(|i| {
                    let at = coordinates(&shape, i);
                    let diagonal = at[2] as i64 - at[1] as i64;
                    let keep = if upper { diagonal >= k } else { diagonal <= k };
                    if keep { x.get(i).to_f64() } else { 0.0 }
                })
                .collect();
            assert_eq!(reals(&eval(Trilu { upper, k }, &[&x])[0]), want);
        }
    }
    for k in [i64::MIN, i64::MAX] {
        let x = rng.tensor(DType::F32, &[3, 3], 9.0);
        let kept = reals(&eval(Trilu { upper: true, k }, &[&x])[0]);
        assert_eq!(kept, if k < 0 { reals(&x) } else { vec![0.0; 9] });
    }
}

/// NumPy's definition of each mode: the position in the kept part that lands at position `i` relative to it.
fn border(mode: PadMode, i: i64, n: i64) -> Option<i64> {
    if (0..n).contains(&i) {
        return Some(i);
    }
    match mode {
        PadMode::Constant(_) => None,
        PadMode::Edge => Some(if i < 0 { 0 } else { n - 1 }),
        PadMode::Wrap => {
            let mut i = i;
            while i < 0 {
                i += n;
            }
            Some(i % n)
        }
        PadMode::Reflect => {
            // Walk there, turning at the ends.
            let (mut at, mut step) = (0i64, 1);
            let steps = i.abs();
            for _ in 0..steps {
                if n == 1 {
                    break;
                }
                if at + step < 0 || at + step >= n {
                    step = -step;
                }
                at += step;
            }
            Some(at)
        }
    }
}

#[test]
fn padding_matches_on_random_views() {
    let mut rng = Rng::new(14);
    for case in 0..400 {
        let rank = rng.below(4);
        let shape: Vec<usize> = (0..rank).map(|_| 1 + rng.below(7)).collect();
        let dtype = [DType::F32, DType::I64, DType::U8, DType::F16][rng.below(4)];
        let mode =
            [PadMode::Constant(Scalar::from_i64(dtype, 9)), PadMode::Edge, PadMode::Reflect, PadMode::Wrap]
                [rng.below(4)];
        let mut borders = |_| rng.below(12) as isize - 3;
        let before: Vec<isize> = (0..rank).map(&mut borders).collect();
        let after: Vec<isize> = (0..rank).map(&mut borders).collect();
        let op = Op::Pad(Pad { mode, before: before.clone(), after: after.clone() });
        let view = View::random(&mut rng, dtype, &shape, 100.0);
        let ty = TensorType::new(dtype, shape.clone());
        if op.infer(std::slice::from_ref(&ty)).is_err() {
            continue;
        }
        let got = &run_views(&op, &[&view], None).unwrap()[0];
        let flat = view.contiguous();
        let out = got.ty().shape.clone();
        for i in 0..out.len() {
            let at = coordinates(&out, i);
            let from: Option<Vec<usize>> = (0..rank)
                .map(|a| {
                    let first = (-before[a]).max(0) as i64;
                    let kept = shape[a] as i64 - first - (-after[a]).max(0) as i64;
                    let inside = at[a] as i64 - before[a].max(0) as i64;
                    border(mode, inside, kept).map(|p| (first + p) as usize)
                })
                .collect();
            let want = from.map_or(9.0, |f| flat.get(index(&shape, &f)).to_f64());
            assert_eq!(got.get(i).to_f64(), want, "case {case}: {op:?} of {shape:?} at {at:?}");
        }
    }
}
