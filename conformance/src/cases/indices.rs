//! What picks and puts by index.

use streampool_core::op::*;

use super::{Cases, tolerance};

impl Cases {
    /// Takes slices of an axis of 10.
    pub fn gather_with(&mut self, which: &[i64]) {
        let x = self.tensor(DType::F32, &[2, 10, 3], 0.0, 1.0);
        let indices = HostTensor::from_slice([which.len()], which).unwrap();
        self.add("", Op::Gather(Gather { axis: 1 }), vec![x, indices], 0.0);
    }

    pub(super) fn indices(&mut self) {
        self.gather_with(&[0, 9, -10, 4]);
        for dtype in [DType::F32, DType::F16, DType::I64, DType::U8] {
            for ity in [DType::I32, DType::I64] {
                let x = self.tensor(dtype, &[4, 5, 6], 0.0, 100.0);
                let i = self.tensor(ity, &[2, 3], -5.0, 4.0);
                self.add("", Op::Gather(Gather { axis: 1 }), vec![x.clone(), i], 0.0);
                let i = self.tensor(ity, &[4, 7, 5], -5.0, 4.0);
                self.add("", Op::GatherElements(GatherElements { axis: 1 }), vec![x.clone(), i], 0.0);
                for (batch_dims, shape) in
                    [(0, &[3usize, 2][..]), (1, &[4, 3, 1]), (0, &[2, 3]), (2, &[4, 5, 1])]
                {
                    let i = self.tensor(ity, shape, -4.0, 3.0);
                    self.add("", Op::GatherNd(GatherNd { batch_dims }), vec![x.clone(), i], 0.0);
                }
                use OnScatter::*;
                for reduction in [Replace, Add, Mul, Min, Max] {
                    let i = self.tensor(ity, &[3, 7, 4], -5.0, 4.0);
                    let u = self.tensor(dtype, &[3, 7, 4], 0.0, 3.0);
                    self.add(
                        "",
                        Op::ScatterElements(ScatterElements { axis: 1, reduction }),
                        vec![x.clone(), i, u],
                        tolerance(dtype),
                    );
                    let i = self.tensor(ity, &[7, 2], -4.0, 3.0);
                    let u = self.tensor(dtype, &[7, 6], 0.0, 3.0);
                    self.add(
                        "",
                        Op::ScatterNd(ScatterNd { reduction }),
                        vec![x.clone(), i, u],
                        tolerance(dtype),
                    );
                }
            }
        }
    }
}
