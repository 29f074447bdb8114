//! What a GPU machine runs: `gpu-verify FOLDER [OUT]`. Checks first, then rates beside bare CUDA loops of the same run; the table comes last.
//!
//! `GPU_VERIFY_ONLY` is `checks`, `operations`, `cases` or `rates` for a part of it, `GPU_VERIFY_EVERY=N` takes every N-th operation or node case (for
//! slow tools such as compute-sanitizer), `GPU_VERIFY_SECONDS` is the time of one rate, `GPU_VERIFY_MATCH` takes the rates whose name has it,
//! and the checks likewise.
//!
//! FOLDER may hold `digits/{digits.onnx,test.npz}`, `minilm-f16.onnx`, `models/*.onnx` and `onnx-cases/`; what is not there is reported as not run.

mod bad_input;
mod cases;
mod checks;
mod children;
mod compare;
mod rates;
mod report;
#[path = "../../../../../cli/src/synthetic.rs"]
mod synthetic;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use streampool::{Device, Result};
use streampool_core::driver::Driver;
use streampool_cuda::{CudaConfig, CudaDriver};

use report::Report;

/// Threads of a row of the table.
const THREADS: [usize; 5] = [1, 2, 4, 8, 16];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == children::MARK) {
        children::child(args.get(2).map_or("", String::as_str));
    }
    let folder = Path::new(args.get(1).map_or(".", String::as_str)).to_owned();
    let mut report = Report::default();
    let start = Instant::now();
    match Device::cuda(0) {
        Ok(device) => {
            report.lines.push(device.info().description.clone());
            drop(device);
            let only = std::env::var("GPU_VERIFY_ONLY").unwrap_or_default();
            if only == "operations" {
                report.check("operations", checks::operations());
                report.run("failing linear algebra", bad_input::failing_linear_algebra);
            } else if only != "rates" && only != "cases" {
                checks::all(&mut report, &folder);
                bad_input::all(&mut report);
                children::all(&mut report);
            }
            if only.is_empty() || only == "cases" || only == "checks" {
                report.run("ONNX node cases", || cases::all(&folder));
            }
            println!("-- checks took {:?}", start.elapsed());
            if only.is_empty() || only == "rates" {
                rates::all(&mut report, &folder);
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

/// The GPU's driver, without the facade. Strict: what is compared with the CPU must not have run there.
fn driver() -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(CudaDriver::new(CudaConfig { strict: true, ..CudaConfig::default() })?))
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "a panic without text".into())
}
