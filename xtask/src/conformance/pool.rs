//! Worker processes, fed one case at a time, watched by the clock.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streampool_core::{Error, Result};

use super::{Case, Kind, Setup, Verdict};

/// Runs all cases in as many worker processes as there are cores; verdicts in the order of `cases`.
pub(super) fn run(folder: &Path, cases: &[Case], setup: &Setup) -> Result<Vec<Verdict>> {
    let next = AtomicUsize::new(0);
    let verdicts: Vec<Mutex<Option<Verdict>>> = cases.iter().map(|_| Mutex::new(None)).collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut worker = None;
                    while let i = next.fetch_add(1, Ordering::Relaxed)
                        && let Some(case) = cases.get(i)
                    {
                        let mut w = match worker.take() {
                            Some(w) => w,
                            None => Worker::start(folder, setup)?,
                        };
                        let (verdict, alive) = w.ask(case)?;
                        *verdicts[i].lock().expect("no panic holds it") = Some(verdict);
                        worker = alive.then_some(w);
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|t| t.join().expect("a feeding thread does not panic"))
    })?;
    Ok(verdicts
        .into_iter()
        .map(|v| v.into_inner().expect("no panic holds it").expect("every case was asked"))
        .collect())
}

struct Worker {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    /// The last of what the process said on standard error: the panic's or the abort's message.
    complaint: Arc<Mutex<String>>,
    patience: Duration,
}

impl Worker {
    fn start(folder: &Path, setup: &Setup) -> Result<Self> {
        let io = |e: std::io::Error| Error::io(format!("cannot start a worker process: {e}"));
        let mut child = Command::new(std::env::current_exe().map_err(io)?)
            .arg("onnx-worker")
            .arg(folder)
            .args(setup.planted.then_some("--planted"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io)?;
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = child.stderr.take().expect("piped");
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(|l| l.ok()) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let complaint = Arc::new(Mutex::new(String::new()));
        let tail = complaint.clone();
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut block) {
                let mut tail = tail.lock().expect("no panic holds it");
                tail.push_str(&String::from_utf8_lossy(&block[..n]));
                if tail.len() > 4000 {
                    let mut cut = tail.len() - 2000;
                    while !tail.is_char_boundary(cut) {
                        cut += 1;
                    }
                    *tail = tail.split_off(cut);
                }
            }
        });
        Ok(Self { child, stdin, answers, complaint, patience: Duration::from_secs(setup.patience) })
    }

    /// The verdict, and whether the worker can go on.
    fn ask(&mut self, case: &Case) -> Result<(Verdict, bool)> {
        self.complaint.lock().expect("no panic holds it").clear();
        // A worker that died of the last case is noticed by the missing answer.
        let _ = writeln!(self.stdin, "{}", case.name).and_then(|()| self.stdin.flush());
        let verdict = match self.answers.recv_timeout(self.patience) {
            Ok(line) => {
                let verdict = serde_json::from_str(&line)
                    .map_err(|e| Error::internal(format!("a worker answered {line:?}: {e}")))?;
                return Ok((verdict, true));
            }
            Err(RecvTimeoutError::Timeout) => Verdict {
                verdict: Kind::Hung,
                reason: format!("no answer in {} s", self.patience.as_secs()),
                close: false,
            },
            Err(RecvTimeoutError::Disconnected) => {
                let status =
                    self.child.wait().map_err(|e| Error::io(format!("cannot wait for a worker: {e}")))?;
                // Standard error is read by another thread; give it a moment to reach the end.
                std::thread::sleep(Duration::from_millis(20));
                let said = self.complaint.lock().expect("no panic holds it");
                let last = said.lines().rfind(|l| !l.trim().is_empty()).unwrap_or_default().to_owned();
                Verdict { verdict: Kind::Crashed, reason: format!("{}: {last}", death(status)), close: false }
            }
        };
        Ok((verdict, false))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may hang: closing its input is not enough.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn death(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("killed by signal {signal}");
    }
    format!("the process ended with {status}")
}
