//! ONNX's node test cases: every case in a worker process, so that a crash or a hang is that case's verdict alone.

mod compare;
mod engine;
mod planted;
mod pool;
mod report;
pub(crate) mod worker;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use streampool_core::{Error, Result};

/// `cargo xtask onnx-conformance`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The folder that scripts/lib/onnx_cases.py wrote.
    cases: PathBuf,
    /// Only cases whose name or operator contains this text.
    #[arg(long)]
    filter: Option<String>,
    /// Write every verdict as JSON; "-" is standard output.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Another runtime's verdicts: {case: "passed" or why not}.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// List the cases of this verdict with their reasons (wrong, error, crashed and hung ones always are).
    #[arg(long)]
    list: Option<Kind>,
    /// A file with the least numbers of cases that must pass: "all N" and "in_scope N".
    #[arg(long)]
    floor: Option<PathBuf>,
    #[command(flatten)]
    setup: Setup,
}

/// What the worker processes are told.
#[derive(Clone, Debug, clap::Args)]
struct Setup {
    /// Seconds that one case may take; the slowest takes a small part of one.
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// For the tests of this runner: an engine that does what a case is called (panic, abort, hang, wrong, ...).
    #[arg(long, hide = true)]
    planted: bool,
}

/// One entry of `cases.json`.
#[derive(Clone, Debug, Deserialize)]
struct Case {
    name: String,
    operator: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// Inputs and outputs are all f32, f16, i64, bool, i32, u8 or i8.
    in_scope: bool,
    /// The arrays could be written for us; else only loading is tried.
    storable: bool,
    /// The expected values come from NumPy's random generator: only types and shapes are compared.
    random: bool,
    data_sets: usize,
    rtol: f64,
    atol: f64,
}

/// How a case ended.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// All outputs equal within the tolerance.
    Passed,
    /// An output differs, with no error: the worst.
    Wrong,
    /// An error other than "unsupported".
    Error,
    /// Refused as unsupported, by name.
    Refused,
    /// Ran with right types and shapes, but the expected values are random and cannot be compared.
    Random,
    /// Another rounding of the expected values, written down as such beside the floor.
    Rounding,
    /// The process died, or a panic.
    Crashed,
    /// No answer in time.
    Hung,
}

/// How a case ended, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Verdict {
    verdict: Kind,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    /// A wrong answer that is off by rounding only: 0.2 % or a millionth.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    close: bool,
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(format!("{}: {e}", path.display())))?;
    serde_json::from_str(&text).map_err(|e| Error::invalid_argument(format!("{}: {e}", path.display())))
}

fn read_cases(folder: &Path) -> Result<Vec<Case>> {
    read_json(&folder.join("cases.json"))
        .map_err(|e| e.context("no conformance cases; run scripts/onnx-conformance, which makes them"))
}

/// Runs the cases and prints the tables. `false` if the project's promise is broken.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let mut cases = read_cases(&options.cases)?;
    if let Some(text) = &options.filter {
        cases.retain(|c| c.name.contains(text.as_str()) || c.operator.contains(text.as_str()));
        if cases.is_empty() {
            return Err(Error::invalid_argument(format!("no case or operator contains '{text}'")));
        }
    }
    let peer: Option<BTreeMap<String, String>> = options.peer.as_deref().map(read_json).transpose()?;
    let floor = options.floor.as_deref().map(Floor::read).transpose()?;
    let mut verdicts = pool::run(&options.cases, &cases, &options.setup)?;
    if let Some(floor) = &floor {
        floor.explain(&cases, &mut verdicts);
    }
    let report = report::Report::new(&cases, &verdicts, peer.as_ref());
    report.print(options.list);
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    Ok(report.judge(floor.as_ref()))
}

/// The least numbers of cases that must pass, and the cases that cannot.
struct Floor {
    all: usize,
    in_scope: usize,
    /// Lines "rounding CASE why": the expected values of these cases are another rounding of the same numbers. They count as not passed, and
    /// as wrong as soon as they are off by more than 0.2 % or a millionth.
    rounding: BTreeMap<String, String>,
}

impl Floor {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|e| Error::io(format!("{}: {e}", path.display())))?;
        let number = |key: &str| {
            text.lines()
                .filter_map(|l| l.split_once(' '))
                .find(|(k, _)| *k == key)
                .and_then(|(_, n)| n.trim().parse().ok())
                .ok_or_else(|| Error::invalid_argument(format!("{}: no line '{key} N'", path.display())))
        };
        let rounding = text
            .lines()
            .filter_map(|l| l.strip_prefix("rounding ")?.split_once(' '))
            .map(|(case, why)| (case.to_owned(), why.to_owned()))
            .collect();
        Ok(Self { all: number("all")?, in_scope: number("in_scope")?, rounding })
    }

    /// Wrong verdicts of the listed cases become `Rounding`, with the reason that was written down.
    fn explain(&self, cases: &[Case], verdicts: &mut [Verdict]) {
        for (case, verdict) in cases.iter().zip(verdicts) {
            if verdict.verdict == Kind::Wrong
                && verdict.close
                && let Some(why) = self.rounding.get(&case.name)
            {
                verdict.verdict = Kind::Rounding;
                verdict.reason = format!("{why}; {}", verdict.reason);
            }
        }
    }
}
