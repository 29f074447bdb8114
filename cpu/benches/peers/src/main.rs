//! One linear layer by us, by tract-linalg and by the `gemm` crate, in turn on one core: `cargo run --release [-- FILTER]` in this folder.
//!
//! Weights are constant: packed beforehand by us and by tract, as they lie by `gemm`. Packing the activations is part of each call.
//! Times are processor time of the thread, the least of all rounds: other programs on the machine cost least there.

use std::sync::Arc;

use bytes::Bytes;
use streampool_core::driver::{Bindings, Slice};
use streampool_core::op::{Constant, DType, Layout, MatMul, Op, Operand, Place, Port, Program, Step, TensorType};
use streampool_cpu::team::Team;
use streampool_cpu::{CpuConfig, CpuDriver, Executor};
use tract_data::internal::*;
use tract_linalg::mmm::{AsInputValue, FusedSpec};

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn bytes_of(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Processor seconds of this thread.
fn cpu_time() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid for the write.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).collect();
    let cases = [
        ("W1", 64, 2048, 2048),
        ("W2", 1, 64, 64),
        ("W3", 1, 1024, 1024),
        ("W3 b4", 4, 1024, 1024),
        ("W3 b64", 64, 1024, 1024),
        ("W4 s16", 16, 384, 384),
        ("W4 s16 up", 16, 384, 1536),
        ("W4 s16 down", 16, 1536, 384),
        ("W4 s128", 128, 384, 384),
        ("W4 s128 up", 128, 384, 1536),
        ("W4 s128 down", 128, 1536, 384),
        ("W4 b32", 4096, 384, 384),
        ("square", 1024, 1024, 1024),
    ];
    println!("{:14} {:>5} {:>5} {:>5}  {:>12} {:>12} {:>12}   ours / best peer", "", "m", "k", "n", "ours", "tract", "gemm");
    for (name, m, k, n) in cases {
        if !filter.is_empty() && !filter.iter().any(|f| name.starts_with(f.as_str())) {
            continue;
        }
        let (a, b) = (random(m * k, 1), random(k * n, 2));
        // Ours.
        let driver = CpuDriver::new(CpuConfig::default());
        let operand =
            |place, shape: [usize; 2]| Operand { place, dtype: DType::F32, layout: Layout::contiguous(shape) };
        let program = Program {
            name: "linear".into(),
            inputs: vec![Port { dtype: DType::F32, bytes: m * k * 4 }],
            outputs: vec![Port { dtype: DType::F32, bytes: m * n * 4 }],
            constants: vec![Constant::new(TensorType::new(DType::F32, [k, n]), Bytes::from(bytes_of(&b)))],
            steps: vec![Step {
                name: "linear".into(),
                op: Op::MatMul(MatMul::default()),
                inputs: vec![operand(Place::Input(0), [m, k]), operand(Place::Constant(0), [k, n])],
                outputs: vec![operand(Place::Output(0), [m, n])],
            }],
            ..Program::default()
        };
        let executable = driver.compile_program(&program).unwrap();
        let mut executor = Executor::new(Arc::new(Team::new(1)));
        let mut ours = vec![0f32; m * n];
        // SAFETY: floats are plain bytes.
        let input = unsafe { std::slice::from_raw_parts(a.as_ptr().cast::<u8>(), m * k * 4) };
        // SAFETY: floats are plain bytes, and any bytes are floats.
        let output = unsafe { std::slice::from_raw_parts_mut(ours.as_mut_ptr().cast::<u8>(), m * n * 4) };
        let mut run_ours = || {
            let bindings = Bindings {
                inputs: &[Slice::host(input)],
                outputs: &[Slice::host_mut(output)],
                arena: Slice::EMPTY,
            };
            executor.run(&executable, &bindings).unwrap();
        };

        // tract: the result's rows are the layer's outputs, or the batch; it picks a kernel for each, the better counts.
        let kernel = |m: usize, n: usize| {
            tract_linalg::MmmDispatch::native().preferred_kernel(f32::datum_type(), Some(m), Some(k), Some(n)).unwrap()
        };
        let ta = Tensor::from_shape(&[m, k], &a).unwrap();
        let tb = Tensor::from_shape(&[k, n], &b).unwrap();
        let mut runs: Vec<Box<dyn FnMut()>> = Vec::new();
        for weights_left in [false, true] {
            let (rows, cols) = if weights_left { (n, m) } else { (m, n) };
            let mmm = kernel(rows, cols);
            let (left, right) = mmm.packings()[0].clone();
            let weights =
                if weights_left { left.prepare_one(&tb, 0, 1) } else { right.prepare_one(&tb, 0, 1) }.unwrap();
            let ta = ta.clone();
            // SAFETY: the kernel is used with its own scratch space only.
            let mut scratch = unsafe { mmm.allocate_scratch_space() };
            let mut c = Tensor::zero::<f32>(&[m, n]).unwrap();
            runs.push(Box::new(move || {
                let x = if weights_left { right.prepare_one(&ta, 1, 0) } else { left.prepare_one(&ta, 1, 0) }.unwrap();
                let (l, r) = if weights_left { (&*weights, &*x) } else { (&*x, &*weights) };
                // SAFETY: shapes and packings are those of this kernel.
                unsafe {
                    let axes = if weights_left { (1, 0) } else { (0, 1) };
                    let store = mmm.c_view(Some(axes.0), Some(axes.1)).wrap(&c.view_mut());
                    mmm.run_with_scratch_space(
                        rows,
                        cols,
                        scratch.as_mut(),
                        &[
                            FusedSpec::AddMatMul {
                                a: AsInputValue::Borrowed(l),
                                b: AsInputValue::Borrowed(r),
                                packing: 0,
                            },
                            FusedSpec::Store(store),
                        ],
                    )
                    .unwrap();
                }
            }));
        }

        let mut by_gemm = vec![0f32; m * n];
        let mut run_gemm = || {
            // SAFETY: pointers and steps are those of row-major matrices of these shapes.
            unsafe {
                gemm::gemm(
                    m, n, k,
                    by_gemm.as_mut_ptr(), 1, n as isize,
                    false,
                    a.as_ptr(), 1, k as isize,
                    b.as_ptr(), 1, n as isize,
                    0.0f32, 1.0f32,
                    false, false, false,
                    gemm::Parallelism::None,
                );
            }
        };

        let work = 2.0 * (m * n * k) as f64;
        let repeat = (300e-6 / (work / 80e9)).ceil().clamp(1.0, 1e4) as usize;
        let mut best = [f64::INFINITY; 4];
        let [left, right] = &mut runs[..] else { unreachable!() };
        let rounds = (2.0 / (work / 80e9 * repeat as f64 * 4.0)).clamp(10.0, 400.0) as usize;
        for _ in 0..rounds {
            let mut time = |slot: usize, f: &mut dyn FnMut()| {
                let start = cpu_time();
                (0..repeat).for_each(|_| f());
                best[slot] = best[slot].min((cpu_time() - start) / repeat as f64);
            };
            time(0, &mut run_ours);
            time(1, left);
            time(2, right);
            time(3, &mut run_gemm);
        }
        for (i, (x, y)) in ours.iter().zip(&by_gemm).enumerate() {
            assert!((x - y).abs() <= 1e-4 * k as f32, "{name} element {i}: {x} by us, {y} by gemm");
        }
        let tract = best[1].min(best[2]);
        let show = |t: f64| format!("{:7.1} GF/s", work / t / 1e9);
        println!(
            "{name:14} {m:>5} {k:>5} {n:>5}  {:>12} {:>12} {:>12}   {:.2}",
            show(best[0]),
            show(tract),
            show(best[3]),
            tract.min(best[3]) / best[0]
        );
    }
}
