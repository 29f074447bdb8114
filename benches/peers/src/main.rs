//! Calls per second of streampool and ONNX Runtime on the same model file, threads and inputs, in turn, in one process.
//!
//! Both are called natively, one shared model each, one core a call: streampool's device has one core, ONNX Runtime's session one
//! intra-op thread. In the row "1*", one caller, both have all cores. Before the clock starts their outputs are compared. Set-up is
//! untimed; the two take turns (A B A B); a figure is the median with the least and the greatest, beside this process's own
//! processor time over wall time, which tells a disturbed machine from a slow runtime.

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
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use streampool::{Error, HostTensor, Result};

use engine::Engine;
use stats::Spread;

/// Between two turns, so that threads of the one that still look for work (both do for a while after a call) are asleep before
/// the other is on the clock.
const PAUSE: Duration = Duration::from_millis(20);

/// streampool beside ONNX Runtime.
#[derive(Parser)]
struct Options {
    /// What this is called in the table.
    #[arg(long)]
    name: String,
    /// The model, an ONNX file.
    #[arg(long)]
    model: PathBuf,
    /// An input: its name, shape and what is in it, f32 (normal), ids (0 to 29,999), ones or zeros.
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
    /// Cores that one call may use.
    cores_per_call: usize,
    calls_per_second: Spread,
    /// Processor time over wall time.
    busy_cores: Spread,
    p50_us: f64,
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
    let environment = onnxruntime::open(&options.onnxruntime)?;
    let mut rows = Vec::new();
    {
        let engines = load(&environment, options, 1, &inputs)?;
        for &threads in &options.threads {
            rows.extend(measure(&engines, options, threads, false, 1, &inputs)?);
        }
    }
    // Loaded only now: the rows above ran in a process that had no other session's threads.
    if options.all_cores && cores > 1 {
        let engines = load(&environment, options, cores, &inputs)?;
        rows.extend(measure(&engines, options, 1, true, cores, &inputs)?);
    }
    print!("{}", show(&rows));
    if let Some(path) = &options.json {
        use std::io::Write;
        let mut out = String::new();
        for row in &rows {
            out += &serde_json::to_string(row).map_err(|e| Error::internal(e.to_string()))?;
            out.push('\n');
        }
        let io = |e: std::io::Error| Error::io(format!("{}: {e}", path.display()));
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        file.write_all(out.as_bytes()).map_err(io)?;
    }
    Ok(())
}

/// Both with the model, `cores` for one call; they agree on its output.
fn load(
    environment: &ort::environment::Environment,
    options: &Options,
    cores: usize,
    inputs: &[(String, HostTensor)],
) -> Result<[Box<dyn Engine>; 2]> {
    let engines: [Box<dyn Engine>; 2] = [
        Box::new(ours::Ours::load(&options.model, cores)?),
        Box::new(onnxruntime::OnnxRuntime::load(environment, &options.model, cores, inputs)?),
    ];
    compare(&engines, inputs)?;
    Ok(engines)
}

fn measure<'a>(
    engines: &[Box<dyn Engine>; 2],
    options: &'a Options,
    threads: usize,
    all_cores: bool,
    cores_per_call: usize,
    inputs: &[(String, HostTensor)],
) -> Result<[Row<'a>; 2]> {
    let time = Duration::from_secs_f64(options.seconds);
    let (mut rates, mut busy) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut latencies = [stats::Histogram::new(), stats::Histogram::new()];
    for _ in 0..options.repeats {
        for (i, engine) in engines.iter().enumerate() {
            std::thread::sleep(PAUSE);
            let outcome = load::for_a_while(threads, time, |_| {
                let mut call = engine.caller(inputs)?;
                let start = Instant::now();
                for _ in 0..3 {
                    call()?;
                    // A call that takes long enough is warm after one.
                    if start.elapsed() > Duration::from_millis(50) {
                        break;
                    }
                }
                Ok(move |_| call())
            })?;
            rates[i].push(outcome.per_second());
            busy[i].push(outcome.cores());
            latencies[i].merge(&outcome.latencies);
        }
    }
    let peer = Spread::of(&rates[1]).median;
    let us = |i: usize, percent| latencies[i].percentile(percent).as_secs_f64() * 1e6;
    Ok([0, 1].map(|i| Row {
        workload: &options.name,
        engine: engines[i].name(),
        threads,
        all_cores,
        cores_per_call,
        calls_per_second: Spread::of(&rates[i]),
        busy_cores: Spread::of(&busy[i]),
        p50_us: us(i, 50.0),
        p99_us: us(i, 99.0),
        ratio: Spread::of(&rates[i]).median / peer,
    }))
}

fn show(rows: &[Row<'_>]) -> String {
    let us = |us: f64| table::time(Duration::from_secs_f64(us / 1e6));
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                format!("{} {}", row.workload, row.engine),
                format!("{}{}", row.threads, if row.all_cores { "*" } else { "" }),
                table::digits(row.calls_per_second.median),
                table::digits(row.calls_per_second.min),
                table::digits(row.calls_per_second.max),
                us(row.p50_us),
                us(row.p99_us),
                format!("{:.2}", row.busy_cores.median),
                format!("{:.2}", row.ratio),
            ]
        })
        .collect();
    let head =
        ["workload", "threads", "calls/s", "min", "max", "p50", "p99", "busy cores", "over ONNX Runtime"];
    let note = if rows.iter().any(|r| r.all_cores) { "1*: one caller, all cores\n" } else { "" };
    table::table(&head, &cells) + note
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
