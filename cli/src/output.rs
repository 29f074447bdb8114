//! Where results go: a table for people, JSON for programs.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use streampool::{Error, Result};

use crate::args::Report;

impl Report {
    /// Whether standard output belongs to the JSON alone.
    fn json_only(&self) -> bool {
        self.json.as_deref() == Some(Path::new("-"))
    }

    /// Says something to people, unless standard output is the JSON's.
    pub(crate) fn say(&self, text: &str) {
        if !self.json_only() {
            print(text);
        }
    }

    /// Writes the JSON, if it is wanted.
    ///
    /// # Errors
    /// `is_io` if the file cannot be written.
    pub(crate) fn write(&self, value: &impl Serialize) -> Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::internal(format!("the result is no JSON: {e}")))?;
        if self.json_only() {
            print(&text);
            return Ok(());
        }
        write_file(path, &format!("{text}\n"))
    }
}

/// A whole file, or an error that names it.
///
/// # Errors
/// `is_io`.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)
        .map_err(|e| Error::io(format!("{}: cannot write: {e}", path.display())).caused_by(e))
}

/// A line on standard output. A reader that went away (`| head`) is no error of ours.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.trim_end_matches('\n').as_bytes()).and_then(|()| out.write_all(b"\n"));
}
