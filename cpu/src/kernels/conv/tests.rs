//! Convolution kernels against plain loops in f64.

use streampool_core::op::{Conv, ConvTranspose, F32, Shape};

use super::*;
use crate::gemm::testing::{Random, Tensor, Trial, activation64, indices};
use crate::team::Team;

fn tolerance(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F16 => (1e-3, 1e-5),
        DType::BF16 => (8e-3, 1e-5),
        DType::F64 => (1e-12, 1e-12),
        _ => (1e-6, 1e-6),
    }
}

fn close(got: f64, want: f64, size: f64, dtype: DType) -> bool {
    let (relative, absolute) = tolerance(dtype);
    (got - want).abs() <= relative * want.abs() + absolute * (size + 1.0)
}

/// Runs a convolution and compares every element; returns the bits.
fn check(isa: Isa, op: &Conv, inputs: &[&Tensor], constant: bool, team: &Team) -> Vec<u64> {
    let (x, w) = (inputs[0], inputs[1]);
    let (sx, sw) = (&x.layout.shape, &w.layout.shape);
    let axes = sx.rank() - 2;
    let mut shape = vec![sx[0], sw[0]];
    for a in 0..axes {
        let reach = (sw[2 + a] - 1) * op.dilations[a] + 1;
        shape.push((sx[2 + a] + op.pads_before[a] + op.pads_after[a] - reach) / op.strides[a] + 1);
    }
    let packed: &[usize] = if constant && x.dtype != DType::F64 { &[1] } else { &[] };
    let the_op = Op::Conv(op.clone());
    let out = Trial { op: &the_op, inputs, packed, out: (x.dtype, &shape) }.run(|p| make_with(isa, p), team);
    let c = sw[1];
    for index in indices(&out.layout.shape) {
        let group = index[1] / (sw[0] / op.groups);
        let (mut sum, mut size) = (0.0, 0.0);
        for tap in indices(&Shape::new(&sw[2..])) {
            let mut from = vec![index[0], 0];
            let inside = (0..axes).all(|a| {
                let i =
                    (index[2 + a] * op.strides[a] + tap[a] * op.dilations[a]).wrapping_sub(op.pads_before[a]);
                from.push(i);
                i < sx[2 + a]
            });
            if inside {
                for ic in 0..c {
                    from[1] = group * c + ic;
                    let t = x.at(&from) * w.at(&[&[index[1], ic], &tap[..]].concat());
                    sum += t;
                    size += f64::abs(t);
                }
            }
        }
        if op.bias {
            sum += inputs[2].at(&index[1..2]);
        }
        if op.residual {
            sum += inputs[inputs.len() - 1].at(&index);
        }
        let want = activation64(op.activation, sum);
        let got = out.at(&index);
        assert!(
            close(got, want, size, x.dtype),
            "{isa:?} {} {sx} by {sw} {op:?} constant {constant} at {index:?}: {got} instead of {want}",
            x.dtype
        );
    }
    out.bits()
}

/// (x, weight, strides, dilations, before, after, groups)
type Shapes<'a> = (&'a [usize], &'a [usize], &'a [usize], &'a [usize], &'a [usize], &'a [usize], usize);

const SHAPES: &[Shapes<'static>] = &[
    // 1x1, and with a stride.
    (&[2, 5, 6, 7], &[9, 5, 1, 1], &[1, 1], &[1, 1], &[0, 0], &[0, 0], 1),
    (&[1, 40, 9, 9], &[33, 40, 1, 1], &[2, 2], &[1, 1], &[0, 0], &[0, 0], 1),
    // 3x3 with every kind of padding, stride and dilation.
    (&[2, 3, 8, 9], &[4, 3, 3, 3], &[1, 1], &[1, 1], &[1, 1], &[1, 1], 1),
    (&[1, 3, 20, 37], &[17, 3, 3, 3], &[2, 2], &[1, 1], &[1, 0], &[0, 1], 1),
    (&[1, 2, 9, 50], &[3, 2, 3, 5], &[1, 3], &[2, 2], &[3, 4], &[1, 7], 1),
    (&[1, 2, 3, 3], &[3, 2, 3, 3], &[1, 1], &[1, 1], &[5, 5], &[5, 5], 1),
    // Groups.
    (&[2, 6, 5, 40], &[9, 2, 3, 3], &[1, 1], &[1, 1], &[1, 1], &[1, 1], 3),
    // Depthwise: plain, with a multiplier, strided, dilated, one long row.
    (&[2, 5, 9, 70], &[5, 1, 3, 3], &[1, 1], &[1, 1], &[1, 1], &[1, 1], 5),
    (&[1, 3, 11, 23], &[6, 1, 3, 3], &[2, 2], &[1, 1], &[0, 1], &[1, 1], 3),
    (&[1, 4, 12, 19], &[4, 1, 5, 5], &[1, 3], &[2, 2], &[4, 3], &[4, 5], 4),
    (&[2, 3, 100], &[3, 1, 7], &[1], &[1], &[6], &[0], 3),
    (&[1, 1, 5, 5], &[1, 1, 3, 3], &[1, 1], &[1, 1], &[4, 4], &[4, 4], 1),
    (&[1, 2, 1, 1], &[2, 1, 2, 2], &[1, 1], &[1, 1], &[1, 1], &[1, 1], 2),
    (&[1, 3, 4, 5, 6], &[3, 1, 2, 3, 2], &[2, 1, 2], &[1, 1, 3], &[1, 1, 1], &[1, 1, 2], 3),
    // One and three axes.
    (&[2, 4, 33], &[5, 4, 3], &[1], &[1], &[1], &[1], 1),
    (&[1, 2, 4, 5, 6], &[3, 2, 2, 3, 2], &[1, 2, 1], &[1, 1, 2], &[1, 0, 1], &[0, 1, 1], 1),
    // No spatial axis, no image, no input channel.
    (&[3, 4], &[5, 4], &[], &[], &[], &[], 1),
    (&[0, 4, 3], &[5, 4, 1], &[1], &[1], &[0], &[0], 1),
    (&[1, 0, 3], &[5, 0, 1], &[1], &[1], &[0], &[0], 1),
];

fn conv(s: &Shapes<'_>) -> Conv {
    Conv {
        strides: s.2.to_vec(),
        dilations: s.3.to_vec(),
        pads_before: s.4.to_vec(),
        pads_after: s.5.to_vec(),
        groups: s.6,
        bias: false,
        residual: false,
        activation: None,
    }
}

#[test]
fn convolutions_of_many_shapes_are_right() {
    let mut random = Random::new(1);
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        for isa in Isa::available() {
            for s in SHAPES {
                let (x, w) =
                    (Tensor::random(dtype, s.0, &mut random), Tensor::random(dtype, s.1, &mut random));
                for constant in [false, true] {
                    check(isa, &conv(s), &[&x, &w], constant, &crate::team::ALONE);
                }
            }
        }
    }
}

#[test]
fn endings() {
    let mut random = Random::new(2);
    for dtype in [DType::F32, DType::F16] {
        // By patches and depthwise.
        for (i, out) in [(2, [2, 4, 8, 9]), (7, [2, 5, 9, 70])] {
            let s = &SHAPES[i];
            let (x, w) = (Tensor::random(dtype, s.0, &mut random), Tensor::random(dtype, s.1, &mut random));
            let (bias, residual) =
                (Tensor::random(dtype, &[out[1]], &mut random), Tensor::random(dtype, &out, &mut random));
            for activation in [
                None,
                Some(Activation::Relu),
                Some(Activation::Silu),
                Some(Activation::Clip(F32::new(0.0), F32::new(0.5))),
            ] {
                let base = Conv { activation, ..conv(s) };
                check(
                    Isa::detect(),
                    &Conv { bias: true, ..base.clone() },
                    &[&x, &w, &bias],
                    true,
                    &crate::team::ALONE,
                );
                check(
                    Isa::detect(),
                    &Conv { residual: true, ..base.clone() },
                    &[&x, &w, &residual],
                    true,
                    &crate::team::ALONE,
                );
                let both = Conv { bias: true, residual: true, ..base };
                check(Isa::detect(), &both, &[&x, &w, &bias, &residual], false, &crate::team::ALONE);
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_cores() {
    let mut random = Random::new(3);
    let shapes: [Shapes<'_>; 4] = [
        (&[1, 24, 30, 30], &[40, 24, 3, 3], &[1, 1], &[1, 1], &[1, 1], &[1, 1], 1),
        (&[1, 300, 4, 5], &[90, 300, 3, 3], &[1, 1], &[1, 1], &[1, 1], &[1, 1], 1),
        (&[4, 16, 16, 17], &[32, 8, 3, 3], &[1, 1], &[1, 1], &[1, 1], &[1, 1], 2),
        (&[1, 64, 40, 41], &[64, 1, 3, 3], &[1, 1], &[1, 1], &[1, 1], &[1, 1], 64),
    ];
    for s in &shapes {
        for dtype in [DType::F32, DType::F16] {
            let (x, w) = (Tensor::random(dtype, s.0, &mut random), Tensor::random(dtype, s.1, &mut random));
            let alone = check(Isa::detect(), &conv(s), &[&x, &w], true, &crate::team::ALONE);
            for cores in [2, 4] {
                assert!(check(Isa::detect(), &conv(s), &[&x, &w], true, &Team::new(cores)) == alone);
            }
        }
    }
}

/// Runs a transposed convolution and compares every element.
fn check_transpose(
    isa: Isa,
    op: &ConvTranspose,
    inputs: &[&Tensor],
    constant: bool,
    team: &Team,
) -> Vec<u64> {
    let (x, w) = (inputs[0], inputs[1]);
    let (sx, sw) = (&x.layout.shape, &w.layout.shape);
    let axes = sx.rank() - 2;
    let mut shape = vec![sx[0], sw[1] * op.groups];
    for a in 0..axes {
        let len = op.strides[a] * (sx[2 + a].max(1) - 1)
            + op.output_padding[a]
            + (sw[2 + a] - 1) * op.dilations[a]
            + 1;
        shape.push((len as isize - op.pads_before[a] - op.pads_after[a]) as usize);
    }
    let packed: &[usize] = if constant && x.dtype != DType::F64 { &[1] } else { &[] };
    let the_op = Op::ConvTranspose(op.clone());
    let out = Trial { op: &the_op, inputs, packed, out: (x.dtype, &shape) }
        .run(|p| make_transpose_with(isa, p), team);
    let mut want = vec![(0.0f64, 0.0f64); out.layout.shape.len()];
    let position = |index: &[usize]| index.iter().zip(&shape).fold(0, |at, (&i, &d)| at * d + i);
    let c = sx[1] / op.groups;
    for from in indices(sx) {
        for tap in indices(&Shape::new(&sw[1..])) {
            let mut to = vec![from[0], from[1] / c * sw[1] + tap[0]];
            let inside = (0..axes).all(|a| {
                let o =
                    (from[2 + a] * op.strides[a] + tap[1 + a] * op.dilations[a]) as isize - op.pads_before[a];
                to.push(o as usize);
                o >= 0 && (o as usize) < shape[2 + a]
            });
            if inside {
                let t = x.at(&from) * w.at(&[&from[1..2], &tap[..]].concat());
                let sum = &mut want[position(&to)];
                *sum = (sum.0 + t, sum.1 + t.abs());
            }
        }
    }
    for index in indices(&out.layout.shape) {
        let (sum, size) = want[position(&index)];
        let sum = sum + if op.bias { inputs[2].at(&index[1..2]) } else { 0.0 };
        let got = out.at(&index);
        assert!(
            close(got, sum, size, x.dtype),
            "{isa:?} {} {sx} by {sw} {op:?} at {index:?}: {got} instead of {sum}",
            x.dtype
        );
    }
    out.bits()
}

#[test]
fn transposed_convolutions_are_right() {
    let mut random = Random::new(4);
    // (x, weight, strides, dilations, before, after, output padding, groups)
    type T<'a> =
        (&'a [usize], &'a [usize], &'a [usize], &'a [usize], &'a [isize], &'a [isize], &'a [usize], usize);
    let shapes: &[T<'_>] = &[
        (&[2, 3, 4, 5], &[3, 4, 3, 3], &[1, 1], &[1, 1], &[0, 0], &[0, 0], &[0, 0], 1),
        (&[1, 6, 4, 5], &[6, 4, 3, 2], &[2, 3], &[1, 2], &[1, 0], &[0, 2], &[1, 2], 2),
        (&[1, 5, 9], &[5, 3, 4], &[2], &[1], &[1], &[1], &[0], 1),
        (&[1, 2, 4], &[2, 3, 3], &[1], &[1], &[-2], &[-1], &[0], 1),
        (&[1, 2, 3, 2, 3], &[2, 2, 2, 2, 2], &[2, 2, 2], &[1, 1, 1], &[0, 1, 0], &[0, 0, 1], &[0, 0, 0], 1),
        (&[1, 4, 3, 3], &[4, 1, 3, 3], &[2, 2], &[1, 1], &[1, 1], &[1, 1], &[1, 1], 4),
        (&[0, 4, 3], &[4, 2, 3], &[1], &[1], &[0], &[0], &[0], 1),
        (&[1, 0, 3], &[0, 2, 3], &[1], &[1], &[0], &[0], &[0], 1),
    ];
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        for isa in Isa::available() {
            for s in shapes {
                let (x, w) =
                    (Tensor::random(dtype, s.0, &mut random), Tensor::random(dtype, s.1, &mut random));
                let bias = Tensor::random(dtype, &[s.1[1] * s.7], &mut random);
                for constant in [false, true] {
                    let op = ConvTranspose {
                        strides: s.2.to_vec(),
                        dilations: s.3.to_vec(),
                        pads_before: s.4.to_vec(),
                        pads_after: s.5.to_vec(),
                        output_padding: s.6.to_vec(),
                        groups: s.7,
                        bias: false,
                    };
                    check_transpose(isa, &op, &[&x, &w], constant, &crate::team::ALONE);
                    check_transpose(
                        isa,
                        &ConvTranspose { bias: true, ..op },
                        &[&x, &w, &bias],
                        constant,
                        &crate::team::ALONE,
                    );
                }
            }
        }
    }
    let op = ConvTranspose {
        strides: vec![2, 2],
        dilations: vec![1, 1],
        pads_before: vec![1, 1],
        pads_after: vec![1, 1],
        output_padding: vec![0, 0],
        groups: 1,
        bias: false,
    };
    let (x, w) = (
        Tensor::random(DType::F32, &[1, 40, 12, 13], &mut random),
        Tensor::random(DType::F32, &[40, 30, 4, 4], &mut random),
    );
    let alone = check_transpose(Isa::detect(), &op, &[&x, &w], true, &crate::team::ALONE);
    assert!(check_transpose(Isa::detect(), &op, &[&x, &w], true, &Team::new(3)) == alone);
}
