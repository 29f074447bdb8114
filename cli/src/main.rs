//! The `streampool` command.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod data;
mod device;
mod exit;
mod info;
mod inspect;
mod load;
mod output;
mod plot;
mod run;
mod stats;
mod synthetic;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use exit::Failure;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Info(options) => info::run(&options),
        Command::Completions(options) => {
            let mut command = Cli::command();
            clap_complete::generate(options.shell, &mut command, "streampool", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match &failure {
                Failure::Check => {} // said where it was found
                Failure::Error(e) => eprintln!("error: {e}"),
            }
            ExitCode::from(failure.code())
        }
    }
}
