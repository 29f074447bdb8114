//! Any words as the command's arguments, one a line: options, or a text that says what is wrong.

#[allow(dead_code, unreachable_pub)]
#[path = "../../cli/src/args.rs"]
mod args;

use clap::Parser;

pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let words = std::iter::once("streampool").chain(text.lines());
    match args::Cli::try_parse_from(words) {
        Ok(options) => assert!(!format!("{options:?}").is_empty()),
        Err(error) => assert!(!error.render().to_string().is_empty()),
    }
}
