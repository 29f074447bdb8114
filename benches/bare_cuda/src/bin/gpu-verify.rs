//! What a GPU machine runs: `gpu-verify FOLDER [OUT]`. Checks first, then rates beside bare CUDA loops of the same run; the table comes last.
//!
//! `GPU_VERIFY_ONLY` is `checks`, `operations` or `rates` for a part of it, `GPU_VERIFY_EVERY=N` takes every N-th operation case (for slow tools such as
//! compute-sanitizer), `GPU_VERIFY_SECONDS` is the time of one rate, `GPU_VERIFY_MATCH` takes the rates
//! whose name has it.
//!
//! FOLDER may hold `digits/{digits.onnx,test.npz}` and `minilm-f16.onnx`; what is not there is reported as not run.

#[path = "../../../../cli/src/synthetic.rs"]
mod synthetic;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use streampool::{DType, Device, Error, HostTensor, Input, Model, Result, Tensor, TensorType};
use streampool_bare_cuda::{Bare, Kind, rate};
use streampool_conformance::{CHECKS, Cases};
use streampool_core::driver::Driver;
use streampool_cpu::{CpuConfig, CpuDriver};
use streampool_cuda::{CudaConfig, CudaDriver};
use synthetic::{Normal, Width, mlp_of};

const THREADS: [usize; 5] = [1, 2, 4, 8, 16];

/// The lines of the table, and the same for machines.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    json: Vec<Value>,
    failed: bool,
}

impl Report {
    fn check(&mut self, name: &str, result: Result<String, String>) {
        let (state, text) = match &result {
            Ok(text) => ("passed", text.clone()),
            Err(text) => ("FAILED", text.clone()),
        };
        self.failed |= result.is_err();
        println!("{state} {name}: {text}");
        self.lines.push(format!("{state:8} {name}: {}", text.lines().next().unwrap_or_default()));
        self.json.push(json!({"check": name, "passed": result.is_ok(), "text": text}));
    }

    fn rates(&mut self, name: &str, rates: &[f64]) {
        let text: Vec<String> = rates.iter().map(|r| format!("{r:>9.0}")).collect();
        let line = format!("{name:44} {}", text.join(" "));
        println!("{line}");
        self.lines.push(line);
        self.json.push(json!({"rate": name, "threads": THREADS, "calls_per_second": rates}));
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let folder = Path::new(args.get(1).map_or(".", String::as_str)).to_owned();
    let mut report = Report::default();
    let start = Instant::now();
    match Device::cuda(0) {
        Ok(device) => {
            report.lines.push(device.info().description.clone());
            drop(device);
            let only = std::env::var("GPU_VERIFY_ONLY").unwrap_or_default();
            if only == "operations" {
                report.check("operations", operations());
            } else if only != "rates" {
                checks(&mut report, &folder);
            }
            println!("-- checks took {:?}", start.elapsed());
            if only.is_empty() || only == "rates" {
                rates(&mut report, &folder);
            }
        }
        Err(e) => report.check("a GPU", Err(e.to_string())),
    }
    println!("\n{}\nthreads: {THREADS:?}; {:?} in all", report.lines.join("\n"), start.elapsed());
    if let Some(out) = args.get(2) {
        let written =
            std::fs::write(Path::new(out).join("gpu-verify.json"), Value::from(report.json).to_string())
                .and_then(|()| {
                    std::fs::write(Path::new(out).join("gpu-verify.txt"), report.lines.join("\n") + "\n")
                });
        if let Err(e) = written {
            println!("cannot write to '{out}': {e}");
            report.failed = true;
        }
    }
    std::process::exit(i32::from(report.failed));
}

fn driver() -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(CudaDriver::new(CudaConfig::default())?))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "a panic without text".into())
}

fn checks(report: &mut Report, folder: &Path) {
    let mut broken = Vec::new();
    for (name, check) in CHECKS {
        let result = catch_unwind(AssertUnwindSafe(|| check(driver().expect("the GPU opens"))));
        if let Err(panic) = result {
            broken.push(format!("{name}: {}", panic_text(&*panic)));
        }
    }
    let passed = CHECKS.len() - broken.len();
    let text = format!("{passed} of {} checks", CHECKS.len());
    report.check(
        "conformance",
        if broken.is_empty() { Ok(text) } else { Err(format!("{text}\n{}", broken.join("\n"))) },
    );
    report.check("operations", operations());
    report.check("digits", digits(folder));
    report.check("MLPs", mlps());
    report.check("MiniLM fp16", minilm(folder));
    report.check("tensors across threads", across_threads().map_err(|e| e.to_string()));
    report.check("out of memory", out_of_memory().map_err(|e| e.to_string()));
}

/// Every case of every operation, against the CPU device.
fn operations() -> Result<String, String> {
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(7, |t| t.as_nanos() as u64);
    let mut cases = Cases::new(seed);
    cases.all();
    let every = std::env::var("GPU_VERIFY_EVERY").ok().and_then(|s| s.parse().ok()).unwrap_or(1usize).max(1);
    let mut n = 0;
    cases.list.retain(|_| {
        n += 1;
        n % every == 0
    });
    let (gpu, cpu) = (
        driver().map_err(|e| e.to_string())?,
        Arc::new(CpuDriver::new(CpuConfig::default())) as Arc<dyn Driver>,
    );
    let mut failed = Vec::new();
    for case in &cases.list {
        let both = case.run_on(&cpu).and_then(|expected| Ok((expected, case.run_on(&gpu)?)));
        let result = match both {
            Ok((expected, got)) => case.compare(&expected, &got),
            Err(e) => Err(format!("{}: {e}", case.name)),
        };
        failed.extend(result.err());
    }
    let text = format!(
        "{} of {} cases agree with the CPU, seed {seed}",
        cases.list.len() - failed.len(),
        cases.list.len()
    );
    if failed.is_empty() { Ok(text) } else { Err(format!("{text}\n{}", failed.join("\n"))) }
}

fn relative(expected: &HostTensor, got: &HostTensor) -> f64 {
    let (mut error, mut size) = (0.0, 0.0);
    for i in 0..expected.ty().shape.len() {
        let (x, y) = (expected.get(i).to_f64(), got.get(i).to_f64());
        error += (x - y) * (x - y);
        size += x * x;
    }
    let relative = (error / f64::max(size, 1e-30)).sqrt();
    // NaN is never close.
    if relative.is_nan() { f64::INFINITY } else { relative }
}

/// The model on the GPU from 8 threads at once, each answer against the CPU's. Gives the largest relative error.
fn compare(bytes: &[u8], requests: &[Vec<HostTensor>], tolerance: f64) -> Result<String, String> {
    let run = || -> Result<f64> {
        let (cpu, gpu) = (Device::cpu()?, Device::cuda(0)?);
        let (on_cpu, on_gpu) =
            (Model::from_bytes(&cpu, bytes.to_vec())?, Model::from_bytes(&gpu, bytes.to_vec())?);
        let answer = |model: &Model, request: &[HostTensor]| -> Result<Vec<HostTensor>> {
            let inputs: Vec<Input<'_>> = request.iter().map(Input::from).collect();
            model.run_ordered(&inputs)?.into_vec().iter().map(Tensor::to_host).collect()
        };
        let expected = requests.iter().map(|r| answer(&on_cpu, r)).collect::<Result<Vec<_>>>()?;
        let serial = requests.iter().map(|r| answer(&on_gpu, r)).collect::<Result<Vec<_>>>()?;
        let mut worst: f64 = 0.0;
        for (e, g) in expected.iter().zip(&serial) {
            for (e, g) in e.iter().zip(g) {
                worst = worst.max(relative(e, g));
            }
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|t| {
                    let (on_gpu, serial, answer) = (&on_gpu, &serial, &answer);
                    scope.spawn(move || -> Result<()> {
                        for i in 0..requests.len() * 4 {
                            let n = (i + t) % requests.len();
                            if answer(on_gpu, &requests[n])? != serial[n] {
                                return Err(Error::internal(format!(
                                    "request {n} on thread {t} differs from the serial run"
                                )));
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|t| t.join().map_err(|p| Error::internal(panic_text(&*p)))?)
        })?;
        Ok(worst)
    };
    let worst = run().map_err(|e| e.to_string())?;
    let text = format!(
        "{} requests, off by {worst:.1e} at most, 8 threads equal to the serial run to the bit",
        requests.len()
    );
    if worst <= tolerance { Ok(text) } else { Err(text) }
}

fn normal(dtype: DType, shape: &[usize], seed: u64) -> HostTensor {
    let mut random = Normal::new(seed);
    let mut t = HostTensor::zeros(TensorType::new(dtype, shape)).expect("room");
    let size = dtype.size();
    for i in 0..t.ty().shape.len() {
        let bits = random.next().to_bits().to_le_bytes();
        match dtype {
            DType::F32 => t.bytes_mut()[i * size..][..4].copy_from_slice(&bits),
            // bfloat16 is the upper half.
            _ => t.bytes_mut()[i * size..][..2].copy_from_slice(&bits[2..]),
        }
    }
    t
}

fn digits(folder: &Path) -> Result<String, String> {
    let bytes =
        std::fs::read(folder.join("digits/digits.onnx")).map_err(|e| format!("not run: digits.onnx: {e}"))?;
    let requests: Vec<Vec<HostTensor>> =
        [1, 3, 17].iter().map(|&n| vec![normal(DType::F32, &[n, 1, 8, 8], n as u64)]).collect();
    compare(&bytes, &requests, 1e-4)
}

fn mlps() -> Result<String, String> {
    let mut texts = Vec::new();
    for (widths, width, dtype, tolerance) in [
        (&[64usize, 64, 64, 64][..], Width::Float32, DType::F32, 1e-5),
        (&[512, 1024, 1024, 512], Width::Float32, DType::F32, 1e-5),
        (&[2048, 2048], Width::Float32, DType::F32, 1e-5),
        (&[2048, 2048], Width::Bfloat16, DType::BF16, 2e-2),
    ] {
        let requests: Vec<Vec<HostTensor>> =
            [1, 64, 5].iter().map(|&n| vec![normal(dtype, &[n, widths[0]], n as u64)]).collect();
        texts.push(
            compare(&mlp_of(widths, width), &requests, tolerance)
                .map_err(|e| format!("{widths:?} {dtype}: {e}"))?,
        );
    }
    Ok(texts.join("\n"))
}

fn sentence(batch: usize, tokens: usize, seed: u64) -> Vec<HostTensor> {
    let mut random = Normal::new(seed);
    let ids: Vec<i64> = (0..batch * tokens).map(|_| 1000 + (random.next().abs() * 5000.0) as i64).collect();
    let shape = [batch, tokens];
    let make = |v: Vec<i64>| HostTensor::from_vec(shape, v).expect("a small tensor");
    vec![make(ids), make(vec![1; batch * tokens]), make(vec![0; batch * tokens])]
}

fn minilm(folder: &Path) -> Result<String, String> {
    let bytes = std::fs::read(folder.join("minilm-f16.onnx"))
        .map_err(|e| format!("not run: minilm-f16.onnx: {e}"))?;
    let requests = vec![sentence(1, 16, 1), sentence(1, 128, 2), sentence(3, 24, 3)];
    compare(&bytes, &requests, 2e-2)
}

/// Tensors made on one thread and used on others, dropped anywhere, with no word about order.
fn across_threads() -> Result<String> {
    let device = Device::cuda(0)?;
    let mut rounds = 0;
    for round in 0..20 {
        let x = normal(DType::F32, &[300, 200], round);
        let made = std::thread::scope(|s| s.spawn(|| Tensor::from_host(&device, &x)?.relu()).join())
            .map_err(|p| Error::internal(panic_text(&*p)))??;
        let sums: Vec<f32> = std::thread::scope(|s| {
            let threads: Vec<_> =
                (0..8).map(|_| s.spawn(|| made.add(&made)?.sum(&[0, 1], false)?.item::<f32>())).collect();
            threads
                .into_iter()
                .map(|t| t.join().map_err(|p| Error::internal(panic_text(&*p)))?)
                .collect::<Result<_>>()
        })?;
        let expected: f64 = (0..60_000).map(|i| 2.0 * x.get(i).to_f64().max(0.0)).sum();
        for sum in sums {
            if (f64::from(sum) - expected).abs() > expected * 1e-5 {
                return Err(Error::internal(format!("round {round}: {sum}, should be {expected}")));
            }
            rounds += 1;
        }
    }
    Ok(format!("{rounds} results"))
}

/// Fills the card, fails with a value, and goes on.
fn out_of_memory() -> Result<String> {
    let device = Device::cuda(0)?;
    let mut kept = Vec::new();
    let gib = [1usize << 28];
    let refused = loop {
        match Tensor::zeros(&device, gib, DType::F32) {
            Ok(t) => kept.push(t),
            Err(e) => break e,
        }
        if kept.len() > 500 {
            return Err(Error::internal("500 GiB were granted"));
        }
    };
    if !refused.is_out_of_memory() {
        return Err(refused);
    }
    let n = kept.len();
    drop(kept);
    let again = Tensor::ones(&device, gib, DType::F32)?.sum(&[0], false)?.item::<f32>()?;
    if again != (1u64 << 28) as f32 {
        return Err(Error::internal(format!("after it, a sum is {again}")));
    }
    Ok(format!("refused after {n} GiB, then served again"))
}

/// Rates of a model that is called with tensors of the device, waited for after each call.
fn model_rates(device: &Device, model: &Model, request: &[HostTensor], time: Duration) -> Result<Vec<f64>> {
    // A first call compiles.
    let inputs: Vec<Tensor> = request.iter().map(|t| Tensor::from_host(device, t)).collect::<Result<_>>()?;
    model.run_ordered(&inputs.iter().map(Input::from).collect::<Vec<_>>())?;
    Ok(THREADS
        .iter()
        .map(|&threads| {
            rate(threads, time, |_| {
                let inputs: Vec<Tensor> =
                    request.iter().map(|t| Tensor::from_host(device, t).expect("an input")).collect();
                move || {
                    let given: Vec<Input<'_>> = inputs.iter().map(Input::from).collect();
                    let outputs = model.run_ordered(&given).expect("a run");
                    device.synchronize_stream().expect("a wait");
                    drop(outputs);
                }
            })
        })
        .collect())
}

fn rates(report: &mut Report, folder: &Path) {
    let seconds = std::env::var("GPU_VERIFY_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(0.4);
    let time = Duration::from_secs_f64(seconds);
    let part = std::env::var("GPU_VERIFY_MATCH").unwrap_or_default();
    let wanted = |name: &str| name.contains(&part);
    let bare = |report: &mut Report, name: &str, widths: &'static [usize], batch, kind, graph| {
        if !wanted(name) {
            return;
        }
        let rates: Vec<f64> = THREADS
            .iter()
            .map(|&n| {
                rate(n, time, |_| {
                    let bare = Bare::new(widths, batch, kind, graph);
                    move || bare.call()
                })
            })
            .collect();
        report.rates(name, &rates);
    };
    let ours = |report: &mut Report, name: &str, bytes: Vec<u8>, tf32: bool, request: Vec<HostTensor>| {
        if !wanted(name) {
            return;
        }
        let result = Device::builder("cuda").tf32(tf32).open().and_then(|device| {
            let model = Model::from_bytes(&device, bytes)?;
            model_rates(&device, &model, &request, time)
        });
        match result {
            Ok(rates) => report.rates(name, &rates),
            Err(e) => report.check(name, Err(e.to_string())),
        }
    };
    let w1: &[usize] = &[2048, 2048];
    for (name, kind, width, dtype) in [
        ("W1 float32", Kind::F32, Width::Float32, DType::F32),
        ("W1 TF32", Kind::Tf32, Width::Float32, DType::F32),
        ("W1 bf16", Kind::Bf16, Width::Bfloat16, DType::BF16),
    ] {
        bare(report, &format!("{name}, bare"), w1, 64, kind, false);
        bare(report, &format!("{name}, bare, graph"), w1, 64, kind, true);
        let request = vec![normal(dtype, &[64, 2048], 1)];
        ours(report, &format!("{name}, streampool"), mlp_of(w1, width), kind == Kind::Tf32, request);
    }
    let w3: &[usize] = &[512, 1024, 1024, 512];
    bare(report, "W3 float32, bare, graph", w3, 1, Kind::F32, true);
    bare(report, "W3 TF32, bare, graph", w3, 1, Kind::Tf32, true);
    ours(
        report,
        "W3 float32, streampool",
        mlp_of(w3, Width::Float32),
        false,
        vec![normal(DType::F32, &[1, 512], 1)],
    );
    let w2: &[usize] = &[64, 64, 64, 64];
    bare(report, "W2 float32, bare, graph", w2, 1, Kind::F32, true);
    ours(
        report,
        "W2 float32, streampool",
        mlp_of(w2, Width::Float32),
        false,
        vec![normal(DType::F32, &[1, 64], 1)],
    );
    if let Ok(bytes) = std::fs::read(folder.join("minilm-f16.onnx")) {
        for (name, batch, tokens) in [("b1 s16", 1, 16), ("b1 s128", 1, 128), ("b32 s128", 32, 128)] {
            ours(
                report,
                &format!("MiniLM fp16 {name}, streampool"),
                bytes.clone(),
                false,
                sentence(batch, tokens, 5),
            );
        }
        // What each step of the plan runs on.
        let explained = Device::cuda(0).and_then(|device| {
            let model = Model::from_bytes(&device, bytes)?;
            let specs: Vec<_> = sentence(1, 128, 5)
                .iter()
                .map(|t| streampool::graph::InputSpec::new(t.ty().clone()))
                .collect();
            Ok(model.explain(&specs)?.1)
        });
        match explained {
            Ok(lines) => println!("MiniLM b1 s128, {} steps:\n  {}", lines.len(), lines.join("\n  ")),
            Err(e) => println!("MiniLM cannot be explained: {e}"),
        }
    }
}
