//! Pooling, convolutions, resizing.

use streampool_core::op::*;

use super::{Cases, FLOATS, tolerance};

impl Cases {
    pub(super) fn windows(&mut self) {
        for dtype in FLOATS {
            for (shape, kernel, strides, dilations, pads, ceil) in [
                (&[2usize, 3, 9][..], &[3usize][..], &[2usize][..], &[1usize][..], &[1usize][..], true),
                (&[1, 2, 7, 8], &[3, 2], &[2, 1], &[1, 2], &[1, 1], false),
                (&[1, 2, 4, 5, 6], &[2, 3, 2], &[1, 2, 2], &[1, 1, 1], &[0, 1, 1], true),
            ] {
                for kind in [
                    PoolKind::Max { indices: false, column_major: false },
                    PoolKind::Max { indices: true, column_major: true },
                    PoolKind::Average { count_pad: true },
                    PoolKind::Average { count_pad: false },
                    PoolKind::Lp { p: 1 },
                    PoolKind::Lp { p: 2 },
                    PoolKind::Lp { p: 3 },
                ] {
                    let x = self.tensor(dtype, shape, -2.0, 2.0);
                    let op = Op::Pool(Pool {
                        kind,
                        kernel: kernel.to_vec(),
                        strides: strides.to_vec(),
                        dilations: dilations.to_vec(),
                        pads_before: pads.to_vec(),
                        pads_after: pads.to_vec(),
                        ceil,
                    });
                    self.add(&format!("{kind:?}"), op, vec![x], tolerance(dtype) * 2.0);
                }
            }
            for (x, w, strides, dilations, before, after, groups, activation) in [
                (
                    &[2usize, 4, 9, 8][..],
                    &[6usize, 4, 3, 3][..],
                    &[1usize, 2][..],
                    &[1usize, 1][..],
                    &[1usize, 1][..],
                    &[1usize, 0][..],
                    1,
                    Some(Activation::Relu),
                ),
                (&[1, 6, 11], &[6, 1, 3], &[2], &[2], &[2], &[1], 6, None),
                (
                    &[1, 4, 5, 6, 4],
                    &[4, 2, 2, 3, 1],
                    &[1, 1, 1],
                    &[1, 1, 1],
                    &[0, 1, 0],
                    &[1, 0, 0],
                    2,
                    Some(Activation::GeluTanh),
                ),
            ] {
                let y = [x[0], w[0]];
                let bias = self.tensor(dtype, &y[1..], -1.0, 1.0);
                let data = vec![self.tensor(dtype, x, -1.0, 1.0), self.tensor(dtype, w, -1.0, 1.0), bias];
                let op = Op::Conv(Conv {
                    strides: strides.to_vec(),
                    dilations: dilations.to_vec(),
                    pads_before: before.to_vec(),
                    pads_after: after.to_vec(),
                    groups,
                    bias: true,
                    residual: false,
                    activation,
                });
                self.add("", op, data, tolerance(dtype) * 2.0);
            }
            for (x, w, strides, dilations, before, after, extra, groups) in [
                (
                    &[2usize, 4, 5, 4][..],
                    &[4usize, 3, 3, 2][..],
                    &[2usize, 1][..],
                    &[1usize, 2][..],
                    &[1isize, 0][..],
                    &[0isize, 1][..],
                    &[1usize, 0][..],
                    1,
                ),
                (&[1, 6, 5], &[6, 2, 3], &[3], &[1], &[-1], &[1], &[0], 3),
            ] {
                let data = vec![self.tensor(dtype, x, -1.0, 1.0), self.tensor(dtype, w, -1.0, 1.0)];
                let op = Op::ConvTranspose(ConvTranspose {
                    strides: strides.to_vec(),
                    dilations: dilations.to_vec(),
                    pads_before: before.to_vec(),
                    pads_after: after.to_vec(),
                    output_padding: extra.to_vec(),
                    groups,
                    bias: false,
                });
                self.add("", op, data, tolerance(dtype) * 2.0);
            }
        }
    }

    pub(super) fn resizes(&mut self) {
        use CoordinateMode::*;
        let linear = ResizeMode::Linear { antialias: false };
        let cubic =
            |exclude_outside| ResizeMode::Cubic { a: F32::new(-0.75), exclude_outside, antialias: false };
        let filter =
            |exclude_outside| ResizeMode::Cubic { a: F32::new(-0.5), exclude_outside, antialias: true };
        let crop = TfCropAndResize { extrapolation: F32::new(7.0) };
        let modes = [
            (HalfPixel, linear),
            (HalfPixelSymmetric, linear),
            (PytorchHalfPixel, cubic(false)),
            (AlignCorners, linear),
            (Asymmetric, ResizeMode::Nearest(NearestMode::Floor)),
            (HalfPixel, ResizeMode::Nearest(NearestMode::RoundPreferFloor)),
            (AlignCorners, ResizeMode::Nearest(NearestMode::RoundPreferCeil)),
            (Asymmetric, ResizeMode::Nearest(NearestMode::Ceil)),
            (HalfPixel, cubic(true)),
            (crop, linear),
            (crop, ResizeMode::Nearest(NearestMode::RoundPreferFloor)),
            (HalfPixel, ResizeMode::Linear { antialias: true }),
            (AlignCorners, filter(false)),
            (HalfPixel, filter(true)),
            (Asymmetric, ResizeMode::Linear { antialias: true }),
            (crop, filter(false)),
        ];
        for (which, (coordinates, mode)) in modes.into_iter().enumerate() {
            for (from, to) in
                [(&[2usize, 3, 5, 4][..], &[2usize, 3, 9, 3][..]), (&[37], &[4]), (&[1, 2], &[1, 1])]
            {
                let dtype = [DType::F32, DType::F16, DType::U8, DType::I32, DType::BF16][which % 5];
                let roi = if coordinates == crop {
                    from.iter().map(|_| (F32::new(-0.1), F32::new(0.9))).collect()
                } else {
                    Vec::new()
                };
                let op = Op::Resize(Resize {
                    sizes: to.to_vec(),
                    scales: from.iter().zip(to).map(|(&f, &t)| F32::new(t as f32 / f as f32)).collect(),
                    coordinates,
                    mode,
                    roi,
                });
                let data = vec![self.tensor(dtype, from, 0.0, 100.0)];
                self.add(&format!("{coordinates:?} {mode:?} to {to:?}"), op, data, tolerance(dtype));
            }
        }
    }
}
