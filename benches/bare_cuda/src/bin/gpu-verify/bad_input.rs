//! What goes wrong on a device that works: data that cannot be decomposed, kernels that do not compile, memory that is not enough for a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use streampool::{DType, Device, Error, HostTensor, Input, Model, Result, Tensor};
use streampool_conformance::Cases;
use streampool_core::driver::Driver;
use streampool_cpu::{CpuConfig, CpuDriver};
use streampool_cuda::{CudaConfig, CudaDriver};

use crate::compare::{normal, relative};
use crate::report::Report;
use crate::synthetic::{Width, mlp_of};

/// Every check of this kind.
pub(crate) fn all(report: &mut Report) {
    report.run("kernels that do not compile", || broken_kernels().map_err(|e| e.to_string()));
    report.run("a damaged kernel cache", || damaged_cache().map_err(|e| e.to_string()));
    report.run("out of memory at load, by a limit", || small_limit().map_err(|e| e.to_string()));
    report.run("out of memory at load, on a full card", || full_card().map_err(|e| e.to_string()));
}

/// Each failure is the CPU's, by kind and words, and the same queue's next work is done.
pub(crate) fn failing_linear_algebra() -> Result<String, String> {
    let mut cases = Cases::new(5);
    let said = cases.failing_linear_algebra();
    let cpu: Arc<dyn Driver> = Arc::new(CpuDriver::new(CpuConfig { cores: 1 }));
    let gpu: Arc<dyn Driver> = Arc::new(
        CudaDriver::new(CudaConfig { strict: true, ..CudaConfig::default() }).map_err(|e| e.to_string())?,
    );
    for (case, said) in cases.list.iter().zip(&said) {
        for device in [&cpu, &gpu] {
            let name = &device.info().name;
            match case.run_on(device) {
                Ok(_) => return Err(format!("{name}: {} gives a result", case.name)),
                Err(e) if e.is_invalid_argument() && e.to_string().contains(said) => {}
                Err(e) => return Err(format!("{name}: {}: {e:?}, should say '{said}'", case.name)),
            }
        }
    }
    // From a tensor's thread: the call that fails says so, the next works.
    let after = || -> Result<f32> {
        let device = Device::cuda(0)?;
        let zeros = Tensor::zeros(&device, [4, 4], DType::F32)?;
        match streampool::linalg::inv(&zeros) {
            Err(e) if e.is_invalid_argument() => {}
            other => return Err(Error::internal(format!("the inverse of zeros is {other:?}"))),
        }
        let one = Tensor::ones(&device, [1, 1], DType::F32)?;
        streampool::linalg::inv(&one.add(&one)?)?.sum(&[0, 1], false)?.item::<f32>()
    };
    match after().map_err(|e| e.to_string())? {
        0.5 => Ok(format!("{} matrices are refused as on the CPU, the next is inverted", said.len())),
        other => Err(format!("the inverse of 2 is {other}")),
    }
}

/// A kernel that NVRTC refuses is an error of the call that needed it, by name; other kernels of the device work on.
fn broken_kernels() -> Result<String> {
    let config = CudaConfig { broken: Some("softmax".into()), ..CudaConfig::default() };
    let device = Device::builder("cuda").driver(Arc::new(CudaDriver::new(config)?)).open()?;
    let x = Tensor::ones(&device, [3, 40], DType::F32)?;
    let mut text = String::new();
    // The second time too: what failed is not kept.
    for _ in 0..2 {
        match x.softmax(1) {
            Err(e) if e.is_internal() && e.to_string().contains("softmax of 40") => text = e.to_string(),
            Err(e) => return Err(Error::internal(format!("another error: {e:?}"))),
            Ok(_) => return Err(Error::internal("a result came of a kernel that does not compile")),
        }
    }
    if !text.contains("refused as asked") {
        return Err(Error::internal(format!("NVRTC's words are missing: {text}")));
    }
    let sum = x.relu()?.sum(&[0, 1], false)?.item::<f32>()?;
    if sum != 120.0 {
        return Err(Error::internal(format!("after it, a sum is {sum}")));
    }
    Ok(format!("{}...; other kernels work on", text.chars().take(90).collect::<String>()))
}

/// A folder that goes with the check.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).map_or(Vec::new(), |list| list.filter_map(|f| Some(f.ok()?.path())).collect())
}

/// Files of compiled kernels that were cut, flipped or emptied are made anew.
fn damaged_cache() -> Result<String> {
    let folder = Folder(std::env::temp_dir().join(format!("gpu-verify-cache-{}", std::process::id())));
    let run = || -> Result<f32> {
        let device = Device::builder("cuda").kernel_cache(&folder.0).open()?;
        let x = Tensor::ones(&device, [3, 40], DType::F32)?;
        x.softmax(1)?.sum(&[0, 1], false)?.item::<f32>()
    };
    let first = run()?;
    let kept = files(&folder.0);
    if kept.len() < 2 {
        return Err(Error::internal(format!("{} files were kept", kept.len())));
    }
    for (i, file) in kept.iter().enumerate() {
        let broken = |e: std::io::Error| Error::internal(format!("{}: {e}", file.display()));
        let mut bytes = std::fs::read(file).map_err(broken)?;
        match i % 3 {
            0 => bytes.truncate(bytes.len() / 2),
            1 => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x20;
            }
            _ => bytes.clear(),
        }
        std::fs::write(file, bytes).map_err(broken)?;
    }
    let (second, third) = (run()?, run()?);
    if (first - 3.0).abs() > 1e-5 || second != first || third != first {
        return Err(Error::internal(format!("sums are {first}, {second}, {third}")));
    }
    Ok(format!("{} damaged files were made anew", kept.len()))
}

/// A result of the model.
fn answer<'a>(model: &Model, request: impl Into<Input<'a>>) -> Result<HostTensor> {
    model.run_ordered(&[request.into()])?.into_vec()[0].to_host()
}

/// A model whose run takes more than the limit fails with a value, and runs once the limit is raised.
fn small_limit() -> Result<String> {
    let bytes = mlp_of(&[512, 4096, 4096, 512], Width::Float32);
    let request = normal(DType::F32, &[256, 512], 3);
    let device = Device::builder("cuda").memory_limit(1 << 20).open()?;
    let refused = Model::from_bytes(&device, bytes.clone()).and_then(|m| answer(&m, &request));
    let said = match refused {
        Err(e) if e.is_out_of_memory() => e.to_string(),
        other => return Err(Error::internal(format!("with 1 MiB: {:?}", other.map(|_| "a result")))),
    };
    device.set_memory_limit(1 << 30);
    let got = answer(&Model::from_bytes(&device, bytes.clone())?, &request)?;
    let expected = answer(&Model::from_bytes(&Device::cpu()?, bytes)?, &request)?;
    let off = relative(&expected, &got);
    if off > 1e-5 {
        return Err(Error::internal(format!("after it, the model is off by {off:.1e}")));
    }
    Ok(format!("{}...; runs with more", said.chars().take(90).collect::<String>()))
}

/// Weights that the card has no room for fail with a value that names them; with room, the same model loads.
fn full_card() -> Result<String> {
    let bytes = mlp_of(&[8192, 8192, 512], Width::Float32);
    let request = normal(DType::F32, &[2, 8192], 3);
    let total = Device::cuda(0)?.info().memory_bytes;
    let device = Device::builder("cuda").memory_limit(total).open()?;
    // What a device needs to run at all, and the request, come before the card is full.
    Tensor::ones(&device, [4], DType::F32)?.sum(&[0], false)?.item::<f32>()?;
    let there = Tensor::from_host(&device, &request)?;
    let mut kept = Vec::new();
    for size in [1usize << 28, 1 << 24, 1 << 20] {
        loop {
            match Tensor::zeros(&device, [size], DType::F32) {
                Ok(t) => kept.push(t),
                Err(e) if e.is_out_of_memory() => break,
                Err(e) => return Err(e),
            }
            if kept.len() > 2000 {
                return Err(Error::internal("the card is never full"));
            }
        }
    }
    let refused = Model::from_bytes(&device, bytes.clone()).and_then(|m| answer(&m, &there));
    let said = match refused {
        Err(e) if e.is_out_of_memory() => e.to_string(),
        other => return Err(Error::internal(format!("on a full card: {:?}", other.map(|_| "a result")))),
    };
    if !said.contains("constant") {
        return Err(Error::internal(format!("what did not fit is not named: {said}")));
    }
    drop(kept);
    device.synchronize()?;
    device.empty_cache()?;
    let got = answer(&Model::from_bytes(&device, bytes.clone())?, &there)?;
    let expected = answer(&Model::from_bytes(&Device::cpu()?, bytes)?, &request)?;
    let off = relative(&expected, &got);
    if off > 1e-5 {
        return Err(Error::internal(format!("after it, the model is off by {off:.1e}")));
    }
    Ok(format!("{}...; loads with room", said.chars().take(120).collect::<String>()))
}
