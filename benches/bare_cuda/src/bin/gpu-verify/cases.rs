//! ONNX's node cases on the GPU: every case that the CPU passes, and whether its steps all had kernels.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use streampool::graph::{InputSpec, InterfaceInfo};
use streampool::{DType, Device, Error, HostTensor, Input, Model, Result, Tensor};
use streampool_npz::Limits;

/// Cases that run at once: most of a case's time is the compiler's.
const THREADS: usize = 16;

/// After so long the rest is left out, and said so.
const PATIENCE: Duration = Duration::from_secs(120);

/// The arrays of these names of the inputs (`in`) or outputs (`out`) of a case's first data set.
fn tensors(folder: &Path, kind: &str, names: &[InterfaceInfo]) -> Result<Vec<HostTensor>> {
    let arrays = streampool_npz::read(folder.join(format!("0.{kind}.npz")), Limits::default())?;
    let missing = |name: &str| Error::invalid_argument(format!("the case has no array '{name}'"));
    names.iter().map(|i| arrays.get(&i.name).cloned().ok_or_else(|| missing(&i.name))).collect()
}

fn close(got: &HostTensor, want: &HostTensor, rtol: f64, atol: f64) -> bool {
    // Expected values were made in float32 by another library: half widths round once more.
    let (rtol, atol) = match want.ty().dtype {
        DType::F16 => (rtol.max(2e-3), atol.max(1e-4)),
        _ => (rtol, atol.max(1e-6)),
    };
    got.ty() == want.ty()
        && (0..want.ty().shape.len()).all(|i| {
            let (a, b) = (got.get(i).to_f64(), want.get(i).to_f64());
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + rtol * b.abs()
        })
}

/// How the case ends on a device: `None` is passed, else why not.
fn run(device: &Device, model: &[u8], data: &Path, rtol: f64, atol: f64) -> Result<Option<String>> {
    let model = Model::from_bytes(device, model.to_vec())?;
    let graph = model.graph();
    let inputs = tensors(data, "in", graph.inputs())?;
    let expected = tensors(data, "out", graph.outputs())?;
    let given: Vec<Input<'_>> = inputs.iter().map(Input::from).collect();
    let got =
        model.run_ordered(&given)?.into_vec().iter().map(Tensor::to_host).collect::<Result<Vec<_>>>()?;
    Ok((0..expected.len())
        .find(|&n| got.get(n).is_none_or(|g| !close(g, &expected[n], rtol, atol)))
        .map(|n| format!("output {n} differs")))
}

/// Whether some step of the case runs on the CPU.
fn on_host(device: &Device, model: &[u8], data: &Path) -> bool {
    // With values of inputs only where shapes depend on them: what is known is computed beforehand and leaves no step.
    let lines = |values: bool| -> Result<Vec<String>> {
        let model = Model::from_bytes(device, model.to_vec())?;
        let specs: Vec<_> = tensors(data, "in", model.graph().inputs())?
            .iter()
            .map(|t| match values {
                true => InputSpec::new(t.ty().clone()).with_value(t.bytes().to_vec().into()),
                false => InputSpec::new(t.ty().clone()),
            })
            .collect();
        Ok(model.explain(&specs)?.1)
    };
    lines(false).or_else(|_| lines(true)).is_ok_and(|lines| lines.iter().any(|l| l.contains("on the CPU")))
}

/// Every case of the folder that the CPU passes, on the GPU.
pub(crate) fn all(folder: &Path) -> Result<String, String> {
    on(folder, "cuda")
}

fn on(folder: &Path, device: &str) -> Result<String, String> {
    let folder = folder.join("onnx-cases");
    let text = std::fs::read_to_string(folder.join("cases.json"))
        .map_err(|e| format!("not run: onnx-cases: {e}"))?;
    let list: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let every: usize = std::env::var("GPU_VERIFY_EVERY").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let flag = |case: &Value, name: &str| case[name].as_bool().unwrap_or(false);
    let wanted: Vec<&Value> = list
        .as_array()
        .ok_or("cases.json is no list")?
        .iter()
        .filter(|c| flag(c, "in_scope") && flag(c, "storable") && !flag(c, "random"))
        .step_by(every.max(1))
        .collect();
    let (cpu, gpu) =
        (Device::cpu().map_err(|e| e.to_string())?, Device::open(device).map_err(|e| e.to_string())?);
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    // Failed cases, and how many passed by kernels alone, with the CPU's help, and were left out as the CPU does not pass them either.
    let found = Mutex::new((Vec::<String>::new(), 0, 0, 0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while start.elapsed() < PATIENCE {
                    let Some(case) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                    let name = case["name"].as_str().unwrap_or_default();
                    let data = folder.join(name);
                    let Ok(model) = std::fs::read(folder.join(name).join("model.onnx")) else { continue };
                    let tolerances =
                        (case["rtol"].as_f64().unwrap_or(1e-3), case["atol"].as_f64().unwrap_or(1e-7));
                    let on = |device| run(device, &model, &data, tolerances.0, tolerances.1);
                    let here = matches!(on(&cpu), Ok(None));
                    let there = if here { on(&gpu) } else { Ok(None) };
                    let host = here && on_host(&gpu, &model, &data);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    match (here, there) {
                        (false, _) => found.3 += 1,
                        (true, Ok(None)) if host => found.2 += 1,
                        (true, Ok(None)) => found.1 += 1,
                        (true, Ok(Some(why))) => found.0.push(format!("{name}: {why}")),
                        (true, Err(e)) => found.0.push(format!("{name}: {e}")),
                    }
                }
            });
        }
    });
    let (failed, kernels, helped, out) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let done = kernels + helped + out + failed.len();
    let text = format!(
        "{kernels} cases pass by kernels alone, {helped} with steps on the CPU, {} fail; {out} are not the CPU's either; {} not run; {:.0?}",
        failed.len(),
        wanted.len() - done,
        start.elapsed()
    );
    if failed.is_empty() && kernels > 0 { Ok(text) } else { Err(format!("{text}\n{}", failed.join("\n"))) }
}

#[cfg(test)]
mod tests {
    /// What judges the GPU, tried on a device that is everywhere: runs where the cases are.
    #[test]
    fn the_simulated_device_passes_what_the_cpu_passes() {
        let Some(folder) = std::env::var_os("GPU_VERIFY_CASES") else {
            println!("not run: GPU_VERIFY_CASES names no folder with onnx-cases/cases.json");
            return;
        };
        let said = super::on(std::path::Path::new(&folder), "sim").expect("no case differs");
        assert!(said.contains(" 0 fail; ") && !said.starts_with("0 cases"), "{said}");
    }
}
