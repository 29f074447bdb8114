use streampool_core::op::*;

use crate::common::*;

/// All coordinates of a shape.
fn all(shape: &[usize]) -> Vec<Vec<usize>> {
    (0..shape.iter().product()).map(|i| coordinates(shape, i)).collect()
}

#[test]
fn pooling_of_any_rank_matches() {
    let mut rng = Rng::new(61);
    let mut done = 0;
    for case in 0..600 {
        let axes = rng.below(4);
        let mut shape = vec![1 + rng.below(2), 1 + rng.below(3)];
        shape.extend((0..axes).map(|_| 1 + rng.below(9)));
        let mut some = |low: usize, high: usize| -> Vec<usize> {
            (0..axes).map(|_| low + rng.below(high - low + 1)).collect()
        };
        let (kernel, strides, dilations) = (some(1, 3), some(1, 3), some(1, 2));
        let (pads_before, pads_after) = (some(0, 2), some(0, 2));
        let kind = match case % 5 {
            0 => PoolKind::Max { indices: false, column_major: false },
            1 => PoolKind::Max { indices: true, column_major: case % 2 == 0 },
            2 => PoolKind::Average { count_pad: case % 2 == 0 },
            3 => PoolKind::Lp { p: 1 + case as u32 / 5 % 3 },
            _ => PoolKind::Average { count_pad: false },
        };
        let max = matches!(kind, PoolKind::Max { .. });
        let dtype = if max {
            [DType::F32, DType::F16, DType::I8, DType::U8][rng.below(4)]
        } else {
            [DType::F32, DType::F64, DType::F16][rng.below(3)]
        };
        let op = Pool {
            kind,
            kernel: kernel.clone(),
            strides: strides.clone(),
            dilations: dilations.clone(),
            pads_before: pads_before.clone(),
            pads_after: pads_after.clone(),
            ceil: rng.below(2) == 0,
        };
        let x = rng.tensor(dtype, &shape, 3.0);
        let Ok(out) = Op::Pool(op.clone()).infer(std::slice::from_ref(x.ty())) else { continue };
        done += 1;
        let got = eval(op.clone(), &[&x]);
        let mut want = Vec::new();
        for (i, at) in all(&out[0].shape).into_iter().enumerate() {
            let mut values: Vec<(f64, usize)> = Vec::new();
            let mut padded = 0;
            for k in all(&kernel) {
                let position: Vec<i64> = (0..axes)
                    .map(|a| (at[2 + a] * strides[a] + k[a] * dilations[a]) as i64 - pads_before[a] as i64)
                    .collect();
                let within = |extra: &dyn Fn(usize) -> i64| {
                    (0..axes).all(|a| position[a] < shape[2 + a] as i64 + extra(a))
                };
                padded += usize::from(within(&|a| pads_after[a] as i64));
                if position.iter().all(|&p| p >= 0) && within(&|_| 0) {
                    let mut from = at[..2].to_vec();
                    from.extend(position.iter().map(|&p| p as usize));
                    values.push((x.get(index(&shape, &from)).to_f64(), {
                        if matches!(kind, PoolKind::Max { column_major: true, .. }) {
                            let plane: usize = shape[2..].iter().product();
                            let column =
                                from[2..].iter().zip(&shape[2..]).rev().fold(0, |f, (&p, &d)| f * d + p);
                            (from[0] * shape[1] + from[1]) * plane + column
                        } else {
                            index(&shape, &from)
                        }
                    }));
                }
            }
            want.push(match kind {
                PoolKind::Max { indices, .. } => {
                    let best = values.iter().copied().reduce(|a, b| if b.0 > a.0 { b } else { a });
                    if indices {
                        assert_eq!(
                            got[1].get(i).to_i64(),
                            best.map_or(-1, |b| b.1 as i64),
                            "{op:?} {shape:?}"
                        );
                    }
                    let lowest = match dtype {
                        DType::I8 => -128.0,
                        DType::U8 => 0.0,
                        _ => f64::NEG_INFINITY,
                    };
                    best.map_or(lowest, |b| b.0)
                }
                PoolKind::Average { count_pad } => {
                    let count = if count_pad { padded } else { values.len() };
                    values.iter().map(|v| v.0).sum::<f64>() / count.max(1) as f64
                }
                PoolKind::Lp { p } => {
                    let p = f64::from(p);
                    values.iter().map(|v| v.0.abs().powf(p)).sum::<f64>().powf(1.0 / p)
                }
            });
        }
        close(&got[0], &want, 8.0 * epsilon(dtype), (&op, &shape));
    }
    assert!(done > 250, "{done}");
}

#[test]
fn the_greatest_of_a_window_with_nan_is_nan() {
    let x = HostTensor::from_vec([1, 1, 4], vec![1f32, f32::NAN, 3.0, 2.0]).unwrap();
    for indices in [false, true] {
        let op = Pool {
            kind: PoolKind::Max { indices, column_major: false },
            kernel: vec![2],
            strides: vec![1],
            dilations: vec![1],
            pads_before: vec![0],
            pads_after: vec![0],
            ceil: false,
        };
        let y = eval(op, &[&x]);
        let v = reals(&y[0]);
        assert!(v[0].is_nan() && v[1].is_nan() && v[2] == 3.0, "{v:?}");
        if indices {
            assert_eq!(wholes(&y[1]), [1, 1, 2]);
        }
    }
}

#[test]
fn a_window_much_larger_than_the_input_takes_no_time() {
    let x = HostTensor::from_vec([1, 1, 2, 2], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
    let huge = 1usize << 40;
    let op = Pool {
        kind: PoolKind::Average { count_pad: false },
        kernel: vec![huge; 2],
        strides: vec![1; 2],
        dilations: vec![1; 2],
        pads_before: vec![huge / 2; 2],
        pads_after: vec![huge / 2; 2],
        ceil: false,
    };
    assert_eq!(reals(&eval(op, &[&x])[0])[0], 2.5);
}

fn cubic(a: f64, x: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0
    } else if x < 2.0 {
        a * x.powi(3) - 5.0 * a * x.powi(2) + 8.0 * a * x - 4.0 * a
    } else {
        0.0
    }
}

/// The value at real coordinates by the full product over all axes, as ONNX states it.
fn sample(x: &HostTensor, at: &[f64], weight: &dyn Fn(f64) -> f64, radius: i64, exclude: bool) -> f64 {
    let shape = x.ty().shape.to_vec();
    let axes: Vec<Vec<(usize, f64)>> = at
        .iter()
        .zip(&shape)
        .map(|(&c, &n)| {
            let base = c.floor() as i64;
            let mut taps: Vec<(i64, f64)> =
                (base - radius + 1..=base + radius).map(|i| (i, weight(i as f64 - c))).collect();
            if exclude {
                taps.retain(|t| t.0 >= 0 && t.0 < n as i64);
                let sum: f64 = taps.iter().map(|t| t.1).sum();
                taps.iter_mut().for_each(|t| t.1 /= sum);
            }
            taps.into_iter().map(|(i, w)| (i.clamp(0, n as i64 - 1) as usize, w)).collect()
        })
        .collect();
    let counts: Vec<usize> = axes.iter().map(Vec::len).collect();
    all(&counts)
        .into_iter()
        .map(|k| {
            let (mut w, mut from) = (1.0, Vec::new());
            for (axis, &t) in k.iter().enumerate() {
                w *= axes[axis][t].1;
                from.push(axes[axis][t].0);
            }
            w * x.get(index(&shape, &from)).to_f64()
        })
        .sum()
}

#[test]
fn resizing_by_every_mode_matches() {
    let mut rng = Rng::new(62);
    let coordinate_modes = [
        CoordinateMode::HalfPixel,
        CoordinateMode::HalfPixelSymmetric,
        CoordinateMode::PytorchHalfPixel,
        CoordinateMode::AlignCorners,
        CoordinateMode::Asymmetric,
        CoordinateMode::TfCropAndResize { extrapolation: F32::new(-7.0) },
    ];
    for case in 0..400 {
        let rank = 1 + rng.below(3);
        let shape: Vec<usize> = (0..rank).map(|_| 1 + rng.below(6)).collect();
        let sizes: Vec<usize> =
            shape.iter().map(|&d| if rng.below(3) == 0 { d } else { 1 + rng.below(9) }).collect();
        let coordinates_mode = coordinate_modes[case % 6];
        let crop = matches!(coordinates_mode, CoordinateMode::TfCropAndResize { .. });
        let a = F32::new(-0.75);
        let mode = match rng.below(6) {
            0 => ResizeMode::Nearest(NearestMode::RoundPreferFloor),
            1 => ResizeMode::Nearest(NearestMode::Ceil),
            2 => ResizeMode::Nearest(NearestMode::Floor),
            3 => ResizeMode::Linear { antialias: false },
            4 => ResizeMode::Cubic { a, exclude_outside: false, antialias: false },
            _ => ResizeMode::Cubic { a, exclude_outside: true, antialias: false },
        };
        let dtype = [DType::F32, DType::F64][rng.below(2)];
        let roi: Vec<(F32, F32)> =
            if crop { shape.iter().map(|_| (F32::new(0.25), F32::new(1.25))).collect() } else { vec![] };
        let op = Resize {
            sizes: sizes.clone(),
            scales: sizes.iter().zip(&shape).map(|(&o, &i)| F32::new(o as f32 / i as f32)).collect(),
            coordinates: coordinates_mode,
            mode,
            roi,
        };
        let x = rng.tensor(dtype, &shape, 5.0);
        let got = &eval(op.clone(), &[&x])[0];
        let want: Vec<f64> = all(&sizes)
            .into_iter()
            .map(|at| {
                let real: Vec<f64> = (0..rank)
                    .map(|axis| {
                        let (o, n, m) = (at[axis] as f64, shape[axis] as f64, sizes[axis] as f64);
                        let scale = m / n;
                        match coordinates_mode {
                            CoordinateMode::PytorchHalfPixel if m == 1.0 => 0.0,
                            CoordinateMode::HalfPixel
                            | CoordinateMode::HalfPixelSymmetric
                            | CoordinateMode::PytorchHalfPixel => (o + 0.5) / scale - 0.5,
                            CoordinateMode::AlignCorners if m == 1.0 => 0.0,
                            CoordinateMode::AlignCorners => o * (n - 1.0) / (m - 1.0),
                            CoordinateMode::Asymmetric => o / scale,
                            CoordinateMode::TfCropAndResize { .. } if m == 1.0 => 0.5 * 1.5 * (n - 1.0),
                            CoordinateMode::TfCropAndResize { .. } => {
                                0.25 * (n - 1.0) + o * (n - 1.0) / (m - 1.0)
                            }
                        }
                    })
                    .collect();
                let outside = real.iter().zip(&shape).any(|(&c, &n)| c < 0.0 || c > n as f64 - 1.0);
                if crop && outside {
                    return -7.0;
                }
                match mode {
                    ResizeMode::Nearest(nearest) => {
                        let from: Vec<usize> = real
                            .iter()
                            .zip(&shape)
                            .map(|(&c, &n)| {
                                let i = match nearest {
                                    NearestMode::RoundPreferFloor => (c - 0.5).ceil(),
                                    NearestMode::RoundPreferCeil => (c + 0.5).floor(),
                                    NearestMode::Floor => c.floor(),
                                    NearestMode::Ceil => c.ceil(),
                                };
                                i.clamp(0.0, n as f64 - 1.0) as usize
                            })
                            .collect();
                        x.get(index(&shape, &from)).to_f64()
                    }
                    ResizeMode::Linear { .. } => sample(&x, &real, &|d| (1.0 - d.abs()).max(0.0), 1, false),
                    ResizeMode::Cubic { exclude_outside, .. } => {
                        sample(&x, &real, &|d| cubic(-0.75, d), 2, exclude_outside)
                    }
                }
            })
            .collect();
        close(got, &want, 100.0 * epsilon(dtype), (&op, &shape));
    }
}

#[test]
fn shrinking_with_antialiasing_averages() {
    // Halving with a triangle of twice the width: weights 1, 3, 3, 1 over 8, and 3, 3, 1 over 7 at the edge.
    let x = HostTensor::from_vec([8], (0..8).map(|i| (i * i) as f32).collect()).unwrap();
    let op = Resize {
        sizes: vec![4],
        scales: vec![F32::new(0.5)],
        coordinates: CoordinateMode::HalfPixel,
        mode: ResizeMode::Linear { antialias: true },
        roi: vec![],
    };
    let v = reals(&x);
    let middle = |i: usize| (v[i - 1] + 3.0 * v[i] + 3.0 * v[i + 1] + v[i + 2]) / 8.0;
    // Outside elements are the edge's copies.
    let first = (v[0] + 3.0 * v[0] + 3.0 * v[1] + v[2]) / 8.0;
    let last = (v[5] + 3.0 * v[6] + 3.0 * v[7] + v[7]) / 8.0;
    close(&eval(op, &[&x])[0], &[first, middle(2), middle(4), last], 1e-6, "antialias");
}

#[test]
fn integers_are_rounded_when_resized() {
    let x = HostTensor::from_vec([2], vec![0u8, 255]).unwrap();
    let op = Resize {
        sizes: vec![4],
        scales: vec![F32::new(2.0)],
        coordinates: CoordinateMode::HalfPixel,
        mode: ResizeMode::Linear { antialias: false },
        roi: vec![],
    };
    assert_eq!(wholes(&eval(op, &[&x])[0]), [0, 64, 191, 255]);
}
