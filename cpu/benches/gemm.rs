//! Speed of matrix products through the CPU driver's program runner.
//!
//! `cargo bench -p streampool-cpu --bench gemm [-- FILTER]` prints, for every shape, the best and the median time of a run, GFLOP/s of the
//! best, and that as a share of the processor's peak, which a loop of multiply-adds measures in turn with it. Rows: one caller on one core;
//! one caller with all cores; one caller per core at once. `own cpu` is the least processor time of the caller, and
//! `by cpu` the share of the peak by it: what counts on a machine that others use too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use streampool_core::driver::{Bindings, Segment, Slice};
use streampool_core::op::{
    Activation, Attention, Constant, Conv, DType, F32, Layout, MatMul, Op, Operand, Place, Port, Program,
    Step, TensorType,
};
use streampool_cpu::team::Team;
use streampool_cpu::{CpuConfig, CpuDriver, CpuExecutable, Executor};

/// Random floats in (-0.1, 0.1): products of many layers stay finite.
fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            ((x >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 0.1
        })
        .collect()
}

fn bytes_of(x: &[f32]) -> Bytes {
    Bytes::from(x.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

/// A chain of linear layers `dims[0] -> dims[1] -> ...` over `rows` rows, bias and activation after each.
fn mlp(rows: usize, dims: &[usize], activation: Option<Activation>) -> Program {
    let f32s = |n: usize| Port { dtype: DType::F32, bytes: n * 4 };
    let mut program = Program {
        name: "mlp".into(),
        inputs: vec![f32s(rows * dims[0])],
        outputs: vec![f32s(rows * dims[dims.len() - 1])],
        ..Program::default()
    };
    let operand =
        |place, shape: &[usize]| Operand { place, dtype: DType::F32, layout: Layout::contiguous(shape) };
    let widest = dims.iter().max().unwrap() * rows * 4;
    let arena = |layer: usize| Place::Arena((layer % 2) * widest.next_multiple_of(64));
    program.arena_bytes = 2 * widest.next_multiple_of(64);
    for (i, w) in dims.windows(2).enumerate() {
        let n = program.constants.len() as u32;
        for (shape, data) in
            [(vec![w[0], w[1]], random(w[0] * w[1], 7 + i as u64)), (vec![w[1]], random(w[1], 3))]
        {
            program.constants.push(Constant::new(TensorType::new(DType::F32, shape), bytes_of(&data)));
        }
        let last = i + 2 == dims.len();
        program.steps.push(Step {
            name: format!("linear {i}"),
            op: Op::MatMul(MatMul { bias: true, activation, alpha: F32::new(1.0), residual: false }),
            inputs: vec![
                operand(if i == 0 { Place::Input(0) } else { arena(i - 1) }, &[rows, w[0]]),
                operand(Place::Constant(n), &[w[0], w[1]]),
                operand(Place::Constant(n + 1), &[w[1]]),
            ],
            outputs: vec![operand(if last { Place::Output(0) } else { arena(i) }, &[rows, w[1]])],
        });
    }
    program
}

/// One operation on inputs of these shapes, the second a constant if `constant`.
fn single(op: Op, shapes: &[&[usize]], constant: bool) -> Program {
    let types: Vec<TensorType> = shapes.iter().map(|s| TensorType::new(DType::F32, *s)).collect();
    let out = op.infer(&types).unwrap().remove(0);
    let mut program = Program { name: op.name().into(), ..Program::default() };
    let mut inputs = Vec::new();
    for (i, ty) in types.iter().enumerate() {
        let place = if constant && i == 1 {
            program.constants.push(Constant::new(ty.clone(), bytes_of(&random(ty.shape.len(), 5))));
            Place::Constant(0)
        } else {
            program.inputs.push(Port { dtype: DType::F32, bytes: ty.bytes() });
            Place::Input(program.inputs.len() as u32 - 1)
        };
        inputs.push(Operand { place, dtype: DType::F32, layout: Layout::contiguous(ty.shape.clone()) });
    }
    program.outputs.push(Port { dtype: DType::F32, bytes: out.bytes() });
    program.steps.push(Step {
        name: op.name().into(),
        op,
        inputs,
        outputs: vec![Operand {
            place: Place::Output(0),
            dtype: DType::F32,
            layout: Layout::contiguous(out.shape),
        }],
    });
    program
}

/// A square convolution of `c` to `m` channels over `size` by `size`, with "same" padding.
fn conv(c: usize, m: usize, size: usize, kernel: usize, stride: usize, groups: usize) -> (Program, f64) {
    let pad = (kernel - 1) / 2;
    let op = Conv {
        strides: vec![stride; 2],
        dilations: vec![1; 2],
        pads_before: vec![pad; 2],
        pads_after: vec![pad; 2],
        groups,
        bias: false,
        residual: false,
        activation: None,
    };
    let program = single(Op::Conv(op), &[&[1, c, size, size], &[m, c / groups, kernel, kernel]], true);
    let flops = 2.0 * (program.outputs[0].bytes / 4 * (c / groups) * kernel * kernel) as f64;
    (program, flops)
}

/// Attention of `b` sequences of `s`, 12 heads of 32.
fn attention(b: usize, s: usize) -> (Program, f64) {
    let op = Attention { scale: F32::new(0.177), causal: false, mask: true, merge_heads: true };
    let shape = [b, 12, s, 32];
    let program = single(Op::Attention(op), &[&shape, &shape, &shape, &[b, 1, 1, s]], false);
    (program, 4.0 * (b * 12 * s * s * 32) as f64)
}

/// One stream: an executor with its own memory.
struct Stream {
    executor: Executor,
    inputs: Vec<Vec<f32>>,
    output: Vec<f32>,
    arena: Segment,
}

impl Stream {
    fn new(program: &Program, team: &Arc<Team>) -> Self {
        let arena: Box<[Line]> = vec![Line([0; 64]); program.arena_bytes.div_ceil(64).max(1)].into();
        let address = arena.as_ptr().expose_provenance() as u64;
        Self {
            executor: Executor::new(team.clone()),
            inputs: program.inputs.iter().map(|p| random(p.bytes / 4, 1)).collect(),
            output: vec![0.0; program.outputs[0].bytes / 4],
            arena: Segment::new(address, arena.len() * 64, Box::new(arena)),
        }
    }

    fn run(&mut self, executable: &CpuExecutable) {
        let inputs: Vec<Slice<'_>> = self.inputs.iter().map(|x| Slice::host(as_bytes(x))).collect();
        let output = as_bytes_mut(&mut self.output);
        let bindings = Bindings {
            inputs: &inputs,
            outputs: &[Slice::host_mut(output)],
            arena: Slice::of_segment(&self.arena, 0, self.arena.bytes()),
        };
        self.executor.run(executable, &bindings).unwrap();
    }
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

fn as_bytes(x: &[f32]) -> &[u8] {
    // SAFETY: floats are plain bytes.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), size_of_val(x)) }
}

fn as_bytes_mut(x: &mut [f32]) -> &mut [u8] {
    // SAFETY: floats are plain bytes, and any bytes are floats.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), size_of_val(x)) }
}

/// Processor seconds of this thread.
fn cpu_time() -> f64 {
    #[cfg(unix)]
    {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `t` is valid for the write.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
        t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(unix))]
    f64::NAN
}

/// Best and median seconds of a call of `f`, and the best processor seconds, over rounds of at least 200 us for half a second.
fn time(mut f: impl FnMut()) -> [f64; 3] {
    f();
    let start = Instant::now();
    f();
    let per_round = (200e-6 / start.elapsed().as_secs_f64().max(1e-9)).ceil().max(1.0) as u32;
    let (mut times, mut cpu) = (Vec::new(), f64::INFINITY);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(500) || times.len() < 10 {
        let (start, own) = (Instant::now(), cpu_time());
        for _ in 0..per_round {
            f();
        }
        cpu = cpu.min((cpu_time() - own) / f64::from(per_round));
        times.push(start.elapsed().as_secs_f64() / f64::from(per_round));
    }
    times.sort_by(f64::total_cmp);
    [times[0], times[times.len() / 2], cpu]
}

/// GFLOP/s of multiply-adds on registers alone.
fn peak() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512f") {
        use std::arch::x86_64::*;
        #[target_feature(enable = "avx512f")]
        fn loops(n: u32) -> f32 {
            let (mut acc, a) = ([_mm512_set1_ps(1.0); 12], _mm512_set1_ps(0.999));
            for _ in 0..n {
                for acc in &mut acc {
                    *acc = _mm512_fmadd_ps(*acc, a, a);
                }
            }
            acc.iter().map(|&a| _mm512_reduce_add_ps(a)).sum()
        }
        let n = 100_000;
        // SAFETY: the instructions were detected.
        let [.., best] = time(|| _ = std::hint::black_box(unsafe { loops(std::hint::black_box(n)) }));
        return f64::from(n) * 12.0 * 32.0 / best / 1e9;
    }
    f64::NAN
}

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let relu = Some(Activation::Relu);
    let gelu = Some(Activation::Gelu);
    let cases: Vec<(&str, usize, Vec<usize>, Option<Activation>)> = vec![
        ("W1 linear 2048 b64", 64, vec![2048, 2048], None),
        ("W2 mlp 64 b1", 1, vec![64, 64, 64, 64], relu),
        ("W3 mlp 512-1024-1024-512 b1", 1, vec![512, 1024, 1024, 512], relu),
        ("W3 mlp 512-1024-1024-512 b4", 4, vec![512, 1024, 1024, 512], relu),
        ("W3 mlp 512-1024-1024-512 b16", 16, vec![512, 1024, 1024, 512], relu),
        ("W3 mlp 512-1024-1024-512 b64", 64, vec![512, 1024, 1024, 512], relu),
        ("W4 384-384 b16", 16, vec![384, 384], None),
        ("W4 384-1536 gelu b16", 16, vec![384, 1536], gelu),
        ("W4 1536-384 b16", 16, vec![1536, 384], None),
        ("W4 384-384 b128", 128, vec![384, 384], None),
        ("W4 384-1536 gelu b128", 128, vec![384, 1536], gelu),
        ("W4 1536-384 b128", 128, vec![1536, 384], None),
        ("W4 384-384 b4096", 4096, vec![384, 384], None),
        ("W4 384-1536 gelu b4096", 4096, vec![384, 1536], gelu),
        ("W4 1536-384 b4096", 4096, vec![1536, 384], None),
        ("square 1024", 1024, vec![1024, 1024], None),
        ("odd 100x300x77", 100, vec![300, 77], None),
        ("head 384-10 b32", 32, vec![384, 10], None),
    ];
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let driver = CpuDriver::new(CpuConfig::default());
    let (alone, all) = (Arc::new(Team::new(1)), Arc::new(Team::new(cores)));
    println!(
        "{:30} {:>14} {:>10} {:>10} {:>9} {:>7} {:>10}",
        "", "", "best", "median", "GFLOP/s", "peak", "calls/s"
    );
    let mut programs: Vec<(String, Program, f64)> = Vec::new();
    for (name, rows, dims, activation) in cases {
        let flops = 2.0 * rows as f64 * dims.windows(2).map(|w| (w[0] * w[1]) as f64).sum::<f64>();
        programs.push((name.into(), mlp(rows, &dims, activation), flops));
    }
    for (b, s) in [(1, 16), (1, 128), (32, 128), (1, 1024)] {
        let (program, flops) = attention(b, s);
        programs.push((format!("attention b{b} s{s}"), program, flops));
    }
    for (c, m, size, kernel, stride, groups) in [
        (3, 64, 224, 7, 2, 1),
        (64, 64, 56, 3, 1, 1),
        (64, 256, 56, 1, 1, 1),
        (128, 128, 56, 3, 2, 1),
        (256, 256, 14, 3, 1, 1),
        (512, 512, 7, 3, 1, 1),
        (32, 32, 112, 3, 1, 32),
        (96, 96, 112, 3, 2, 96),
        (960, 960, 7, 3, 1, 960),
    ] {
        let (program, flops) = conv(c, m, size, kernel, stride, groups);
        programs.push((format!("conv {c}-{m} {size} k{kernel} s{stride} g{groups}"), program, flops));
    }
    for (name, program, flops) in programs {
        if !filter.is_empty() && !filter.iter().any(|f| name.contains(f.as_str())) {
            continue;
        }
        let executable = driver.compile_program(&program).unwrap();
        let peak = peak();
        let show = |what: &str, [best, median, cpu]: [f64; 3], times: f64| {
            let rate = |t: f64| flops * times / t / 1e9;
            println!(
                "{name:30} {what:>10} {:>8.2}us {:>8.2}us {:>8.2}us {:>9.1} {:>6.1}% {:>9.0} {:>6.1}%",
                best * 1e6,
                median * 1e6,
                cpu * 1e6,
                rate(best),
                100.0 * rate(best) / peak,
                times / best,
                100.0 * rate(cpu) / peak,
            );
        };
        let mut stream = Stream::new(&program, &alone);
        let one = time(|| stream.run(&executable));
        show("1 core", one, 1.0);
        let mut stream = Stream::new(&program, &all);
        show("all cores", time(|| stream.run(&executable)), 1.0);
        let barrier = std::sync::Barrier::new(cores);
        let both: Vec<[f64; 3]> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..cores)
                .map(|_| {
                    s.spawn(|| {
                        let mut stream = Stream::new(&program, &all);
                        barrier.wait();
                        time(|| stream.run(&executable))
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let slowest = both.iter().fold([0f64; 3], |a, b| std::array::from_fn(|i| a[i].max(b[i])));
        show(&format!("{cores} callers"), slowest, cores as f64);
    }
}
