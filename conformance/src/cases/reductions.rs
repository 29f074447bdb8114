//! Reductions and normalisation.

use streampool_core::op::*;

use super::{Cases, FLOATS, tolerance};
use crate::case::set;

impl Cases {
    pub(super) fn reductions(&mut self) {
        use ReduceKind::*;
        for kind in [Sum, Mean, Prod, Max, Min, L1, L2, SumSquare, LogSum, LogSumExp] {
            for dtype in [DType::F32, DType::F64, DType::F16, DType::I32, DType::I64, DType::U8] {
                if !dtype.is_float() && matches!(kind, Mean | L2 | LogSum | LogSumExp) {
                    continue;
                }
                for (shape, axes) in [
                    (&[3usize, 5, 7][..], &[1usize][..]),
                    (&[4, 300], &[1]),
                    (&[300, 4], &[0]),
                    (&[2, 3, 40, 5], &[0, 2]),
                    (&[3, 0], &[1]),
                    (&[2, 3], &[]),
                    (&[7], &[0]),
                ] {
                    let (low, high) = if kind == LogSum {
                        (0.1, 2.0)
                    } else if dtype == DType::U8 {
                        (0.0, 3.0)
                    } else {
                        (-1.5, 1.5)
                    };
                    let x = self.tensor(dtype, shape, low, high);
                    let op = Op::Reduce(Reduce { kind, axes: axes.to_vec(), keep_dims: true });
                    self.add(&format!("{kind:?} {axes:?}"), op, vec![x], tolerance(dtype).max(1e-6));
                }
            }
        }
        for kind in [All, Any] {
            let x = self.tensor(DType::Bool, &[5, 3, 40], 0.0, 1.0);
            for axes in [vec![2], vec![0, 1]] {
                self.add("bool", Op::Reduce(Reduce { kind, axes, keep_dims: false }), vec![x.clone()], 0.0);
            }
        }
        let x = self.tensor(DType::F32, &[6, 50], -1.0, 1.0);
        let operand = Operand {
            place: Place::Input(0),
            dtype: DType::F32,
            layout: Layout::contiguous([6, 50]).permute(&[1, 0]),
        };
        let op = Op::Reduce(Reduce { kind: Sum, axes: vec![1], keep_dims: false });
        self.add_views("view", op, vec![operand], vec![x], 1e-6);
        for dtype in [DType::F32, DType::F16, DType::I32, DType::U8] {
            for (max, last) in [(true, false), (false, true), (true, true)] {
                let mut x = self.tensor(dtype, &[3, 9, 4], 0.0, 3.0);
                if dtype.is_float() {
                    set(&mut x, 17, Scalar::from_f64(dtype, f64::NAN));
                    set(&mut x, 21, Scalar::from_f64(dtype, f64::NAN));
                }
                self.add("", Op::ArgReduce(ArgReduce { max, axis: 1, keep_dims: false, last }), vec![x], 0.0);
            }
            for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
                for kind in [CumulativeKind::Sum, CumulativeKind::Prod] {
                    let x = self.tensor(dtype, &[3, 5, 4], 0.0, 2.0);
                    let op = Op::Cumulative(Cumulative { kind, axis: 1, exclusive, reverse });
                    self.add("", op, vec![x], tolerance(dtype) * 4.0);
                }
            }
            for (largest, axis) in [(true, 1), (false, 2)] {
                let mut x = self.tensor(dtype, &[3, 9, 8], 0.0, 5.0);
                if dtype.is_float() {
                    set(&mut x, 30, Scalar::from_f64(dtype, f64::NAN));
                }
                self.add("", Op::TopK(TopK { k: 4, axis, largest, sorted: true }), vec![x], 0.0);
            }
        }
    }

    pub(super) fn normalisation(&mut self) {
        for dtype in FLOATS {
            for (shape, axis, axes) in [
                (&[3usize, 4, 5][..], 1, 1),
                (&[4, 100], 1, 1),
                (&[2, 3, 33], 1, 2),
                (&[3, 7], 1, 1),
                (&[2, 9000], 1, 1),
            ] {
                for log in [false, true] {
                    let mut x = self.tensor(dtype, shape, -4.0, 4.0);
                    set(&mut x, 3, Scalar::from_f64(dtype, f64::NEG_INFINITY));
                    self.add("", Op::Softmax(Softmax { axis, axes, log }), vec![x], tolerance(dtype) * 2.0);
                }
            }
            for (shape, scale, bias, residual, rms) in [
                (&[5usize, 384][..], true, true, true, false),
                (&[3, 2, 10], false, false, false, false),
                (&[4, 70], true, false, false, true),
                (&[2, 9000], true, true, false, false),
                (&[3, 1], true, true, true, false),
            ] {
                let axis = shape.len() - 1;
                let mut data = vec![self.tensor(dtype, shape, -2.0, 3.0)];
                for there in [scale, bias] {
                    if there {
                        data.push(self.tensor(dtype, &shape[axis..], 0.5, 2.0));
                    }
                }
                if residual {
                    data.push(self.tensor(dtype, shape, -2.0, 3.0));
                }
                let op =
                    Op::LayerNorm(LayerNorm { axis, epsilon: F32::new(1e-5), rms, scale, bias, residual });
                self.add("", op, data, tolerance(dtype) * 4.0);
            }
        }
    }
}
