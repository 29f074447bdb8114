use streampool_core::op::*;

use crate::common::*;

const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

#[test]
fn softmax_over_any_axes_matches() {
    let mut rng = Rng::new(41);
    for case in 0..200 {
        let rank = 1 + rng.below(4);
        let shape = rng.shape(rank);
        let axis = rng.below(rank);
        let axes = 1 + rng.below(rank - axis);
        let dtype = FLOATS[rng.below(4)];
        let log = case % 2 == 1;
        let x = View { base: rng.tensor(dtype, &shape, 8.0), layout: Layout::contiguous(shape.clone()) };
        let (outer, n, inner) = (
            shape[..axis].iter().product::<usize>(),
            shape[axis..axis + axes].iter().product::<usize>(),
            shape[axis + axes..].iter().product::<usize>(),
        );
        let v = reals(&x.base);
        let mut want = vec![0.0; v.len()];
        for o in 0..outer {
            for i in 0..inner {
                let at = |k: usize| (o * n + k) * inner + i;
                let top = (0..n).map(|k| v[at(k)]).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = (0..n).map(|k| (v[at(k)] - top).exp()).sum();
                for k in 0..n {
                    let d = v[at(k)] - top;
                    want[at(k)] = if log { d - sum.ln() } else { d.exp() / sum };
                }
            }
        }
        let op = Op::Softmax(Softmax { axis, axes, log });
        let got = run_views(&op, &[&x], None).unwrap();
        close(&got[0], &want, 6.0 * epsilon(dtype), (&op, &shape));
        assert_eq!(run_views(&op, &[&x], Some(0)).unwrap(), got, "in place");
    }
}

#[test]
fn softmax_of_extremes() {
    let soft = |v: Vec<f32>| {
        let x = HostTensor::from_vec([v.len()], v).unwrap();
        reals(&eval(Softmax { axis: 0, axes: 1, log: false }, &[&x])[0])
    };
    assert_eq!(soft(vec![1e30, -1e30, 0.0]), [1.0, 0.0, 0.0]);
    assert_eq!(soft(vec![f32::NEG_INFINITY, 3.0]), [0.0, 1.0]);
    assert!(soft(vec![f32::NAN, 3.0]).iter().all(|x| x.is_nan()));
    assert!(soft(vec![f32::NEG_INFINITY; 2]).iter().all(|x| x.is_nan()));
}

#[test]
fn layer_norm_with_every_extra_matches() {
    let mut rng = Rng::new(42);
    for case in 0..300 {
        let rank = 1 + rng.below(4);
        let shape = rng.shape(rank);
        let axis = rng.below(rank);
        let dtype = FLOATS[rng.below(4)];
        let [rms, scale, bias, residual] = [0, 1, 2, 3].map(|b| case >> b & 1 == 1);
        let op = LayerNorm { axis, epsilon: F32::new(1e-3), rms, scale, bias, residual };
        let dims = &shape[axis..];
        let x = rng.tensor(dtype, &shape, 2.0);
        // Scale and bias may leave out or shorten axes.
        let small = |rng: &mut Rng| -> Vec<usize> {
            let skip = if rng.below(3) == 0 { rng.below(dims.len() + 1) } else { 0 };
            dims[skip..].iter().map(|&d| if rng.below(6) == 0 { 1 } else { d }).collect()
        };
        let (scale_shape, bias_shape) = (small(&mut rng), small(&mut rng));
        let s = rng.tensor(dtype, &scale_shape, 2.0);
        let b = rng.tensor(dtype, &bias_shape, 2.0);
        let r = rng.tensor(dtype, &shape, 2.0);
        let mut inputs = vec![&x];
        inputs.extend(scale.then_some(&s));
        inputs.extend(bias.then_some(&b));
        inputs.extend(residual.then_some(&r));
        let n: usize = dims.iter().product();
        let small_at = |t: &HostTensor, k: usize| {
            let at = coordinates(dims, k);
            let own = &t.ty().shape;
            let lead = dims.len() - own.rank();
            let at: Vec<usize> =
                (0..own.rank()).map(|a| if own[a] == 1 { 0 } else { at[a + lead] }).collect();
            t.get(index(own, &at)).to_f64()
        };
        let mut want = Vec::new();
        for row in 0..x.ty().shape.len().checked_div(n).unwrap_or(0) {
            let v: Vec<f64> = (0..n)
                .map(|k| {
                    let i = row * n + k;
                    x.get(i).to_f64() + if residual { r.get(i).to_f64() } else { 0.0 }
                })
                .collect();
            let mean = if rms { 0.0 } else { v.iter().sum::<f64>() / n as f64 };
            let variance = v.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n as f64;
            for (k, x) in v.iter().enumerate() {
                let y = (x - mean) / (variance + f64::from(1e-3f32)).sqrt();
                want.push(
                    y * if scale { small_at(&s, k) } else { 1.0 } + if bias { small_at(&b, k) } else { 0.0 },
                );
            }
        }
        let views: Vec<View> = inputs
            .iter()
            .map(|t| View { base: (*t).clone(), layout: Layout::contiguous(t.ty().shape.clone()) })
            .collect();
        let refs: Vec<&View> = views.iter().collect();
        let wrapped = Op::LayerNorm(op.clone());
        let got = run_views(&wrapped, &refs, None).unwrap();
        close(&got[0], &want, 40.0 * epsilon(dtype).min(0.01), (&op, &shape));
        assert_eq!(run_views(&wrapped, &refs, Some(0)).unwrap(), got, "in place");
        if residual {
            assert_eq!(run_views(&wrapped, &refs, Some(refs.len() - 1)).unwrap(), got, "in place");
        }
    }
}
