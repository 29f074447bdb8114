//! The worker process: reads a case's name a line, answers its verdict a line.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use streampool_core::{Error, Result};
use streampool_npz::{Limits, Npz};

use super::{Case, Kind, Verdict, compare, engine, planted, read_cases};

/// `cargo xtask onnx-worker`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The folder of the cases.
    cases: PathBuf,
    /// See onnx-conformance.
    #[arg(long)]
    planted: bool,
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    let cases: HashMap<String, Case> =
        read_cases(&options.cases)?.into_iter().map(|c| (c.name.clone(), c)).collect();
    let engine = if options.planted { planted::open() } else { engine::open()? };
    let mut out = std::io::stdout().lock();
    for name in std::io::stdin().lock().lines() {
        let name = name.map_err(|e| Error::io(format!("cannot read case names: {e}")))?;
        let case =
            cases.get(&name).ok_or_else(|| Error::invalid_argument(format!("there is no case '{name}'")))?;
        let verdict =
            catch_unwind(AssertUnwindSafe(|| judge(engine.as_ref(), &options.cases.join(&name), case)))
                .unwrap_or_else(|panic| Verdict {
                    close: false,
                    verdict: Kind::Crashed,
                    reason: format!("panic: {}", said(&*panic)),
                });
        let line = serde_json::to_string(&verdict).expect("a verdict is plain data");
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .map_err(|e| Error::io(format!("cannot answer: {e}")))?;
    }
    Ok(true)
}

fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

fn judge(engine: &dyn engine::Engine, folder: &Path, case: &Case) -> Verdict {
    match attempt(engine, folder, case) {
        Ok(verdict) => verdict,
        Err(e) if e.is_unsupported() => {
            Verdict { verdict: Kind::Refused, reason: e.to_string(), close: false }
        }
        Err(e) => Verdict { verdict: Kind::Error, reason: format!("{}: {e}", e.code()), close: false },
    }
}

/// Relative and absolute error of an answer that is another rounding of the right one.
const CLOSE: (f64, f64) = (2e-3, 1e-6);

fn attempt(engine: &dyn engine::Engine, folder: &Path, case: &Case) -> Result<Verdict> {
    let model = engine.load(&folder.join("model.onnx"))?;
    if !case.storable {
        // It loads, but has values that are no tensors of our types; that must be said when it is bound.
        let foreign = case.inputs.iter().chain(&case.outputs).cloned().collect::<Vec<_>>().join(", ");
        return Err(Error::unsupported(format!("inputs and outputs of {foreign}")));
    }
    for i in 0..case.data_sets {
        let read = |kind| -> Result<Npz> {
            streampool_npz::read(folder.join(format!("{i}.{kind}.npz")), Limits::default())
        };
        let (inputs, expected) = (read("in")?, read("out")?);
        let outputs = model.run(inputs.arrays)?;
        for (name, want) in &expected.arrays {
            let got = outputs
                .iter()
                .find(|(n, _)| n == name)
                .ok_or_else(|| Error::internal(format!("the run gave no output '{name}'")))?;
            let values = !case.random;
            if let Err(difference) = compare::compare(&got.1, want, case.rtol, case.atol, values) {
                let reason = format!("output '{name}': {difference}");
                let close = compare::compare(&got.1, want, CLOSE.0, CLOSE.1, values).is_ok();
                return Ok(Verdict { verdict: Kind::Wrong, reason, close });
            }
        }
    }
    let verdict = if case.random { Kind::Random } else { Kind::Passed };
    Ok(Verdict { verdict, reason: String::new(), close: false })
}
