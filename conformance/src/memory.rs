//! Segments.

use std::sync::Arc;

use streampool_core::driver::{ALIGNMENT, Driver};
use streampool_core::op::{Binary, Constant, DType, Map, Place, Shape, TensorType};

use crate::bench::{Bench, Random, map_program, value, vector};

pub(crate) fn allocations_are_aligned_and_apart(driver: Arc<dyn Driver>) {
    let bench = Bench::new(&driver, 0);
    let segments: Vec<_> =
        [1, 7, 64, 65, 4096, 4097, 100_000].map(|bytes| (bench.allocate(bytes), bytes)).into();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (segment, bytes) in &segments {
        assert_eq!(segment.address() % ALIGNMENT as u64, 0, "a segment of {bytes} bytes");
        assert!(segment.bytes() >= *bytes);
        ranges.push((segment.address(), segment.address() + segment.bytes() as u64));
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|w| w[0].1 <= w[1].0), "segments overlap: {ranges:x?}");
}

pub(crate) fn absurd_sizes_are_out_of_memory(driver: Arc<dyn Driver>) {
    for bytes in [usize::MAX, usize::MAX - ALIGNMENT, isize::MAX as usize, isize::MAX as usize + 1, 1 << 55] {
        let Err(error) = driver.allocate(bytes) else { panic!("{bytes} bytes were granted") };
        assert!(error.is_out_of_memory(), "{bytes} bytes: {error:?}");
    }
    // The device goes on.
    let mut bench = Bench::new(&driver, 0);
    let segment = bench.floats(10);
    bench.write(&segment, &[1.0; 10]);
    assert_eq!(bench.read(&segment, 10), [1.0; 10]);
}

pub(crate) fn freed_memory_is_there_again(driver: Arc<dyn Driver>) {
    let bytes = (driver.info().memory_bytes / 4).clamp(1, 16 << 20);
    let mut bench = Bench::new(&driver, 0);
    let values = Random(21).floats(100);
    for _ in 0..20 {
        let segment = bench.allocate(bytes.max(400));
        bench.write(&segment, &values);
        bench.finish();
        drop(segment);
    }
}

pub(crate) fn constants_are_counted_once(driver: Arc<dyn Driver>) {
    let len = 1000;
    let before = driver.frozen_bytes();
    let bytes = value(&Random(22).floats(len)).into();
    let constant = Constant::new(TensorType::new(DType::F32, Shape::new(&[len])), bytes);
    let compile = |f: Binary| {
        let mut program = map_program(Map::binary(f).code, 1, len);
        program.constants.push(constant.clone());
        program.steps[0].inputs.push(vector(Place::Constant(0), DType::F32, len));
        driver.compile(&program).expect("it compiles")
    };
    let first = compile(Binary::Add);
    let once = driver.frozen_bytes();
    assert!(once >= before + 4 * len, "the constant is on the device: {before} to {once} bytes");
    let second = compile(Binary::Mul);
    assert_eq!(driver.frozen_bytes(), once, "a constant that two programs share is there once");
    drop((first, second));
    assert_eq!(driver.frozen_bytes(), before, "it goes with the last program that needs it");
}
