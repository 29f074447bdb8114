//! Cases of recurrent layers.

use streampool_core::op::*;

use crate::cases::{Cases, FLOATS, tolerance};

impl Cases {
    /// RNN, GRU and LSTM: every option, and every activation.
    pub fn recurrent(&mut self) {
        use RecurrentActivation::*;
        use RecurrentDirection::*;
        let (a, b) = (F32::new(0.3), F32::new(0.6));
        let all = [
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
        ];
        let cells = [
            Cell::Rnn,
            Cell::Gru { linear_before_reset: false },
            Cell::Gru { linear_before_reset: true },
            Cell::Lstm { input_forget: false },
            Cell::Lstm { input_forget: true },
        ];
        let mut which = 0;
        for cell in cells {
            for direction in [Forward, Reverse, Bidirectional] {
                // Steps, batch, input, state: of one element, odd, of several rows a warp, of no steps, of no input.
                for [t, n, i, h] in [[5, 3, 7, 4], [1, 1, 1, 1], [3, 2, 33, 70], [0, 2, 3, 5], [4, 2, 0, 6]] {
                    which += 1;
                    let dtype = FLOATS[which % 4];
                    let count = direction.count() * cell.activations();
                    // Odd ones have everything that can be given.
                    let full = which % 2 == 1;
                    let activations = match which % 3 {
                        0 => (0..count).map(|k| all[(which + k * 4) % all.len()]).collect(),
                        _ => (0..count)
                            .map(|k| if k % cell.activations() == 0 { Sigmoid } else { Tanh })
                            .collect(),
                    };
                    let lstm = matches!(cell, Cell::Lstm { .. });
                    let op = Recurrent {
                        cell,
                        direction,
                        hidden: h,
                        activations,
                        clip: (which % 5 == 0).then_some(F32::new(0.7)),
                        bias: which % 4 != 3,
                        lengths: full,
                        initial_h: full,
                        initial_c: full && lstm,
                        peephole: full && lstm,
                    };
                    let (d, rows) = (direction.count(), cell.gates() * h);
                    // Sums stay where activations are not flat.
                    let small = 1.5 / ((i + h) as f64).sqrt();
                    let mut data = vec![
                        self.tensor(dtype, &[t, n, i], -1.0, 1.0),
                        self.tensor(dtype, &[d, rows, i], -small, small),
                        self.tensor(dtype, &[d, rows, h], -small, small),
                    ];
                    if op.bias {
                        data.push(self.tensor(dtype, &[d, 2 * rows], -0.5, 0.5));
                    }
                    if op.lengths {
                        // Too long and negative ones too: they count as all and none.
                        data.push(self.tensor(DType::I32, &[n], -1.0, t as f64 + 1.0));
                    }
                    for (there, shape) in [
                        (op.initial_h, vec![d, n, h]),
                        (op.initial_c, vec![d, n, h]),
                        (op.peephole, vec![d, 3 * h]),
                    ] {
                        if there {
                            data.push(self.tensor(dtype, &shape, -1.0, 1.0));
                        }
                    }
                    let name = format!("{direction:?} {:?}", op.activations);
                    // Steps pass their rounding on.
                    self.add(&name, Op::Recurrent(op), data, tolerance(dtype) * 4.0);
                }
            }
        }
        // More input than is projected beforehand: each step computes its own part.
        let (t, n, i, h) = (1030, 1, 3, 1050);
        let op = Recurrent {
            cell: Cell::Lstm { input_forget: false },
            direction: Forward,
            hidden: h,
            activations: vec![Sigmoid, Tanh, Tanh],
            clip: None,
            bias: false,
            lengths: true,
            initial_h: false,
            initial_c: false,
            peephole: false,
        };
        let mut data = vec![
            self.tensor(DType::F32, &[t, n, i], -1.0, 1.0),
            self.tensor(DType::F32, &[1, 4 * h, i], -0.5, 0.5),
            self.tensor(DType::F32, &[1, 4 * h, h], -0.04, 0.04),
        ];
        // Few of those steps are taken.
        data.push(self.tensor(DType::I32, &[n], 2.0, 3.0));
        self.add("of many steps", Op::Recurrent(op), data, tolerance(DType::F32) * 4.0);
    }
}
