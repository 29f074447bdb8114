//! Calls per second of streampool and ONNX Runtime on the same model file, threads and inputs, in turn, in one process.
//!
//! Both are called natively, one shared model each, one core a call ("1*" is one caller with all cores). Before the clock starts their
//! outputs are compared. The text of PERFORMANCE: set-up untimed, A B A B, median with least and greatest, processor time over
//! wall time.

#![allow(dead_code)] // the shared modules serve the command line too

mod engine;
#[path = "../../../cli/src/load.rs"]
mod load;
mod onnxruntime;
mod ours;
#[path = "../../../cli/src/stats.rs"]
mod stats;
#[path = "../../../cli/src/table.rs"]
mod table;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;
use streampool::{Error, HostTensor, Result};

use engine::Engine;
use stats::Spread;

/// streampool beside ONNX Runtime.
#[derive(Parser)]
struct Options {
    /// What this is called in the table.
    #[arg(long)]
    name: String,
    /// The model, an ONNX file.
    #[arg(long)]
    model: PathBuf,
    /// The shape of each input in the model's order: 1x16. Integers are token numbers, except that masks are 1 and types 0.
    #[arg(long = "input", value_name = "NAME=AxB:KIND", required = true)]
    inputs: Vec<String>,
    /// PyPI's libonnxruntime.so.
    #[arg(long)]
    onnxruntime: PathBuf,
    /// Thread counts.
    #[arg(long, value_delimiter = ',', default_value = "1,2,8")]
    threads: Vec<usize>,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Measurements of each point.
    #[arg(long, default_value_t = 10)]
    repeats: usize,
    /// Also one caller with all cores.
    #[arg(long)]
    all_cores: bool,
    /// Add the rows to this file, one JSON object a line.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Row<'a> {
    workload: &'a str,
    engine: &'a str,
    threads: usize,
    all_cores: bool,
    calls_per_second: Spread,
    busy_cores: Spread,
    p99_us: f64,
    /// Median over ONNX Runtime's.
    ratio: f64,
}

fn main() {
    if let Err(e) = run(&Options::parse()) {
        eprintln!("error: {e}");
        std::process::exit(1);
    }
}

fn run(options: &Options) -> Result<()> {
    let inputs: Vec<(String, HostTensor)> =
        options.inputs.iter().enumerate().map(|(i, text)| engine::input(text, i)).collect::<Result<_>>()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut points: Vec<(usize, bool)> = options.threads.iter().map(|&n| (n, false)).collect();
    let environment = onnxruntime::open(&options.onnxruntime)?;
    let one: [Box<dyn Engine>; 2] = [
        Box::new(ours::Ours::load(&options.model, 1)?),
        Box::new(onnxruntime::OnnxRuntime::load(&environment, &options.model, 1, &inputs)?),
    ];
    compare(&one, &inputs)?;
    let all: Option<[Box<dyn Engine>; 2]> = if options.all_cores && cores > 1 {
        points.push((1, true));
        Some([
            Box::new(ours::Ours::load(&options.model, 0)?),
            Box::new(onnxruntime::OnnxRuntime::load(&environment, &options.model, cores, &inputs)?),
        ])
    } else {
        None
    };

    let time = Duration::from_secs_f64(options.seconds);
    let mut out = String::new();
    let mut cells = Vec::new();
    for &(threads, all_cores) in &points {
        let engines = if all_cores { all.as_ref().unwrap_or(&one) } else { &one };
        let (mut rates, mut busy) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let mut latencies = [stats::Histogram::new(), stats::Histogram::new()];
        for _ in 0..options.repeats {
            for (i, engine) in engines.iter().enumerate() {
                let outcome = load::for_a_while(threads, time, |_| {
                    let mut call = engine.caller(&inputs)?;
                    for _ in 0..3 {
                        call()?;
                    }
                    Ok(move |_| call())
                })?;
                rates[i].push(outcome.per_second());
                busy[i].push(outcome.cores());
                latencies[i].merge(&outcome.latencies);
            }
        }
        let peer = Spread::of(&rates[1]).median;
        for (i, engine) in engines.iter().enumerate() {
            let row = Row {
                workload: &options.name,
                engine: engine.name(),
                threads,
                all_cores,
                calls_per_second: Spread::of(&rates[i]),
                busy_cores: Spread::of(&busy[i]),
                p99_us: latencies[i].percentile(99.0).as_secs_f64() * 1e6,
                ratio: Spread::of(&rates[i]).median / peer,
            };
            cells.push(vec![
                format!("{} {}", row.workload, row.engine),
                format!("{threads}{}", if all_cores { "*" } else { "" }),
                table::digits(row.calls_per_second.median),
                table::digits(row.calls_per_second.min),
                table::digits(row.calls_per_second.max),
                table::time(latencies[i].percentile(99.0)),
                format!("{:.2}", row.busy_cores.median),
                format!("{:.2}", row.ratio),
            ]);
            out += &serde_json::to_string(&row).map_err(|e| Error::internal(e.to_string()))?;
            out.push('\n');
        }
    }
    let head = ["workload", "threads", "calls/s", "min", "max", "p99", "busy cores", "over ONNX Runtime"];
    print!("{}", table::table(&head, &cells));
    if let Some(path) = &options.json {
        use std::io::Write;
        let io = |e: std::io::Error| Error::io(format!("{}: {e}", path.display()));
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        file.write_all(out.as_bytes()).map_err(io)?;
    }
    Ok(())
}

/// Both must mean the same by the model before their speed is compared.
fn compare(engines: &[Box<dyn Engine>; 2], inputs: &[(String, HostTensor)]) -> Result<()> {
    let (a, b) = (engines[0].first_output(inputs)?, engines[1].first_output(inputs)?);
    if a.len() != b.len() {
        return Err(Error::internal(format!("outputs of {} and {} elements", a.len(), b.len())));
    }
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(&b).map(|(x, y)| f64::from(x - y)));
    let relative = difference / norm(&mut b.iter().map(|&y| f64::from(y)));
    if relative.is_nan() || relative > 1e-4 {
        return Err(Error::internal(format!("outputs differ: relative L2 error {relative:e}")));
    }
    Ok(())
}
