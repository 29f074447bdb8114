//! Development tasks. `cargo xtask --help` lists them.

#![forbid(unsafe_code)]

mod conformance;
#[cfg(test)]
mod invariants;
mod mutants;
mod process;
mod suite;
mod verify;

use std::process::ExitCode;

use clap::Parser;

/// Development tasks of streampool.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Run ONNX's node test cases (scripts/onnx-conformance makes them and calls this).
    OnnxConformance(conformance::Options),
    /// Run the cases named on standard input, one a line; started by onnx-conformance.
    #[command(hide = true)]
    OnnxWorker(conformance::worker::Options),
    /// Plant single-line faults (verify/mutants.toml) in a copy of the source and show which check catches each.
    Mutants(mutants::Options),
    /// Check everything and write the report: scenarios, races, models, mutants, benchmark.
    Verify(verify::Options),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::OnnxConformance(options) => conformance::run(&options).map_err(|e| e.to_string()),
        Task::OnnxWorker(options) => conformance::worker::run(&options).map_err(|e| e.to_string()),
        Task::Mutants(options) => mutants::run(&options),
        Task::Verify(options) => verify::run(&options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}
