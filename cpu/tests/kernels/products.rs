use streampool_core::op::*;

use crate::common::*;

fn activation(f: Option<Activation>, x: f64) -> f64 {
    match f {
        None => x,
        Some(Activation::Relu) => x.max(0.0),
        Some(Activation::Sigmoid) => 1.0 / (1.0 + (-x).exp()),
        Some(Activation::Tanh) => x.tanh(),
        Some(Activation::Gelu) => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
        Some(Activation::GeluTanh) => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Some(Activation::Silu) => x / (1.0 + (-x).exp()),
        Some(Activation::LeakyRelu(a)) => {
            if x < 0.0 {
                x * f64::from(a.get())
            } else {
                x
            }
        }
        Some(Activation::Clip(a, b)) => x.clamp(f64::from(a.get()), f64::from(b.get())),
    }
}

fn random_activation(rng: &mut Rng) -> Option<Activation> {
    [
        None,
        Some(Activation::Relu),
        Some(Activation::Sigmoid),
        Some(Activation::Tanh),
        Some(Activation::Gelu),
        Some(Activation::GeluTanh),
        Some(Activation::Silu),
        Some(Activation::LeakyRelu(F32::new(0.1))),
        Some(Activation::Clip(F32::new(-0.5), F32::new(0.75))),
    ][rng.below(9)]
}

/// The element of `t` at `at` under NumPy's broadcasting.
fn broadcast(t: &HostTensor, at: &[usize]) -> f64 {
    let s = &t.ty().shape;
    let lead = at.len() - s.rank();
    let own: Vec<usize> = (0..s.rank()).map(|k| if s[k] == 1 { 0 } else { at[k + lead] }).collect();
    t.get(index(s, &own)).to_f64()
}

#[test]
fn matrix_products_of_strided_factors_with_every_extra_match() {
    let mut rng = Rng::new(81);
    for case in 0..250 {
        let dtype = [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::I64][rng.below(6)];
        let float = dtype.is_float();
        let batch = {
            let r = rng.below(3);
            rng.shape(r).iter().map(|&d| d.min(3)).collect::<Vec<_>>()
        };
        let (m, k, n) = (rng.below(20), rng.below(40), rng.below(40));
        let lead = |rng: &mut Rng| -> Vec<usize> {
            let skip = rng.below(batch.len() + 1);
            batch[skip..].iter().map(|&d| if rng.below(3) == 0 { 1 } else { d }).collect()
        };
        let (la, lb) = (lead(&mut rng), lead(&mut rng));
        let a = View::random(&mut rng, dtype, &[la.clone(), vec![m, k]].concat(), 1.0);
        let b = View::random(&mut rng, dtype, &[lb.clone(), vec![k, n]].concat(), 1.0);
        let out_batch = Shape::new(&la).broadcast(&Shape::new(&lb)).unwrap();
        let out = [&out_batch[..], &[m, n]].concat();
        let op = MatMul {
            alpha: F32::new(if float { 0.5 } else { 1.0 }),
            bias: rng.below(2) == 0,
            residual: rng.below(2) == 0,
            activation: if float { random_activation(&mut rng) } else { None },
        };
        let whole = |t: HostTensor| {
            let layout = Layout::contiguous(t.ty().shape.clone());
            View { base: t, layout }
        };
        let bias_shape: Vec<usize> =
            out[rng.below(out.len() + 1)..].iter().map(|&d| if rng.below(3) == 0 { 1 } else { d }).collect();
        let bias = whole(rng.tensor(dtype, &bias_shape, 1.0));
        let residual = whole(rng.tensor(dtype, &out, 1.0));
        let mut views = vec![&a, &b];
        views.extend(op.bias.then_some(&bias));
        views.extend(op.residual.then_some(&residual));
        let got = &run_views(&Op::MatMul(op.clone()), &views, None).unwrap()[0];
        let (fa, fb) = (a.contiguous(), b.contiguous());
        let rank = out.len();
        let want: Vec<f64> = (0..out.iter().product())
            .map(|i| {
                let at = coordinates(&out, i);
                let mut sum: f64 = (0..k)
                    .map(|l| {
                        let (mut p, mut q) = (at.clone(), at.clone());
                        p[rank - 1] = l;
                        q[rank - 2] = l;
                        broadcast_matrix(&fa, &p) * broadcast_matrix(&fb, &q)
                    })
                    .sum();
                sum *= f64::from(op.alpha.get());
                if op.bias {
                    sum += broadcast(&bias.base, &at);
                }
                if op.residual {
                    sum += residual.base.get(i).to_f64();
                }
                activation(op.activation, sum)
            })
            .collect();
        // Rounding of f16 results, and of sums of up to 40 terms.
        let tolerance = match dtype {
            DType::F32 => 1e-5,
            DType::F64 => 1e-12,
            d => 4.0 * epsilon(d),
        };
        close(got, &want, tolerance, (case, &op, &out));
    }
}

/// As [`broadcast`], but the last two axes are never repeated.
fn broadcast_matrix(t: &HostTensor, at: &[usize]) -> f64 {
    let s = &t.ty().shape;
    let lead = at.len() - s.rank();
    let own: Vec<usize> =
        (0..s.rank()).map(|k| if k + 2 < s.rank() && s[k] == 1 { 0 } else { at[k + lead] }).collect();
    t.get(index(s, &own)).to_f64()
}

#[test]
fn convolutions_of_any_rank_match() {
    let mut rng = Rng::new(82);
    let mut done = 0;
    for case in 0..200 {
        let axes = rng.below(4);
        let (n, groups) = (1 + rng.below(2), 1 + rng.below(3));
        let (c, m) = (groups * (1 + rng.below(3)), groups * (1 + rng.below(4)));
        let mut some = |low: usize, high: usize| -> Vec<usize> {
            (0..axes).map(|_| low + rng.below(high - low + 1)).collect()
        };
        let (input, kernel, strides, dilations) = (some(1, 9), some(1, 3), some(1, 3), some(1, 2));
        let (pads_before, pads_after) = (some(0, 2), some(0, 2));
        let dtype = [DType::F32, DType::F64, DType::F16][rng.below(3)];
        let op = Conv {
            strides: strides.clone(),
            dilations: dilations.clone(),
            pads_before: pads_before.clone(),
            pads_after: pads_after.clone(),
            groups,
            bias: rng.below(2) == 0,
            residual: rng.below(2) == 0,
            activation: random_activation(&mut rng),
        };
        let x = rng.tensor(dtype, &[vec![n, c], input.clone()].concat(), 1.0);
        let w = rng.tensor(dtype, &[vec![m, c / groups], kernel.clone()].concat(), 1.0);
        let bias = rng.tensor(dtype, &[m], 1.0);
        let plain = Conv { bias: false, residual: false, ..op.clone() };
        let Ok(out) = Op::Conv(plain).infer(&[x.ty().clone(), w.ty().clone()]) else { continue };
        done += 1;
        let out = out[0].shape.clone();
        let residual = rng.tensor(dtype, &out, 1.0);
        let mut inputs = vec![&x, &w];
        inputs.extend(op.bias.then_some(&bias));
        inputs.extend(op.residual.then_some(&residual));
        let got = &eval(op.clone(), &inputs)[0];
        let want: Vec<f64> = (0..out.len())
            .map(|i| {
                let at = coordinates(&out, i);
                let mut sum = 0.0;
                for k in 0..kernel.iter().product() {
                    let k = coordinates(&kernel, k);
                    for l in 0..c / groups {
                        let mut from = vec![at[0], at[1] / (m / groups) * (c / groups) + l];
                        for a in 0..axes {
                            let p = at[2 + a] * strides[a] + k[a] * dilations[a];
                            from.push(p.wrapping_sub(pads_before[a]));
                        }
                        if (0..axes).all(|a| from[2 + a] < input[a]) {
                            let mut weight = vec![at[1], l];
                            weight.extend(&k);
                            sum += x.get(index(&x.ty().shape, &from)).to_f64()
                                * w.get(index(&w.ty().shape, &weight)).to_f64();
                        }
                    }
                }
                sum += if op.bias { bias.get(at[1]).to_f64() } else { 0.0 };
                sum += if op.residual { residual.get(i).to_f64() } else { 0.0 };
                activation(op.activation, sum)
            })
            .collect();
        let tolerance = if dtype == DType::F32 { 1e-5 } else { 6.0 * epsilon(dtype) };
        close(got, &want, tolerance, (case, &op, &out));
    }
    assert!(done > 100, "{done}");
}

#[test]
fn transposed_convolutions_scatter_what_convolutions_gather() {
    let mut rng = Rng::new(83);
    let mut done = 0;
    for case in 0..200 {
        let axes = 1 + rng.below(2);
        let groups = 1 + rng.below(2);
        let (n, c, per) = (1 + rng.below(2), groups * (1 + rng.below(3)), 1 + rng.below(3));
        let mut some = |low: usize, high: usize| -> Vec<usize> {
            (0..axes).map(|_| low + rng.below(high - low + 1)).collect()
        };
        let (input, kernel, strides, dilations) = (some(1, 6), some(1, 4), some(1, 3), some(1, 2));
        let signed = |v: Vec<usize>| v.into_iter().map(|p| p as isize - 1).collect::<Vec<isize>>();
        let (pads_before, pads_after) = (signed(some(0, 3)), signed(some(0, 3)));
        let op = ConvTranspose {
            output_padding: strides.iter().map(|&s| s - 1).collect(),
            strides: strides.clone(),
            dilations: dilations.clone(),
            pads_before: pads_before.clone(),
            pads_after,
            groups,
            bias: case % 2 == 0,
        };
        let x = rng.tensor(DType::F32, &[vec![n, c], input.clone()].concat(), 1.0);
        let w = rng.tensor(DType::F32, &[vec![c, per], kernel.clone()].concat(), 1.0);
        let bias = rng.tensor(DType::F32, &[per * groups], 1.0);
        let mut inputs = vec![&x, &w];
        inputs.extend(op.bias.then_some(&bias));
        let types: Vec<TensorType> = inputs.iter().map(|t| t.ty().clone()).collect();
        let Ok(out) = Op::ConvTranspose(op.clone()).infer(&types) else { continue };
        done += 1;
        let out = out[0].shape.clone();
        let mut want = vec![0.0; out.len()];
        // Every input element adds the weighted kernel to the output.
        for i in 0..x.ty().shape.len() {
            let at = coordinates(&x.ty().shape, i);
            let group = at[1] / (c / groups);
            for k in 0..w.ty().shape[1..].iter().product() {
                let k = coordinates(&w.ty().shape[1..], k);
                let mut to = vec![at[0], group * per + k[0]];
                let mut inside = true;
                for a in 0..axes {
                    let p = (at[2 + a] * strides[a] + k[1 + a] * dilations[a]) as isize - pads_before[a];
                    inside &= p >= 0 && (p as usize) < out[2 + a];
                    to.push(p as usize);
                }
                if inside {
                    let weight = [&[at[1]], &k[..]].concat();
                    want[index(&out, &to)] +=
                        x.get(i).to_f64() * w.get(index(&w.ty().shape, &weight)).to_f64();
                }
            }
        }
        if op.bias {
            for (i, v) in want.iter_mut().enumerate() {
                *v += bias.get(coordinates(&out, i)[1]).to_f64();
            }
        }
        close(&eval(op.clone(), &inputs)[0], &want, 1e-5, (case, &op, &out));
    }
    assert!(done > 100, "{done}");
}

#[test]
fn attention_matches_scores_softmax_and_mean() {
    let mut rng = Rng::new(84);
    for case in 0..150 {
        let dtype = [DType::F32, DType::F16, DType::BF16][rng.below(3)];
        let g = 1 + rng.below(3);
        let (b, h, s, t) = (1 + rng.below(2), g * (1 + rng.below(2)), 1 + rng.below(20), 1 + rng.below(40));
        let (d, e) = (1 + rng.below(20), 1 + rng.below(20));
        let op = Attention {
            scale: F32::new(0.3),
            causal: rng.below(2) == 0,
            mask: rng.below(2) == 0,
            merge_heads: rng.below(2) == 0,
        };
        // Heads are usually a view of (b, s, h, d): the last axis steps by one.
        let heads = |rng: &mut Rng, n: usize, l: usize, w: usize| {
            let base = rng.tensor(dtype, &[b, l, n, w], 1.0);
            View { base, layout: Layout::contiguous([b, l, n, w]).permute(&[0, 2, 1, 3]) }
        };
        let (q, k, v) = (heads(&mut rng, h, s, d), heads(&mut rng, g, t, d), heads(&mut rng, g, t, e));
        let mask_shape: Vec<usize> =
            [b, h, s, t][rng.below(5)..].iter().map(|&d| if rng.below(3) == 0 { 1 } else { d }).collect();
        let mask = rng.tensor(dtype, &mask_shape, 1.0);
        let mask_view = View { base: mask.clone(), layout: Layout::contiguous(mask_shape) };
        let mut views = vec![&q, &k, &v];
        views.extend(op.mask.then_some(&mask_view));
        let got = &run_views(&Op::Attention(op.clone()), &views, None).unwrap()[0];
        let [q, k, v] = [&q, &k, &v].map(|v| v.contiguous());
        let mut want = vec![0.0; b * h * s * e];
        for n in 0..b {
            for head in 0..h {
                let group = head / (h / g);
                for i in 0..s {
                    let scores: Vec<f64> = (0..t)
                        .map(|j| {
                            if op.causal && j as isize > i as isize + t as isize - s as isize {
                                return f64::NEG_INFINITY;
                            }
                            let dot: f64 = (0..d)
                                .map(|l| {
                                    q.get(((n * h + head) * s + i) * d + l).to_f64()
                                        * k.get(((n * g + group) * t + j) * d + l).to_f64()
                                })
                                .sum();
                            let extra = if op.mask { broadcast(&mask, &[n, head, i, j]) } else { 0.0 };
                            dot * f64::from(op.scale.get()) + extra
                        })
                        .collect();
                    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    if top == f64::NEG_INFINITY {
                        continue; // sees no key: zeros
                    }
                    let total: f64 = scores.iter().map(|x| (x - top).exp()).sum();
                    for c in 0..e {
                        let sum: f64 = (0..t)
                            .map(|j| {
                                (scores[j] - top).exp() * v.get(((n * g + group) * t + j) * e + c).to_f64()
                            })
                            .sum();
                        let to = if op.merge_heads {
                            ((n * s + i) * h + head) * e + c
                        } else {
                            ((n * h + head) * s + i) * e + c
                        };
                        want[to] = sum / total;
                    }
                }
            }
        }
        let tolerance = if dtype == DType::F32 { 1e-5 } else { 4.0 * epsilon(dtype) };
        close(got, &want, tolerance, (case, &op));
    }
}

#[test]
fn integer_products_with_zero_points_are_exact() {
    let mut rng = Rng::new(85);
    for _ in 0..100 {
        let (ta, tb) = ([DType::I8, DType::U8][rng.below(2)], [DType::I8, DType::U8][rng.below(2)]);
        let (batch, m, k, n) = (1 + rng.below(3), 1 + rng.below(12), rng.below(70), 1 + rng.below(40));
        let (a, b) = (rng.tensor(ta, &[batch, m, k], 255.0), rng.tensor(tb, &[k, n], 255.0));
        let za_shape = [vec![], vec![1], vec![m], vec![batch, m, 1]][rng.below(4)].clone();
        let zb_shape = [vec![], vec![1], vec![n], vec![1, n]][rng.below(4)].clone();
        let (za, zb) = (rng.tensor(ta, &za_shape, 255.0), rng.tensor(tb, &zb_shape, 255.0));
        let op = MatMulInteger { a_zero: rng.below(2) == 0, b_zero: rng.below(2) == 0 };
        let mut inputs = vec![&a, &b];
        inputs.extend(op.a_zero.then_some(&za));
        inputs.extend(op.b_zero.then_some(&zb));
        let want: Vec<i64> = (0..batch * m * n)
            .map(|x| {
                let (g, i, j) = (x / (m * n), x / n % m, x % n);
                let pick = |t: &HostTensor, many: usize| match t.ty().shape.len() {
                    1 => t.get(0).to_i64(),
                    _ => t.get(many).to_i64(),
                };
                let row = if za_shape.len() == 3 { g * m + i } else { i };
                let z = if op.a_zero { pick(&za, row) } else { 0 };
                let y = if op.b_zero { pick(&zb, j) } else { 0 };
                (0..k)
                    .map(|l| (a.get((g * m + i) * k + l).to_i64() - z) * (b.get(l * n + j).to_i64() - y))
                    .sum()
            })
            .collect();
        assert_eq!(wholes(&eval(op.clone(), &inputs)[0]), want, "{op:?} {za_shape:?} {zb_shape:?}");
    }
}
