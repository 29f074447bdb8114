//! The `streampool` command.

#![forbid(unsafe_code)]
#![allow(dead_code)]

mod args;
mod data;
mod load;
mod plot;
mod stats;
mod synthetic;
mod table;

fn main() {
    use clap::Parser;
    let _ = args::Cli::parse();
}
