//! Equality of tensors as the official test runner of onnx has it: same dtype, same shape, and
//! `|got - want| <= atol + rtol * |want|` with NaN equal to NaN and infinities only to themselves.

use streampool_core::op::{DType, HostTensor};

/// Two bfloat16 units in the last place.
const BF16_RTOL: f64 = 1.0 / 64.0;

/// Why `got` is not `want`. Values are compared only if `values`.
pub(crate) fn compare(
    got: &HostTensor,
    want: &HostTensor,
    rtol: f64,
    atol: f64,
    values: bool,
) -> Result<(), String> {
    if got.ty() != want.ty() {
        return Err(format!("is {}, expected {}", got.ty(), want.ty()));
    }
    if !values {
        return Ok(());
    }
    let rtol = if got.ty().dtype == DType::BF16 { rtol.max(BF16_RTOL) } else { rtol };
    let n = want.ty().shape.len();
    let (mut bad, mut first) = (0, None);
    for i in 0..n {
        let (a, b) = (got.get(i), want.get(i));
        // Exact for integers of any size, which f64 may not hold.
        if a == b {
            continue;
        }
        let (a, b) = (a.to_f64(), b.to_f64());
        let near = (a.is_nan() && b.is_nan())
            || a == b && got.ty().dtype.is_float()
            || a.is_finite() && b.is_finite() && (a - b).abs() <= atol + rtol * b.abs();
        if !near {
            bad += 1;
            first.get_or_insert((i, a, b));
        }
    }
    match first {
        None => Ok(()),
        Some((i, a, b)) => Err(format!("{bad} of {n} elements differ, first at {i}: {a}, expected {b}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streampool_core::op::TensorType;

    fn floats(values: &[f32]) -> HostTensor {
        HostTensor::from_slice([values.len()], values).unwrap()
    }

    #[test]
    fn tolerance_is_relative_and_absolute() {
        let check = |a: f32, b: f32| compare(&floats(&[a]), &floats(&[b]), 1e-3, 1e-7, true).is_ok();
        assert!(check(1.0009, 1.0) && !check(1.0011, 1.0));
        assert!(check(5e-8, 0.0) && !check(2e-7, 0.0));
        assert!(check(-0.0, 0.0));
    }

    #[test]
    fn specials_equal_only_themselves() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let check = |a: f32, b: f32| compare(&floats(&[a]), &floats(&[b]), 1e-3, 1e-7, true).is_ok();
        assert!(check(inf, inf) && check(nan, nan) && check(-nan, nan));
        assert!(
            !check(inf, -inf)
                && !check(inf, 1e30)
                && !check(1e30, inf)
                && !check(nan, 0.0)
                && !check(0.0, nan)
        );
    }

    #[test]
    fn dtype_and_shape_count() {
        let a = HostTensor::from_slice([2], &[1_i32, 2]).unwrap();
        let b = HostTensor::from_slice([2], &[1_i64, 2]).unwrap();
        let c = HostTensor::from_slice([2, 1], &[1_i32, 2]).unwrap();
        assert!(compare(&a, &b, 1e-3, 1e-7, false).unwrap_err().contains("int64"));
        assert!(compare(&a, &c, 1e-3, 1e-7, false).unwrap_err().contains("(2, 1)"));
        let empty = || HostTensor::zeros(TensorType::new(DType::F32, [0])).unwrap();
        assert!(compare(&empty(), &empty(), 0.0, 0.0, true).is_ok());
    }

    #[test]
    fn differences_are_counted_and_located() {
        let text =
            compare(&floats(&[1.0, 2.0, 3.0]), &floats(&[1.0, 5.0, 6.0]), 1e-3, 1e-7, true).unwrap_err();
        assert_eq!(text, "2 of 3 elements differ, first at 1: 2, expected 5");
    }
}
