//! `streampool run`: a data set answered from many threads.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use streampool::graph::Dim;
use streampool::{Device, Error, HostTensor, Input, Model, Result, StreamId};
use streampool_npz::{Limits, Npz};

use crate::args::Run;
use crate::data::{self, FirstAxis, Requests};
use crate::device::cores;
use crate::exit::Failure;
use crate::load::{Amount, Outcome, share_out};
use crate::table::{bytes, digits, percent, table, thousands, time};

/// The array that is not an input but the right answers.
const LABELS: &str = "labels";

/// How long a thread count is measured if nobody says how many requests.
const ROW: Duration = Duration::from_secs(1);

/// How long each thread calls before the clock starts.
const WARM_UP: Duration = Duration::from_millis(20);

/// What one thread count did; a row of the table.
#[derive(Serialize)]
struct Row {
    threads: usize,
    requests: u64,
    seconds: f64,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    speed_up: f64,
    /// Speed-up over how many times the cores of the first row there were.
    efficiency: f64,
    streams: usize,
    peak_memory_bytes: usize,
    busy_cores: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers_differing: Option<usize>,
}

#[derive(Serialize)]
struct Summary<'a> {
    model: String,
    device: &'a str,
    cores: usize,
    cores_per_request: usize,
    requests_in_data: usize,
    weights_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    all_equal_serial: Option<bool>,
    rows: Vec<Row>,
}

/// A model with the requests that it is to answer.
struct Job {
    device: Device,
    model: Model,
    requests: Requests,
    /// Cores that one request may use.
    cores: usize,
}

impl Job {
    /// The cores that `threads` threads can keep busy.
    fn share(&self, threads: usize) -> f64 {
        threads.saturating_mul(self.cores).min(cores()) as f64
    }

    /// Calls that leave nothing to be made ready: the data's first and last requests (the last may have fewer rows), then more.
    fn warm_up(&self) -> Result<()> {
        let start = Instant::now();
        if self.requests.inputs.len() > 1 {
            self.answer(self.requests.inputs.len() - 1)?;
        }
        let mut i = 0;
        while i == 0 || start.elapsed() < WARM_UP {
            self.answer(i)?;
            i += 1;
        }
        Ok(())
    }

    fn answer(&self, i: usize) -> Result<Vec<HostTensor>> {
        let inputs = &self.requests.inputs[i % self.requests.inputs.len()];
        let inputs: Vec<Input<'_>> = inputs.iter().map(Input::from).collect();
        self.model.run_ordered(&inputs)?.iter().map(|(_, t)| t.to_host()).collect()
    }
}

/// Runs the command.
pub(crate) fn run(options: &Run) -> Result<(), Failure> {
    let cores_per_request = usize::from(options.cores).min(cores());
    let device = options.device.builder().cores(cores_per_request).open()?;
    let model = Model::load(&device, &options.model)?;
    let data = streampool_npz::read(&options.input, Limits::default())?;
    let requests = split(&model, &data, options)?;
    let job = Job { device, model, requests, cores: cores_per_request };
    let distinct = job.requests.inputs.len();
    let amount = match options.requests {
        Some(m) => Amount::Calls(usize::try_from(m).unwrap_or(usize::MAX)),
        None => Amount::Rounds { round: distinct, time: ROW },
    };
    let report = &options.report;

    // The serial answers are the truth for --check, the outputs, and the accuracy.
    let answers: Vec<_> = (0..distinct).map(|i| job.answer(i)).collect::<Result<_>>()?;

    let mut counts = options.threads.threads.iter().map(|&n| usize::from(n)).collect::<Vec<_>>();
    if counts[0] != 1 {
        counts.insert(0, 1);
    }
    let progress = progress(amount, counts.len());
    let mut rows: Vec<Row> = Vec::new();
    for &threads in &counts {
        progress.set_message(format!("{threads} threads"));
        let base = rows.first().map(|r| r.requests_per_second);
        rows.push(measure(&job, threads, amount, options.check.then_some(&answers), base, &progress)?);
    }
    progress.finish_and_clear();

    let joined = data::join(&job.requests, &answers)?;
    let accuracy = data
        .get(LABELS)
        .zip(joined.first().and_then(Option::as_ref))
        .and_then(|(labels, scores)| data::accuracy(scores, labels));
    if let Some((right, n)) = accuracy {
        report.say(&format!("accuracy: {right} of {n} right, {}", percent(right as f64 / n as f64)));
    }
    let differing: usize = rows.iter().filter_map(|r| r.answers_differing).sum();
    if options.check {
        let made: u64 = rows.iter().map(|r| r.requests).sum();
        report.say(&match differing {
            0 => format!("check: all {} answers equal the serial ones, bit for bit", thousands(made as i64)),
            n => format!("check: FAILED: {} of {} answers differ from the serial ones", n, made),
        });
    }
    report.say(&show(&rows));
    let each =
        if cores_per_request == 1 { "one core".to_owned() } else { format!("{cores_per_request} cores") };
    report.say(&format!(
        "efficiency is speed-up over cores in use; this machine has {}, a request may use {each}",
        cores()
    ));
    if let Some(path) = &options.output {
        write_outputs(path, &job.model, joined)?;
    }
    report.write(&Summary {
        model: options.model.display().to_string(),
        device: &job.device.info().name,
        cores: cores(),
        cores_per_request,
        requests_in_data: distinct,
        weights_bytes: job.device.frozen_bytes(),
        accuracy: accuracy.map(|(right, n)| right as f64 / n as f64),
        all_equal_serial: options.check.then_some(differing == 0),
        rows,
    })?;
    if differing > 0 { Err(Failure::Check) } else { Ok(()) }
}

fn split(model: &Model, data: &Npz, options: &Run) -> Result<Requests> {
    let inputs: Vec<_> = model
        .graph()
        .inputs()
        .iter()
        .map(|info| data::Input {
            name: info.name.clone(),
            first_axis: match info.dims.as_deref() {
                Some([]) => FirstAxis::None,
                Some([Dim::Fixed(n), ..]) => FirstAxis::Fixed(*n),
                Some([Dim::Symbol(_) | Dim::Unknown, ..]) | None => FirstAxis::Free,
            },
        })
        .collect();
    Requests::new(&inputs, data, usize::try_from(options.batch).unwrap_or(usize::MAX))
        .map_err(|e| e.context(options.input.display()))
}

fn measure(
    job: &Job,
    threads: usize,
    amount: Amount,
    truth: Option<&Vec<Vec<HostTensor>>>,
    base: Option<f64>,
    progress: &ProgressBar,
) -> Result<Row> {
    job.device.reset_peak_memory_stats();
    let differing = AtomicUsize::new(0);
    let streams: Mutex<HashSet<StreamId>> = Mutex::default();
    let outcome: Outcome = share_out(
        threads,
        amount,
        |_| {
            job.warm_up()?;
            let mine = job.device.current_stream()?;
            streams.lock().map_err(|_| Error::internal("a thread panicked"))?.insert(mine);
            Ok(|i: usize| {
                let answer = job.answer(i)?;
                if truth.is_some_and(|t| t[i % t.len()] != answer) {
                    differing.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        },
        |n| progress.inc(n as u64),
    )?;
    let rate = outcome.per_second();
    let speed_up = base.map_or(1.0, |b| rate / b.max(1e-9));
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    Ok(Row {
        threads,
        requests: outcome.latencies.count(),
        seconds: outcome.wall.as_secs_f64(),
        requests_per_second: rate,
        p50_us: us(outcome.latencies.percentile(50.0)),
        p99_us: us(outcome.latencies.percentile(99.0)),
        speed_up,
        efficiency: speed_up * job.share(1) / job.share(threads),
        streams: streams.into_inner().map_err(|_| Error::internal("a thread panicked"))?.len(),
        peak_memory_bytes: job.device.memory_stats().peak_live,
        busy_cores: outcome.cores(),
        answers_differing: truth.map(|_| differing.into_inner()),
    })
}

fn show(rows: &[Row]) -> String {
    let us = |us: f64| time(Duration::from_secs_f64(us / 1e6));
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            vec![
                r.threads.to_string(),
                thousands(r.requests as i64),
                digits(r.requests_per_second),
                us(r.p50_us),
                us(r.p99_us),
                format!("{:.2}x", r.speed_up),
                percent(r.efficiency),
                r.streams.to_string(),
                bytes(r.peak_memory_bytes as u64),
            ]
        })
        .collect();
    let head =
        ["threads", "requests", "req/s", "p50", "p99", "speed-up", "efficiency", "streams", "peak memory"];
    table(&head, &cells)
}

fn write_outputs(path: &std::path::Path, model: &Model, joined: Vec<Option<HostTensor>>) -> Result<()> {
    let names = model.graph().outputs().iter().map(|o| o.name.as_str());
    let arrays: Vec<(&str, HostTensor)> = names
        .zip(joined)
        .map(|(name, array)| {
            let array = array.ok_or_else(|| {
                Error::invalid_argument(format!(
                    "output '{name}' has no axis of the requests' rows, so the answers cannot be put together; use --batch with \
                     all rows"
                ))
            })?;
            Ok((name, array))
        })
        .collect::<Result<_>>()?;
    streampool_npz::write(path, arrays.iter().map(|(n, a)| (*n, a)))
}

/// A bar on standard error if that is a terminal; without an end if nobody knows it.
fn progress(amount: Amount, counts: usize) -> ProgressBar {
    let (length, template) = match amount {
        Amount::Calls(n) => {
            let all = (n as u64).saturating_mul(counts as u64);
            (Some(all), "{msg:12} [{bar:40}] {human_pos}/{human_len} {per_sec} {eta}")
        }
        Amount::Rounds { .. } => (None, "{msg:12} {human_pos} requests"),
    };
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
