use streampool_core::op::*;

use crate::common::*;

fn f(a: RecurrentActivation, x: f64) -> f64 {
    let v = |c: F32| f64::from(c.get());
    match a {
        RecurrentActivation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        RecurrentActivation::Tanh => x.tanh(),
        RecurrentActivation::Relu => x.max(0.0),
        RecurrentActivation::LeakyRelu(a) => {
            if x < 0.0 {
                v(a) * x
            } else {
                x
            }
        }
        RecurrentActivation::ThresholdedRelu(a) => {
            if x > v(a) {
                x
            } else {
                0.0
            }
        }
        RecurrentActivation::Affine(a, b) => v(a) * x + v(b),
        RecurrentActivation::Elu(a) => {
            if x < 0.0 {
                v(a) * (x.exp() - 1.0)
            } else {
                x
            }
        }
        RecurrentActivation::HardSigmoid(a, b) => (v(a) * x + v(b)).clamp(0.0, 1.0),
        RecurrentActivation::ScaledTanh(a, b) => v(a) * (v(b) * x).tanh(),
        RecurrentActivation::Softsign => x / (1.0 + x.abs()),
        RecurrentActivation::Softplus => x.exp().ln_1p(),
    }
}

const SOME: [RecurrentActivation; 11] = {
    use RecurrentActivation::*;
    let (a, b) = (F32::new(0.3), F32::new(0.6));
    [
        Sigmoid,
        Tanh,
        Relu,
        LeakyRelu(a),
        ThresholdedRelu(a),
        Affine(a, b),
        Elu(a),
        HardSigmoid(a, b),
        ScaledTanh(a, b),
        Softsign,
        Softplus,
    ]
};

#[test]
fn every_cell_and_option_matches_the_equations() {
    let mut rng = Rng::new(71);
    for case in 0..300 {
        let cell = match case % 5 {
            0 => Cell::Rnn,
            1 => Cell::Gru { linear_before_reset: false },
            2 => Cell::Gru { linear_before_reset: true },
            3 => Cell::Lstm { input_forget: false },
            _ => Cell::Lstm { input_forget: true },
        };
        let lstm = matches!(cell, Cell::Lstm { .. });
        let direction =
            [RecurrentDirection::Forward, RecurrentDirection::Reverse, RecurrentDirection::Bidirectional]
                [rng.below(3)];
        let (d, gates) = (direction.count(), cell.gates());
        let (t, b, i, h) = (rng.below(5), 1 + rng.below(3), 1 + rng.below(20), 1 + rng.below(19));
        let mut coin = || rng.below(2) == 0;
        let op = Recurrent {
            cell,
            direction,
            hidden: h,
            activations: vec![],
            clip: if coin() { Some(F32::new(0.8)) } else { None },
            bias: coin(),
            lengths: coin(),
            initial_h: coin(),
            initial_c: lstm && coin(),
            peephole: lstm && coin(),
        };
        let activations: Vec<_> = (0..d * cell.activations()).map(|_| SOME[rng.below(11)]).collect();
        let op = Recurrent { activations: activations.clone(), ..op };
        let dtype = [DType::F32, DType::F64][rng.below(2)];
        let mut make = |shape: &[usize]| rng.tensor(dtype, shape, 0.7);
        let x = make(&[t, b, i]);
        let (w, r) = (make(&[d, gates * h, i]), make(&[d, gates * h, h]));
        let (bias, h0, c0) = (make(&[d, 2 * gates * h]), make(&[d, b, h]), make(&[d, b, h]));
        let peep = make(&[d, 3 * h]);
        let lengths: Vec<i32> = (0..b).map(|_| rng.below(t + 1) as i32).collect();
        let lens = HostTensor::from_slice([b], &lengths).unwrap();
        let mut inputs = vec![&x, &w, &r];
        for (there, input) in [
            (op.bias, &bias),
            (op.lengths, &lens),
            (op.initial_h, &h0),
            (op.initial_c, &c0),
            (op.peephole, &peep),
        ] {
            inputs.extend(there.then_some(input));
        }
        let got = eval(op.clone(), &inputs);

        let mut y = vec![0.0; t * d * b * h];
        let (mut y_h, mut y_c) = (vec![0.0; d * b * h], vec![0.0; d * b * h]);
        for dir in 0..d {
            let act = |n: usize, x: f64| f(activations[dir * cell.activations() + n], x);
            let clip = |x: f64| op.clip.map_or(x, |c| x.clamp(-f64::from(c.get()), f64::from(c.get())));
            for n in 0..b {
                let start = |there: bool, s: &HostTensor| -> Vec<f64> {
                    (0..h).map(|k| if there { s.get((dir * b + n) * h + k).to_f64() } else { 0.0 }).collect()
                };
                let (mut hs, mut cs) = (start(op.initial_h, &h0), start(op.initial_c, &c0));
                let len = if op.lengths { lengths[n] as usize } else { t };
                let backwards = matches!(direction, RecurrentDirection::Reverse) || dir == 1;
                for s in 0..len {
                    let at = if backwards { len - 1 - s } else { s };
                    // The input's and the state's part of gate g, unit k.
                    let from_x = |g: usize, k: usize| -> f64 {
                        let row = dir * gates * h + g * h + k;
                        let b0 =
                            if op.bias { bias.get(dir * 2 * gates * h + g * h + k).to_f64() } else { 0.0 };
                        b0 + (0..i)
                            .map(|j| w.get(row * i + j).to_f64() * x.get((at * b + n) * i + j).to_f64())
                            .sum::<f64>()
                    };
                    let from_h = |g: usize, k: usize, state: &[f64]| -> f64 {
                        let row = dir * gates * h + g * h + k;
                        let b = if op.bias {
                            bias.get(dir * 2 * gates * h + (gates + g) * h + k).to_f64()
                        } else {
                            0.0
                        };
                        b + (0..h).map(|j| r.get(row * h + j).to_f64() * state[j]).sum::<f64>()
                    };
                    let p = |g: usize, k: usize| {
                        if op.peephole { peep.get(dir * 3 * h + g * h + k).to_f64() } else { 0.0 }
                    };
                    let old = hs.clone();
                    match cell {
                        Cell::Rnn => {
                            for k in 0..h {
                                hs[k] = act(0, clip(from_x(0, k) + from_h(0, k, &old)));
                            }
                        }
                        Cell::Gru { linear_before_reset } => {
                            let z: Vec<f64> =
                                (0..h).map(|k| act(0, clip(from_x(0, k) + from_h(0, k, &old)))).collect();
                            let reset: Vec<f64> =
                                (0..h).map(|k| act(0, clip(from_x(1, k) + from_h(1, k, &old)))).collect();
                            let gated: Vec<f64> = old.iter().zip(&reset).map(|(a, b)| a * b).collect();
                            for k in 0..h {
                                let state = if linear_before_reset {
                                    reset[k] * from_h(2, k, &old)
                                } else {
                                    from_h(2, k, &gated)
                                };
                                let candidate = act(1, clip(from_x(2, k) + state));
                                hs[k] = (1.0 - z[k]) * candidate + z[k] * old[k];
                            }
                        }
                        Cell::Lstm { input_forget } => {
                            for k in 0..h {
                                let c = cs[k];
                                let input = act(0, clip(from_x(0, k) + from_h(0, k, &old) + p(0, k) * c));
                                let forget = if input_forget {
                                    1.0 - input
                                } else {
                                    act(0, clip(from_x(2, k) + from_h(2, k, &old) + p(2, k) * c))
                                };
                                let new = act(1, clip(from_x(3, k) + from_h(3, k, &old)));
                                cs[k] = forget * c + input * new;
                                let output =
                                    act(0, clip(from_x(1, k) + from_h(1, k, &old) + p(1, k) * cs[k]));
                                hs[k] = output * act(2, cs[k]);
                            }
                        }
                    }
                    for k in 0..h {
                        y[((at * d + dir) * b + n) * h + k] = hs[k];
                    }
                }
                for k in 0..h {
                    y_h[(dir * b + n) * h + k] = hs[k];
                    y_c[(dir * b + n) * h + k] = cs[k];
                }
            }
        }
        let tolerance = 100.0 * epsilon(dtype);
        close(&got[0], &y, tolerance, (&op, "y"));
        close(&got[1], &y_h, tolerance, (&op, "y_h"));
        if lstm {
            close(&got[2], &y_c, tolerance, (&op, "y_c"));
        }
    }
}
