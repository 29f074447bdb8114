//! Commands with a deadline, and what they print.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    // Given by cargo to what `cargo xtask` and `cargo test` run; a copied program finds it as it was built.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or(manifest.clone(), Path::to_path_buf)
}

/// How a command ended.
pub(crate) struct Ended {
    /// None if it was stopped at its deadline, or by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) timed_out: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) seconds: f64,
}

impl Ended {
    pub(crate) fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// `exit status 101`, `still running after 60 s`, ...
    pub(crate) fn verdict(&self) -> String {
        match self.code {
            _ if self.timed_out => format!("still running after {:.0} s", self.seconds),
            Some(code) => format!("exit status {code}"),
            None => "ended by a signal".into(),
        }
    }

    /// The last lines that were printed, for a person to see what went wrong.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let all: Vec<&str> = self.stdout.lines().chain(self.stderr.lines()).collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Runs a command to its end, at most for `limit`. What it prints goes through files `LOG.out` and `LOG.err` beside each other,
/// so that a flood of output blocks nobody and the last output of a command that hangs is there.
///
/// # Errors
/// If it cannot be started, with what is missing.
pub(crate) fn run(command: &mut Command, limit: Duration, log: &Path) -> Result<Ended, String> {
    let (out, err) = (log.with_extension("out"), log.with_extension("err"));
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    let create = |path: &Path| File::create(path).map_err(|e| format!("{}: {e}", path.display()));
    let program = command.get_program().to_string_lossy().into_owned();
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(create(&out)?)
        .stderr(create(&err)?)
        .spawn()
        .map_err(|e| format!("{program} cannot be started: {e}"))?;
    let mut pause = Duration::from_millis(1);
    let (status, timed_out) = loop {
        match child.try_wait().map_err(|e| format!("{program}: {e}"))? {
            Some(status) => break (status, false),
            None if begin.elapsed() >= limit => {
                let _ = child.kill();
                break (child.wait().map_err(|e| format!("{program}: {e}"))?, true);
            }
            None => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    };
    let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Ended {
        code: if timed_out { None } else { status.code() },
        timed_out,
        stdout: read(&out).map_err(|e| format!("{}: {e}", out.display()))?,
        stderr: read(&err).map_err(|e| format!("{}: {e}", err.display()))?,
        seconds: begin.elapsed().as_secs_f64(),
    })
}

/// The first line that a command prints, if it can be run at all.
pub(crate) fn first_line(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).current_dir(root()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).lines().next().map(|line| line.trim().to_owned());
    text.filter(|line| output.status.success() && !line.is_empty())
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), String> {
    let part = path.with_file_name(format!(
        ".{}.{}.part",
        path.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    fs::write(&part, text).and_then(|()| fs::rename(&part, path)).map_err(|e| {
        let _ = fs::remove_file(&part);
        format!("{}: {e}", path.display())
    })
}
