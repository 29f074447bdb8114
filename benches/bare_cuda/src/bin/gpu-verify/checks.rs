//! What is checked before anything is measured.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use streampool::graph::Dim;
use streampool::{DType, Device, Error, HostTensor, Model, Result, Tensor, TensorType};
use streampool_conformance::{CHECKS, Cases};
use streampool_core::driver::Driver;
use streampool_cpu::{CpuConfig, CpuDriver};
use streampool_cuda::{CudaConfig, CudaDriver};

use crate::compare::{compare, normal, sentence};
use crate::report::Report;
use crate::synthetic::{Normal, Width, mlp_of};
use crate::{driver, panic_text};

/// Everything that is checked in this process.
pub(crate) fn all(report: &mut Report, folder: &Path) {
    report.run("conformance", || conformance(CudaConfig::default()));
    // As on devices whose streams cannot wait for words.
    report.run("conformance by events", || conformance(CudaConfig { events: true, ..CudaConfig::default() }));
    report.run("operations", operations);
    report.run("failing linear algebra", crate::bad_input::failing_linear_algebra);
    report.run("digits", || digits(folder));
    report.run("MLPs", mlps);
    report.run("MiniLM fp16", || minilm(folder));
    report.run("real models", || real_models(folder));
    report.run("tensors across threads", || across_threads().map_err(|e| e.to_string()));
    report.run("out of memory", || out_of_memory().map_err(|e| e.to_string()));
}

/// What every driver must keep to.
fn conformance(config: CudaConfig) -> Result<String, String> {
    let mut broken = Vec::new();
    for (name, check) in CHECKS {
        let result = catch_unwind(AssertUnwindSafe(|| {
            check(Arc::new(CudaDriver::new(config.clone()).expect("the GPU opens")))
        }));
        if let Err(panic) = result {
            broken.push(format!("{name}: {}", panic_text(&*panic)));
        }
    }
    let text = format!("{} of {} checks", CHECKS.len() - broken.len(), CHECKS.len());
    if broken.is_empty() { Ok(text) } else { Err(format!("{text}\n{}", broken.join("\n"))) }
}

/// Every case of every operation, against the CPU device.
pub(crate) fn operations() -> Result<String, String> {
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(7, |t| t.as_nanos() as u64);
    let mut cases = Cases::new(seed);
    cases.all();
    let every = std::env::var("GPU_VERIFY_EVERY").ok().and_then(|s| s.parse().ok()).unwrap_or(1usize).max(1);
    let mut n = 0;
    cases.list.retain(|_| {
        n += 1;
        n % every == 0
    });
    // Most of a case's time is the compiler's, so several are under way, each thread with a device of its own.
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let cpu: Arc<dyn Driver> = Arc::new(CpuDriver::new(CpuConfig { cores: 1 }));
                let gpu = driver();
                while let Some(case) = cases.list.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let both = gpu
                        .as_ref()
                        .map_err(Clone::clone)
                        .and_then(|gpu| Ok((case.run_on(&cpu)?, case.run_on(gpu)?)));
                    let result = match both {
                        Ok((expected, got)) => case.compare(&expected, &got),
                        Err(e) => Err(format!("{}: {e}", case.name)),
                    };
                    failed.lock().unwrap_or_else(PoisonError::into_inner).extend(result.err());
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let text = format!(
        "{} of {} cases agree with the CPU, seed {seed}",
        cases.list.len() - failed.len(),
        cases.list.len()
    );
    if failed.is_empty() { Ok(text) } else { Err(format!("{text}\n{}", failed.join("\n"))) }
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

fn minilm(folder: &Path) -> Result<String, String> {
    let bytes = std::fs::read(folder.join("minilm-f16.onnx"))
        .map_err(|e| format!("not run: minilm-f16.onnx: {e}"))?;
    let requests = vec![sentence(1, 16, 1), sentence(1, 128, 2), sentence(3, 24, 3)];
    compare(&bytes, &requests, 2e-2)
}

/// Every model of the folder `models` on random inputs, free axes being 1 or 2, against the CPU.
fn real_models(folder: &Path) -> Result<String, String> {
    let list = std::fs::read_dir(folder.join("models")).map_err(|e| format!("not run: models: {e}"))?;
    let mut files: Vec<_> = list.filter_map(|f| f.ok().map(|f| f.path())).collect();
    files.sort();
    let mut texts = Vec::new();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "onnx")) {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = std::fs::read(file).map_err(|e| format!("{name}: {e}"))?;
        let requests = (1..=2).map(|free| request(&bytes, free)).collect::<Result<Vec<_>>>();
        let requests = requests.map_err(|e| format!("{name}: {e}"))?;
        texts.push(format!(
            "{name}: {}",
            compare(&bytes, &requests, 1e-3).map_err(|e| format!("{name}: {e}"))?
        ));
    }
    Ok(format!("{} models within 1e-3 of the CPU\n{}", texts.len(), texts.join("\n")))
}

/// Random inputs for a model: images and signals get room, other free axes are `free`.
fn request(bytes: &[u8], free: usize) -> Result<Vec<HostTensor>> {
    let cpu = Device::cpu()?;
    let model = Model::from_bytes(&cpu, bytes.to_vec())?;
    model
        .graph()
        .inputs()
        .iter()
        .enumerate()
        .map(|(i, input)| {
            let shape: Vec<usize> = input
                .dims
                .iter()
                .flatten()
                .enumerate()
                .map(|(axis, dim)| match dim {
                    Dim::Fixed(n) => *n,
                    // One name may stand for all axes of an image, which then are of one length.
                    Dim::Symbol(name) if name == "?" => 64,
                    _ if axis == 0 => free,
                    // Of images, height and width.
                    _ if axis == 2 => 48,
                    _ => 96 * free,
                })
                .collect();
            let mut random = Normal::new((i * 7 + free) as u64);
            match input.dtype.unwrap_or(DType::F32) {
                DType::F32 => Ok(normal(DType::F32, &shape, (i * 11 + free) as u64)),
                dtype => {
                    let mut t = HostTensor::zeros(TensorType::new(dtype, &shape[..]))?;
                    let size = dtype.size();
                    for n in 0..t.ty().shape.len() {
                        // Small numbers: indices, lengths, bytes of a file.
                        let value = (random.next().abs() * 40.0) as i64;
                        t.bytes_mut()[n * size..][..size].copy_from_slice(&value.to_le_bytes()[..size]);
                    }
                    Ok(t)
                }
            }
        })
        .collect()
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
