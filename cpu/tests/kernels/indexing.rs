use streampool_core::op::*;

use crate::common::*;

/// Random indices into an axis of `n`, negative ones too.
fn indices(rng: &mut Rng, shape: &[usize], n: usize) -> HostTensor {
    let dtype = [DType::I32, DType::I64][rng.below(2)];
    let mut t = HostTensor::zeros(TensorType::new(dtype, shape)).unwrap();
    for i in 0..t.ty().shape.len() {
        let v = rng.below(2 * n) as i64 - n as i64;
        let bits = Scalar::from_i64(dtype, v).bits().to_le_bytes();
        t.bytes_mut()[i * dtype.size()..][..dtype.size()].copy_from_slice(&bits[..dtype.size()]);
    }
    t
}

fn wrap(i: i64, n: usize) -> usize {
    if i < 0 { (i + n as i64) as usize } else { i as usize }
}

#[test]
fn gathers_match() {
    let mut rng = Rng::new(21);
    for _ in 0..200 {
        let rank = 1 + rng.below(4);
        let axis = rng.below(rank);
        let mut shape = rng.shape(rank);
        shape[axis] = 1 + rng.below(9);
        let dtype = DType::ALL[rng.below(9)];
        let data = rng.tensor(dtype, &shape, 100.0);
        let index_shape = {
            let r = rng.below(3);
            rng.shape(r)
        };
        let idx = indices(&mut rng, &index_shape, shape[axis]);
        let got = &eval(Gather { axis }, &[&data, &idx])[0];
        for i in 0..got.ty().shape.len() {
            let at = coordinates(&got.ty().shape, i);
            let r = index_shape.len();
            let picked = wrap(idx.get(index(&index_shape, &at[axis..axis + r])).to_i64(), shape[axis]);
            let mut from = at[..axis].to_vec();
            from.push(picked);
            from.extend(&at[axis + r..]);
            assert_eq!(got.get(i), data.get(index(&shape, &from)));
        }

        // Along elements: other axes may be shorter than data's.
        let mut own: Vec<usize> =
            shape.iter().map(|&d| if d > 1 && rng.below(3) == 0 { d - 1 } else { d }).collect();
        own[axis] = rng.below(12);
        let idx = indices(&mut rng, &own, shape[axis]);
        let got = &eval(GatherElements { axis }, &[&data, &idx])[0];
        for i in 0..got.ty().shape.len() {
            let mut at = coordinates(&own, i);
            at[axis] = wrap(idx.get(i).to_i64(), shape[axis]);
            assert_eq!(got.get(i), data.get(index(&shape, &at)));
        }
    }
}

#[test]
fn tuples_of_indices_match() {
    let mut rng = Rng::new(22);
    for _ in 0..200 {
        let rank = 1 + rng.below(4);
        // One length for all indexed axes, so that random indices are valid for each.
        let n = 1 + rng.below(5);
        let shape = vec![n; rank];
        let batch = rng.below(rank.min(2));
        let tuple = rng.below(rank - batch + 1);
        let mut index_shape = vec![n; batch];
        for _ in 0..rng.below(3) {
            index_shape.push(rng.below(6));
        }
        index_shape.push(tuple);
        let data = rng.tensor(DType::F32, &shape, 100.0);
        let idx = indices(&mut rng, &index_shape, n);
        let got = &eval(GatherNd { batch_dims: batch }, &[&data, &idx])[0];
        let lead = index_shape.len() - 1;
        for i in 0..got.ty().shape.len() {
            let at = coordinates(&got.ty().shape, i);
            let mut from = at[..batch].to_vec();
            for k in 0..tuple {
                let mut where_ = at[..lead].to_vec();
                where_.push(k);
                from.push(wrap(idx.get(index(&index_shape, &where_)).to_i64(), n));
            }
            from.extend(&at[lead..]);
            assert_eq!(got.get(i), data.get(index(&shape, &from)));
        }
    }
}

fn combine(how: OnScatter, old: f64, new: f64) -> f64 {
    match how {
        OnScatter::Replace => new,
        OnScatter::Add => old + new,
        OnScatter::Mul => old * new,
        OnScatter::Min => old.min(new),
        OnScatter::Max => old.max(new),
    }
}

const HOWS: [OnScatter; 5] =
    [OnScatter::Replace, OnScatter::Add, OnScatter::Mul, OnScatter::Min, OnScatter::Max];

#[test]
fn scatters_match_with_repeated_indices_and_in_place() {
    let mut rng = Rng::new(23);
    for case in 0..200 {
        let rank = 1 + rng.below(3);
        let shape: Vec<usize> = (0..rank).map(|_| 1 + rng.below(5)).collect();
        let dtype = [DType::F32, DType::F64, DType::I64, DType::I32][rng.below(4)];
        let how = HOWS[case % 5];
        // Halves and small integers: sums and products of a few are exact in every order.
        let data = rng.tensor(DType::I32, &shape, 3.0);
        let as_dtype = |t: &HostTensor| eval(Map::cast(dtype), &[t]).remove(0);
        let data = as_dtype(&data);
        let axis = rng.below(rank);
        let mut own: Vec<usize> = shape.iter().map(|&d| 1 + rng.below(d)).collect();
        own[axis] = rng.below(7);
        let idx = indices(&mut rng, &own, shape[axis]);
        let updates = rng.tensor(DType::I32, &own, 2.0);
        let updates = as_dtype(&updates);
        let mut want = reals(&data);
        for i in 0..idx.ty().shape.len() {
            let mut at = coordinates(&own, i);
            at[axis] = wrap(idx.get(i).to_i64(), shape[axis]);
            let to = index(&shape, &at);
            want[to] = combine(how, want[to], updates.get(i).to_f64());
        }
        let op = Op::ScatterElements(ScatterElements { axis, reduction: how });
        let view =
            |t: &HostTensor| View { base: t.clone(), layout: Layout::contiguous(t.ty().shape.clone()) };
        let (d, i, u) = (view(&data), view(&idx), view(&updates));
        for place in [None, Some(0)] {
            let got = run_views(&op, &[&d, &i, &u], place).unwrap();
            assert_eq!(reals(&got[0]), want, "{op:?} {place:?}");
        }

        // Whole slices by tuples.
        let n = shape[0];
        let tuples = [rng.below(4), 1];
        let idx = indices(&mut rng, &tuples, n);
        let mut slice = vec![tuples[0]];
        slice.extend(&shape[1..]);
        let updates = rng.tensor(DType::I32, &slice, 2.0);
        let updates = as_dtype(&updates);
        let mut want = reals(&data);
        let size: usize = shape[1..].iter().product();
        for t in 0..tuples[0] {
            let to = wrap(idx.get(t).to_i64(), n) * size;
            for k in 0..size {
                want[to + k] = combine(how, want[to + k], updates.get(t * size + k).to_f64());
            }
        }
        assert_eq!(reals(&eval(ScatterNd { reduction: how }, &[&data, &idx, &updates])[0]), want);
    }
}

#[test]
fn an_index_out_of_range_is_an_error_that_names_it() {
    let data = HostTensor::from_vec([2, 3], vec![1f32; 6]).unwrap();
    let bad =
        |i: i64, shape: &[usize]| HostTensor::from_slice(shape, &vec![i; shape.iter().product()]).unwrap();
    let one = HostTensor::from_vec([1, 1], vec![1f32]).unwrap();
    let row = HostTensor::from_vec([1, 3], vec![1f32; 3]).unwrap();
    for i in [3, -4, i64::MAX, i64::MIN] {
        for e in [
            fails(Gather { axis: 1 }, &[&data, &bad(i, &[4])]),
            fails(GatherElements { axis: 1 }, &[&data, &bad(i, &[2, 2])]),
            fails(GatherNd { batch_dims: 1 }, &[&data, &bad(i, &[2, 1])]),
            fails(ScatterElements { axis: 1, reduction: OnScatter::Add }, &[&data, &bad(i, &[1, 1]), &one]),
        ] {
            assert!(e.is_invalid_argument(), "{e:?}");
            let text = e.to_string();
            assert!(text.contains(&format!("index {i} ")) && text.contains("axis 1"), "{text}");
        }
        let e = fails(ScatterNd { reduction: OnScatter::Replace }, &[&data, &bad(i, &[1, 1]), &row]);
        assert!(e.to_string().contains(&format!("index {i} ")), "{e}");
    }
    let none = HostTensor::zeros(TensorType::new(DType::F32, [0, 3])).unwrap();
    assert!(fails(Gather { axis: 0 }, &[&none, &bad(0, &[1])]).is_invalid_argument());
}

#[test]
fn the_k_greatest_and_least_come_in_order_with_lower_indices_first() {
    let mut rng = Rng::new(24);
    for _ in 0..150 {
        let rank = 1 + rng.below(3);
        let axis = rng.below(rank);
        let mut shape = rng.shape(rank);
        shape[axis] = rng.below(40);
        let dtype = [DType::F32, DType::F16, DType::I64, DType::U8, DType::F64][rng.below(5)];
        let mut x = rng.tensor(dtype, &shape, 6.0);
        if dtype == DType::F32 {
            let n = x.ty().shape.len();
            for _ in 0..n / 8 {
                let i = rng.below(n);
                x.as_mut_slice::<f32>().unwrap()[i] = if rng.below(2) == 0 { f32::NAN } else { 1.0 };
            }
        }
        let k = rng.below(shape[axis] + 1);
        for largest in [false, true] {
            let got = eval(TopK { k, axis, largest, sorted: true }, &[&x]);
            let outer: usize = shape[..axis].iter().product();
            let inner: usize = shape[axis + 1..].iter().product();
            for o in 0..outer {
                for i in 0..inner {
                    let at = |j: usize, len: usize| (o * len + j) * inner + i;
                    let mut line: Vec<(f64, usize)> =
                        (0..shape[axis]).map(|j| (x.get(at(j, shape[axis])).to_f64(), j)).collect();
                    // NaN counts as greatest.
                    line.sort_by(|a, b| {
                        let key = |v: f64| if v.is_nan() { f64::INFINITY } else { v };
                        let by = key(a.0).partial_cmp(&key(b.0)).unwrap();
                        (if largest { by.reverse() } else { by }).then(a.1.cmp(&b.1))
                    });
                    for (j, want) in line[..k].iter().enumerate() {
                        assert_eq!(got[1].get(at(j, k)).to_i64(), want.1 as i64);
                        let value = got[0].get(at(j, k)).to_f64();
                        assert!(value == want.0 || (value.is_nan() && want.0.is_nan()));
                    }
                }
            }
        }
    }
}

#[test]
fn distinct_elements_are_found_sorted_or_in_order_of_occurrence() {
    let x = HostTensor::from_vec([7], vec![2f32, 1.0, 1.0, f32::NAN, 2.0, f32::NAN, -0.0]).unwrap();
    let sorted = eval(Unique { count: 4, sorted: true }, &[&x]);
    let values = reals(&sorted[0]);
    assert_eq!(values[..3], [0.0, 1.0, 2.0]);
    assert!(values[3].is_nan());
    assert_eq!(wholes(&sorted[1]), [6, 1, 0, 3]);
    assert_eq!(wholes(&sorted[2]), [2, 1, 1, 3, 2, 3, 0]);
    assert_eq!(wholes(&sorted[3]), [1, 2, 2, 2]);
    let first = eval(Unique { count: 4, sorted: false }, &[&x]);
    assert_eq!(wholes(&first[1]), [0, 1, 3, 6]);
    assert_eq!(wholes(&first[2]), [0, 1, 1, 2, 0, 2, 3]);
    assert!(fails(Unique { count: 3, sorted: true }, &[&x]).to_string().contains("has 4"));
}
