//! Calls per second, beside bare loops.

use std::path::Path;
use std::time::Duration;

use streampool::{DType, Device, HostTensor, Input, Model, Result, Tensor};
use streampool_bare_cuda::{Bare, Kind, rate};

use crate::THREADS;
use crate::compare::{normal, sentence};
use crate::report::{Report, wanted};
use crate::synthetic::{Width, mlp_of};

/// How often each rate is measured; the median counts.
const ROUNDS: usize = 5;

/// A row of the table: calls per second with so many threads, for so long.
struct Row<'a> {
    name: String,
    measure: Box<dyn Fn(usize, Duration) -> f64 + 'a>,
}

/// A loop of its own on cuBLASLt, without a pool.
fn bare<'a>(
    name: &str,
    widths: &'a [usize],
    batch: usize,
    kind: Kind,
    graph: bool,
) -> Option<Result<Row<'a>>> {
    let measure = move |threads, time| {
        rate(threads, time, |_| {
            let bare = Bare::new(widths, batch, kind, graph);
            move || bare.call()
        })
    };
    wanted(name).then(|| Ok(Row { name: name.to_owned(), measure: Box::new(measure) }))
}

/// A model that is called with tensors of the device, waited for after each call.
fn streampool(
    name: &str,
    bytes: Vec<u8>,
    tf32: bool,
    request: Vec<HostTensor>,
) -> Option<Result<Row<'static>>> {
    wanted(name).then(|| model_row(name, bytes, tf32, request).map_err(|e| e.context(name)))
}

fn model_row(name: &str, bytes: Vec<u8>, tf32: bool, request: Vec<HostTensor>) -> Result<Row<'static>> {
    let device = Device::builder("cuda").tf32(tf32).open()?;
    let model = Model::from_bytes(&device, bytes)?;
    let to_device = {
        let device = device.clone();
        move || request.iter().map(|t| Tensor::from_host(&device, t)).collect::<Result<Vec<Tensor>>>()
    };
    // A first call compiles.
    model.run_ordered(&to_device()?.iter().map(Input::from).collect::<Vec<_>>())?;
    let measure = move |threads, time| {
        rate(threads, time, |_| {
            let inputs = to_device().expect("inputs");
            let (device, model) = (&device, &model);
            move || {
                let given: Vec<Input<'_>> = inputs.iter().map(Input::from).collect();
                let outputs = model.run_ordered(&given).expect("a run");
                device.synchronize_stream().expect("a wait");
                drop(outputs);
            }
        })
    };
    Ok(Row { name: name.to_owned(), measure: Box::new(measure) })
}

/// Measures rows that are compared in turn, round by round, so that what else the machine does meets all of them.
fn in_turn(report: &mut Report, rows: Vec<Option<Result<Row<'_>>>>, time: Duration) {
    let mut measured = Vec::new();
    for row in rows.into_iter().flatten() {
        match row {
            Ok(row) => measured.push((row, vec![Vec::new(); THREADS.len()])),
            Err(e) => report.check("a model to measure", Err(e.to_string())),
        }
    }
    for _ in 0..ROUNDS {
        for (i, &threads) in THREADS.iter().enumerate() {
            for (row, rates) in &mut measured {
                rates[i].push((row.measure)(threads, time / ROUNDS as u32));
            }
        }
    }
    for (row, rates) in measured {
        report.rates(&row.name, rates);
    }
}

/// Every rate.
pub(crate) fn all(report: &mut Report, folder: &Path) {
    let seconds = std::env::var("GPU_VERIFY_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(0.5);
    let time = Duration::from_secs_f64(seconds);
    let w1: &[usize] = &[2048, 2048];
    for (name, kind, width, dtype) in [
        ("W1 float32", Kind::F32, Width::Float32, DType::F32),
        ("W1 TF32", Kind::Tf32, Width::Float32, DType::F32),
        ("W1 bf16", Kind::Bf16, Width::Bfloat16, DType::BF16),
    ] {
        let request = vec![normal(dtype, &[64, 2048], 1)];
        let rows = vec![
            bare(&format!("{name}, bare"), w1, 64, kind, false),
            bare(&format!("{name}, bare, graph"), w1, 64, kind, true),
            streampool(&format!("{name}, streampool"), mlp_of(w1, width), kind == Kind::Tf32, request),
        ];
        in_turn(report, rows, time);
    }
    let w3: &[usize] = &[512, 1024, 1024, 512];
    let w2: &[usize] = &[64, 64, 64, 64];
    let request = |width| vec![normal(DType::F32, &[1, width], 1)];
    let rows = vec![
        bare("W3 float32, bare, graph", w3, 1, Kind::F32, true),
        bare("W3 TF32, bare, graph", w3, 1, Kind::Tf32, true),
        streampool("W3 float32, streampool", mlp_of(w3, Width::Float32), false, request(512)),
    ];
    in_turn(report, rows, time);
    let rows = vec![
        bare("W2 float32, bare, graph", w2, 1, Kind::F32, true),
        streampool("W2 float32, streampool", mlp_of(w2, Width::Float32), false, request(64)),
    ];
    in_turn(report, rows, time);
    if let Ok(bytes) = std::fs::read(folder.join("minilm-f16.onnx")) {
        for (name, batch, tokens) in [("b1 s16", 1, 16), ("b1 s128", 1, 128), ("b32 s128", 32, 128)] {
            let name = format!("MiniLM fp16 {name}, streampool");
            in_turn(report, vec![streampool(&name, bytes.clone(), false, sentence(batch, tokens, 5))], time);
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
