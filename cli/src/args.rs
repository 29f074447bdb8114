//! What can be asked for. The texts here are the manual.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; with --check, every answer equals the serial one
  1  a check failed: an answer differs from the serial one
  2  usage: unknown option or value (clap prints what was expected)
  3  model or data: file missing, damaged, unsupported, or inputs that do not fit the model
  4  device: no such device, out of memory, pool exhausted, timeout, device lost
  5  internal: a promise inside streampool was broken; please report it";

/// Model inference from many threads of one process on one device.
#[derive(Debug, Parser)]
#[command(name = "streampool", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Run),
    Bench(Bench),
    Inspect(Inspect),
    Info(Info),
    Completions(Completions),
}

/// Answer a data set with a model, from many threads at once.
///
/// The data are the arrays of an .npz file, named as the model's inputs. Where the model's first axis is free (or divides the
/// data's), the data are split along it into requests of --batch rows; the threads share the requests out. Every thread count answers
/// the whole data, again and again for about a second. Outputs and accuracy are of the data once. The first table row is the
/// serial run that speed-up is measured against.
#[derive(Debug, Args)]
#[command(after_help = format!("\
Examples:
  streampool run models/digits/digits.onnx --input models/digits/test.npz --threads 8 --check
  streampool run model.onnx --input x.npz --threads 1,2,4,8 --requests 10000 --json -
  streampool run model.onnx --input x.npz --device sim --output y.npz

{EXIT_CODES}"))]
pub(crate) struct Run {
    /// The model, an ONNX file
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) model: PathBuf,
    /// Arrays named as the model's inputs; an array "labels" gives the accuracy
    #[arg(long, short, value_name = "X.npz", value_hint = ValueHint::FilePath)]
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) threads: Threads,
    /// How many requests each thread count answers, going round the data [default: whole rounds for about a second]
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) requests: Option<u64>,
    /// Rows of the data per request
    #[arg(long, value_name = "ROWS", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub(crate) batch: u64,
    /// Cores that one request may use; more make a lone thread faster on large requests, and many threads no faster
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) cores: u16,
    /// Write the outputs for the whole data, in the data's order
    #[arg(long, short, value_name = "Y.npz", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Compare every answer of every thread with the serial one, bit for bit
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) report: Report,
}

/// Measure calls per second at several thread counts on a model made for it.
///
/// Set-up is not timed. Thread counts take turns, --repeats times, each turn --seconds long; the table gives the median with the
/// least and the greatest, and the processor time used over the wall time, so that a disturbed run shows. A call uses
/// one core, unless it is the row "1*": one caller, all cores.
#[derive(Debug, Args)]
#[command(after_help = format!("\
Examples:
  streampool bench linear --threads 1,2,4,8 --json -
  streampool bench micro --plot micro.svg
  streampool bench mlp --seconds 0.5 --repeats 3

{EXIT_CODES}"))]
pub(crate) struct Bench {
    /// What to call
    #[arg(default_value = "linear")]
    pub(crate) workload: Workload,
    /// Thread counts, separated by commas
    #[arg(long, short, value_name = "N,...", value_delimiter = ',', default_value = "1,2,4,8",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Vec<u16>,
    /// How long each measurement lasts
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub(crate) seconds: f64,
    /// How many measurements of each thread count
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) repeats: u16,
    /// Draw calls per second over threads
    #[arg(long, value_name = "FILE.svg", value_hint = ValueHint::FilePath)]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) report: Report,
}

/// The models of `bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// One linear layer 2048-2048, batch 64: limited by arithmetic
    Linear,
    /// Linear layers 64-64-64-64 with ReLU, batch 1: limited by the cost of a call
    Micro,
    /// Linear layers 512-1024-1024-512 with ReLU, batch 1: limited by memory
    Mlp,
}

/// Show what a model is and how it will run: inputs, outputs, operators, plan with fusions, memory.
#[derive(Debug, Args)]
#[command(after_help = format!("\
Examples:
  streampool inspect models/digits/digits.onnx
  streampool inspect model.onnx --shape input_ids=1x128 --shape attention_mask=1x128
  streampool inspect model.onnx --input x.npz

{EXIT_CODES}"))]
pub(crate) struct Inspect {
    /// The model, an ONNX file
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) model: PathBuf,
    /// The shape of an input with free axes, which are 1 otherwise
    #[arg(long, value_name = "NAME=AxBxC", value_parser = shape)]
    pub(crate) shape: Vec<(String, Vec<usize>)>,
    /// Plan for these inputs instead, all in one request; needed where shapes inside the model depend on the values of an input
    #[arg(long, short, value_name = "X.npz", value_hint = ValueHint::FilePath, conflicts_with = "shape")]
    pub(crate) input: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) report: Report,
}

/// Show devices, processor features and versions.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Info {
    #[command(flatten)]
    pub(crate) report: Report,
}

/// Print a shell's completion script.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streampool completions bash > ~/.local/share/bash-completion/completions/streampool
  streampool completions zsh > ~/.zfunc/_streampool")]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Threads {
    /// Threads that call the model at once; several counts separated by commas are run one after another
    #[arg(long, short, value_name = "N,...", value_delimiter = ',', default_value = "1",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Vec<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// Where to run
    #[arg(long, short, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: DeviceName,
    /// Streams of the device's pool
    #[arg(long, default_value = "32", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) streams: u16,
    /// The most device memory to use, in MiB [default: 90 % of what the device has]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(crate) memory_limit: Option<u64>,
    /// CUDA: compute float32 products in TF32 (10 bits of mantissa), which is faster
    #[arg(long)]
    pub(crate) tf32: bool,
    /// CUDA: refuse operators that have no CUDA kernel, instead of running them on the CPU between copies
    #[arg(long)]
    pub(crate) strict: bool,
}

/// The devices of this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceName {
    /// The processor
    Cpu,
    /// A simulated device: real bytes, completion out of order between streams
    Sim,
    /// The first NVIDIA GPU
    Cuda,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Write the result as JSON; "-" is standard output, in place of the table
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) json: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.001..=3600.0).contains(&s) => Ok(s),
        _ => Err("expected seconds from 0.001 to 3600".into()),
    }
}

fn shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let wrong = || format!("'{text}' is no NAME=AxBxC, as in image=1x3x224x224");
    // Names of inputs may hold '=' but sizes do not.
    let (name, dims) = text.rsplit_once('=').ok_or_else(wrong)?;
    let dims = match dims {
        "" => Vec::new(), // a scalar
        dims => dims.split('x').map(|d| d.parse().map_err(|_| wrong())).collect::<Result<_, _>>()?,
    };
    Ok((name.to_owned(), dims))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn thread_lists_are_read_and_bounded() {
        let parse = |t: &str| Cli::try_parse_from(["streampool", "bench", "micro", "--threads", t]);
        match parse("1,2,4").unwrap().command {
            Command::Bench(b) => assert_eq!((b.threads, b.workload), (vec![1, 2, 4], Workload::Micro)),
            other => panic!("{other:?}"),
        }
        for bad in ["0", "1025", "1,,2", "x", "-1", "99999999999999999999"] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn shapes_are_read() {
        assert_eq!(shape("x=1x3x4"), Ok(("x".into(), vec![1, 3, 4])));
        assert_eq!(shape("a=b=7"), Ok(("a=b".into(), vec![7])));
        assert_eq!(shape("s="), Ok(("s".into(), vec![])));
        for bad in ["x", "x=1x", "x=-1", "x=1x99999999999999999999"] {
            assert!(shape(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_command_explains_itself() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }
}
