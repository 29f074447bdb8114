//! What moves and makes elements.

use streampool_core::op::Random as Random_;
use streampool_core::op::*;

use super::{Cases, FLOATS};
use crate::case::{Case, dense, set};

impl Cases {
    pub(super) fn movement(&mut self) {
        for dtype in [DType::U8, DType::F16, DType::F32, DType::I64] {
            for shape in [&[5usize, 6, 7][..], &[2, 40, 70]] {
                for layout in self.views(shape) {
                    let x = self.tensor(dtype, shape, 0.0, 100.0);
                    let operand = Operand { place: Place::Input(0), dtype, layout };
                    self.add_views("view", Op::Copy(Copy), vec![operand], vec![x], 0.0);
                }
            }
            self.add(
                "",
                Op::Fill(Fill { value: Scalar::from_f64(dtype, 7.0), shape: Shape::new(&[3, 5]) }),
                vec![],
                0.0,
            );
            let (start, step) = (Scalar::from_f64(dtype, 3.0), Scalar::from_f64(dtype, 2.0));
            self.add("", Op::Range(Range { start, step, len: 50 }), vec![], 0.0);
            for (upper, k) in [(true, 0), (false, 0), (true, -2), (false, 1), (true, i64::MAX)] {
                let x = self.tensor(dtype, &[2, 4, 6], 1.0, 100.0);
                self.add("", Op::Trilu(Trilu { upper, k }), vec![x], 0.0);
            }
            for mode in [
                PadMode::Constant(Scalar::from_f64(dtype, 9.0)),
                PadMode::Edge,
                PadMode::Reflect,
                PadMode::Wrap,
            ] {
                for (before, after) in
                    [(vec![1, 2], vec![0, 3]), (vec![-1, 0], vec![2, -2]), (vec![0, 9], vec![7, 11])]
                {
                    let x = self.tensor(dtype, &[3, 4], 0.0, 100.0);
                    self.add("", Op::Pad(Pad { mode, before, after }), vec![x], 0.0);
                }
            }
        }
        // A region of a larger tensor: one part of a concatenation.
        let x = self.tensor(DType::F32, &[3, 4], 0.0, 1.0);
        let inputs = vec![dense(Place::Input(0), x.ty())];
        let layout = Layout::contiguous([3, 9]).slice(1, 2, 4, 1);
        let outputs = vec![Operand { place: Place::Output(0), dtype: DType::F32, layout }];
        self.list.push(Case {
            name: "concat part".into(),
            op: Op::Copy(Copy),
            inputs,
            outputs,
            data: vec![x],
            tolerance: 0.0,
        });
    }

    pub(super) fn random_numbers(&mut self) {
        for dtype in FLOATS {
            for (distribution, shape) in [
                (Distribution::Uniform { low: F32::new(-0.5), high: F32::new(2.0) }, &[3usize, 7, 5][..]),
                // Bounds so close that rounding meets the upper one.
                (Distribution::Uniform { low: F32::new(1.0), high: F32::new(1.001) }, &[300]),
                (Distribution::Uniform { low: F32::new(2.0), high: F32::new(2.0) }, &[5]),
                (Distribution::Normal { mean: F32::new(1.0), std: F32::new(3.0) }, &[1030]),
                (Distribution::Normal { mean: F32::new(0.0), std: F32::new(1.0) }, &[]),
                (Distribution::Normal { mean: F32::new(0.0), std: F32::new(1.0) }, &[0, 3]),
            ] {
                let mut key = HostTensor::zeros(TensorType::new(DType::I64, [2])).unwrap();
                for i in 0..2 {
                    let bits = self.random.next();
                    set(&mut key, i, Scalar::from_i64(DType::I64, bits as i64));
                }
                let op = Op::Random(Random_ { distribution, dtype, shape: shape.into() });
                // Single precision is the same to the bit everywhere; the platform's functions serve double precision.
                self.add("", op, vec![key], if dtype == DType::F64 { 1e-14 } else { 0.0 });
            }
        }
    }
}
