//! Cases of recurrent layers and of linear algebra.

use streampool_core::op::*;

use super::{Cases, FLOATS, tolerance};
use crate::case::set;

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
                for [t, n, i, h] in [[5, 3, 7, 4], [1, 1, 1, 1], [3, 2, 33, 40], [0, 2, 3, 5], [4, 2, 0, 6]] {
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
        let (t, n, i, h) = (20_000, 1, 3, 55);
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
            self.tensor(DType::F32, &[1, 4 * h, h], -0.2, 0.2),
        ];
        // Few of those steps are taken.
        data.push(self.tensor(DType::I32, &[n], 2.0, 3.0));
        self.add("of many steps", Op::Recurrent(op), data, tolerance(DType::F32) * 4.0);
    }

    /// A batch of matrices whose entries are random, or products that make them positive definite, or of low rank.
    fn matrices(&mut self, dtype: DType, batch: &[usize], m: usize, n: usize, kind: Kind) -> HostTensor {
        let mut shape = batch.to_vec();
        shape.extend([m, n]);
        let mut t = self.tensor(dtype, &shape, -1.0, 1.0);
        for b in 0..batch.iter().product() {
            let first = b * m * n;
            let old: Vec<f64> = (first..first + m * n).map(|i| t.get(i).to_f64()).collect();
            for i in 0..m {
                for j in 0..n {
                    let x = match kind {
                        Kind::Any => old[i * n + j],
                        // Far from singular, with pivots that must be looked for.
                        Kind::Regular => {
                            old[i * n + j] + if j == (i + 1) % n { 2.0 * (n as f64).sqrt() } else { 0.0 }
                        }
                        Kind::Definite => {
                            let dot: f64 = (0..n).map(|k| old[i * n + k] * old[j * n + k]).sum();
                            dot / n as f64 + f64::from(i == j) * 0.3
                        }
                        // Small whole numbers: of rank 2 to the bit.
                        Kind::LowRank => ((i % 3) as f64 - 1.0) * j as f64 + i as f64 * ((j % 2) as f64),
                        Kind::Zero => 0.0,
                        Kind::Huge => old[i * n + j] * if dtype == DType::F32 { 1e30 } else { 1e200 },
                        // Rows and columns of very different size.
                        Kind::Graded => old[i * n + j] * 10f64.powi(-((i + j) as i32)),
                    };
                    set(&mut t, first + i * n + j, Scalar::from_f64(dtype, x));
                }
            }
        }
        t
    }

    /// Every decomposition and solution, small ones in batches, ones that are too large for shared memory, ones of low rank.
    pub fn linear_algebra(&mut self) {
        use Linalg::*;
        let near = |dtype| if dtype == DType::F32 { 1e-6 } else { 1e-13 };
        let mut which = 0;
        for (batch, n) in [(&[3usize, 2][..], 1usize), (&[5], 2), (&[2], 7), (&[], 33), (&[1], 50), (&[2], 0)]
        {
            which += 1;
            let dtype = [DType::F32, DType::F64][which % 2];
            let definite = self.matrices(dtype, batch, n, n, Kind::Definite);
            self.add("", Op::Linalg(Cholesky), vec![definite.clone()], near(dtype));
            self.add("definite", Op::Linalg(Eigh), vec![definite], near(dtype));
            let any = self.matrices(dtype, batch, n, n, Kind::Any);
            self.add("of the lower triangle", Op::Linalg(Eigh), vec![any], near(dtype));
            let regular = self.matrices(dtype, batch, n, n, Kind::Regular);
            for right in [1, 5] {
                let mut shape = batch.to_vec();
                shape.extend([n, right]);
                let b = self.tensor(dtype, &shape, -1.0, 1.0);
                self.add("", Op::Linalg(Solve), vec![regular.clone(), b], near(dtype));
            }
            self.add("", Op::Linalg(Inv), vec![regular.clone()], near(dtype));
            self.add("", Op::Linalg(Det), vec![regular], near(dtype) * 4.0);
        }
        for dtype in [DType::F32, DType::F64] {
            for (batch, m, n) in [
                (&[4usize][..], 1usize, 1usize),
                (&[2, 2], 3, 5),
                (&[3], 5, 3),
                (&[], 33, 11),
                (&[], 9, 70),
                (&[], 12, 12),
            ] {
                for kind in [Kind::Any, Kind::LowRank, Kind::Zero, Kind::Graded] {
                    let a = self.matrices(dtype, batch, m, n, kind);
                    let name = format!("{kind:?}");
                    if kind == Kind::Any || kind == Kind::Graded {
                        self.add(&name, Op::Linalg(Qr), vec![a.clone()], near(dtype));
                    }
                    self.add(&name, Op::Linalg(Svd), vec![a], near(dtype));
                }
            }
            let huge = self.matrices(dtype, &[2], 6, 6, Kind::Huge);
            for op in [Svd, Eigh] {
                self.add("huge", Op::Linalg(op), vec![huge.clone()], near(dtype));
            }
            let zero = self.matrices(dtype, &[2], 4, 4, Kind::Zero);
            self.add("zero", Op::Linalg(Det), vec![zero.clone()], 0.0);
            self.add("zero", Op::Linalg(Eigh), vec![zero], near(dtype));
        }
        // In device memory, more matrices than there is room for at once.
        let (dtype, n) = (DType::F64, 130);
        let definite = self.matrices(dtype, &[2], n, n, Kind::Definite);
        self.add("large", Op::Linalg(Cholesky), vec![definite], near(dtype));
        let regular = self.matrices(dtype, &[1], n, n, Kind::Regular);
        self.add("large", Op::Linalg(Inv), vec![regular], near(dtype));
        let tall = self.matrices(dtype, &[1], 260, 50, Kind::Any);
        self.add("large", Op::Linalg(Qr), vec![tall], near(dtype));
        let wide = self.matrices(DType::F32, &[1], 19, 700, Kind::Any);
        self.add("large", Op::Linalg(Svd), vec![wide], near(DType::F32));
        let square = self.matrices(DType::F32, &[1], 90, 90, Kind::Definite);
        self.add("large", Op::Linalg(Eigh), vec![square], near(DType::F32));
        let wide = self.tensor(DType::F32, &[2, 60, 9000], -1.0, 1.0);
        let regular = self.matrices(DType::F32, &[2], 60, 60, Kind::Regular);
        self.add("large", Op::Linalg(Solve), vec![regular.clone(), wide], near(DType::F32));
        let many = self.tensor(DType::F32, &[2, 60, 18000], -1.0, 1.0);
        self.add("one at a time", Op::Linalg(Solve), vec![regular, many], near(DType::F32));
    }

    /// Matrices that cannot be decomposed, with what the error must say: the device's and the CPU's alike.
    pub fn failing_linear_algebra(&mut self) -> Vec<&'static str> {
        use Linalg::*;
        let mut said = Vec::new();
        for dtype in [DType::F32, DType::F64] {
            for (op, what) in [
                (Cholesky, "Cholesky: matrix 2 of the batch is not positive definite"),
                (Solve, "Solve: matrix 2 of the batch is singular"),
                (Inv, "Inv: matrix 2 of the batch is singular"),
                (Svd, "Svd: matrix 2 of the batch has an entry that is infinite or NaN"),
                (Eigh, "Eigh: matrix 2 of the batch has an entry that is infinite or NaN"),
            ] {
                let n = 5;
                let mut a = self.matrices(dtype, &[4], n, n, Kind::Definite);
                let at = 2 * n * n + 3 * n;
                match op {
                    // A row of zeros.
                    Solve | Inv => (0..n).for_each(|j| set(&mut a, at + j, Scalar::from_f64(dtype, 0.0))),
                    Cholesky => set(&mut a, at + 3, Scalar::from_f64(dtype, -1.0)),
                    _ => set(&mut a, at + 1, Scalar::from_f64(dtype, f64::NAN)),
                }
                let mut data = vec![a];
                if op == Solve {
                    data.push(self.tensor(dtype, &[4, n, 2], -1.0, 1.0));
                }
                self.add("that fails", Op::Linalg(op), data, 0.0);
                said.push(what);
            }
        }
        said
    }
}

/// How matrices are made.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Any,
    Regular,
    Definite,
    LowRank,
    Zero,
    Huge,
    Graded,
}
