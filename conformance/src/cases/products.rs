//! Matrix products and attention.

use streampool_core::op::*;

use super::{Cases, tolerance};
use crate::case::{dense, set};

impl Cases {
    pub(super) fn products(&mut self) {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::I64] {
            for (a, b, bias, residual, activation) in [
                (&[5usize, 33][..], &[33usize, 20][..], Some(&[20usize][..]), true, Some(Activation::Gelu)),
                (
                    &[2, 1, 4, 7],
                    &[3, 7, 18],
                    Some(&[4, 1]),
                    false,
                    Some(Activation::Clip(F32::new(-0.5), F32::new(0.5))),
                ),
                (&[1, 300], &[300, 70], Some(&[70]), true, Some(Activation::Relu)),
                (&[3, 40], &[40, 9], Some(&[]), false, Some(Activation::LeakyRelu(F32::new(0.1)))),
                (&[2, 0], &[0, 3], None, false, None),
            ] {
                let float = dtype.is_float();
                let mut data = vec![self.tensor(dtype, a, -2.0, 2.0), self.tensor(dtype, b, -2.0, 2.0)];
                let op = MatMul {
                    alpha: F32::new(if float { 0.5 } else { 1.0 }),
                    bias: bias.is_some(),
                    residual,
                    activation: if float { activation } else { None },
                };
                if let Some(bias) = bias {
                    data.push(self.tensor(dtype, bias, -2.0, 2.0));
                }
                if residual {
                    data.push(self.tensor(dtype, &[a[0], b[1]], -2.0, 2.0));
                }
                self.add("", Op::MatMul(op), data, tolerance(dtype) * 2.0);
            }
            // Transposed factors: vectors and tiles.
            for m in [1, 2, 6] {
                let (x, w) =
                    (self.tensor(dtype, &[m, 50], -1.0, 1.0), self.tensor(dtype, &[37, 50], -1.0, 1.0));
                let b = Operand {
                    place: Place::Input(1),
                    dtype,
                    layout: Layout::contiguous([37, 50]).permute(&[1, 0]),
                };
                let a = dense(Place::Input(0), x.ty());
                self.add_views(
                    "transposed",
                    Op::MatMul(MatMul::default()),
                    vec![a, b],
                    vec![x, w],
                    tolerance(dtype) * 2.0,
                );
            }
        }
        for (a_zero, b_zero) in
            [(None, None), (Some(&[][..]), Some(&[][..])), (Some(&[4][..]), Some(&[6][..]))]
        {
            let mut data = vec![
                self.tensor(DType::U8, &[3, 4, 5], 0.0, 255.0),
                self.tensor(DType::I8, &[5, 6], -128.0, 127.0),
            ];
            if let Some(z) = a_zero {
                data.push(self.tensor(DType::U8, z, 0.0, 255.0));
            }
            if let Some(z) = b_zero {
                data.push(self.tensor(DType::I8, z, -9.0, 9.0));
            }
            let op = MatMulInteger { a_zero: a_zero.is_some(), b_zero: b_zero.is_some() };
            self.add("", Op::MatMulInteger(op), data, 0.0);
        }
    }

    pub(super) fn attention(&mut self) {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (q, g, t, e, causal, mask, merge_heads) in [
                ([1usize, 2, 20, 32], 2, 20, 32, false, None, true),
                ([2, 4, 9, 16], 2, 33, 24, false, Some(&[2usize, 1, 1, 33][..]), false),
                ([1, 2, 17, 48], 1, 17, 8, true, None, true),
                ([1, 1, 5, 16], 1, 3, 8, true, None, false),
                ([1, 2, 3, 5], 2, 70, 3, false, Some(&[3, 70]), true),
            ] {
                let [b, _, _, d] = q;
                let mut data = vec![
                    self.tensor(dtype, &q, -2.0, 2.0),
                    self.tensor(dtype, &[b, g, t, d], -2.0, 2.0),
                    self.tensor(dtype, &[b, g, t, e], -2.0, 2.0),
                ];
                if let Some(shape) = mask {
                    let mut m = self.tensor(dtype, shape, -1.0, 1.0);
                    for i in (0..m.ty().shape.len()).step_by(3) {
                        set(&mut m, i, Scalar::from_f64(dtype, f64::NEG_INFINITY));
                    }
                    data.push(m);
                }
                let op = Op::Attention(Attention {
                    scale: F32::new(0.3),
                    causal,
                    mask: mask.is_some(),
                    merge_heads,
                });
                self.add(&format!("causal {causal}"), op, data, tolerance(dtype) * 2.0);
            }
            // As models have them: (b, s, h, d) in memory, read as (b, h, s, d).
            let data: Vec<HostTensor> =
                (0..3).map(|_| self.tensor(dtype, &[2, 18, 3, 16], -2.0, 2.0)).collect();
            let inputs = (0..3)
                .map(|n| Operand {
                    place: Place::Input(n),
                    dtype,
                    layout: Layout::contiguous([2, 18, 3, 16]).permute(&[0, 2, 1, 3]),
                })
                .collect();
            let op = Op::Attention(Attention {
                scale: F32::new(0.25),
                causal: false,
                mask: false,
                merge_heads: true,
            });
            self.add_views("heads inside", op, inputs, data, tolerance(dtype) * 2.0);
        }
    }
}
