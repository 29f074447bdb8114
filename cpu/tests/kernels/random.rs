use streampool_core::op::*;

use crate::common::*;

fn key(seed: i64, offset: i64) -> HostTensor {
    HostTensor::from_vec([2], vec![seed, offset]).unwrap()
}

fn uniform(dtype: DType, n: usize, low: f32, high: f32) -> Random {
    let distribution = Distribution::Uniform { low: F32::new(low), high: F32::new(high) };
    Random { distribution, dtype, shape: [n].into() }
}

fn normal(dtype: DType, n: usize) -> Random {
    let distribution = Distribution::Normal { mean: F32::new(0.0), std: F32::new(1.0) };
    Random { distribution, dtype, shape: [n].into() }
}

/// Philox4x32-10 as its paper writes it.
fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..10 {
        let p0 = u64::from(c[0]) * 0xD2511F53;
        let p1 = u64::from(c[2]) * 0xCD9E8D57;
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = [k[0].wrapping_add(0x9E3779B9), k[1].wrapping_add(0xBB67AE85)];
    }
    c
}

#[test]
fn uniform_numbers_are_the_documented_function_of_seed_offset_and_position() {
    let (seed, offset) = (0x1234_5678_9abc_def0u64 as i64, 77);
    let x = reals(&eval(uniform(DType::F32, 1001, -1.0, 3.0), &[&key(seed, offset)])[0]);
    for (i, &got) in x.iter().enumerate() {
        let word = philox([(i / 4) as u32, 0, 77, 0], [0x9abc_def0, 0x1234_5678])[i % 4];
        let want = -1.0f32 + (word >> 8) as f32 / (1 << 24) as f32 * 4.0;
        assert_eq!(got, f64::from(want), "{i}");
    }
}

#[test]
fn a_longer_tensor_starts_with_the_shorter_one() {
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        for op in [uniform as fn(DType, usize, f32, f32) -> Random, |d, n, _, _| normal(d, n)] {
            let long = reals(&eval(op(dtype, 200_003, 0.0, 1.0), &[&key(5, 6)])[0]);
            for n in [0, 1, 2, 3, 257, 1000] {
                assert_eq!(reals(&eval(op(dtype, n, 0.0, 1.0), &[&key(5, 6)])[0]), long[..n]);
            }
        }
    }
}

#[test]
fn seeds_and_offsets_give_different_numbers() {
    let first = |s, o| reals(&eval(normal(DType::F32, 8), &[&key(s, o)])[0]);
    let all = [first(0, 0), first(1, 0), first(0, 1), first(1 << 32, 0), first(0, 1 << 32), first(-1, -1)];
    for (i, a) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|b| a != b));
    }
}

#[test]
fn distributions_have_their_moments_and_bounds() {
    let n = 200_000;
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let u = reals(&eval(uniform(dtype, n, 2.0, 5.0), &[&key(3, 0)])[0]);
        assert!(u.iter().all(|x| (2.0..5.0).contains(x)), "{dtype}");
        let mean = u.iter().sum::<f64>() / n as f64;
        let variance = u.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        assert!((mean - 3.5).abs() < 0.01 && (variance - 0.75).abs() < 0.01, "{dtype} {mean} {variance}");

        let z = reals(&eval(normal(dtype, n), &[&key(4, 0)])[0]);
        let moment = |k: i32| z.iter().map(|x| x.powi(k)).sum::<f64>() / n as f64;
        let (m1, m2, m3, m4) = (moment(1), moment(2), moment(3), moment(4));
        assert!(m1.abs() < 0.01 && (m2 - 1.0).abs() < 0.01, "{dtype} {m1} {m2}");
        assert!(m3.abs() < 0.05 && (m4 - 3.0).abs() < 0.08, "{dtype} {m3} {m4}");
        // Neighbours do not follow each other.
        let along = z.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / n as f64;
        assert!(along.abs() < 0.01, "{along}");
    }
}

#[test]
fn bounds_that_rounding_would_reach_are_not_reached() {
    // One unit of the last place wide: half of the numbers would round to the bound.
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        for (low, high) in [(1.0, 1.01), (-1.01, -1.0), (-0.001, 0.0)] {
            let x = reals(&eval(uniform(dtype, 5000, low, high), &[&key(9, 0)])[0]);
            assert!(x.iter().all(|&v| v < f64::from(high)), "{dtype} {low} {high}");
        }
    }
    let same = reals(&eval(uniform(DType::F32, 5, 2.0, 2.0), &[&key(9, 0)])[0]);
    assert_eq!(same, [2.0; 5]);
}
