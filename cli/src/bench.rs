//! `streampool bench`: calls per second at several thread counts.

use std::time::Duration;

use serde::Serialize;
use streampool::{Device, HostTensor, Input, Model, Result};

use crate::args::{Bench, Workload};
use crate::device::cores;
use crate::exit::Failure;
use crate::load::{Outcome, for_a_while};
use crate::output::write_file;
use crate::plot;
use crate::stats::{Histogram, Spread};
use crate::synthetic::{Normal, mlp};
use crate::table::{bytes, digits, percent, table, time};

impl Workload {
    fn widths(self) -> &'static [usize] {
        match self {
            Workload::Linear => &[2048, 2048],
            Workload::Micro => &[64, 64, 64, 64],
            Workload::Mlp => &[512, 1024, 1024, 512],
        }
    }

    fn batch(self) -> usize {
        match self {
            Workload::Linear => 64,
            Workload::Micro | Workload::Mlp => 1,
        }
    }

    /// Floating-point operations of a call: a multiplication and an addition per weight and row.
    fn flop(self) -> f64 {
        self.widths().windows(2).map(|w| 2.0 * (w[0] * w[1]) as f64).sum::<f64>() * self.batch() as f64
    }

    fn describe(self) -> String {
        let widths: Vec<_> = self.widths().iter().map(usize::to_string).collect();
        format!(
            "{} {}, batch {}, float32",
            if widths.len() > 2 { "MLP" } else { "linear" },
            widths.join("-"),
            self.batch()
        )
    }
}

/// A thread count, or one caller with all cores.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Point {
    threads: usize,
    all_cores: bool,
}

#[derive(Serialize)]
struct Row {
    threads: usize,
    all_cores: bool,
    calls_per_second: Spread,
    p50_us: f64,
    p99_us: f64,
    /// Against one thread; absent without a row of one thread.
    speed_up: Option<f64>,
    /// Speed-up over the lesser of threads and cores.
    efficiency: Option<f64>,
    /// Processor time over wall time.
    busy_cores: Spread,
    gflop_per_second: f64,
    peak_memory_bytes: usize,
}

#[derive(Serialize)]
struct Summary<'a> {
    workload: String,
    device: &'a str,
    description: &'a str,
    cores: usize,
    seconds: f64,
    repeats: u16,
    rows: &'a [Row],
}

struct Bed {
    device: Device,
    model: Model,
}

impl Bed {
    fn new(options: &Bench, all_cores: bool) -> Result<Self> {
        let builder = options.device.builder();
        let device = if all_cores { builder.open()? } else { builder.cores(1).open()? };
        let model = Model::from_bytes(&device, mlp(options.workload.widths()))?;
        Ok(Self { device, model })
    }

    fn measure(&self, workload: Workload, threads: usize, time: Duration) -> Result<Outcome> {
        for_a_while(threads, time, |thread| {
            // An input of each thread's own, and a first call outside the clock: plan and memory are there.
            let mut random = Normal::new(1000 + thread as u64);
            let shape = [workload.batch(), workload.widths()[0]];
            let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| random.next()).collect();
            let x = HostTensor::from_slice(shape, &values)?;
            // A call ends when its result can be read; on an inline device that is when it returns.
            let pending = !self.device.info().inline;
            let call = move |_| {
                let y = self.model.run_ordered(&[Input::from(&x)])?;
                if pending {
                    self.device.synchronize_stream()?;
                }
                drop(y);
                Ok(())
            };
            for i in 0..3 {
                call(i)?;
            }
            Ok(call)
        })
    }
}

/// Runs the command.
pub(crate) fn run(options: &Bench) -> Result<(), Failure> {
    let workload = options.workload;
    let one_core = Bed::new(options, false)?;
    let all_cores = Bed::new(options, true)?;
    let mut points: Vec<Point> = Vec::new();
    for &n in &options.threads {
        let point = Point { threads: usize::from(n), all_cores: false };
        if !points.contains(&point) {
            points.push(point);
        }
    }
    if workload == Workload::Linear && cores() > 1 {
        points.push(Point { threads: 1, all_cores: true });
    }
    let bed = |p: &Point| if p.all_cores { &all_cores } else { &one_core };
    let time = Duration::from_secs_f64(options.seconds);
    let mut rates = vec![Vec::new(); points.len()];
    let mut busy = vec![Vec::new(); points.len()];
    let mut latencies = vec![Histogram::new(); points.len()];
    let mut peaks = vec![0; points.len()];
    for _ in 0..options.repeats {
        // In turn, so that a disturbance of the machine hits all alike.
        for (i, point) in points.iter().enumerate() {
            bed(point).device.reset_peak_memory_stats();
            let outcome = bed(point).measure(workload, point.threads, time)?;
            rates[i].push(outcome.per_second());
            busy[i].push(outcome.cores());
            latencies[i].merge(&outcome.latencies);
            peaks[i] = peaks[i].max(bed(point).device.memory_stats().peak_live);
        }
    }
    let base = points
        .iter()
        .position(|p| *p == Point { threads: 1, all_cores: false })
        .map(|i| Spread::of(&rates[i]).median);
    let rows: Vec<Row> = points
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let rate = Spread::of(&rates[i]);
            let speed_up = base.map(|b| rate.median / b);
            let share = if p.all_cores { cores() } else { p.threads.min(cores()) };
            let us = |percent| latencies[i].percentile(percent).as_secs_f64() * 1e6;
            Row {
                threads: p.threads,
                all_cores: p.all_cores,
                calls_per_second: rate,
                p50_us: us(50.0),
                p99_us: us(99.0),
                speed_up,
                efficiency: speed_up.map(|s| s / share as f64),
                busy_cores: Spread::of(&busy[i]),
                gflop_per_second: rate.median * workload.flop() / 1e9,
                peak_memory_bytes: peaks[i],
            }
        })
        .collect();
    let info = one_core.device.info();
    options.report.say(&format!("{} on {} ({})", workload.describe(), info.name, info.description));
    options.report.say(&show(&rows));
    if let Some(path) = &options.plot {
        let drawn: Vec<_> =
            rows.iter().filter(|r| !r.all_cores).map(|r| (r.threads, r.calls_per_second)).collect();
        let title = format!("{} on {}", workload.describe(), info.name);
        write_file(path, &plot::throughput(&title, &drawn, cores()))?;
    }
    options.report.write(&Summary {
        workload: workload.describe(),
        device: &info.name,
        description: &info.description,
        cores: cores(),
        seconds: options.seconds,
        repeats: options.repeats,
        rows: &rows,
    })?;
    Ok(())
}

fn show(rows: &[Row]) -> String {
    let us = |us: f64| time(Duration::from_secs_f64(us / 1e6));
    let maybe = |v: Option<f64>, f: fn(f64) -> String| v.map_or("-".to_owned(), f);
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            vec![
                format!("{}{}", r.threads, if r.all_cores { "*" } else { "" }),
                digits(r.calls_per_second.median),
                digits(r.calls_per_second.min),
                digits(r.calls_per_second.max),
                us(r.p50_us),
                us(r.p99_us),
                maybe(r.speed_up, |s| format!("{s:.2}x")),
                maybe(r.efficiency, percent),
                format!("{:.2}", r.busy_cores.median),
                digits(r.gflop_per_second),
                bytes(r.peak_memory_bytes as u64),
            ]
        })
        .collect();
    let head = [
        "threads",
        "calls/s",
        "min",
        "max",
        "p50",
        "p99",
        "speed-up",
        "efficiency",
        "busy cores",
        "GFLOP/s",
        "peak memory",
    ];
    let note = if rows.iter().any(|r| r.all_cores) { "1*: one caller, all cores\n" } else { "" };
    table(&head, &cells) + note
}
