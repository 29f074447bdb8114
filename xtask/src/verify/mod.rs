//! `cargo xtask verify`: the report. Sections A to D of the scenarios, each row with its figure, and nothing called passed that
//! did not run.

mod harness;
mod machine;
mod python;
mod report;
mod scripts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};

use crate::mutants;
use crate::process::{self, root, write_whole};
use crate::suite::Runner;
use harness::HARNESSES;
use report::{Artifact, Report, Row, Status};

/// `cargo xtask verify`
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Under five minutes on two cores with a warm build: a handful of mutants, the sanitizers' short form, a short benchmark.
    #[arg(long, conflicts_with = "deep")]
    quick: bool,
    /// Hours: more random programs and schedules (tests read STREAMPOOL_DEEP).
    #[arg(long)]
    deep: bool,
    /// The device of sections A and D; all that there are and `cpu` unless given.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Where report.md, report.json and what they speak of go.
    #[arg(long, value_name = "DIR", default_value = "target/verify")]
    out: PathBuf,
    /// Only these sections.
    #[arg(long, value_name = "LETTERS", default_value = "ABCD")]
    sections: String,
}

impl Options {
    fn mode(&self) -> &'static str {
        match (self.quick, self.deep) {
            (true, _) => "quick",
            (_, true) => "deep",
            _ => "full",
        }
    }
}

/// Shows rows as they come, above a bar.
struct Progress {
    bar: ProgressBar,
    rows: Vec<Row>,
}

impl Progress {
    fn begin(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    fn end(&mut self, row: Row) {
        let line = format!(
            "{:8} {}  {:45} {:6.1} s  {}",
            row.status.word(),
            row.section,
            row.name,
            row.seconds,
            row.figure
        );
        if self.bar.is_hidden() {
            println!("{line}")
        } else {
            self.bar.println(line)
        }
        self.bar.inc(1);
        self.rows.push(row);
    }
}

/// Runs the task. True if nothing failed.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    let root = root();
    let (begin, started) = (Instant::now(), SystemTime::now());
    let sections = options.sections.to_uppercase();
    if let Some(other) = sections.chars().find(|c| !"ABCD".contains(*c)) {
        return Err(format!("there is no section {other}; there are A, B, C and D"));
    }
    let out = if options.out.is_absolute() { options.out.clone() } else { root.join(&options.out) };
    let logs = out.join("logs");
    std::fs::create_dir_all(&logs).map_err(|e| format!("{}: {e}", logs.display()))?;
    let date = machine::now();

    let style =
        ProgressStyle::with_template("{spinner} {pos} rows {elapsed} {wide_msg}").expect("a valid template");
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut progress = Progress { bar, rows: Vec::new() };
    let mut mutants_table = None;
    let mut benchmark_table = None;

    if sections.contains('A') {
        progress.begin("A: the Python package");
        python::run(options.quick, options.device.as_deref(), &logs)
            .into_iter()
            .for_each(|row| progress.end(row));
    }
    if sections.contains('B') {
        for name in ["tsan", "asan", "kernel-sanitizers"] {
            progress.begin(&format!("B: scripts/{name}"));
            scripts::sanitizer(name, options.quick, &out, &logs)
                .into_iter()
                .for_each(|row| progress.end(row));
        }
    }
    if sections.contains('C') {
        section_c(options, &logs, &mut progress);
        progress.begin("C: mutants");
        let (row, table) = mutants_row(options, &out, &logs);
        progress.end(row);
        mutants_table = table;
    }
    if sections.contains('D') {
        progress.begin("D: benchmark");
        let device = options.device.as_deref().unwrap_or("cpu");
        let (row, table) = scripts::benchmark(options.quick, device, &out, &logs);
        progress.end(row);
        benchmark_table = table;
        progress.begin("D: peers");
        progress.end(scripts::peers(options.quick, &out, &logs));
    }
    progress.bar.finish_and_clear();

    let mut report = Report {
        date,
        mode: options.mode(),
        passed: 0,
        failed: 0,
        not_run: 0,
        seconds: begin.elapsed().as_secs_f64(),
        commit: machine::commit(),
        machine: machine::machine(),
        versions: machine::versions(),
        rows: progress.rows,
        mutants: mutants_table,
        benchmark: benchmark_table,
        artifacts: artifacts(&root, &out, started),
    };
    report.count();
    // Only now, whole, and each by one rename: who interrupts this keeps the report that there was.
    let json = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
    write_whole(&out.join("report.json"), &json)?;
    write_whole(&out.join("report.md"), &report.markdown())?;
    println!(
        "{} passed, {} failed, {} not run in {:.0} s; {}",
        report.passed,
        report.failed,
        report.not_run,
        report.seconds,
        out.join("report.md").display()
    );
    Ok(report.failed == 0)
}

/// The harnesses. Builds them all first: what cannot be built fails its rows, not the others.
fn section_c(options: &Options, logs: &Path, progress: &mut Progress) {
    let root = root();
    let mut runner = Runner::new(root.clone(), root.join("target"), logs.to_path_buf(), false);
    if options.deep {
        runner.environment.push(("STREAMPOOL_DEEP".into(), "1".into()));
    }
    let mut broken: BTreeMap<&str, String> = BTreeMap::new();
    progress.begin("C: building the model checks");
    let all = harness::suites();
    if runner.build(&all).is_err() {
        for suite in all {
            progress.begin(&format!("C: building {}", suite.name));
            if let Err(e) = runner.build(&[suite]) {
                broken.insert(suite.name, e);
            }
        }
    }
    for harness in HARNESSES {
        progress.begin(&format!("C: {}", harness.name));
        progress.end(harness::run(harness, &runner, &broken));
    }
}

/// The mutants, in a process of their own: their builds are many, and their progress is their own.
fn mutants_row(options: &Options, out: &Path, logs: &Path) -> (Row, Option<String>) {
    let name = "mutants";
    let fail = |figure: String, detail: String| {
        (Row::new('C', name, Status::Failed, figure).with_detail(detail), None)
    };
    let json = out.join("mutants.json");
    let _ = std::fs::remove_file(&json);
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(e) => return fail(format!("this program cannot be found: {e}"), String::new()),
    };
    let mut command = Command::new(program);
    command.arg("mutants").arg("--json").arg(&json).current_dir(root());
    if options.quick {
        command.arg("--quick");
    }
    let ended = match process::run(&mut command, Duration::from_secs(3 * 3600), &logs.join("mutants")) {
        Ok(ended) => ended,
        Err(e) => return fail(e, String::new()),
    };
    let figures = std::fs::read_to_string(&json)
        .ok()
        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
        .and_then(|value| Some((value["mutants"].as_u64()?, value["caught"].as_u64()?)));
    let table: String =
        ended.stdout.lines().filter(|line| line.starts_with('|')).map(|l| format!("{l}\n")).collect();
    let total = mutants::read(&root()).map_or(0, |list| list.len() as u64);
    match figures {
        Some((tried, caught)) if ended.success() && caught == tried && tried > 0 => {
            let of_all = if tried < total { format!("; {total} in the full run") } else { String::new() };
            let figure =
                format!("{caught} of {tried} faults caught, each by every check that it names{of_all}");
            (Row::new('C', name, Status::Passed, figure).took(ended.seconds), Some(table))
        }
        Some((tried, caught)) => {
            let row = Row::new('C', name, Status::Failed, format!("{caught} of {tried} faults caught"));
            (row.took(ended.seconds).with_detail(ended.stderr), Some(table))
        }
        None => fail(ended.verdict(), ended.tail(40)),
    }
}

/// What was checked, and what this run made.
fn artifacts(root: &Path, out: &Path, started: SystemTime) -> Vec<Artifact> {
    let exe = std::env::consts::EXE_SUFFIX;
    let checked = [
        format!("target/release/streampool{exe}"),
        "Cargo.lock".into(),
        mutants::LIST.into(),
        "models/digits/digits.onnx".into(),
        "models/digits/test.npz".into(),
    ];
    let made = [
        "mutants.json",
        "tsan.json",
        "asan.json",
        "kernel-sanitizers.json",
        "linear.json",
        "linear.svg",
        "peers.json",
    ];
    let of_root = checked.iter().filter_map(|name| Artifact::of(root, name));
    let is_new =
        |name: &&&str| out.join(name).metadata().and_then(|m| m.modified()).is_ok_and(|time| time >= started);
    of_root.chain(made.iter().filter(is_new).filter_map(|name| Artifact::of(out, name))).collect()
}
