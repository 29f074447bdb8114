//! Development tasks. `cargo xtask --help` lists them.

#![forbid(unsafe_code)]

mod conformance;

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
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::OnnxConformance(options) => conformance::run(&options),
        Task::OnnxWorker(options) => conformance::worker::run(&options),
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
