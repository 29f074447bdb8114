//! Calls per second, beside bare loops.

use std::path::Path;
use std::time::Duration;

use streampool::{DType, Device, HostTensor, Input, Model, Result, Tensor};
use streampool_bare_cuda::{Bare, Kind, rate};

use crate::THREADS;
use crate::compare::{normal, sentence};
use crate::report::{Report, wanted};
use crate::synthetic::{Width, mlp_of};

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

/// Every rate.
pub(crate) fn all(report: &mut Report, folder: &Path) {
    let seconds = std::env::var("GPU_VERIFY_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(0.4);
    let time = Duration::from_secs_f64(seconds);
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
